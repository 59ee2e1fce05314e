"""The precision in which a forward computes, where it casts its arrays inside to one that has less."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .pair import Array, Forward, as_dtype, is_float, run

SINGLE = "the forward computes in float32, whatever its arrays have"
DRAWS = 32  # random directions of one number; of many numbers fewer, but two
# Of the points: a step inside one number of every format but float64; and per format one that moves it by
# some of its numbers, one that moves it by many, and the least noise, of the value's size, that is told.
FINE = 2.0**-44
FORMATS = {"half": (2.0**-8, 2.0**-5, 2.0**-16), "single": (2.0**-20, 2.0**-15, 2.0**-32)}


def computes_in_single(
    who: str, forward: Forward, arrays: Sequence[Any], options: dict[str, Any], seed: int = 0
) -> str:
    """SINGLE of a forward that rounds to float32 inside, "" of one that does not.

    Raises
    ------
    InputError
        The forward computes in half precision, in which no derivative can be measured.
    """
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name = _format(forward, arrays, options, seed)
    except Exception:  # whatever the user's code raises near the points
        return ""
    if name == "half":
        raise InputError(
            f"{who}: the forward computes in half precision, where its value moves in steps too large to"
            " measure a derivative by, expected float32 or float64: leave the cast out while you check"
        )
    return SINGLE if name == "single" else ""


def _format(forward: Forward, arrays: Sequence[Any], options: dict[str, Any], seed: int) -> str:
    """half, single, or "" for what is as precise as float64.

    A value that was rounded inside does not follow a small step: y(x + d) + y(x − d) − 2 y(x), which is d² y″
    of a smooth function, stays as large as one rounding until d is inside one number of the format. There the
    value moves no more than by a large step, in proportion; noise of any other kind moves it far more.
    """
    rng = np.random.default_rng([seed, 11])
    wide = as_dtype(arrays, np.float64)
    draws = max(2, DRAWS // max(sum(np.size(a) for a in wide if is_float(a)), 1))
    signs = [[rng.uniform(-1, 1, a.shape) if is_float(a) else None for a in wide] for _ in range(draws)]
    first = np.asarray(run(forward, wide, options)[0])
    centre = first.astype(np.float64)

    def at(step: float, directions: Sequence[Any]) -> Array:
        moved = [a if u is None else a * (1 + step * u) for a, u in zip(wide, directions)]
        return np.asarray(run(forward, moved, options)[0]).astype(np.float64)

    def bend(step: float, middle: Callable[[Any], Any] = _rms) -> float:
        return float(middle([_rms([at(step, u) + at(-step, u) - 2 * centre]) for u in signs]))

    def slope(step: float, middle: Callable[[Any], Any]) -> float:
        return float(middle([_rms([at(step, u) - at(-step, u)]) / step for u in signs]))

    size = _rms([centre])
    for name, (some, many, least) in FORMATS.items():
        bends = bend(some), bend(some / 4)
        is_noise = bends[0] > least * size and bends[1] > bends[0] / 3
        # the median: now and then a small step does cross a boundary
        is_still = is_noise and 8 * bend(FINE, np.median) < bends[0]
        if is_still and slope(FINE, np.median) <= 2 * slope(many, np.mean):
            return name
    return {2: "half", 4: "single"}.get(first.dtype.itemsize, "") if first.dtype.kind == "f" else ""


def _rms(arrays: Sequence[Any]) -> float:
    """The root mean square of all elements."""
    return float(np.sqrt(np.mean([np.square(a) for a in arrays])))
