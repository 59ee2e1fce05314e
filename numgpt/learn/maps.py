"""Where a gradient is wrong: along which axes, and in which known sets of elements."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .exercise import Array


def where(
    got: Array, expected: Array, tolerance: float, axes: str, sets: Mapping[str, Array] | None = None
) -> str:
    """In words, which elements are wrong: "" where all are, and there is nothing to see."""
    wrong = ~(abs(got - expected) <= tolerance)
    total = int(wrong.sum())
    if total == 0 or total == wrong.size:
        return ""
    parts = [f"{total} of {wrong.size} elements are wrong"]
    for name, mask in (sets or {}).items():
        inside = np.broadcast_to(mask, wrong.shape)
        if inside.any() and not wrong[~inside].any():
            parts.append(f"all of them in {name}")
            return ", ".join(parts)
    for axis, letter in enumerate(axes):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        places = np.flatnonzero(wrong.any(others))
        if len(places) < wrong.shape[axis]:
            last = " (the last)" if list(places) == [wrong.shape[axis] - 1] else ""
            more = ", …" if len(places) > 6 else ""
            parts.append(f"only at {letter.lower()} = {', '.join(map(str, places[:6]))}{more}{last}")
    return ", ".join(parts)


def place(name: str, index: tuple[int, ...]) -> str:
    """An element by its index: dx[0, 2, 4]."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def lettered(axes: str, index: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The same by the letters of its axes: b = 0, t = 2; an axis of size 1 has been summed over."""
    return ", ".join(f"{letter.lower()} = {i}" for letter, i, n in zip(axes, index, shape) if n > 1)


def worst(got: Array, expected: Array) -> tuple[int, ...]:
    """The index of the element that is furthest off."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(abs(got - expected))), expected.shape))
