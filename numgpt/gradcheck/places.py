"""Where elements lie in an array, in words; and arrays of which a gradient tells little."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from .pair import Array

RANGES = 4  # of indices, before a list is shortened


def reached(is_missing: Array, is_needed: Array | None = None) -> str:
    """How much of an array a gradient reaches, and where the rest lies: "12 of 24 elements reached".

    is_needed: the elements that have a gradient other than 0; all unless given.
    """
    size = is_missing.size if is_needed is None else int(np.count_nonzero(is_needed))
    count = int(np.count_nonzero(is_missing))
    if count == size:
        return "not reached" if size == 1 else f"none of its {size:,} elements reached"
    return f"{size - count:,} of {size:,} elements reached, but not {place(is_missing)}"


def place(is_missing: Array) -> str:
    """Where the chosen elements lie: whole slices of the array, else their rows, else the first of them."""
    for axis in range(is_missing.ndim):
        others = tuple(a for a in range(is_missing.ndim) if a != axis)
        chosen = np.asarray(is_missing.any(others))
        if int(chosen.sum()) * (is_missing.size // max(len(chosen), 1)) == int(is_missing.sum()):
            return f"{_ranges(np.flatnonzero(chosen))} of axis {axis}"
    if is_missing.ndim > 1:
        rows = np.asarray(is_missing.all(-1))
        if int(rows.sum()) * is_missing.shape[-1] == int(is_missing.sum()):
            return f"{int(rows.sum()):,} of its {rows.size:,} rows, such as {index(rows)}"
    count = int(np.count_nonzero(is_missing))
    return index(is_missing) if count == 1 else f"{count:,} elements such as {index(is_missing)}"


def index(chosen: Array) -> str:
    """The index of the first of the chosen elements, as NumPy would take it."""
    at = np.unravel_index(int(np.argmax(chosen)), np.shape(chosen))
    return f"[{', '.join(map(str, at))}]" if at else "its value"


def _ranges(indices: Array) -> str:
    """Indices as ranges: "index 3", "indices 0–7, 9"."""
    cuts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(indices)) if b != a + 1), len(indices)]
    runs = [(indices[i], indices[j - 1]) for i, j in pairwise(cuts)]
    parts = [f"{a}" if a == b else f"{a}–{b}" for a, b in runs[:RANGES]]
    more = f" and {len(runs) - RANGES:,} more" if len(runs) > RANGES else ""
    return f"{'index' if len(indices) == 1 else 'indices'} {', '.join(parts)}{more}"


def degenerate(array: Any) -> str:
    """Why values say little about a gradient, "" where they do not: all zero, all equal, or constant rows.

    A norm of a constant row is 0 whatever its scale, a maximum of equal values has many places, and products
    with zeros are 0 on both sides.
    """
    a = np.asarray(array)
    if a.size < 2 or a.dtype.kind not in "fc":
        return ""
    if not a.any():
        return "is 0 everywhere"
    if (a == a.flat[0]).all():
        return f"is {a.flat[0]:g} everywhere"
    if a.ndim > 1 and a.shape[-1] > 1:
        constant = (a == a[..., :1]).all(-1)
        count = int(constant.sum())
        if count:
            return f"is constant along its last axis in {count:,} of {math.prod(a.shape[:-1]):,} rows"
    return ""
