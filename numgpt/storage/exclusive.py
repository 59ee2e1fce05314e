"""Locks of open files, which a killed process lets go. Where the system or the disk has none, none waits."""

from __future__ import annotations

import contextlib
import os
import platform
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


HAS_LOCKS = fcntl is not None


def claim(handle: int, wait: bool = False) -> bool | None:
    """Lock an open file or folder: True; False if somebody else holds it; None where there are no locks."""
    if not HAS_LOCKS:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def lies_at(handle: int, path: Path) -> bool:
    """Whether an open file or folder is what lies at a path: it may have been moved, removed or replaced."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except OSError:
        return False


@contextlib.contextmanager
def locked(path: Path, refusal: Callable[[int], InputError] | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is there as long as it is held and names the process.

    If somebody else holds it: wait, or raise what refusal makes of the open file.
    """
    if not HAS_LOCKS:
        yield
        return
    handle = _locked(path, refusal)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {platform.node()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):  # said aloud: a forked child may have the handle, too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _locked(path: Path, refusal: Callable[[int], InputError] | None) -> int:
    """The open file at a path, locked."""
    while True:
        handle = _open(path)
        try:
            if claim(handle, wait=refusal is None) is False:
                assert refusal is not None
                raise refusal(handle)
            if lies_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # whoever held it has removed the file meanwhile


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: is no file, expected the one that numgpt makes: remove it")
    return handle
