"""Readers of folders that a save may replace at the same moment: what is read is of one state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from .atomic import OLD, StrPath, beside
from .temporary import WHOLE

LOOKS = 8  # for a folder that a save may be swapping
PATIENCE = 10.0  # seconds in which a folder that is replaced again and again is tried to be read

Result = TypeVar("Result")


def place_of(folder: Path, name: str) -> Path | None:
    """Where a folder with a file of this name lies: in its place or, while a save swaps it, in or beside it.

    If a save was killed, what it left there is taken; nothing is moved.
    """
    for _ in range(LOOKS):  # between a look at the one and a look at the other the swap may end
        for place in (folder / WHOLE, folder, beside(folder, OLD)):
            if (place / name).is_file():
                return place
    return None


def one_state(folder: StrPath, find: Callable[[StrPath], Path], read: Callable[[Path], Result]) -> Result:
    """read(place) of the folder or file that find(folder) names, from one state of it.

    Whoever saves at this moment swaps the folder: then what was read, or what was missing, counts for
    nothing, and it is read again.
    """
    deadline = time.monotonic() + PATIENCE
    pause = 0.001
    while True:
        place = find(folder)
        before = _stamp(place)
        try:
            result = read(place)
        except (InputError, FileNotFoundError):
            if before is not None and before == _stamp(place):
                raise
        else:
            if before is not None and before == _stamp(place):
                return result
        if time.monotonic() > deadline:
            raise InputError(
                f"{folder}: was replaced again and again while it was read, expected it to stay: try again"
                " later"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.1)  # ever longer, so as not to keep step with the run


def _stamp(place: Path) -> Any:
    """What tells a folder, or a file, from the one that replaces it; None once it is gone or about to go."""
    successor = place.name.removeprefix(".").removesuffix(OLD)
    if place.name.endswith(OLD) and place.with_name(successor).exists():
        return None
    try:
        paths = [place, *sorted(place.iterdir())] if place.is_dir() else [place]
        stats = [os.stat(path) for path in paths]
        if (place / WHOLE).exists():  # it is being filled
            return None
    except FileNotFoundError:
        return None
    # The times, because a new file may get the number of an old one.
    return [(path.name, stat.st_ino, stat.st_mtime_ns) for path, stat in zip(paths, stats)]
