"""What layers of one model say differently in a config.json: windows, rotary bases, no positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..architecture.config import DEEPEST, Config
from .config_keys import ROPE_KEYS, Keys, is_count, read_rope, write_rope
from .features import Feature, Fields, combined, first
from .llama_keys import FULL, SLIDING

Pattern = Callable[[int], str]  # the number of a layer, from 0 → its kind
EVERY = "sliding_window_pattern"  # in older files: every how many layers one sees all


def full_every(n: int) -> Pattern:
    """Every n-th layer sees all, the others a window: where a file does not say it."""
    return lambda i: FULL if (i + 1) % n == 0 else SLIDING


def from_sliding(i: int) -> str:
    """A window in every other layer, the first among them."""
    return SLIDING if i % 2 == 0 else FULL


def types_of(keys: Keys, fields: Fields, pattern: Pattern) -> Sequence[str]:
    """The kind of attention of each layer."""
    L, types = fields["n_layer"], keys["layer_types"]
    if EVERY in keys:
        pattern = full_every(keys.size(EVERY))
    every = [pattern(i) for i in range(min(L, DEEPEST))] if is_count(L) else []
    if types is None:
        return every
    if not isinstance(types, list) or any(kind not in (SLIDING, FULL) for kind in types) or len(types) != L:
        keys.refuse("layer_types", f"num_hidden_layers {L} of {SLIDING} and {FULL}")
    if EVERY in keys and types != every:
        keys.refuse("layer_types", f"{FULL} in every layer that {EVERY} {keys[EVERY]} says, and in no other")
    return types


def window_of(keys: Keys, types: Sequence[str]) -> int | None:
    """The window of the layers that have one."""
    if SLIDING in types:
        return keys.size("sliding_window", f", for layer_types has {SLIDING}")
    return keys.size("sliding_window") if keys["sliding_window"] is not None else None


def written_types(config: Config) -> Fields:
    """layer_types and the window."""
    windows = [kind.window for kind in config.scopes().values()]
    return {
        "layer_types": [FULL if window is None else SLIDING for window in windows],
        "sliding_window": next((window for window in windows if window is not None), None),
    }


def windows(pattern: Pattern, full: Mapping[str, Any] | None = None) -> Feature:
    """A window in the layers of a kind; full: what those without one say besides."""

    def read(keys: Keys, fields: Fields) -> Fields:
        types = types_of(keys, fields, pattern)
        sliding = {"window": window_of(keys, types)}
        return combined(fields, [sliding if kind == SLIDING else full or {} for kind in types])

    return Feature(("layer_types", "sliding_window", EVERY), read, written_types)


def one_window() -> Feature:
    """A window in all layers, or none: null is none."""

    def read(keys: Keys, _: Fields) -> Fields:
        return {} if keys["sliding_window"] is None else {"window": keys.size("sliding_window")}

    return Feature(("sliding_window",), read, lambda config: {"sliding_window": first(config).window})


def window_where_used() -> Feature:
    """A window in all layers where a flag says so."""

    def read(keys: Keys, _: Fields) -> Fields:
        if not keys.flag("use_sliding_window"):
            return {}
        return {"window": keys.size("sliding_window", ", for use_sliding_window is true")}

    def write(config: Config) -> Fields:
        W = first(config).window
        return {"use_sliding_window": W is not None, "sliding_window": W}

    return Feature(("use_sliding_window", "sliding_window"), read, write)


def windows_and_bases(pattern: Pattern, local: str | None) -> Feature:
    """Windows, and rotary positions of each kind of layers (Gemma 3, OLMo 3).

    rope_parameters holds a mapping for each kind; in older files rope_theta and rope_scaling are those of
    the layers that see all, and local is the key of the others' base.
    """

    def read(keys: Keys, fields: Fields) -> Fields:
        types = types_of(keys, fields, pattern)
        ropes = {kind: _rope_of(keys, kind, local) for kind in (FULL, SLIDING)}
        ropes[SLIDING].setdefault("rotary_scaling", None)
        fields |= {"positions": "rotary"} | ropes[FULL]
        sliding = {"window": window_of(keys, types)} | ropes[SLIDING]
        return fields | combined(fields, [sliding if kind == SLIDING else {} for kind in types])

    def write(config: Config) -> Fields:
        kinds = {FULL if kind.window is None else SLIDING: kind for kind in config.scopes().values()}
        ropes = {
            name: write_rope(kind.rotary_base, kind.rotary_scaling)["rope_parameters"]
            for name, kind in kinds.items()
        }
        return written_types(config) | {"rope_parameters": ropes}

    keys = (*ROPE_KEYS, "layer_types", "sliding_window", EVERY, *filter(None, [local]))
    return Feature(keys, read, write)


def _rope_of(keys: Keys, kind: str, local: str | None) -> Fields:
    """rotary_base and rotary_scaling of a kind of layers."""
    nested = keys["rope_parameters"]
    if isinstance(nested, dict) and any(name in nested for name in (FULL, SLIDING)):
        one = nested.get(kind) or {}
        if not isinstance(one, dict):
            keys.refuse("rope_parameters", f"a mapping for {kind}")
        stored = {name: v for name, v in keys.stored.items() if name not in ROPE_KEYS}
        return read_rope(Keys({**stored, "rope_parameters": one}, _defaults(keys, kind, local), keys.path))
    stored = dict(keys.stored)
    if kind == SLIDING and local is not None:
        stored = {name: v for name, v in stored.items() if name not in ROPE_KEYS}
        stored["rope_theta"] = keys[local]
    elif kind == SLIDING:
        stored.pop("rope_scaling", None)
    return read_rope(Keys(stored, keys.defaults, keys.path))


def _defaults(keys: Keys, kind: str, local: str | None) -> Fields:
    base = keys.defaults[local] if kind == SLIDING and local is not None else keys.defaults["rope_theta"]
    return {**keys.defaults, "rope_theta": base}


def no_rope_layers() -> Feature:
    """Layers that rotate nothing, and windows in them where the file says so (SmolLM3)."""

    def read(keys: Keys, fields: Fields) -> Fields:
        L, rotates = fields["n_layer"], keys["no_rope_layers"]
        every = keys["no_rope_layer_interval"]
        if rotates is None and is_count(L) and is_count(every):
            rotates = [int((i + 1) % every != 0) for i in range(min(L, DEEPEST))]
        if not isinstance(rotates, list) or len(rotates) != L or any(one not in (0, 1) for one in rotates):
            keys.refuse("no_rope_layers", f"num_hidden_layers {L} of 1, for layers that rotate, and 0")
        has_windows = keys.flag("use_sliding_window") and keys["sliding_window"] is not None
        by_default = [SLIDING if has_windows and not one else FULL for one in rotates]
        types = types_of(keys, fields, lambda i: by_default[i])
        if SLIDING in types and not has_windows:
            keys.refuse("layer_types", f"{FULL} in all layers, for there is no sliding_window in use")
        kinds = [
            ({} if one else {"positions": "none"})
            | ({"window": keys.size("sliding_window")} if kind == SLIDING else {})
            for one, kind in zip(rotates, types)
        ]
        return combined(fields, kinds)

    def write(config: Config) -> Fields:
        stored = written_types(config)
        return stored | {
            "no_rope_layers": [int(kind.positions == "rotary") for kind in config.scopes().values()],
            "use_sliding_window": stored["sliding_window"] is not None,
        }

    keys = ("no_rope_layers", "no_rope_layer_interval", "use_sliding_window", "layer_types", "sliding_window")
    return Feature(keys, read, write)


def attention_types() -> Feature:
    """Windows in some layers by kinds and how often they are repeated (GPT-Neo)."""

    def read(keys: Keys, fields: Fields) -> Fields:
        said = keys["attention_types"]
        kinds = []
        try:
            for names, times in said:
                kinds += list(names) * times
        except (TypeError, ValueError):
            keys.refuse("attention_types", 'kinds and how often, such as [[["global", "local"], 12]]')
        L = fields["n_layer"]
        if len(kinds) != L or any(kind not in ("global", "local") for kind in kinds):
            keys.refuse(
                "attention_types", f"num_layers {L} of global and local, each kind as often as it says"
            )
        if "attention_layers" in keys and keys["attention_layers"] != kinds:
            keys.refuse("attention_layers", "the kinds of attention_types, one a layer, or none")
        local = (
            {"window": keys.size("window_size", ", for attention_types has local")}
            if "local" in kinds
            else {}
        )
        return combined(fields, [local if kind == "local" else {} for kind in kinds])

    def write(config: Config) -> Fields:
        windows = [kind.window for kind in config.scopes().values()]
        W = next((window for window in windows if window is not None), None)
        kinds = [["global" if window is None else "local"] for window in windows]
        return {"attention_types": [[kind, 1] for kind in kinds]} | ({} if W is None else {"window_size": W})

    return Feature(("attention_types", "window_size", "attention_layers"), read, write)
