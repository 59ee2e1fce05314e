"""How far an element of a gradient may be off by rounding: the units and limits of a verdict, as measured.

An element of a gradient is a sum, g_j = Σ_i dy_i J_ij. A program that computes it in floating point adds
terms that may be far larger than g_j, so its error has nothing to do with the size of g_j, and no relative
tolerance can tell it from a mistake.

    terms_j  = Σ_i |dy_i J_ij|              what is added at the end
    inner_j  = how far g_j moves when every input moves by its own relative size:
               what was added, and cancelled, before that
    ulp_j    = eps (terms_j + inner_j)      or the spacing of floats at g_j, if that is more
    limit_j  = 4 √n ulp_j                   n: how many numbers the sums run over

A sum of n terms errs by λ √n u Σ|terms| at most, u = eps/2, but for a chance of 2n exp(−λ²/2) (Higham and
Mary 2019): λ = 8. inner_j is measured, with the witness, at points a few roundings away, and only where the
terms alone do not explain an error. What even that leaves unexplained is a mistake, unless it is seen to
behave as rounding does: see elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import InputError
from . import witness
from .pair import Array, Backward, Forward, as_dtype, gradients, is_float, run
from .preconditions import first_run, require

ALL = 2000  # elements: of a larger array only a sample is looked at, and random directions of the whole
SAMPLE = 400
EXAMINED = 64  # suspects that are looked at closely
DRAWS, NEAR = 6, 16  # points near by, and how many roundings away they lie
DIRECTIONS = 3
RESTLESS = 16  # times what a gradient moves between points near by: the digits that its formula loses
UNSURE = 1e-5  # of the largest terms: a witness that may be off by more has come upon something
ELEMENTARY = 32  # roundings inside one element's own arithmetic: an exponential, a quotient, a few products
EPS64 = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Columns:
    """What the witness says of the picked elements of a gradient, given by their flat indices.

    exact: Σ_i dy_i J_ij. terms: Σ_i |dy_i J_ij|. count: how many terms are not 0. error: how far the witness
    may be off. carried: Σ_i |dy_i y_i| over the outputs that the element acts on; the largest of all where it
    acts on none.
    """

    picked: Array
    exact: Array
    terms: Array
    count: Array
    error: Array
    carried: Array

    def at(self, chosen: Array) -> Columns:
        """Those that are chosen, by a mask or by their places."""
        return Columns(*(getattr(self, f.name)[chosen] for f in fields(self)))


class Case:
    """A pair at its points, run once in its own precision, and in float64 too if that is wider and it can."""

    def __init__(
        self,
        forward: Forward,
        backward: Backward,
        options: dict[str, Any],
        points: Sequence[Any],
        dtype: np.dtype[Any],
        seed: int,
    ) -> None:
        self.forward, self.backward, self.options = forward, backward, options
        self.points, self.dtype = points, dtype
        self.rng = np.random.default_rng([seed, 5])
        self.eps = float(np.finfo(dtype).eps)
        self.wide: list[Any] = as_dtype(points, np.float64)
        first = first_run(forward, backward, points, options, self._upstream)
        self.grads: list[Any] = first.grads
        require(forward, backward, points, options, first)
        self.witness = witness.choose(forward, self.wide, dtype, options, seed)
        # What the witness rounds: differences in float32 state their rounding themselves.
        self.reference = EPS64 if self.witness.dtype == np.float64 else 0.0
        self.wide_grads = self.in_float64() if dtype != np.float64 else None

    def _upstream(self, y: Any) -> Any:
        """A random dy, where the forward's value can be judged."""
        self.y = np.asarray(y)
        if self.y.dtype.kind != "f":
            raise InputError(f"verdict: the forward's value has dtype {self.y.dtype}, expected floats")
        if not np.isfinite(self.y).all():
            raise InputError(
                "verdict: the forward's value holds NaN or infinity, expected points where it is finite"
            )
        self.dy = self.rng.standard_normal(self.y.shape).astype(self.dtype)
        return self.dy[()]

    def in_float64(self) -> list[Any] | None:
        """The backward's gradients in float64, None where the pair is not for that."""
        try:
            y, saved = run(self.forward, self.wide, self.options)
            grads = gradients(self.backward(self.dy.astype(np.float64)[()], saved), self.wide)
        except Exception:  # whatever the user's code raises means that it does not take float64
            return None
        return grads if all(a.dtype == np.float64 for a in (np.asarray(y), *grads) if is_float(a)) else None

    def pick(self, i: int) -> Array:
        """The flat indices of the elements of argument i to look at.

        Of many elements a sample at random, those whose gradient is largest, and some that got exactly 0: the
        largest alone would show no gradient that is missing.
        """
        size = self.points[i].size
        if size <= ALL:
            return np.arange(size)
        sample = self.rng.choice(size, SAMPLE, replace=False)
        gradient = abs(self.grads[i].reshape(-1))
        zeros = np.flatnonzero(gradient == 0)
        some = np.random.default_rng([len(zeros), 7]).permutation(zeros)[:EXAMINED]
        return np.unique(np.concatenate([sample, np.argpartition(gradient, -EXAMINED)[-EXAMINED:], some]))

    def columns(self, points: Sequence[Any], i: int, picked: Array) -> Columns:
        """What the witness says of the picked elements of argument i, at points."""
        dy = self.dy.astype(np.float64)
        carried = abs(dy * self.y)
        exact, total, count, doubt, acted = np.zeros((5, len(picked)))
        direction = np.zeros(points[i].shape)
        directions = [direction if k == i else None for k in range(len(points))]
        for k, j in enumerate(picked):
            direction.reshape(-1)[j] = 1.0
            slope, error = self.witness.derivative(points, directions)
            direction.reshape(-1)[j] = 0.0
            terms = dy * slope
            exact[k] = terms.sum()
            total[k] = abs(terms).sum()
            count[k] = np.count_nonzero(terms)
            doubt[k] = (abs(dy) * error).sum()
            acted[k] = carried[terms != 0].sum() if terms.any() else carried.max(initial=0.0)
        return Columns(picked, exact, total, count, doubt, acted)

    def moved(self, eps: float, near: int = NEAR) -> list[Any]:
        """The points, each number moved at random by some roundings."""
        return [
            a * (1 + near * eps * self.rng.uniform(-1, 1, a.shape)) if is_float(a) else a for a in self.wide
        ]

    def nearby(self, i: int, columns: Columns) -> tuple[Array, Array]:
        """inner_j of the picked elements, and the noise of the witness.

        The noise is four times the most that the witness's word moves when float64 rounds otherwise.
        """
        inner, noise = np.zeros(len(columns.picked)), np.zeros(len(columns.picked))
        for _ in range(DRAWS):
            points = as_dtype(as_dtype(self.moved(self.eps), self.dtype), np.float64)
            inner += (self.columns(points, i, columns.picked).exact - columns.exact) ** 2
            if self.eps > EPS64:
                there = self.columns(self.moved(EPS64), i, columns.picked).exact
                noise = np.maximum(noise, 4 * abs(there - columns.exact))
        # 3: the mean square of a number that is uniform between −1 and 1 is a third
        return np.sqrt(3 * inner / DRAWS) / (NEAR * self.eps), noise

    def unrest(self, i: int) -> Array:
        """How far gradient i moves between points a rounding or two apart, in eps, over the dtypes it ran in.

        0 for a backward that gives another gradient at the same point: what moves there is not rounding.
        """
        most = np.zeros(self.points[i].size)
        runs = [(self.points, self.grads[i])]
        if self.wide_grads is not None:
            runs.append((self.wide, self.wide_grads[i]))
        for points, grad in runs:
            eps = float(np.finfo(grad.dtype).eps)
            if self._moves(points, i, grad).any():
                return np.zeros_like(most)
            for _ in range(2 * DRAWS - 1):
                there = as_dtype(self.moved(eps, 2), grad.dtype)
                most = np.fmax(most, self._moves(there, i, grad).reshape(-1) / eps)
        return most

    def _moves(self, points: Sequence[Any], i: int, grad: Array) -> Array:
        """How far gradient i is from grad when the pair is run once more, at points."""
        _, saved = self.forward(*points, **self.options)
        grads = gradients(self.backward(self.dy.astype(grad.dtype)[()], saved), points)
        return abs(np.asarray(grads[i]).astype(np.float64) - grad)

    def beyond(
        self, grads: Sequence[Any], eps: float, i: int, span: slice, limit: float, sign: Array
    ) -> float:
        """By how much ⟨gradient i, v⟩ is further from ⟨dy, Jv⟩ than rounding explains.

        v has the signs on the span, else 0. The signs do not know the errors, so these add up like the root
        of the sum of their squares: six times that is allowed.
        """
        v = np.zeros(self.points[i].size)
        v[span] = sign[span]
        directions = [v.reshape(a.shape) if k == i else None for k, a in enumerate(self.wide)]
        slope, error = self.witness.derivative(self.wide, directions)
        dy = self.dy.astype(np.float64)
        terms, back = dy * slope, grads[i].reshape(-1)[span].astype(np.float64) * v[span]
        allowed = 6 * np.sqrt(len(v[span])) * limit * eps / self.eps + (abs(dy) * error).sum()
        allowed += (
            4 * np.sqrt(terms.size + 1) * self.reference * abs(terms).sum()
            + 4 * np.sqrt(back.size) * EPS64 * abs(back).sum()
        )
        return float(abs(terms.sum() - back.sum()) - allowed)


@dataclass(frozen=True)
class Errors:
    """How far the picked elements are off as the backward was run, and in float64, where it can be run so."""

    run: Array
    formula: Array | None  # None: no float64; what rounding to float32 has no part in

    @classmethod
    def of(cls, case: Case, i: int, columns: Columns) -> Errors:
        """The errors of gradient i."""
        run = _distance(case.grads[i], columns)
        return cls(run, None if case.wide_grads is None else _distance(case.wide_grads[i], columns))


def _distance(grad: Array, columns: Columns) -> Array:
    """|got − exact| of the picked elements; infinity where only one of them is finite."""
    got = grad.reshape(-1)[columns.picked].astype(np.float64)
    apart = np.where(got == columns.exact, 0.0, np.inf)
    return np.where(np.isfinite(got), abs(got - columns.exact), apart)


@dataclass(frozen=True)
class Allowance:
    """How far the picked elements may be off by what is known so far.

    scale: terms_j, and inner_j as far as it has been measured. doubt: how far the witness may be off. Both
    grow as suspects are looked at.
    """

    eps: float  # of the dtype
    reference: float  # of the witness
    root: Array  # √n
    spacing: Array  # of floats at the exact value
    terms: Array
    scale: Array
    doubt: Array

    @classmethod
    def of(cls, case: Case, columns: Columns, rows: float) -> Allowance:
        """What the terms alone explain; rows: how many numbers enter an output, on average."""
        return cls(
            eps=case.eps,
            reference=case.reference,
            root=np.sqrt(columns.count + rows + ELEMENTARY),
            spacing=np.spacing(abs(columns.exact).astype(case.dtype)).astype(np.float64),
            terms=columns.terms,
            scale=columns.terms.copy(),
            doubt=columns.error.copy(),
        )

    @property
    def unit(self) -> Array:
        """ulp_j."""
        return np.maximum(self.eps * self.scale, self.spacing)

    @property
    def limit(self) -> Array:
        """limit_j, and what the witness may be off."""
        return self.limit_at(self.scale)

    @property
    def formula_limit(self) -> Array:
        """How far the backward may be off in float64: an ulp of the run's dtype, which then hides it."""
        return np.maximum(self.eps * self.terms, self.spacing) + self._blur(self.scale)

    def limit_at(self, scale: Array) -> Array:
        """limit_j if this were the scale."""
        unit = np.maximum(self.eps * scale, self.spacing)
        return 4 * self.root * unit + self._blur(scale)

    def _blur(self, scale: Array) -> Array:
        """What of an error may be the witness's own."""
        return self.doubt + 4 * self.root * self.reference * scale

    def exceeded(self, errors: Errors) -> Array:
        """Which elements are further off than this, as run or in float64."""
        beyond = errors.run > self.limit
        return beyond if errors.formula is None else beyond | (errors.formula > self.formula_limit)


@dataclass(frozen=True)
class Elements:
    """What is known of each picked element: its error and ulp_j, its limit_j, and whether it is wrong.

    doubt: how much of the limit is the witness's own. spacing: of floats there.
    """

    error: Array
    unit: Array
    limit: Array
    doubt: Array
    spacing: Array
    wrong: Array
    note: str = ""


def suspects(case: Case, i: int, columns: Columns, rows: float) -> Array:
    """Places among the picked that the terms alone do not explain, or of which the witness knows little."""
    errors, allowance = Errors.of(case, i, columns), Allowance.of(case, columns, rows)
    vague = UNSURE * columns.terms.max(initial=0.0)
    if case.witness.dtype != np.float64:
        vague = vague * float(np.finfo(case.witness.dtype).eps / EPS64) ** 0.4
    places = np.flatnonzero(allowance.exceeded(errors) | (columns.error > vague))
    excess = -(errors.run / np.maximum(allowance.limit, TINY))[places]
    return places[np.argsort(excess, kind="stable")]


def elements(case: Case, i: int, columns: Columns, rows: float) -> Elements:
    """Which of the picked elements are wrong, and why that is not rounding.

    Those beyond limit_j, and those whose formula, run in float64, is off by more than eps terms_j of float32,
    unless
        all but largest    the element is 0 but for roundings of the largest of its array
        natural            terms cancel inside the formula, which are as large as dy y / x
        unrest             the gradient moves as much between points that differ by a rounding or two
    and the formula in float64 is right by the same measure, without the last: that is the backward's own
    word.
    """
    errors = Errors.of(case, i, columns)
    allowance = Allowance.of(case, columns, rows)
    wrong = allowance.exceeded(errors)
    note = ""
    if wrong.any():
        _look_closely(case, i, columns, errors, allowance, wrong)
        _add_the_largest(case, columns, allowance, wrong)
        wrong = allowance.exceeded(errors)
    if wrong.any():
        lost = wrong & _loses_digits(case, i, columns, errors, allowance)
        wrong = wrong & ~lost
        note = _note(errors, allowance, wrong, lost)
    return Elements(
        errors.run, allowance.unit, allowance.limit, allowance.doubt, allowance.spacing, wrong, note
    )


def _look_closely(
    case: Case, i: int, columns: Columns, errors: Errors, allowance: Allowance, suspect: Array
) -> None:
    """Measure inner_j and the witness's noise of the suspects that are furthest off, and of the least so."""
    excess = -(errors.run / allowance.limit)[suspect]
    order = np.flatnonzero(suspect)[np.argsort(excess, kind="stable")]
    close = np.unique(np.concatenate([order[: EXAMINED // 2], order[-EXAMINED // 2 :]]))
    inner, noise = case.nearby(i, columns.at(close))
    allowance.scale[close] += inner
    allowance.doubt[close] += noise
    # The other suspects are taken to be as sensitive, for their size, as the most sensitive of these.
    others = np.setdiff1d(order, close)
    growth = allowance.scale[close] / np.maximum(columns.terms[close], TINY)
    allowance.scale[others] *= float(growth.max())
    allowance.doubt[others] += noise.max()


def _add_the_largest(case: Case, columns: Columns, allowance: Allowance, suspect: Array) -> None:
    """An element that is 0 but for roundings of the largest has no digits: programs work on whole rows."""
    largest = columns.terms.max()
    is_zero = abs(columns.exact) <= 4 * allowance.root * case.eps * largest
    allowance.scale[is_zero & suspect] += largest


def _loses_digits(case: Case, i: int, columns: Columns, errors: Errors, allowance: Allowance) -> Array:
    """Which elements are off because terms cancel inside the formula, whatever the inputs are.

    Such a formula loses digits that inner_j knows nothing of, other ones at each point. They are as many as
    the gradient is restless, or as its terms are smaller than dy y / x, which a gradient without cancellation
    would be.
    """
    size = np.maximum(
        abs(case.wide[i].reshape(-1)[columns.picked]), float(np.sqrt((case.wide[i] ** 2).mean()))
    )
    natural = columns.carried / np.maximum(size, TINY)
    unrest = case.unrest(i)[columns.picked]
    # At small inputs dy y / x is large whatever the formula is: there it has to be seen to lose these digits.
    seen = np.minimum(natural, RESTLESS * unrest)
    scale = allowance.scale + (seen if errors.formula is None else natural)
    explained = errors.run <= allowance.limit_at(scale + unrest)
    if errors.formula is None:
        # unrest alone is no excuse: it is the backward's own word
        room = 16 * allowance.root**2 * case.eps * scale + allowance.doubt
        return explained & (errors.run <= room)
    # an error of rounding falls with eps, a mistake does not
    room = 4 * allowance.root * EPS64 * (allowance.scale + seen) + allowance.doubt
    return explained & (errors.formula <= np.maximum(allowance.formula_limit, room))


def _note(errors: Errors, allowance: Allowance, wrong: Array, lost: Array) -> str:
    """What the run in float64 adds to the verdict, in words."""
    if not wrong.any():
        ulps = (errors.run / allowance.unit)[lost].max()
        return (
            f"the formula is right, but its arithmetic loses {ulps:.2g} ulps, different ones at each point"
            " near by: terms cancel inside it"
        )
    if errors.formula is None:
        return ""
    if (errors.formula[wrong] <= allowance.formula_limit[wrong]).all():
        return (
            "the same backward is right in float64: in float32 it takes another path, overflows, vanishes, or"
            " adds up far more than it is given"
        )
    if (errors.run[wrong] <= allowance.limit[wrong]).all():
        return "float32 hides it, the same backward in float64 shows it"
    return ""


def search(case: Case, i: int, limit: float) -> Array | None:
    """Random directions of all elements of argument i: where one is off, halve it until few are left.

    limit: the root mean square of the elements' limits. None where no direction is off.
    """
    runs = [(case.grads, case.eps)]
    if case.wide_grads is not None:
        runs.insert(0, (case.wide_grads, EPS64))
    for _ in range(DIRECTIONS):
        sign = case.rng.choice([-1.0, 1.0], case.points[i].size)
        for grads, eps in runs:
            span = slice(0, len(sign))
            if not case.beyond(grads, eps, i, span, limit, sign) > 0:
                continue
            while span.stop - span.start > EXAMINED:
                middle = (span.start + span.stop) // 2
                halves = slice(span.start, middle), slice(middle, span.stop)
                excess = [case.beyond(grads, eps, i, half, limit, sign) for half in halves]
                span = halves[excess.index(max(excess))]
            return np.arange(span.start, span.stop)
    return None
