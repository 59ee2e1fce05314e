"""config.json of transformers, feature by feature: each is read into fields of a Config, and written.

A class is a row of features (classes.py), so that what it says both ways stands in one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..architecture.config import Config
from ..ops.activations import ACTIVATIONS
from .config_keys import ROPE_KEYS, Keys, is_count, is_positive, read_rope, rotary_part, write_rope
from .llama_keys import GATES, shortest_cycle

Fields = dict[str, Any]


class Feature(NamedTuple):
    """Some keys of a config.json.

    keys: their names. read: (the keys, the fields so far) → fields. write: the Config → keys and values.
    """

    keys: tuple[str, ...]
    read: Callable[[Keys, Fields], Fields]
    write: Callable[[Config], Fields]


def translation(features: Sequence[Feature]) -> tuple[Callable[[Keys], Fields], Callable[[Config], Fields]]:
    """(read, write) of a class that has these features, later ones on top."""

    def read(keys: Keys) -> Fields:
        fields: Fields = {}
        for feature in features:
            fields |= feature.read(keys, fields)
        return {name: value for name, value in fields.items() if not name.startswith("_")}

    def write(config: Config) -> Fields:
        stored: Fields = {}
        for feature in features:
            stored |= feature.write(config)
        return stored

    return read, write


def first(config: Config) -> Config:
    """The Config of the first layer, which says what all layers say alike."""
    return next(iter(config.scopes().values()), config)


def sizes(named: Mapping[str, str]) -> Feature:
    """Fields that a key says as they are; null and what a field's default means are left out."""
    may_be_null = ("n_kv_head", "head_dim", "n_inner")
    meant = {"n_inner": "ffn_width", "n_kv_head": "kv_heads", "head_dim": "head_size"}

    def read(keys: Keys, _: Fields) -> Fields:
        fields = {ours: keys[theirs] for ours, theirs in named.items()}
        for ours, theirs in named.items():
            if fields[ours] is None and ours not in may_be_null:
                keys.refuse(theirs, "a value: null says nothing there")
        fields = {ours: value for ours, value in fields.items() if value is not None}
        H, C = fields["n_head"], fields["n_embd"]
        is_divided = is_count(H) and is_count(C) and C % H == 0
        if fields.get("n_kv_head") == H:
            del fields["n_kv_head"]
        if is_divided and fields.get("head_dim") == C // H:
            del fields["head_dim"]
        return fields

    def write(config: Config) -> Fields:
        kind = first(config)
        return {theirs: getattr(kind, meant.get(ours, ours)) for ours, theirs in named.items()}

    return Feature(tuple(named.values()), read, write)


def fixed(**fields: Any) -> Feature:
    """Fields that are the same in every model of the class."""
    return Feature((), lambda keys, _: dict(fields), lambda config: {})


def must(key: str, why: str, *allowed: Any) -> Feature:
    """A key that has to have one of some values, for numgpt computes no other form; the first is written."""

    def read(keys: Keys, _: Fields) -> Fields:
        if keys[key] not in allowed:
            keys.refuse(key, f"{' or '.join(str(value) for value in allowed)}: {why}")
        return {}

    return Feature((key,), read, lambda config: {key: allowed[0]})


def plain(key: str, also: Mapping[str, str] | None = None, only: str = "") -> Feature:
    """An activation; also: names that this class alone has → ours; only: all names that it has."""
    names = {theirs: ours for ours, row in ACTIVATIONS.items() for theirs in row.transformers} | (also or {})
    return _activation(key, {name: names[name] for name in only.split()} if only else names)


def gate(key: str, also: Mapping[str, str] | None = None) -> Feature:
    """A gated activation, by the name of its gate's."""
    names = {theirs: ours for ours, act in GATES.items() for theirs in ACTIVATIONS[act].transformers}
    return _activation(key, names | (also or {}))


def _activation(key: str, names: Mapping[str, str]) -> Feature:
    def read(keys: Keys, _: Fields) -> Fields:
        named = keys[key]
        if not isinstance(named, str) or named not in names:
            keys.refuse(key, f"one of {', '.join(names)}")
        return {"activation": names[named]}

    def write(config: Config) -> Fields:
        theirs = [name for name, ours in names.items() if ours == first(config).activation]
        return {key: theirs[0]} if theirs else {}

    return Feature((key,), read, write)


def biases(always: str = "", **flags: str) -> Feature:
    """Places of biases: those that are always there, and those that a flag says: key → places."""

    def read(keys: Keys, fields: Fields) -> Fields:
        if "head" in always.split() and fields.get("tied") is True:
            keys.refuse("tie_word_embeddings", "false: a head with a bias of its own is not tied here")
        words = [always, *(places for key, places in flags.items() if keys.flag(key))]
        said = " ".join(filter(None, words))
        return {"biases": said} if said else {"bias": False}

    def write(config: Config) -> Fields:
        kind = first(config)
        return {key: all(map(kind.has_bias, places.split())) for key, places in flags.items()}

    return Feature(tuple(flags), read, write)


def choice(key: str, field: str, true: Any, false: Any) -> Feature:
    """A flag that chooses between two values of a field."""

    def read(keys: Keys, _: Fields) -> Fields:
        return {field: true if keys.flag(key) else false}

    return Feature((key,), read, lambda config: {key: getattr(config, field) == true})


def number(
    field: str, key: str, ours: Callable[[Any], Any] = float, theirs: Callable[[Any], Any] = float
) -> Feature:
    """A number, as it is or through a function and its inverse; null leaves the field at its default."""

    def read(keys: Keys, _: Fields) -> Fields:
        value = keys[key]
        if value is None:
            return {}
        if not is_positive(value) or not is_positive(ours(value)):
            keys.refuse(key, "a number above 0, from 1e-30 to 1e30")
        return {field: ours(value)}

    def write(config: Config) -> Fields:
        value = getattr(first(config), field)
        return {key: None if value is None else theirs(value)}

    return Feature((key,), read, write)


def inverse(x: float) -> float:
    """1/x."""
    return 1 / x


def root(x: float) -> float:
    """1/√x."""
    return float(x**-0.5)


def square(x: float) -> Any:
    """1/x², an integer where it is one but for rounding: transformers asks for one."""
    value = x**-2
    return round(value) if abs(value - round(value)) < 1e-9 * value else value


def embeddings_by_width() -> Feature:
    """Embeddings times √C, as in Gemma, whose files do not say it."""
    return Feature((), lambda keys, fields: _by_width(fields), lambda config: {})


def _by_width(fields: Fields) -> Fields:
    C = fields["n_embd"]
    return {"embed_scale": C**0.5} if is_count(C) else {}


def rotary(older: Mapping[str, str] | None = None, scaled: Mapping[str, Any] | None = None) -> Feature:
    """Rotary positions of a part of each head.

    older: keys of older files for the base and the part. scaled: what a file means that says no scaling.
    """

    def read(keys: Keys, fields: Fields) -> Fields:
        if scaled is not None and "rope_parameters" not in keys and "rope_scaling" not in keys:
            keys = Keys({**keys.stored, "rope_parameters": scaled}, keys.defaults, keys.path)
        return {"positions": "rotary"} | read_rope(keys, partial=True) | _dim(fields, rotary_part(keys))

    def write(config: Config) -> Fields:
        kind = next((k for k in config.scopes().values() if k.positions == "rotary"), first(config))
        stored = write_rope(kind.rotary_base, kind.rotary_scaling)
        part = part_of(kind)
        stored["rope_parameters"]["partial_rotary_factor"] = part
        del stored["rope_scaling"]  # older versions would read it without what stands beside it
        values = {"rope_theta": kind.rotary_base, "partial_rotary_factor": part}
        return stored | values | {old: values[new] for old, new in (older or {}).items()}

    return Feature((*ROPE_KEYS, "partial_rotary_factor", *(older or {})), read, write)


def _dim(fields: Fields, part: float) -> Fields:
    """rotary_dim, where it is less than a head."""
    H, C = fields["n_head"], fields["n_embd"]
    D = fields.get("head_dim", C // H if is_count(H) and is_count(C) else None)
    R = int(D * part) if is_count(D) else None
    return {} if R is None or R == D else {"rotary_dim": R}


def part_of(kind: Config) -> float:
    """The part of a head that is turned, as a float whose product with D is R or little more."""
    R, D = kind.rotary_size, kind.head_size
    part = R / D
    return part if int(D * part) == R else math.nextafter(part, 2)


def combined(fields: Fields, kinds: Sequence[Fields]) -> Fields:
    """Fields, and what each layer says otherwise, as the shortest cycle of what differs."""
    defaults = {"window": None, "rotary_scaling": None, "positions": "rotary"} | fields
    differing = [{n: v for n, v in kind.items() if defaults.get(n, ...) != v} for kind in kinds]
    cycle = shortest_cycle(differing)
    if len(cycle) > 1:
        return {"layers": tuple(cycle)}
    return dict(cycle[0]) if cycle else {}
