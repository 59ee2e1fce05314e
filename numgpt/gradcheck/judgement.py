"""The verdict on a backward: for each argument right, rounding or wrong, and which elements of its gradient,
and how they look.
"""

from dataclasses import dataclass, fields

import numpy as np

from ..errors import InputError
from .pair import argument_names, as_dtype, is_float
from .patterns import pattern
from .ulps import DIRECTIONS, EPS64, Case, Columns, elements, search
from .witness import Witness

WORDS = ("right", "rounding", "wrong")


@dataclass(frozen=True)
class Element:
    """One element of a gradient: where, what it should be, what it is, and their distance."""

    index: tuple
    expected: float
    got: float
    ulps: float

    def __str__(self):
        place = f"[{', '.join(map(str, self.index))}]" if self.index else "its value"
        digits = 9 if abs(self.got - self.expected) > 1e-6 * abs(self.expected) else 17
        return (
            f"{place} expected {self.expected:.{digits}g}, got {self.got:.{digits}g}, {self.ulps:.2g}"
            " ulps off"
        )


@dataclass(frozen=True)
class ArgumentVerdict:
    """What is to be said of the gradient of one argument.

    word: "right" (each element within 4 floats of the exact one, or no further off than the witness may be),
    "rounding" (further off, but within what rounding explains) or "wrong".
    ulps, limit, doubt: of the element that is furthest beyond, or nearest to, its limit: how far it is off,
    how far it may be, and how much of that is the witness's own error; in the ulps of ulps.py.
    wrong: indices of the elements beyond rounding, among the examined; worst: the first few of them, or the
    furthest element.
    """

    index: int
    name: str | None
    shape: tuple
    word: str
    ulps: float
    limit: float
    doubt: float
    examined: int
    wrong: tuple
    worst: tuple
    pattern: str = ""
    note: str = ""

    @property
    def title(self):
        """argument 1 (weight)"""
        return f"argument {self.index}" + (f" ({self.name})" if self.name else "")

    def __str__(self):
        size = int(np.prod(self.shape))
        of = f"{self.examined:,} sampled of {size:,}" if self.examined < size else f"{size:,}"
        explained = f"rounding explains {self.limit - self.doubt:.2g}"
        if self.doubt > 1:
            explained += f", and the witness may be off by {self.doubt:.2g}"
        if self.word == "wrong":
            said = [
                f"{len(self.wrong):,} of {of} element{'s' * (size != 1)} beyond rounding ({explained} ulps)",
                *map(str, self.worst),
            ]
        else:
            said = [f"{of} element{'s' * (size != 1)}, at most {self.ulps:.2g} ulps off where {explained}"]
        return f"{self.title} is {self.word}: " + "; ".join([*said, *filter(None, (self.pattern, self.note))])


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a backward: one ArgumentVerdict per array of floats."""

    arguments: tuple
    dtype: np.dtype
    witness: Witness
    known: float  # how far the witness may be off, on the whole, relative to the terms

    @property
    def word(self):
        """The worst word of all arguments."""
        return max((a.word for a in self.arguments), key=WORDS.index)

    @property
    def wrong(self):
        """The arguments whose gradient is wrong."""
        return tuple(a for a in self.arguments if a.word == "wrong")

    def __getitem__(self, key):
        """The ArgumentVerdict of an argument, by its index or its name."""
        for a in self.arguments:
            if key in (a.index, a.name):
                return a
        raise KeyError(key)

    def summary(self):
        """What is wrong in one paragraph, or the verdict in a sentence."""
        if self.wrong:
            return ". ".join(map(str, self.wrong))
        return f"all gradients are {self.word}"

    def __str__(self):
        why = f"; {self.witness.why}" if self.witness.why else ""
        head = f"{self.dtype} gradients: {self.word}. Witness: {self.witness}, good to {self.known:.0e}{why}"
        return "\n".join([head, *(f"  {a}" for a in self.arguments)])


def verdict(forward, backward, *arrays, dtype=None, seed=0, **options):
    """Whether a backward is right, off by rounding, or wrong: for each argument, and with the elements that
    are.

    dtype: float32 or float64, in which the pair is run; the arrays' own unless given. The derivative is
    computed at the same
    points in float64: by the complex step where the forward takes complex numbers, else by central
    differences.

    An error within limit_j (ulps.py, and what the witness may be off) is rounding. Beyond it, it is wrong,
    unless
    the gradient is as restless between points that are a rounding apart, and the same backward is right in
    float64: that is a formula that loses digits, which is said. And where the float64 run shows an error of
    more than an ulp of float32, that is wrong even if rounding could have hidden it.

    arrays: integers and None are passed on. Of an array of more than 2,000 elements 400 are looked at, and
    random directions of all.
    Cost: one forward per element (central differences: at least seven).
    """
    dtype = _precision(arrays, dtype)
    case = Case(forward, backward, options, as_dtype(arrays, dtype), dtype, seed)
    names = argument_names(forward, len(arrays))
    indices = [i for i, a in enumerate(case.points) if is_float(a)]
    picked = {i: case.pick(i) for i in indices}
    found = {i: case.columns(case.wide, i, picked[i]) for i in indices}
    # How many numbers enter an output, on average: the rows of the derivative, from the columns that were
    # looked at.
    rows = sum(
        case.points[i].size * c.count.mean() / max(case.y.size, 1) for i, c in found.items() if c.count.size
    )
    with np.errstate(all="ignore"):  # an ulp of 0 is the least of all numbers, and errors are measured in it
        judged = tuple(_judge(case, i, names[i], picked[i], found[i], rows) for i in indices)
    error, terms = (
        sum(float(getattr(c, name)[np.isfinite(c.error)].sum()) for c in found.values())
        for name in ("error", "terms")
    )
    return Verdict(judged, dtype, case.witness, max(EPS64, error / terms if terms else 0.0))


def _precision(arrays, dtype):
    """The dtype in which the pair is run; InputError unless it is one that this file can judge."""
    if any(a is not None and np.asarray(a).dtype.kind == "c" for a in arrays):
        raise InputError(
            "verdict: an array is complex, expected real ones: pass its real and imaginary part as two"
            " arguments"
        )
    floats = [np.asarray(a).dtype for a in arrays if is_float(a)]
    if not floats:
        raise InputError("verdict: no array of floats, expected at least one to differentiate by")
    dtype = np.dtype(np.result_type(*floats) if dtype is None else dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(f"verdict: dtype is {dtype}, expected float32 or float64: say dtype=")
    return dtype


def _judge(case, i, name, picked, c, rows):
    """The ArgumentVerdict of argument i from what is known of its picked elements."""
    note, unknown = "", ~(np.isfinite(c.exact) | np.isinf(c.exact)) | np.isinf(c.error)
    if unknown.any():
        if unknown.all():
            raise InputError(
                f"verdict: the witness has no derivative by argument {i} at all these points, expected points"
                " where there is one"
            )
        note = f"of {unknown.sum():,} others the witness knows nothing"
        picked, c = picked[~unknown], Columns(*(getattr(c, f.name)[~unknown] for f in fields(Columns)))
    judged = elements(case, i, picked, c, rows)
    if len(picked) < case.points[i].size and not judged.wrong.any() and not note:
        span = search(case, i, float(np.sqrt((judged.limit**2).mean())))
        if span is not None:
            picked = np.union1d(picked, span)
            c = case.columns(case.wide, i, picked)
            judged = elements(case, i, picked, c, rows)
        note = f"of the rest {DIRECTIONS} random directions were looked at"
        if span is not None:
            note = (
                "a random direction was off, and halving it led there"
                if judged.wrong.any()
                else (
                    "a random direction is off by more than rounding explains, but no element that was"
                    " looked at"
                )
            )
    shape, got = case.points[i].shape, case.grads[i].reshape(-1)[picked].astype(np.float64)
    ratio = judged.error / np.maximum(judged.limit, np.finfo(float).tiny)
    ulps = judged.error / judged.unit
    order = np.argsort(-np.where(np.isnan(ratio), np.inf, ratio), kind="stable")
    wrong = judged.wrong
    word = (
        "wrong"
        if wrong.any()
        else "right"
        if (judged.error <= np.maximum(4 * judged.spacing, judged.doubt)).all()
        else "rounding"
    )
    if wrong.any():
        order = order[wrong[order]]
    worst = tuple(
        Element(
            tuple(map(int, np.unravel_index(picked[k], shape))),
            float(c.exact[k]),
            float(got[k]),
            float(ulps[k]),
        )
        for k in order[: 3 if wrong.any() else 1]
    )
    return ArgumentVerdict(
        index=i,
        name=name,
        shape=shape,
        word=word,
        ulps=worst[0].ulps if worst else 0.0,
        limit=float((judged.limit / judged.unit)[order[0]]) if worst else 0.0,
        doubt=float((judged.doubt / judged.unit)[order[0]]) if worst else 0.0,
        examined=len(picked),
        wrong=tuple(tuple(map(int, np.unravel_index(j, shape))) for j in picked[wrong]),
        worst=worst,
        pattern=(
            pattern(c.exact, got, judged.limit, wrong, picked, shape, case.y.shape) if wrong.any() else ""
        ),
        note="; ".join(filter(None, (judged.note, note))),
    )
