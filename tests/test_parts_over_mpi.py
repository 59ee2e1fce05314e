"""Models that are cut, over MPI: what threads stand in for elsewhere, once with processes."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
has_mpi = importlib.util.find_spec("mpi4py") is not None and shutil.which("mpiexec") is not None
needs_mpi = pytest.mark.skipif(not has_mpi, reason="mpi4py or mpiexec is not installed: pip install '.[mpi]'")


def over_mpi(n, engine):
    """The output of so many processes of parts_over_mpi.py, each of one thread."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        ["mpiexec", "-n", str(n), sys.executable, "-m", "mpi4py", HERE / "parts_over_mpi.py", engine],
        env=os.environ | one_thread | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60 if engine == "reference" else 300,  # a cold cache is filled with kernels first
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_steps_over_mpi_are_those_of_one_process(n):
    assert over_mpi(n, "reference").count(f"on {n}\n") == 11  # as many as there are cases


@needs_mpi
def test_stages_of_compiled_kernels_have_the_bits_of_one_process():
    pytest.importorskip("numba", reason="Numba is not installed")
    over_mpi(2, "numba")
