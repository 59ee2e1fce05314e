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

from dataclasses import dataclass, fields, replace

import numpy as np

from .case import EPS64, EXAMINED, Case, Columns
from .pair import Array

DIRECTIONS = 3
RESTLESS = 16  # times what a gradient moves between points near by: the digits that its formula loses
UNSURE = 1e-5  # of the largest terms: a witness that may be off by more has come upon something
ELEMENTARY = 32  # roundings inside one element's own arithmetic: an exponential, a quotient, a few products
TINY = float(np.finfo(np.float64).tiny)


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

    doubt: how much of the limit is the witness's own. spacing: of floats there. unsure: which may be wrong,
    or rounded.
    """

    error: Array
    unit: Array
    limit: Array
    doubt: Array
    spacing: Array
    wrong: Array
    unsure: Array
    note: str = ""

    def at(self, chosen: Array) -> Elements:
        """Those that are chosen, by a mask or by their places."""
        arrays = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name != "note"}
        return replace(self, **arrays)


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
        all but largest    the element is 0 but for roundings of the largest of its array, and as restless
        natural            terms cancel inside the formula, which are as large as dy y / x
        unrest             the gradient moves as much between points that differ by a rounding or two
    and the formula in float64 is right by the same measure, without the last: that is the backward's own
    word. One that is 0 but for roundings, and off by no more than terms that may cancel inside, but is not
    seen to be restless, is unsure: a formula such as 1 − tanh² errs by the same amount all around.
    """
    errors = Errors.of(case, i, columns)
    allowance = Allowance.of(case, columns, rows)
    wrong = allowance.exceeded(errors)
    note = ""
    unsure = np.zeros_like(wrong)
    if wrong.any():
        _look_closely(case, i, columns, errors, allowance, wrong)
        wrong = allowance.exceeded(errors)
    if wrong.any():
        digits = Digits.of(case, i, columns)
        _add_the_largest(case, columns, allowance, wrong, digits)
        wrong = allowance.exceeded(errors)
    if wrong.any():
        lost = wrong & _loses_digits(case, errors, allowance, digits)
        unsure = wrong & ~lost & _may_lose_digits(case, columns, errors, allowance, digits)
        wrong = wrong & ~lost & ~unsure
        note = _note(errors, allowance, wrong, lost) if (wrong | lost).any() else ""
    return Elements(
        errors.run, allowance.unit, allowance.limit, allowance.doubt, allowance.spacing, wrong, unsure, note
    )


@dataclass(frozen=True)
class Digits:
    """What terms may cancel inside the formula of the picked elements, whatever the inputs are.

    natural: dy y / x, which a gradient without cancellation would be. unrest: how far it moves, in eps,
    between points that differ by a rounding or two.
    """

    natural: Array
    unrest: Array

    @property
    def seen(self) -> Array:
        """What is seen to cancel."""
        return np.minimum(self.natural, RESTLESS * self.unrest)

    @classmethod
    def of(cls, case: Case, i: int, columns: Columns) -> Digits:
        """Of gradient i."""
        size = np.maximum(
            abs(case.wide[i].reshape(-1)[columns.picked]), float(np.sqrt((case.wide[i] ** 2).mean()))
        )
        return cls(columns.carried / np.maximum(size, TINY), case.unrest(i)[columns.picked])


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


def _add_the_largest(
    case: Case, columns: Columns, allowance: Allowance, suspect: Array, digits: Digits
) -> None:
    """An element that is 0 but for roundings of the largest has no digits: programs work on whole rows.

    Such a one is restless, as the largest are rounded.
    """
    chosen = _is_zero(case, columns, allowance) & suspect
    allowance.scale[chosen] += np.minimum(columns.terms.max(), RESTLESS * digits.unrest)[chosen]


def _is_zero(case: Case, columns: Columns, allowance: Allowance) -> Array:
    """Which elements are 0 but for roundings of the largest."""
    return np.asarray(abs(columns.exact) <= 4 * allowance.root * case.eps * columns.terms.max())


def _may_lose_digits(
    case: Case, columns: Columns, errors: Errors, allowance: Allowance, digits: Digits
) -> Array:
    """Which elements are 0 but for roundings, and off by less than what may cancel inside."""
    size = np.maximum(columns.terms.max(), np.minimum(columns.carried, digits.natural))
    is_zero = abs(columns.exact) <= 4 * allowance.root * case.eps * size
    scale = allowance.scale + np.minimum(size, digits.natural)
    explained = errors.run <= allowance.limit_at(scale)
    if errors.formula is None:
        return np.asarray(is_zero & explained)
    room = 4 * allowance.root * EPS64 * scale + allowance.doubt
    return np.asarray(is_zero & explained & (errors.formula <= np.maximum(allowance.formula_limit, room)))


def _loses_digits(case: Case, errors: Errors, allowance: Allowance, digits: Digits) -> Array:
    """Which elements are off because terms cancel inside the formula, whatever the inputs are.

    Such a formula loses digits that inner_j knows nothing of, other ones at each point. They are as many as
    the gradient is restless, or as its terms are smaller than dy y / x, which a gradient without cancellation
    would be.
    """
    # At small inputs dy y / x is large whatever the formula is: there it has to be seen to lose these digits.
    scale = allowance.scale + (digits.seen if errors.formula is None else digits.natural)
    explained = errors.run <= allowance.limit_at(scale + digits.unrest)
    if errors.formula is None:
        # unrest alone is no excuse: it is the backward's own word
        room = 16 * allowance.root**2 * case.eps * scale + allowance.doubt
        return explained & (errors.run <= room)
    # an error of rounding falls with eps, a mistake does not
    room = 4 * allowance.root * EPS64 * (allowance.scale + digits.seen) + allowance.doubt
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
