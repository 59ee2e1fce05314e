"""Who works on a run: this process alone, or several that share its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..architecture.parameters import Flat
from ..model.gpt import GPT
from .objective import Objective, held_out_loss, step_loss_and_grads
from .optim import parts_that_train
from .optimizer import norm_and_step, places
from .stochastic import round_trained


class Distribution(Protocol):
    """What the Trainer asks of those who work on a run. All of them call the same methods in the same order.

    is_first: whether this process writes the log, the progress and the checkpoints: one of them does.
    """

    is_first: bool

    def begin(self, model: GPT, optimizer: Any, accumulate: int, facts: Mapping[str, Any]) -> Flat:
        """Get ready for a run; returns the place for the gradients of all steps.

        facts: what all processes have to agree on, by name.
        """

    def loss_and_grads(
        self, model: GPT, objective: Objective, step: int, batches: int, grads: Flat, scale: float
    ) -> tuple[Any, float]:
        """As objective.step_loss_and_grads: the loss of the whole step; grads are for update."""

    def norm(self, optimizer: Any, grads: Flat) -> Any:
        """The global norm of the gradients of the whole step."""

    def update(self, optimizer: Any, grads: Flat, lr: float, norm: Any, key: tuple[int, int] | None) -> None:
        """Move the parameters. key: seed and step, where weights without masters are rounded by them."""

    def held_out_loss(self, model: GPT, objective: Any) -> float:
        """As objective.held_out_loss."""

    def agreed(self, is_asked: bool) -> bool:
        """Whether any process was asked for something, such as to stop."""

    def to_save(self, optimizer: Any) -> Any:
        """The optimizer whose state is that of the whole run, where is_first; elsewhere anything."""

    def loaded(self, optimizer: Any) -> None:
        """Called when a checkpoint has been read."""


class OneProcess:
    """This process alone."""

    is_first = True

    def begin(self, model: GPT, optimizer: Any, accumulate: int, facts: Mapping[str, Any]) -> Flat:
        """A buffer for the gradients of what the optimizer moves."""
        self.params = model.params
        return places(optimizer, model.params)

    def loss_and_grads(
        self, model: GPT, objective: Objective, step: int, batches: int, grads: Flat, scale: float
    ) -> tuple[Any, float]:
        """Batch after batch; each adds its gradients to those before it."""
        return step_loss_and_grads(model, objective, step, batches, grads, scale)

    def norm(self, optimizer: Any, grads: Flat) -> Any:
        """The optimizer's own norm, where it has one."""
        return norm_and_step(optimizer)[0](grads)

    def update(self, optimizer: Any, grads: Flat, lr: float, norm: Any, key: tuple[int, int] | None) -> None:
        """One step of the optimizer."""
        takes_norm = norm_and_step(optimizer)[1]
        optimizer.step(grads, lr, *([norm] if takes_norm else []))
        if key is not None:
            round_trained(self.params, parts_that_train(self.params, grads), *key)

    def held_out_loss(self, model: GPT, objective: Any) -> float:
        """Batch after batch."""
        return held_out_loss(model, objective)

    def agreed(self, is_asked: bool) -> bool:
        """There is nobody else."""
        return is_asked

    def to_save(self, optimizer: Any) -> Any:
        """Itself."""
        return optimizer

    def loaded(self, optimizer: Any) -> None:
        """There is nobody to wait for."""
