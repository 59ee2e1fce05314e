"""Folders that are replaced as a whole: by two renames, or filled where a folder cannot be moved."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError
from . import exclusive, temporary
from .atomic import LOCK, OLD, StrPath, beside, explained, flush, make_folder
from .temporary import WHOLE

# Errors by which a system refuses to move a folder: something is mounted there, or in a layer below; the
# folder above is not ours.
FIXED = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)


def replace_folder(
    folder: StrPath, write: Callable[[Path], object], expect: Callable[[Path], None] | None = None
) -> None:
    """Replace a folder, or make it; write(path) fills the new one, under a hidden name of this writer's own.

    A whole folder is in place at every moment but one: between the two renames the old one lies beside its
    place, under its hidden name. If the process is killed there, settle() puts it back.

    A folder that is the working folder of this process, or a mount point, or that lies in a folder which
    cannot be written, stays and is filled. First the new files lie whole in a hidden folder in it, where
    readers take them from; then they replace the old ones, file by file. If the process is killed meanwhile,
    settle() goes on with it.

    Of several writers at once the last one wins, whole: they swap one after the other, under a lock. Where
    there are no locks (Windows, some network disks), two swaps at one moment may end in an error.

    expect(folder) raises InputError if what is there may not be replaced; it is asked before write and after.
    An old folder with a file that the new one lacks stays, and an InputError names the file.
    """
    name, folder = folder, Path(os.path.realpath(folder))  # replace what a link points to, not the link
    make_folder(folder.parent, name)
    with explained(name, "a folder to write to"), _held(folder):
        _settle(folder)
        temporary.sweep(folder.parent, folder.name)
        temporary.sweep(folder)
        if expect is not None and folder.exists():
            expect(folder)
    fills = _is_fixed(folder)
    with contextlib.ExitStack() as stack:
        with explained(name, "a folder to write to"):
            new = stack.enter_context(temporary.made(folder / "save" if fills else folder, folder=True))
        write(new)
        flush(new)
        with _held(folder):
            _settle(folder)
            if expect is not None and folder.exists():
                expect(folder)
            _expect_nothing_lost(folder, new)
            with explained(name, "a folder to write to"):
                _put(new, folder, fills)


def settle(folder: StrPath) -> None:
    """Clean up after a replace_folder that was killed.

    The old folder goes back to its place, or is removed if the new one is there. One that was being filled
    gets the rest of its files.
    """
    folder = Path(os.path.realpath(folder))
    if beside(folder, OLD).exists() or (folder / WHOLE).exists():
        with _held(folder):
            _settle(folder)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Wait for others who swap a folder, and keep them waiting; where no lock can be had, nobody waits."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            place = folder / "save" if _is_fixed(folder) else folder
            stack.enter_context(exclusive.locked(beside(place, LOCK)))
        yield


def _is_fixed(folder: Path) -> bool:
    """Whether a folder is a mount point, or nothing can be renamed in the one above it."""
    return folder.is_dir() and (os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK))


def _is_working_folder(folder: Path) -> bool:
    try:
        return os.path.samefile(folder, os.curdir)
    except FileNotFoundError:  # it was removed
        return False


def _settle(folder: Path) -> None:
    old = beside(folder, OLD)
    if old.exists():
        with contextlib.suppress(OSError):  # a folder in which nothing lies says nothing
            folder.rmdir()
        if folder.exists():
            _discard(old, folder)
        else:
            os.rename(old, folder)
    if (folder / WHOLE).is_dir():
        with temporary.made(folder / "parts", folder=True) as parts:
            _link_all(folder / WHOLE, parts)
            _finish(folder, parts)


def _expect_nothing_lost(folder: Path, new: Path) -> None:
    """Raise InputError if a folder has names that the one which replaces it lacks."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder to replace: choose another name")
    lost = temporary.names(folder) - temporary.names(new)
    if lost:
        raise InputError(
            f"{folder}: has {', '.join(sorted(lost))}, which would be lost: what is to replace it has none."
            " Choose another name"
        )


def _put(new: Path, folder: Path, fills: bool) -> None:
    """Bring a new folder to its place, whatever is there."""
    if fills or _is_working_folder(folder):
        _fill(folder, new)
        return
    old = beside(folder, OLD)
    if folder.exists():
        try:
            os.rename(folder, old)
        except OSError as error:
            if error.errno not in FIXED:
                raise
            _fill(folder, new)
            return
    try:
        os.rename(new, folder)
    except BaseException:
        if old.exists():
            os.rename(old, folder)
        raise
    try:
        flush(folder.parent)
    finally:
        if old.exists():
            _discard(old, folder)


def _fill(folder: Path, new: Path) -> None:
    """Put a new folder's files in the place of those in a folder that stays.

    From one rename on the new state is the folder's: whatever comes after that, settle() can repeat.
    """
    with (
        temporary.made(folder / "whole", folder=True) as whole,
        temporary.made(folder / "parts", folder=True) as parts,
    ):
        _link_all(new, whole)
        _link_all(whole, parts)
        os.rename(whole, folder / WHOLE)
        flush(folder)
        _finish(folder, parts)


def _link_all(source: Path, target: Path) -> None:
    """Link all files of a folder into another; copy them where they cannot be linked."""
    for name in os.listdir(source):
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copy(source / name, target / name)
            with open(target / name, "rb+") as file:
                os.fsync(file.fileno())
    flush(target)


def _finish(folder: Path, parts: Path) -> None:
    for name in os.listdir(parts):
        os.replace(parts / name, folder / name)
    flush(folder)
    _discard(folder / WHOLE, folder / "whole")


def _discard(place: Path, of: Path) -> None:
    """Remove a folder that was beside a path: it vanishes at once, though not its files."""
    left = temporary.name(of)
    try:
        os.rename(place, left)
    except OSError:
        left = place
    shutil.rmtree(left, ignore_errors=True)
