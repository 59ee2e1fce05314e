"""config.json of transformers' GPT-2 as fields of a Config, both ways."""

from __future__ import annotations

from typing import Any

from ..architecture.config import Config
from ..ops.activations import ACTIVATIONS
from .config_keys import Keys

# A field of Config → its key, where the two say the same.
SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "n_inner": "n_inner",
    "tied": "tie_word_embeddings",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
# Settings of attention that would make it another function than GPT-2's.
ATTENTION = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
OTHERS = ("activation_function", "n_ctx")
DEFAULTS = {"activation_function": "gelu_new"} | dict.fromkeys(DROPOUTS, 0.1) | ATTENTION
OURS = {theirs: ours for ours, row in ACTIVATIONS.items() for theirs in row.transformers}  # activations


def read(keys: Keys) -> dict[str, Any]:
    """The fields of a GPT-2; InputError for a variant that numgpt does not compute."""
    for name, expected in ATTENTION.items():
        if keys[name] != expected:
            keys.refuse(name, f"{str(expected).lower()}: that form of attention is not computed here")
    activation = keys["activation_function"]
    if not isinstance(activation, str) or activation not in OURS:
        keys.refuse("activation_function", f"one of {', '.join(OURS)}")
    values = {ours: keys.stored[theirs] for ours, theirs in SIZES.items() if theirs in keys.stored}
    return values | {"activation": OURS[activation], "dropout": _dropout(keys)}


def _dropout(keys: Keys) -> float:
    """The one rate of dropout here; 0 if transformers' three differ, for models are read to be used."""
    rates = set()
    for name in DROPOUTS:
        rate = keys.stored.get(name, keys.defaults[name])
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            keys.refuse(name, "a number of 0 to below 1", rate)
        rates.add(float(rate))
    return rates.pop() if len(rates) == 1 else 0.0


def write(config: Config) -> dict[str, Any]:
    """The keys of a GPT-2."""
    values = {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}
    names = ACTIVATIONS[config.activation].transformers
    values["activation_function"] = names[0] if names else None
    return values | dict.fromkeys(DROPOUTS, config.dropout)
