"""What a rank has of a model, and what several ranks have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..training.objective import Batch, expect_batch
from .ranks import Ranks


@dataclass
class PartOfModel:
    """A model as layers see it, whose parameters are those of one rank."""

    config: Config
    params: Flat
    served: Mapping[str, Any]
    seed: int


class Sums(NamedTuple):
    """What batches of a step add up to, in the terms of step_loss_and_grads.

    losses: (D_n / D) L_n of each batch, in their order. divisor: D, that of the step's first batch. counted:
    Σ N_n.
    """

    losses: list[Any]
    divisor: float
    counted: float

    def mean(self, grads: Flat, scale: float) -> tuple[Any, float]:
        """(the mean loss over all that counts, how much that is); the gradients are divided in place."""
        factor = self.divisor / self.counted
        if factor != scale:
            grads.flat *= factor / scale
        total = sum(self.losses)
        return (total if factor == 1 else total * factor), self.counted


def wide(loss: Any) -> Any:
    """A loss in float64, or complex128, so that a share of it is not rounded to float32."""
    return np.asarray(loss).astype(np.result_type(loss, np.float64)).item()


def held_out_batches(objective: Any) -> list[Batch]:
    """The held-out batches of an objective; InputError where there is none."""
    batches = [expect_batch(objective, given, "held_out") for given in objective.held_out()]
    if not batches:
        raise InputError(f"{type(objective).__name__}.held_out: gives no batch, expected at least one")
    return batches


def expect_whole(who: str, config: Config, params: Flat) -> None:
    """Raise InputError unless these are all parameters of a model, and nothing beside them."""
    expected = shapes(config)
    beside = [name for name in params if name not in expected]
    if beside or params.shapes != expected:
        raise InputError(
            f"{who}: the parameters have {', '.join(beside[:3]) or 'other shapes than the config says'},"
            " expected those of the config alone: adapters, heads and rounded weights train in data parallel"
        )


def differing(ranks: Ranks, params: Flat, names: Sequence[str]) -> list[str]:
    """Which of the named arrays have other bits on another rank that has them; all ranks ask together.

    names: those that this rank has in common with others; a rank that has none gives none.
    """
    mine = {name: hashlib.blake2b(engine.home(params[name]).tobytes()).hexdigest() for name in names}
    digests: dict[str, set[str]] = {}
    for text in ranks.gather_texts("\n".join(f"{name} {digest}" for name, digest in mine.items())):
        for line in text.splitlines():
            name, digest = line.split()
            digests.setdefault(name, set()).add(digest)
    return [name for name, found in digests.items() if len(found) > 1]
