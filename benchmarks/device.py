"""Where a contestant computes: how it is waited for, the memory that it took, its name; the host, or a GPU as
CuPy or PyTorch sees it.
"""

import os
import warnings

import contest

import numgpt
from numgpt.errors import InputError

BESIDE = {"numba": "host", "cupy": "cuda"}  # where PyTorch computes beside each engine of numgpt


class Host:
    """The CPU, where a step is done when its call returns."""

    def wait(self):
        """Nothing is queued."""

    def memory(self):
        """Bytes: "taken", the largest resident size."""
        return {"taken": contest.peak_memory(), "allocated": None}

    def about(self):
        """What the machine's line says besides."""
        return {}


class Cupy:
    """The GPU that numgpt computes on."""

    def wait(self):
        """Until the GPU has done what was queued."""
        import cupy

        cupy.cuda.runtime.deviceSynchronize()

    def memory(self):
        """Bytes: "taken" from the GPU by CuPy's pool, which gives nothing back: what it holds at the end is
        the most.
        """
        import cupy

        return {"taken": cupy.get_default_memory_pool().total_bytes(), "allocated": None}

    def about(self):
        """The GPU, CUDA as CuPy has it, CuPy."""
        import cupy

        runtime = cupy.cuda.runtime
        name = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
        return {
            "gpu": name,
            "CUDA driver": _version(runtime.driverGetVersion()),
            "CUDA runtime": _version(runtime.runtimeGetVersion()),
            "cupy": cupy.__version__,
        }


class Cuda:
    """The GPU that PyTorch computes on."""

    def wait(self):
        """Until the GPU has done what was queued."""
        import torch

        torch.cuda.synchronize()

    def memory(self):
        """Bytes: "taken" from the GPU by PyTorch's pool at most, and the most that was "allocated" of these
        at one time.
        """
        import torch

        return {"taken": torch.cuda.max_memory_reserved(), "allocated": torch.cuda.max_memory_allocated()}

    def about(self):
        """The GPU, PyTorch, CUDA as PyTorch has it."""
        import torch

        return {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "CUDA of torch": torch.version.cuda,
        }


DEVICES = {"host": Host, "cupy": Cupy, "cuda": Cuda}


def of(kind, engine):
    """The name of the device that a contestant of a kind computes on, in a contest of an engine."""
    return "cupy" if engine == "cupy" and kind == "numgpt" else BESIDE[engine]


def expect(kinds, engine):
    """Raise InputError where contestants of these kinds find no GPU for the cupy engine; forbid TF32 to all
    that is started after.
    """
    if engine != "cupy":
        return
    numgpt.use("cupy")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # what cuBLAS and cuDNN listen to, whoever calls them
    if {of(kind, engine) for kind in kinds} & {"cuda"}:
        expect_cuda()


def expect_cuda():
    """Raise InputError where PyTorch finds no GPU."""
    advice = "expected one with CUDA, to compare with: install it, or choose --only numgpt"
    try:
        import torch
    except ImportError as error:
        raise InputError(f"benchmark: PyTorch is not installed, {advice}") from error
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # PyTorch warns of a driver that is missing or too old, which the line below says
        found = torch.cuda.is_available()
    if not found:
        raise InputError(f"benchmark: PyTorch {torch.__version__} finds no GPU, {advice}")


def machine(answers, commit):
    """contest.machine() with what the contestants answer about their devices: one GPU for all."""
    abouts = [a["about"] for a in answers]
    gpus = {about["gpu"] for about in abouts if "gpu" in about}
    assert len(gpus) <= 1, f"the contestants compute on {' and '.join(sorted(gpus))}, expected one GPU"
    found = {k: v for about in abouts for k, v in about.items()}
    return (
        found
        | {"numgpt": numgpt.__version__, "commit": commit or contest.commit() or "unknown"}
        | {k: v for k, v in contest.machine().items() if k not in found}
    )


def _version(number):
    """CUDA's 12090 as 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"
