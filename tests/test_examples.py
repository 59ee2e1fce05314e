"""Examples as pages: each asks a question, draws where it is asked to, and its notebook says the same."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SOURCES = {path: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.py"))}
DRAWING = [path for path, source in SOURCES.items() if "show = picture." in source]
IN_CELLS = [path for path in DRAWING if "# %%" in SOURCES[path]]
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def example(name):
    """A module of the folder."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def notebooks():
    """The script that makes notebooks."""
    return example("notebooks")


def test_there_are_the_examples_and_some_notebooks():
    assert len(IN_CELLS) >= 12 and len(NOTEBOOKS) >= 4


@pytest.mark.parametrize("path", IN_CELLS, ids=lambda p: p.stem)
def test_an_example_asks_a_question_first_and_asserts_its_answer(path, notebooks):
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree).splitlines()[0].endswith("?")
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    assert [kind for kind, _ in notebooks.cells_of(source)][:2] == ["markdown", "code"]
    assert f"({path.name})" in (FOLDER / "README.md").read_text("utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_in_step_with_its_script_and_shows_outputs_and_picture(path, notebooks):
    assert notebooks.in_step(path), f"run python notebooks.py --write {path.stem}"
    assert path.stat().st_size <= notebooks.LARGEST
    outputs = [
        out for cell in json.loads(path.read_text("utf-8"))["cells"] for out in cell.get("outputs", ())
    ]
    assert {"stream", "display_data"} == {out["output_type"] for out in outputs}
    assert outputs[-1]["text"][-1].endswith(".\n")


def test_a_cell_that_differs_puts_a_notebook_out_of_step(notebooks, tmp_path, monkeypatch):
    (path,) = (p for p in NOTEBOOKS if p.stem == "causality_matrix")
    other = tmp_path / path.name
    monkeypatch.setattr(notebooks, "HERE", tmp_path)
    script = (FOLDER / f"{path.stem}.py").read_text("utf-8")
    for text, said in ((script, True), (script.replace("T = 10", "T = 11"), False)):
        other.with_suffix(".py").write_text(text, "utf-8")
        other.write_bytes(path.read_bytes())
        assert notebooks.in_step(other) == said


PLOT = "import picture; picture.script('')(lambda figure: figure.subplots().plot([1, 2]))"


def run(*flags):
    """A script of one line that draws a straight line."""
    command = [sys.executable, "-c", PLOT, *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=FOLDER)


def test_nobody_needs_matplotlib_where_nobody_asked_for_a_picture():
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_same_picture_is_the_same_file(tmp_path, ending):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    files = [tmp_path / f"{n}.{ending}" for n in (1, 2)]
    for file in files:
        assert run("--plot", str(file)).returncode == 0
    first, second = (file.read_bytes() for file in files)
    assert first == second and len(first) > 1000


@pytest.mark.parametrize(
    "name, said", [("line.txt", ".png, .svg, .pdf or .html"), ("none/line.png", "its folder does not exist")]
)
def test_a_file_that_cannot_be_drawn_is_one_line(tmp_path, name, said):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    done = run("--plot", str(tmp_path / name))
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1
