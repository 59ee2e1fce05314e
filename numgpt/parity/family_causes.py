"""Why two models of the wider family may part: rotary positions, grouped heads, windows, gates, routers.

Each is a cause as causes.py says it: a function of (form, a, b) that yields (what it is, the changed form).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..architecture.parameters import NORMS_OF, kinds
from ..ops import Op, attention, rmsnorm, rotary, route
from ..ops.activations import ACTIVATIONS
from .forms import Form, Replacement, Run

Tried = Iterator[tuple[str, Form]]
BASES = (10000.0, 500000.0, 1000000.0, 150000.0, 1000.0, 100.0)
FACTORS = (2.0, 4.0, 8.0)


def rotation(form: Form, a: Run, b: Run) -> Tried:
    """Rotary positions: the base, the scaling, the layout of pairs, and where counting begins."""
    config = form.config
    if config.positions != "rotary":
        return
    for base in BASES:
        if base != config.rotary_base:
            yield (
                f"rotary positions have base {config.rotary_base:g} in A, {base:g} in B",
                form.but(replaced={rotary: with_options(base=base)}),
            )
    yield (
        "rotary positions turn channel i with channel i + R/2 in A, with its neighbour in B: interleaved",
        form.but(replaced={rotary: _interleaved(config)}),
    )
    for factor in FACTORS:
        yield (
            f"rotary positions are divided by {factor:g} in B: a linear scaling",
            form.but(replaced={rotary: with_options(scaling={"kind": "linear", "factor": factor})}),
        )
    if config.rotary_scaling is not None:
        yield (
            f"rotary positions are scaled in A ({config.rotary_scaling['kind']}), not in B",
            form.but(replaced={rotary: with_options(scaling=None)}),
        )
    yield (
        "positions are counted from 0 in A, from 1 in B",
        form.but(replaced={rotary: with_options(start=1)}),
    )


def groups(form: Form, a: Run, b: Run) -> Tried:
    """Which key head a query head reads: as many side by side share one, or every K-th."""
    H, K, D = form.config.n_head, form.config.kv_heads, form.config.head_size
    if not 1 < K < H:
        return
    heads = np.arange(H).reshape(H // K, K).T.reshape(-1)  # place in A → the head that B has there
    text = "neighbouring query heads share a key head in A, every K-th does in B: repeated, and tiled"
    columns = (heads[:, None] * D + np.arange(D)).reshape(-1)
    rest = np.arange(H * D, (H + 2 * K) * D)
    yield text, form.but(replaced={attention: _permuted(np.concatenate([columns, rest]), columns)})


def window(form: Form, a: Run, b: Run) -> Tried:
    """A window of one position more or less, or none."""
    windows = [kind.window for kind in form.config.scopes().values()]
    for W in sorted({W for W in windows if W is not None}):
        for other in filter(None, (W - 1, W + 1)):
            text = f"a window holds {W} positions in A, its own included, {other} in B"
            yield text, form.but(config=_with_window(form, W, other))
        yield (
            f"a window holds {W} positions in A, its own included, none in B: all are seen",
            form.but(config=_with_window(form, W, form.config.block_size)),
        )


def _with_window(form: Form, W: int, other: int) -> dict[str, Any]:
    """The fields that say a window, with another in its place."""
    changes: dict[str, Any] = {"window": other} if form.config.window == W else {}
    if form.config.layers is not None:
        changes["layers"] = tuple(
            {**kind, "window": other} if kind.get("window") == W else kind for kind in form.config.layers
        )
    return changes


def gate(form: Form, a: Run, b: Run) -> Tried:
    """The gate and the value of a feed-forward in the other order."""
    act = ACTIVATIONS[form.config.activation]
    if act.gated:
        text = "c_fc gives the gate, then the value in A; the value, then the gate in B"
        yield text, form.but(replaced={act.op: _swapped})
        maps = {n: w for n, w in form.params.items() if ".c_fc." in n}
        yield text, form.but(params={n: np.roll(w, w.shape[-1] // 2, axis=-1) for n, w in maps.items()})


def one_plus(form: Form, a: Run, b: Run) -> Tried:
    """A norm's weight w used as 1 + w, or 1 + w as w."""
    kind_of = kinds(form.config)
    weights = {n: w for n, w in form.params.items() if kind_of[n] == "norms" and n.endswith("weight")}
    for text, shift in (("1 + w", 1.0), ("w − 1", -1.0)):
        said = f"norms multiply by their weight w in A, by {text} in B"
        if form.config.norm == "rmsnorm":
            yield said, form.but(replaced={rmsnorm: _shifted_weight(shift)})
        if weights:
            yield said, form.but(params={n: w + w.dtype.type(shift) for n, w in weights.items()})


def place_of_norms(form: Form, a: Run, b: Run) -> Tried:
    """Norms elsewhere in a block, where it has as many; norm_position in causes.py tries post."""
    own = form.config.norm_position
    for other in NORMS_OF:
        if other != own and NORMS_OF[other] == NORMS_OF[own] and "post" not in (own, other):
            yield (
                f"norms stand as in norm_position {own!r} in A, as in {other!r} in B",
                form.but(config={"norm_position": other}),
            )


def router(form: Form, a: Run, b: Run) -> Tried:
    """The weights of chosen experts: a softmax over them, or their part of one over all."""
    if not any(kind.n_expert for kind in form.config.scopes().values()):
        return
    is_normed = form.config.router == "renorm"
    words = ["add up to 1", "are their part of a softmax over all"]
    ours, theirs = words if is_normed else words[::-1]
    yield (
        f"the weights of a token's experts {ours} in A, {theirs} in B",
        form.but(replaced={route: with_options(renorm=not is_normed)}),
    )


def with_options(**changed: Any) -> Replacement:
    """A replacement of an op by itself with other options."""
    return lambda name, op, options: (op, options | changed)


def _permuted(columns: Any, back: Any) -> Replacement:
    """A replacement of attention that takes the columns of qkv in another order, and gives its own back."""
    inverse = np.argsort(back)

    def replacement(name: str, op: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        def forward(qkv: Any, **more: Any) -> tuple[Any, Any]:
            y, saved = op.forward(qkv[..., columns], **more)
            return y[..., inverse], saved

        def backward(dy: Any, saved: Any) -> tuple[Any]:
            (taken,) = op.backward(dy[..., back], saved)
            return (_put_back(taken, columns),)

        return _like(op, forward, backward), options

    return replacement


def _interleaved(config: Any) -> Replacement:
    """A replacement of rotary positions that turns neighbours: the same turning between two orders."""
    H, K, D, R = config.n_head, config.kv_heads, config.head_size, config.rotary_size
    turned = np.arange(R).reshape(R // 2, 2).T.reshape(-1)  # place in A's layout → the channel in B's
    features = np.concatenate([turned, np.arange(R, D)])
    heads = np.arange((H + 2 * K) * D).reshape(-1, D)
    columns = np.concatenate([heads[: H + K][:, features].reshape(-1), heads[H + K :].reshape(-1)])
    return _permuted(columns, columns)


def _swapped(name: str, op: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A gated activation of the halves in the other order."""

    def forward(x: Any, **more: Any) -> tuple[Any, Any]:
        F = x.shape[-1] // 2
        return op.forward(np.concatenate([x[..., F:], x[..., :F]], axis=-1), **more)

    def backward(dy: Any, saved: Any) -> tuple[Any]:
        (dx,) = op.backward(dy, saved)
        F = dx.shape[-1] // 2
        return (np.concatenate([dx[..., F:], dx[..., :F]], axis=-1),)

    return _like(op, forward, backward), options


def _shifted_weight(shift: float) -> Replacement:
    """A replacement of a norm that adds to its weight first."""

    def replacement(name: str, op: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        def forward(x: Any, weight: Any, **more: Any) -> tuple[Any, Any]:
            return op.forward(x, weight + weight.dtype.type(shift), **more)

        return _like(op, forward, op.backward), options

    return replacement


def _put_back(taken: Any, columns: Any) -> Any:
    """The columns where they came from."""
    dqkv = np.empty_like(taken)
    dqkv[..., columns] = taken
    return dqkv


def _like(op: Op, forward: Callable[..., Any], backward: Callable[..., Any]) -> Op:
    """An op with another's line and another pair."""
    return Op(op.line, forward, backward, parameters=op.parameters, sizes=op.sizes, noise=op.noise)


FAMILY = (rotation, groups, window, gate, one_plus, place_of_norms, router)
