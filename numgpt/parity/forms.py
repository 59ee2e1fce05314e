"""A model of numgpt and the way in which it is run: all that two programs for one GPT may do differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..layers.layer import Layer
from ..layers.record import Record
from ..layers.transformer import loss_backward, loss_forward

Named = Mapping[str, Any]
# (full name, op or layer, options) → the op or layer and the options in their place
Replacement = Callable[[str, Any, dict[str, Any]], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Run:
    """What a model gave for one batch, by numgpt's names and in the order of its computation.

    params, values, grads (of values and of parameters), and updated: the parameters after a step of an
    optimizer. Each is a mapping name → array; what the model does not show is not in it.
    constants: the names of values that no parameter acts on, as far as the program knows.
    """

    params: Named = field(default_factory=dict)
    values: Named = field(default_factory=dict)
    grads: Named = field(default_factory=dict)
    updated: Named = field(default_factory=dict)
    constants: frozenset[str] = frozenset()

    def named(self) -> dict[tuple[str, str], Any]:
        """(stage, name) → array of all that was computed; the parameters were given."""
        stages = {"value": self.values, "gradient": self.grads, "update": self.updated}
        return {(stage, name): array for stage, arrays in stages.items() for name, array in arrays.items()}


@dataclass(frozen=True)
class Form:
    """A GPT with its parameters, and what is unusual in how it is run.

    replaced: an op or a layer → its Replacement. targets: a function of (tokens, targets) that gives the
    targets of the loss. count: a function of (tokens, targets) that gives the divisor of the loss's sum.
    optimizer: settings of AdamW with lr, whose step is part of the run; decay_all: it decays norms and biases
    too. served: what the model runs in the place of its own ops, by name.
    """

    config: Config
    params: Flat
    replaced: dict[Any, Replacement] = field(default_factory=dict)
    targets: Callable[[Any, Any], Any] | None = None
    count: Callable[[Any, Any], Any] | None = None
    optimizer: dict[str, Any] | None = None
    decay_all: bool = False
    served: Mapping[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> Form:
        """The same form with other fields.

        config and params may be mappings of what changes in them, None for a parameter that goes. What is
        replaced already is replaced once more.
        """
        if isinstance(changes.get("config"), dict):
            changes["config"] = dataclasses.replace(self.config, **changes["config"])
        if isinstance(changes.get("params"), dict):
            changes["params"] = self._with_params(changes["params"])
        if "replaced" in changes:
            replaced = {op: _after(self.replaced.get(op), new) for op, new in changes["replaced"].items()}
            changes["replaced"] = self.replaced | replaced
        return dataclasses.replace(self, **changes)

    def _with_params(self, changes: Named) -> Flat:
        """The parameters with some changed, added, or left out."""
        arrays = {name: a for name, a in {**self.params, **changes}.items() if a is not None}
        flat = Flat({name: a.shape for name, a in arrays.items()}, self.params.dtype)
        for name, a in arrays.items():
            flat[name] = a
        return flat

    def run(
        self, tokens: Any, targets: Any, dtype: DTypeLike = "float64", record: type[FormRecord] | None = None
    ) -> Run:
        """Everything that one forward and backward give, and the step where there is an optimizer."""
        # a run only reads them
        params = self.params if self.params.dtype == dtype else self.params.astype(dtype)
        r = (record or FormRecord)(params, self.config, grads=params.like(), keep=True, served=self.served)
        r.replaced = self.replaced
        count = None if self.count is None else self.count(tokens, targets)
        targets = targets if self.targets is None else self.targets(tokens, targets)
        with engine.session(dtype):
            loss = loss_forward(r, tokens, targets, count)
            loss_backward(r, np.ones_like(loss))
        r.finish_backward()
        return Run(params, r.value, r.grad, self._step(params, r.grads))

    def _step(self, params: Flat, grads: Any) -> Named:
        """The parameters after one step of AdamW from zero moments, where there is an optimizer."""
        if self.optimizer is None:
            return {}
        from ..training.optim import AdamW

        settings = dict(self.optimizer)
        lr = settings.pop("lr")
        updated = params.astype(params.dtype)
        optimizer = AdamW(updated, **settings)
        if self.decay_all:
            updated.decayed = updated.flat
        optimizer.step(grads, lr)
        return updated


def _after(first: Replacement | None, second: Replacement) -> Replacement:
    """Two replacements of one op, the second of what the first gives."""
    if first is None:
        return second
    return lambda name, op, options: second(name, *first(name, op, options))


class FormRecord(Record):
    """A Record that runs what a Form puts in the place of an op or a layer."""

    replaced: Mapping[Any, Replacement] = MappingProxyType({})
    looks_inside = False  # a program for a GPT shows attention in one piece

    def __call__(self, name: str, op: Any, *inputs: Any, shares: str | None = None, **options: Any) -> Any:
        if isinstance(op, Layer) and op.whole in self.replaced:
            op = op.whole
        if op in self.replaced:
            op, options = self.replaced[op](self.scope + name, op, options)
        return super().__call__(name, op, *inputs, shares=shares, **options)
