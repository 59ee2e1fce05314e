"""Supervised fine-tuning: a model learns to write the responses of conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..architecture.config import Training
from ..arguments import BelowOne, Count, Size, checked
from ..data import Example, RowBatch, Rows, packed, padded
from ..errors import InputError
from ..layers.tuning_losses import responses
from ..layers.visibility import Visibility
from ..training.objective import Batch
from . import order

REDUCTIONS = ("token", "sequence")


class Responses:
    """The mean surprise at the tokens of responses, their ends included; what stands before is context.

        token       Σ w nll / Σ w over the whole step: each token weighs the same
        sequence    the mean over responses of each one's mean: short ones weigh as much as long ones

    Parameters
    ----------
    examples : sequence of data.Example
        As a template's encode gives them.
    training : Training
        Its batch_size counts rows.
    block_size : int
        The places of a row.
    held_out : sequence of data.Example
        Those of the held-out loss.
    pack : bool
        Whether a row holds several examples, each of which is alone in it; else it is padded.
    reduction : "token" or "sequence"
    smoothing : float
        The share of each target that all tokens get alike.
    truncate : bool
        Whether to cut what is too long; an InputError otherwise.
    source : str
        What it is, to be printed.

    Raises
    ------
    InputError
        For no example, one that is too long or has no response.
    """

    @checked
    def __init__(
        self,
        examples: Sequence[Example],
        training: Training,
        block_size: Size,
        held_out: Sequence[Example] = (),
        *,
        pack: bool = True,
        reduction: str = "token",
        smoothing: BelowOne = 0.0,
        truncate: bool = False,
        source: str = "conversations",
    ) -> None:
        if reduction not in REDUCTIONS:
            raise InputError(
                f"Responses: reduction is {reduction!r}, expected one of {', '.join(REDUCTIONS)}"
            )
        self.training = training
        self.reduction = reduction
        self.layer, self.held_out_layer = responses(smoothing), responses()
        self.rows = _rows(examples, block_size, pack, training.seed, truncate)
        self.held_out_rows = _rows(held_out, block_size, pack, 0, truncate) if held_out else None
        self.source = source
        self.recipe: dict[str, Any] = {}
        words = block_size, pack, reduction, smoothing, truncate
        self.digest = order.digest(words, (part for e in (*examples, *held_out) for part in e))
        if held_out:
            self.held_out = self._held_out

    @property
    def size(self) -> int:
        """How many items an epoch has: what batch_size counts."""
        return len(self.rows)

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """The next rows in the order of their epoch."""
        return self._batch(self.rows, order.drawn(len(self.rows), self.training, step, n), self.layer)

    def _held_out(self) -> Iterator[Batch]:
        """The first eval_iters batches of what is held out."""
        assert self.held_out_rows is not None, "held_out is there only then"
        for items in order.in_turn(len(self.held_out_rows), self.training):
            yield self._batch(self.held_out_rows, items, self.held_out_layer)

    def _batch(self, rows: Rows, items: Any, layer: Any) -> Batch:
        made = rows.batch([int(item) for item in items])
        weights, count = made.weights, float(made.weights.sum())
        if self.reduction == "sequence":
            weights, count = _by_sequence(made)
        inputs = made.inputs, made.targets, weights, count
        # Rows of one example need no bounds: in the causal order nothing sees the padding behind it.
        is_packed = any(len(rows.plan[item]) > 1 for item in items)
        seen = Visibility.packed(made.lengths) if is_packed else None
        return Batch(inputs, layer, count, visibility=seen)


def _rows(examples: Sequence[Example], block_size: int, pack: bool, seed: int, truncate: bool) -> Rows:
    if pack:
        return packed(examples, block_size, seed=seed, truncate=truncate)
    return padded(examples, block_size, truncate=truncate)


def _by_sequence(made: RowBatch) -> tuple[Any, float]:
    """Weights that add up to 1 in each example, and how many examples have some."""
    weights, count = np.zeros_like(made.weights), 0
    for row, lengths in enumerate(made.lengths):
        end = 0
        for length in lengths:
            begin, end = end, end + length
            total = made.weights[row, begin:end].sum()
            if total:
                weights[row, begin:end] = made.weights[row, begin:end] / total
                count += 1
    return weights, float(count)
