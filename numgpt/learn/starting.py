"""The files of an exercise: the one to fill, the solution, and wrong ones."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..proofs.mutants import load
from ..storage.atomic import StrPath, make_folder, write_file
from .exercise import Exercise, Fault
from .exercises import NAMES
from .variation import exercise

MARK = "    # yours\n"
PAGE = '''"""Exercise {number}. {lesson}

Write {fill}, then ask what is wrong with it, and for a hint:

    numgpt learn check {path}
    numgpt learn hint {path}
"""

{imports}

EXERCISE = "{name}"  # by this line and the next the checker knows what to expect
STUDENT = {student}
{shown}

{function}'''
STUB = "    raise NotImplementedError  # this line goes, and yours begin here\n"


def write(name: str, folder: StrPath, student: str = "", over: bool = False) -> Path:
    """Write a started exercise into a folder, whole or not at all; the path of the file.

    InputError where a file of that name is there, unless over: it may hold somebody's work.
    """
    path = Path(folder) / f"{name}.py"
    text = page(exercise(name, student), stub=True, path=path.as_posix())
    if path.exists() and not over:
        raise InputError(f"{path}: is there already, expected a new file: remove it, or give --over")
    make_folder(path.parent, folder)
    write_file(path, text.encode())
    return path


def page(exercise: Exercise, stub: bool, body: str = "", path: str = "") -> str:
    """The text of an exercise's file: with a stub, with the solution, or with another body."""
    parts = _parts(exercise.source)
    head, solution = _halves(exercise)
    if stub:
        solution = STUB
    elif body:
        solution = textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
    shown = [parts[name].rstrip() for name in exercise.shown]
    constants = [part for part in shown if not part.startswith("def ")]
    functions = [f"\n\n{part}" for part in shown if part.startswith("def ")]
    return PAGE.format(
        number=NAMES[exercise.name],
        lesson=inspect.cleandoc(ast.get_docstring(ast.parse(exercise.source)) or ""),
        fill=exercise.fill,
        path=path or f"{exercise.name}.py",
        imports="import math\n\nimport numpy as np"
        if "import math\n" in exercise.source
        else "import numpy as np",
        name=exercise.name,
        student=repr(exercise.student),
        shown="\n".join([*constants, *functions]),
        function=f"\n{head}{solution}",
    )


def _halves(exercise: Exercise) -> tuple[str, str]:
    """The function to fill: what a started file has of it, and the solution."""
    head, mark, solution = _parts(exercise.source)[exercise.fill].partition(MARK)
    assert mark, f"{exercise.name}: the solution has no line {MARK.strip()}"
    return head, solution


def _parts(source: str) -> dict[str, str]:
    """Name → text of each function and constant at the top of a module."""
    lines = source.splitlines(keepends=True)
    parts = {}
    for node in ast.parse(source).body:
        text = "".join(lines[node.lineno - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef):
            parts[node.name] = text
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            parts[node.targets[0].id] = text
    return parts


def loaded(exercise: Exercise, text: str) -> Callable[..., Any]:
    """The function to fill, of a text of the exercise's file."""
    module: Any = load(f"started_{exercise.name}", text)
    return getattr(module, exercise.fill)


def wrong(exercise: Exercise) -> Iterator[tuple[Fault, str]]:
    """(fault, text of the file with it) of each fault in the table."""
    _, right = _halves(exercise)
    for fault in exercise.faults:
        body = textwrap.dedent(fault.body or right)
        for old, new in fault.changes:
            assert body.count(old) == 1, (
                f"{exercise.name}, {fault.seen}: {old!r} is found {body.count(old)} times, expected once"
            )
            body = body.replace(old, new)
        yield fault, page(exercise, stub=False, body=body)
