"""How sure a measure is: its error, that of a difference between two models, and pass@k."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..argument_kinds import as_array
from ..arguments import Count, Size, checked
from ..errors import InputError
from ..random import generator

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value with its standard error; NaN where there are too few questions for one."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f}"


@checked
def estimate(scores: Any, weights: Any = None) -> Estimate:
    """The mean of scores, or Σ scores / Σ weights, with its standard error.

        mean m = ⟨x⟩              error = √(Σ (x − m)² / (N − 1)) / √N
        ratio m = Σ x / Σ w        error = √(Σ (x − m w)² N / (N − 1)) / Σ w

    The second is that of a ratio's linear part (the delta method), and the first where all weights are 1.

    Parameters
    ----------
    scores : numbers (N,)
        Of each question: 1 where it is right, nats of a document.
    weights : numbers (N,), optional
        What the sum is divided by: words or bytes of a document.

    Examples
    --------
    >>> print(estimate([1, 0, 1, 1]))
    0.7500 ± 0.2500
    """
    x = _numbers("scores", scores)
    w = np.ones_like(x) if weights is None else _numbers("weights", weights, x.shape)
    N, total = len(x), w.sum()
    if N == 0 or total <= 0:
        raise InputError(f"estimate: {N} scores whose weights add up to {total:g}, expected more than 0")
    value = x.sum() / total
    if N == 1:
        return Estimate(float(value), math.nan)
    spread = ((x - value * w) ** 2).sum() * N / (N - 1)
    return Estimate(float(value), float(np.sqrt(spread) / total))


@checked
def difference(scores: Any, others: Any, weights: Any = None) -> Estimate:
    """How much higher scores are than others on the same questions, with the error of the paired difference.

    Two models tend to find the same questions hard, so that a difference is surer than its two sides.

    Parameters
    ----------
    scores, others : numbers (N,)
        Of the same questions, in the same order.
    weights : numbers (N,), optional
        As in estimate.

    Examples
    --------
    >>> print(difference([1, 1, 1, 0], [1, 0, 1, 0]))
    0.2500 ± 0.2500
    """
    x = _numbers("scores", scores)
    return estimate(x - _numbers("others", others, x.shape), weights)


@checked
def bootstrap(scores: Any, weights: Any = None, *, draws: Size = 1000, seed: int = 0) -> Estimate:
    """As estimate, its error that of resampled questions: for who doubts the formula.

    Parameters
    ----------
    scores, weights : numbers (N,)
        As in estimate.
    draws : int
        How often N of the questions are drawn with replacement; lm-eval draws 100,000 times.
    seed : int

    Examples
    --------
    >>> print(bootstrap([1, 0, 1, 1] * 25))  # the formula says 0.0435
    0.7500 ± 0.0427
    """
    value = estimate(scores, weights).value
    x = _numbers("scores", scores)
    w = np.ones_like(x) if weights is None else _numbers("weights", weights, x.shape)
    rng = generator(seed, "bootstrap")
    found = []
    for _ in range(draws):
        drawn = rng.integers(0, len(x), len(x))
        found.append(x[drawn].sum() / w[drawn].sum())
    return Estimate(value, float(np.std(found)))


@checked
def pass_at_k(n: Size, right: Count, k: Size) -> float:
    """The chance that k of n samples hold a right one, where `right` of the n are.

        pass@k = 1 − C(n − c, k) / C(n, k)

    1 − (1 − c/n)^k, as if samples were put back, is too low: it lets a sample be drawn twice.

    Raises
    ------
    InputError
        For more right ones, or a greater k, than there are samples.

    Examples
    --------
    >>> f"{pass_at_k(16, 3, 4):.3f}, put back {1 - (1 - 3 / 16) ** 4:.3f}"
    '0.607, put back 0.564'
    """
    if right > n or k > n:
        raise InputError(f"pass_at_k: right is {right} and k {k} of n {n} samples, expected at most n")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def _numbers(name: str, given: Any, shape: tuple[int, ...] | None = None) -> Array:
    """Finite numbers (N,) in float64."""
    array = as_array(f"estimate: {name}", given, "numbers (N,)")
    if array.dtype.kind not in "biuf" or array.ndim != 1 or not np.isfinite(array).all():
        raise InputError(
            f"estimate: {name} are {array.dtype} of shape {array.shape}, expected finite numbers (N,)"
        )
    if shape is not None and array.shape != shape:
        raise InputError(f"estimate: {name} have shape {array.shape}, expected {shape} as the scores")
    return array.astype(np.float64)
