"""Laws of the house: floors, line lengths, function sizes, rooms. Each failure names its place."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = 110
LINES = 60
PARAMETERS = 10
# Public signatures that may take more, since each parameter is a keyword that users know: name → reason.
LONG_SIGNATURES = {
    "numgpt/ops/attention.py: attend_forward": "each form that attention takes in the field has its name",
    "numgpt/ops/attention.py: attention_forward": "as attend",
    "numgpt/ops/sinks.py: sink_attention_forward": "attention's, and the sink",
    "numgpt/layers/record.py: __init__": "what a run may ask for, each by a name of its own",
    "numgpt/model/generate.py: stream": "its keywords are the command's flags",
    "numgpt/parity/divergence.py: first_divergence": "its keywords are the command's flags",
    "numgpt/tuning/ppo.py: __init__": "its keywords are the command's flags",
    "numgpt/tuning/policy_gradient.py: __init__": "as PPO's, whose sibling it is",
    "numgpt/tuning/reinforce.py: __init__": "as PPO's, whose base it is",
    "numgpt/training/optim.py: adamw": "a pair's forward takes what it reads, one array or setting each",
}
CODE = [p for folder in ("numgpt", "benchmarks", "examples") for p in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").glob("*.py"))
ROOMS = sorted((ROOT / "numgpt").glob("*/__init__.py"))


def name(path):
    """A path as failures show it."""
    return path.relative_to(ROOT).as_posix()


def is_kernel(path):
    """Whether a file holds kernels, whose sizes are the compiler's affair."""
    return path.stem.endswith(("_numba", "_cupy"))


# Floors.


def lint_imports(folder):
    """The status and output of import-linter over the package in a folder."""
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install '.[test]'")
    command = "from importlinter import cli; import sys; sys.exit(cli.lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_rooms_import_from_the_floors_below_them():
    status, output = lint_imports(ROOT)
    assert status == 0, output


@pytest.mark.parametrize(
    "path, line, contract",
    [
        ("errors.py", "from . import ops", "rooms import from the floors below them"),
        (
            "architecture/presets.py",
            "from ..tokenizers import bpe",
            "rooms import from the floors below them",
        ),
        ("attic/__init__.py", "", "rooms import from the floors below them"),
        ("model/generate.py", "from . import gpt", "no two files import each other"),
    ],
    ids=["upwards", "across a floor", "a room that has no floor", "a circle inside a room"],
)
def test_an_arrow_that_turns_breaks_the_contract(tmp_path, path, line, contract):
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    only_sources = shutil.ignore_patterns("__pycache__", "*.md")
    shutil.copytree(ROOT / "numgpt", tmp_path / "numgpt", ignore=only_sources)
    changed = tmp_path / "numgpt" / path
    changed.parent.mkdir(exist_ok=True)
    with changed.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    status, output = lint_imports(tmp_path)
    assert status == 1, output
    broken = output.partition("Broken contracts")[2]
    assert contract in broken, output


# Lines.


def exempt_lines(path):
    """Numbers of the lines marked with noqa: E501.

    A mark behind a string's closing quotes is for all of its lines.
    """
    exempt = set()
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    marked = {t.start[0] for t in tokens if t.type == tokenize.COMMENT and "noqa: E501" in t.string}
    starts = []
    for token in tokens:
        if token.type == getattr(tokenize, "FSTRING_START", None):
            starts.append(token.start[0])
        elif token.type == getattr(tokenize, "FSTRING_END", None):
            start = starts.pop()
            exempt.update(range(start, token.end[0] + 1) if token.end[0] in marked else ())
        elif token.type == tokenize.STRING and token.end[0] in marked:
            exempt.update(range(token.start[0], token.end[0] + 1))
    return exempt | marked


def long_lines(path):
    """Numbers of the lines over COLUMNS that carry no mark."""
    lines = path.read_text("utf-8").split("\n")
    long = {number for number, line in enumerate(lines, 1) if len(line) > COLUMNS}
    return sorted(long - exempt_lines(path)) if long else []


def test_no_line_is_longer_than_the_page():
    places = [f"{name(path)}:{number}" for path in CODE + TESTS for number in long_lines(path)]
    assert not places, f"lines over {COLUMNS} columns: {', '.join(places)}"


def test_a_mark_exempts_its_string_and_no_other(tmp_path):
    wide = "x" * (COLUMNS + 1)
    path = tmp_path / "lines.py"
    path.write_text(f'a = """\n{wide}\n"""  # noqa: E501\nb = """\n{wide}\n"""\nc = "{wide}"\n', "utf-8")
    assert long_lines(path) == [5, 7]


# Functions.


def nested_conditionals(tree):
    """Numbers of the lines with a conditional expression inside another."""
    conditionals = [node for node in ast.walk(tree) if isinstance(node, ast.IfExp)]
    inner = (node for outer in conditionals for node in ast.walk(outer) if node is not outer)
    return sorted({node.lineno for node in inner if isinstance(node, ast.IfExp)})


def functions(tree):
    """Every function definition, those inside others too."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_of(function):
    """The number of lines of a function's body, its docstring left out: a derivation may be long."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def parameters_of(function):
    """How many parameters a function names, self left out."""
    arguments = function.args
    names = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
    return len([n for n in names if n not in ("self", "cls")])


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text("utf-8")) for path in CODE}


def test_no_conditional_expression_stands_inside_another(trees):
    every = trees | {path: ast.parse(path.read_text("utf-8")) for path in TESTS}
    places = [f"{name(p)}:{line}" for p, tree in every.items() for line in nested_conditionals(tree)]
    assert not places, f"conditional expressions inside others: {', '.join(places)}"


def test_no_function_is_longer_than_a_page(trees):
    sizes = {
        f"{name(path)}:{function.lineno} {function.name}": lines_of(function)
        for path, tree in trees.items()
        if not is_kernel(path)
        for function in functions(tree)
    }
    long = [f"{place} has {lines}" for place, lines in sizes.items() if lines > LINES]
    assert not long, f"functions over {LINES} lines: {', '.join(long)}"


def test_no_function_takes_more_parameters_than_fingers(trees):
    counts = {
        f"{name(path)}: {function.name}": parameters_of(function)
        for path, tree in trees.items()
        if not is_kernel(path)
        for function in functions(tree)
    }
    many = {place: count for place, count in counts.items() if count > PARAMETERS}
    unlisted = [f"{place} takes {count}" for place, count in many.items() if place not in LONG_SIGNATURES]
    assert not unlisted, f"functions of over {PARAMETERS} parameters: {', '.join(unlisted)}"
    assert set(LONG_SIGNATURES) == set(many), "a signature in the list has become short: strike it out"


def test_the_laws_see_what_they_forbid():
    source = ["def f(self, a, b, *, c):", '    """Two', '    lines."""']
    source += ["    d = a", "    return (a if b else c) if c else d"]
    tree = ast.parse("\n".join(source))
    assert nested_conditionals(tree) == [5]
    assert lines_of(tree.body[0]) == 2
    assert parameters_of(tree.body[0]) == 3


# Types.

CLIENT = """
import numpy as np

import numgpt

config = numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8)
model = numgpt.GPT(config, seed=0)
tokens = np.zeros((1, 4), np.int64)
loss, gradients = model.loss_and_grads(tokens, tokens)
numgpt.AdamW(model).step(gradients, lr=1e-3)
reveal_type(config.n_layer)
reveal_type(model.n_params)
reveal_type(model.generate(tokens, 3))
reveal_type(model.record(tokens, tokens))
reveal_type(gradients)
reveal_type(numgpt.ops.layernorm)
numgpt.Config(vocab_sise=5)
"""
REVEALED = ["int", "int", "numpy.ndarray", "numgpt.traces.recorded.TracedRecord"]
REVEALED += ["numgpt.architecture.parameters.Flat", "numgpt.ops.op.Op"]


def mypy(folder, *arguments):
    """The status and output of mypy, run in a folder."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--cache-dir", folder / "cache", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"} | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_a_strict_client_of_the_package_sees_its_types(tmp_path):
    (tmp_path / "client.py").write_text(CLIENT, "utf-8")
    status, output = mypy(tmp_path, "--strict", "--follow-imports=silent", "client.py")
    types = re.findall(r'Revealed type is "(?:builtins\.)?([\w.]+)', output)  # which mypy 2 leaves out
    assert types == REVEALED, output
    errors = re.findall(r"error: (.*)", output)
    assert status == 1 and len(errors) == 1 and 'keyword argument "vocab_sise"' in errors[0], output


def test_the_types_ship():
    """py.typed tells type checkers that an installed numgpt is annotated."""
    assert (ROOT / "numgpt" / "py.typed").exists()
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", "utf-8")
    assert "py.typed" in settings["options.package_data"]["*"]


def test_texts_and_pages_ship():
    """setup.cfg carries every file in the package that is no module: a name, and its pattern there."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", "utf-8")
    carried = set()
    for package, patterns in settings["options.package_data"].items():
        folders = [room.parent for room in ROOMS] + [ROOT / "numgpt"]
        if package != "*":
            folders = [ROOT.joinpath(*package.split("."))]
        patterns = [pattern.strip() for pattern in patterns.split(",")]
        carried |= {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}
    others = {
        path for path in (ROOT / "numgpt").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others, "nothing was looked at"
    missing = others - carried
    assert not missing, f"no wheel would carry {', '.join(map(name, missing))}: add them to package_data"


def test_the_list_of_annotated_files_is_sorted_and_real():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", "utf-8")
    paths = [line.rstrip(",") for line in settings["mypy"]["files"].split()]
    assert paths == sorted(set(paths))
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, f"setup.cfg lists {', '.join(missing)}, which are not there"


# Rooms.


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.parent.name)
def test_a_room_says_in_one_sentence_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    summary = docstring.partition("\n\n")[0]
    one_sentence = re.fullmatch(r"[^\n]+[.?]", summary) and not re.search(r"[.?] [A-Z]", summary)
    assert one_sentence, f"{name(path)} begins with {summary!r}: expected one sentence in one line"
