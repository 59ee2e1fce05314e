"""numgpt check: every op, layer and model variant held to the laws of gradcheck, as a table."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from .. import engine, ops
from ..architecture.config import Config
from ..architecture.parameters import Flat, kinds, shapes
from ..gradcheck import Finding, GradientError, findings
from ..layers import transformer
from ..layers.record import Record

MISFIT = "one gradient per array"  # the law of a backward that does not even fit its forward


@dataclass(frozen=True)
class Subject:
    """A pair at some arrays: what findings() takes.

    op: the op that it is; for a layer made: a function of (kind of Record, arrays) -> (the record, layer, the
    layer's inputs).
    """

    name: str
    forward: callable
    backward: callable
    arrays: tuple
    options: dict
    op: object = None
    made: callable = None

    def __post_init__(self):
        """Have the pair run where the engine in use computes, and be given and give arrays of the host."""
        for name, moved in (
            ("forward", _forward_there(self.forward)),
            ("backward", _backward_there(self.backward)),
        ):
            object.__setattr__(self, name, moved)

    def findings(self, seed=0):
        """The laws' findings; a backward that does not even fit its forward is a finding too."""
        try:
            yield from findings(self.forward, self.backward, *self.arrays, seed=seed, **self.options)
        except GradientError as error:
            yield Finding(MISFIT, math.inf, 0.0, str(error))


def _forward_there(forward):
    def there(*arrays, **options):
        if not engine.is_cupy():
            return forward(*arrays, **options)
        moved = engine.here(
            *arrays, *options.values()
        )  # all or none: a mask stays with arrays of long double
        y, saved = forward(*moved[: len(arrays)], **dict(zip(options, moved[len(arrays) :])))
        return engine.home(y), saved

    return there


def _backward_there(backward):
    def there(dy, saved):
        if not engine.is_cupy():
            return backward(dy, saved)
        return tuple(engine.home(grad) for grad in backward(*engine.here(dy), saved))

    return there


# What the variants of layers and models differ in; everything else is small.
SMALL = {"vocab_size": 7, "block_size": 5, "n_layer": 2, "n_head": 2, "n_embd": 6}
VARIANTS = {
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


def subjects(seed=0):
    """Every op in every variant, the layers, and the model variants, at random arrays, on the engine in use.

    Complex and long double arrays run on the specification, so a twin's gradient is held to the
    specification's derivative.
    """
    for op in ops.ALL.values():
        yield from op_subjects(op, seed)
    yield from composed_subjects(seed)


def composed_subjects(seed=0, layers=transformer, record=Record):
    """The layers and models in every variant; and GPT-2 with values edited, with two passes added up, and as
    training runs it.

    layers, record: what holds the layers and what keeps the books, where others than the package's own are to
    be checked.
    """
    for name, changes in VARIANTS.items():
        config = Config(**SMALL | changes)
        for part, layer in (
            ("attention", layers.causal_attention),
            ("ffn", layers.ffn),
            ("block", layers.BLOCKS[config.norm_position]),
        ):
            yield layer_subject(f"{part} of {name}", layer, config, seed, record=record)
        yield model_subject(f"model {name}", config, seed, layer=layers.loss, record=record)
    config = Config(**SMALL)
    yield inputs_subject("several inputs", seed, record)
    yield placed_subject("put in place", seed, record)
    yield edited_subject("model GPT-2, edited", config, seed, layer=layers.loss, record=record)
    yield model_subject("model GPT-2, added up", config, seed, layer=layers.loss, record=record, passes=2)
    yield model_subject("model GPT-2, as trained", config, seed, layer=layers.loss, record=record, keep=False)


def op_subjects(op, seed, sizes=None, lead=(2, 3)):
    """An op as it is, in its variants, without each optional array, and with noise."""
    rng = np.random.default_rng([seed, 1])
    letters = sorted({c for c in op.line if c.isupper()})
    sizes = dict(sizes or {c: int(rng.integers(2, 6)) for c in letters})
    for larger, smaller in op.at_least.items():
        sizes[larger] = sizes[larger] + sizes[smaller]
    arrays, options = op.draw(rng, sizes, lead)

    def forward(*arrays, **options):
        with engine.session("float64"):
            return engine.forward(op, arrays)(*arrays, **options)

    def backward(dy, saved):
        with engine.session("float64"):
            return engine.backward(op, dy)(dy, saved)

    def subject(variant, arrays, more):
        return Subject(
            f"{op.name} ({variant})" if variant else op.name,
            forward,
            backward,
            tuple(arrays),
            options | more,
            op,
        )

    yield subject("", arrays, {})
    for i, argument in enumerate(op.arguments):
        if argument.optional:
            yield subject(f"no {argument.name}", [None if j == i else a for j, a in enumerate(arrays)], {})
    for variant, more in op.variants.items():
        yield subject(variant, arrays, more(rng, sizes) if callable(more) else more)
    if op.line == "... -> ..." and not op.noise:
        yield subject(
            "far left", [0.1 * a - 10 for a in arrays], {}
        )  # where an activation is all but 0, and its slope too
    if op.noise:
        yield subject("dropout", arrays, {"keep": rng.random(op.noise(*arrays, **options)) < 0.7, "p": 0.3})


def layer_subject(name, layer, config, seed, shape=(2, 4), record=Record):
    """A layer as a pair: its input, all its parameters and one that it does not use → its value."""
    rng = np.random.default_rng([seed, 2])
    x = rng.standard_normal((*shape, config.n_embd))
    return _recorded(name, layer, config, rng, [x], record)


def inputs_subject(name, seed, record=Record):
    """Ops of two and three inputs on a Record, and one with parameters of which nobody wants the gradients.

    q = x Wᵀ,  y = attend(q, k, v) W' + b'        x, W, k and v → y
    """
    rng = np.random.default_rng([seed, 5])
    weight, bias = rng.standard_normal((4, 3)), rng.standard_normal(3)
    product = dataclasses.replace(ops.unembedding, parameters=())

    def forward(x, w, k, v):
        r = record(
            {n: engine.beside(a.astype(x.dtype), x) for n, a in (("out.weight", weight), ("out.bias", bias))},
            None,
            keep=True,
        )
        q = r("queries", product, x, w)
        return r("out", ops.linear, r("heads", ops.attend, q, k, v)), r

    def backward(dy, r):
        dq, dk, dv = r.back("heads", r.back("out", dy))
        return *r.back("queries", dq), dk, dv

    x, k, v = rng.standard_normal((3, 2, 5, 4))
    return Subject(name, forward, backward, (x, rng.standard_normal((4, 4)), k, v), {})


def placed_subject(name, seed, record=Record):
    """A linear map applied twice, whose backward puts the gradients of its parameters in place itself, as
    twins do.

    y = (x W + b) W + b        x, W and b → y
    """
    rng = np.random.default_rng([seed, 6])
    placed = dataclasses.replace(ops.linear, backward=_linear_backward_in_place)

    def run(x, weight, bias):
        r = record({"map.weight": weight, "map.bias": bias}, None, spare=True)
        return r("again", placed, r("map", placed, x), shares="map"), r

    def forward(*arrays):
        return run(*arrays)[0], arrays

    def backward(dy, arrays):
        _, r = run(*arrays)
        grads = {name: np.full_like(a, np.nan) for name, a in r.params.items()}
        r.start_backward(grads)
        return r.back("map", r.back("again", dy)), *grads.values()

    return Subject(
        name,
        forward,
        backward,
        (rng.standard_normal((2, 5, 4)), rng.standard_normal((4, 4)), rng.standard_normal(4)),
        {},
    )


def _linear_backward_in_place(dy, saved, into=(None, None), spare=False):
    """linear's, with into as twins take it: for each parameter the array for its gradient, and whether to
    add.
    """
    dx, *grads = ops.linear.backward(dy, saved)
    for i, place in enumerate(into):
        if place is not None:
            array, add = place
            array[...] = array + grads[i] if add else grads[i]
            grads[i] = array
    return dx, *grads


def model_subject(
    name, config, seed, shape=(2, 4), layer=transformer.loss, record=Record, keep=True, passes=1
):
    """The whole model as a pair: all its parameters → its loss at random tokens, some of which do not count.

    keep: hold everything, or let go what is done with, as in training. passes: run the backward so often, add
    up, divide.
    """
    rng = np.random.default_rng([seed, 3])
    return _recorded(name, layer, config, rng, _text(rng, config, shape), record, keep, passes)


def edited_subject(name, config, seed, shape=(2, 4), layer=transformer.loss, record=Record):
    """The model with values edited in flight: its parameters, and what is added to one value → its loss.

    One edit squares, one is a pair whose transpose is twice too large where an edited gradient is halved, and
    one adds. All
    gradients are those that the Record files: of what is added it is that of the value.
    """
    rng = np.random.default_rng([seed, 4])
    added = rng.standard_normal((*shape, config.ffn_width))
    place = f"h.{config.n_layer - 1}.mlp.act"

    def edits(added):
        edit = {
            "h.0.mlp.act": lambda a: a * a,
            "h.0.attn.heads": (lambda a: 2 * a, lambda dy: 4 * dy),
            place: (lambda a: a + added, lambda dy: dy),
        }
        return {"edit": edit, "edit_grad": {"h.0.attn.heads": lambda dy: dy / 2}}

    return _recorded(
        name, layer, config, rng, [*_text(rng, config, shape), added], record, edits=edits, place=place
    )


def _text(rng, config, shape):
    """Random tokens and targets, of which a third do not count."""
    tokens, targets = rng.integers(0, config.vocab_size, (2, *shape))
    targets.reshape(-1)[: targets.size // 3] = -1
    return [tokens, targets]


# What a layer's parameters are called in block 0, by its forward's name; a block's begin with "h.0.".
SCOPES = {"loss_forward": "", "attention_forward": "h.0.attn.", "ffn_forward": "h.0.mlp."}


def _recorded(name, layer, config, rng, inputs, record, keep=True, passes=1, edits=None, place=None):
    """A Subject that runs a layer on a Record. Its saved is the Record, or what makes another where backward
    lets it go.

    edits: a function of the last input, which only they see, that gives the Record's options; place: where it
    is added.
    """
    prefix = SCOPES.get(layer.forward.__name__, "h.0.")
    drawn = {n: shape for n, shape in shapes(config).items() if n.startswith((prefix, "wpe."))}
    step = 0 if config.dropout else None

    def made(kind, arrays):
        inner, params = arrays[: len(inputs)], dict(zip(drawn, arrays[len(inputs) :]))
        inner, options = (inner[:-1], edits(inner[-1])) if edits else (inner, {})
        r = kind(params, config, step=step, keep=keep, spare=not keep, **options)
        r.scope = prefix
        return r, layer, inner

    def run(arrays):
        r, _, inner = made(record, arrays)
        with engine.session("float64"):
            return layer.forward(r, *inner), r

    def forward(*arrays):
        y, r = run(arrays)
        return y, (r, arrays)

    def backward(dy, saved):
        r = saved[0] if keep else run(saved[1])[1]
        like = next(iter(r.params.values()))
        grads = Flat(drawn, like.dtype, like=like)
        grads.flat[...] = np.nan  # a gradient has to overwrite what an earlier step left
        for n in range(passes):
            r.start_backward(grads, add=n > 0)
            with engine.session("float64"):
                dx = layer.backward(r, dy)
            r.finish_backward()
        grads.flat /= passes
        dinputs = [dx] if dx is not None else [None] * len(inputs)
        if place:
            dinputs[-1] = r.grad[place]
        return *dinputs, *((r.grad if edits else grads)[n] for n in drawn)

    kind_of = kinds(config)
    params = [
        rng.standard_normal(shape) * 0.5 + (kind_of[n] == "norms" and n.endswith("weight"))
        for n, shape in drawn.items()
    ]
    return Subject(name, forward, backward, (*inputs, *params), {}, made=made)
