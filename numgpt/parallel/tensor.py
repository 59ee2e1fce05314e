"""Tensor parallelism: every rank has some of the heads, channels and tokens of every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..layers import transformer
from ..layers.layer import Layer
from ..layers.pickers import visible_keys
from ..layers.record import Record
from ..model import checks, differentiable
from ..model.gpt import GPT
from ..ops.positions import alibi_slopes
from ..training.objective import Batch, expect_batch
from . import shards, tensor_ops
from .crossings import SequenceCrossing, TensorCrossing
from .cuts import bounds, cuts, expect_cut, local_kinds
from .part import PartOfModel, Sums, differing, expect_whole, held_out_batches, wide
from .ranks import Ranks

Array = NDArray[Any]


class TensorRecord(Record):
    """A Record of one rank's part of every layer.

    Layers run on it as they are written, with fewer heads and channels; it runs the ops of tensor_ops where
    parts meet. Whatever is drawn at random or depends on which heads these are is that of the whole model.
    """

    def __init__(self, plan: TensorPlan, *args: Any, **options: Any) -> None:
        self.plan = plan
        super().__init__(*args, **options)
        self._scopes = plan.kinds
        self._rows: list[int] = [0, 0, 0]  # of own positions: the first, the one behind the last, T

    def __call__(self, name: str, op: Any, *inputs: Any, **options: Any) -> Any:
        """As in any Record, with the op that parts of the model need there."""
        if op is None:
            return super().__call__(name, op, *inputs, **options)
        plan = self.plan
        if name == "wte":
            self._share_positions(inputs[0].shape[-1])
        if name == "wpe" and plan.is_sequence:
            options = self._own_places(options)
        if name == "heads" and plan.is_sequence:  # which see the positions of all ranks
            options = {key: value for key, value in options.items() if key not in ("first", "last")}
            options |= visible_keys(self, inputs[0])
        if "slopes" in options:
            options["slopes"] = self._own_slopes(options["slopes"])
        if name in ("wte", "loss"):
            options["vocab_size"] = plan.config.vocab_size
        return super().__call__(name, plan.ops.get(name, op), *inputs, **options)

    def _share_positions(self, T: int) -> None:
        """Which of T positions this rank has."""
        ranks = self.plan.ranks
        if self.plan.is_sequence and ranks.size > T:
            raise InputError(
                f"sequence: {T} positions for {ranks.size} ranks, expected at least one for each: give longer"
                f" texts, or {T} ranks"
            )
        self._rows[:] = (*(bounds(T, ranks.rank, ranks.size) if self.plan.is_sequence else (0, T)), T)

    def _own_places(self, options: dict[str, Any]) -> dict[str, Any]:
        """Where this rank's tokens stand."""
        begin, end, _ = self._rows
        if "positions" in options:
            return options | {"positions": options["positions"][..., begin:end]}
        return options | {"start": options.get("start", 0) + begin}

    def _own_slopes(self, given: Any) -> Any:
        """ALiBi's slopes of this rank's heads, among those of all heads."""
        n, ranks = self.config.n_head, self.plan.ranks
        slopes = self.config.alibi_scale * alibi_slopes(n * ranks.size)
        return slopes[ranks.rank * n : (ranks.rank + 1) * n].astype(np.asarray(given).dtype)

    def _fused(self, name: str, layer: Layer, inputs: Sequence[Any]) -> Layer | None:
        """None: a layer in one piece would not talk to the other ranks."""
        return None

    def drawn(self, full: str, shape: tuple[int, ...], p: float) -> Array:
        """This rank's part of what the whole model would keep."""
        if full.endswith("attn.heads"):
            n = shape[-3]
            ranks = self.plan.ranks
            whole = (*shape[:-3], n * ranks.size, *shape[-2:])
            return super().drawn(full, whole, p)[..., ranks.rank * n : (ranks.rank + 1) * n, :, :]
        begin, end, T = self._rows
        return super().drawn(full, (*shape[:-2], T, shape[-1]), p)[..., begin:end, :]


class TensorPlan:
    """A model whose heads, channels and tokens are cut among ranks, for the mean surprise at the next token.

    config: of the whole model. ranks: those that have a part. sequence: between the products each rank has
    some of the positions, instead of all.
    """

    def __init__(self, config: Config, ranks: Ranks, *, sequence: bool = False) -> None:
        expect_cut(config, ranks.size)
        self.config, self.ranks, self.is_sequence = config, ranks, sequence
        self.cuts = cuts(config)
        self.kinds = local_kinds(config, ranks.rank, ranks.size)
        self.replicated = tuple(name for name in shapes(config) if name not in self.cuts)
        self.partial = self._partial()
        self.ops = self._ops()
        self._scratch: list[Flat] = []

    def _ops(self) -> dict[str, Any]:
        """Name → what runs there instead of the model's own op."""
        crossing = SequenceCrossing(self.ranks) if self.is_sequence else TensorCrossing(self.ranks)
        first, _ = bounds(self.config.vocab_size, self.ranks.rank, self.ranks.size)
        column = tensor_ops.column_linear(crossing)
        return {
            "wte": tensor_ops.vocabulary_embedding(crossing, first),
            "c_attn": column,
            "c_fc": column,
            "c_proj": tensor_ops.row_linear(crossing),
            "lm_head": tensor_ops.vocabulary_unembedding(crossing),
            "loss": tensor_ops.vocabulary_cross_entropy(self.ranks, first),
        }

    def _partial(self) -> tuple[str, ...]:
        """The parameters of all ranks of whose gradient each knows the part of its heads, or positions."""
        if self.is_sequence:
            return self.replicated
        of_heads = [scope for scope, kind in self.config.scopes().items() if kind.qk_norm == "head"]
        begins = tuple(f"{scope}attn.ln_{which}." for scope in of_heads for which in "qk")
        return tuple(name for name in self.replicated if begins and name.startswith(begins))

    def _shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Of a rank's arrays."""
        found = {}
        for name, shape in shapes(self.config).items():
            if name in self.cuts:
                cut = self.cuts[name]
                own = len(cut.places(rank, self.ranks.size))
                shape = (*shape[: cut.axis], own, *shape[cut.axis + 1 :])
            found[name] = shape
        return found

    def _index(self, name: str, rank: int) -> tuple[Any, ...]:
        """Where a rank's part of a parameter lies in the whole."""
        cut = self.cuts[name]
        return (*[slice(None)] * cut.axis, cut.places(rank, self.ranks.size))

    def local(self, params: Flat) -> Flat:
        """This rank's arrays out of the whole model's: copies."""
        expect_whole("tensor", self.config, params)
        mine = Flat(self._shapes(self.ranks.rank), params.dtype)
        for name in mine:
            mine[name] = (
                params[name][self._index(name, self.ranks.rank)] if name in self.cuts else params[name]
            )
        return mine

    def canonical(self, local: Flat) -> Flat:
        """The whole model's arrays, on every rank, from those of all ranks."""
        whole = Flat(shapes(self.config), local.dtype)
        parts = self.ranks.all_gather(local.flat)
        end = 0
        for rank in range(self.ranks.size):
            of_rank = self._shapes(rank)
            begin, end = end, end + sum(map(math.prod, of_rank.values()))
            theirs = Flat(of_rank, local.dtype, parts[begin:end])
            for name in self.cuts:
                whole[name][self._index(name, rank)] = theirs[name]
        for name in self.replicated:
            whole[name] = local[name]
        return whole

    def model(self, model: GPT) -> PartOfModel:
        """This rank's part of a model, with parameters of its own."""
        return PartOfModel(self.config, self.local(model.params), model.served, model.seed)

    def norm(self, grads: Flat) -> float:
        """The global norm, in which what all ranks have counts once, the same bits on all ranks."""
        counted = [name for name in grads if self.ranks.rank == 0 or name in self.cuts]
        squares = [grads[name].astype(np.float64).reshape(-1) for name in counted]
        own = math.fsum(float(x @ x) for x in squares)
        return math.sqrt(float(self.ranks.all_reduce(np.array(own))))

    def differing(self, local: Flat) -> list[str]:
        """Which of the arrays that all ranks have differ in their bits; none, unless something is broken."""
        return differing(self.ranks, local, self.replicated)

    def loss_and_grads(
        self, model: PartOfModel, objective: Any, step: int, batches: range, grads: Flat, scale: float = 1.0
    ) -> tuple[Any, float]:
        """As training.objective.step_loss_and_grads, for the batches of these numbers: the loss on all ranks.

        All ranks compute all of them. grads receives the gradients of this rank's arrays, complete.
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
        losses: list[float] = []
        counts: list[float] = []
        first = divisor

        def compute(n: int, place: Flat, add: bool) -> None:
            nonlocal first
            batch = expect_batch(objective, objective.batch(step, batches[n]))
            first = first or batch.divisor
            share = batch.divisor / first
            options = {"grads": place, "add": add, "step": (step, batches[n]), "spare": True}
            record, inputs = self._begun(model, batch, **options)
            loss = differentiable.both_ways(model, record, batch.layer, inputs, share * scale)
            losses.append(wide(loss) * share)
            counts.append(batch.count)

        leaves = shards.leaves_of(len(batches))
        shards.added(leaves, len(batches) // leaves, grads, self._scratch, compute)
        self._complete(grads)
        assert first is not None, "there is a batch"
        return Sums(losses, first, sum(counts))

    def held_out_loss(self, model: PartOfModel, objective: Any) -> float:
        """As training.objective.held_out_loss, on all ranks."""
        batches = held_out_batches(objective)
        total = 0.0
        for batch in batches:
            record, inputs = self._begun(model, batch)
            loss = differentiable.forwards(model, record, batch.layer, inputs)
            total += float(loss) * (batch.divisor / batches[0].divisor)
        return total / (sum(b.count for b in batches) / batches[0].divisor)

    def _begun(
        self, model: PartOfModel, batch: Batch, **options: Any
    ) -> tuple[TensorRecord, tuple[Any, ...]]:
        """A Record for a batch, and its inputs."""
        expect_surprise(batch.layer)
        seen = checks.visibility(model.config, model.params, batch.visibility, np.shape(batch.inputs[0]))
        given = {"seed": model.seed, "served": model.served, "visibility": seen} | options
        return TensorRecord(self, model.params, model.config, **given), batch.inputs

    def _complete(self, grads: Flat) -> None:
        """Add up the gradients of which each rank knows a part, in one message."""
        if not self.partial:
            return
        total = self.ranks.all_reduce(np.concatenate([grads[name].reshape(-1) for name in self.partial]))
        begin = 0
        for name in self.partial:
            end = begin + grads[name].size
            grads[name][...] = total[begin:end].reshape(grads[name].shape)
            begin = end


def expect_surprise(layer: Layer) -> None:
    """Raise InputError for a layer that may read logits of all tokens, of which a rank has some."""
    if layer is not transformer.loss:
        raise InputError(
            "tensor: the objective's layer is not the surprise at the next token, expected"
            " numgpt.layers.transformer.loss: train in data parallel"
        )
