"""Task tables: texts, each with a class or a number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError, did_you_mean
from ..storage.atomic import StrPath
from .rows import Row, rows_of, shown

EXPECTED = "a table (CSV), or JSON"
INTEGER = re.compile(r"-?[0-9]{1,18}")
NAMED = 12  # classes that an error names


@dataclass(frozen=True, eq=False)
class Task:
    """What read_task gives.

    texts: N of them. labels: integers (N,), places in classes; or floats (N,), where classes are None.
    places: where each was read, for errors.
    """

    texts: tuple[str, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...] | None
    places: tuple[str, ...]


@checked
def read_task(
    paths: StrPath | Sequence[StrPath],
    *,
    text: str = "text",
    label: str = "label",
    numbers: bool = False,
    classes: Sequence[str] | None = None,
) -> Task:
    r"""The texts and labels of files: tables with a header (CSV, or TSV by its ending), or JSON's objects.

    Parameters
    ----------
    paths
        A file or several.
    text, label
        The names of the two columns, or fields.
    numbers
        Whether labels are numbers, to be fitted, not the names of classes.
    classes
        Those that a model knows, in its order; None, those that occur: sorted, by value where all are
        integers.

    Raises
    ------
    InputError
        Names file and line of a row without text or label, with a label that is no number, or of no class;
        and where all labels are the same class.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from numgpt.data import read_task
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "task.csv")
    ...     _ = path.write_text('text,label\n"good, really",praise\nawful,blame\n')
    ...     task = read_task(path)
    >>> task.texts, task.labels, task.classes
    (('good, really', 'awful'), array([1, 0]), ('blame', 'praise'))
    """
    if numbers and classes is not None:
        raise InputError("read_task: classes are given where labels are numbers, expected one of the two")
    if text == label:
        raise InputError(f"read_task: text and label are both {text!r}, expected the names of two columns")
    rows = list(rows_of(paths, EXPECTED, tables=True))
    if not rows:
        raise InputError(f"{_shown_paths(paths)}: holds no rows, expected some below the header")
    texts = tuple(text_of_row(row, text) for row in rows)
    places = tuple(row.place for row in rows)
    if numbers:
        return Task(texts, np.array([_number(row, label) for row in rows]), None, places)
    names = [_name(row, label) for row in rows]
    known = _found(names, label, paths) if classes is None else tuple(classes)
    ids = {name: n for n, name in enumerate(known)}
    unknown = next((n for n, name in enumerate(names) if name not in ids), None)
    if unknown is not None:
        more = ", …" if len(known) > NAMED else ""
        raise InputError(
            f"{places[unknown]}: {label} is {shown(names[unknown])}, expected one of"
            f" {', '.join(map(repr, known[:NAMED]))}{more}"
        )
    return Task(texts, np.array([ids[name] for name in names], np.int64), known, places)


def _shown_paths(paths: Any) -> str:
    return str(paths) if isinstance(paths, str) or not isinstance(paths, Sequence) else str(paths[0])


def _value(row: Row, name: str) -> Any:
    if name not in row.fields:
        names = ", ".join(map(repr, list(row.fields)[:8])) or "none"
        raise InputError(
            f"{row.place}: the columns are {names}, expected {name!r} among them"
            f"{did_you_mean(name, row.fields)}: name the right one"
        )
    return row.fields[name]


def text_of_row(row: Row, name: str) -> str:
    """A row's text, by the name of its column."""
    value = _value(row, name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{row.place}: {name} is {shown(value)}, expected a text that is not empty")
    return value


def _name(row: Row, name: str) -> str:
    """The name of a class: a text, an integer or a truth value, as its text."""
    value = _value(row, name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{row.place}: {name} is {shown(value)}, expected the name of a class: a text or an integer;"
            " numbers=True fits numbers"
        )
    return value.strip()


def _number(row: Row, name: str) -> float:
    value = _value(row, name)
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):  # 1_000 is Python's alone
            raise ValueError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{row.place}: {name} is {shown(value)}, expected a finite number")
    return number


def _found(names: list[str], label: str, paths: Any) -> tuple[str, ...]:
    """The classes that occur, sorted; by value where all are integers, so that 10 comes behind 9."""
    found = sorted(set(names))
    if all(INTEGER.fullmatch(name) for name in found):
        found.sort(key=int)
    if len(found) < 2:
        raise InputError(
            f"{_shown_paths(paths)}: {label} is {shown(found[0])} in all {len(names):,} rows, expected two"
            " classes or more"
        )
    return tuple(found)
