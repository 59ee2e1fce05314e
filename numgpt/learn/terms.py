"""Least squares on the terms of a gradient: the coefficients say which of them a wrong gradient has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .exercise import Array, Exercise, Term
from .ratios import Ratio, named
from .verdict import Coefficient, Finding

RESIDUAL = 1e-9  # relative: what least squares leave of a gradient that the terms explain
ROUNDINGS = 256  # 4 √n roundings of n = 4096 numbers, more than a gradient of any case has


class Fit(NamedTuple):
    """The coefficients of the terms that come nearest to a gradient, and what is left of it."""

    coefficients: list[float]
    residual: float


def wanted(terms: Sequence[Term]) -> Array:
    """The gradient as the signed sum of its terms."""
    total: Array = np.zeros_like(terms[0].array)
    for term in terms:
        total = total + term.want * term.array
    return total


def rounding(got: Array, terms: Sequence[Term]) -> tuple[float, float]:
    """(the largest difference, the same in roundings of the largest sum of the terms' sizes)."""
    scale = sum(abs(term.want) * abs(term.array) for term in terms)
    largest = float(np.max(scale, initial=0.0))
    difference = float(np.max(abs(got - wanted(terms)), initial=0.0))
    return difference, difference / float(np.spacing(largest if largest > 0 else 1.0))


def fit(got: Array, terms: Sequence[Term]) -> Fit:
    """The terms fitted to a gradient by least squares; of equal fits, that nearest to what is wanted."""
    columns = np.stack([np.broadcast_to(term.array, got.shape).reshape(-1) for term in terms], -1)
    sizes = np.sqrt((columns * columns).sum(0))
    sizes = np.where(sizes == 0, 1.0, sizes)
    want = np.array([term.want for term in terms]) * sizes
    off = got.reshape(-1) - columns / sizes @ want
    solved = want + np.linalg.lstsq(columns / sizes, off, rcond=1e-12)[0]
    left = np.linalg.norm(columns / sizes @ solved - got.reshape(-1))
    whole = max(float(np.linalg.norm(got)), float(np.linalg.norm(wanted(terms))))
    return Fit([float(c) for c in solved / sizes], float(left / whole) if whole else 0.0)


class Named(NamedTuple):
    """What the coefficients of a fit say: findings, and how much had to be said."""

    findings: tuple[Finding, ...]
    cost: float


def say(
    exercise: Exercise, name: str, terms: Sequence[Term], fitted: Fit, numbers: dict[str, float]
) -> Named:
    """The findings of the terms' coefficients: one for all where all are off by one factor, else one each."""
    pairs = list(zip(terms, fitted.coefficients))
    ratios = [named(_snapped(got), term.want, numbers) for term, got in pairs]
    in_place = [r is not None and r.kind == "ONCE" for r in ratios]
    in_place = [ok or (term.want == 0 and r is None) for ok, r, (term, _) in zip(in_place, ratios, pairs)]
    if all(in_place):
        return Named((), 0.0)
    prefix, gradient = exercise.prefix, exercise.original(name).upper()
    real = [(term, got, r) for (term, got), r in zip(pairs, ratios) if term.want != 0]
    quotients = [got / term.want for term, got, _ in real]
    no_extra = all(ok for ok, (term, _) in zip(in_place, pairs) if term.want == 0)
    if np.allclose(quotients, quotients[0], rtol=1e-7, atol=1e-9) and no_extra:
        ratio = real[0][2]
        kind = "SCALED" if ratio is None else ratio.kind.replace("MISSING", "ZERO")
        how = f"is {quotients[0]:.6g} times what is needed" if ratio is None else ratio.says
        how = "is 0" if kind == "ZERO" else how
        finding = _finding(exercise, f"{prefix}_{gradient}_{kind}", f"{name} {how}", name, quotients[0], 1)
        return Named((finding,), _cost(ratio))
    findings, cost = [], 0.0
    for (term, got), ratio, ok in zip(pairs, ratios, in_place):
        if not ok:
            kind = "SCALED" if ratio is None else ratio.kind
            how = f"has the factor {got:.6g}, expected {term.want:g}" if ratio is None else ratio.says
            code = f"{prefix}_{term.key.upper()}_TERM_{kind}"
            says = f"the term {term.text} {how}"
            findings.append(_finding(exercise, code, says, name, got, term.want, term.key))
            cost += _cost(ratio)
    return Named(tuple(findings), cost)


def table(terms: Sequence[Term], fitted: Fit) -> tuple[Coefficient, ...]:
    """The coefficients beside those that are wanted."""
    rows = zip(terms, fitted.coefficients)
    return tuple(Coefficient(term.text, _snapped(got), float(term.want)) for term, got in rows)


def _snapped(coefficient: float) -> float:
    """A coefficient without the noise of least squares around 0."""
    return 0.0 if abs(coefficient) < RESIDUAL else coefficient


def _cost(ratio: Ratio | None) -> float:
    return 4.0 if ratio is None else 0.9 + 0.1 * ratio.names


def _finding(
    exercise: Exercise, code: str, says: str, name: str, got: float, want: float, term: str = ""
) -> Finding:
    numbers = {"term": term} if term else {}
    return Finding(code, exercise.says.get(code, says), name, {**numbers, "got": _snapped(got), "want": want})
