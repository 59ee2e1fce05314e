"""The verdict on a backward: for each argument right, rounding or wrong, and in which elements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import Count, DType, checked
from ..errors import InputError
from . import kinks
from .case import EPS64, Case, Columns
from .options import expect_clear
from .pair import Array, Backward, Forward, argument_names, as_dtype, is_float, plain, title
from .patterns import Sample, pattern
from .places import reached
from .precision import computes_in_single
from .ulps import DIRECTIONS, ELEMENTARY, TINY, Elements, elements, search, suspects
from .verdicts import SHOWN, ArgumentVerdict, Element, Verdict


@expect_clear("forward")
@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def verdict(
    forward: Forward,
    backward: Backward,
    *arrays: ArrayLike | None,
    dtype: DType | None = None,
    seed: Count = 0,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Verdict:
    """Whether a backward is right, off by rounding, or wrong: by argument, and in which elements.

    The derivative is computed at the same points in float64: by the complex step where the forward takes
    complex numbers, else by central differences.

    An error within limit_j (ulps.py, and what the witness may be off) is rounding. Beyond it, it is wrong,
    unless the gradient is as restless between points that are a rounding apart, and the same backward is
    right in float64: that is a formula that loses digits, and the verdict says so. A forward that computes in
    float32 inside, whatever its arrays have, is judged in float32. And where the float64 run
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
    options : mapping, optional
        Options of the forward, such as those that have a name of ours: options={"seed": 3}.
    **more
        Other options of the forward.

    Returns
    -------
    Verdict
        An ArgumentVerdict for each array of floats.

    Raises
    ------
    InputError
        The arrays hold no floats, the forward's value or derivative is not finite there, or it computes in
        half precision. Or an option of the forward has the name of ours, and options is not given.
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
    'the sign is flipped'
    """
    judged = _settled(forward, backward, plain(arrays), {**(options or {}), **more}, dtype, seed)
    for argument in judged.arguments:
        if argument.kinks and not argument.examined:
            raise InputError(
                f"verdict: {kinks.sentence(argument.title, argument.kinks)}, so that the derivative exists"
            )
    return judged


def _settled(
    forward: Forward,
    backward: Backward,
    arrays: Sequence[Any],
    options: dict[str, Any],
    dtype: DType | None,
    seed: int,
) -> Verdict:
    """The Verdict; in float32 where it would be wrong because the forward computes in float32 inside."""
    failure = None
    try:
        judged, _, _ = examine(forward, backward, arrays, options, dtype, seed)
        if not judged.wrong or judged.witness.complex:
            return judged
    except InputError as error:  # such as a witness that knows nothing
        failure = error
    computes = computes_in_single("verdict", forward, arrays, options, seed)
    if computes:
        return examine(forward, backward, arrays, options, np.float32, seed, computes=computes)[0]
    if failure is not None:
        raise failure
    return judged


def examine(
    forward: Forward,
    backward: Backward,
    arrays: Sequence[Any],
    options: dict[str, Any],
    dtype: DType | None = None,
    seed: int = 0,
    only: dict[int, Array] | None = None,
    computes: str = "",
) -> tuple[Verdict, Case, dict[int, Columns]]:
    """The Verdict, and what it was judged by: the Case, and the columns of each argument.

    only: the flat indices of the elements that are judged, by argument, and by the complex step.
    computes: SINGLE of precision.py where the forward does, "" where it does not.
    """
    run_dtype = _precision(arrays, dtype)
    case = Case(forward, backward, options, as_dtype(arrays, run_dtype), run_dtype, seed, only, computes)
    names = argument_names(forward, len(arrays))
    moving = [i for i, p in enumerate(case.points) if is_float(p) and i not in case.constants]
    indices = [i for i in moving if only is None or i in only]
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
    for argument in judged:
        c = columns[argument.index]
        known = np.isfinite(c.error) & ~np.isin(c.picked, _flat(argument.kinks, argument.shape))
        error += float(c.error[known].sum())
        terms += float(c.terms[known].sum())
    known_to = max(EPS64, error / terms if terms else 0.0)
    return Verdict(judged, run_dtype, case.witness, known_to), case, columns


def _precision(arrays: Sequence[Any], dtype: DType | None) -> np.dtype[Any]:
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
    size = len(columns.picked)
    columns = _known(i, columns)
    unknown = size - len(columns.picked)
    found = dataclasses.replace(_elements(case, i, name, columns, rows), unknown=unknown)
    left_out = "; ".join(filter(None, (_left_out(unknown + found.vague), _unsure(found.unsure))))
    note = left_out
    is_sample = len(columns.picked) < case.points[i].size and case.only is None
    if is_sample and not left_out and not found.kinks and not found.judged.wrong.any():
        found, note = _search_the_rest(case, i, name, found, rows)
    return _described(case, i, name, found, note)


FAR = 20.0  # distances of the two sides: a gradient that lies further outside has another reason
ROUNDINGS = 8  # of dy y / x: a smaller gradient is 0


@dataclass(frozen=True)
class Found:
    """What is known of the elements that were judged, and which were not, because they are at a kink."""

    columns: Columns
    judged: Elements
    kinks: tuple[tuple[int, ...], ...] = ()
    vague: int = 0  # elements of which the witness cannot even tell the sign
    unsure: int = 0  # elements that are 0 but for what may be rounding
    unknown: int = 0  # elements without a derivative


def _elements(case: Case, i: int, name: str | None, columns: Columns, rows: float) -> Found:
    """The picked elements judged, but for those at a kink that are as one of the two sides, or between."""
    order = suspects(case, i, columns, rows)
    rest = np.delete(columns.picked, order)
    there = kinks.search(case.witness, case.wide, i, columns.picked[order].tolist(), rest.tolist())
    is_at_kink, is_wrong = np.zeros((2, len(columns.picked)), bool)
    for k, flat in enumerate(columns.picked.tolist()):
        if flat in there:
            away = _distance_from(case, i, flat, there[flat])
            is_at_kink[k] = away == 0
            is_wrong[k] = 0 < away <= FAR
    shape = case.points[i].shape
    places = tuple(_index(flat, shape) for flat in columns.picked[is_at_kink])
    is_vague = _is_vague(case, i, columns) & ~is_at_kink & ~is_wrong
    if is_vague.any() and (is_vague | is_at_kink).all():
        raise _unknown(i, ": its own error is as large as the gradient, for the value hides the steps")
    chosen = ~(is_at_kink | is_vague)
    columns = columns.at(chosen)
    judged = elements(case, i, columns, rows)
    judged = dataclasses.replace(judged, wrong=judged.wrong | is_wrong[chosen])
    unsure = judged.unsure & ~judged.wrong
    if unsure.any() and unsure.all():
        raise _unknown(i, ": it is off by no more than what may cancel inside the formula")
    return Found(columns.at(~unsure), judged.at(~unsure), places, int(is_vague.sum()), int(unsure.sum()))


def _is_vague(case: Case, i: int, columns: Columns) -> Array:
    """Of which elements the witness may be off by more than they are, and by some of the largest of all.

    But not those that are 0 but for roundings, beside values of this size.
    """
    got = abs(case.grads[i].reshape(-1)[columns.picked].astype(np.float64))
    size = np.maximum(columns.terms, got)
    place = max(float(np.sqrt((case.wide[i] ** 2).mean())), TINY)
    is_zero = got <= ROUNDINGS * case.eps * columns.carried / place
    return np.asarray((columns.error > size) & ~is_zero)


def _distance_from(case: Case, i: int, flat: int, there: kinks.Sides) -> float:
    """How far the gradient of an element at a kink lies outside of its two sides, in their distance.

    But for what rounding explains, and what the witness may be off.
    """
    direction = np.zeros(case.points[i].shape)
    direction.reshape(-1)[flat] = 1.0
    directions = [direction if n == i else None for n in range(len(case.points))]
    dy = case.dy.astype(np.float64)
    least, most, room = there.between(dy, *case.witness.derivative(case.wide, directions))
    got = float(case.grads[i].reshape(-1)[flat])
    size = abs(dy * np.maximum(abs(there.left), abs(there.right))).sum()
    room += 4 * np.sqrt(dy.size + ELEMENTARY) * case.eps * max(size, abs(least), abs(most))
    return max(least - got - room, got - most - room, 0.0) / max(most - least, TINY)


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A flat index as one of the array's."""
    return tuple(map(int, np.unravel_index(flat, shape)))


def _flat(indices: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> Array:
    """The flat indices of some of an array's."""
    return np.array([np.ravel_multi_index(index, shape) if shape else 0 for index in indices], np.int64)


def _indices(case: Case, i: int, picked: Array) -> list[tuple[int, ...]]:
    return [_index(flat, case.points[i].shape) for flat in picked]


def _known(i: int, columns: Columns) -> Columns:
    """The elements of which the witness knows a derivative."""
    unknown = np.isnan(columns.exact) | np.isinf(columns.error)
    if not unknown.any():
        return columns
    if unknown.all():
        raise _unknown(i)
    return columns.at(~unknown)


def _unknown(i: int, why: str = "") -> InputError:
    """The error of an argument of whose gradient the witness knows nothing."""
    return InputError(
        f"verdict: the witness has no derivative by argument {i} at all these points{why}; expected points"
        " where there is one"
    )


def _left_out(count: int) -> str:
    """Of how many elements the witness knows nothing, in words; "" for none."""
    others = "1 other element" if count == 1 else f"{count:,} other elements"
    return f"the witness knows nothing of {others}" if count else ""


def _unsure(count: int) -> str:
    """How many elements may be wrong or rounded, in words; "" for none."""
    others = "1 other element is" if count == 1 else f"{count:,} other elements are"
    return f"{others} 0 but for what may be rounding, or a mistake" if count else ""


def _search_the_rest(case: Case, i: int, name: str | None, found: Found, rows: float) -> tuple[Found, str]:
    """Random directions of all elements; where one is off, the elements that it leads to are judged too."""
    span = search(case, i, float(np.sqrt((found.judged.limit**2).mean())))
    if span is None:
        return found, f"the rest was checked along {DIRECTIONS} random directions"
    columns = case.columns(case.wide, i, np.union1d(found.columns.picked, span))
    found = _elements(case, i, name, columns, rows)
    if found.judged.wrong.any():
        return found, "a random direction was off, and halving it led there"
    if found.kinks:
        return found, ""
    return (
        found,
        "a random direction is off by more than rounding explains, but no element that was looked at",
    )


def _described(case: Case, i: int, name: str | None, found: Found, note: str) -> ArgumentVerdict:
    """The ArgumentVerdict that says what was judged."""
    columns, judged = found.columns, found.judged
    shape, picked, wrong = case.points[i].shape, columns.picked, judged.wrong
    got = case.grads[i].reshape(-1)[picked].astype(np.float64)
    ulps = judged.error / judged.unit
    excess = judged.error / np.maximum(judged.limit, TINY)
    order = np.argsort(-np.where(np.isnan(excess), np.inf, excess), kind="stable")
    if wrong.any():
        order = order[wrong[order]]

    worst = tuple(
        Element(_index(picked[k], shape), float(columns.exact[k]), float(got[k]), float(ulps[k]))
        for k in order[: SHOWN if wrong.any() else 1]
    )
    at_kinks = kinks.sentence(title(i, name), found.kinks) if found.kinks else ""
    looks_like = ""
    if wrong.any():
        sample = Sample(picked, columns.exact, got, judged.limit, wrong, shape)
        looks_like = pattern(sample, case.y.shape)
        if not got[wrong].any() and len(picked) == case.points[i].size:
            is_needed = (wrong | (got != 0)).reshape(shape)
            looks_like = f"they are zero: {reached(wrong.reshape(shape), is_needed)}"
    return ArgumentVerdict(
        index=i,
        name=name,
        shape=shape,
        word=_word(judged, got),
        ulps=worst[0].ulps if worst else 0.0,
        limit=float((judged.limit / judged.unit)[order[0]]) if worst else 0.0,
        doubt=float((judged.doubt / judged.unit)[order[0]]) if worst else 0.0,
        examined=len(picked),
        wrong=tuple(_indices(case, i, picked[wrong])),
        worst=worst,
        pattern=looks_like,
        note="; ".join(filter(None, (judged.note, note, at_kinks))),
        kinks=found.kinks,
        unknown=found.unknown + found.vague + found.unsure,
    )


def _word(judged: Elements, got: Array) -> str:
    """right, rounding, missing or wrong."""
    if judged.wrong.any():
        return "wrong" if got[judged.wrong].any() else "missing"
    is_right = judged.error <= np.maximum(4 * judged.spacing, judged.doubt)
    return "right" if is_right.all() else "rounding"
