"""Why two GPTs may part: each cause changes a form of A into one that should then give what B gives.

A cause is a function of (form, a, b), the two Runs, that yields (what it is, the changed form). Which of them
is true is found by running it.
"""

import dataclasses
import itertools
import math
import re

import numpy as np

from ..architecture.parameters import kinds, parts
from ..layers.transformer import post_norm_block, pre_norm_block
from ..ops import Op, attention, layernorm
from ..ops.activations import ACTIVATIONS

EPSILONS = (
    1e-5,
    1e-6,
    1e-12,
    1e-8,
    1e-3,
    1e-4,
    1e-7,
    1e-10,
)  # the usual ones first: float32 cannot tell all of them apart


def activation(form, a, b):
    """The activation of the feed-forward."""
    own = ACTIVATIONS[form.config.activation]
    for name, other in ACTIVATIONS.items():
        if name != form.config.activation:
            yield f"{own.title} in A, {other.title} in B", form.but(replaced={own.op: _as(other.op)})


def epsilon(form, a, b):
    """What LayerNorm adds to the variance, and what it divides by."""
    for other in EPSILONS:
        if other != form.config.layer_norm_epsilon:
            yield (
                f"LayerNorm's epsilon is {form.config.layer_norm_epsilon:g} in A, {other:g} in B",
                form.but(replaced={layernorm: _as(eps=other)}),
            )
    if form.config.n_embd > 1:
        yield (
            "LayerNorm divides the variance by C in A, by C − 1 in B",
            form.but(replaced={layernorm: _as(UNBIASED)}),
        )


def transposed(form, a, b):
    """Square matrices turned, which no shape tells: those that B's own parameters tell, or a kind of them in
    all blocks.
    """
    square = [
        n for n, w in form.params.items() if n.startswith("h.") and w.ndim == 2 and w.shape[0] == w.shape[1]
    ]
    told = [
        n for n in square if n in b.params and np.allclose(b.params[n], form.params[n].T, rtol=1e-5, atol=0)
    ]
    if told:
        yield (
            f"{_some(told)}: turned, (in, out) in A and (out, in) in B",
            form.but(params={n: form.params[n].T for n in told}),
        )
    for kind in sorted({n.split(".", 2)[2] for n in square}):
        names = [n for n in square if n.endswith(f".{kind}")]
        yield (
            f"{_some(names)}: turned, (in, out) in A and (out, in) in B",
            form.but(params={n: form.params[n].T for n in names}),
        )


def head(form, a, b):
    """The unembedding: the embedding itself, a matrix of its own, or one with rows for tokens that do not
    exist.
    """
    theirs, V, wte = b.params.get("lm_head.weight"), form.config.vocab_size, form.params["wte.weight"]
    if form.config.tied:
        if theirs is not None and theirs.shape == wte.shape and not np.array_equal(theirs, wte):
            yield (
                "the head is tied to the embedding in A, a matrix of its own in B",
                form.but(config={"tied": False}, params={"lm_head.weight": theirs}),
            )
        yield (
            (
                "the head is tied to the embedding in A, a copy of it in B: its gradient does not reach the"
                " embedding"
            ),
            form.but(config={"tied": False}, params={"lm_head.weight": wte}),
        )
    else:
        yield (
            "the head is a matrix of its own in A, tied to the embedding in B",
            form.but(config={"tied": True}, params={"lm_head.weight": None}),
        )
    widths = [
        x.shape[axis]
        for x, axis in ((b.values.get("lm_head"), -1), (b.params.get("wte.weight"), 0))
        if x is not None
    ]
    wide = max(widths, default=V)
    if wide > V:
        rows = b.params.get("wte.weight", np.zeros((wide, wte.shape[1])))[V:]
        params = {"wte.weight": np.concatenate([wte, rows])}
        if not form.config.tied:
            params["lm_head.weight"] = np.concatenate(
                [
                    form.params["lm_head.weight"],
                    b.params.get("lm_head.weight", np.zeros((wide, wte.shape[1])))[V:],
                ]
            )
        yield (
            f"the head is padded from {V} tokens to {wide} in B, and the padding takes part in the softmax",
            form.but(config={"vocab_size": wide}, params=params),
        )


def scale(form, a, b):
    """What the scores of attention are multiplied by."""
    D = form.config.n_embd // form.config.n_head
    others = {"not scaled": 1.0, "scaled by 1/√C": form.config.n_embd**-0.5, "scaled by 1/D": 1 / D}
    for what, factor in others.items():
        if not math.isclose(factor, D**-0.5):
            yield (
                f"attention's scores are scaled by 1/√D in A, {what} in B",
                form.but(replaced={attention: _as(scale=factor)}),
            )
    yield (
        "attention's scores are divided by the block's number too in B",
        form.but(replaced={attention: _by_block(D**-0.5)}),
    )


def heads(form, a, b):
    """The number of heads."""
    for other in range(1, min(form.config.n_embd, 128) + 1):
        if form.config.n_embd % other == 0 and other != form.config.n_head:
            yield (
                f"attention has {form.config.n_head} heads in A, {other} in B",
                form.but(replaced={attention: _as(n_head=other)}),
            )


def norm_position(form, a, b):
    """Norms before each part, or after each sum."""
    blocks = {pre_norm_block: _as(post_norm_block), post_norm_block: _as(pre_norm_block)}
    if form.config.norm_position == "pre":
        text = "norms stand before each part in A (pre-norm), after each sum in B (post-norm)"
        yield text, form.but(replaced=blocks)
        yield (
            text,
            form.but(config={"norm_position": "post"}, params={"ln_f.weight": None, "ln_f.bias": None}),
        )
    else:
        text = "norms stand after each sum in A (post-norm), before each part in B (pre-norm)"
        yield text, form.but(replaced=blocks)
        last = {n: b.params[n] for n in ("ln_f.weight", "ln_f.bias") if n in b.params}
        if last:
            yield text, form.but(config={"norm_position": "pre"}, params=last)


def qkv_order(form, a, b):
    """The order of queries, keys and values in what c_attn gives: in how it is split, or in the columns of
    its weights.
    """
    C, H = form.config.n_embd, form.config.n_head
    parts = np.arange(3 * C).reshape(3, C)
    orders = {
        ", ".join("qkv"[i] for i in order): parts[list(order)].reshape(-1)
        for order in itertools.permutations(range(3))
        if order != (0, 1, 2)
    }
    if H > 1:
        orders["q, k, v of each head side by side"] = (
            np.arange(3 * C).reshape(H, 3, C // H).swapaxes(0, 1).reshape(-1)
        )
        orders["q, k, v in A's columns of each head"] = (
            np.arange(3 * C).reshape(3, H, C // H).swapaxes(0, 1).reshape(-1)
        )
    names = [n for n in form.params if ".attn.c_attn." in n]
    for what, index in orders.items():
        text = f"c_attn gives q, k, v in A; in B the order is {what}"
        yield text, form.but(replaced={attention: _reordered(index)})
        yield text, form.but(params={n: form.params[n][..., index] for n in names})


def targets(form, a, b):
    """Which token a position is to predict."""
    yield (
        "the targets are each position's own token in B, not the next: not shifted",
        form.but(targets=lambda tokens, targets: tokens),
    )
    yield (
        "the targets are shifted once more in B: off by one, the token after the next",
        form.but(targets=_shifted),
    )


def reduction(form, a, b):
    """What the sum of the losses is divided by."""
    yield "the loss is the mean in A, the sum in B", form.but(count=lambda tokens, targets: 1)
    yield (
        "the loss is the mean over tokens in A, the sum over positions and mean over rows in B",
        form.but(count=lambda tokens, targets: len(tokens)),
    )
    yield (
        "the loss is the mean over the targets that count in A, over all in B",
        form.but(count=lambda tokens, targets: targets.size),
    )


def weight_decay(form, a, b):
    """Decay on norms and biases: in the step, or as the parameters show it after one from the initial values."""
    text = "weight decay acts on matrices in A, on all tensors in B"
    if form.optimizer is not None:
        yield text, form.but(decay_all=True)
    kind_of = kinds(form.config)
    norms = {
        n: w
        for n, w in form.params.items()
        if kind_of[n] == "norms" and n.endswith("weight") and n in b.params
    }
    if norms:
        pulled = float(np.mean([np.mean(w - b.params[n]) for n, w in norms.items()]))
        if pulled > 0:
            yield text, form.but(params={n: w - pulled for n, w in norms.items()})


def precision(form, a, b):
    """Parameters that went through a shorter format."""
    yield (
        "B's parameters are A's rounded to float16",
        form.but(params={n: w.astype(np.float16).astype(w.dtype) for n, w in form.params.items()}),
    )
    yield (
        "B's parameters are A's rounded to bfloat16",
        form.but(params={n: _bfloat16(w) for n, w in form.params.items()}),
    )


CAUSES = (
    activation,
    epsilon,
    transposed,
    head,
    scale,
    heads,
    norm_position,
    qkv_order,
    targets,
    reduction,
    weight_decay,
    precision,
)
MANY = (epsilon, transposed)  # of which more than one may be true
LOCAL = (
    activation,
    epsilon,
    scale,
    heads,
    norm_position,
    qkv_order,
)  # of which one block may have another form than the rest


TOGETHER = {
    "heads": (scale, qkv_order),
    "loss": (targets, reduction),
}  # the end of a name -> two that show there at once, so that neither alone moves on


def local(form, a, b, name):
    """What is tried at the value where the models part: the causes of LOCAL in its block alone, or its norm
    alone, and two at once.
    """
    block = re.match(r"h\.\d+|ln_f", name)
    places = ([block[0]] if block else []) + ([name] if name in _norms(form.config) else [])
    for part in places:
        for cause in LOCAL:
            for text, changed in cause(dataclasses.replace(form, replaced={}), a, b):
                if changed.replaced:
                    yield (
                        f"{text}, in {part} alone",
                        form.but(
                            replaced={op: _within(part, change) for op, change in changed.replaced.items()}
                        ),
                    )
    first, second = TOGETHER.get(name.rsplit(".", 1)[-1], (None, None))
    for text, one in first(form, a, b) if first else ():
        for more, both in second(one, a, b):
            yield f"{text}; {more}", both


def _norms(config):
    """The names of a model's norms."""
    return [part.name for part in parts(config) if part.kind == "norms"]


def _within(part, change):
    """A replacement in what is called part, or begins with it, alone."""
    return lambda name, op, options: (
        change(name, op, options) if f"{name}.".startswith(f"{part}.") else (op, options)
    )


def _unbiased_forward(x, weight, bias=None, *, eps=1e-5):
    """LayerNorm with the variance over C − 1: (v C/(C−1) + eps)^(−½) = s (v + s² eps)^(−½) with s² = (C−1)/C."""
    s = math.sqrt((x.shape[-1] - 1) / x.shape[-1])
    y, saved = layernorm.forward(x, weight * s, bias, eps=eps * s * s)
    return y, (s, saved)


def _unbiased_backward(dy, saved):
    s, saved = saved
    dx, dweight, dbias = layernorm.backward(dy, saved)
    return dx, dweight * s, dbias


UNBIASED = Op(layernorm.line, _unbiased_forward, _unbiased_backward, parameters=layernorm.parameters)


def _as(other=None, **changed):
    """A replacement of an op or a layer by another, or by itself with other options."""
    return lambda name, op, options: (other or op, options | changed)


def _by_block(scale):
    """A replacement of attention whose scale is divided by the block's number too, from 1."""
    return lambda name, op, options: (op, options | {"scale": scale / (int(name.split(".")[1]) + 1)})


def _reordered(index):
    """A replacement of attention that takes the columns of qkv in another order."""

    def replacement(name, op, options):
        def forward(qkv, **more):
            return op.forward(qkv[..., index], **more)

        def backward(dy, saved):
            (taken,) = op.backward(dy, saved)
            dqkv = np.empty_like(taken)
            dqkv[..., index] = taken
            return (dqkv,)

        return Op(op.line, forward, backward, sizes=op.sizes, noise=op.noise), options

    return replacement


def _shifted(tokens, targets):
    return np.concatenate([targets[:, 1:], np.full_like(targets[:, :1], -1)], axis=1)


def _bfloat16(array):
    """float32 with the lower half of its bits rounded away, to even."""
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(array.dtype)


def _some(names):
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more such"
