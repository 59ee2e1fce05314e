"""numgpt check: every op, layer and model variant held to the laws of gradcheck, as a table."""

import math
from dataclasses import dataclass

import numpy as np

from . import engine, ops, transformer
from .config import Config
from .gradcheck import Finding, GradientError, findings
from .parameters import Flat, shapes
from .record import Record


@dataclass(frozen=True)
class Subject:
    """A pair at some arrays: what findings() takes.

    op: the op that it is, or for a layer record: a function of (kind of Record, the arrays) -> (record, layer, inputs).
    """

    name: str
    forward: callable
    backward: callable
    arrays: tuple
    options: dict
    op: object = None
    record: callable = None

    def findings(self, seed=0):
        """The laws' findings; a backward that does not even fit its forward is a finding too."""
        try:
            yield from findings(self.forward, self.backward, *self.arrays, seed=seed, **self.options)
        except GradientError as error:
            yield Finding("one gradient per array", math.inf, 0.0, str(error))


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
    "GPT-1 untied, dropout, no bias": {"norm_position": "post", "tied": False, "dropout": 0.3, "bias": False},
}


def subjects(seed=0):
    """Every op in every variant, the layers, and the model variants, at random arrays, on the engine in use.

    Complex and long double arrays run on the specification, so a twin's gradient is held to the specification's derivative.
    """
    for op in ops.ALL.values():
        yield from op_subjects(op, seed)
    for name, changes in VARIANTS.items():
        config = Config(**SMALL | changes)
        block = transformer.BLOCKS[config.norm_position]
        for part, layer in (("attention", transformer.causal_attention), ("ffn", transformer.ffn), ("block", block)):
            yield layer_subject(f"{part} of {name}", layer, config, seed)
        yield model_subject(f"model {name}", config, seed)


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
        return Subject(f"{op.name} ({variant})" if variant else op.name, forward, backward, tuple(arrays), options | more, op)

    yield subject("", arrays, {})
    for i, argument in enumerate(op.arguments):
        if argument.optional:
            yield subject(f"no {argument.name}", [None if j == i else a for j, a in enumerate(arrays)], {})
    for variant, more in op.variants.items():
        yield subject(variant, arrays, more(rng, sizes) if callable(more) else more)
    if op.noise:
        yield subject("dropout", arrays, {"keep": rng.random(op.noise(*arrays, **options)) < 0.7, "p": 0.3})


def layer_subject(name, layer, config, seed, shape=(2, 4)):
    """A layer as a pair: its input and all its parameters → its value."""
    rng = np.random.default_rng([seed, 2])
    x = rng.standard_normal((*shape, config.n_embd))
    return _recorded(name, layer, config, rng, [x])


def model_subject(name, config, seed, shape=(2, 4)):
    """The whole model as a pair: all its parameters → its loss at random tokens, some of which do not count."""
    rng = np.random.default_rng([seed, 3])
    tokens, targets = rng.integers(0, config.vocab_size, (2, *shape))
    targets.reshape(-1)[: targets.size // 3] = -1
    return _recorded(name, transformer.loss, config, rng, [tokens, targets])


def _recorded(name, layer, config, rng, inputs):
    """A Subject that runs a layer on a Record. Its saved is the Record, which keeps everything, so backward can be called again."""
    prefix = "" if layer is transformer.loss else "h.0." + {transformer.causal_attention: "attn.", transformer.ffn: "mlp."}.get(layer, "")
    names = [n for n in shapes(config) if n.startswith(prefix)]
    drawn = {n: shape for n, shape in shapes(config).items() if n in names}
    step = 0 if config.dropout else None

    def record(kind, arrays):
        r = kind(dict(zip(names, arrays[len(inputs) :])), config, keep=True, step=step)
        r.scope = prefix
        return r, layer, arrays[: len(inputs)]

    def forward(*arrays):
        r, _, given = record(Record, arrays)
        with engine.session("float64"):
            return layer.forward(r, *given), r

    def backward(dy, r):
        r.start_backward(Flat(drawn, r.params[names[0]].dtype))
        with engine.session("float64"):
            dx = layer.backward(r, dy)
        r.finish_backward()
        return *([dx] if dx is not None else [None] * len(inputs)), *(r.grads[n] for n in names)

    params = [rng.standard_normal(shape) * 0.5 + (n.split(".")[-2].startswith("ln_") and n.endswith("weight")) for n, shape in drawn.items()]
    return Subject(name, forward, backward, (*inputs, *params), {}, record=record)
