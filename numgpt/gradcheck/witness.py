"""Derivatives of a forward in which its backward has no part: the complex step, and central differences that
know their error.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from .pair import is_float

H = 1e-30
TRIES, SHRINK = 4, 64  # steps that are too large for the function are tried again, smaller


def along(forward, arrays, directions, options):
    """J v: the derivative of the forward along the directions, by the complex step.

        J v = Im f(x + ihv) / h        because f(x + ihv) = f(x) + ihJv − …, and nothing is subtracted

    directions: one per array, None for those that stay.  Source: Squire and Trapp 1998.
    """
    moved = [a if v is None else a + 1j * (H * v) for a, v in zip(arrays, directions)]
    return np.asarray(forward(*moved, **options)[0]).imag / H


def differences(forward, arrays, directions, options, dtype=np.float64):
    """J v by central differences, and for each element of it how far they may be off.

        D(h) = (f(x + hv) − f(x − hv)) / 2h         errs by h² f‴/6 …
        R(h) = (4 D(h/2) − D(h)) / 3                errs by h⁴, because the h² cancel
        J v = R(h/2), error = |R(h/2) − R(h)|       fifteen times its own h⁴ term
              + eps (|f(x + hv)| + |f(x − hv)|) / h      the values are rounded
              + eps max|x| |D| / h max|v|                so are the points

    with h = eps^(1/5) times the size of the array, where both kinds of error meet; where they come out large,
    smaller steps are tried and the best is kept. Where f has a kink at x itself its one-sided derivatives
    stay apart however small h is: half their distance is added.
    Sources: Richardson 1911; Ridders 1982.
    """
    eps = float(np.finfo(dtype).eps)
    arrays = [np.asarray(a, dtype) if is_float(a) else a for a in arrays]
    moving = [(a, v) for a, v in zip(arrays, directions) if v is not None]
    largest = max((float(abs(a).max(initial=0.0)) for a, _ in moving), default=0.0)
    reach = max(float(abs(v).max(initial=0.0)) for _, v in moving) or 1.0
    size = (
        max(
            max(_rms(a), float(abs(a[v != 0]).max(initial=0.0)) if np.count_nonzero(v) == 1 else 0.0)
            for a, v in moving
        )
        or 1.0
    )

    def value(t):
        moved = [a if v is None else (a + t * v).astype(dtype) for a, v in zip(arrays, directions)]
        return np.asarray(forward(*moved, **options)[0]).astype(np.float64)

    best = None
    with np.errstate(all="ignore"):
        centre = value(0.0)
        for attempt in range(TRIES):
            h = eps**0.2 * size / reach / SHRINK**attempt
            steps, centrals, bends, floor = [h, h / 2, h / 4], [], [], 0.0
            for t in steps:
                ahead, behind = value(t), value(-t)
                centrals.append((ahead - behind) / (2 * t))
                bends.append(abs(ahead - 2 * centre + behind) / (2 * t))
                floor = (
                    eps * (abs(ahead) + abs(behind) + 2 * abs(ahead - behind)) / t
                    + eps * largest / reach * abs(centrals[-1]) / t
                )
            coarse, fine = (4 * centrals[1] - centrals[0]) / 3, (4 * centrals[2] - centrals[1]) / 3
            error = abs(fine - coarse) + floor
            error = error + np.where(
                bends[2] > 0.75 * bends[0], bends[2], 0.0
            )  # of a smooth function it falls to a quarter
            error = np.where(np.isfinite(error), error, np.inf)
            if best is None:
                best = fine, error
            else:
                best = np.where(error < best[1], fine, best[0]), np.minimum(error, best[1])
            if (best[1] <= 1e3 * eps**0.8 * abs(best[0]).max(initial=0.0) + 2 * floor).all():
                break
    return best


def _rms(a):
    """The root of the mean square, 0 of nothing."""
    return float(np.sqrt((np.asarray(a, np.float64) ** 2).mean())) if a.size else 0.0


@dataclass(frozen=True)
class Witness:
    """How a forward's derivative is known."""

    forward: callable
    options: dict
    complex: bool
    dtype: np.dtype
    why: str = ""  # the complex step was not taken

    @property
    def name(self):
        """What it is called in a report."""
        return "the complex step in float64" if self.complex else f"central differences in {self.dtype}"

    def __str__(self):
        steps = f", steps of {float(np.finfo(self.dtype).eps) ** 0.2:.0e} of an argument's size and less"
        return self.name if self.complex else self.name + steps

    def derivative(self, arrays, directions):
        """J v and its error, both of y's shape; the complex step's own error is rounding only, and given as
        0.
        """
        if not self.complex:
            return differences(self.forward, arrays, directions, self.options, self.dtype)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            d = along(self.forward, arrays, directions, self.options)
        return d, np.zeros_like(d)


def choose(forward, arrays, dtype, options, seed=0):
    """The best Witness that the forward allows at the arrays; dtype: the one that it surely takes.

    A forward that raises on complex numbers, or returns real ones, does not take them. One that loses
    imaginary parts on the way (np.abs, np.var, a cast) is found out by differences: where the two disagree
    beyond what differences may be off, the differences are believed, for they are made of the function's own
    values.
    """
    rng = np.random.default_rng([seed, 4])
    real = np.dtype(np.float64)
    wide = [np.asarray(a, np.float64) if is_float(a) else a for a in arrays]
    if dtype != real:
        try:
            taken = np.asarray(forward(*wide, **options)[0]).dtype == real
        except Exception:  # whatever the user's code raises means that it does not take float64
            taken = False
        if not taken:
            return Witness(forward, options, False, np.dtype(dtype), "the forward does not take float64")
    for i, a in enumerate(wide):
        if not is_float(a) or not a.size:
            continue
        lost = True
        for _ in range(2):  # differences may agree with each other by accident, not twice in one element
            directions = [
                rng.choice([-1.0, 1.0], a.shape) * max(_rms(a), 1e-3) if j == i else None
                for j in range(len(wide))
            ]
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("error", np.exceptions.ComplexWarning)
                    moved = [b if v is None else b + 1j * (H * v) for b, v in zip(wide, directions)]
                    y = np.asarray(forward(*moved, **options)[0])
            except Exception as error:
                reason = (str(error).splitlines() or [""])[0]
                return Witness(
                    forward,
                    options,
                    False,
                    real,
                    f"the forward does not take complex numbers ({type(error).__name__}: {reason[:80]})",
                )
            if y.dtype.kind != "c":
                return Witness(
                    forward,
                    options,
                    False,
                    real,
                    "the forward does not let complex numbers through: its value is real",
                )
            step, (central, error) = y.imag / H, differences(forward, wide, directions, options)
            lost = lost & (abs(step - central) > 100 * error + 1e-5 * (abs(step) + abs(central)))
        if np.any(lost):
            why = (
                "the forward does not let complex numbers through: it loses imaginary parts on the way"
                " (np.abs, np.var, a cast), differences show"
            )
            return Witness(forward, options, False, real, why)
    return Witness(forward, options, True, real)
