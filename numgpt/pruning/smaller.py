"""A smaller model: its settings, layer by layer, and the parameters of the units that stay."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.additions import all_shapes
from ..architecture.config import Config
from ..architecture.parameters import Flat
from .units import Units

Array = NDArray[Any]


def smaller_config(config: Config, units: Sequence[Units], kept: Sequence[Array]) -> Config:
    """The Config of a model with the units that stay; where layers differ, it says so layer by layer."""
    changes: dict[str, dict[str, Any]] = {scope: {} for scope in config.scopes()}
    of_groups = any(c.kv_heads != c.n_head for c in config.scopes().values())
    for u, left in zip(units, kept):
        n = left.shape[-1]
        scope = ".".join(u.scope.split(".")[:2]) + "."
        changes[scope] |= (
            _of_heads(config.scopes()[scope], n, of_groups) if u.field == "n_head" else {u.field: n}
        )
    return by_layer(config, list(changes.values()))


def _of_heads(c: Config, n: int, of_groups: bool) -> dict[str, Any]:
    """The settings of a layer of n units of heads."""
    if c.kv_heads == 1:
        heads = {"n_head": n, "n_kv_head": 1}
    else:
        heads = {"n_head": n * (c.n_head // c.kv_heads), "n_kv_head": n}
    return {"n_head": heads["n_head"], "head_dim": c.head_size} | (heads if of_groups else {})


def by_layer(config: Config, changes: Sequence[Mapping[str, Any]]) -> Config:
    """A Config whose layers have these settings, one mapping a layer.

    The model has the commonest value of each, and the layers that differ say theirs.
    """
    cycle = config.layers or ({},)
    layers = [{**cycle[i % len(cycle)], **own} for i, own in enumerate(changes)]
    of_model = {}
    for name in dict.fromkeys(name for own in changes for name in own):
        of_model[name] = Counter(own[name] for own in changes if name in own).most_common(1)[0][0]
        for layer in layers:
            if name in layer and layer[name] == of_model[name]:
                del layer[name]
    period = next(p for p in range(1, len(layers) + 1) if _repeats(layers, p))
    named = tuple(layers[:period]) if any(layers) else None
    return dataclasses.replace(config, **of_model, layers=named)


def _repeats(layers: Sequence[Mapping[str, Any]], period: int) -> bool:
    return all(layer == layers[i % period] for i, layer in enumerate(layers))


def smaller_params(
    params: Flat, config: Config, additions: Sequence[Any], units: Sequence[Units], kept: Sequence[Array]
) -> Flat:
    """The parameters of the units that stay; config and additions are those of the result."""
    flat = Flat(all_shapes(config, additions), params.dtype)
    found: dict[str, Array] = {}
    for u, left in zip(units, kept):
        for name, entries in u.entries.items():
            if name in flat:
                found[name] = taken(params[name], entries.axis, entries.left(left))
    for name in flat.shapes:
        flat[name] = found.get(name, params[name])
    return flat


def taken(array: Array, axis: int, places: Array) -> Array:
    """Entries along an axis: the same of all (m), or of each expert its own (E, m)."""
    if places.ndim == 1:
        return np.take(array, places, axis)
    lines = np.moveaxis(array, axis, 1)  # (E, along the axis, others)
    own = places.reshape(*places.shape, *(1,) * (lines.ndim - 2))
    return np.moveaxis(np.take_along_axis(lines, own, 1), 1, axis)
