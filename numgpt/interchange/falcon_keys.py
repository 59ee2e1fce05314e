"""config.json of transformers' Falcon as fields, both ways: three architectures under one name."""

from __future__ import annotations

from ..architecture.config import Config
from .config_keys import ROPE_KEYS, Keys, is_count, read_rope, write_rope
from .features import Feature, Fields, first

KEYS = ("num_kv_heads", "multi_query", "new_decoder_architecture", "parallel_attn")


def _read(keys: Keys, fields: Fields) -> Fields:
    """How many key heads there are, and where the norms stand."""
    is_new, H = keys.flag("new_decoder_architecture"), fields["n_head"]
    K = keys["num_kv_heads"]
    K = H if K is None else K
    if not is_new and keys.flag("multi_query"):
        K = 1
    elif not is_new and K != H:
        keys.refuse(
            "num_kv_heads", f"num_attention_heads {H}, for neither multi_query nor new_decoder_architecture"
        )
    heads = {} if K == H else {"n_kv_head": K}
    norms = keys["num_ln_in_parallel_attn"]
    if not keys.flag("parallel_attn"):
        if is_new:
            keys.refuse("parallel_attn", "true, for new_decoder_architecture is")
        return heads | {"norm_position": "pre"}
    norms = 1 + is_new if norms is None else norms
    if norms not in (1, 1 + is_new):
        keys.refuse("num_ln_in_parallel_attn", "1, or 2 in a new_decoder_architecture")
    return heads | {"norm_position": "parallel2" if norms == 2 else "parallel"}


def _write(config: Config) -> Fields:
    kind = first(config)
    H, K = kind.n_head, kind.kv_heads
    has_two_norms = kind.norm_position == "parallel2"
    is_new = has_two_norms or K not in (1, H)
    return {
        "new_decoder_architecture": is_new,
        "multi_query": not is_new and K == 1,
        "num_kv_heads": K,
        "parallel_attn": kind.norm_position != "pre",
        "num_ln_in_parallel_attn": 1 + has_two_norms if is_new else None,
    }


def _read_positions(keys: Keys, fields: Fields) -> Fields:
    """Whole heads turned, or linear biases, which are divided by √D like the scores."""
    if not keys.flag("alibi"):
        return {"positions": "rotary"} | read_rope(keys)
    H, C = fields["n_head"], fields["n_embd"]
    D = C // H if is_count(H) and is_count(C) else 1
    return {"positions": "alibi", "alibi_scale": max(D, 1) ** -0.5}


def _write_positions(config: Config) -> Fields:
    kind = first(config)
    return {"alibi": kind.positions == "alibi"} | write_rope(kind.rotary_base, kind.rotary_scaling)


architecture = Feature((*KEYS, "num_ln_in_parallel_attn"), _read, _write)
positions = Feature(("alibi", *ROPE_KEYS), _read_positions, _write_positions)
