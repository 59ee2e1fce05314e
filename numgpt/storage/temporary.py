"""Temporary files and folders: hidden, each of one writer alone, and cleared away once the writer is gone.

A writer holds a lock on what it makes, by which others see that it lives. Where there are no locks (Windows,
some network disks), what nobody has written to for a day counts as left behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from . import exclusive

NEW = ".numgpt-new"  # what names of temporary things end in
WHOLE = ".numgpt-whole"  # a folder in the one that is being filled from it
HIDDEN = re.compile(r"\.numgpt-whole|\..*\.numgpt-(new|old|lock)", re.DOTALL)
STEM = 50  # characters of what is being written that its temporary name repeats: names have limits
DAY = 86400.0  # seconds


def names(folder: Path) -> set[str]:
    """What lies in a folder, but for numgpt's own hidden things."""
    return {name for name in os.listdir(folder) if not HIDDEN.fullmatch(name)}


def name(path: Path) -> Path:
    """A temporary name beside a path, which nobody else has."""
    return path.with_name(f".{path.name[:STEM]}.{os.urandom(4).hex()}{NEW}")


@contextlib.contextmanager
def made(path: Path, folder: bool) -> Iterator[Path]:
    """A new file or folder beside a path, of this writer alone; removed in the end, unless it was renamed."""
    place, handle = _claimed(path, folder)
    try:
        yield place
    finally:
        remove(place)
        if handle is not None:
            os.close(handle)


def _claimed(path: Path, folder: bool) -> tuple[Path, int | None]:
    """(place, handle that holds its lock, None where there are no locks)."""
    while True:
        place = name(path)
        try:
            if folder:
                place.mkdir()
            else:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            continue
        if not exclusive.HAS_LOCKS:  # Windows, where a file that is open cannot be renamed
            return place, None
        try:
            handle = os.open(place, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except OSError:  # the umask lets nobody read it
            return place, None
        if exclusive.claim(handle, wait=True) is None or exclusive.lies_at(handle, place):
            return place, handle
        os.close(handle)  # somebody cleared it away before it was locked


def remove(place: Path) -> None:
    """Remove a file or a folder, as far as that is possible; a link, not what it points to."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            place.unlink()


def sweep(folder: Path, of: str = "") -> None:
    """Remove what dead writers left in a folder; of: only what was to become that name."""
    begin = f".{of[:STEM]}." if of else "."
    with contextlib.suppress(OSError):  # that may be unreadable, or go away
        for found in os.listdir(folder):
            if found.startswith(begin) and found.endswith(NEW):
                _remove_if_dead(folder / found)


def _remove_if_dead(place: Path) -> None:
    with contextlib.suppress(OSError):
        status = os.lstat(place)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return
        is_old = time.time() - status.st_mtime > DAY
        if not exclusive.HAS_LOCKS:
            if is_old:
                remove(place)
            return
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            alone = exclusive.claim(handle)
            if (is_old if alone is None else alone) and exclusive.lies_at(handle, place):
                remove(place)
        finally:
            os.close(handle)
