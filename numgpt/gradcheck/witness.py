"""Derivatives of a forward that owe nothing to its backward: the complex step, and central differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..arguments import checked
from ..errors import InputError
from .pair import Array, Forward, is_float, run

H = 1e-30
# Steps that are too large for the function are tried again, smaller by SHRINK; those that are too small for
# its values, larger.
TRIES, LARGER, SHRINK = 4, 12, 64
SMALLEST = 1e-290  # a size whose steps are still numbers
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
    moved = [a if v is None else a + 1j * (H * v) for a, v in zip(arrays, directions)]
    return np.asarray(run(forward, moved, options)[0]).imag / H


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def differences(
    forward: Forward, arrays: Arrays, directions: Directions, options: Options, dtype: DTypeLike = np.float64
) -> tuple[Array, Array]:
    """J v by central differences, and for each element of it how far they may be off.

        D(h) = (f(x + hv) − f(x − hv)) / 2h         errs by h² f‴/6 …
        R(h) = (4 D(h/2) − D(h)) / 3                errs by h⁴, because the h² cancel
        J v = R(h/2), error = |R(h/2) − R(h)|       fifteen times its own h⁴ term
              + eps (|f(x + hv)| + |f(x − hv)|) / h      the values are rounded
              + eps max|x| |D| / h max|v|                so are the points

    with h = eps^(1/5) times the size of the array, where both kinds of error meet. Where they come out large,
    smaller steps are tried and the best is kept. Where the array is so small that its steps are lost in the
    rounding of f, larger ones are tried, up to eps^(1/5): a derivative from one of these is taken only if it
    lies within the errors of both, so that a step across the function's features is not. Where f has a kink
    at x itself its one-sided derivatives stay apart however small h is: half their distance is added.

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
    if np.dtype(dtype).kind != "f":
        raise InputError(f"differences: dtype is {np.dtype(dtype)}, expected real floats such as float64")
    if all(v is None for v in directions):
        raise InputError("differences: no array has a direction, expected one at least")
    eps = float(np.finfo(dtype).eps)
    arrays = [np.asarray(a, dtype) if is_float(a) else a for a in arrays]
    moving = [(a, v) for a, v in zip(arrays, directions) if v is not None]
    largest = max((float(abs(a).max(initial=0.0)) for a, _ in moving), default=0.0)
    reach = max(float(abs(v).max(initial=0.0)) for _, v in moving) or 1.0
    size = max(step_size(a, v) for a, v in moving) or 1.0
    value = values_along(forward, arrays, directions, options, dtype)
    target = 1e3 * eps**0.8

    def at(h: float) -> tuple[Array, Array, Array]:
        return _extrapolated(value, centre, h, eps, eps * largest / reach)

    with np.errstate(all="ignore"):
        centre = value(0.0)
        first = eps**0.2 * max(size, SMALLEST) / reach
        derivative, error, floor = at(first)
        for h in _smaller(first, eps**0.2 * own_size(moving) / reach):
            if (error <= target * abs(derivative).max(initial=0.0) + 2 * floor).all():
                break
            other, its_error, floor = at(h)
            better = its_error < error
            derivative, error = np.where(better, other, derivative), np.where(better, its_error, error)
        for h in _larger(first, eps**0.2 / reach):
            if (error <= target * abs(derivative).max(initial=0.0)).all():
                break
            other, its_error, _ = at(h)
            better = (its_error < error) & (abs(other - derivative) <= error + its_error)
            derivative, error = np.where(better, other, derivative), np.where(better, its_error, error)
    return derivative, error


def values_along(
    forward: Forward, arrays: Arrays, directions: Directions, options: Options, dtype: DTypeLike
) -> Callable[[float], Array]:
    """t → the forward's value at x + t v, run in dtype; in float64 or what is wider."""
    wide = np.result_type(dtype, np.float64)
    arrays = [np.asarray(a, dtype) if is_float(a) else a for a in arrays]

    def value(t: float) -> Array:
        moved = [a if v is None else (a + t * v).astype(dtype) for a, v in zip(arrays, directions)]
        return np.asarray(run(forward, moved, options)[0]).astype(wide)

    return value


def _smaller(step: float, own: float) -> list[float]:
    """Steps that shrink, and the one of the element that moves where that is smaller yet."""
    steps = [step / SHRINK**k for k in range(1, TRIES)]
    return [*steps, own] if 0 < own < steps[-1] else steps


def _larger(step: float, largest: float) -> Array:
    """Steps that grow by SHRINK, or by more where the largest is far."""
    if not step < largest:  # NaN where the points are not finite
        return np.zeros(0)
    count = int(np.ceil((np.log(largest) - np.log(step)) / np.log(SHRINK)))
    return np.geomspace(step, largest, min(LARGER, count) + 1)[1:]


def _extrapolated(
    value: Callable[[float], Array], centre: Array, h: float, eps: float, blur: float
) -> tuple[Array, Array, Array]:
    """(J v, its error, what rounding has in that) by one triple of steps h, h/2, h/4; blur: of the points."""
    centrals, bends = [], []
    floor = np.zeros_like(centre)
    for t in (h, h / 2, h / 4):
        ahead, behind = value(t), value(-t)
        centrals.append((ahead - behind) / (2 * t))
        bends.append(abs(ahead - 2 * centre + behind) / (2 * t))
        rounded = eps * (abs(ahead) + abs(behind) + 2 * abs(ahead - behind)) / t
        floor = rounded + blur * abs(centrals[-1]) / t
    coarse = (4 * centrals[1] - centrals[0]) / 3
    fine = (4 * centrals[2] - centrals[1]) / 3
    has_kink = bends[2] > 0.75 * bends[0]  # the bend of a smooth function falls to a quarter
    error = abs(fine - coarse) + floor + np.where(has_kink, bends[2], 0.0)
    return fine, np.where(np.isfinite(error), error, np.inf), floor


def step_size(array: Array, direction: Array) -> float:
    """What a step is measured by: the root mean square, or the one element that moves where that is more."""
    if np.count_nonzero(direction) == 1:
        return max(_rms(array), float(abs(array[direction != 0]).max(initial=0.0)))
    return _rms(array)


def own_size(moving: Sequence[tuple[Array, Array]]) -> float:
    """The size of the one element that moves, 0 where several do."""
    sizes = [abs(a[v != 0]) for a, v in moving]
    return float(sizes[0][0]) if len(sizes) == 1 and sizes[0].size == 1 else 0.0


def _rms(array: Array) -> float:
    """The root of the mean square, 0 for an empty array; squares do not underflow."""
    largest = float(abs(np.asarray(array, np.float64)).max(initial=0.0))
    if not 0 < largest < np.inf:
        return largest
    return largest * float(np.sqrt(((np.asarray(array, np.float64) / largest) ** 2).mean()))


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


def choose(forward: Forward, arrays: Arrays, dtype: DTypeLike, options: Options, seed: int = 0) -> Witness:
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
    forward: Forward, wide: Arrays, i: int, options: Options, rng: np.random.Generator
) -> str:
    """Why the complex step along array i cannot be used, "" where it can."""
    lost: Any = True
    for _ in range(2):  # differences may agree with each other by accident, but not twice in one element
        directions: list[Array | None] = [None] * len(wide)
        directions[i] = rng.choice([-1.0, 1.0], wide[i].shape) * max(_rms(wide[i]), 1e-3)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                moved = [b if v is None else b + 1j * (H * v) for b, v in zip(wide, directions)]
                y = np.asarray(run(forward, moved, options)[0])
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            return f"the forward does not take complex numbers ({type(error).__name__}: {reason[:80]})"
        if y.dtype.kind != "c":
            return "the forward does not let complex numbers through: its value is real"
        step = y.imag / H
        central, doubt = differences(forward, wide, directions, options)
        lost = lost & (abs(step - central) > 100 * doubt + 1e-5 * (abs(step) + abs(central)))
    if not np.any(lost):
        return ""
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
