"""Locks: a folder that belongs to one process, which is named to whoever else asks for it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .atomic import StrPath, make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
        with _locked(folder, Path(place, NAME)):
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


@contextlib.contextmanager
def _locked(folder: StrPath, path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is there as long as it is held."""
    handle = _open(path)
    try:
        while not _lock(handle, folder):  # whoever held it has removed the file meanwhile
            os.close(handle)
            handle = _open(path)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {platform.node()}\n".encode(), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            if fcntl is not None:
                with contextlib.suppress(OSError):  # said aloud: a forked child may have the handle, too
                    fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: is no file, expected the one that numgpt makes: remove it")
    return handle


def _lock(handle: int, folder: StrPath) -> bool:
    """Lock an open file; False if it is not the one that lies in the folder any more."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(
            f"{folder}: is in use by {_holder(handle)}, expected nobody else to work in it: wait until that"
            " has ended, or choose another folder"
        ) from error
    except OSError:  # a file system without locks
        return True
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(Path(folder, NAME))
        return os.path.samestat(there, os.fstat(handle))
    return False


def _holder(handle: int) -> str:
    """The process that a lock's file names."""
    text = os.pread(handle, 300, 0).decode("ascii", "replace")
    match = re.fullmatch(r"(\d{1,10}) ([\w.-]+)\n", text)
    if match is None:
        return "another process"
    number, host = match.groups()
    return f"process {number}" + ("" if host == platform.node() else f" on {host}")
