"""Are the notebooks in step with their scripts? And with --write: make them of the scripts, and run them.

python notebooks.py                             compares every notebook with the script beside it
python notebooks.py --write causality_matrix    makes causality_matrix.ipynb, with outputs and picture
python notebooks.py --write                     makes all of them anew: pip install 'numgpt[docs]'
"""

import argparse
import json
import re
from pathlib import Path

HERE = Path(__file__).parent
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
LARGEST = 150_000  # bytes: what a repository and a page of GitHub can bear


def cells_of(script):
    """(kind, source) of the cells of a script: what stands between marks, texts without their quotes."""
    marked = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)[1:]
    cells = []
    for mark, source in zip(marked[::2], marked[1::2]):
        is_text = "markdown" in mark
        cells.append(("markdown", source.strip().strip('"').strip()) if is_text else ("code", source.strip()))
    return cells


def titled(cells):
    """The same cells; the script's question is the heading of the notebook."""
    (kind, question), *rest = cells
    return [(kind, f"# {question}"), *rest]


def in_step(path):
    """Whether a notebook has the cells of its script, and no other."""
    notebook = json.loads(path.read_text("utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    return cells == titled(cells_of((HERE / f"{path.stem}.py").read_text("utf-8")))


def write(name):
    """Make a notebook of a script, run it, and write it with its outputs."""
    try:
        import jupytext
        from nbclient import NotebookClient
    except ImportError as error:
        raise SystemExit(
            f"{error.name} is not installed, expected it to make notebooks: pip install 'numgpt[docs]'"
        ) from None
    notebook = jupytext.reads((HERE / f"{name}.py").read_text("utf-8"), "py:percent")
    place = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, kernel_name="python3", resources=place, coalesce_streams=True).execute()
    notebook.cells[0].source = f"# {notebook.cells[0].source}"
    for n, cell in enumerate(notebook.cells):  # nothing that differs from run to run
        cell.id, cell.metadata = f"cell-{n}", {}
    notebook.metadata = {"kernelspec": KERNEL}
    path = HERE / f"{name}.ipynb"
    path.write_text(jupytext.writes(notebook, "ipynb"), "utf-8")
    return path


def main():
    """Write what is asked for, then look at all that there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", nargs="*", metavar="NAME", help="scripts (default: those with a notebook)")
    names = parser.parse_args().write
    if names is not None:
        for name in names or sorted(path.stem for path in HERE.glob("*.ipynb")):
            path = write(name)
            print(f"{path.relative_to(HERE)}: {path.stat().st_size:,} bytes", flush=True)
    paths = sorted(HERE.glob("*.ipynb"))
    late = [path.name for path in paths if not in_step(path)]
    large = [path.name for path in paths if path.stat().st_size > LARGEST]
    assert not late, f"out of step with their scripts: {', '.join(late)}; run python notebooks.py --write"
    assert not large, f"larger than {LARGEST:,} bytes: {', '.join(large)}"
    print(f"{', '.join(path.name for path in paths)}: in step with their scripts, cell by cell.")


if __name__ == "__main__":
    main()
