"""Which mistake explains a wrong gradient: the terms as they are, or with one or two mistakes in them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from . import terms as of_terms
from .exercise import Array, Case, Exercise, Term, Values, Variant
from .verdict import Coefficient, Finding

AT_ONCE = 2  # mistakes in the terms, beside those of their coefficients
COST = 1.05  # of such a mistake, where that of a coefficient is about 1


class Diagnosis(NamedTuple):
    """The simplest explanation of a gradient: its findings, and the table of its terms."""

    findings: tuple[Finding, ...]
    coefficients: tuple[Coefficient, ...]


def diagnose(exercise: Exercise, name: str, got: Array, case: Case, values: Values) -> Diagnosis | None:
    """The explanation that takes the fewest mistakes; None where none is known."""
    best: Diagnosis | None = None
    cheapest = np.inf
    for variants in _combinations(exercise, name, values):
        base = COST * len(variants)
        if base >= cheapest:
            break  # they come in the order of their number
        terms = _terms(exercise, name, got, values, variants)
        if not terms:
            continue
        fitted = of_terms.fit(got, terms)
        if fitted.residual > of_terms.RESIDUAL:
            continue
        said = of_terms.say(exercise, name, terms, fitted, dict(case.numbers))
        if base + said.cost < cheapest:
            cheapest = base + said.cost
            mistakes = tuple(_finding(exercise, name, variant) for variant in variants)
            best = Diagnosis((*mistakes, *said.findings), of_terms.table(terms, fitted))
    return best


def _terms(
    exercise: Exercise, name: str, got: Array, values: Values, variants: tuple[Variant, ...]
) -> tuple[Term, ...]:
    """The terms with mistakes in them; none where these mistakes make no gradient of this shape."""
    try:
        with np.errstate(all="ignore"):
            for variant in variants:
                values = variant.changed(values)
            terms = exercise.terms(values)[name]
    except (ValueError, IndexError):  # shapes that do not fit
        return ()
    fits = all(term.array.shape == got.shape and np.isfinite(term.array).all() for term in terms)
    return terms if fits else ()


def _finding(exercise: Exercise, name: str, variant: Variant) -> Finding:
    code = f"{exercise.prefix}_{variant.key}"
    return Finding(code, exercise.says.get(code, f"{name} {variant.says}"), name)


def _combinations(exercise: Exercise, name: str, values: Values) -> Iterator[tuple[Variant, ...]]:
    """No mistake, each alone, and each two of those that may be in a gradient."""
    every = [
        v
        for v in (*exercise.variants, *_upstream(exercise, values))
        if not v.gradients or name in v.gradients
    ]
    for count in range(AT_ONCE + 1):
        yield from itertools.combinations(every, count)


def _upstream(exercise: Exercise, values: Values) -> tuple[Variant, ...]:
    """Mistakes with what comes from above, which any backward may make."""
    dy = getattr(values, "dy", None)
    ignored = f"does not use {next(iter(inspect.signature(exercise.solution).parameters))}"
    if not isinstance(dy, np.ndarray) or dy.ndim < 2:
        return (Variant("DY_IGNORED", ignored, lambda v: v.but(dy=1.0)),) if dy is not None else ()
    first, last, last_place = (np.zeros_like(dy) for _ in range(3))
    first[0], last[-1], last_place[:, -1] = 1, 1, 1
    return (
        Variant("DY_IGNORED", ignored, lambda v: v.but(dy=np.ones_like(dy))),
        Variant("FIRST_ONLY", "comes from the first of the batch alone", lambda v: v.but(dy=v.dy * first)),
        Variant("LAST_ONLY", "comes from the last of the batch alone", lambda v: v.but(dy=v.dy * last)),
        Variant(
            "LAST_POSITION_ONLY", "comes from the last position alone", lambda v: v.but(dy=v.dy * last_place)
        ),
    )
