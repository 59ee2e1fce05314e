"""Data parallel: ranks share the batches of a step, and each moves its part of the parameters (ZeRO-1).

The parameters, AdamW's moments and each rank's gradients lie in memory that the ranks of a host share: the
sum of gradients is read where they are, and no parameter is sent. Ranks without memory in common send them.
Either way the bits are those of one process that adds up its batches by the same tree.

    a step's batches   0 1 | 2 3 | 4 5 | 6 7      four ranks, each with the sum of its own
    the gradient        ((0+1) + (2+3)) + ((4+5) + (6+7))    rank r adds up the r-th part of it
    its norm            block by block in the order of the whole
    AdamW               rank r moves the r-th part, by moments that nobody else has
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.parameters import Flat
from ..errors import InputError
from ..model.gpt import GPT
from ..training.objective import (
    Batch,
    Objective,
    batch_loss_and_grads,
    expect_batch,
    held_out_terms,
    mean_of,
)
from ..training.optim import BLOCK, AdamW, block_squares, parts_that_train
from ..training.optimizer import norm_and_step, places
from ..training.stochastic import round_trained
from . import alike, shards
from .ranks import Ranks, tree_sum

Array = NDArray[Any]
AT_ONCE = 1 << 16  # numbers that are added up while they are in the cache
CHECKED = 50  # steps between two looks at whether all ranks hold the same bits


class DataParallel:
    """The distribution of a run over ranks that share the batches of each step, for a Trainer.

        trainer = numgpt.Trainer(model, corpus, training, "run", distribution=DataParallel(ranks))

    With AdamW each rank moves a part of the parameters and holds the moments of that part. Any other
    optimizer runs whole on every rank.

    Parameters
    ----------
    ranks : Ranks
        A power of two of them, that divides training.accumulate.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.is_first = ranks.rank == 0
        self.scratch: list[Flat] = []
        self.steps = 0

    def begin(self, model: GPT, optimizer: Any, accumulate: int, facts: Mapping[str, Any]) -> Flat:
        """As Distribution says. The parameters move to memory that the ranks share, if there is any."""
        if engine.on_gpu(model.params.flat):
            raise InputError("parallel: the parameters lie on a GPU, expected them on hosts: --engine numba")
        shards.expect_divides(self.ranks.size, accumulate)
        own = {"model": vars(model.config), "parameters": alike.digest(model.params.flat)}
        alike.expect_alike(self.ranks, {**alike.libraries(), **facts, **own})
        self.model = model
        self.is_sliced = isinstance(optimizer, AdamW)
        if not self.is_sliced:
            self.others: list[Array] | None = None
            return places(optimizer, model.params)
        N = optimizer.m.flat.size
        self.cuts = cuts_of(N, self.ranks.size)
        self.part = slice(*self.cuts[self.ranks.rank : self.ranks.rank + 2])
        self.trained = parts_that_train(model.params, optimizer.m)
        self.others = self.ranks.window(N, model.params.dtype)
        if self.others is not None:
            self._share(model.params, optimizer)
        optimizer.moves_only(self.part)
        buffer = None if self.others is None else self.others[self.ranks.rank]
        return Flat(optimizer.m.shapes, model.params.dtype, buffer)

    def _share(self, params: Flat, optimizer: AdamW) -> None:
        """Move parameters and moments to memory that all ranks share: the first asks for it."""
        sizes = [flat.flat.size for flat in (params, optimizer.m, optimizer.v)]
        windows = self.ranks.window(sum(sizes) if self.is_first else 0, params.dtype)
        assert windows is not None, "where there is one, there is another"
        for flat, place in zip(
            (params, optimizer.m, optimizer.v), np.split(windows[0], np.cumsum(sizes)[:2])
        ):
            if self.is_first:
                place[:] = flat.flat
            flat.relocate(place)
        self.ranks.barrier()

    def loss_and_grads(
        self, model: GPT, objective: Objective, step: int, batches: int, grads: Flat, scale: float
    ) -> tuple[float, float]:
        """As objective.step_loss_and_grads; of the gradients each rank has the sum of its own part alone."""
        each = batches // self.ranks.size
        begin = each * self.ranks.rank
        leaves = shards.leaves_of(batches) // self.ranks.size
        head = self._batch(objective, step, begin)
        first = float(self.ranks.broadcast(np.array(head.divisor) if self.is_first else None))
        terms: list[tuple[float, float]] = []

        def compute(n: int, place: Flat, add: bool) -> None:
            batch = head if n == 0 else self._batch(objective, step, begin + n)
            share = batch.divisor / first
            loss = batch_loss_and_grads(model, batch, (step, begin + n), place, share * scale, add)
            terms.append((float(loss) * share, batch.count))

        shards.added(leaves, each // leaves, grads, self.scratch, compute)
        self._add_up(grads)
        losses, counts = self.ranks.all_gather(np.array(terms, np.float64)).T
        counted = sum(counts.tolist())
        factor = first / counted
        if factor != scale:
            part = self.part if self.is_sliced else slice(None)
            grads.flat[part] *= factor / scale
        total = sum(losses.tolist())
        return (total if factor == 1 else total * factor), counted

    def _batch(self, objective: Objective, step: int, n: int) -> Batch:
        return expect_batch(objective, objective.batch(step, n))

    def _add_up(self, grads: Flat) -> None:
        """Add up the gradients of all ranks, this rank's part, or all where every rank moves all."""
        if self.ranks.size == 1:
            return
        if not self.is_sliced:
            grads.flat[:] = self.ranks.all_reduce(grads.flat)
            return
        if self.others is None:
            lengths = np.diff(self.cuts).tolist()
            grads.flat[self.part] = self.ranks.reduce_scatter(grads.flat, lengths)
            return
        self.ranks.barrier()
        for i in range(self.part.start, self.part.stop, AT_ONCE):
            some = slice(i, min(i + AT_ONCE, self.part.stop))
            # Nobody else reads this part of this rank's own buffer, so the sum may lie there.
            grads.flat[some] = tree_sum([other[some] for other in self.others])

    def norm(self, optimizer: Any, grads: Flat) -> Any:
        """The global norm: each rank adds up the squares of its own blocks, in the order of the whole."""
        if not self.is_sliced:
            return norm_and_step(optimizer)[0](grads)
        own = grads.flat[self.part]
        with np.errstate(under="ignore"):
            sums = np.array(engine.twin(block_squares, own)(own), np.float64)
        return math.sqrt(sum(self.ranks.all_gather(sums).tolist()))

    def update(self, optimizer: Any, grads: Flat, lr: float, norm: Any, key: tuple[int, int] | None) -> None:
        """Move this rank's part of the parameters; afterwards all ranks have the whole."""
        params = self.model.params
        takes_norm = norm_and_step(optimizer)[1]
        optimizer.step(grads, lr, *([norm] if takes_norm else []))
        moved = optimizer.runs if self.is_sliced else parts_that_train(params, grads)
        if key is not None:
            round_trained(params, moved, *key)
        self.steps += 1
        if self.others is not None:
            self.ranks.barrier()
            return
        if self.is_sliced:
            self._exchange(params, moved)
        if self.steps % CHECKED == 0:
            alike.expect_replicas(self.ranks, params, self.steps)

    def _exchange(self, params: Flat, moved: list[tuple[slice, slice]]) -> None:
        """Send the part that this rank has moved to all, and take theirs."""
        own = [params.flat[whole] for whole, _ in moved]
        all_parts = self.ranks.all_gather(np.concatenate(own) if own else params.flat[:0])
        for whole, place in self.trained:
            params.flat[whole] = all_parts[place]

    def held_out_loss(self, model: GPT, objective: Any) -> float:
        """As objective.held_out_loss: of N ranks each computes every N-th batch."""
        terms = held_out_terms(model, objective, self.ranks.rank, self.ranks.size)
        terms[:, 0] = self.ranks.all_reduce(terms[:, 0])  # the others' are 0, and adding 0 rounds nothing
        return mean_of(terms)

    def agreed(self, is_asked: bool) -> bool:
        """Whether any rank was asked."""
        return bool(self.ranks.all_reduce(np.array(int(is_asked)), "max"))

    def to_save(self, optimizer: Any) -> Any:
        """The optimizer with all moments, on the first rank: in shared memory they are there already."""
        if not self.is_sliced or self.others is not None:
            return optimizer
        whole = copy(optimizer) if self.is_first else optimizer
        for moment in (whole.m, whole.v):
            if not self.is_first:
                self.ranks.send(moment.flat[self.part], 0, tag=1)
                continue
            for rank in range(1, self.ranks.size):
                moment.flat[slice(*self.cuts[rank : rank + 2])] = self.ranks.receive(rank, tag=1)
        return whole

    def loaded(self, optimizer: Any) -> None:
        """Wait until all have read the checkpoint: they write the same into shared memory."""
        self.ranks.barrier()


def cuts_of(n: int, size: int) -> list[int]:
    """Where a buffer is cut into the ranks' parts: between the blocks of the norm, whose sums stay the same.

    >>> cuts_of(200_000, 2)
    [0, 131072, 200000]
    """
    blocks = -(-n // BLOCK)
    return [min(n, blocks * rank // size * BLOCK) for rank in range(size + 1)]
