"""The process in which a student's file runs: it imports the file, judges it, and writes the report."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from .contract import message_of
from .judging import judge
from .telling import as_dict, told
from .variation import exercise

MEMORY = 4 << 30  # bytes: what takes more is a mistake, and is told so by a MemoryError


def main() -> None:
    """Judge the file that the command line names, and write the report where it says."""
    path, name, student, out = sys.argv[1:]
    sys.argv = [path]
    _limit_memory()
    result = _result(Path(path), name, student)
    Path(out).write_text(json.dumps(result), "utf-8")


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _result(path: Path, name: str, student: str) -> dict[str, Any]:
    """The report on a file, or the error that kept it from being imported."""
    wanted = exercise(name, student)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules.setdefault(spec.name, module)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"line {frames[-1].lineno}, {frames[-1].line}: " if frames else ""
        what = f"{type(error).__name__}: {message_of(error)}"
        return {"error": f"{where}importing it raised {what}, expected code that runs"}
    function = getattr(module, wanted.fill, None)
    if not callable(function):
        names = [n for n, thing in vars(module).items() if callable(thing) and not n.startswith("_")]
        there = f"there are {', '.join(names)}" if names else "there is no function"
        return {"error": f"there is no function {wanted.fill}, expected the one to fill: {there}"}
    forward = getattr(module, wanted.forward.__name__, None) if wanted.forward is not None else None
    report = judge(wanted, function, forward if callable(forward) else None)
    return {"text": told(report), "report": as_dict(report)}
