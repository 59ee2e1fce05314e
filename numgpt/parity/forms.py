"""A model of numgpt and the way in which it is run: all that two programs for the same GPT may do
differently.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from .. import engine
from ..architecture.parameters import Flat
from ..layers.record import Record
from ..layers.transformer import loss_backward, loss_forward


@dataclass(frozen=True)
class Run:
    """What a model gave for one batch, by numgpt's names and in the order of its computation.

    params, values, grads (of values and of parameters), and updated: the parameters after a step of an
    optimizer. Each is a mapping name -> array; what the model does not show is not in it.
    """

    params: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    grads: dict = field(default_factory=dict)
    updated: dict = field(default_factory=dict)

    def named(self):
        """(stage, name) -> array of all that was computed: not of the parameters, which were given."""
        stages = {"value": self.values, "gradient": self.grads, "update": self.updated}
        return {(stage, name): array for stage, arrays in stages.items() for name, array in arrays.items()}


@dataclass(frozen=True)
class Form:
    """A GPT with its parameters, and what is unusual in how it is run.

    replaced: an op or a layer -> a function of (full name, op, options) that gives the op and the options in
    their place.
    targets: a function of (tokens, targets) that gives the targets that the loss is taken at.
    count: a function of (tokens, targets) that gives what the loss's sum is divided by.
    optimizer: settings of AdamW with lr, whose step is part of the run; decay_all: its decay acts on norms
    and biases too.
    """

    config: object
    params: Flat
    replaced: dict = field(default_factory=dict)
    targets: callable = None
    count: callable = None
    optimizer: dict = None
    decay_all: bool = False

    def but(self, **changes):
        """The same form with other fields; config and params may be given as mappings of what changes in
        them, None for what goes.
        """
        if isinstance(changes.get("config"), dict):
            changes["config"] = dataclasses.replace(self.config, **changes["config"])
        if isinstance(changes.get("params"), dict):
            arrays = {name: a for name, a in {**self.params, **changes["params"]}.items() if a is not None}
            flat = Flat({name: a.shape for name, a in arrays.items()}, self.params.dtype)
            for name, a in arrays.items():
                flat[name] = a
            changes["params"] = flat
        if "replaced" in changes:
            changes["replaced"] = self.replaced | {
                op: _after(self.replaced.get(op), new) for op, new in changes["replaced"].items()
            }
        return dataclasses.replace(self, **changes)

    def run(self, tokens, targets, dtype="float64", record=None):
        """Everything that one forward and backward give, and the step where there is an optimizer."""
        params = (
            self.params if self.params.dtype == dtype else self.params.astype(dtype)
        )  # which a run only reads
        r = (record or FormRecord)(params, self.config, grads=params.like(), keep=True)
        r.replaced = self.replaced
        count = None if self.count is None else self.count(tokens, targets)
        targets = targets if self.targets is None else self.targets(tokens, targets)
        with engine.session(dtype):
            loss = loss_forward(r, tokens, targets, count)
            loss_backward(r, np.ones_like(loss))
        r.finish_backward()
        return Run(params, r.value, r.grad, {} if self.optimizer is None else self._step(params, r.grads))

    def _step(self, params, grads):
        """The parameters after one step of AdamW from zero moments."""
        from ..training.optim import AdamW

        settings = dict(self.optimizer)
        lr, moved = settings.pop("lr"), params.astype(params.dtype)
        optimizer = AdamW(moved, **settings)
        if self.decay_all:
            moved.decayed = moved.flat
        optimizer.step(grads, lr)
        return moved


def _after(first, second):
    """Two replacements of one op, the second of what the first gives."""
    return second if first is None else lambda name, op, options: second(name, *first(name, op, options))


class FormRecord(Record):
    """A Record that runs what a Form puts in the place of an op or a layer."""

    replaced = {}

    def __call__(self, name, op, *inputs, shares=None, **options):
        if op in self.replaced:
            op, options = self.replaced[op](self.scope + name, op, options)
        return super().__call__(name, op, *inputs, shares=shares, **options)
