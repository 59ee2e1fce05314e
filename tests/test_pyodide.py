"""The package under Pyodide in Node: a wheel of it, NumPy compiled to WebAssembly, no Numba.

Skipped unless NUMGPT_PYODIDE names a folder with Pyodide's distribution (pyodide.mjs, pyodide-lock.json, …)
and the wheels of its lock for numpy, regex, safetensors, tqdm, micropip and packaging. Nothing is fetched.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = os.environ.get("NUMGPT_PYODIDE")
PACKAGES = ["numpy", "regex", "safetensors", "tqdm", "micropip", "packaging"]

pytestmark = [
    pytest.mark.skipif(FOLDER is None, reason="NUMGPT_PYODIDE names no folder of Pyodide and its wheels"),
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node"),
]

SCRIPT = """
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const [folder, wheel, packages, code] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${folder}/pyodide.mjs`));
const pyodide = await loadPyodide({ indexURL: folder, packageBaseUrl: folder });
await pyodide.loadPackage(JSON.parse(packages), { messageCallback: () => {} });
pyodide.FS.writeFile(`/tmp/${wheel.split("/").at(-1)}`, readFileSync(wheel));
const micropip = pyodide.pyimport("micropip");
await micropip.install(`emfs:/tmp/${wheel.split("/").at(-1)}`);
pyodide.runPython(code);
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package's wheel, as pip builds it."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(ROOT)]
    subprocess.run(command, check=True)
    return next(out.glob("*.whl"))


def run(tmp_path, wheel, code):
    """What a piece of Python prints under Pyodide, where the wheel is installed with what it asks for."""
    script = tmp_path / "run.mjs"
    script.write_text(SCRIPT, "utf-8")
    folder = str(Path(FOLDER).resolve())
    words = ["node", str(script), folder, str(wheel), json.dumps(PACKAGES), code]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def command(tmp_path, wheel, *arguments):
    """What the command line prints there."""
    code = f"from numgpt.__main__ import main\nassert main({list(arguments)!r}) == 0"
    return run(tmp_path, wheel, code)


def test_ops_are_checked_under_pyodide(tmp_path, wheel):
    assert (
        command(tmp_path, wheel, "check", "layernorm", "linear", "cross_entropy")
        .strip()
        .endswith(", 0 failed")
    )


def test_a_line_of_text_is_written_under_pyodide(tmp_path, wheel):
    assert len(command(tmp_path, wheel, "sample", "numgpt:tiny", "--max-new-tokens", "20").strip()) > 10


def test_a_gradient_is_that_of_a_computer(tmp_path, wheel):
    from numgpt import GPT, Config

    code = """
from numgpt import GPT, Config
model = GPT(Config(vocab_size=7, block_size=6, n_layer=1, n_head=2, n_embd=8), seed=0, dtype="float64")
loss, grads = model.loss_and_grads([0, 1, 2, 3], [1, 2, 3, 4])
print(repr(float(loss)), repr(float((grads["wte.weight"] ** 2).sum())))
"""
    theirs = [float(word) for word in run(tmp_path, wheel, code).split()]
    model = GPT(Config(vocab_size=7, block_size=6, n_layer=1, n_head=2, n_embd=8), seed=0, dtype="float64")
    loss, grads = model.loss_and_grads([0, 1, 2, 3], [1, 2, 3, 4])
    assert theirs == pytest.approx([float(loss), float((grads["wte.weight"] ** 2).sum())], rel=1e-12)
