"""Settings that differ between the layers of a model, and the rule that something reads every setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..errors import InputError
from ..ops.norms import NORMS
from ..ops.positions import POSITIONS, turns
from .fields import Frozen

Config = Any  # whose file imports this one

OF_BLOCKS = ("qkv", "out", "mlp", "router")  # places of biases in blocks alone
PLACES = ("qkv", "out", "mlp", "norm", "router", "head")  # of biases: in a block, and of the unembedding
# Positions that the layers themselves see to; others are added before them.
IN_LAYERS = tuple(name for name, op in POSITIONS.items() if op is None or turns(name))
# Fields that layers may differ in and that the model reads for its last norm too.
OF_LAST_NORM = ("norm", "layer_norm_epsilon", "biases")

Values = Mapping[str, Any]


def bias_words(biases: str | None, of_norm: Collection[str]) -> str | None:
    """Places of biases in the order of PLACES; InputError for others, and where the norm has no bias.

    of_norm: the parameters of the norm.
    """
    if biases is None:
        return None
    words = biases.split()
    for n, word in enumerate(words):
        if word not in PLACES or word in words[:n]:
            raise InputError(f"config: biases has {word!r}, expected some of {' '.join(PLACES)}, each once")
    if "norm" in words and "bias" not in of_norm:
        raise InputError("config: biases has norm, expected only the others: this norm has no bias")
    return " ".join(place for place in PLACES if place in words)


def kinds(config: Config) -> tuple[Config, ...]:
    """The Config of each kind of layer, in their cycle; InputError for a setting that nothing reads."""
    values = {name: value for name, value in vars(config).items() if name != "layers"}
    if config.layers is None:
        name, why = next(iter(_unread(config, values).items()), ("", ""))
        if name:
            raise _not_read("config", name, values[name], why)
        return (config,)
    if config.n_layer == 0:
        raise _not_read("config", "layers", [*map(dict, config.layers)], "n_layer is 0")
    if not 1 <= len(config.layers) <= config.n_layer:
        raise InputError(
            f"config: layers has {len(config.layers)} kinds, expected 1 to n_layer {config.n_layer}"
        )
    made = tuple(_kind(config, values, changes, f"layers[{n}]") for n, changes in enumerate(config.layers))
    if all(values[name] == value for changes in config.layers for name, value in changes.items()):
        raise InputError(
            "config: layers says nothing that the model does not, expected a difference: leave it out"
        )
    for name, why in _unread_by_all(config, values):
        raise _not_read("config", name, values[name], why)
    return made


def _not_read(where: str, name: str, value: Any, why: str) -> InputError:
    return InputError(f"{where}: {name} is {value}, which nothing reads ({why}), expected it left out")


def as_read(layers: tuple[Values, ...] | None, made: tuple[Config, ...]) -> tuple[Values, ...] | None:
    """The mappings of layers with the values that their Configs hold: NumPy's numbers became Python's."""
    if layers is None:
        return None
    return tuple(
        Frozen({name: getattr(kind, name) for name in changes}) for changes, kind in zip(layers, made)
    )


def _kind(config: Config, values: Values, changes: Values, place: str) -> Config:
    """The Config of one kind of layer. What the model says and this kind does not read is left out of it."""
    names = [f.name for f in dataclasses.fields(config) if f.metadata.get("by_layer")]
    other = next((name for name in changes if name not in names), None)
    if other is not None:
        raise InputError(
            f"config: {place} has {other!r}, expected fields in which layers may differ: {', '.join(names)}"
        )
    if "head" in str(changes.get("biases")).split():
        raise InputError(
            f"config: {place}: biases has head, expected places in a block: the model has one head"
        )
    whole = {**values, **changes}
    positions = changes.get("positions", "rotary")
    is_added = values["positions"] not in IN_LAYERS
    if positions not in IN_LAYERS or (is_added and positions == "none"):
        expected = " or ".join(name for name in IN_LAYERS if not (is_added and name == "none"))
        raise InputError(
            f"config: {place}: positions is {positions}, expected {expected}: others are added for all layers"
            " at once"
        )
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    for name, why in _unread(config, whole).items():
        if name in changes:
            raise _not_read(f"config: {place}", name, changes[name], why)
        whole[name] = defaults[name]
    if whole["n_expert"] == 0 and "biases" not in changes:
        whole["biases"] = _without(whole["biases"], "router")
    try:
        return type(config)(**whole)
    except InputError as error:
        raise InputError(f"config: {place}: {str(error).removeprefix('config: ')}") from error


def _without(biases: str | None, place: str) -> str | None:
    """The places of biases but one."""
    return None if biases is None else " ".join(word for word in biases.split() if word != place)


def _unread(config: Config, values: Values) -> dict[str, str]:
    """Name → why nothing reads it, of the settings off their default, in a model of one kind of layer."""
    reasons: dict[str, str] = {}
    positions = values["positions"]
    taken = getattr(POSITIONS[positions], "options", ())
    for option in ("base", "dim", "scaling"):
        if option not in taken:
            reasons[f"rotary_{option}"] = f"positions is {positions}"
    if positions != "alibi":
        reasons["alibi_scale"] = f"positions is {positions}"
    if values["n_expert"] == 0:
        reasons |= dict.fromkeys(("n_expert_active", "router", "shared_inner"), "n_expert is 0")
    if values["n_layer"] == 0:
        reasons |= dict.fromkeys(_of_layers_alone(config), "n_layer is 0")
        if positions in IN_LAYERS and positions != "none":
            reasons["positions"] = "n_layer is 0"
    if values["biases"] is not None:
        reasons["bias"] = f"biases is {values['biases']!r}"
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    return {name: why for name, why in reasons.items() if values[name] != defaults[name]}


def _of_layers_alone(config: Config) -> Iterator[str]:
    """The fields that layers alone read. n_head is taken: its default may not divide C."""
    shared = {*OF_LAST_NORM, "positions", "n_head"}
    yield from (
        f.name for f in dataclasses.fields(config) if f.metadata.get("by_layer") and f.name not in shared
    )
    yield "residual_scale"


def _unread_by_all(config: Config, values: Values) -> Iterator[tuple[str, str]]:
    """Name → why, of what neither the model nor any kind of its layers reads."""
    layers = config.layers or ()
    for field in dataclasses.fields(config):
        name, value = field.name, values.get(field.name)
        if name == "layers" or value == field.default:
            continue
        why = _unread(config, values).get(name)
        of_the_model = not field.metadata.get("by_layer") or name in OF_LAST_NORM
        of_the_model = of_the_model or (name == "positions" and value not in IN_LAYERS)
        if of_the_model and why is None:
            continue
        if not any(name not in c and name not in _unread(config, {**values, **c}) for c in layers):
            yield name, why or "each kind of layers says its own"


def meaning(config: Config) -> dict[str, tuple[Any, ...]]:
    """Every field → what it means for the model and for each layer: equal where two models are the same.

    What a default of None stands for is written out, dropout is left out, and biases are those there are.
    """
    of_model = _resolved(config)
    of_layers = [_of_block(_resolved(kind)) for kind in config.scopes().values()]
    by_layer = {f.name for f in dataclasses.fields(config) if f.metadata.get("by_layer")}
    said = {}
    for name, value in of_model.items():
        is_added = name == "positions" and value not in IN_LAYERS
        own: tuple[Any, ...] = (value,) if is_added or name not in by_layer or name in OF_LAST_NORM else ()
        if name == "biases":
            own = ("norm" in value.split(), "head" in value.split())
        said[name] = own + tuple(kind[name] for kind in of_layers)
    return said


def _of_block(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a kind of layers without the bias of the head, which is the model's."""
    return values | {"biases": _without(values["biases"], "head")}


def _resolved(config: Config) -> dict[str, Any]:
    """The fields of a Config with what their defaults stand for."""
    places = [place for place in PLACES if place != "norm" or "bias" in NORMS[config.norm].parameters]
    values = {name: v for name, v in vars(config).items() if name not in ("bias", "dropout", "layers")}
    return values | {
        "n_inner": config.ffn_width,
        "n_kv_head": config.kv_heads,
        "head_dim": config.head_size,
        "rotary_dim": config.rotary_size if config.positions == "rotary" else None,
        "attn_scale": config.head_size**-0.5 if config.attn_scale is None else config.attn_scale,
        "biases": " ".join(place for place in places if config.has_bias(place)),
    }
