"""The verdict on a backward: for each argument right, rounding or wrong, and in which elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..errors import InputError
from .pair import Backward, Forward, argument_names, as_dtype, is_float, title
from .patterns import Sample, pattern
from .ulps import DIRECTIONS, EPS64, TINY, Case, Columns, Elements, elements, search
from .witness import Witness

PHRASES = {
    "right": "correct",
    "rounding": "correct (differs by rounding only)",
    "wrong": "wrong",
}  # from best to worst
WORDS = tuple(PHRASES)
SHOWN = 3  # wrong elements of an argument


@dataclass(frozen=True)
class Element:
    """One element of a gradient: where, what it should be, what it is, and their distance."""

    index: tuple[int, ...]
    expected: float
    got: float
    ulps: float

    def __str__(self) -> str:
        place = f"[{', '.join(map(str, self.index))}]" if self.index else "its value"
        digits = 9 if abs(self.got - self.expected) > 1e-6 * abs(self.expected) else 17
        return (
            f"{place} expected {self.expected:.{digits}g}, got {self.got:.{digits}g}, {self.ulps:.2g}"
            " ulps off"
        )


@dataclass(frozen=True)
class ArgumentVerdict:
    """The verdict on the gradient of one argument.

    Attributes
    ----------
    index, name, shape
        Which argument; name is None where the forward does not give it one.
    word : {"right", "rounding", "wrong"}
        "right": each element is within 4 floats of the exact one, or no further off than the witness may be.
        "rounding": further off, but within what rounding explains. "wrong": beyond that.
    ulps, limit, doubt : float
        Of the element that is furthest beyond, or nearest to, its limit: how far it is off, how far it may
        be, and how much of that is the witness's own error; in the ulps of ulps.py.
    examined : int
        How many elements were looked at.
    wrong : tuple of indices
        The elements beyond rounding, among those examined.
    worst : tuple of Element
        The first few of them, or the element that is furthest off.
    pattern, note : str
        What the mistake looks like, and what else is to be known; "" for nothing.
    """

    index: int
    name: str | None
    shape: tuple[int, ...]
    word: str
    ulps: float
    limit: float
    doubt: float
    examined: int
    wrong: tuple[tuple[int, ...], ...]
    worst: tuple[Element, ...]
    pattern: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        """The argument's name, or "argument 1" where it has none."""
        return title(self.index, self.name)

    @property
    def size(self) -> int:
        """How many elements the gradient has."""
        return int(np.prod(self.shape))

    def __str__(self) -> str:
        size = f"{self.size:,} element{'s' * (self.size != 1)}"
        sample = f"{self.examined:,} sampled of {size}" if self.examined < self.size else size
        explained = f"rounding explains {self.limit - self.doubt:.2g}"
        if self.doubt > 1:
            explained += f", and the witness may be off by {self.doubt:.2g}"
        if self.word == "wrong":
            parts = [f"wrong in {len(self.wrong):,} of {sample} ({explained} ulps)", *map(str, self.worst)]
        else:
            parts = [PHRASES[self.word], f"{sample}, at most {self.ulps:.2g} ulps off where {explained}"]
        return f"{self.title}: " + "; ".join([*parts, *filter(None, (self.pattern, self.note))])


@dataclass(frozen=True, repr=False)
class Verdict:
    """The verdict on a backward: an ArgumentVerdict for each array of floats; prints as a short table.

    Attributes
    ----------
    arguments : tuple of ArgumentVerdict
        In the forward's order; verdict["weight"] and verdict[1] pick one.
    dtype : dtype
        In which the pair was run.
    witness : Witness
        What the gradients were compared with.
    known : float
        How far the witness may be off, on the whole, relative to the terms.
    """

    arguments: tuple[ArgumentVerdict, ...]
    dtype: np.dtype[Any]
    witness: Witness
    known: float

    @property
    def word(self) -> str:
        """The worst word of all arguments: "right", "rounding" or "wrong"."""
        return max((a.word for a in self.arguments), key=WORDS.index)

    @property
    def wrong(self) -> tuple[ArgumentVerdict, ...]:
        """The arguments whose gradient is wrong."""
        return tuple(a for a in self.arguments if a.word == "wrong")

    def __getitem__(self, key: int | str) -> ArgumentVerdict:
        """The ArgumentVerdict of an argument, by its index or its name."""
        for argument in self.arguments:
            if key in (argument.index, argument.name):
                return argument
        known = ", ".join(a.title for a in self.arguments)
        raise KeyError(f"the verdict has no argument {key!r}, expected one of {known}")

    def summary(self) -> str:
        """What is wrong in one paragraph, or the verdict in a sentence."""
        if self.wrong:
            return ". ".join(map(str, self.wrong))
        if self.word == "right":
            return "all gradients are correct"
        return "all gradients are correct (they differ by rounding only)"

    def __str__(self) -> str:
        why = f"; {self.witness.why}" if self.witness.why else ""
        head = (
            f"{self.dtype} gradients: {PHRASES[self.word]}."
            f" Witness: {self.witness}, good to {self.known:.0e}{why}"
        )
        rows = [("argument", "shape", "ulps off", "allowed", "verdict")]
        rows += [(a.title, str(a.shape), f"{a.ulps:.2g}", f"{a.limit:.2g}", _told(a)) for a in self.arguments]
        widths = [max(map(len, column)) for column in zip(*rows)][:-1]
        lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]
        return "\n".join([head, *(f"  {line}" for line in lines), *(f"  {a}" for a in self.wrong)])

    __repr__ = __str__


def _told(argument: ArgumentVerdict) -> str:
    """A verdict in a cell of the table, with the note where no line below has it."""
    if argument.word == "wrong":
        return f"wrong in {len(argument.wrong):,} of {argument.examined:,}"
    return "; ".join(filter(None, (PHRASES[argument.word], argument.note)))


def verdict(
    forward: Forward,
    backward: Backward,
    *arrays: ArrayLike | None,
    dtype: DTypeLike | None = None,
    seed: int = 0,
    **options: Any,
) -> Verdict:
    """Whether a backward is right, off by rounding, or wrong: by argument, and in which elements.

    The derivative is computed at the same points in float64: by the complex step where the forward takes
    complex numbers, else by central differences.

    An error within limit_j (ulps.py, and what the witness may be off) is rounding. Beyond it, it is wrong,
    unless the gradient is as restless between points that are a rounding apart, and the same backward is
    right in float64: that is a formula that loses digits, and the verdict says so. And where the float64 run
    shows an error of more than an ulp of float32, that is wrong even if rounding could have hidden it.

    Parameters
    ----------
    forward : callable
        forward(*arrays, **options) → (y, saved).
    backward : callable
        backward(dy, saved) → one gradient per array, None where there is none.
    *arrays : array_like or None
        Integers and None are passed on, and have no verdict. Of an array of more than 2,000 elements 400 are
        looked at, and random directions of all.
    dtype : {float32, float64}, optional
        In which the pair is run; the arrays' own unless given.
    seed : int, default 0
        Draws dy, the sample and the directions.
    **options
        Passed on to the forward.

    Returns
    -------
    Verdict
        An ArgumentVerdict for each array of floats.

    Raises
    ------
    InputError
        The arrays hold no floats, or the forward's value or derivative is not finite there.
    GradientError
        The number or the shapes of the gradients do not fit the arrays.

    Notes
    -----
    Costs one forward per element that is looked at; with central differences at least seven.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt.gradcheck import verdict
    >>> def forward(x):
    ...     return np.sin(x), x
    >>> verdict(forward, lambda dy, x: (dy * np.cos(x),), np.arange(3.0)).word
    'right'
    >>> verdict(forward, lambda dy, x: (-dy * np.cos(x),), np.arange(3.0))["x"].pattern
    'the sign is turned'
    """
    run_dtype = _precision(arrays, dtype)
    case = Case(forward, backward, options, as_dtype(arrays, run_dtype), run_dtype, seed)
    names = argument_names(forward, len(arrays))
    indices = [i for i, point in enumerate(case.points) if is_float(point)]
    picked = {i: case.pick(i) for i in indices}
    columns = {i: case.columns(case.wide, i, picked[i]) for i in indices}
    # How many numbers enter an output, on average: the rows of the derivative, from the columns that were
    # looked at.
    rows = sum(
        case.points[i].size * c.count.mean() / max(case.y.size, 1) for i, c in columns.items() if c.count.size
    )
    with np.errstate(all="ignore"):  # an ulp of 0 is the least of all numbers, and errors are measured in it
        judged = tuple(_judge(case, i, names[i], columns[i], rows) for i in indices)
    error = terms = 0.0
    for c in columns.values():
        known = np.isfinite(c.error)
        error += float(c.error[known].sum())
        terms += float(c.terms[known].sum())
    return Verdict(judged, run_dtype, case.witness, max(EPS64, error / terms if terms else 0.0))


def _precision(arrays: Sequence[Any], dtype: DTypeLike | None) -> np.dtype[Any]:
    """The dtype in which the pair is run; InputError unless it is one that this file can judge."""
    if any(a is not None and np.asarray(a).dtype.kind == "c" for a in arrays):
        raise InputError(
            "verdict: an array is complex, expected real ones: pass its real and imaginary part as two"
            " arguments"
        )
    floats = [np.asarray(a).dtype for a in arrays if is_float(a)]
    if not floats:
        raise InputError("verdict: no array of floats, expected at least one to differentiate by")
    precision = np.dtype(np.result_type(*floats) if dtype is None else dtype)
    if precision not in (np.float32, np.float64):
        raise InputError(f"verdict: dtype is {precision}, expected float32 or float64: say dtype=")
    return precision


def _judge(case: Case, i: int, name: str | None, columns: Columns, rows: float) -> ArgumentVerdict:
    """The ArgumentVerdict of argument i from what is known of its picked elements."""
    columns, left_out = _known(case, i, columns)
    judged = elements(case, i, columns, rows)
    note = left_out
    if not left_out and not judged.wrong.any() and len(columns.picked) < case.points[i].size:
        columns, judged, note = _search_the_rest(case, i, columns, judged, rows)
    return _described(case, i, name, columns, judged, "; ".join(filter(None, (judged.note, note))))


def _known(case: Case, i: int, columns: Columns) -> tuple[Columns, str]:
    """The elements of which the witness knows a derivative, and a note on the others."""
    unknown = np.isnan(columns.exact) | np.isinf(columns.error)
    if not unknown.any():
        return columns, ""
    if unknown.all():
        raise InputError(
            f"verdict: the witness has no derivative by argument {i} at all these points, expected points"
            " where there is one"
        )
    count = int(unknown.sum())
    others = "1 other element" if count == 1 else f"{count:,} other elements"
    return columns.at(~unknown), f"the witness knows nothing of {others}"


def _search_the_rest(
    case: Case, i: int, columns: Columns, judged: Elements, rows: float
) -> tuple[Columns, Elements, str]:
    """Random directions of all elements; where one is off, the elements that it leads to are judged too."""
    span = search(case, i, float(np.sqrt((judged.limit**2).mean())))
    if span is None:
        return columns, judged, f"the rest was checked along {DIRECTIONS} random directions"
    columns = case.columns(case.wide, i, np.union1d(columns.picked, span))
    judged = elements(case, i, columns, rows)
    if judged.wrong.any():
        return columns, judged, "a random direction was off, and halving it led there"
    note = "a random direction is off by more than rounding explains, but no element that was looked at"
    return columns, judged, note


def _described(
    case: Case, i: int, name: str | None, columns: Columns, judged: Elements, note: str
) -> ArgumentVerdict:
    """The ArgumentVerdict that says what was judged."""
    shape, picked, wrong = case.points[i].shape, columns.picked, judged.wrong
    got = case.grads[i].reshape(-1)[picked].astype(np.float64)
    ulps = judged.error / judged.unit
    excess = judged.error / np.maximum(judged.limit, TINY)
    order = np.argsort(-np.where(np.isnan(excess), np.inf, excess), kind="stable")
    if wrong.any():
        order = order[wrong[order]]

    def index(flat: int) -> tuple[int, ...]:
        return tuple(map(int, np.unravel_index(flat, shape)))

    worst = tuple(
        Element(index(picked[k]), float(columns.exact[k]), float(got[k]), float(ulps[k]))
        for k in order[: SHOWN if wrong.any() else 1]
    )
    looks_like = ""
    if wrong.any():
        sample = Sample(picked, columns.exact, got, judged.limit, wrong, shape)
        looks_like = pattern(sample, case.y.shape)
    return ArgumentVerdict(
        index=i,
        name=name,
        shape=shape,
        word=_word(judged),
        ulps=worst[0].ulps if worst else 0.0,
        limit=float((judged.limit / judged.unit)[order[0]]) if worst else 0.0,
        doubt=float((judged.doubt / judged.unit)[order[0]]) if worst else 0.0,
        examined=len(picked),
        wrong=tuple(index(flat) for flat in picked[wrong]),
        worst=worst,
        pattern=looks_like,
        note=note,
    )


def _word(judged: Elements) -> str:
    """right, rounding or wrong."""
    if judged.wrong.any():
        return "wrong"
    is_right = judged.error <= np.maximum(4 * judged.spacing, judged.doubt)
    return "right" if is_right.all() else "rounding"
