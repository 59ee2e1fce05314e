"""The public face: its names, what importing it brings along, and that every name the texts use is there."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numgpt

ROOT = Path(__file__).parents[1]
TEXTS = [
    path
    for pattern in ("numgpt/**/*.py", "numgpt/**/*.md", "examples/*", "benchmarks/*", "*.md", ".github/*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".py", ".md") and path.name != "CHANGELOG.md"  # which lists names that are gone
]
# numgpt.x.y, but no file's name, and nothing within a path, an address or another word.
DOTTED = re.compile(r"(?<![\w/.@-])numgpt\.(?!\w+-)[A-Za-z_][\w.]*\w(?![\w/-])")
FILES = (".py", ".md", ".json", ".safetensors", ".html", ".git")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(numgpt.__path__, "numgpt.")
    if not module.name.endswith(("__main__", "_cupy"))
]


def dotted(text):
    """The names under numgpt that a text uses."""
    return {name for name in DOTTED.findall(text) if not name.endswith(FILES)}


def resolve(name):
    """What a dotted name stands for; AttributeError where it stands for nothing."""
    first, *rest = name.split(".")
    place, value = first, importlib.import_module(first)
    for part in rest:
        place = f"{place}.{part}"
        try:
            value = getattr(value, part)
        except AttributeError:
            try:
                value = importlib.import_module(place)
            except ImportError:
                raise AttributeError(f"{name}: there is no {place}") from None
    return value


def test_dir_is_the_public_face_and_every_name_is_there():
    assert dir(numgpt) == sorted(numgpt.__all__)
    for name in numgpt.__all__:
        assert getattr(numgpt, name) is not None


def test_every_late_name_is_in_the_face():
    assert {*numgpt._LATE, "__version__"} == set(numgpt.__all__)


@pytest.mark.parametrize(
    ("name", "near"), [("Trainr", "Trainer"), ("gpt", "GPT"), ("tokeniser", "tokenizers")]
)
def test_a_near_miss_is_suggested(name, near):
    with pytest.raises(AttributeError, match=rf"no attribute '{name}', expected a name such as .*\b{near}\b"):
        getattr(numgpt, name)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_it_imports_nothing_heavy():
    heavy = {"numba", "torch", "tqdm", "cupy", "scipy", "transformers", "jax"}
    modules = run("import sys, numgpt; print(*{name.split('.')[0] for name in sys.modules})")
    assert not (heavy | {"numpy"}) & set(modules)


@pytest.mark.parametrize("name", sorted(numgpt._LATE))
def test_a_late_name_is_there_in_a_new_process(name):
    assert run(f"import numgpt; print(numgpt.{name} is not None)") == ["True"]


def test_the_regular_expression_tells_names_from_files():
    text = """numgpt.GPT.load, numgpt.use("cupy"), `numgpt.calculus.hvp`. But numgpt.egg-info, tests/numgpt.py
    and numgpt.json, a.numgpt.x, github.com/x/numgpt.y and numgpt.parity/x are none."""
    assert dotted(text) == {"numgpt.GPT.load", "numgpt.use", "numgpt.calculus.hvp"}
    with pytest.raises(AttributeError, match=r"there is no numgpt.generate"):
        resolve("numgpt.generate.stream")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_dotted_name_of_a_text_resolves(path):
    for name in sorted(dotted(path.read_text("utf-8"))):
        resolve(name)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_print_what_they_say_whatever_numpy_raises(name):
    with np.errstate(all="raise"):
        failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
