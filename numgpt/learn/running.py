"""A student's file, run in a process of its own, with limits of time and output. That is no sandbox.

The code may read and write what its user may. Who grades files of people that they do not trust runs the
grader in a container.
"""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..storage.atomic import StrPath
from ..storage.files import read_bytes, read_json
from .exercises import NAMES

LIMIT = 20.0  # seconds
OUTPUT = 1_000_000  # bytes that a file may print
SHOWN = 2_000  # of them that are shown
CHILD = "from numgpt.learn.child import main; main()"


class Started(NamedTuple):
    """A started exercise: its file, which exercise it is, and whose."""

    path: Path
    exercise: str
    student: str


class Checked(NamedTuple):
    """What is known of a file: the report in words and for programs, and what the student's code printed."""

    started: Started
    text: str
    report: dict[str, Any]
    printed: str


def started(path: StrPath) -> Started:
    """Read which exercise a file is, without running it; InputError for a file that is none."""
    path = Path(path)
    try:
        tree = ast.parse(read_bytes(path), str(path))
    except SyntaxError as error:
        raise InputError(f"{path}: {_place(error)}") from error
    except ValueError as error:  # null bytes
        raise InputError(f"{path}: is no Python file ({error}), expected a started exercise") from error
    words: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            words |= {t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)}
    name, student = words.get("EXERCISE"), words.get("STUDENT", "")
    if not isinstance(name, str) or name not in NAMES:
        said = "has no line EXERCISE = …" if name is None else f"EXERCISE is {name!r}"
        raise InputError(
            f'{path}: {said}, expected the line of a started exercise, such as EXERCISE = "layernorm"'
        )
    return Started(path, name, student if isinstance(student, str) else "")


def _place(error: SyntaxError) -> str:
    """A syntax error on one line, a caret before the character where Python gave up."""
    line = (error.text or "").rstrip("\n")
    column = (error.offset or 1) - 1
    shown = f"{line[:column]}^{line[column:]}".strip()
    return f"line {error.lineno}: {error.msg}, at the caret in: {shown}: expected Python that can be read"


def checked(path: StrPath, limit: float = LIMIT) -> Checked:
    """Judge a started exercise; InputError where its code does not end, or cannot be imported."""
    file = started(path)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        status, printed = _run([str(file.path.resolve()), file.exercise, file.student, str(out)], file, limit)
        if not out.exists():
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise InputError(
                f"{path}: its process ended with {how}, expected it to come to an end: {_last(printed)}"
            )
        result = read_json(out, halves=True)
    if "error" in result:
        raise InputError(f"{path}: {result['error']}")
    return Checked(file, result["text"], result["report"], printed[:SHOWN])


def _last(printed: str) -> str:
    """The last line of an output, which says why a process ended."""
    return (printed.strip().splitlines() or ["it printed nothing"])[-1][:300]


def _run(words: list[str], file: Started, limit: float) -> tuple[int, str]:
    """(the status, what was printed) of the child that judges a file."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=file.path.resolve().parent,
        start_new_session=True,
    )
    output = _Output(child)
    try:
        child.wait(limit)
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{file.path}: is not done after {limit:g} seconds, expected an end: has it a loop that does not"
            " end? --limit gives it more"
        ) from None
    finally:
        _end(child)
        output.join()
        assert child.stdout is not None
        child.stdout.close()
    if output.too_much:
        raise InputError(f"{file.path}: printed more than {OUTPUT:,} bytes, expected a few lines: print less")
    return child.returncode, output.text


class _Output(threading.Thread):
    """Reads what a child prints, and ends it where that is too much."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._child, self._kept, self._size = child, bytearray(), 0
        self.start()

    def run(self) -> None:
        """Read until the end."""
        assert self._child.stdout is not None
        while part := self._child.stdout.read1(65536):  # type: ignore[attr-defined]
            self._size += len(part)
            self._kept += part[: max(0, OUTPUT - len(self._kept))]
            if self.too_much:
                _end(self._child)
                return

    @property
    def too_much(self) -> bool:
        """Whether more was printed than may be."""
        return self._size > OUTPUT

    @property
    def text(self) -> str:
        """What was printed."""
        return self._kept.decode("utf-8", "replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it has begun."""
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()
