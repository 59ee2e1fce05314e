"""Atomic writes of files: made under a hidden name of the writer's own, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import temporary

StrPath = str | os.PathLike[str]

# Endings of the hidden names of a folder that is being replaced, and of the lock of who replaces it.
OLD, LOCK = ".numgpt-old", ".numgpt-lock"
TRIES, PAUSE = 8, 0.01  # where a folder is swapped, seconds, while a file is written into it

# What a system's refusal says of a path, and what to do about it; whatever else it says stays an OSError.
ANOTHER = "choose another name"
REFUSALS = {
    errno.EISDIR: ("is a folder", ANOTHER),
    errno.ENOENT: ("its folder does not exist", "make that, or choose another name"),
    errno.ENOTDIR: ("lies below a file", ANOTHER),
    errno.EEXIST: ("lies below a file", ANOTHER),
    errno.ENAMETOOLONG: ("is too long a name", "choose a shorter one"),
    errno.ELOOP: ("is a link that leads to itself", ANOTHER),
    errno.EACCES: ("may not be written", "change its permissions, or choose another place"),
    errno.EPERM: ("may not be written", "change its permissions, or choose another place"),
    errno.EROFS: ("lies on a disk that is read-only", "choose another place"),
}


def named(name: StrPath) -> Path:
    """The path that a name stands for; InputError for one that no file or folder can have.

    The empty name is one of these: as a Path it would be the working folder.
    """
    if not os.fspath(name):
        raise InputError("the name of what to write is empty, expected one of a file or a folder: choose one")
    try:
        has_null = b"\0" in os.fsencode(name)
    except UnicodeEncodeError:
        has_null = True
    if has_null:
        raise InputError(f"{name}: has characters that no name can have, expected others: {ANOTHER}")
    return Path(name)


@contextlib.contextmanager
def explained(name: StrPath, expected: str) -> Iterator[None]:
    """In this scope a refusal to write is an InputError that calls the place by the name.

    expected: the words for what should be there, such as "a file to write". A full disk is no refusal.
    """
    named(name)
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        fault, advice = REFUSALS[error.errno]
        raise InputError(f"{name}: {fault}, expected {expected}: {advice}") from error


def make_folder(place: Path, name: StrPath) -> None:
    """Make a folder and those above it; where that cannot be, an InputError calls it by the name."""
    with explained(name, "a folder to write to"):
        try:
            place.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"{name}: is a file or lies below one, expected a folder: choose another name"
            ) from error


def write_file(path: StrPath, data: bytes | Callable[[Path], object]) -> None:
    """Write a file, whole or not at all; a device or a pipe such as /dev/stdout is written to as it is.

    Of a link, the file that it points to is replaced. Where several write one file at once, it holds what one
    of them wrote. What a killed writer left beside the file is removed.

    data: the bytes, or what writes them to a hidden file beside the place, whose path it is given; so a large
    file is neither held in memory nor left where nobody looks for it.

    InputError for a folder, and for a place where no file can be written.
    """
    with explained(path, "a file to write"):
        _write_at(path, data)


def _write_at(path: StrPath, data: bytes | Callable[[Path], object]) -> None:
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if Path(path).exists() and not place.is_file():
        Path(path).write_bytes(_bytes(data))  # a rename would put a file in the device's place, for everybody
        return
    for left in reversed(range(TRIES)):
        try:
            _write(place, data)
            return
        except OSError as error:
            if not (left and isinstance(error, FileNotFoundError)):
                raise OSError(error.errno, error.strerror, str(path)) from error  # not the hidden name
            time.sleep(PAUSE)  # perhaps a save swaps the folder, with what is being written in it


def _bytes(data: bytes | Callable[[Path], object]) -> bytes:
    if isinstance(data, bytes):
        return data
    with tempfile.TemporaryDirectory() as folder:
        data(Path(folder, "file"))
        return Path(folder, "file").read_bytes()


def _write(place: Path, data: bytes | Callable[[Path], object]) -> None:
    temporary.sweep(place.parent, place.name)
    with temporary.made(place, folder=False) as new:
        if isinstance(data, bytes):
            new.write_bytes(data)
        else:
            data(new)
        with open(new, "ab") as file:
            os.fsync(file.fileno())
        try:
            os.replace(new, place)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            shutil.copyfile(new, place)  # a file that is mounted by itself cannot be replaced
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
