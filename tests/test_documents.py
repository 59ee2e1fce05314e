"""Every block of the README runs and prints what the page says; every example runs and asserts its answer."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numgpt import Config, Record, gradcheck, ops
from numgpt.__main__ import main
from numgpt.architecture.parameters import shapes
from numgpt.layers import transformer
from numgpt.proofs.subjects import SMALL, op_subjects

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
PYTHON = [(code, output) for language, code, output in BLOCKS if language == "python"]
SHELL = [code for language, code, _ in BLOCKS if language == "sh"]


def test_the_readme_has_its_blocks():
    assert len(PYTHON) >= 4 and len(SHELL) >= 3


@pytest.mark.parametrize("code, output", PYTHON, ids=range(len(PYTHON)))
def test_a_python_block_prints_what_the_page_says(code, output):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert printed.getvalue() == output


def test_the_op_that_the_page_adds_keeps_the_laws():
    names = {}
    exec(next(code for code, _ in PYTHON if "squared_relu" in code), names)
    for subject in op_subjects(names["squared_relu"], 0):
        gradcheck.check(subject.forward, subject.backward, *subject.arrays)


def test_the_layer_that_the_page_shows_computes_what_the_package_does():
    names = {"linear": ops.linear, "gelu": ops.gelu}
    exec(next(code for code, _ in PYTHON if "ffn_backward" in code), names)
    config = Config(**SMALL | {"activation": "gelu"})
    rng = np.random.default_rng(0)
    params = {
        n.removeprefix("h.0.mlp."): rng.standard_normal(s)
        for n, s in shapes(config).items()
        if n.startswith("h.0.mlp.")
    }
    x, dy = rng.standard_normal((2, 4, 6))
    shown, ours = (Record(params, config) for _ in range(2))
    assert np.array_equal(names["ffn_forward"](shown, x), transformer.ffn_forward(ours, x))
    assert np.array_equal(names["ffn_backward"](shown, dy), transformer.ffn_backward(ours, dy))


def test_the_commands_of_the_page_work(tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [part.strip() for block in SHELL for line in block.splitlines() for part in line.split("&&")]
    ours = [c for c in commands if c.startswith("numgpt ")]
    assert {c.split()[1] for c in ours} == {
        "train",
        "sample",
        "eval",
        "check",
        "curvature",
        "tokenizer",
        "convert",
        "diff",
        "info",
        "export",
    }
    for command in ours:
        args = shlex.split(command)[1:]
        if args == ["train"]:
            args += ["--steps", "2", "--eval-iters", "1", "--sample-tokens", "10"]
        assert main(args) == 0, command
    assert all(
        c.startswith(("numgpt ", "pip install ")) or c == "pytest"
        for c in commands
        if not c.startswith("python benchmarks/")
    )
    capsys.readouterr()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_an_example_runs_and_prints_its_conclusion(path):
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, cwd=ROOT / "examples")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith(".")
    assert "assert" in path.read_text("utf-8")


def test_the_replay_in_another_order_of_all_sums_prints_the_same_losses():
    """A few steps magnify rounding (1e-7) to nothing that four digits show, but in the last of them."""
    runs = []
    for flags in ([], ["--perturb", "1"]):
        done = subprocess.run(
            [sys.executable, "nanogpt_replay.py", "--steps", "5", *flags],
            capture_output=True,
            text=True,
            cwd=ROOT / "examples",
        )
        assert done.returncode == 0, done.stderr
        runs.append(
            [float(line.split()[-1]) for line in done.stdout.splitlines() if line.split()[0].isdigit()]
        )
    assert len(runs[0]) == 4
    np.testing.assert_allclose(runs[1], runs[0], rtol=0, atol=1.5e-4)


SOURCES = sorted((ROOT / "numgpt").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_source_keeps_the_house_rules(path):
    """No pickle, no eval, no network; every public function and class says what it does."""
    import ast

    tree = ast.parse(path.read_text("utf-8"))
    assert path.name == "_version.py" or ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name.split(".")[0] for a in node.names} | {
                (getattr(node, "module", None) or "").split(".")[0]
            }
            assert not names & {"pickle", "marshal", "shelve", "urllib", "requests", "socket", "http"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "__import__"}
    for node in tree.body:
        public = [node] + (node.body if isinstance(node, ast.ClassDef) else [])
        for n in public:
            if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_"):
                assert ast.get_docstring(n), n.name
