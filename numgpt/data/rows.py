"""Rows of files, each with its place: objects of JSON, one a line or in an array, or lines with fields."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import InputError
from ..storage.atomic import StrPath
from ..storage.files import LONGEST_JSON, open_file, parse_json
from .text import normalised

LONGEST_ARRAY = 2**28  # characters of a JSON array, which is read at once
TABLES = {".csv": ",", ".tsv": "\t"}  # the ending of a table → what divides its fields
TEXT = ".txt"  # the ending of a file whose lines are texts


class Row(NamedTuple):
    """What a line or an entry holds, and where it stands, such as "data.jsonl, line 3", for errors."""

    place: str
    fields: dict[str, Any]


def rows_of(
    paths: StrPath | Sequence[StrPath], expected: str, tables: bool = False, line_name: str | None = None
) -> Iterator[Row]:
    """The rows of files, in their order. A file is opened when its turn comes, and read a megabyte at a time.

    expected: what the files hold, for errors. tables: whether a file that is no JSON is a table. line_name:
    the field that a line of a .txt file becomes; None where such a file is one of JSON, too.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not files:
        raise InputError(f"data: there are no files, expected {expected}: name one or more")
    for path in files:
        with open_file(path, expected, pipes=True) as file:
            parts = normalised(path, file, lambda n: None, expected)
            begin, parts = _begin(path, parts)
            ending = os.path.splitext(path)[1].lower()
            if tables and (ending in TABLES or begin not in "{["):
                yield from _table(path, parts, TABLES.get(ending, ","))
            elif line_name is not None and ending == TEXT:
                yield from _texts(path, parts, line_name)
            elif begin == "[":
                yield from _array(path, parts, expected)
            else:
                yield from _objects(path, parts, expected)


def _begin(path: StrPath, parts: Iterator[str]) -> tuple[str, Iterator[str]]:
    """(the first character that is no space, all parts of a text)."""
    taken, size = [], 0
    for part in parts:
        taken.append(part)
        size += len(part)
        if part.strip() or size > LONGEST_JSON:
            break
    return taken[-1].lstrip()[:1], itertools.chain(taken, parts)


def _lines(path: StrPath, parts: Iterable[str]) -> Iterator[tuple[int, str]]:
    r"""(number, line) of a text in parts, a line without its \n; those that are blank too."""
    n, waiting, size = 1, list[str](), 0
    for part in parts:
        *whole, rest = part.split("\n")
        for line in whole:
            yield n, "".join([*waiting, line])
            n, waiting, size = n + 1, [], 0
        waiting.append(rest)
        size += len(rest)
        if size > LONGEST_JSON:
            raise InputError(
                f"{path}, line {n}: has more than {LONGEST_JSON:,} characters, the most expected in one"
            )
    yield n, "".join(waiting)


def _objects(path: StrPath, parts: Iterable[str], expected: str) -> Iterator[Row]:
    """The objects of a text that has one a line."""
    for n, line in _lines(path, parts):
        if line.strip():
            place = f"{path}, line {n}"
            yield _row(place, parse_json(line.encode(), place, expected=f"{expected}, an object a line"))


def _texts(path: StrPath, parts: Iterable[str], name: str) -> Iterator[Row]:
    """The lines of a text that are not blank, each as a field."""
    for n, line in _lines(path, parts):
        if line.strip():
            yield Row(f"{path}, line {n}", {name: line})


def _array(path: StrPath, parts: Iterable[str], expected: str) -> Iterator[Row]:
    """The objects of a text that is one array."""
    text, size = [], 0
    for part in parts:
        text.append(part)
        size += len(part)
        if size > LONGEST_ARRAY:
            raise InputError(
                f"{path}: is an array of more than {LONGEST_ARRAY:,} characters, the most that is read at"
                " once: write an object a line instead (JSONL)"
            )
    content = parse_json("".join(text).encode(), path, expected=expected)
    for n, value in enumerate(content, 1):
        yield _row(f"{path}, entry {n}", value)


def _row(place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{place}: is {shown(value)}, expected an object with names: {{…}}")
    return Row(place, value)


def _table(path: StrPath, parts: Iterable[str], divider: str) -> Iterator[Row]:
    """The lines of a table by the names of its header; quotes may hold dividers and line breaks."""
    reader = csv.reader((f"{line}\n" for _, line in _lines(path, parts)), delimiter=divider, strict=True)
    header: list[str] | None = None
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{place}: is no row of a table ({error}), expected fields with {divider!r} between them: put"
                ' those that hold it into "quotes"'
            ) from error
        if fields is None:
            return
        if not fields or (len(fields) == 1 and not fields[0].strip()):
            continue
        if header is None:
            header = _header(place, fields)
            continue
        if len(fields) != len(header):
            raise InputError(
                f"{place}: has {len(fields)} fields, expected {len(header)} as the header has: put those that"
                f' hold {divider!r} into "quotes"'
            )
        yield Row(place, dict(zip(header, fields)))


def _header(place: str, fields: list[str]) -> list[str]:
    header = [name.strip() for name in fields]
    twice = next((name for n, name in enumerate(header) if name in header[:n]), None)
    if twice is not None or "" in header:
        problem = "a column has no name" if twice in (None, "") else f"{twice!r} names two columns"
        raise InputError(f"{place}: {problem}, expected a header, each column with a name of its own")
    return header


def shown(value: Any, longest: int = 60) -> str:
    """A value of a file in a message."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
