"""What a wrong gradient looks like: the words that lead to the line at fault."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .pair import Array

Shape = tuple[int, ...]


class Sample(NamedTuple):
    """The elements of a gradient that were looked at, at least one of them wrong."""

    picked: Array  # their flat indices
    expected: Array
    got: Array
    limit: Array  # how far each may be off
    wrong: Array  # which of them are
    shape: Shape  # of the whole gradient


def pattern(sample: Sample, result: Shape) -> str:
    """A gradient's mistake in words, or "" where it looks like nothing known; result: the shape of y."""
    got = sample.got[sample.wrong]
    if not np.isfinite(got).all():
        return "NaN or infinity is among them"
    if not got.any():
        return "they are zero"
    return _factor(sample, result) or _transposed(sample) or _place(sample) or _shift(sample)


def _factor(sample: Sample, result: Shape) -> str:
    """got = factor · expected for all that are wrong, at least two."""
    expected, got, limit = (a[sample.wrong] for a in (sample.expected, sample.got, sample.limit))
    size = abs(expected)
    strong = (size > 0.1 * size.max(initial=0.0)) & (size > limit)
    if len(expected) < 2 or not expected[strong].any():
        return ""
    factor = float(np.median(got[strong] / expected[strong]))
    room = 2 * (1 + abs(factor)) * limit + 1e-3 * abs(1 - factor) * size
    if not factor or (abs(got - factor * expected) > room).any():
        return ""
    if abs(factor + 1) < 1e-6:
        return "the sign is flipped"
    return _known_factor(factor, sample.shape, result) or _unknown_factor(factor)


def _known_factor(factor: float, shape: Shape, result: Shape) -> str:
    """2, 3, a number that a sum may run over, or one over these."""
    sizes = {n: f"{n} is the length of an axis" for n in (*shape, *result)}
    sizes.setdefault(math.prod(shape), f"{math.prod(shape)} is the number of elements")
    sizes.setdefault(math.prod(result), f"{math.prod(result)} is the number of outputs")
    for n in (2, 3, *sizes):
        why = f" ({sizes[n]}: a mean for a sum, or the reverse)" if n in sizes and n > 3 else ""
        for value, text in ((n, f"×{n}"), (1 / n, f"×1/{n}")):
            if n > 1 and abs(factor / value - 1) < 1e-5:
                return f"all of them {text}{why}"
    return ""


def _unknown_factor(factor: float) -> str:
    if abs(factor - 1) > 1e-3:
        return f"all of them ×{factor:.9g}"
    return f"all of them ×(1 {factor - 1:+.2g})"


def _transposed(sample: Sample) -> str:
    """The last two axes exchanged, or an axis reversed; told only where all elements were looked at."""
    shape = sample.shape
    if len(sample.picked) != math.prod(shape):
        return ""
    expected, got, limit = (a.reshape(shape) for a in (sample.expected, sample.got, sample.limit))
    is_square = expected.ndim >= 2 and shape[-1] == shape[-2]
    if is_square and (abs(got.swapaxes(-1, -2) - expected) <= 2 * (limit + limit.swapaxes(-1, -2))).all():
        return "it is transposed"
    for axis in range(expected.ndim):
        if (abs(np.flip(got, axis) - expected) <= 2 * (limit + np.flip(limit, axis))).all():
            return f"axis {axis} is reversed"
    return ""


def _place(sample: Sample) -> str:
    """All wrong elements in one row, column or other slice."""
    shape, wrong = sample.shape, sample.picked[sample.wrong]
    if len(wrong) == 1:
        return "the others are right" if math.prod(shape) > 1 else ""
    shared = [
        f"index {places[0]} of axis {axis}"
        for axis, places in enumerate(np.unravel_index(wrong, shape))
        if shape[axis] > 1 and (places == places[0]).all()
    ]
    return f"all of them at {' and '.join(shared)}" if shared else ""


def _shift(sample: Sample) -> str:
    """got = expected + a number: a term that does not depend on the element is missing, or one too many."""
    off = (sample.got - sample.expected)[sample.wrong]
    if len(off) < 2:
        return ""
    shift = float(np.median(off))
    room = 2 * sample.limit[sample.wrong] + 1e-6 * abs(shift)
    return f"all of them {shift:+.6g}" if (abs(off - shift) <= room).all() else ""
