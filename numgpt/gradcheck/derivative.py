"""The laws of the derivative: a backward against the complex step and central differences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InputError
from . import kinks, witness
from .case import EPS64, Case, Columns
from .finding import LIMITS, TRANSPOSE, WITNESS, Finding, apart, finding
from .judgement import ROUNDINGS, examine
from .pair import Array, is_float
from .steps import own_sizes, rms
from .trial import Trial, takes
from .ulps import TINY
from .verdicts import Element, Verdict
from .witness import along, differences

KNOWN = 0.01  # of the terms: a second witness that may be off by more is none
FAINT = 1e-10  # of the terms: an element of less has no part in their sum
SOME, JUDGED = 8, 4  # faint elements of an argument that are looked at, and judged closely
SHOWN = 10  # times the sum of the elements' errors, which were measured with another dy


def derivative(trial: Trial) -> Iterator[Finding]:
    """The backward against the complex step and central differences; or against differences alone."""
    transpose = _transpose(trial) if trial.dtype == np.float64 else None
    if transpose is None:
        yield _element_by_element(trial)
        return
    witnessed = _witness(trial)
    is_doubtful = witnessed.limit > KNOWN or (not transpose.holds and not _same(transpose, witnessed))
    if is_doubtful and not _is_complex(trial):
        # differences disagree with it: it is the complex step that the forward does not let through
        yield _element_by_element(trial)
        return

    if transpose.holds and witnessed.holds:
        yield _faint(trial) or transpose
        yield witnessed
        return

    def blame() -> str:
        apart, lines = _blame(trial, witnessed)
        elements = _elements(trial, apart)
        return elements if elements.startswith(kinks.NONE) else ". ".join(filter(None, [lines, elements]))

    def elements() -> str:
        return _elements(trial, 0.0 if transpose.holds else _blame(trial, witnessed)[0])

    for law, detail in ((transpose, blame), (witnessed, elements)):
        if law.holds or law.residual == float("inf"):
            yield law
        else:
            yield Finding(law.law, law.residual, law.limit, detail)


def _faint(trial: Trial) -> Finding | None:
    """The law as the elements break it that are lost in the sums; None where they do not.

    Of those whose terms are below FAINT of all the sum could show no error. So some of them are moved alone,
    and where the gradient is another the Verdict on them decides.
    """
    rng = np.random.default_rng([trial.seed, 10])
    moving = trial.moving()
    total = sum(float(abs(grad * v).sum()) for _, v, grad in moving)
    only: dict[int, Array] = {}
    for i, v, grad in moving:
        size = abs(grad * v).reshape(-1)
        flat = np.flatnonzero((size > 0) & (size < FAINT * total))
        some = np.sort(rng.permutation(flat)[:SOME])
        off = [flat for flat in map(int, some) if _is_off(trial, i, flat)]
        if off:
            only[i] = np.array(off[:JUDGED])
    if not only:
        return None
    try:
        judged, _, _ = examine(
            trial.forward, trial.backward, trial.arrays, trial.options, np.float64, trial.seed, only
        )
    except InputError:  # what is unknown is not wrong
        return None
    if not judged.wrong:
        return None
    return finding(TRANSPOSE, max(map(_off, judged.wrong[0].worst)), judged.summary())


def _is_off(trial: Trial, i: int, flat: int) -> bool:
    """Whether an element differs from the complex step's, by more than roundings of dy y / x.

    And by more than that step differs from a longer one.
    """
    array, got = trial.arrays[i], float(trial.grads[i].reshape(-1)[flat])
    direction = np.zeros(array.shape)
    directions = [direction if n == i else None for n in range(len(trial.arrays))]

    def slope(scale: float) -> Array:
        direction.reshape(-1)[flat] = scale
        return np.asarray(along(trial.forward, trial.arrays, directions, trial.options) / scale)

    first = slope(1.0)
    exact = float((trial.dy * first).sum())
    acts = (first != 0) | ~np.any(first)
    carried = float((abs(trial.dy * trial.y) * acts).sum())
    room = 1e-6 * max(abs(got), abs(exact)) + ROUNDINGS * EPS64 * carried / max(rms(array), TINY)
    if abs(got - exact) <= room:
        return False
    return abs(got - exact) > room + 8 * abs(exact - float((trial.dy * slope(1.7)).sum()))


def _same(transpose: Finding, witnessed: Finding) -> bool:
    """Whether differences find the backward about as far off as the complex step does.

    The two move the arrays by different amounts.
    """
    return transpose.residual <= 100 * witnessed.residual + LIMITS[WITNESS]


def _is_complex(trial: Trial) -> bool:
    """Whether the complex step can be believed of the forward."""
    return witness.choose(trial.forward, trial.arrays, trial.dtype, trial.options, trial.seed).complex


def _element_by_element(trial: Trial) -> Finding:
    """The gradients against central differences alone, with the limits of a Verdict."""
    judged, _, _ = _examined(trial)
    if not judged.wrong and judged.kinks:
        return Finding(WITNESS, float("inf"), LIMITS[WITNESS], judged.kinks)
    worst = max(judged.arguments, key=lambda a: (bool(a.wrong), a.ulps))
    eps = float(np.finfo(judged.dtype).eps)
    limit = worst.limit
    if not judged.wrong:
        limit = max(limit, worst.ulps)  # beyond it and not wrong: a formula that loses digits
    residual, limit = worst.ulps * eps, limit * eps
    if judged.wrong and not residual > limit:  # beside 0, where an ulp is the least of all numbers
        residual, limit = max(map(_off, worst.worst)), LIMITS[WITNESS]
    detail = f"{judged.summary()}. Witness: {judged.witness}; {judged.witness.why}"
    return Finding(WITNESS, residual, limit, detail)


def _off(element: Element) -> float:
    """How far an element is off, relative to what is larger, it or what it should be."""
    return float(abs(element.got - element.expected) / max(abs(element.got), abs(element.expected)))


def _examined(trial: Trial) -> tuple[Verdict, Case, dict[int, Columns]]:
    pair = trial.forward, trial.backward
    return examine(*pair, trial.arrays, trial.options, seed=trial.seed, computes=trial.computes)


def _elements(trial: Trial, apart: float) -> str:
    """Why a law of the derivative is broken: the wrong elements, a point without a derivative, or rounding.

    apart: |⟨dy, Jv⟩ − ⟨gradient, v⟩|. That rounding explains it is said where the elements' errors add up to
    that.
    """
    try:
        judged, case, columns = _examined(trial)
    except InputError as error:  # the witness knows nothing
        return str(error)
    if judged.wrong:
        return judged.summary()
    at_kinks = _kinks(trial, case)
    if at_kinks:
        return at_kinks
    off = 0.0
    for i, v, _ in trial.moving():
        picked = columns[i].picked
        errors = abs(columns[i].exact - case.grads[i].reshape(-1)[picked]) * abs(v.reshape(-1)[picked])
        off += float(errors.sum()) * v.size / max(len(picked), 1)
    if judged.word == "rounding" and apart <= SHOWN * off:
        return f"Element by element {judged.summary()}: at these points rounding explains that much"
    return (
        f"Element by element {judged.summary()}, which does not explain the residual: near these points the"
        " function bends, jumps or loses digits in the directions that were tried. Try other points"
    )


def _kinks(trial: Trial, case: Case) -> str:
    """Where the function has no derivative, "" where it has one everywhere that is looked at."""
    sentences = []
    for i, _, _ in trial.moving():
        picked = [int(flat) for flat in case.pick(i)]
        places = [j for j in picked if kinks.sides(case.witness, case.wide, i, j) is not None]
        if places:
            shape = case.points[i].shape
            indices = [tuple(map(int, np.unravel_index(flat, shape))) for flat in places]
            sentences.append(kinks.sentence(trial.names()[i], indices))
    return "; ".join(sentences)


def _transpose(trial: Trial) -> Finding | None:
    """⟨dy, Jv⟩ = ⟨Jᵀdy, v⟩, relative to the absolute sum of the terms on both sides.

    None if the forward raises on complex numbers, or gives real ones for them.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            y = witness.imaginary(trial.forward, trial.arrays, trial.directions, trial.options)
    except Exception:  # whatever the user's code raises means that it does not take them
        return None
    if y.dtype.kind != "c":
        return None
    forth = trial.dy * (y.imag / witness.H)
    return finding(TRANSPOSE, apart(forth, [grad * v for _, v, grad in trial.moving()]))


def _blame(trial: Trial, witnessed: Finding) -> tuple[float, str]:
    """How far the two products are apart, and which argument's gradient is wrong, or what else it may be."""
    names, lines, apart = trial.names(), [], 0.0
    for i, v, grad in trial.moving():
        slope = along(trial.forward, trial.arrays, trial.only(i), trial.options)
        forth, back = float((trial.dy * slope).sum()), float((grad * v).sum())
        apart += abs(forth - back)
        if not abs(forth - back) <= 1e-12 * (abs(forth) + abs(back)):
            lines.append(f"{names[i]}: ⟨dy, Jv⟩ = {forth:.12g} but ⟨gradient, v⟩ = {back:.12g}")
    if witnessed.holds:
        lines.append(
            "central differences agree with the backward to 1e-8: the error is smaller, or the forward loses"
            " a small part of complex numbers on the way (np.abs, np.var, a comparison)"
        )
    return apart, "; ".join(lines)


def _witness(trial: Trial) -> Finding:
    """The same derivative by central differences in longdouble, which know nothing of complex numbers.

    They know how far they may be off, where the values are large beside the arrays and hide their steps: so
    much is granted, but not at a kink.
    """
    dtype: np.dtype[Any] = np.dtype(np.longdouble)
    detail = ""
    if not takes(trial.forward, trial.arrays, dtype, trial.options):
        detail, dtype = f"in float64, because the forward takes no {dtype}", np.dtype(np.float64)
    # each element moves in proportion to its own size
    sizes = [own_sizes(a) if is_float(a) else 0.0 for a in trial.arrays]
    directions = [None if v is None else v * size for v, size in zip(trial.directions, sizes)]
    slope, error = differences(trial.forward, trial.arrays, directions, trial.options, dtype)
    with np.errstate(all="ignore"):
        forth, back = trial.dy * slope, [grad * v * sizes[i] for i, v, grad in trial.moving()]
        terms = abs(forth).sum() + sum(abs(b).sum() for b in back)
        residual = apart(forth, back)
        granted = float((abs(trial.dy) * error).sum() / terms) if terms else 0.0
    limit = LIMITS[WITNESS]
    if limit < residual <= limit + granted:
        _, case, _ = _examined(trial)
        at_kinks = _kinks(trial, case)
        if at_kinks:
            return Finding(WITNESS, float("inf"), limit, at_kinks)
        limit += granted
    return Finding(WITNESS, residual, limit, detail)
