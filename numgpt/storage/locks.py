"""Locks: a folder that belongs to one process, which is named to whoever else asks for it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError
from . import exclusive
from .atomic import StrPath, make_folder

NAME = ".numgpt-lock"  # of the file in a folder that is locked; it holds a process's number and its machine

_owners: dict[str, tuple[int, int]] = {}  # folder → (process, thread) of this process that holds it


class InUse(InputError):
    """Another process, or another thread of this one, holds a folder."""


@contextlib.contextmanager
def held(folder: StrPath) -> Iterator[None]:
    """Hold a folder against other processes and threads; InUse if one of them holds it.

    Whoever holds it may hold it once more. The folder is made if it is missing and, if nothing comes to lie
    in it, removed in the end. A process that is killed holds nothing any more. Where the system or the disk
    has no locks, nobody is refused.
    """
    place = os.path.realpath(folder)
    owner = os.getpid(), threading.get_ident()
    if _owners.get(place) == owner:
        yield
        return
    made = _made(folder, Path(place))
    try:
        with exclusive.locked(Path(place, NAME), _refusal(folder)):
            _owners[place] = owner
            try:
                yield
            finally:
                del _owners[place]
    finally:
        with contextlib.suppress(OSError):  # not empty, as it should be
            for path in made:
                path.rmdir()


def _made(folder: StrPath, place: Path) -> list[Path]:
    """Make a folder; returns those that were missing, the innermost first."""
    missing = [path for path in (place, *place.parents) if not path.exists()]
    make_folder(place, folder)
    return missing


def _refusal(folder: StrPath) -> Callable[[int], InUse]:
    return lambda handle: InUse(
        f"{folder}: is in use by {_holder(handle)}, expected nobody else to work in it: wait until that has"
        " ended, or choose another folder"
    )


def _holder(handle: int) -> str:
    """The process that a lock's file names."""
    text = os.pread(handle, 300, 0).decode("ascii", "replace")
    match = re.fullmatch(r"(\d{1,10}) ([\w.-]+)\n", text)
    if match is None:
        return "another process"
    number, host = match.groups()
    return f"process {number}" + ("" if host == platform.node() else f" on {host}")
