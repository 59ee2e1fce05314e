"""How much memory is free, so that what does not fit is refused before it is allocated.

Linux grants more than there is, and ends the process when it is used.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError

SMALL = 1 << 26  # bytes for which nobody looks
PROC = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of a container: its own, as it sees it


def free() -> int | None:
    """Bytes that may still be used, swap among them; None where the system does not say, as off Linux."""
    limits = [n for n in (_machine(), _container()) if n is not None]
    return min(limits) if limits else None


def total() -> int | None:
    """Bytes that the machine has, without its swap; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _machine() -> int | None:
    numbers = _numbers(PROC)
    if "MemAvailable:" not in numbers:
        return None
    return 1024 * (numbers["MemAvailable:"] + numbers.get("SwapFree:", 0))


def _container() -> int | None:
    """What the container's limit leaves, in either version of cgroups; cached files count as free."""
    for limit, used, folder in (
        ("memory.max", "memory.current", CGROUP),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", CGROUP / "memory"),
    ):
        try:
            most, now = (int((folder / name).read_text("ascii")) for name in (limit, used))
        except (OSError, ValueError):  # none, or "max"
            continue
        stat = _numbers(folder / "memory.stat")
        return max(0, most - now + stat.get("inactive_file", 0) + stat.get("active_file", 0))
    return None


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line that has one, by the word before it."""
    try:
        lines = [line.split() for line in path.read_text("ascii", errors="replace").splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def expect_room(what: str, size: int) -> None:
    """Raise InputError where so many bytes are not free."""
    room = free() if size > SMALL else None
    if room is not None and size > room:
        raise InputError(
            f"{what} do not fit in memory ({size / 1e9:,.1f} GB are needed, {room / 1e9:,.1f} GB are free),"
            " expected fewer: choose a smaller model"
        )
