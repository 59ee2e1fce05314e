"""What a Trainer asks of an optimizer. AdamW is the first; anybody's will do that has these methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Training
from ..architecture.parameters import Flat
from ..architecture.patterns import matching
from ..errors import InputError
from ..model.gpt import GPT
from .muon import Muon
from .optim import AdamW, global_norm


class Optimizer(Protocol):
    """What moves the parameters, of which it holds the Flat, and can be saved and resumed.

    A run that was killed goes on with the same bits where everything that step depends on, besides the
    parameters, the gradients and lr, is in the state. Names, shapes and dtypes of the state are the same from
    the beginning on, so that a file is held to them before it is believed.

    An optimizer may have norm(grads), too: the norm that the log shows, which step then gets as a third
    argument. Without it the log shows the norm of all gradients. And it may have names, patterns of the
    parameters that it moves: then the gradients of the others are neither computed nor given.
    """

    def step(self, grads: Flat, lr: float) -> Any:
        """Move the parameters in place; InputError, before anything moved, for gradients that it refuses."""

    def state(self) -> Mapping[str, NDArray[Any]]:
        """Name → array of all that the next steps depend on: moments, momentum; {} where there is none."""

    def load_state(self, arrays: Mapping[str, NDArray[Any]], steps: int) -> None:
        """Take over a state that was saved after so many steps; the arrays belong to a file: copy them."""


def optimizer_of(model: GPT, training: Training, names: Sequence[str] | None = None) -> AdamW | Muon:
    """The optimizer that the settings describe, of the parameters of these names; None for all."""
    t = training
    common = (t.beta1, t.beta2), t.eps, t.weight_decay, t.clip, names
    if t.optimizer == "muon":
        return Muon(model, t.momentum, *common)
    return AdamW(model, *common)


def places(optimizer: Any, params: Flat) -> Flat:
    """One buffer for the gradients of all steps, of the parameters that an optimizer moves."""
    names: Any = getattr(optimizer, "names", None)
    if names is None:
        return params.like()
    moved = matching(f"{type(optimizer).__name__}: names", names, params.shapes)
    return Flat({name: params.shapes[name] for name in moved}, params.dtype, like=params.flat)


def norm_and_step(optimizer: Any) -> tuple[Any, bool]:
    """A function grads → norm, and whether step takes that norm."""
    own = getattr(optimizer, "norm", None)
    return (_norm, False) if own is None else (own, True)


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
def _norm(grads: Flat) -> Any:
    """The global norm of all gradients."""
    return engine.twin(global_norm, grads.flat)(grads.flat)


def expect_beginning(optimizer: Any, params: Flat) -> None:
    """Raise InputError for an optimizer of another model, or one that has taken steps before the run."""
    if not isinstance(optimizer, AdamW | Muon):
        return
    kind = type(optimizer).__name__
    if optimizer.params is not params:
        raise InputError(
            "Trainer: the optimizer moves the parameters of another model, expected those of the model"
            f" that is trained: {kind}(model)"
        )
    if optimizer.steps:
        raise InputError(
            f"Trainer: the optimizer has taken {optimizer.steps} steps, expected one that begins with the"
            f" run: give a new {kind}, or go on from a checkpoint by resume()"
        )
