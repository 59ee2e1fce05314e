"""How far an element of a gradient may be off by rounding: the units and the limits of a verdict, and how
they are measured.

An element of a gradient is a sum, g_j = Σ_i dy_i J_ij. A program that computes it in floating point adds
terms that may be far larger than g_j, so its error has nothing to do with the size of g_j, and no relative
tolerance can tell it from a mistake.

    terms_j  = Σ_i |dy_i J_ij|              what is added at the end
    inner_j  = how far g_j moves when every input moves by its own relative size: what was added, and cancelled, before that
    ulp_j    = eps (terms_j + inner_j)      or the spacing of floats at g_j, if that is more
    limit_j  = 4 √n ulp_j                   n: how many numbers the sums run over

A sum of n terms errs by λ √n u Σ|terms| at most, u = eps/2, but for a chance of 2n exp(−λ²/2) (Higham and
Mary 2019): λ = 8. inner_j is measured, with the witness, at points a few roundings away, and only where the
terms alone do not explain an error.
What even that leaves unexplained is a mistake, unless it is seen to behave as rounding does: see elements.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from . import witness
from .pair import as_dtype, gradients, is_float

ALL, SAMPLE = (
    2000,
    400,
)  # of an array with more elements than ALL only SAMPLE are looked at, and random directions of all
EXAMINED, DRAWS, NEAR = 64, 6, 16  # suspects looked at closely; points near by, and how many roundings away
EPS64 = float(np.finfo(np.float64).eps)
ELEMENTARY = 32  # roundings inside one element's own arithmetic: an exponential, a quotient, a few products
DIRECTIONS = 3


@dataclass
class Columns:
    """Of each picked element: Σ_i dy_i J_ij, Σ_i |dy_i J_ij|, how many terms are not 0, how far the witness
    may be off.

    carried: Σ_i |dy_i y_i| over the outputs that it acts on; the largest of all where it acts on none.
    """

    exact: np.ndarray
    terms: np.ndarray
    count: np.ndarray
    error: np.ndarray
    carried: np.ndarray


class Case:
    """A pair at its points, run once in its own precision and, if that is float32 and it takes float64, once
    in that.
    """

    def __init__(self, forward, backward, options, points, dtype, seed):
        self.forward, self.backward, self.options, self.points, self.dtype = (
            forward,
            backward,
            options,
            points,
            dtype,
        )
        self.rng = np.random.default_rng([seed, 5])
        self.eps = float(np.finfo(dtype).eps)
        self.wide = as_dtype(points, np.float64)
        self.y, saved = forward(*points, **options)
        self.y = np.asarray(self.y)
        if self.y.dtype.kind != "f":
            raise InputError(f"verdict: the forward's value has dtype {self.y.dtype}, expected floats")
        if not np.isfinite(self.y).all():
            raise InputError(
                "verdict: the forward's value holds NaN or infinity, expected points where it is finite"
            )
        self.dy = self.rng.standard_normal(self.y.shape).astype(dtype)
        self.grads = gradients(backward(self.dy[()], saved), points)
        self.witness = witness.choose(forward, self.wide, dtype, options, seed)
        self.reference = (
            EPS64 if self.witness.dtype == np.float64 else 0.0
        )  # differences in float32 state their rounding themselves
        self.wide_grads = self.in_float64() if dtype != np.float64 else None

    def in_float64(self):
        """The backward's gradients in float64, None where the pair is not for that."""
        try:
            y, saved = self.forward(*self.wide, **self.options)
            grads = gradients(self.backward(self.dy.astype(np.float64)[()], saved), self.wide)
        except Exception:  # whatever the user's code raises means that it does not take float64
            return None
        return grads if all(a.dtype == np.float64 for a in (np.asarray(y), *grads) if is_float(a)) else None

    def pick(self, i):
        """The flat indices of the elements to look at."""
        size = self.points[i].size
        return np.arange(size) if size <= ALL else np.sort(self.rng.choice(size, SAMPLE, replace=False))

    def columns(self, points, i, picked):
        """What the witness says of the picked elements of argument i."""
        dy = self.dy.astype(np.float64)
        carried = abs(dy * self.y)
        found = np.zeros((5, len(picked)))
        direction = np.zeros(points[i].shape)
        directions = [direction if k == i else None for k in range(len(points))]
        for k, j in enumerate(picked):
            direction.reshape(-1)[j] = 1.0
            d, error = self.witness.derivative(points, directions)
            direction.reshape(-1)[j] = 0.0
            terms = dy * d
            acted = carried[terms != 0].sum() if terms.any() else carried.max(initial=0.0)
            found[:, k] = (
                terms.sum(),
                abs(terms).sum(),
                np.count_nonzero(terms),
                (abs(dy) * error).sum(),
                acted,
            )
        return Columns(*found)

    def moved(self, eps, near=NEAR):
        """The points, each number moved by some roundings."""
        return [
            a * (1 + near * eps * self.rng.uniform(-1, 1, a.shape)) if is_float(a) else a for a in self.wide
        ]

    def nearby(self, i, picked, exact):
        """inner_j of the picked elements, and the witness's noise: four times the most that its word moves
        when float64 rounds otherwise.
        """
        inner, noise = np.zeros(len(picked)), np.zeros(len(picked))
        for _ in range(DRAWS):
            there = self.columns(
                as_dtype(as_dtype(self.moved(self.eps), self.dtype), np.float64), i, picked
            ).exact
            inner += (there - exact) ** 2
            if self.eps > EPS64:
                noise = np.maximum(noise, 4 * abs(self.columns(self.moved(EPS64), i, picked).exact - exact))
        return (
            np.sqrt(3 * inner / DRAWS) / (NEAR * self.eps),
            noise,
        )  # 3: the mean square of a uniform number is a third

    def unrest(self, i):
        """How far gradient i moves, in units of eps, between points that differ by a rounding or two, in any
        dtype that it was run in.

        0 for a backward that gives another gradient at the same point: what moves there is not rounding.
        """
        most = np.zeros(self.points[i].size)
        runs = [(self.points, self.grads[i])] + (
            [(self.wide, self.wide_grads[i])] if self.wide_grads is not None else []
        )
        for points, grad in runs:
            eps = float(np.finfo(grad.dtype).eps)
            for draw in range(2 * DRAWS):
                at = as_dtype(self.moved(eps, 2), grad.dtype) if draw else points
                _, saved = self.forward(*at, **self.options)
                move = abs(
                    gradients(self.backward(self.dy.astype(grad.dtype)[()], saved), at)[i].astype(np.float64)
                    - grad
                )
                if not draw and move.any():
                    return np.zeros_like(most)
                most = np.fmax(most, move.reshape(-1) / eps)
        return most

    def beyond(self, grads, eps, i, span, limits, sign):
        """By how much ⟨gradient i, v⟩ is further from ⟨dy, Jv⟩ than rounding explains; v: the signs on the
        span, else 0.

        The signs do not know the errors, so these add up like the root of the sum of their squares: six times
        that is the limit.
        """
        v = np.zeros(self.points[i].size)
        v[span] = sign[span]
        d, error = self.witness.derivative(
            self.wide, [v.reshape(a.shape) if k == i else None for k, a in enumerate(self.wide)]
        )
        dy = self.dy.astype(np.float64)
        terms, back = dy * d, grads[i].reshape(-1)[span].astype(np.float64) * v[span]
        limit = 6 * np.sqrt(len(v[span])) * limits * eps / self.eps + (abs(dy) * error).sum()
        limit += (
            4 * np.sqrt(terms.size + 1) * self.reference * abs(terms).sum()
            + 4 * np.sqrt(back.size) * EPS64 * abs(back).sum()
        )
        return abs(terms.sum() - back.sum()) - limit


@dataclass
class Elements:
    """Of each picked element: its error, ulp_j, limit_j, how much of that is the witness's, the spacing of
    floats, whether it is wrong.
    """

    error: np.ndarray
    unit: np.ndarray
    limit: np.ndarray
    doubt: np.ndarray
    spacing: np.ndarray
    wrong: np.ndarray
    note: str = ""


def elements(case, i, picked, c, rows):
    """Which of the picked elements are wrong, and why that is not rounding.

    Those beyond limit_j, and those whose formula, run in float64, is off by more than eps terms_j of float32,
    unless
        all but largest    the element is 0 but for roundings of the largest of its array
        natural            terms cancel inside the formula, which are as large as dy y / x
        unrest             the gradient moves as much between points that differ by a rounding or two
    and the formula in float64 is right by the same measure, without the last: that is the backward's own
    word.
    """
    got = case.grads[i].reshape(-1)[picked].astype(np.float64)
    wide = None if case.wide_grads is None else case.wide_grads[i].reshape(-1)[picked]

    def off(found):
        return np.where(np.isfinite(found), abs(found - c.exact), np.where(found == c.exact, 0.0, np.inf))

    error, formula = off(got), None if wide is None else off(wide)  # what rounding to float32 has no part in
    spacing = np.spacing(abs(c.exact).astype(case.dtype)).astype(np.float64)
    root, doubt = np.sqrt(c.count + rows + ELEMENTARY), c.error.copy()

    def limits(scale):
        """ulp_j, limit_j, and how far the backward may be off in float64."""
        unit = np.maximum(case.eps * scale, spacing)
        blur = doubt + 4 * root * case.reference * scale
        return unit, 4 * root * unit + blur, np.maximum(case.eps * c.terms, spacing) + blur

    unit, limit, visible = limits(c.terms)
    suspect = (error > limit) | (False if formula is None else formula > visible)
    if not suspect.any():
        return Elements(error, unit, limit, doubt, spacing, suspect)
    order = np.flatnonzero(suspect)[np.argsort(-(error / limit)[suspect], kind="stable")]
    close = np.unique(np.concatenate([order[: EXAMINED // 2], order[-EXAMINED // 2 :]]))
    inner, noise = case.nearby(i, picked[close], c.exact[close])
    scale = c.terms.copy()
    scale[close] += inner
    doubt[close] += noise
    # Suspects that were not looked at closely are taken to be as sensitive, for their size, as the most
    # sensitive that were.
    others = np.setdiff1d(order, close)
    scale[others] *= float((scale[close] / np.maximum(c.terms[close], np.finfo(float).tiny)).max())
    doubt[others] += noise.max()
    # What is 0 but for roundings of the largest element has no digits of its own: programs work on whole
    # rows.
    largest = c.terms.max()
    zero = abs(c.exact) <= 4 * root * case.eps * largest
    scale[zero & suspect] += largest
    unit, limit, visible = limits(scale)
    wrong = (error > limit) | (False if formula is None else formula > visible)
    if not wrong.any():
        return Elements(error, unit, limit, doubt, spacing, wrong)
    # A formula in which terms cancel whatever the inputs are loses digits that inner_j knows nothing of,
    # other ones at each point. They are as many as the gradient is restless, or as its terms are smaller than
    # dy y / x, which a gradient of no cancellation would be.
    size = np.maximum(abs(case.wide[i].reshape(-1)[picked]), float(np.sqrt((case.wide[i] ** 2).mean())))
    natural, unrest = c.carried / np.maximum(size, np.finfo(float).tiny), case.unrest(i)[picked]
    lost = wrong & (error <= limits(scale + natural + unrest)[1])
    if formula is None:
        lost &= (
            error <= 16 * root**2 * case.eps * (scale + natural) + doubt
        )  # unrest alone is no excuse: it is the backward's own word
    else:
        lost &= formula <= np.maximum(
            visible, 4 * root * EPS64 * (scale + natural) + doubt
        )  # it falls with eps, as a mistake does not
    wrong = wrong & ~lost
    note = ""
    if lost.any() and not wrong.any():
        note = (
            f"the formula is right, but its arithmetic loses {(error / unit)[lost].max():.2g} ulps, other"
            " ones at each point near by: terms cancel inside it"
        )
    elif wrong.any() and formula is not None and (formula[wrong] <= visible[wrong]).all():
        note = (
            "the same backward is right in float64: in float32 it takes another path, overflows, vanishes, or"
            " adds up far more than it is given"
        )
    elif formula is not None and wrong.any() and (error[wrong] <= limit[wrong]).all():
        note = "float32 hides it, the same backward in float64 shows it"
    return Elements(error, unit, limit, doubt, spacing, wrong, note)


def search(case, i, limit):
    """Random directions of all elements of argument i; where one is off, halve it until few elements are
    left. None if none is.

    limit: the root mean square of the elements' limits.
    """
    runs = (
        [(case.grads, case.eps)]
        if case.wide_grads is None
        else [(case.wide_grads, EPS64), (case.grads, case.eps)]
    )
    for _ in range(DIRECTIONS):
        sign = case.rng.choice([-1.0, 1.0], case.points[i].size)
        for grads, eps in runs:
            span = slice(0, len(sign))
            if not case.beyond(grads, eps, i, span, limit, sign) > 0:
                continue
            while span.stop - span.start > EXAMINED:
                middle = (span.start + span.stop) // 2
                halves = slice(span.start, middle), slice(middle, span.stop)
                span = max(halves, key=lambda half: case.beyond(grads, eps, i, half, limit, sign))
            return np.arange(span.start, span.stop)
    return None
