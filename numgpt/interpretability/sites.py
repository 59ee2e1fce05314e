"""Sites: the places of a model where an experiment puts another activation, by layer, position and head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..architecture.config import Config
from ..errors import InputError
from .runs import stream


class Site(NamedTuple):
    """A kind of place.

    name: of the value, from a layer. heads: how many a layer's Config has, None where there are none.
    where: the index in one text's value, from a layer's Config, a position (or a slice) and a head.
    """

    name: Callable[[int], str]
    heads: Callable[[Config], int] | None
    where: Callable[[Config, Any, Any], tuple[Any, ...]]


def _of_stream(config: Config, position: Any, head: Any) -> tuple[Any, ...]:
    """x (T, C)"""
    return (position,)


def _of_mix(config: Config, position: Any, head: Any) -> tuple[Any, ...]:
    """The heads' results side by side (T, HD)"""
    D = config.head_size
    return position, slice(head * D, (head + 1) * D)


def _by_head(config: Config, position: Any, head: Any) -> tuple[Any, ...]:
    """q (H, T, D), k and v (K, T, D)"""
    return head, position


def _heads(config: Config) -> int:
    return config.n_head


def _key_heads(config: Config) -> int:
    return config.kv_heads


SITES: Mapping[str, Site] = {
    "resid_pre": Site(stream, None, _of_stream),
    "resid_mid": Site(lambda layer: f"h.{layer}.mid", None, _of_stream),
    "resid_post": Site(lambda layer: f"h.{layer}", None, _of_stream),
    "attn": Site(lambda layer: f"h.{layer}.attn", None, _of_stream),
    "mlp": Site(lambda layer: f"h.{layer}.mlp", None, _of_stream),
    "heads": Site(lambda layer: f"h.{layer}.attn.heads", _heads, _of_mix),
    "q": Site(lambda layer: f"h.{layer}.attn.heads.q", _heads, _by_head),
    "k": Site(lambda layer: f"h.{layer}.attn.heads.k", _key_heads, _by_head),
    "v": Site(lambda layer: f"h.{layer}.attn.heads.v", _key_heads, _by_head),
}


def site(who: str, at: str) -> Site:
    """The kind of place of a name, or InputError."""
    if at not in SITES:
        raise InputError(f"{who}: at is {at!r}, expected one of {', '.join(SITES)}")
    return SITES[at]


def layer_config(config: Config, layer: int) -> Config:
    """The settings of one layer."""
    return config.scopes()[f"h.{layer}."]


def most_heads(config: Config, kind: Site) -> int:
    """The most heads that a layer has; 0 where a kind of place has none."""
    if kind.heads is None:
        return 0
    return max((kind.heads(c) for c in config.scopes().values()), default=0)


def expect_layers(who: str, config: Config) -> None:
    """Raise InputError for a model without blocks, which has no such places."""
    if config.n_layer == 0:
        raise InputError(f"{who}: the model has no blocks, expected one or more")


def expect_head(who: str, config: Config, layer: int, head: int, kind: Site = SITES["heads"]) -> None:
    """Raise InputError for a head that there is not."""
    if not 0 <= layer < config.n_layer:
        raise InputError(f"{who}: layer is {layer}, expected 0 to {config.n_layer - 1}")
    assert kind.heads is not None
    n = kind.heads(layer_config(config, layer))
    if not 0 <= head < n:
        raise InputError(f"{who}: head is {head}, expected 0 to {n - 1}, those of layer {layer}")
