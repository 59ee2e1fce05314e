"""A reward model: one number for a text, larger for the better one of a pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Training
from ..arguments import Count, Ids, checked
from ..data import stacked
from ..errors import InputError
from ..layers.task_heads import rewards
from ..model.gpt import GPT
from ..training.objective import Batch
from . import order
from .classify import head_of, readings


class Rewards:
    """The mean surprise at which of two texts is the better one, −ln σ(r_better − r_worse).

    Source: Bradley and Terry 1952; Ziegler et al. 2019.

    Parameters
    ----------
    model : GPT
        With a Head of the task "reward".
    pairs : sequence of (ids, ids)
        Texts in tokens, the better and the worse one.
    training : Training
        Its batch_size counts pairs.
    held_out : sequence of (ids, ids)
    """

    @checked
    def __init__(
        self,
        model: GPT,
        pairs: Sequence[tuple[Ids, Ids]],
        training: Training,
        held_out: Sequence[tuple[Ids, Ids]] = (),
        *,
        source: str = "preferences",
    ) -> None:
        if not pairs:
            raise InputError("Rewards: there is no pair, expected some")
        self.head = head_of(model, ("reward",))
        self.training = training
        self.layer = rewards(self.head.pool)
        self.pairs = [tuple(map(np.asarray, pair)) for pair in pairs]
        self.held_out_pairs = [tuple(map(np.asarray, pair)) for pair in held_out]
        if held_out:
            self.held_out = self._held_out
        self.source = source
        self.recipe: dict[str, Any] = {}
        every = [side for pair in (*self.pairs, *self.held_out_pairs) for side in pair]
        self.digest = order.digest((), every)

    @property
    def size(self) -> int:
        """How many items an epoch has: what batch_size counts."""
        return len(self.pairs)

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """The next pairs in the order of their epoch."""
        return self._batch(self.pairs, order.drawn(len(self.pairs), self.training, step, n))

    def _held_out(self) -> Iterator[Batch]:
        """The first eval_iters batches of what is held out."""
        for items in order.in_turn(len(self.held_out_pairs), self.training):
            yield self._batch(self.held_out_pairs, items)

    def _batch(self, pairs: Sequence[tuple[NDArray[Any], ...]], items: Any) -> Batch:
        ids, lengths = stacked([side for item in items for side in pairs[item]])
        read = readings(self.head, ids, lengths)
        inputs = tuple(a.reshape(-1, 2, *a.shape[1:]) for a in (ids, read))
        return Batch(inputs, self.layer, float(len(items)))
