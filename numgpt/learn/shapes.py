"""A result of another shape than its array: which axes were turned, kept or not summed over."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .exercise import Array, Exercise
from .verdict import Finding


class Fitted(NamedTuple):
    """A result brought to the right shape, if that can be done, and the finding that says how."""

    array: Array | None
    finding: Finding


def in_another_order(
    exercise: Exercise, results: Mapping[str, Array], expected: Mapping[str, Array]
) -> Finding | None:
    """A finding where the results are those expected, but in another order."""
    names = list(expected)
    if all(_is(results[n], expected[n]) for n in names):
        return None
    fitting = [[a for a in names if _is(results[a], expected[b])] for b in names]
    for order in itertools.product(*fitting):  # all permutations of nine results would take minutes
        if list(order) != names and len(set(order)) == len(names):
            given = ", ".join(names[order.index(n)] for n in names)
            says = f"{exercise.fill} returns {given}, expected the order {', '.join(names)}"
            return Finding(f"{exercise.prefix}_ORDER", says)
    return None


def _is(got: Array, expected: Array) -> bool:
    """Whether a result is one of those expected, and not 0, as many are."""
    return got.shape == expected.shape and bool(expected.any()) and np.allclose(got, expected)


def fitted(
    exercise: Exercise, name: str, got: Array, expected: Array, numbers: Mapping[str, float]
) -> Fitted:
    """A result of the wrong shape, and what was done to it."""
    letters = {int(size): letter for letter, size in numbers.items() if letter in exercise.sizes}
    array, kind, how = _repaired(got, expected, letters)
    wanted = exercise.gradients[name]
    axes = f" ({', '.join(wanted)})" if wanted else ""
    says = f"{name} has shape {got.shape}, expected {expected.shape}{axes}{how}"
    code = f"{exercise.prefix}_{exercise.original(name).upper()}_{kind}"
    shapes = {"got": list(got.shape), "want": list(expected.shape)}
    return Fitted(array, Finding(code, says, name, shapes))


def _repaired(got: Array, expected: Array, letters: Mapping[int, str]) -> tuple[Array | None, str, str]:
    """(the result in the right shape or None, the kind of mistake, the end of a sentence on it)."""
    want = expected.shape
    for axes in itertools.permutations(range(got.ndim)) if got.ndim == len(want) else ():
        if got.transpose(axes).shape == want and np.allclose(got.transpose(axes), expected):
            return got.transpose(axes), "TRANSPOSED", ": its axes are in another order"
    squeezed = tuple(n for n in got.shape if n != 1)
    if got.ndim >= 2 and got.shape[::-1] == want:
        return got.T, "TRANSPOSED", ": it is transposed"
    if got.ndim >= 2 and (*got.shape[:-2], got.shape[-1], got.shape[-2]) == want:
        return got.swapaxes(-1, -2), "TRANSPOSED", ": its last two axes are swapped"
    if squeezed == want and got.ndim > len(want):
        return got.reshape(want), "KEEPDIMS", ": axes that were summed over are kept, of size 1"
    extra = got.ndim - len(want)
    if extra > 0 and got.shape[extra:] == want:
        over = " and ".join(letters.get(n, f"the axis of size {n}") for n in got.shape[:extra])
        return got.sum(tuple(range(extra))), "NOT_SUMMED", f": it is not yet summed over {over}"
    if extra > 0 and got.swapaxes(-1, -2).shape[extra:] == want:
        turned = got.swapaxes(-1, -2).sum(tuple(range(extra)))
        return turned, "NOT_SUMMED", ": it is not yet summed over the leading axes, and transposed"
    if got.size == expected.size:
        return got.reshape(want), "RESHAPED", ": the numbers are as many, so reshape it"
    try:
        spread = np.broadcast_to(got, want).copy()
    except ValueError:
        return None, "SHAPE", ""
    over = " and ".join(letters.get(n, f"the axis of size {n}") for n in want[: len(want) - got.ndim])
    return spread, "REDUCED", f": it is summed over {over or 'an axis'}, which it should keep"
