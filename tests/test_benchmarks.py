"""The benchmarks run: a contest of short rounds, whose contestants agree on the losses before anything is timed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("with_torch", [False, True])
def test_a_training_step_is_compared(tmp_path, with_torch):
    if with_torch and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    if importlib.util.find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    kinds = ["numgpt", "reference", "gemms", *(["torch"] if with_torch else [])]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "train_step.py", "--shape", "a", "--only", *kinds, "--rounds", "2", "--no-start", "--json", tmp_path / "figures.json"],
        capture_output=True, text=True, cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert len(rows) == len(kinds) and all(r["ms"] > 0 and r["peak_mb"] > 10 for r in rows)
    losses = [r["loss"] for r in rows if "GEMM" not in r["name"]]
    assert max(losses) - min(losses) < 1e-3 and losses[0] > 3
    assert "| a | numgpt |" in done.stdout
