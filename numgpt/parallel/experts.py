"""Experts on ranks: each rank has some of them, and tokens travel to those that their routers choose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..architecture.parameters import Flat, kinds, shapes
from ..errors import InputError
from ..model import differentiable
from ..model.gpt import GPT
from ..training.objective import batch_loss_and_grads, expect_batch
from . import pieces, shards
from .expert_layers import LAYERS
from .part import PartOfModel, Sums, differing, expect_whole, held_out_batches, wide
from .pieces import Piece
from .ranks import Ranks

Array = NDArray[Any]


class ExpertPlan:
    """A mixture of experts whose experts lie on different ranks, E/N on each; the rest is on all of them.

    Each rank computes micro-batches of its own, and in each mixture sends a token's vector to the ranks of
    its experts. No token is dropped, however many choose one expert.

    config: of the whole model. ranks: rank r has the experts r E/N to (r + 1) E/N − 1 of each mixture.
    """

    shares_batches = True  # its ranks have batches of their own

    def __init__(self, config: Config, ranks: Ranks) -> None:
        expect_cut(config, ranks.size)
        self.config, self.ranks = config, ranks
        self.experts = tuple(name for name, kind in kinds(config).items() if kind == "experts")
        self.replicated = tuple(name for name in shapes(config) if name not in self.experts)
        self._pieces = [list(self._owned(rank)) for rank in range(ranks.size)]
        self._scratch: list[Flat] = []

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of this rank's arrays: a part of each stack of experts, and the whole of the others."""
        return {
            name: (shape[0] // self.ranks.size, *shape[1:]) if name in self.experts else shape
            for name, shape in shapes(self.config).items()
        }

    def _owned(self, rank: int) -> Iterator[Piece]:
        """The numbers that a rank answers for: its experts', and rank 0 for what all have."""
        whole, own = Flat(shapes(self.config), np.int8).places, Flat(self._shapes(), np.int8).places
        mine = []
        for name, place in own.items():
            n = place.stop - place.start
            if name in self.experts:
                begin = whole[name].start + rank * n
                mine.append(Piece(slice(begin, begin + n), place))
            elif rank == 0:
                mine.append(Piece(whole[name], place))
        yield from pieces.joined(mine)

    def local(self, params: Flat) -> Flat:
        """This rank's arrays out of the whole model's: copies."""
        expect_whole("experts", self.config, params)
        mine = Flat(self._shapes(), params.dtype)
        for name, array in mine.items():
            n = len(array)
            begin = self.ranks.rank * n if name in self.experts else 0
            mine[name] = params[name][begin : begin + n]
        return mine

    def canonical(self, local: Flat) -> Flat:
        """The whole model's arrays, on every rank, from those of all ranks, of which each gives its own."""
        flat = pieces.gathered(self.ranks, self._pieces, local.flat)
        return Flat(shapes(self.config), local.dtype, flat)

    def model(self, model: GPT) -> PartOfModel:
        """This rank's part of a model, with parameters of its own."""
        layers = {
            f"{scope}mlp": LAYERS[kind.mlp](self.ranks)
            for scope, kind in self.config.scopes().items()
            if kind.n_expert
        }
        return PartOfModel(self.config, self.local(model.params), {**model.served, **layers}, model.seed)

    def norm(self, grads: Flat) -> float:
        """The global norm, in which what all ranks have counts once, with the bits of one process."""
        return pieces.whole_norm(self.ranks, self._pieces, grads.flat)

    def differing(self, local: Flat) -> list[str]:
        """Which of the arrays that all ranks have differ in their bits; none, unless something is broken."""
        return differing(self.ranks, local, self.replicated)

    def loss_and_grads(
        self, model: PartOfModel, objective: Any, step: int, batches: range, grads: Flat, scale: float = 1.0
    ) -> tuple[Any, float]:
        """As training.objective.step_loss_and_grads, for the batches of these numbers: the loss on all ranks.

        Rank r computes a part of them, side by side. The gradient of an expert is complete where it lies,

            dW_e = Σ_n x_nᵀ dy_n        over the rows of all ranks that chose e

        because all of them came here, each with the gradient of the step's loss. Of what all ranks have, each
        knows what its own micro-batches give, and these are added up.
        """
        return self.sums(model, objective, step, batches, grads, scale).mean(grads, scale)

    def sums(
        self,
        model: PartOfModel,
        objective: Any,
        step: int,
        batches: range,
        grads: Flat,
        scale: float = 1.0,
        divisor: float | None = None,
    ) -> Sums:
        """The same before it is divided by what counts, for who adds up further batches.

        divisor: that of the step's first batch, where these do not begin with it.
        """
        share = self._share(batches)
        head = expect_batch(objective, objective.batch(step, share[0]))
        if divisor is None:
            divisor = float(self.ranks.broadcast(np.array(float(head.divisor))))
        first, losses, counts = divisor, [], []

        def compute(n: int, place: Flat, add: bool) -> None:
            batch = head if n == 0 else expect_batch(objective, objective.batch(step, share[n]))
            weight = batch.divisor / first
            loss = batch_loss_and_grads(model, batch, (step, share[n]), place, weight * scale, add)
            losses.append(wide(loss) * weight)
            counts.append(batch.count)

        leaves = shards.leaves_of(len(share))
        shards.added(leaves, len(share) // leaves, grads, self._scratch, compute)
        self._add_replicated(grads)
        counted = float(self.ranks.all_reduce(np.array(float(sum(counts)))))
        return Sums(self.ranks.all_gather(np.array(losses)).tolist(), divisor, counted)

    def held_out_loss(self, model: PartOfModel, objective: Any) -> float:
        """As training.objective.held_out_loss, on all ranks, which share the batches.

        Where they are not a multiple of the ranks, some compute the last one too, and it counts once: each
        needs the others' experts.
        """
        batches = held_out_batches(objective)
        rounds = -(-len(batches) // self.ranks.size)
        losses = []
        for n in range(self.ranks.rank, rounds * self.ranks.size, self.ranks.size):
            batch = batches[min(n, len(batches) - 1)]
            loss = differentiable.loss(model, batch.layer, batch.inputs, visibility=batch.visibility)
            losses.append(wide(loss) * (batch.divisor / batches[0].divisor))
        by_rank = self.ranks.all_gather(np.array(losses)).reshape(self.ranks.size, -1)
        total = float(by_rank.T.reshape(-1)[: len(batches)].sum())
        return total / (sum(batch.count for batch in batches) / batches[0].divisor)

    def _share(self, batches: range) -> range:
        """This rank's part of the micro-batches of a step."""
        n, rest = divmod(len(batches), self.ranks.size)
        if rest or not n:
            raise InputError(
                f"experts: {len(batches)} micro-batches for {self.ranks.size} ranks, expected a multiple of"
                f" {self.ranks.size}: --accumulate {max(n, 1) * self.ranks.size}"
            )
        return batches[self.ranks.rank * n : (self.ranks.rank + 1) * n]

    def _add_replicated(self, grads: Flat) -> None:
        """Add up the gradients of what all ranks have, in one message."""
        mine = np.concatenate([grads.flat[:0], *(grads[name].reshape(-1) for name in self.replicated)])
        total = self.ranks.all_reduce(mine)
        begin = 0
        for name in self.replicated:
            end = begin + grads[name].size
            grads[name][...] = total[begin:end].reshape(grads[name].shape)
            begin = end


def expect_cut(config: Config, ranks: int) -> None:
    """Raise InputError unless each mixture has a whole number of experts for each rank."""
    numbers = sorted({kind.n_expert for kind in config.scopes().values() if kind.n_expert})
    if not numbers:
        raise InputError(
            "experts: the model has none, expected n_expert above 0: --parallel data, tensor or pipeline cut"
            " other models"
        )
    for n in numbers:
        if n % ranks:
            common = math.gcd(*numbers)
            fitting = ", ".join(str(k) for k in range(1, common + 1) if common % k == 0)
            raise InputError(
                f"experts: {n} experts for {ranks} ranks, expected as many for each: give {fitting} ranks"
            )
