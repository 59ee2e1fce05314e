"""What a file of GGUF says of its model, feature by feature: each is read into fields, and written.

Keys are called without the name of the architecture before them, which all have. What a file says by its
arrays stands among them under names of its own: vocab_size and tied, biases, arrays, rope_freqs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..architecture.config import DEEPEST, Config
from ..architecture.parameters import shapes
from ..ops.scalings import Rotary, llama3
from .config_keys import Keys, is_count, is_positive
from .expert_features import MOST
from .features import Feature, Fields, combined, first

# A place of biases → parts of ours that have one there, and arrays of a file.
BIASES = {
    "qkv": (("attn.c_attn",), ("attn_qkv", "attn_q")),
    "out": (("attn.c_proj",), ("attn_output",)),
    "mlp": (("mlp.c_fc",), ("ffn_up",)),
    "norm": (("ln_1", "ln_f"), ("attn_norm", "output_norm", "post_attention_norm")),
    "head": (("lm_head",), ("output",)),
}
LLAMA3: Fields = {
    "kind": "llama3",
    "low": 1.0,
    "high": 4.0,
    "length": 8192,
}  # the only numbers that were published
KINDS = ("none", "linear", "yarn")  # rope.scaling.type


def said_by_arrays(arrays: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The keys that stand for what a file says by its arrays: name → shape."""
    parts = {name.split(".")[-2] for name in arrays if name.endswith(".bias") and name.count(".") in (1, 3)}
    places = [place for place, (_, theirs) in BIASES.items() if parts & set(theirs)]
    embedding = arrays.get("token_embd.weight", (0, 0))
    return {
        "vocab_size": embedding[0],
        "tied": "output.weight" not in arrays,
        "biases": " ".join(places),
        "arrays": {name.split(".")[-2] for name in arrays if name.endswith(".weight")},
    }


def biased(*possible: str) -> Feature:
    """Biases at the places that a file has, which are to be one of some combinations."""

    def read(keys: Keys, _: Fields) -> Fields:
        if keys["biases"] not in possible:
            allowed = " or ".join(repr(places) for places in possible)
            keys.refuse("biases", f"arrays of biases at {allowed}, for this architecture has no others")
        return {"biases": keys["biases"]} if keys["biases"] else {"bias": False}

    return Feature(("biases",), read, lambda config: {"biases": " ".join(_places(config))})


def _places(config: Config) -> list[str]:
    """The places of biases of a model, as a file's arrays say them."""
    parts = {name.removesuffix(".bias") for name in shapes(config) if name.endswith(".bias")}
    parts = {part.split(".", 2)[-1] if part.startswith("h.") else part for part in parts}
    return [place for place, (ours, _) in BIASES.items() if parts & set(ours)]


def by_array(array: str, field: str, there: Any, absent: Any) -> Feature:
    """A field of which a file says by having an array, or none."""

    def read(keys: Keys, _: Fields) -> Fields:
        return {field: there if array in keys["arrays"] else absent}

    def write(config: Config) -> Fields:
        has_it = getattr(first(config), field) == there
        return {"arrays": {array} if has_it else set()}

    return Feature(("arrays",), read, write)


def head_length() -> Feature:
    """attention.value_length, the size of a value, which is that of a key."""

    def read(keys: Keys, fields: Fields) -> Fields:
        if keys["attention.value_length"] != keys["attention.key_length"]:
            keys.refuse("attention.value_length", f"attention.key_length {keys['attention.key_length']}")
        return {}

    return Feature(
        ("attention.value_length",), read, lambda config: {"attention.value_length": first(config).head_size}
    )


def rotary(partial: bool = False) -> Feature:
    """Rotary positions: the base, how many features turn, and linear, YaRN's or Llama 3's scaling."""

    def read(keys: Keys, fields: Fields) -> Fields:
        own: Fields = {"positions": "rotary", "rotary_base": keys["rope.freq_base"] or 10000.0}
        R, D = keys["rope.dimension_count"], _head_size(fields)
        if R is not None and R != D:
            if not partial:
                keys.refuse("rope.dimension_count", f"{D}: this architecture turns whole heads")
            own["rotary_dim"] = R
        scaling = _read_scaling(keys) or _read_factors(keys, own, D if R is None else R)
        return own | ({} if scaling is None else {"rotary_scaling": scaling})

    names = ("freq_base", "dimension_count", "scaling.type", "scaling.factor")
    more = ("scaling.original_context_length", "scaling.finetuned")
    return Feature((*(f"rope.{name}" for name in names + more), "rope_freqs"), read, _write_rotary)


def _head_size(fields: Fields) -> Any:
    H, C = fields["n_head"], fields["n_embd"]
    return fields.get("head_dim", C // H if is_count(H) and is_count(C) else None)


def _read_scaling(keys: Keys) -> Fields | None:
    kind, factor = keys["rope.scaling.type"], keys["rope.scaling.factor"]
    kind = "linear" if kind is None else kind
    if kind not in KINDS:
        keys.refuse("rope.scaling.type", f"one of {', '.join(KINDS)}")
    if kind == "none" or factor in (None, 0, 1):
        return None
    if not is_positive(factor):
        keys.refuse("rope.scaling.factor", "a number above 0")
    if kind == "linear":
        return {"kind": "linear", "factor": factor}
    return {
        "kind": "yarn",
        "factor": factor,
        "length": keys["rope.scaling.original_context_length"] or keys["context_length"],
    }


def _read_factors(keys: Keys, fields: Fields, R: Any) -> Fields | None:
    """Llama 3's scaling by its factors, an array: the slowest pair has the whole factor."""
    factors = keys["rope_freqs"]
    if factors is None:
        return None
    scaling = LLAMA3 | {"factor": float(max(factors, default=1.0))}
    if not is_count(R) or R % 2 or not is_positive(fields["rotary_base"]) or scaling["factor"] < 1:
        keys.refuse("rope_freqs", "factors of 1 and more, for pairs of features")
    expected = llama3_factors(R, fields["rotary_base"], scaling)
    if len(factors) != len(expected) or not np.allclose(factors, expected, rtol=1e-5, atol=0):
        keys.refuse("rope_freqs", "the factors of Llama 3.1's scaling: others are not known here")
    return scaling


def llama3_factors(R: int, base: float, scaling: Mapping[str, Any]) -> list[float]:
    """By what the frequency of each of R/2 pairs is divided, rounded to float32."""
    rotary = Rotary(R, float(base), 1)
    scaled, _ = llama3(rotary, **{name: value for name, value in scaling.items() if name != "kind"})
    return [float(np.float32(x)) for x in rotary.frequencies() / scaled]


def _write_rotary(config: Config) -> Fields:
    kind = next((k for k in config.scopes().values() if k.positions == "rotary"), first(config))
    stored: Fields = {"rope.freq_base": float(kind.rotary_base), "rope.dimension_count": kind.rotary_size}
    scaling = kind.rotary_scaling
    if scaling is None:
        return stored
    if scaling["kind"] not in ("llama3", *KINDS):
        return stored
    if scaling["kind"] == "llama3":
        return stored | {"rope_freqs": llama3_factors(kind.rotary_size, kind.rotary_base, scaling)}
    stored |= {"rope.scaling.type": scaling["kind"], "rope.scaling.factor": float(scaling.get("factor", 1))}
    if scaling["kind"] == "yarn":
        stored["rope.scaling.original_context_length"] = scaling["length"]
    return stored


def window_pattern(n: int, full: Fields | None = None, local: str | None = None) -> Feature:
    """A window in all layers but each n-th.

    full: what those without one say besides. local: the key of the others' base of rotary positions, which
    are not scaled there.
    """

    def read(keys: Keys, fields: Fields) -> Fields:
        L = fields["n_layer"]
        sliding: Fields = {"window": keys.size("attention.sliding_window")}
        if local is not None:
            sliding |= {"rotary_base": keys[local] or 10000.0, "rotary_scaling": None}
        layers = range(min(L, DEEPEST)) if is_count(L) else ()
        kinds = [sliding if (i + 1) % n else full or {} for i in layers]
        return combined(fields, kinds)

    def write(config: Config) -> Fields:
        kinds = list(config.scopes().values()) or [config]
        sliding = next((kind for kind in kinds if kind.window is not None), kinds[0])
        stored: Fields = {"attention.sliding_window": sliding.window or 0}
        if local is None:
            return stored
        whole = next((kind for kind in kinds if kind.window is None), kinds[0])
        return stored | _write_rotary(whole) | {local: float(sliding.rotary_base)}

    return Feature(("attention.sliding_window", *filter(None, [local])), read, write)


def layers_without_rotation(n: int) -> Feature:
    """Rotary positions but in each n-th layer."""

    def read(keys: Keys, fields: Fields) -> Fields:
        L = fields["n_layer"]
        layers = range(min(L, DEEPEST)) if is_count(L) else ()
        return combined(fields, [{} if (i + 1) % n else {"positions": "none"} for i in layers])

    return Feature((), read, lambda config: {})


def experts(router: str, width: str | None = None, shared: bool = False, optional: bool = False) -> Feature:
    """Experts in all layers, or with optional in none.

    width: the key of theirs, where it is not feed_forward_length. shared: whether one computes all tokens.
    """
    count, active = "expert_count", "expert_used_count"
    of_shared = "expert_shared_feed_forward_length"

    def read(keys: Keys, fields: Fields) -> Fields:
        if optional and not keys[count]:
            return {}
        E, A, L = keys.size(count), keys.size(active), fields["n_layer"]
        if A > E or (is_count(L) and E * L > MOST):
            keys.refuse(count, f"{active} {A} or more, and at most {MOST:,} in all layers together")
        own = {"n_expert": E, "n_expert_active": A, "router": router}
        own |= {} if width is None else {"n_inner": keys.size(width)}
        return own | ({"shared_inner": keys.size(of_shared)} if shared else {})

    def write(config: Config) -> Fields:
        kind = first(config)
        if optional and not kind.n_expert:
            return {}
        stored: Fields = {count: kind.n_expert, active: kind.n_expert_active}
        stored |= {} if width is None else {width: kind.ffn_width}
        return stored | ({of_shared: kind.shared_inner or 0} if shared else {})

    return Feature((count, active, *filter(None, [width, of_shared if shared else None])), read, write)


def attention_scale_of_widest(layers: int) -> Feature:
    """1/√D, but by C/H in the model with so many layers: so llama.cpp tells Gemma's largest apart."""

    def read(keys: Keys, fields: Fields) -> Fields:
        H, C, L = fields["n_head"], fields["n_embd"], fields["n_layer"]
        return {"attn_scale": (C // H) ** -0.5} if layers == L and is_count(H) and is_count(C) else {}

    return Feature((), read, lambda config: {})


def neutral(values: Mapping[str, Sequence[Any]]) -> Feature:
    """Keys that change nothing where they have one of some values."""

    def read(keys: Keys, _: Fields) -> Fields:
        for key, allowed in values.items():
            keys.absent(key, "no other is computed here", allowed)
        return {}

    return Feature(tuple(values), read, lambda config: {})
