"""Atomic writes of files: made under a hidden name of the writer's own, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import temporary

StrPath = str | os.PathLike[str]

# Endings of the hidden names of a folder that is being replaced, and of the lock of who replaces it.
OLD, LOCK = ".numgpt-old", ".numgpt-lock"
TRIES, PAUSE = 8, 0.01  # where a folder is swapped, seconds, while a file is written into it


def make_folder(place: Path, name: StrPath) -> None:
    """Make a folder and those above it; where a file is in the way an InputError calls it by the name."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{name}: is a file or lies below one, expected a folder: choose another name"
        ) from error


def write_file(path: StrPath, data: bytes) -> None:
    """Write a file, whole or not at all; a device or a pipe such as /dev/stdout is written to as it is.

    Of a link, the file that it points to is replaced. Where several write one file at once, it holds what one
    of them wrote. What a killed writer left beside the file is removed.
    """
    place = Path(os.path.realpath(path))
    if Path(path).exists() and not place.is_file():
        Path(path).write_bytes(data)  # a rename would put a file in the device's place, for everybody
        return
    for left in reversed(range(TRIES)):
        try:
            _write(place, data)
            return
        except OSError as error:
            if not (left and isinstance(error, FileNotFoundError)):
                raise OSError(error.errno, error.strerror, str(path)) from error  # not the hidden name
            time.sleep(PAUSE)  # perhaps a save swaps the folder, with what is being written in it


def _write(place: Path, data: bytes) -> None:
    temporary.sweep(place.parent, place.name)
    with temporary.made(place, folder=False) as new:
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(new, place)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            place.write_bytes(data)  # a file that is mounted by itself cannot be replaced
    flush(place.parent)


def write_json(path: StrPath, content: Any) -> None:
    """Write a JSON file, whole or not at all; ValueError for NaN and infinity, which JSON has no word for."""
    write_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def beside(path: StrPath, ending: str) -> Path:
    """The hidden name beside a path, or beside what a link points to, for what is being replaced there."""
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name}{ending}") if path.name else path / ending


def flush(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut. Windows has no such call."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
