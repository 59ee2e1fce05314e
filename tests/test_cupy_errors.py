"""What the cupy engine cannot do is one line on the command line, and exit status 2.

Each command runs in a process of its own, which finds a CuPy planted on its path.
"""

import os
import subprocess
import sys
from pathlib import Path

import cuda_on_cpu
import pytest

TESTS = Path(__file__).parent
STAND_IN = f"""import sys
sys.path.append({str(TESTS)!r})
import cupy_stand_in
cupy = sys.modules["cupy"] = cupy_stand_in.module()
"""
FULL = """
def full(what, most):
    def asked(*args, **kwargs):
        made = what(*args, **kwargs)
        if made.nbytes > most:
            message = f"Out of memory allocating {made.nbytes:,} bytes (allocated so far: 0 bytes)."
            raise cupy_stand_in.OutOfMemoryError(message)
        return made
    return asked
"""
TRAIN = [
    "train",
    "--steps=1",
    "--n-layer=1",
    "--n-head=2",
    "--n-embd=8",
    "--block-size=8",
    "--batch-size=2",
    "--eval-iters=1",
    "--sample-tokens=0",
    "--out=run",
]


def said(tmp_path, cupy, *argv):
    """(the line, all that was printed before it) of numgpt in a process of its own, where the source of cupy
    is what `import cupy` finds.
    """
    (tmp_path / "cupy.py").write_text(cupy)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    path = os.pathsep.join([str(tmp_path), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    data = ["--data", "text.txt"] if argv[0] == "train" else []
    done = subprocess.run(
        [sys.executable, "-m", "numgpt", *argv, *data, "--engine", "cupy"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    *before, line = done.stderr.splitlines()
    assert done.returncode == 2 and "Traceback" not in done.stderr and line.startswith("numgpt: "), (
        done.stderr
    )
    return line, done.stdout + "\n".join(before)


TOO_OLD = "module(error=cupy_stand_in.CUDARuntimeError(35, 'too old'))"


@pytest.mark.parametrize(
    "cupy, message",
    [
        (
            "raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')",
            "CuPy is not installed, expected it for the cupy engine: pip install numgpt[gpu] for CUDA 12, or"
            " numgpt[gpu13] for CUDA 13",
        ),
        (
            "raise ImportError('libcuda.so.1: cannot open shared object file')",
            "CuPy does not load (libcuda.so.1: cannot open shared object file), expected one that fits the"
            " driver: pip install",
        ),
        (
            STAND_IN.replace("module()", "module(driver=0)"),
            "there is no NVIDIA driver, expected one for the cupy engine: install it, until nvidia-smi prints"
            " a table",
        ),
        (
            STAND_IN.replace("module()", "module(devices=0)"),
            "the driver finds no GPU, expected one for the cupy engine: look at nvidia-smi and"
            " CUDA_VISIBLE_DEVICES",
        ),
        (
            STAND_IN.replace("module()", TOO_OLD),
            "the NVIDIA driver is too old for this CuPy (too old), expected a newer one: update it",
        ),
    ],
    ids=["no CuPy", "a CuPy that does not load", "no driver", "no GPU", "an old driver"],
)
@pytest.mark.parametrize("argv", [TRAIN, ["sample", "run"], ["check", "gelu"]], ids=lambda argv: argv[0])
def test_where_the_engine_cannot_run_a_command_says_so_before_it_begins(tmp_path, argv, cupy, message):
    line, before = said(tmp_path, cupy, *argv)
    assert message in line and before == "" and not (tmp_path / "run").exists()


def test_a_model_that_does_not_fit_says_what_was_asked_for_and_what_is_free(tmp_path):
    line, _ = said(tmp_path, STAND_IN + FULL + "cupy.asarray = full(cupy.asarray, 1000)", *TRAIN)
    assert "bytes do not fit on the GPU (on the GPU: Out of memory allocating" in line
    assert "; 1,024 of 4,000 bytes are free), expected fewer: choose a smaller model" in line


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
def test_a_step_that_does_not_fit_says_what_was_asked_for_and_what_is_free(tmp_path):
    """The model fits; what a kernel asks for on the way does not."""
    line, before = said(
        tmp_path, STAND_IN + FULL + "cupy.empty_like = full(cupy.__getattr__('empty_like'), 100)", *TRAIN
    )
    assert (
        line.startswith("numgpt: not enough memory (on the GPU: Out of memory allocating ")
        and "parameters" in before
    )
    assert line.endswith(
        "; 1,024 of 4,000 bytes are free): choose a smaller model, --batch-size or --block-size"
    )


FAULTS = {
    "made an array of the host": "np.asarray(a)",
    "mixed with one": "a + np.ones(a.shape)",
    "given to a function that CuPy lacks": "np.block([a])",
    "given to a ufunc that CuPy lacks": "np.vecdot(a, a)",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_an_array_of_the_gpu_given_to_what_takes_the_hosts_is_one_line(tmp_path, fault):
    """The fault is planted into what moves parameters."""
    line, _ = said(
        tmp_path,
        STAND_IN + "import numpy as np\nmoved = cupy.asarray\ndef asarray(x):\n    a = moved(x)\n    return"
        f" {fault}\ncupy.asarray = asarray",
        *TRAIN,
    )
    assert (
        line == "numgpt: got an array on the GPU where one in the host's memory is needed: copy it with"
        " array.get(), or use model.to('reference')"
    )


def test_another_type_error_keeps_its_traceback(tmp_path):
    with pytest.raises(AssertionError, match="Traceback(.|\\n)*has no len"):
        said(tmp_path, STAND_IN + "cupy.asarray = lambda a: len(3)", *TRAIN)
