"""The laws of the derivative: a backward against the complex step and central differences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InputError
from . import kinks, witness
from .finding import LIMITS, TRANSPOSE, WITNESS, Finding, apart, finding
from .judgement import examine
from .pair import is_float
from .trial import Trial, takes
from .ulps import Case, Columns
from .verdicts import Verdict
from .witness import along, differences

SHOWN = 10  # times the sum of the elements' errors, which were measured with another dy


def derivative(trial: Trial) -> Iterator[Finding]:
    """The backward against the complex step and central differences; or against differences alone."""
    transpose = _transpose(trial) if trial.dtype == np.float64 else None
    if transpose is None:
        yield _element_by_element(trial)
        return
    witnessed = _witness(trial)
    if not transpose.holds and not _same(transpose, witnessed) and not _is_complex(trial):
        # differences disagree with it: it is the complex step that the forward does not let through
        yield _element_by_element(trial)
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
    detail = f"{judged.summary()}. Witness: {judged.witness}; {judged.witness.why}"
    return Finding(WITNESS, worst.ulps * eps, limit * eps, detail)


def _examined(trial: Trial) -> tuple[Verdict, Case, dict[int, Columns]]:
    return examine(trial.forward, trial.backward, trial.arrays, trial.options, seed=trial.seed)


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

    None if the forward raises on complex numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            forth = trial.dy * along(trial.forward, trial.arrays, trial.directions, trial.options)
    except Exception:  # whatever the user's code raises means that it does not take them
        return None
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
    # each array moves in proportion to its own size
    sizes = [float(abs(a).max(initial=0.0)) or 1.0 if is_float(a) else 0.0 for a in trial.arrays]
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
