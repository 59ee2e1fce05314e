"""Where a contestant computes: the host, or a GPU as CuPy or PyTorch sees it.

A device knows how to wait for it, the memory that was taken, and its name.
"""

import os
import warnings

import contest

import numgpt
from numgpt.errors import InputError

BESIDE = {"numba": "host", "cupy": "cuda"}  # where PyTorch computes when numgpt is on this engine


class Host:
    """The CPU, where a step is done when its call returns."""

    def wait(self):
        """Nothing is queued."""

    def memory(self):
        """Bytes: "taken", the largest resident size."""
        return {"taken": contest.peak_memory(), "allocated": None}

    def about(self):
        """What the machine's line says about it: nothing more."""
        return {}


class Cupy:
    """The GPU that numgpt computes on."""

    def wait(self):
        """Until the GPU has done what was queued."""
        import cupy

        cupy.cuda.runtime.deviceSynchronize()

    def memory(self):
        """Bytes: "taken" from the GPU by CuPy's pool.

        The pool gives nothing back, so what it holds at the end is the most that it held.
        """
        import cupy

        return {"taken": cupy.get_default_memory_pool().total_bytes(), "allocated": None}

    def about(self):
        """The GPU, CuPy, and the CUDA that CuPy uses."""
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
        """Bytes: the most that PyTorch's pool had "taken" from the GPU, and had "allocated" of it."""
        import torch

        return {"taken": torch.cuda.max_memory_reserved(), "allocated": torch.cuda.max_memory_allocated()}

    def about(self):
        """The GPU, PyTorch, and the CUDA that PyTorch uses."""
        import torch

        return {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "CUDA of torch": torch.version.cuda,
        }


DEVICES = {"host": Host, "cupy": Cupy, "cuda": Cuda}


def of(kind, engine):
    """The name of the device that a kind of contestant computes on when numgpt is on this engine."""
    return "cupy" if engine == "cupy" and kind == "numgpt" else BESIDE[engine]


def expect(kinds, engine):
    """Raise InputError if the cupy engine's contestants of these kinds find no GPU.

    Forbids TF32 to every process started from here on.
    """
    if engine != "cupy":
        return
    numgpt.use("cupy")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # cuBLAS and cuDNN obey it, whoever calls them
    if any(of(kind, engine) == "cuda" for kind in kinds):
        expect_cuda()


def expect_cuda():
    """Raise InputError if PyTorch finds no GPU."""
    advice = "expected one with CUDA, to compare with: install it, or choose --only numgpt"
    try:
        import torch
    except ImportError as error:
        raise InputError(f"benchmark: PyTorch is not installed, {advice}") from error
    with warnings.catch_warnings():
        # PyTorch warns about a driver that is missing or too old; the error below says as much.
        warnings.simplefilter("ignore")
        has_gpu = torch.cuda.is_available()
    if not has_gpu:
        raise InputError(f"benchmark: PyTorch {torch.__version__} finds no GPU, {advice}")


def machine(answers, commit):
    """contest.machine(), with what the contestants answer about their devices: one GPU for all."""
    abouts = [a["about"] for a in answers]
    gpus = {about["gpu"] for about in abouts if "gpu" in about}
    assert len(gpus) <= 1, f"the contestants compute on {' and '.join(sorted(gpus))}, expected one GPU"
    devices = {k: v for about in abouts for k, v in about.items()}
    ours = {"numgpt": numgpt.__version__, "commit": commit or contest.commit() or "unknown"}
    host = {k: v for k, v in contest.machine().items() if k not in devices}
    return devices | ours | host


def _version(number):
    """CUDA's 12090 as 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"
