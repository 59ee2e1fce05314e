"""The subjects of numgpt check: every op, layer and model variant as a pair at random arrays."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import engine, ops
from ..architecture.config import Config
from ..architecture.parameters import Flat, kinds, shapes
from ..gradcheck import Finding, GradientError, findings
from ..gradcheck.pair import Backward, Forward
from ..layers import transformer
from ..layers.layer import Layer
from ..layers.record import Record
from ..ops import Op

AGAIN = "again before its backward"  # a variant: called once more before the backward of the first call
MISFIT = "one gradient per array"  # the law of a backward that does not even fit its forward
KindOfRecord = type[Record]
OnRecord = Callable[[KindOfRecord, Sequence[Any]], tuple[Record, Layer, Sequence[Any]]]


@dataclass(frozen=True)
class Subject:
    """A pair at some arrays: what findings() takes.

    op: the op that it is. on_record: of a layer, what gives (the Record, the layer, its inputs) for a kind of
    Record and the arrays.
    """

    name: str
    forward: Forward
    backward: Backward
    arrays: tuple[Any, ...]
    options: dict[str, Any]
    op: Op | None = None
    on_record: OnRecord | None = None

    def __post_init__(self) -> None:
        """Have the pair run where the engine in use computes, and take and give arrays of the host."""
        object.__setattr__(self, "forward", _forward_there(self.forward))
        object.__setattr__(self, "backward", _backward_there(self.backward))

    def findings(self, seed: int = 0) -> Iterator[Finding]:
        """The laws' findings; a backward that does not even fit its forward is a finding too."""
        try:
            yield from findings(self.forward, self.backward, *self.arrays, seed=seed, options=self.options)
        except GradientError as error:
            yield Finding(MISFIT, math.inf, 0.0, str(error))


def _forward_there(forward: Forward) -> Forward:
    def there(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        if not engine.is_cupy():
            return forward(*arrays, **options)
        moved = engine.here(*arrays, *options.values())  # all or none: a mask stays with longdouble arrays
        y, saved = forward(*moved[: len(arrays)], **dict(zip(options, moved[len(arrays) :])))
        return engine.home(y), saved

    return there


def _backward_there(backward: Backward) -> Backward:
    def there(dy: Any, saved: Any) -> Any:
        if not engine.is_cupy():
            return backward(dy, saved)
        (dy,) = engine.here(dy)
        return tuple(engine.home(grad) for grad in backward(dy, saved))

    return there


# The config of layers and models, but for what their variants differ in.
SMALL: dict[str, Any] = {"vocab_size": 7, "block_size": 5, "n_layer": 2, "n_head": 2, "n_embd": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "GPT-1": {"norm_position": "post"},
    "nanoGPT": {"bias": False, "activation": "gelu"},
    "untied": {"tied": False},
    "ReLU": {"activation": "relu"},
    "dropout": {"dropout": 0.3},
    "narrow": {"n_inner": 3, "n_head": 1},
    "square": {"n_inner": 6},  # as wide inside as outside, so that steps in the wrong order fit in shape
    "GPT-1 untied, dropout, no bias": {"norm_position": "post", "tied": False, "dropout": 0.3, "bias": False},
}


class ScopedLayer(NamedTuple):
    """A layer, and the scope in which a model's first block runs it."""

    name: str
    layer: Layer
    scope: str


def block_layers(config: Config, layers: Any = transformer) -> tuple[ScopedLayer, ...]:
    """A block and the layers in it, taken from a module of layers."""
    return (
        ScopedLayer("attention", layers.causal_attention, "h.0.attn."),
        ScopedLayer("ffn", layers.ffn, "h.0.mlp."),
        ScopedLayer("block", layers.BLOCKS[config.norm_position], "h.0."),
    )


def subjects(seed: int = 0) -> Iterator[Subject]:
    """Every op in every variant, the layers, and the model variants, at random arrays, on the engine in use.

    Complex and longdouble arrays run on the specification, so a twin's gradient is held to the derivative of
    the specification.
    """
    for op in ops.ALL.values():
        yield from op_subjects(op, seed)
    yield from composed_subjects(seed)


def composed_subjects(
    seed: int = 0, layers: ModuleType = transformer, record: KindOfRecord = Record
) -> Iterator[Subject]:
    """The layers and models in every variant, and GPT-2 edited, run twice, and as training runs it.

    layers, record: the module of the layers and the kind of Record, where they are not the package's own.
    """
    for name, changes in VARIANTS.items():
        config = Config(**SMALL | changes)
        for scoped in block_layers(config, layers):
            yield layer_subject(f"{scoped.name} of {name}", scoped, config, seed, record=record)
        yield model_subject(f"model {name}", config, seed, layer=layers.loss, record=record)
    config = Config(**SMALL)
    yield inputs_subject("several inputs", seed, record)
    yield placed_subject("put in place", seed, record)
    yield edited_subject("model GPT-2, edited", config, seed, layer=layers.loss, record=record)
    yield model_subject("model GPT-2, added up", config, seed, layer=layers.loss, record=record, passes=2)
    yield model_subject("model GPT-2, as trained", config, seed, layer=layers.loss, record=record, keep=False)


def op_subjects(
    op: Op, seed: int, sizes: Mapping[str, int] | None = None, lead: tuple[int, ...] = (2, 3)
) -> Iterator[Subject]:
    """An op as it is, in its variants, without each optional array, and with noise."""
    rng = np.random.default_rng([seed, 1])
    letters = sorted({c for c in op.line if c.isupper()})
    sizes = dict(sizes or {c: int(rng.integers(2, 6)) for c in letters})
    for larger, smaller in op.at_least.items():
        sizes[larger] = sizes[larger] + sizes[smaller]
    arrays, options = op.draw(rng, sizes, lead)

    def forward(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        with engine.session("float64"):
            return engine.forward(op, arrays)(*arrays, **options)

    def backward(dy: Any, saved: Any) -> Any:
        with engine.session("float64"):
            return engine.backward(op, dy)(dy, saved)

    def subject(variant: str, arrays: Sequence[Any], more: Mapping[str, Any]) -> Subject:
        name = f"{op.name} ({variant})" if variant else op.name
        return Subject(name, forward, backward, tuple(arrays), {**options, **more}, op)

    yield subject("", arrays, {})

    def interrupted(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        """The forward, and another one before its backward: what is kept outside saved is overwritten."""
        result = forward(*arrays, **options)
        forward(*(a if a is None or a.dtype.kind in "iu" else 0.5 * a for a in arrays), **options)
        return result

    yield dataclasses.replace(subject(AGAIN, arrays, {}), forward=interrupted)
    for i, argument in enumerate(op.arguments):
        if argument.optional:
            yield subject(f"no {argument.name}", [None if j == i else a for j, a in enumerate(arrays)], {})
    for variant, more in op.variants.items():
        yield subject(variant, arrays, more(rng, sizes) if callable(more) else more)
    if op.line == "... -> ..." and not op.noise:
        # where an activation and its slope are all but 0; and where exp overflows, in long double too
        yield subject("far left", [0.1 * a - 10 for a in arrays], {})
        yield subject("out of sight", [0.1 * a - 200 for a in arrays], {})
    if op.noise:
        yield subject("dropout", arrays, {"keep": rng.random(op.noise(*arrays, **options)) < 0.7, "p": 0.3})


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
        r.scope = self.scope
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
        if self.edits is None:
            return *dinputs, *(grads[n] for n in self.shapes)
        dinputs[-1] = r.grad[self.edits.place]
        return *dinputs, *(r.grad[n] for n in self.shapes)
