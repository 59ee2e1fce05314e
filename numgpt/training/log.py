"""log.jsonl: a line an entry with its time, and what of it a run that goes on has to know."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError
from ..storage import atomic
from ..storage.files import open_file, parse_json

NAME = "log.jsonl"
LONGEST = 2**16  # bytes of a line; longer ones are not numgpt's

Entry = dict[str, Any]  # a line of the log


@contextlib.contextmanager
def opened(folder: Path, step: int) -> Iterator[tuple[TextIO, list[Entry]]]:
    """The log of a run that goes on from a step, and its entries; later ones than the step are removed."""
    path = Path(os.path.realpath(folder / NAME))  # of a link, the file that it points to
    folder.mkdir(parents=True, exist_ok=True)
    entries = _entries_up_to(path, step) if path.exists() else []
    if step == 0:
        entries = []
    atomic.write_file(path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        yield file, entries


def write(file: TextIO, entry: Entry) -> None:
    """Add a line, with the time."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    file.write(json.dumps(entry | {"time": now.replace("+00:00", "Z")}) + "\n")


def _entries_up_to(path: Path, step: int) -> list[Entry]:
    """The entries of a log whose steps are not later than step."""
    entries = []
    with open_file(path) as file:
        while line := file.readline(LONGEST):
            # The last line of a killed run may be half there.
            with contextlib.suppress(InputError, TypeError, KeyError):
                entry = parse_json(line, path)
                if entry["step"] <= step:
                    entries.append(entry)
    return entries
