"""Subjects that run on a Record: layers, models, and ops on a Record by themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import engine, ops
from ..architecture.config import Config
from ..architecture.parameters import Flat, kinds, shapes
from ..layers import transformer
from ..layers.layer import Layer
from ..layers.record import Record
from .op_subjects import KindOfRecord, Subject


class ScopedLayer(NamedTuple):
    """A layer, and the scope in which a model's first block runs it."""

    name: str
    layer: Layer
    scope: str


def layer_subject(
    name: str,
    scoped: ScopedLayer,
    config: Config,
    seed: int,
    shape: tuple[int, ...] = (2, 4),
    record: KindOfRecord = Record,
) -> Subject:
    """A layer as a pair: its input, all its parameters and one that it does not use → its value."""
    rng = np.random.default_rng([seed, 2])
    x = rng.standard_normal((*shape, config.n_embd))
    return Recorded(scoped.layer, config, scoped.scope, record).subject(name, [x], rng)


def model_subject(
    name: str,
    config: Config,
    seed: int,
    shape: tuple[int, ...] = (2, 4),
    layer: Layer = transformer.loss,
    record: KindOfRecord = Record,
    keep: bool = True,
    passes: int = 1,
) -> Subject:
    """The whole model as a pair: all its parameters → its loss at random tokens, some of which do not count.

    keep: hold everything, or let go what is done with, as in training. passes: run the backward so often, add
    up, divide.
    """
    rng = np.random.default_rng([seed, 3])
    recorded = Recorded(layer, config, "", record, keep, passes)
    return recorded.subject(name, _text(rng, config, shape), rng)


def edited_subject(
    name: str,
    config: Config,
    seed: int,
    shape: tuple[int, ...] = (2, 4),
    layer: Layer = transformer.loss,
    record: KindOfRecord = Record,
) -> Subject:
    """The model with values edited in flight: its parameters, and what is added to one value → its loss.

    One edit squares, one is a pair whose transpose is twice too large where an edited gradient is halved, and
    one adds. All gradients are those that the Record files: that of what is added is that of the value.
    """
    rng = np.random.default_rng([seed, 4])
    added = rng.standard_normal((*shape, config.ffn_width))
    place = f"h.{config.n_layer - 1}.mlp.act"

    def options(added: Any) -> dict[str, Any]:
        edit = {
            "h.0.mlp.act": lambda a: a * a,
            "h.0.attn.heads": (lambda a: 2 * a, lambda dy: 4 * dy),
            place: (lambda a: a + added, lambda dy: dy),
        }
        return {"edit": edit, "edit_grad": {"h.0.attn.heads": lambda dy: dy / 2}}

    recorded = Recorded(layer, config, "", record, edits=Edits(options, place))
    return recorded.subject(name, [*_text(rng, config, shape), added], rng)


def _text(rng: np.random.Generator, config: Config, shape: tuple[int, ...]) -> list[Any]:
    """Random tokens and targets, of which a third do not count."""
    tokens, targets = rng.integers(0, config.vocab_size, (2, *shape))
    targets.reshape(-1)[: targets.size // 3] = -1
    return [tokens, targets]


class Edits(NamedTuple):
    """Edits that see one input more than the layer does: the last one."""

    options: Callable[[Any], dict[str, Any]]  # of a Record, made of that input
    place: str  # the value whose gradient is that input's


@dataclass(frozen=True)
class Recorded:
    """A layer that runs on a Record, as a pair: its inputs and the parameters of its scope → its value.

    saved is the Record, and what makes another where the backward lets go what it held. keep, passes: as in
    model_subject.
    """

    layer: Layer
    config: Config
    scope: str
    record: KindOfRecord = Record
    keep: bool = True
    passes: int = 1
    edits: Edits | None = None

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the scope's parameters, and of one that a layer does not use."""
        return {n: s for n, s in shapes(self.config).items() if n.startswith((self.scope, "wpe."))}

    def subject(self, name: str, inputs: Sequence[Any], rng: np.random.Generator) -> Subject:
        """The pair at inputs and random parameters."""
        params, kind_of = [], kinds(self.config)
        for n, shape in self.shapes.items():
            is_scale = kind_of[n] == "norms" and n.endswith("weight")
            params.append(rng.standard_normal(shape) * 0.5 + is_scale)
        return Subject(name, self.forward, self.backward, (*inputs, *params), {}, on_record=self.on_record)

    def on_record(self, kind: KindOfRecord, arrays: Sequence[Any]) -> tuple[Record, Layer, Sequence[Any]]:
        """(a Record of a kind with the parameters in arrays, the layer, its inputs)."""
        count = len(arrays) - len(self.shapes)
        inputs, params = arrays[:count], dict(zip(self.shapes, arrays[count:]))
        options: dict[str, Any] = {}
        if self.edits is not None:
            inputs, options = inputs[:-1], self.edits.options(inputs[-1])
        step = 0 if self.config.dropout else None
        r = kind(params, self.config, step=step, keep=self.keep, spare=not self.keep, **options)
        if self.scope:
            r.scope, r.config = self.scope, self.config.scopes()["h.0."]
        return r, self.layer, inputs

    def forward(self, *arrays: Any) -> tuple[Any, Any]:
        """Run the layer on a new Record."""
        r, layer, inputs = self.on_record(self.record, arrays)
        with engine.session("float64"):
            return layer.forward(r, *inputs), (r, arrays)

    def backward(self, dy: Any, saved: Any) -> Any:
        """The gradients of the inputs and the parameters, the latter over the passes' mean."""
        r, arrays = saved
        if not self.keep:
            _, (r, _) = self.forward(*arrays)
        like = next(iter(r.params.values()))
        grads = Flat(self.shapes, like.dtype, like=like)
        grads.flat[...] = np.nan  # a gradient has to overwrite what an earlier step left
        for n in range(self.passes):
            r.start_backward(grads, add=n > 0)
            with engine.session("float64"):
                dx = self.layer.backward(r, dy)
            r.finish_backward()
        grads.flat /= self.passes
        dinputs = [dx] if dx is not None else [None] * (len(arrays) - len(self.shapes))
        if self.edits is not None:
            dinputs[-1] = r.grad[self.edits.place]
        at_home = r.grad if self.keep else grads
        return *dinputs, *(at_home[n] for n in self.shapes)


def inputs_subject(name: str, seed: int, record: KindOfRecord = Record) -> Subject:
    """Ops of two and three inputs on a Record, and one whose parameters have gradients that nobody wants.

    q = x Wᵀ,  y = attend(q, k, v) W' + b'        x, W, k and v → y
    """
    rng = np.random.default_rng([seed, 5])
    weight, bias = rng.standard_normal((4, 3)), rng.standard_normal(3)
    product = dataclasses.replace(ops.unembedding, parameters=())

    def forward(x: Any, w: Any, k: Any, v: Any) -> tuple[Any, Any]:
        params = {
            "out.weight": engine.beside(weight.astype(x.dtype), x),
            "out.bias": engine.beside(bias.astype(x.dtype), x),
        }
        r = record(params, None, keep=True)
        q = r("queries", product, x, w)
        return r("out", ops.linear, r("heads", ops.attend, q, k, v)), r

    def backward(dy: Any, r: Any) -> Any:
        dq, dk, dv = r.back("heads", r.back("out", dy))
        return *r.back("queries", dq), dk, dv

    x, k, v = rng.standard_normal((3, 2, 5, 4))
    return Subject(name, forward, backward, (x, rng.standard_normal((4, 4)), k, v), {})


def placed_subject(name: str, seed: int, record: KindOfRecord = Record) -> Subject:
    """A linear map applied twice, whose backward puts its parameters' gradients in place itself, as twins do.

    y = (x W + b) W + b        x, W and b → y
    """
    rng = np.random.default_rng([seed, 6])
    placed = dataclasses.replace(ops.linear, backward=_linear_backward_in_place)

    def run(x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        r = record({"map.weight": weight, "map.bias": bias}, None, spare=True)
        return r("again", placed, r("map", placed, x), shares="map"), r

    def forward(*arrays: Any) -> tuple[Any, Any]:
        return run(*arrays)[0], arrays

    def backward(dy: Any, arrays: Any) -> Any:
        _, r = run(*arrays)
        grads = {name: np.full_like(a, np.nan) for name, a in r.params.items()}
        r.start_backward(grads)
        return r.back("map", r.back("again", dy)), *grads.values()

    x, weight, bias = (rng.standard_normal(shape) for shape in ((2, 5, 4), (4, 4), (4,)))
    return Subject(name, forward, backward, (x, weight, bias), {})


def frozen_subject(name: str, seed: int, record: KindOfRecord = Record) -> Subject:
    """A linear map whose matrix nobody wants the gradient of: y = x W + b, x and b → y."""
    rng = np.random.default_rng([seed, 7])
    weight = rng.standard_normal((4, 3))

    def forward(x: Any, bias: Any) -> tuple[Any, Any]:
        constant = engine.beside(weight.astype(x.dtype), x)
        r = record({"map.weight": constant, "map.bias": bias}, None, keep=True)
        return r("map", ops.linear, x), (r, bias)

    def backward(dy: Any, saved: Any) -> Any:
        r, bias = saved
        grads = {"map.bias": np.full_like(bias, np.nan)}
        r.start_backward(grads)
        return r.back("map", dy), grads["map.bias"]

    return Subject(name, forward, backward, (rng.standard_normal((2, 5, 4)), rng.standard_normal(3)), {})


def sent_subject(name: str, seed: int, record: KindOfRecord = Record) -> Subject:
    """A linear map with two readers besides the one whose gradient comes back: y = h + h² + h³, h = x W + b.

    x, W and b → y
    """
    rng = np.random.default_rng([seed, 8])

    def forward(x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
        r = record({"map.weight": weight, "map.bias": bias}, None, keep=True)
        h = r("map", ops.linear, x)
        return h + h * h + h * h * h, r

    def backward(dy: Any, r: Any) -> Any:
        h, grads = r.value["map"], {name: np.full_like(a, np.nan) for name, a in r.params.items()}
        r.start_backward(grads)
        r.send("map", dy * 2 * h)
        r.send("map", dy * 3 * h * h)
        return r.back("map", dy), *grads.values()

    x, weight, bias = (rng.standard_normal(shape) for shape in ((2, 5, 4), (4, 3), (3,)))
    return Subject(name, forward, backward, (x, weight, bias), {})


def _linear_backward_in_place(
    dy: Any, saved: Any, into: Sequence[Any] = (None, None), spare: bool = False
) -> Any:
    """linear's, with into as twins take it: by parameter (the array for its gradient, whether to add)."""
    dx, *grads = ops.linear.backward(dy, saved)
    for i, place in enumerate(into):
        if place is not None:
            array, add = place
            array[...] = array + grads[i] if add else grads[i]
            grads[i] = array
    return dx, *grads
