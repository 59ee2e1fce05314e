"""Units: heads and neurons, where their numbers lie, which of them stay, and what each costs.

Units of a layer write to the stream through rows of one matrix, c_proj, that nothing else reads:

    y = Σ_u ξ_u a_u W_u + b        a_u what unit u gives, W_u its rows, ξ_u the gate, 1 as the model is

so to remove unit u is to leave out its rows, and what computed a_u: its columns in the matrix before.

    ∂L/∂ξ_u = Σ_{i of u, o} W_io ∂L/∂W_io        because ξ_u may as well multiply W_u

A row's gradient thus tells what closing a gate costs, and no activation has to be looked at.
Source: Michel, Levy and Neubig 2019 (gates of heads).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..errors import InputError
from ..ops.activations import ACTIVATIONS

Array = NDArray[Any]
OTHERS = "prune neurons or weights"  # advice where a layer has one head


class Entries(NamedTuple):
    """Where units lie along an axis of a parameter: row u of places has those of unit u; shared ones stay."""

    axis: int
    places: Array
    shared: Array = np.empty(0, np.int64)

    def left(self, kept: Array) -> Array:
        """The places that stay, in their order.  kept (..., n') → (..., those)"""
        own = self.places[kept]  # (..., n', k)
        own = own.reshape(*kept.shape[:-1], -1)
        shared = np.broadcast_to(self.shared, (*kept.shape[:-1], len(self.shared)))
        return np.sort(np.concatenate([own, shared], axis=-1), axis=-1)


class Units(NamedTuple):
    """The units of one layer, or of the experts of one, each of which has as many of its own.

    output: the name of the matrix through which they write. field: the setting that counts them.
    entries: name of a parameter -> Entries of its units.
    """

    scope: str
    field: str
    n: int
    output: str
    entries: dict[str, Entries]
    experts: int | None = None


def units_of(config: Config, kind: str) -> list[Units]:
    """The units of a kind, layer by layer; InputError where they cannot be removed one by one."""
    find = _heads if kind == "heads" else _neurons
    found = [units for scope, layer in config.scopes().items() for units in find(scope, layer)]
    if not found:
        raise InputError(f"pruned: the model has no {kind}, expected some: it has no layers")
    return found


def _heads(scope: str, c: Config) -> Iterator[Units]:
    """Heads; where some share keys and values all that do are one unit, unless one key serves all."""
    if c.positions == "alibi":
        raise InputError(
            "pruned: positions is alibi, whose slopes follow from the number of heads, expected others: prune"
            " neurons or weights"
        )
    if c.qk_norm == "full":
        raise InputError(
            "pruned: qk_norm is full, which measures all heads together, expected another: prune neurons or"
            " weights"
        )
    H, K, D = c.n_head, c.kv_heads, c.head_size
    n = K if K > 1 else H
    queries = np.arange(H).reshape(n, -1)  # heads of unit u
    keys = np.arange(n)[:, None] if K > 1 else None
    entries = {}
    for name, axis in (("attn.c_attn.weight", 1), ("attn.c_attn.bias", 0)):
        if keys is None:
            entries[name] = Entries(axis, _channels(queries, D), np.arange(H * D, (H + 2) * D))
        else:
            side_by_side = [_channels(part, D) for part in (queries, H + keys, H + K + keys)]
            entries[name] = Entries(axis, np.concatenate(side_by_side, axis=1))
    entries["attn.c_proj.weight"] = Entries(0, _channels(queries, D))
    entries["attn.heads.sink"] = Entries(0, queries)
    if c.qk_norm == "each":
        entries["attn.ln_q.weight"] = Entries(0, queries)
        if keys is not None:
            entries["attn.ln_k.weight"] = Entries(0, keys)
    named = {f"{scope}{name}": e for name, e in entries.items()}
    yield Units(scope, "n_head", n, f"{scope}attn.c_proj.weight", named)


def _channels(heads: Array, D: int) -> Array:
    """The channels of heads of size D.  (n, G) → (n, G D)"""
    return (heads[..., None] * D + np.arange(D)).reshape(len(heads), -1)


def _neurons(scope: str, c: Config) -> Iterator[Units]:
    """Neurons of a feed-forward, of experts, and of the one beside them."""
    experts = c.n_expert or None
    yield _of_mlp(f"{scope}mlp.", c, "n_inner", c.ffn_width, experts)
    if experts is not None and c.shared_inner is not None:
        yield _of_mlp(f"{scope}mlp.shared.", c, "shared_inner", c.shared_inner)


def _of_mlp(scope: str, c: Config, field: str, F: int, experts: int | None = None) -> Units:
    """The neurons of a feed-forward of width F: with gates a neuron has a column of each half."""
    columns = np.arange(F)[:, None]
    if ACTIVATIONS[c.activation].gated:
        columns = np.concatenate([columns, F + columns], axis=1)
    entries = {
        f"{scope}c_fc.weight": Entries(-1, columns),
        f"{scope}c_fc.bias": Entries(-1, columns),
        f"{scope}c_proj.weight": Entries(-2, np.arange(F)[:, None]),
    }
    return Units(scope, field, F, f"{scope}c_proj.weight", entries, experts)


def gates(units: Units, products: Array) -> Array:
    """Σ over a unit's rows of what each weight of the matrix adds.  (..., I, O) → (..., n)"""
    rows = products.sum(-1)
    return rows[..., units.entries[units.output].places].sum(-1)


def magnitudes(units: Units, params: Mapping[str, Array]) -> Array:
    """The root of the sum of squares of a unit's weights, biases aside.  → (n), of experts (E, n)"""
    total: Any = 0.0
    for name, entries in units.entries.items():
        if name not in params or not name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            continue
        squares = np.moveaxis(params[name].astype(np.float64) ** 2, entries.axis, -1)
        along = squares.sum(-2)  # of each entry along the axis
        total = total + along[..., entries.places].sum(-1)
    scores: Array = np.sqrt(total)
    return scores


def left(units: Sequence[Units], scores: Sequence[Array], sparsity: float, within: str) -> list[Array]:
    """The units of each layer that stay: (n'), of experts (E, n').

    within "part": a share of each layer goes; "model": a share of all, but the last of a layer never does.
    Of experts each loses as many, its own least; the k-th least of all are weighed together.
    """
    kind = "heads" if units[0].field == "n_head" else "neurons"
    slots = [np.sort(s, axis=-1) for s in scores]
    slots = [s if u.experts is None else s.sum(0) for u, s in zip(units, slots)]
    if within == "part":
        gone = [round(sparsity * u.n) for u in units]
    else:
        gone = _least_of_all(slots, round(sparsity * sum(u.n for u in units)))
    for u, count in zip(units, gone):
        if count >= u.n:
            advice = OTHERS if u.n == 1 else f"at most {(u.n - 1) / u.n:.3g}"
            raise InputError(
                f"pruned: sparsity is {sparsity:g}, which leaves none of the {u.n} {kind} of"
                f" {u.scope.removesuffix('.')}, expected one at least: {advice}"
            )
    if not any(gone):
        most = max(u.n for u in units)
        advice = OTHERS if most == 1 else f"{1 / most:.3g} or more"
        raise InputError(
            f"pruned: sparsity is {sparsity:g}, which removes none of the {most} {kind} of a layer, expected"
            f" one at least: {advice}"
        )
    orders = [np.argsort(s, axis=-1, kind="stable") for s in scores]
    return [np.sort(order[..., count:], axis=-1) for order, count in zip(orders, gone)]


def _least_of_all(slots: Sequence[Array], count: int) -> list[int]:
    """How many of each layer are among the count least, where the last of a layer comes after all others."""
    layers = np.repeat(np.arange(len(slots)), [len(s) for s in slots])
    is_last = np.concatenate([np.arange(len(s)) == len(s) - 1 for s in slots])
    order = np.lexsort((np.concatenate(slots), is_last))
    return np.bincount(layers[order[:count]], minlength=len(slots)).tolist()
