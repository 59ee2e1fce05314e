"""Pipeline: the blocks of a model on several ranks, through which micro-batches go one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..layers import router_losses, transformer
from ..layers.layer import Layer
from ..layers.record import Record
from ..model import checks, differentiable
from ..model.gpt import GPT
from ..training.objective import Batch, expect_batch
from . import pieces, shards, stages
from .part import PartOfModel, Sums, differing, expect_whole, held_out_batches, wide
from .pieces import Piece
from .ranks import Ranks
from .schedule import FORWARD, one_forward_one_backward, only_forwards

Array = NDArray[Any]
TIED = "wte.weight"  # the parameter of both ends, where a model is tied
AHEAD, BACK, OF_HEAD = range(3)  # what a message is: activations, their gradient, the head's gradient of TIED
TAGS = 4096  # micro-batches whose messages have tags of their own; MPI promises 32,767 tags


@dataclass(frozen=True)
class Stage:
    """A rank's place in the line: the blocks that it has, and its neighbours.

    exact: whether the tied embedding's gradient is added up micro-batch by micro-batch.
    """

    config: Config
    ranks: Ranks
    blocks: range
    exact: bool = False

    @property
    def is_first(self) -> bool:
        """Whether it looks the tokens up."""
        return self.ranks.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the unembedding and the loss."""
        return self.ranks.rank == self.ranks.size - 1

    def has(self, name: str) -> bool:
        """Whether a step of the model runs here; what is no step of the model runs where it is called."""
        if name in stages.BEGINNING:
            return self.is_first
        if name in stages.ENDING:
            return self.is_last
        kind, _, number = name.partition(".")
        return not (kind == "h" and number.isdigit()) or int(number) in self.blocks

    def send(self, array: Array, to: int, n: int, what: int) -> None:
        """Send what belongs to micro-batch n."""
        self.ranks.send(array, to, 3 * (n % TAGS) + what)

    def receive(self, source: int, n: int, what: int) -> Array:
        """What was sent for micro-batch n."""
        return self.ranks.receive(source, 3 * (n % TAGS) + what)


class StageRecord(Record):
    """A Record of one stage: layers run on it as they are written, and it leaves out what other stages have.

    With x_s what stage s hands on, the loss is L = L_s(x_s), where L_s is all that comes after it. So

        forward    r("wte", …)       is x_{s−1}, received        what precedes this stage's blocks is passed
                   r("loss", …, x)   sends x_s on, and is 0      what follows them is passed
        backward   r.back("loss")    is dx_s = ∂L/∂x_s, received from the stage that computed L_s
                   r.back("wte")     sends dx_{s−1} back

    because a stage's parameters act on the loss through x_s alone. What is added to the loss here, as a
    router's losses are, has the loss's own gradient.

    A tied embedding is a parameter of both ends, and its gradient the sum of what it gets at each:

        dwte = Σ_n (dlogitsᵀ x at the last stage + dx scattered to the ids at the first)
    """

    def __init__(self, stage: Stage, n: int, *args: Any, **options: Any) -> None:
        self.stage, self.n = stage, n
        super().__init__(*args, **options)

    def __call__(self, name: str, op: Any, *inputs: Any, **options: Any) -> Any:
        """As in any Record, where the step is this stage's."""
        if self.scope or self.stage.has(name):
            return super().__call__(name, op, *inputs, **options)
        assert name not in self.ops, f"{name} is filed twice"
        self.ops[name] = None
        rank = self.stage.ranks.rank
        if name == "wte":
            return self.stage.receive(rank - 1, self.n, AHEAD)
        if name == "loss":
            self.stage.send(inputs[0], rank + 1, self.n, AHEAD)
            return np.zeros((), inputs[0].dtype)
        return inputs[0]

    def back(self, name: str, dy: Any) -> Any:
        """As in any Record, where the step is this stage's."""
        if self.scope or self.stage.has(name):
            return self._back_here(name, dy)
        rank = self.stage.ranks.rank
        if name == "wte":
            self.stage.send(dy, rank - 1, self.n, BACK)
            return None
        return self.stage.receive(rank + 1, self.n, BACK) if name == "loss" else dy

    def _back_here(self, name: str, dy: Any) -> Any:
        """A step's backward; the tied embedding's gradient of the head comes first, as in one process."""
        stage, last = self.stage, self.stage.ranks.size - 1
        is_apart = not self.scope and stage.config.tied and stage.exact and last > 0
        if is_apart and name == "wte":
            self.put(TIED, stage.receive(last, self.n, OF_HEAD))
        if is_apart and name == "lm_head":
            self._summed.discard(TIED)  # this micro-batch's alone is sent, and added up at the first stage
        dx = super().back(name, dy)
        if is_apart and name == "lm_head":
            stage.send(self.grads[TIED], 0, self.n, OF_HEAD)
        return dx


class Held(NamedTuple):
    """What waits for its backward."""

    record: StageRecord
    layer: Layer
    loss: Any
    share: float


class PipelinePlan:
    """A model's blocks cut into as many stages as there are ranks, for the mean surprise at the next token.

    config: of the whole model. ranks: the stages, the first at rank 0.
    exact: have the gradients' bits of one process also where the embedding is tied: its gradient, V C
    numbers, goes from the last stage to the first for each micro-batch instead of once a step.
    """

    def __init__(self, config: Config, ranks: Ranks, *, exact: bool = False) -> None:
        self.config, self.ranks = config, ranks
        self.stages = stages.split(config, ranks.size)
        self.stage = Stage(config, ranks, self.stages[ranks.rank], exact)
        self.names = [stages.names_of(config, self.stages, s) for s in range(ranks.size)]
        is_end = self.stage.is_first or self.stage.is_last
        self.replicated: tuple[str, ...] = (TIED,) if config.tied and is_end and ranks.size > 1 else ()
        self._pieces = self._owned()
        self._scratch: list[Flat] = []

    def _shapes(self, stage: int) -> dict[str, tuple[int, ...]]:
        """Of the parameters of a stage."""
        whole = shapes(self.config)
        return {name: whole[name] for name in self.names[stage]}

    def _owned(self) -> list[list[Piece]]:
        """The numbers of each stage; those of the tied embedding are the first's."""
        whole = Flat(shapes(self.config), np.int8).places
        owned = []
        for s in range(self.ranks.size):
            own = Flat(self._shapes(s), np.int8).places
            mine = [name for name in own if stages.owner(self.config, self.stages, name) == s]
            owned.append(pieces.joined(Piece(whole[name], own[name]) for name in mine))
        return owned

    def local(self, params: Flat) -> Flat:
        """This rank's arrays out of the whole model's: copies."""
        expect_whole("pipeline", self.config, params)
        mine = Flat(self._shapes(self.ranks.rank), params.dtype)
        for name in mine:
            mine[name] = params[name]
        return mine

    def canonical(self, local: Flat) -> Flat:
        """The whole model's arrays, on every rank, from those of all ranks, of which each gives its own."""
        flat = pieces.gathered(self.ranks, self._pieces, local.flat)
        return Flat(shapes(self.config), local.dtype, flat)

    def model(self, model: GPT) -> PartOfModel:
        """This rank's part of a model, with parameters of its own."""
        return PartOfModel(self.config, self.local(model.params), model.served, model.seed)

    def norm(self, grads: Flat) -> float:
        """The global norm, in which the tied embedding counts once, with the bits of one process."""
        return pieces.whole_norm(self.ranks, self._pieces, grads.flat)

    def differing(self, local: Flat) -> list[str]:
        """Which of the arrays that two ranks have differ in their bits; none, unless something is broken."""
        return differing(self.ranks, local, self.replicated)

    def loss_and_grads(
        self, model: PartOfModel, objective: Any, step: int, batches: range, grads: Flat, scale: float = 1.0
    ) -> tuple[Any, float]:
        """As training.objective.step_loss_and_grads, for the batches of these numbers: the loss on all ranks.

        grads receives the gradients of this rank's arrays, complete.
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
        held: dict[int, Held] = {}
        first, losses, counts = divisor, [], []
        actions = iter(one_forward_one_backward(self.ranks.rank, self.ranks.size, len(batches)))

        def until_backward(n: int, place: Flat, add: bool) -> None:
            """Do what comes before the backward of batch n, and this one; backwards come in their order."""
            nonlocal first
            for way, k in actions:
                if way != FORWARD:
                    assert k == n, "each stage's backwards are in the order of the batches"
                    self._backward(model, held.pop(k), place, add, scale)
                    return
                batch = expect_batch(objective, objective.batch(step, batches[k]))
                first = first or batch.divisor
                held[k] = self._forward(model, batch, k, batch.divisor / first, (step, batches[k]))
                losses.append(wide(held[k].loss) * held[k].share)
                counts.append(batch.count)

        leaves = shards.leaves_of(len(batches))
        shards.added(leaves, len(batches) // leaves, grads, self._scratch, until_backward)
        self._share_embedding(grads, len(batches))
        assert first is not None, "there is a batch"
        return Sums(self._everywhere(losses), first, sum(counts))

    def held_out_loss(self, model: PartOfModel, objective: Any) -> float:
        """As training.objective.held_out_loss, on all ranks."""
        batches = held_out_batches(objective)
        losses = []
        for _, k in only_forwards(self.ranks.rank, self.ranks.size, len(batches)):
            share = batches[k].divisor / batches[0].divisor
            losses.append(wide(self._forward(model, batches[k], k, share, None).loss) * share)
        return float(sum(self._everywhere(losses)) / (sum(b.count for b in batches) / batches[0].divisor))

    def _forward(self, model: PartOfModel, batch: Batch, k: int, share: float, step: Any) -> Held:
        """Run this stage's steps of a micro-batch."""
        expect_surprise(batch.layer)
        seen = checks.visibility(model.config, model.params, batch.visibility, np.shape(batch.inputs[0]))
        options = {"seed": model.seed, "served": model.served, "step": step, "visibility": seen}
        record = StageRecord(self.stage, k, model.params, model.config, spare=True, **options)
        with engine.session(model.params.dtype):
            loss = batch.layer.forward(record, *differentiable.placed(model, batch.inputs))
        return Held(record, batch.layer, loss, share)

    def _backward(self, model: PartOfModel, held: Held, place: Flat, add: bool, scale: float) -> None:
        """Run the same steps backwards; gradients go to a place, onto what is there where add says so."""
        held.record.start_backward(place, add)
        with engine.session(model.params.dtype):
            held.layer.backward(held.record, np.ones_like(held.loss) * (held.share * scale))
        held.record.finish_backward()

    def _share_embedding(self, grads: Flat, batches: int) -> None:
        """Add up the tied embedding's gradient over both ends, the same bits on each."""
        first, last = 0, self.ranks.size - 1
        if not self.replicated:
            return
        own = grads[TIED]
        if self.stage.is_first:
            if not self.stage.exact:
                own += self._traded(own, last, batches)
            else:
                self.stage.send(own, last, batches, OF_HEAD)
        elif self.stage.exact:
            own[...] = self.stage.receive(first, batches, OF_HEAD)
        else:
            own += self._traded(own, first, batches)

    def _traded(self, array: Array, other: int, n: int) -> Array:
        """What the other rank has in the place of this array."""
        self.stage.send(array, other, n, OF_HEAD)
        return self.stage.receive(other, n, OF_HEAD)

    def _everywhere(self, losses: Sequence[Any]) -> list[Any]:
        """Of each micro-batch the sum over stages: its routers' losses, and at the last the surprise."""
        return self.ranks.all_reduce(np.array(losses)).tolist()


def expect_surprise(layer: Layer) -> None:
    """Raise InputError for a layer that is not known to read the end of a model alone: it cannot be cut."""
    if layer is transformer.loss or layer.forward.__module__ == router_losses.__name__:
        return
    raise InputError(
        "pipeline: the objective's layer is not the surprise at the next token, expected"
        " numgpt.layers.transformer.loss, or router_losses.with_router_losses: train in data parallel"
    )
