"""What a wrong gradient looks like: the words that lead to the line at fault."""

import math

import numpy as np


def pattern(expected, got, limit, wrong, picked, shape, result):
    """A gradient's mistake in words, or "" where it looks like nothing known.

    expected, got, limit, wrong: of the elements with the flat indices picked, of an array of a shape; result:
    the shape of y.
    """
    if not np.isfinite(got[wrong]).all():
        return "NaN or infinity is among them"
    if not got[wrong].any():
        return "they are zero"
    whole = len(picked) == math.prod(shape)
    return (
        _factor(expected, got, limit, wrong, shape, result)
        or (whole and _transposed(expected.reshape(shape), got.reshape(shape), limit.reshape(shape)))
        or _place(picked[wrong], shape)
        or _shift(expected, got, limit, wrong)
        or ""
    )


def _factor(expected, got, limit, wrong, shape, result):
    """got = factor · expected for all that are wrong, of which there are at least two."""
    e, g = expected[wrong], got[wrong]
    strong = (abs(e) > 0.1 * abs(e).max(initial=0.0)) & (abs(e) > limit[wrong])
    if len(e) < 2 or not e[strong].any():
        return ""
    factor = float(np.median(g[strong] / e[strong]))
    off = abs(g - factor * e)
    if not factor or (off > 2 * (1 + abs(factor)) * limit[wrong] + 1e-3 * abs(1 - factor) * abs(e)).any():
        return ""
    if abs(factor + 1) < 1e-6:
        return "the sign is turned"
    sizes = {n: f"{n} is the length of an axis" for n in (*shape, *result)}
    sizes |= {
        n: f"{n} is the number of {what}"
        for n, what in ((math.prod(shape), "elements"), (math.prod(result), "outputs"))
        if n not in sizes
    }
    for n in (2, 3, *sizes):
        why = f" ({sizes[n]}: a mean for a sum, or the reverse)" if n in sizes and n > 3 else ""
        for value, text in ((n, f"×{n}"), (1 / n, f"×1/{n}")):
            if n > 1 and abs(factor / value - 1) < 1e-5:
                return f"all of them {text}{why}"
    return f"all of them ×{factor:.9g}" if abs(factor - 1) > 1e-3 else f"all of them ×(1 {factor - 1:+.2g})"


def _transposed(expected, got, limit):
    """The last two axes exchanged, or an axis the wrong way round."""
    if expected.ndim >= 2 and expected.shape[-1] == expected.shape[-2]:
        if (abs(got.swapaxes(-1, -2) - expected) <= 2 * (limit + limit.swapaxes(-1, -2))).all():
            return "it is transposed"
    for axis in range(expected.ndim):
        if (abs(np.flip(got, axis) - expected) <= 2 * (limit + np.flip(limit, axis))).all():
            return f"axis {axis} is the wrong way round"
    return ""


def _place(wrong, shape):
    """All wrong elements in one row, column or other slice."""
    if len(wrong) == 1:
        return "the others are right" if math.prod(shape) > 1 else ""
    places = np.unravel_index(wrong, shape)
    fixed = [
        f"index {place[0]} of axis {axis}"
        for axis, place in enumerate(places)
        if shape[axis] > 1 and (place == place[0]).all()
    ]
    return f"all of them at {' and '.join(fixed)}" if fixed else ""


def _shift(expected, got, limit, wrong):
    """got = expected + a number: a term that does not depend on the element is missing, or one too many."""
    off = (got - expected)[wrong]
    if len(off) < 2:
        return ""
    shift = float(np.median(off))
    return (
        f"all of them {shift:+.6g}"
        if (abs(off - shift) <= 2 * limit[wrong] + 1e-6 * abs(shift)).all()
        else ""
    )
