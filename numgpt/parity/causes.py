"""Why two GPTs may part: each cause changes a form of A into one that should then give what B gives.

A cause is a function of (form, a, b), the two Runs, that yields (what it is, the changed form). Running the
changed forms shows which of them is true.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..architecture.config import Config
from ..architecture.parameters import kinds, parts
from ..layers.transformer import post_norm_block, pre_norm_block
from ..ops import Op, attention, layernorm
from ..ops.activations import ACTIVATIONS
from ..ops.norms import NORMS
from .family_causes import FAMILY, gate, rotation, router, window
from .forms import Form, Replacement, Run

Tried = Iterator[tuple[str, Form]]
Cause = Callable[[Form, Run, Run], Tried]
# The usual ones first: float32 cannot tell all of them apart.
EPSILONS = (1e-5, 1e-6, 1e-12, 1e-8, 1e-3, 1e-4, 1e-7, 1e-10)


def activation(form: Form, a: Run, b: Run) -> Tried:
    """The activation of the feed-forward."""
    own = ACTIVATIONS[form.config.activation]
    for name, other in ACTIVATIONS.items():
        if name != form.config.activation and other.gated == own.gated:
            yield f"{own.title} in A, {other.title} in B", form.but(replaced={own.op: _as(other.op)})


def epsilon(form: Form, a: Run, b: Run) -> Tried:
    """What a norm adds to the variance, and what LayerNorm divides by."""
    own = NORMS[form.config.norm]
    for other in EPSILONS:
        if other != form.config.layer_norm_epsilon:
            yield (
                f"the norm's epsilon is {form.config.layer_norm_epsilon:g} in A, {other:g} in B",
                form.but(replaced={own: _as(eps=other)}),
            )
    if own is layernorm and form.config.n_embd > 1:
        yield (
            "LayerNorm divides the variance by C in A, by C − 1 in B",
            form.but(replaced={layernorm: _as(UNBIASED)}),
        )


def transposed(form: Form, a: Run, b: Run) -> Tried:
    """Square matrices transposed, which no shape shows.

    Those that are so in B's own parameters, or all matrices of a kind.
    """
    matrices = {n: w for n, w in form.params.items() if n.startswith("h.") and w.ndim == 2}
    square = {n: w for n, w in matrices.items() if w.shape[0] == w.shape[1]}
    shared = {n: w for n, w in square.items() if n in b.params}
    choices = [[n for n, w in shared.items() if np.allclose(b.params[n], w.T, rtol=1e-5, atol=0)]]
    for kind in sorted({n.split(".", 2)[2] for n in square}):
        choices.append([n for n in square if n.endswith(f".{kind}")])
    for names in filter(None, choices):
        yield (
            f"{_some(names)}: transposed, (in, out) in A and (out, in) in B",
            form.but(params={n: square[n].T for n in names}),
        )


def head(form: Form, a: Run, b: Run) -> Tried:
    """The unembedding: the embedding itself, a matrix of its own, or one with rows for no token."""
    theirs, wte = b.params.get("lm_head.weight"), form.params["wte.weight"]
    if not form.config.tied:
        yield (
            "the head is a matrix of its own in A, tied to the embedding in B",
            form.but(config={"tied": True}, params={"lm_head.weight": None}),
        )
    else:
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
    yield from _padded(form, b)


def _padded(form: Form, b: Run) -> Tried:
    """A head with more rows than there are tokens."""
    V, C = form.params["wte.weight"].shape
    widths = [V]
    if "lm_head" in b.values:
        widths.append(b.values["lm_head"].shape[-1])
    if "wte.weight" in b.params:
        widths.append(b.params["wte.weight"].shape[0])
    wide = max(widths)
    if wide == V:
        return
    params = {}
    for name in ("wte.weight",) if form.config.tied else ("wte.weight", "lm_head.weight"):
        padding = b.params.get(name, np.zeros((wide, C)))[V:]
        params[name] = np.concatenate([form.params[name], padding])
    yield (
        f"the head is padded from {V} tokens to {wide} in B, and the padding takes part in the softmax",
        form.but(config={"vocab_size": wide}, params=params),
    )


def scale(form: Form, a: Run, b: Run) -> Tried:
    """What the scores of attention are multiplied by."""
    D = form.config.head_size
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


def heads(form: Form, a: Run, b: Run) -> Tried:
    """The number of heads."""
    if not _packs_by_thirds(form):
        return
    for other in range(1, min(form.config.n_embd, 128) + 1):
        if form.config.n_embd % other == 0 and other != form.config.n_head:
            yield (
                f"attention has {form.config.n_head} heads in A, {other} in B",
                form.but(replaced={attention: _as(n_head=other)}),
            )


def _packs_by_thirds(form: Form) -> bool:
    """Whether queries, keys and values have C columns each, as in GPT-2."""
    kinds = form.config.scopes().values()
    return all(c.kv_heads == c.n_head and c.n_head * c.head_size == c.n_embd for c in kinds)


def norm_position(form: Form, a: Run, b: Run) -> Tried:
    """Norms before each part, or after each sum."""
    blocks = {pre_norm_block: _as(post_norm_block), post_norm_block: _as(pre_norm_block)}
    if form.config.norm_position == "pre":
        text = "norms stand before each part in A (pre-norm), after each sum in B (post-norm)"
        yield text, form.but(replaced=blocks)
        yield (
            text,
            form.but(config={"norm_position": "post"}, params={"ln_f.weight": None, "ln_f.bias": None}),
        )
    elif form.config.norm_position == "post":
        text = "norms stand after each sum in A (post-norm), before each part in B (pre-norm)"
        yield text, form.but(replaced=blocks)
        last = {n: b.params[n] for n in ("ln_f.weight", "ln_f.bias") if n in b.params}
        if last:
            yield text, form.but(config={"norm_position": "pre"}, params=last)


def qkv_order(form: Form, a: Run, b: Run) -> Tried:
    """The order of queries, keys and values in c_attn's result: how it is split, or its weights' columns."""
    if not _packs_by_thirds(form):
        return
    C, H = form.config.n_embd, form.config.n_head
    columns = np.arange(3 * C)
    orders = {
        ", ".join("qkv"[i] for i in order): columns.reshape(3, C)[list(order)].reshape(-1)
        for order in itertools.permutations(range(3))
        if order != (0, 1, 2)
    }
    if H > 1:
        by_head, by_part = columns.reshape(H, 3, C // H), columns.reshape(3, H, C // H)
        orders["q, k, v of each head side by side"] = by_head.swapaxes(0, 1).reshape(-1)
        orders["q, k, v in A's columns of each head"] = by_part.swapaxes(0, 1).reshape(-1)
    names = [n for n in form.params if ".attn.c_attn." in n]
    for what, index in orders.items():
        text = f"c_attn gives q, k, v in A; in B the order is {what}"
        yield text, form.but(replaced={attention: _reordered(index)})
        yield text, form.but(params={n: form.params[n][..., index] for n in names})


def targets(form: Form, a: Run, b: Run) -> Tried:
    """Which token a position is to predict."""
    yield (
        "the targets are each position's own token in B, not the next: not shifted",
        form.but(targets=lambda tokens, targets: tokens),
    )
    yield (
        "the targets are shifted once more in B: off by one, the token after the next",
        form.but(targets=_shifted),
    )


def reduction(form: Form, a: Run, b: Run) -> Tried:
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


def weight_decay(form: Form, a: Run, b: Run) -> Tried:
    """Decay on norms and biases: in the step, or as parameters show it that took one from initial values."""
    text = "weight decay acts on matrices in A, on all tensors in B"
    if form.optimizer is not None:
        yield text, form.but(decay_all=True)
    kind_of = kinds(form.config)
    scales = {n: w for n, w in form.params.items() if kind_of[n] == "norms" and n.endswith("weight")}
    norms = {n: w for n, w in scales.items() if n in b.params}
    if norms:
        pulled = float(np.mean([np.mean(w - b.params[n]) for n, w in norms.items()]))
        if pulled > 0:
            yield text, form.but(params={n: w - pulled for n, w in norms.items()})


def precision(form: Form, a: Run, b: Run) -> Tried:
    """Parameters that went through a shorter format."""
    for name, rounded in (("float16", _float16), ("bfloat16", _bfloat16)):
        text = f"B's parameters are A's rounded to {name}"
        yield text, form.but(params={n: rounded(w) for n, w in form.params.items()})


CAUSES: tuple[Cause, ...] = (
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
    *FAMILY,
    weight_decay,
    precision,
)
# More than one of what these yield may be true.
MANY = (epsilon, transposed)
# One block may differ from the rest in these.
LOCAL = (activation, epsilon, scale, heads, norm_position, qkv_order, rotation, window, gate, router)
# The end of a name → two causes that show there at once, so that neither alone moves on.
TOGETHER: dict[str, tuple[Cause, Cause]] = {"heads": (scale, qkv_order), "loss": (targets, reduction)}


def local(form: Form, a: Run, b: Run, name: str) -> Tried:
    """What is tried where the models part: causes in that block or norm alone, and two at once."""
    plain = dataclasses.replace(form, replaced={})
    for place in _places(form.config, name):
        for cause in LOCAL:
            for text, changed in cause(plain, a, b):
                if changed.replaced:
                    here = {op: _within(place, change) for op, change in changed.replaced.items()}
                    yield f"{text}, in {place} alone", form.but(replaced=here)
    end = name.rpartition(".")[2]
    if end in TOGETHER:
        first, second = TOGETHER[end]
        for text, one in first(form, a, b):
            for more, both in second(one, a, b):
                yield f"{text}; {more}", both


def _places(config: Config, name: str) -> list[str]:
    """The block that a value is in, and the value itself if it is a norm's."""
    block = re.match(r"h\.\d+|ln_f", name)
    norms = [part.name for part in parts(config) if part.kind == "norms"]
    return ([block[0]] if block else []) + ([name] if name in norms else [])


def _within(place: str, change: Replacement) -> Replacement:
    """A replacement in what is called place, or begins with it, alone."""

    def replacement(name: str, op: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        is_there = f"{name}.".startswith(f"{place}.")
        return change(name, op, options) if is_there else (op, options)

    return replacement


def _unbiased_forward(x: Any, weight: Any, bias: Any = None, *, eps: float = 1e-5) -> tuple[Any, Any]:
    """LayerNorm with the variance over C − 1.

    (v C/(C−1) + eps)^(−½) = s (v + s² eps)^(−½) with s² = (C−1)/C
    """
    s = math.sqrt((x.shape[-1] - 1) / x.shape[-1])
    y, saved = layernorm.forward(x, weight * s, bias, eps=eps * s * s)
    return y, (s, saved)


def _unbiased_backward(dy: Any, saved: Any) -> tuple[Any, Any, Any]:
    """Gradients of _unbiased_forward: those of layernorm, of which the weight was scaled by s."""
    s, saved = saved
    dx, dweight, dbias = layernorm.backward(dy, saved)
    return dx, dweight * s, dbias


UNBIASED = Op(layernorm.line, _unbiased_forward, _unbiased_backward, parameters=layernorm.parameters)


def _as(other: Any = None, **changed: Any) -> Replacement:
    """A replacement of an op or a layer by another, or by itself with other options."""
    return lambda name, op, options: (other or op, options | changed)


def _by_block(scale: float) -> Replacement:
    """A replacement of attention whose scale is also divided by the block's number, from 1."""
    return lambda name, op, options: (op, options | {"scale": scale / (int(name.split(".")[1]) + 1)})


def _reordered(index: Any) -> Replacement:
    """A replacement of attention that takes the columns of qkv in another order."""

    def replacement(name: str, op: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        def forward(qkv: Any, **more: Any) -> tuple[Any, Any]:
            return op.forward(qkv[..., index], **more)

        def backward(dy: Any, saved: Any) -> tuple[Any]:
            (taken,) = op.backward(dy, saved)
            dqkv = np.empty_like(taken)
            dqkv[..., index] = taken
            return (dqkv,)

        return Op(op.line, forward, backward, sizes=op.sizes, noise=op.noise), options

    return replacement


def _shifted(tokens: Any, targets: Any) -> Any:
    """Each target replaced by the one after it."""
    return np.concatenate([targets[:, 1:], np.full_like(targets[:, :1], -1)], axis=1)


def _float16(array: Any) -> Any:
    """The array through float16."""
    return array.astype(np.float16).astype(array.dtype)


def _bfloat16(array: Any) -> Any:
    """float32 with the lower half of its bits rounded away, to even."""
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(array.dtype)


def _some(names: Sequence[str]) -> str:
    """A list of names in short."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more such"
