"""Derivatives of a forward that owe nothing to its backward: the complex step, and central differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import DType, checked
from ..errors import InputError
from .pair import Array, Forward, expect_taken, is_float, run
from .steps import Quotient, Steps, own_sizes, rms

H = 1e-30
SEEN = 0.1  # of both witnesses together: differences that may be off by more expose nothing
WORSE = 8  # times the error of the best step: smaller ones are not tried any more
Arrays = Sequence[Any]
Directions = Sequence[Array | None]
Options = dict[str, Any]


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def along(forward: Forward, arrays: Arrays, directions: Directions, options: Options) -> Array:
    """J v: the derivative of the forward along the directions, by the complex step.

        J v = Im f(x + ihv) / h        because f(x + ihv) = f(x) + ihJv − …, and nothing is subtracted

    Source: Squire and Trapp 1998.

    Parameters
    ----------
    forward : callable
        forward(*arrays, **options) → (y, saved), of complex arrays too.
    arrays : sequence of arrays
        Where the derivative is taken.
    directions : sequence of arrays
        v: one per array, None for those that stay.
    options : dict
        Passed on to the forward.

    Returns
    -------
    ndarray
        J v, of y's shape.

    Examples
    --------
    >>> import numpy as np
    >>> along(lambda x: (x**3, None), [np.array([1.0, 2.0])], [np.array([1.0, 1.0])], {})
    array([ 3., 12.])
    """
    expect_directions("along", arrays, directions)
    expect_taken("along", forward, options)
    return imaginary(forward, arrays, directions, options).imag / H


def imaginary(forward: Forward, arrays: Arrays, directions: Directions, options: Options) -> Array:
    """f(x + ihv), of which the imaginary part is h J v; real where the forward lets none through."""
    moved = [a if v is None else a + 1j * (H * v) for a, v in zip(arrays, directions)]
    return np.asarray(run(forward, moved, options)[0])


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def differences(
    forward: Forward, arrays: Arrays, directions: Directions, options: Options, dtype: DType = np.float64
) -> tuple[Array, Array]:
    """J v by central differences, and for each element of it how far they may be off.

        D(h) = (f(x + hv) − f(x − hv)) / 2h         errs by h² f‴/6 …
        R(h) = (4 D(h/2) − D(h)) / 3                errs by h⁴, because the h² cancel
        J v = R(h/2), error = |R(h/2) − R(h)|       fifteen times its own h⁴ term
              + eps (|f(x + hv)| + |f(x − hv)|) / h      the values are rounded
              + eps max|x| |D| / h max|v|                so are the points

    with h = eps^(1/5) times the size of the array, where both kinds of error meet. Where they come out large,
    smaller steps are tried, down to the spacing of floats at the point: the best is kept, and one that
    contradicts a larger step is believed, for that may have gone past all that the function does near x.
    Where D grows as h falls, or the values do not move any more, a step says nothing. Where the array is so
    small that its steps are lost in the rounding of f, larger ones are tried, up to eps^(1/5): a derivative
    from one of these is taken only if it lies within the errors of both, so that a step across the
    function's features is not. Where f has a kink at x itself its one-sided derivatives stay apart however
    small h is: half their distance is added. One element alone is moved to points that are floats.

    Sources: Richardson 1911; Ridders 1982.

    Parameters
    ----------
    forward, arrays, directions, options
        As in along; the forward sees real numbers only.
    dtype : dtype, default float64
        In which the forward is run.

    Returns
    -------
    derivative, error : ndarray
        J v and how far each element of it may be off, both of y's shape; long double where dtype is, else
        float64.

    Examples
    --------
    >>> import numpy as np
    >>> slope, error = differences(lambda x: (abs(x), None), [np.array([0.0, 1.0])], [np.ones(2)], {})
    >>> slope.round(9), error.round(9)      # at the kink of |x| it knows nothing
    (array([0., 1.]), array([1., 0.]))
    >>> slope, error = differences(lambda x: (1 + x, None), [np.array([1e-12])], [np.ones(1)], {})
    >>> bool(abs(slope - 1) <= error), bool(error < 1e-9)      # 1 + x hides a step of 1e-15
    (True, True)
    """
    expect_directions("differences", arrays, directions)
    expect_taken("differences", forward, options)
    if np.dtype(dtype).kind != "f":
        raise InputError(f"differences: dtype is {np.dtype(dtype)}, expected real floats such as float64")
    if all(v is None for v in directions):
        raise InputError("differences: no array has a direction, expected one at least")
    eps = float(np.finfo(dtype).eps)
    arrays = [np.asarray(a, dtype) if is_float(a) else a for a in arrays]
    moving = [(a, v) for a, v in zip(arrays, directions) if v is not None]
    steps = Steps.of(moving, np.dtype(dtype))
    value = values_along(forward, arrays, directions, options, dtype)
    target = 1e3 * eps**0.8
    with np.errstate(all="ignore"):
        centre = value(0.0)

        def at(h: float) -> Quotient:
            return Quotient.at(value, centre, h, eps, steps)

        best = at(steps.first)
        for k, h in enumerate(steps.smaller):
            is_open = ~(best.error <= target * abs(best.slope).max(initial=0.0) + 2 * best.floor)
            if not is_open.any() or (k >= steps.count and np.isfinite(best.error).all()):
                break
            other = at(h)
            is_worse = np.isfinite(other.error) & (other.error > WORSE * best.error)
            if is_worse[is_open].all():  # rounding has taken over
                break
            best = best.or_smaller(other)
        for h in steps.larger:
            if (best.error <= target * abs(best.slope).max(initial=0.0)).all():
                break
            best = best.or_larger(at(h))
    return best.slope, best.error


def values_along(
    forward: Forward, arrays: Arrays, directions: Directions, options: Options, dtype: DType
) -> Callable[[float], Array]:
    """t → the forward's value at x + t v, run in dtype; in float64 or what is wider."""
    wide = np.result_type(dtype, np.float64)
    arrays = [np.asarray(a, dtype) if is_float(a) else a for a in arrays]

    def value(t: float) -> Array:
        moved = [a if v is None else (a + t * v).astype(dtype) for a, v in zip(arrays, directions)]
        return np.asarray(run(forward, moved, options)[0]).astype(wide)

    return value


@dataclass(frozen=True)
class Witness:
    """Where a forward's derivative comes from: the complex step, or central differences."""

    forward: Forward
    options: Options
    complex: bool
    dtype: np.dtype[Any]
    why: str = ""  # the complex step was not taken

    @property
    def name(self) -> str:
        """What a report calls it."""
        return "the complex step in float64" if self.complex else f"central differences in {self.dtype}"

    def __str__(self) -> str:
        step = float(np.finfo(self.dtype).eps) ** 0.2
        return (
            self.name if self.complex else f"{self.name}, steps of {step:.0e} of an argument's size or less"
        )

    def derivative(self, arrays: Arrays, directions: Directions) -> tuple[Array, Array]:
        """J v and its error, both of y's shape; the complex step errs by rounding only, which counts as 0."""
        if not self.complex:
            return differences(self.forward, arrays, directions, self.options, self.dtype)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            derivative = along(self.forward, arrays, directions, self.options)
        return derivative, np.zeros_like(derivative)


def choose(forward: Forward, arrays: Arrays, dtype: DType, options: Options, seed: int = 0) -> Witness:
    """The best Witness that the forward allows at the arrays; dtype: one that it is known to take.

    A forward that raises on complex numbers, or returns real ones, does not take them. One that loses
    imaginary parts on the way (np.abs, np.var, a cast) is exposed by differences: where the two disagree by
    more than differences may be off, the differences are believed, for they are made of the function's own
    values.
    """
    rng = np.random.default_rng([seed, 4])
    real = np.dtype(np.float64)
    wide = [np.asarray(a, np.float64) if is_float(a) else a for a in arrays]
    if dtype != real and not _takes_float64(forward, wide, options):
        return Witness(forward, options, False, np.dtype(dtype), "the forward does not take float64")
    for i, array in enumerate(wide):
        if is_float(array) and array.size:
            why = _loses_imaginary_parts(forward, wide, i, options, rng)
            if why:
                return Witness(forward, options, False, real, why)
    return Witness(forward, options, True, real)


def _takes_float64(forward: Forward, wide: Arrays, options: Options) -> bool:
    """Whether the forward gives float64 for float64."""
    try:
        return bool(np.asarray(run(forward, wide, options)[0]).dtype == np.float64)
    except Exception:  # whatever the user's code raises means that it does not take float64
        return False


def _loses_imaginary_parts(
    forward: Forward,
    wide: Arrays,
    i: int,
    options: Options,
    rng: np.random.Generator,
    elsewhere: bool = False,
) -> str:
    """Why the complex step along array i cannot be used, "" where it can.

    Where differences know too little at the points, they are asked elsewhere: at numbers that are easy.
    """
    # By as much for all elements, and by as much as each allows. Differences may agree with each other by
    # accident, but not twice in one element.
    lost: dict[int, Any] = {}
    is_seen: Any = False
    for k, size in enumerate((np.full(wide[i].shape, max(rms(wide[i]), 1e-3)), own_sizes(wide[i])) * 2):
        directions: list[Array | None] = [None] * len(wide)
        directions[i] = rng.choice([-1.0, 1.0], wide[i].shape) * size
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                y = imaginary(forward, wide, directions, options)
        except Exception as error:
            if elsewhere:
                return ""
            reason = (str(error).splitlines() or [""])[0]
            return f"the forward does not take complex numbers ({type(error).__name__}: {reason[:80]})"
        if y.dtype.kind != "c":
            return "the forward does not let complex numbers through: its value is real"
        step = y.imag / H
        central, doubt = differences(forward, wide, directions, options)
        apart = abs(step - central) > 100 * doubt + 1e-5 * (abs(step) + abs(central))
        lost[k % 2] = lost.get(k % 2, True) & apart
        is_seen = is_seen | (100 * doubt <= SEEN * (abs(step) + abs(central)))
    if not any(map(np.any, lost.values())):
        if elsewhere or np.all(is_seen):
            return ""
        points = [rng.standard_normal(b.shape) if is_float(b) else b for b in wide]
        return _loses_imaginary_parts(forward, points, i, options, rng, elsewhere=True)
    return (
        "the forward does not let complex numbers through: central differences show that it loses imaginary"
        " parts on the way (np.abs, np.var, a cast)"
    )


def expect_directions(who: str, arrays: Arrays, directions: Directions) -> None:
    """Raise InputError unless there is a direction of its shape, or None, for each array."""
    shapes = [np.shape(a) for a in arrays]
    theirs = [None if v is None else np.shape(v) for v in directions]
    if len(shapes) != len(theirs) or any(v not in (None, s) for v, s in zip(theirs, shapes)):
        raise InputError(
            f"{who}: the directions have the shapes {theirs}, expected those of the arrays, {shapes}, or None"
        )
