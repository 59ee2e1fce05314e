"""What a page keeps of a trace that is too large: some blocks, and of the rest norms and largest entries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..traces import Trace

WARNED, MOST = 8_000_000, 32_000_000  # bytes of a page
WHOLE = 65_536  # numbers of an array that belongs to no block, and is kept whole beside chosen blocks
LARGEST = 24  # entries that are kept of an array that is not
BLOCK = re.compile(r"h\.(\d+)(?:\.|$)")


def block_of(name: str) -> int | None:
    """The number of the block that a name belongs to; None for none."""
    match = BLOCK.match(name)
    return int(match[1]) if match else None


def whole(trace: Trace, blocks: Sequence[int] | None) -> set[str]:
    """The names whose arrays are kept whole; InputError for a block that is not there."""
    if blocks is None:
        return set(trace.names)
    there = sorted({n for n in map(block_of, trace.names) if n is not None})
    for n in blocks:
        if n not in there:
            known = f"some of 0 to {there[-1]}" if there else "none, as the trace has no blocks"
            raise InputError(f"explore: blocks has {n}, expected {known}")
    chosen: set[int | None] = set(blocks)
    return {name for name in trace.names if _is_kept(trace, name, chosen)}


def _is_kept(trace: Trace, name: str, chosen: set[int | None]) -> bool:
    block = block_of(name)
    if block is not None:
        return block in chosen
    return (trace.value.get(name, trace.grad.get(name))).size <= WHOLE  # type: ignore[union-attr]


def largest(arrays: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of value and gradient that are largest in size: half of them by the one, half by the other.

    arrays: "value" and "grad", of one shape, either of which may be None.
    """
    given = {which: np.asarray(array) for which, array in arrays.items() if array is not None}
    places: dict[int, None] = {}
    for array in given.values():
        size = np.nan_to_num(np.abs(array.reshape(-1)), nan=np.inf)
        n = min(size.size, LARGEST // len(given))
        top: list[int] = np.argpartition(size, size.size - n)[size.size - n :].tolist() if n else []
        places |= dict.fromkeys(sorted(top, key=lambda place: -size[place]))
    entries = []
    for place in places:
        entry: dict[str, Any] = {"index": [], "value": None, "grad": None}
        for which, array in given.items():
            entry["index"] = [int(i) for i in np.unravel_index(place, array.shape)]
            entry[which] = float(array.reshape(-1)[place])
        entries.append(entry)
    return entries
