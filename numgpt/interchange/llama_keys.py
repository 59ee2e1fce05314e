"""config.json of transformers' Llama, Mistral and Qwen2 as fields of a Config, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..architecture.config import Config
from ..ops.activations import ACTIVATIONS
from .config_keys import ROPE_KEYS, Keys, read_rope, write_rope

# A field of Config → its key, where the two say the same.
SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_kv_head": "num_key_value_heads",
    "head_dim": "head_dim",
    "layer_norm_epsilon": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
DERIVED = ("n_kv_head", "head_dim")  # null there is what the others give
# A gated activation → the one of its gate, whose name transformers has.
GATES = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "reglu": "relu"}
FIXED = {"norm": "rmsnorm", "positions": "rotary"}
OTHERS: tuple[str, ...] = ("attention_bias", "mlp_bias", "hidden_act", "sliding_window", "use_sliding_window")
OTHERS += ("max_window_layers", "layer_types", "attention_dropout", "pad_token_id", *ROPE_KEYS)
SLIDING, FULL = "sliding_attention", "full_attention"

LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 10000.0,
}
MISTRAL = LLAMA | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
QWEN2 = LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def read_llama(keys: Keys) -> dict[str, Any]:
    """The fields of a Llama."""
    keys.absent("sliding_window", "a Llama has no window")
    _expect_all(keys, FULL)
    heads, C = keys["num_attention_heads"], keys["hidden_size"]
    if isinstance(heads, int) and isinstance(C, int) and heads > 0 and C % heads:
        keys.refuse("num_attention_heads", f"a divisor of hidden_size {C} in a Llama")
    places = ["qkv out"] * keys.flag("attention_bias") + ["mlp"] * keys.flag("mlp_bias")
    return _common(keys) | _biases(" ".join(places))


def read_mistral(keys: Keys) -> dict[str, Any]:
    """The fields of a Mistral: a window in all layers, or in none."""
    for key in ("attention_bias", "mlp_bias"):
        keys.absent(key, "a Mistral has no biases", (False,))
    # What the file itself says: null is no window, only a missing key is the class's default.
    window = None if keys["sliding_window"] is None else keys.size("sliding_window")
    _expect_all(keys, FULL if window is None else SLIDING)
    return _common(keys) | _biases("") | {"window": window}


def read_qwen2(keys: Keys) -> dict[str, Any]:
    """The fields of a Qwen2: biases of queries, keys and values, and a window in some layers."""
    keys.absent("attention_bias", "a Qwen2 has biases of queries, keys and values", (True,))
    keys.absent("mlp_bias", "a Qwen2 has none there", (False,))
    return _common(keys) | _biases("qkv") | read_qwen2_windows(keys)


def _common(keys: Keys) -> dict[str, Any]:
    """The fields that the three classes have in common."""
    values = {ours: keys[theirs] for ours, theirs in SIZES.items()}
    for ours, theirs in SIZES.items():
        if values[ours] is None and ours not in DERIVED:
            keys.refuse(theirs, f"a value: null is for {' and '.join(SIZES[name] for name in DERIVED)} alone")
    values = {ours: value for ours, value in values.items() if value is not None}
    if values.get("n_kv_head") == values["n_head"]:
        del values["n_kv_head"]  # as many as queries, which is our default
    if values.get("head_dim") in _quotient(values["n_embd"], values["n_head"]):
        del values["head_dim"]
    return values | FIXED | {"activation": _gated(keys)} | read_rope(keys)


def _quotient(C: Any, H: Any) -> tuple[int, ...]:
    """C/H, where it is one: our default for the size of a head."""
    return (C // H,) if isinstance(C, int) and isinstance(H, int) and H > 0 and C % H == 0 else ()


def _gated(keys: Keys) -> str:
    """The activation by the name that transformers has for its gate's."""
    named = keys["hidden_act"]
    names = {theirs: ours for ours, gate in GATES.items() for theirs in ACTIVATIONS[gate].transformers}
    if not isinstance(named, str) or named not in names:
        keys.refuse("hidden_act", f"one of {', '.join(names)}")
    return names[named]


def _biases(places: str) -> dict[str, Any]:
    """Where there are biases, as a Config says it: norms have none here."""
    if places in ("", "qkv out mlp"):
        return {"bias": bool(places)}
    return {"biases": places}


def _layer_types(keys: Keys) -> list[str] | None:
    """The kind of attention of each layer, where the file says it."""
    if "layer_types" not in keys:
        return None
    types, L = keys["layer_types"], keys["num_hidden_layers"]
    if not isinstance(types, list) or any(kind not in (SLIDING, FULL) for kind in types) or len(types) != L:
        keys.refuse("layer_types", f"num_hidden_layers {L} of {SLIDING} and {FULL}")
    return types


def _expect_all(keys: Keys, kind: str) -> None:
    """InputError if layer_types says another kind of attention than the class computes in all layers."""
    if any(other != kind for other in _layer_types(keys) or ()):
        keys.refuse("layer_types", f"{kind} in all layers, as the other keys say")


def read_qwen2_windows(keys: Keys) -> dict[str, Any]:
    """The windows of a Qwen2 or a Qwen3, whose layers may differ in them."""
    types = _layer_types(keys)
    if not keys.flag("use_sliding_window"):
        if SLIDING in (types or ()):
            keys.refuse("use_sliding_window", f"true, for layer_types has {SLIDING}")
        return {}
    W = keys.size("sliding_window", ", for use_sliding_window is true")
    first, L = keys["max_window_layers"], keys["num_hidden_layers"]
    if types is None:
        for key, value in (("max_window_layers", first), ("num_hidden_layers", L)):
            if not isinstance(value, int) or isinstance(value, bool):
                keys.refuse(key, "a number of layers")
        types = [SLIDING if i >= first else FULL for i in range(min(L, 2**12))]
    if SLIDING not in types:
        return {}
    if FULL not in types:
        return {"window": W}
    return {"layers": tuple({"window": W} if kind == SLIDING else {} for kind in shortest_cycle(types))}


def shortest_cycle(kinds: Sequence[Any]) -> Sequence[Any]:
    """The shortest beginning of a sequence whose repetition is the sequence.

    >>> shortest_cycle("abcabca")
    'abc'
    """
    n = len(kinds)
    repeats = (p for p in range(1, n) if all(kinds[i] == kinds[i - p] for i in range(p, n)))
    return kinds[: next(repeats, n)]


def write_llama(config: Config) -> dict[str, Any]:
    """The keys of a Llama."""
    return _written(config) | {
        "attention_bias": config.has_bias("qkv") and config.has_bias("out"),
        "mlp_bias": config.has_bias("mlp"),
    }


def write_mistral(config: Config) -> dict[str, Any]:
    """The keys of a Mistral."""
    return _written(config) | {"sliding_window": next(iter(config.scopes().values()), config).window}


def write_qwen2(config: Config) -> dict[str, Any]:
    """The keys of a Qwen2."""
    return _written(config) | write_qwen2_windows(config)


def write_qwen2_windows(config: Config) -> dict[str, Any]:
    """The keys of its windows."""
    windows = [kind.window for kind in config.scopes().values()]
    widest = max((w for w in windows if w is not None), default=None)
    full = [w is None for w in windows]
    return {
        "use_sliding_window": widest is not None,
        "sliding_window": widest,
        "max_window_layers": full.index(False) if False in full else len(full),
        "layer_types": [FULL if is_full else SLIDING for is_full in full],
    }


def _written(config: Config) -> dict[str, Any]:
    """The keys that the three classes have in common. What a Config says elsewhere too, its first layer says.

    No token is for padding: transformers would give its embedding no gradient.
    """
    kind = next(iter(config.scopes().values()), config)
    values = {theirs: getattr(kind, ours) for ours, theirs in SIZES.items()}
    values |= {
        "intermediate_size": kind.ffn_width,
        "num_key_value_heads": kind.kv_heads,
        "head_dim": kind.head_size,
        "attention_dropout": config.dropout,
        "pad_token_id": None,
    }
    gate = ACTIVATIONS.get(GATES.get(kind.activation, ""))
    if gate is not None and gate.transformers:
        values["hidden_act"] = gate.transformers[0]
    return values | write_rope(kind.rotary_base, kind.rotary_scaling)
