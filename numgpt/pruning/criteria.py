"""Criteria: what it is estimated to cost to remove a weight, a neuron or a head.

Give what may be removed, a unit u, a gate ξ_u = 1 that multiplies it. To remove it is to close the gate:

    L(ξ_u = 0) − L(ξ_u = 1) ≈ −∂L/∂ξ_u + ½ ∂²L/∂ξ_u²        Taylor's first terms at ξ_u = 1

    magnitude    |w|                       without data: what is small does little
    gradient     |∂L/∂ξ_u|                 the first term, whose sign is chance where others are removed, too
    fisher       ½ ⟨(∂L_n/∂ξ_u)²⟩_n        the second term, where training has made the first 0: the mean
                                           second derivative is the mean square of the first where the model
                                           predicts as the data are distributed (the Fisher matrix's diagonal)

L is the mean loss, L_n that of row n. For a single weight w the gate's derivative is w ∂L/∂w, since w ξ is
what the model reads; so fisher is ½ w² ⟨g²⟩.

Sources: Han et al. 2015 (magnitude); Mozer and Smolensky 1989, Molchanov et al. 2017 (gradient); LeCun,
Denker and Solla 1990, Theis et al. 2018 (fisher).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..architecture.pruned import CRITERIA

Array = NDArray[Any]
WITH_DATA = CRITERIA[1:]
TOKENS = 4096  # read at once where rows need not be told apart


class Model(Protocol):
    """What is asked of a model, one without additions that hide its weights."""

    config: Config

    @property
    def params(self) -> Flat:
        """Its parameters."""

    def loss_and_grads(self, tokens: Any, targets: Any, *, grads: Any = None) -> tuple[Any, Flat]:
        """The mean loss, and its gradients."""


def of_weights(name: str, products: Array) -> Array:
    """The gates of single weights: w ∂L/∂w as it is."""
    return products


def from_data(
    model: Model,
    criterion: str,
    names: Collection[str],
    data: Array,
    gates: Callable[[str, Array], Array] = of_weights,
) -> dict[str, Array]:
    """Name of a parameter -> the scores of its gates by gradient or fisher, in float64.

    data: rows of tokens (B, T + 1), each token but the first a target.
    gates: of a name and w ∂L/∂w of its weights, the derivatives by the gates: sums of these.
    """
    of_rows = criterion == "fisher"
    weights = {name: model.params[name].astype(np.float64) for name in names}
    total: dict[str, Array] = {}
    for share, grads in _gradients(model, names, data, 1 if of_rows else TOKENS // data.shape[1]):
        for name in names:
            derivative = gates(name, weights[name] * grads[name])
            term = share * (derivative * derivative if of_rows else derivative)
            total[name] = total[name] + term if name in total else term
    return {name: sums / 2 if of_rows else np.abs(sums) for name, sums in total.items()}


def _gradients(model: Model, names: Collection[str], data: Array, rows: int) -> Iterator[tuple[float, Flat]]:
    """(share of the rows, gradients of their mean loss), some rows at a time."""
    for begin in range(0, len(data), max(1, rows)):
        batch = data[begin : begin + max(1, rows)]
        _, grads = model.loss_and_grads(batch[:, :-1], batch[:, 1:], grads=[*names])
        yield len(batch) / len(data), grads.to("reference")
