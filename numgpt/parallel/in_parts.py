"""A run whose model is cut: each rank trains its part, and the whole is put together where it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..errors import InputError
from ..model.gpt import GPT
from ..training.finite import NotFinite, bad_parameter
from ..training.objective import Objective, expect_batch
from ..training.optim import AdamW
from . import alike, shards
from .part import PartOfModel, Sums
from .ranks import Alone, Ranks

CHECKED = 50  # steps between two looks at whether what several ranks have is the same


class Plan(Protocol):
    """How a model is cut, as PipelinePlan and ExpertPlan are; all ranks of it call the same methods."""

    replicated: tuple[str, ...]

    def model(self, model: GPT) -> PartOfModel:
        """This rank's part of a model, with parameters of its own."""

    def local(self, params: Flat) -> Flat:
        """This rank's arrays out of the whole model's: copies."""

    def canonical(self, local: Flat) -> Flat:
        """The whole model's arrays, on every rank."""

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
        """What the batches of these numbers add up to; grads receives the gradients of this rank's arrays."""

    def held_out_loss(self, model: PartOfModel, objective: Any) -> float:
        """As training.objective.held_out_loss."""

    def norm(self, grads: Flat) -> float:
        """The global norm, in which each parameter counts once."""

    def differing(self, local: Flat) -> list[str]:
        """Which of the arrays that several ranks have differ in their bits."""


class PlanKind(Protocol):
    """A class of plans."""

    def __call__(self, config: Config, ranks: Ranks) -> Plan:
        """The plan of a model on some ranks; InputError on all of them where it cannot be cut so."""


class InParts:
    """The distribution of a run over ranks of which each has a part of the model, for a Trainer.

        trainer = numgpt.Trainer(model, corpus, training, "run", distribution=InParts(PipelinePlan, ranks))

    Each rank has an AdamW of its own over its part. The Trainer's model and optimizer are what checkpoints
    are made of: they are brought up to date where the held-out loss is measured and where the run is saved,
    so a checkpoint knows nothing of ranks. Elsewhere put_together() does it.

    Parameters
    ----------
    kind : class of plans
        PipelinePlan or ExpertPlan.
    ranks : Ranks
        All ranks of the run.
    of_part : Ranks, optional
        Those among which the model is cut, all unless given.
    of_data : Ranks, optional
        Those that have the same part, and share the batches of a step; each alone unless given.
    """

    def __init__(
        self, kind: PlanKind, ranks: Ranks, of_part: Ranks | None = None, of_data: Ranks | None = None
    ) -> None:
        self.kind, self.ranks = kind, ranks
        self.of_part = ranks if of_part is None else of_part
        self.of_data: Ranks = Alone() if of_data is None else of_data
        assert self.of_part.size * self.of_data.size == ranks.size, "each rank has one part of one copy"
        self.is_first = ranks.rank == 0
        self.steps = 0

    def begin(self, model: GPT, optimizer: Any, accumulate: int, facts: Mapping[str, Any]) -> Flat:
        """As Distribution says; the gradients are those of this rank's part."""
        if engine.on_gpu(model.params.flat):
            raise InputError("parallel: the parameters lie on a GPU, expected them on hosts: --engine numba")
        if not isinstance(optimizer, AdamW) or optimizer.names is not None:
            what = "moves some parameters alone" if isinstance(optimizer, AdamW) else "is the optimizer"
            raise InputError(
                f"parallel: {type(optimizer).__name__} {what}, expected AdamW of all parameters where a model"
                " is cut: train in data parallel"
            )
        shards.expect_divides(self.of_data.size, accumulate)
        own = {"model": vars(model.config), "parameters": alike.digest(model.params.flat)}
        alike.expect_alike(self.ranks, {**alike.libraries(), **facts, **own})
        self.whole, self.optimizer = model, optimizer
        self.plan = self.kind(model.config, self.of_part)
        if getattr(self.plan, "shares_batches", False):
            shards.expect_divides(self.ranks.size, accumulate)
        self.part = self.plan.model(model)
        o = optimizer
        self.own = AdamW(self.part.params, o.betas, o.eps, o.weight_decay, o.clip)
        return self.part.params.like()

    def share(self, objective: Objective) -> None:
        """The objective answers and draws on every rank alike."""

    def loss_and_grads(
        self, model: GPT, objective: Objective, step: int, batches: int, grads: Flat, scale: float
    ) -> tuple[Any, float]:
        """As objective.step_loss_and_grads; the ranks of of_data share the batches, as in data parallel."""
        each = batches // self.of_data.size
        mine = range(self.of_data.rank * each, (self.of_data.rank + 1) * each)
        divisor = None
        if self.of_data.size > 1:
            first = None
            if self.of_data.rank == 0:
                first = np.array(float(expect_batch(objective, objective.batch(step, 0)).divisor))
            divisor = float(self.of_data.broadcast(first))
        sums = self.plan.sums(self.part, objective, step, mine, grads, scale, divisor)
        if self.of_data.size > 1:
            grads.flat[:] = self.of_data.all_reduce(grads.flat)
            losses = self.of_data.all_gather(np.array(sums.losses)).tolist()
            counted = float(self.of_data.all_reduce(np.array(sums.counted)))
            sums = Sums(losses, sums.divisor, counted)
        return sums.mean(grads, scale)

    def norm(self, optimizer: Any, grads: Flat) -> float:
        """The global norm of the whole model's gradients."""
        return self.plan.norm(grads)

    def update(self, optimizer: Any, grads: Flat, lr: float, norm: Any, key: tuple[int, int] | None) -> None:
        """Move this rank's part."""
        if key is not None:
            raise InputError(
                "parallel: weights without masters are rounded by their places in the whole model, expected"
                " masters where a model is cut: train in data parallel"
            )
        self.own.step(grads, lr, norm)
        self.steps += 1
        if self.steps % CHECKED == 0:
            self._expect_equal()

    def _expect_equal(self) -> None:
        """Raise InputError, on all ranks, where what several ranks have is not the same."""
        differing = self.ranks.gather_texts(" ".join(self.plan.differing(self.part.params)))
        names = " ".join(differing).split()
        if names:
            raise InputError(
                f"parallel: after step {self.steps} ranks hold different bits of {names[0]}, expected the"
                " same: one of them computes otherwise (another library, faulty memory); go on from the"
                " last checkpoint by --resume"
            )
        if self.of_data.size > 1:
            alike.expect_replicas(self.of_data, self.part.params, self.steps)

    def put_together(self) -> None:
        """Bring the Trainer's model up to date; all ranks call it."""
        self.whole.params.flat[:] = self.plan.canonical(self.part.params).flat

    def held_out_loss(self, model: GPT, objective: Any) -> float:
        """As objective.held_out_loss; the model that may be saved then is the one that was measured."""
        self.put_together()
        return self.plan.held_out_loss(self.part, objective)

    def agreed(self, is_asked: bool) -> bool:
        """Whether any rank was asked."""
        return bool(self.ranks.all_reduce(np.array(int(is_asked)), "max"))

    def to_save(self, optimizer: Any) -> Any:
        """The Trainer's optimizer with the moments of all parts; its model is brought up to date, too."""
        self.put_together()
        bad = bad_parameter(self.whole.params)
        if bad:
            raise NotFinite(f"step {self.steps}: {bad}: lower --lr")
        for whole, own in ((optimizer.m, self.own.m), (optimizer.v, self.own.v)):
            moment = self.plan.canonical(own)
            if self.is_first:
                whole.flat[:] = moment.flat
        optimizer.steps = self.own.steps
        return optimizer

    def loaded(self, optimizer: Any) -> None:
        """Take this rank's part of what was read."""
        self.part.params.flat[:] = self.plan.local(self.whole.params).flat
        for whole, own in ((optimizer.m, self.own.m), (optimizer.v, self.own.v)):
            own.flat[:] = self.plan.local(whole).flat
        self.own.steps = optimizer.steps
