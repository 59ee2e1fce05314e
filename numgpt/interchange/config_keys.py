"""What a config.json of transformers says: its keys, and the defaults of its class."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..architecture.config import LARGEST
from ..argument_kinds import is_finite
from ..errors import InputError
from ..storage.atomic import StrPath

# A kind of rotary_scaling → our numbers → their keys; where a key is missing, ours is at its default.
SCALINGS: dict[str, dict[str, str]] = {
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low": "low_freq_factor",
        "high": "high_freq_factor",
        "length": "original_max_position_embeddings",
    },
    "yarn": {
        "factor": "factor",
        "length": "original_max_position_embeddings",
        "fast": "beta_fast",
        "slow": "beta_slow",
        "size": "attention_factor",
        "truncate": "truncate",
    },
    "longrope": {
        "short": "short_factor",
        "long": "long_factor",
        "length": "original_max_position_embeddings",
        "size": "attention_factor",
    },
}
# Fields that several classes have under one key, where a class's own sizes do not say another.
COMMON = {"rotary_base": "rope_theta", "rotary_dim": "partial_rotary_factor"}
LENGTH = "max_position_embeddings"
ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta")


class Keys:
    """The keys of a config.json: what it says, else the default of its class.

    defaults: of the class. path: the file's name, for errors.
    """

    def __init__(self, stored: Mapping[str, Any], defaults: Mapping[str, Any], path: StrPath) -> None:
        self.stored, self.defaults, self.path = stored, defaults, path

    def __getitem__(self, key: str) -> Any:
        return self.stored.get(key, self.defaults.get(key))

    def __contains__(self, key: str) -> bool:
        """Whether the file itself says something there: null says nothing."""
        return self.stored.get(key) is not None

    def refuse(self, key: str, expected: str, value: Any = None) -> NoReturn:
        """Raise the InputError for a key."""
        shown = repr(self[key] if value is None else value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        raise InputError(f"{self.path}: {key} is {shown}, expected {expected}")

    def size(self, key: str, why: str = "") -> int:
        """A key that is a size, from 1 on; why it has to be there, for the message."""
        value = self[key]
        if not is_count(value) or value > LARGEST:
            self.refuse(key, f"an integer from 1 to {LARGEST:,}{why}")
        return int(value)

    def flag(self, key: str) -> bool:
        """A key that is true or false."""
        value = self[key]
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def absent(self, key: str, why: str, allowed: Sequence[Any] = ()) -> None:
        """InputError if the file says something that its class does not compute."""
        if key in self and self.stored[key] not in allowed:
            self.refuse(key, f"{' or '.join(map(str, (*allowed, 'none')))}: {why}")


def is_count(value: object) -> bool:
    """Whether something is an integer above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_positive(value: Any) -> bool:
    """Whether something is a number above 0, of which a Config can take the inverse."""
    return is_finite(value) and 1e-30 <= value <= 1e30


def read_rope(keys: Keys, partial: bool = False) -> dict[str, Any]:
    """rotary_base and rotary_scaling from rope_parameters, or from rope_theta and rope_scaling.

    rope_parameters stand in files of version 5, the others in older ones; in some files there are all.
    partial: whether the class turns a part of each head, which rotary_part reads.
    """
    rope = rope_parameters(keys)
    factor = rope.get("partial_rotary_factor", keys["partial_rotary_factor"])
    if not partial and factor not in (None, 1):
        keys.refuse("partial_rotary_factor", "1: this class turns whole heads", factor)
    base = rope.get("rope_theta", keys["rope_theta"])
    if not is_finite(base):
        keys.refuse("rope_theta", "a number", base)
    kind = rope.get("rope_type", rope.get("type", "default"))
    fields: dict[str, Any] = {"rotary_base": base}
    if kind == "default":
        return fields
    if not isinstance(kind, str) or kind not in SCALINGS:
        keys.refuse("rope_type", f"one of default, {', '.join(SCALINGS)}", kind)
    numbers = {name: rope[key] for name, key in SCALINGS[kind].items() if rope.get(key) is not None}
    if kind == "dynamic":
        numbers["length"] = keys[LENGTH]
    elif "length" in SCALINGS[kind]:
        outside = keys["original_max_position_embeddings"]
        numbers["length"] = outside if outside is not None else numbers.get("length", keys[LENGTH])
    complete = {"yarn": _complete_yarn, "longrope": _complete_longrope}.get(kind)
    if complete is not None:
        complete(keys, rope, numbers)
    fields["rotary_scaling"] = {"kind": kind} | numbers
    return fields


def rotary_part(keys: Keys) -> float:
    """Which part of each head a class turns."""
    factor = rope_parameters(keys).get("partial_rotary_factor", keys["partial_rotary_factor"])
    if factor is None:
        return 1.0
    if not (is_finite(factor) and 0 < factor <= 1):
        keys.refuse("partial_rotary_factor", "a number above 0, at most 1", factor)
    return float(factor)


def rope_parameters(keys: Keys) -> Mapping[str, Any]:
    """The parameters of rotary positions; InputError where the file says two things, or by layer."""
    for key in ("rope_parameters", "rope_scaling"):
        if key in keys and not isinstance(keys[key], dict):
            keys.refuse(key, "a mapping")
    new, old = keys["rope_parameters"] or {}, keys["rope_scaling"] or {}
    nested = next((name for name, value in new.items() if isinstance(value, dict)), None)
    if nested is not None:
        keys.refuse("rope_parameters", f"no parameters by layer, as of {nested}: this class has one for all")
    alone = {key: {key: keys[key]} for key in ("rope_theta", "partial_rotary_factor") if key in keys}
    for key, said in {"rope_scaling": old, **alone}.items():
        for name, value in said.items():
            if new.get(name) is not None and new[name] != value:
                keys.refuse(key, f"{name} {new[name]!r} as in rope_parameters, or only one of the two")
    rope = {**alone.get("rope_theta", {}), **old, **new}
    kinds = {rope[name] for name in ("rope_type", "type") if isinstance(rope.get(name), str)}
    if len(kinds) > 1:
        keys.refuse("rope_type", f"that of type, {rope['type']!r}", rope["rope_type"])
    return rope


def _number(keys: Keys, rope: Mapping[str, Any], key: str) -> float | None:
    """A number above 0 among the parameters, or None."""
    value = rope.get(key)
    if value is not None and not (is_finite(value) and value > 0):
        keys.refuse(key, "a number above 0", value)
    return value


def _factor(keys: Keys, rope: Mapping[str, Any], numbers: Mapping[str, Any]) -> float:
    """How many times longer texts are: what the file says, else by both lengths."""
    factor = _number(keys, rope, "factor")
    if factor is not None:
        return factor
    for key, length in ((LENGTH, keys[LENGTH]), (SCALINGS["yarn"]["length"], numbers["length"])):
        if not (is_finite(length) and length > 0):
            keys.refuse(key, "a number above 0", length)
    return float(keys[LENGTH] / numbers["length"])


def _complete_yarn(keys: Keys, rope: Mapping[str, Any], numbers: dict[str, Any]) -> None:
    """The factor, where the file leaves it out, and the size, where it says mscale and mscale_all_dim."""
    numbers["factor"] = _factor(keys, rope, numbers)
    one, all_dim = (_number(keys, rope, key) for key in ("mscale", "mscale_all_dim"))
    if "size" not in numbers and one is not None and all_dim is not None and numbers["factor"] > 1:
        log = 0.1 * math.log(numbers["factor"])
        numbers["size"] = (one * log + 1) / (all_dim * log + 1)


def _complete_longrope(keys: Keys, rope: Mapping[str, Any], numbers: dict[str, Any]) -> None:
    """The size by the factor, where the file leaves it out."""
    factor = _factor(keys, rope, numbers)
    if "size" not in numbers and factor > 1 and numbers["length"] > 1:
        numbers["size"] = math.sqrt(1 + math.log(factor) / math.log(numbers["length"]))


def write_rope(base: float, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys for rotary positions, as version 5 reads them and as older ones do."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        kind = scaling["kind"]
        rope = {"rope_type": kind}
        rope |= {key: scaling[name] for name, key in SCALINGS[kind].items() if name in scaling}
        if kind == "longrope":
            rope.setdefault("attention_factor", 1.0)
    older = {**rope, "type": rope["rope_type"]} if scaling is not None else None
    return {"rope_parameters": {**rope, "rope_theta": base}, "rope_scaling": older, "rope_theta": base}


def by_key(error: InputError, keys: Mapping[str, str], path: StrPath) -> InputError:
    """An error of Config as whoever wrote the file reads it: our fields are called by their keys."""
    text = str(error).removeprefix("config: ")
    for ours, theirs in {**COMMON, **keys}.items():
        text = re.sub(rf"\b{ours}\b", theirs, text)
    scaling = re.search(r"rotary_scaling of kind (\w+)", text)
    if scaling is not None:
        before, after = text[: scaling.start()], text[scaling.end() :]
        for ours, theirs in SCALINGS[scaling[1]].items():
            after = re.sub(rf"\b{ours}\b", theirs, after)
        text = f"{before}rope_parameters of rope_type {scaling[1]}{after}"
    return InputError(f"{path}: {text}")
