"""Atomic writes: a file or folder is made under a hidden name, flushed to disk, then renamed to its place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError

StrPath = str | os.PathLike[str]

# Endings of the hidden names of what is being written, and of what is being replaced.
NEW, OLD = ".numgpt-new", ".numgpt-old"


def replace_folder(folder: StrPath, write: Callable[[Path], object]) -> None:
    """Replace a folder, or make it; write(path) fills the new one.

    A whole folder is in place at every moment but one: between the two renames the old one lies beside its
    place, under its hidden name. If the process is killed there, settle() puts it back.

    An old folder with a file that the new one lacks stays, and an InputError names the file.
    """
    name, folder = folder, Path(os.path.realpath(folder))  # replace what a link points to, not the link
    new, old = beside(folder, NEW), beside(folder, OLD)
    settle(folder)
    make_folder(folder.parent, name)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        write(new)
        _flush(new)
        _expect_nothing_lost(folder, new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _expect_nothing_lost(folder: Path, new: Path) -> None:
    """Raise InputError if a folder has names that the one which replaces it lacks."""
    lost = set(os.listdir(folder)) - set(os.listdir(new)) if folder.exists() else ()
    if lost:
        raise InputError(
            f"{folder}: has {', '.join(sorted(lost))}, which would be lost: what is to replace it has none."
            " Choose another name"
        )


def settle(folder: StrPath) -> None:
    """Clean up after a replace_folder that was killed.

    The old folder goes back to its place, or is removed if the new one is there.
    """
    old = beside(folder, OLD)
    if not old.exists():
        return
    if Path(folder).exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(old, folder)


def make_folder(place: Path, name: StrPath) -> None:
    """Make a folder and those above it; where a file is in the way an InputError calls it by the name."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{name}: is a file or lies below one, expected a folder: choose another name"
        ) from error


def write_file(path: StrPath, data: bytes) -> None:
    """Write a file, whole or not at all; a device or a pipe such as /dev/stdout is written to as it is."""
    if Path(path).exists() and not Path(path).is_file():
        Path(path).write_bytes(data)  # a rename would put a file in the device's place, for everybody
        return
    new = beside(path, NEW)
    try:
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    _flush(Path(path).parent)


def write_json(path: StrPath, content: Any) -> None:
    """Write a JSON file, whole or not at all; ValueError for NaN and infinity, which JSON has no word for."""
    write_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def beside(path: StrPath, ending: str) -> Path:
    """The hidden name beside a path, for what is being written or replaced there."""
    path = Path(os.path.abspath(path))
    return path.with_name(f".{path.name}{ending}") if path.name else path / ending


def _flush(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut. Windows has no such call."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
