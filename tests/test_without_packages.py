"""What works without Numba, regex, safetensors and tqdm, as in a browser, and the line for what does not."""

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOOK = Path(__file__).parent / "without_packages"
ABSENT = ("numba", "regex", "safetensors", "tqdm")


def python(*arguments):
    """A process of Python that finds none of the packages."""
    path = os.pathsep.join([str(HOOK), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    environment.pop("NUMGPT_ENGINE", None)
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8", env=environment
    )


def numgpt(*arguments):
    """The command line in such a process."""
    return python("-m", "numgpt", *arguments)


@pytest.mark.parametrize("name", ABSENT)
def test_the_packages_are_not_there(name):
    found = python("-c", f"import {name}")
    assert found.returncode == 1
    assert f"No module named '{name}'" in found.stderr


def test_ops_are_checked():
    found = numgpt("check", "layernorm", "linear", "cross_entropy")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1].endswith(", 0 failed")


def test_a_line_of_text_is_written():
    found = numgpt("sample", "numgpt:tiny", "--max-new-tokens", "20", "--seed", "1")
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.strip()) > 10
    (line,) = found.stderr.splitlines()
    assert line.startswith("numgpt: the slower reference engine runs: numba is not installed")


def test_every_module_is_imported_but_the_twins():
    """A room that imports one of them at the top could not be entered in a browser."""
    code = """
import importlib, json, pkgutil, numgpt
failed = {}
for module in pkgutil.walk_packages(numgpt.__path__, "numgpt."):
    if not module.name.endswith("_cupy") and not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name
print(json.dumps(failed))
"""
    found = python("-c", code)
    failed = json.loads(found.stdout)
    # In engine/: how kernels are compiled.
    numba_alone = {"jit", "spread", "blas", "kernel_cache", "bf16", "bfloat"}
    others = [n for n in failed if not n.endswith("_numba") and n.rpartition(".")[2] not in numba_alone]
    assert not others, {name: failed[name] for name in others}


@pytest.mark.parametrize(
    "package, command",
    [
        ("numba", ["check", "layernorm", "--engine", "numba"]),
        ("regex", ["sample", "numgpt:austen", "--max-new-tokens", "1"]),
        ("tqdm", ["eval", "numgpt:tiny", "--data", str(ROOT / "README.md")]),
        ("safetensors", ["convert", "numgpt:tiny", "OUT"]),
    ],
)
def test_what_needs_a_package_says_so_in_one_line(tmp_path, package, command):
    found = numgpt(*(str(tmp_path / "out") if word == "OUT" else word for word in command))
    assert found.returncode == 2
    (line,) = [line for line in found.stderr.splitlines() if "slower reference engine" not in line]
    assert line.startswith("numgpt: ") and f"{package} is not installed, expected it " in line
    assert f"pip install {package}" in line


def test_the_wheel_asks_for_numba_where_there_is_one():
    """Pyodide has the other packages. The marker is read by pip and micropip."""
    requirements = pytest.importorskip("packaging.requirements", reason="packaging is not installed")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", "utf-8")
    lines = settings["options"]["install_requires"].split("\n")
    asked = [requirements.Requirement(line) for line in lines if line.strip()]

    def names(platform):
        environment = {"sys_platform": platform}
        return {r.name for r in asked if r.marker is None or r.marker.evaluate(environment)}

    assert names("linux") - names("emscripten") == {"numba"}
    assert names("emscripten") == {"numpy", "regex", "safetensors", "tqdm"}
