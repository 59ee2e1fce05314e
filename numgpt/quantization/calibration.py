"""The inputs of a model's matrices on some text, as the Hessians by which GPTQ rounds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..layers.record import Record
from ..layers.transformer import trunk_forward
from ..ops.experts import rows_by_expert
from ..ops.op import Op

Array = NDArray[Any]
TOKENS = 4096  # at once


class Model(Protocol):
    """What is calibrated."""

    config: Config
    params: Flat
    served: Mapping[str, Any]


class InputsRecord(Record):
    """A Record that adds up 2 Xᵀ X of the inputs X of some matrices."""

    def __init__(self, *args: Any, sums: dict[str, Array], names: Collection[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.sums, self.names = sums, names

    def run(self, full: str, op: Op, arrays: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        """As in any Record; what a matrix of these names reads is added to its sum."""
        if full in self.names:
            self._count(full, op, *arrays[: len(arrays) - len(op.parameters)])
        return super().run(full, op, arrays, options)

    def _count(self, full: str, op: Op, x: Any, chosen: Any = None) -> None:
        """Add 2 Xᵀ X: of all rows, or with the experts that they were sent to of each expert's."""
        rows = x.reshape(-1, x.shape[-1])
        weight = self.params[f"{full}.weight"]
        if chosen is None:
            self.sums[full] = self.sums.get(full, 0) + _products(rows)
            return
        total = self.sums.setdefault(full, np.zeros((len(weight), rows.shape[1], rows.shape[1])))
        for e, group in rows_by_expert(chosen, len(weight)):
            total[e] += _products(rows[group])

    def is_plain(self, name: str) -> bool:
        """No layer runs as one piece: its inputs would not be seen."""
        return False


def _products(rows: Array) -> Array:
    """2 Xᵀ X in float64, of products in the inputs' own precision."""
    return 2.0 * (rows.T @ rows).astype(np.float64)


def hessians(model: Model, tokens: Array, names: Collection[str]) -> dict[str, Array]:
    """Name of a matrix -> 2 Xᵀ X of its inputs while a model reads tokens (B, T); of experts one each.

    All inputs are those of the model before it is rounded.
    """
    sums: dict[str, Array] = {}
    with engine.session(model.params.dtype):
        for batch in _batches(tokens):
            options: dict[str, Any] = {"sums": sums, "names": names, "served": model.served}
            trunk_forward(InputsRecord(model.params, model.config, **options), batch)
    return sums


def _batches(tokens: Array) -> Iterator[Array]:
    """Some rows at a time."""
    n = max(1, TOKENS // tokens.shape[1])
    for begin in range(0, len(tokens), n):
        yield tokens[begin : begin + n]
