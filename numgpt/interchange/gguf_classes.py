"""The architectures of GGUF that numgpt has as well: rows of data, which the classes of transformers are too.

What a file says is read by gguf_features.py; it is refused unless all of it is understood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..architecture.config import Config
from ..errors import InputError
from . import gguf_tables as tables
from .architectures import Architecture
from .features import (
    Feature,
    Fields,
    choice,
    embeddings_by_width,
    fixed,
    inverse,
    must,
    number,
    sizes,
    translation,
)
from .gguf_features import (
    attention_scale_of_widest,
    biased,
    by_array,
    experts,
    head_length,
    layers_without_rotation,
    neutral,
    rotary,
    window_pattern,
)

SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "context_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_embd": "embedding_length",
    "n_inner": "feed_forward_length",
    "tied": "tied",
}
KEY_HEADS = {"n_kv_head": "attention.head_count_kv"}
HEAD_DIM = {"head_dim": "attention.key_length"}
RMS = {"layer_norm_epsilon": "attention.layer_norm_rms_epsilon"}
LN = {"layer_norm_epsilon": "attention.layer_norm_epsilon"}
NEUTRAL = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "tensor_data_layout": ("jploski", "Meta AI original pth"),
    "rope.scaling.attn_factor": (1.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_weights_scale": (0.0, 1.0),
    "nextn_predict_layers": (0,),
    "attention.sliding_window": (0,),
    "attention.max_alibi_bias": (0.0,),
}
swiglu = fixed(norm="rmsnorm", activation="swiglu")
by_head = fixed(qk_norm="head")
parallel = fixed(norm_position="parallel")
gemma = (
    fixed(norm="rmsnorm", activation="geglu_tanh"),
    embeddings_by_width(),
    must("tied", "Gemma has one matrix", True),
)
CAPS = (number("softcap", "attn_logit_softcapping"), number("final_softcap", "final_logit_softcapping"))
alibi = fixed(positions="alibi")
EVERY = "qkv out mlp norm"
GRANITE = (
    number("embed_scale", "embedding_scale"),
    number("residual_scale", "residual_scale"),
    number("attn_scale", "attention.scale"),
    number("logit_scale", "logit_scale", inverse, inverse),
)
LLAMA_BIASES = biased("", "qkv out", "mlp", "qkv out mlp")


def _row(
    name: str,
    table: str | Callable[[Config], str],
    named: dict[str, str],
    *features: Feature,
    complete: Callable[[Config], Config] = lambda config: config,
) -> Architecture:
    """An architecture: its name in a sentence, its table, its sizes → their keys, and what else it has."""
    own = {key for feature in features for key in feature.keys}
    rest = neutral({key: values for key, values in NEUTRAL.items() if key not in own})
    read, write = translation((sizes(SIZES | named), *features, rest))
    keys = ("attention.head_count_kv", "attention.key_length", "attention.value_length", *own, *rest.keys)
    return Architecture(
        name,
        name,
        table,
        "",
        "",
        {},
        _whole(read),
        _as_float32(lambda config: write(complete(config))),
        SIZES | named,
        keys,
        complete,
    )


def _whole(read: Callable[..., Fields]) -> Callable[..., Fields]:
    """A reader that refuses a model without blocks, which GGUF has not."""

    def expecting(keys: Any) -> Fields:
        if keys["block_count"] == 0:
            keys.refuse("block_count", "at least 1")
        return read(keys)

    return expecting


def _as_float32(write: Callable[[Config], Fields]) -> Callable[[Config], Fields]:
    """Numbers as they are read again: with the fewest digits by which float32 tells them apart."""

    def written(config: Config) -> Fields:
        return {key: as_read(value) for key, value in write(config).items() if value is not None}

    return written


def as_read(value: Any) -> Any:
    """A number as read of a file that holds it in float32; anything else as it is."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _with_biases(config: Config) -> Config:
    """All biases, which llama.cpp expects."""
    return dataclasses.replace(config, bias=True, biases=None)


# By general.architecture, in the order in which they are tried for a model that is to be saved.
ARCHITECTURES = {
    "gpt2": _row(
        "GPT-2", tables.GPT2, LN, fixed(activation="gelu_tanh"), biased(EVERY), complete=_with_biases
    ),
    "starcoder": _row("StarCoder", tables.GPT2, LN | KEY_HEADS, fixed(activation="gelu_tanh"), biased(EVERY)),
    "qwen2": _row("Qwen2", tables.QWEN2, RMS | KEY_HEADS, swiglu, rotary(), biased("qkv")),
    "llama": _row(
        "Llama",
        lambda config: tables.LLAMA_EXPERTS if config.n_expert else tables.LLAMA,
        RMS | KEY_HEADS | HEAD_DIM,
        swiglu,
        head_length(),
        rotary(),
        LLAMA_BIASES,
        experts("renorm", optional=True),
    ),
    "qwen3": _row(
        "Qwen3",
        tables.QWEN3,
        RMS | KEY_HEADS | HEAD_DIM,
        swiglu,
        by_head,
        head_length(),
        rotary(),
        biased(""),
    ),
    "gemma": _row(
        "Gemma", tables.QWEN2, RMS | KEY_HEADS | HEAD_DIM, *gemma, head_length(), rotary(), biased("")
    ),
    "gemma2": _row(
        "Gemma 2",
        tables.GEMMA2,
        RMS | KEY_HEADS | HEAD_DIM,
        *gemma,
        fixed(norm_position="both"),
        head_length(),
        *CAPS,
        rotary(),
        biased(""),
        attention_scale_of_widest(46),
        window_pattern(2),
    ),
    "gemma3": _row(
        "Gemma 3",
        tables.GEMMA3,
        RMS | KEY_HEADS | HEAD_DIM,
        *gemma,
        fixed(norm_position="both"),
        by_head,
        head_length(),
        CAPS[1],
        rotary(),
        biased(""),
        attention_scale_of_widest(62),
        window_pattern(6, local="rope.freq_base_swa"),
    ),
    "phi2": _row(
        "Phi-2",
        tables.PHI2,
        LN | KEY_HEADS,
        fixed(activation="gelu_tanh"),
        parallel,
        rotary(partial=True),
        biased(f"{EVERY} head"),
    ),
    "phi3": _row("Phi-3", tables.PHI3, RMS | KEY_HEADS, swiglu, rotary(partial=True), biased("")),
    "falcon": _row(
        "Falcon",
        lambda config: tables.FALCON_TWO if config.norm_position == "parallel2" else tables.FALCON,
        LN | KEY_HEADS,
        fixed(activation="gelu"),
        by_array("attn_norm_2", "norm_position", "parallel2", "parallel"),
        rotary(),
        biased("norm"),
    ),
    "gptneox": _row(
        "GPT-NeoX",
        tables.GPT_NEOX,
        LN,
        fixed(activation="gelu"),
        must("tied", "this architecture has a matrix of its own for the head", False),
        rotary(partial=True),
        choice("use_parallel_residual", "norm_position", "parallel2", "pre"),
        biased(EVERY),
    ),
    "starcoder2": _row(
        "StarCoder2",
        tables.STARCODER2,
        LN | KEY_HEADS,
        fixed(activation="gelu_tanh"),
        rotary(),
        biased(EVERY),
    ),
    "bloom": _row(
        "Bloom", tables.BLOOM, LN, fixed(activation="gelu_bloom", embed_norm=True), alibi, biased(EVERY)
    ),
    "mpt": _row(
        "MPT",
        tables.GPT_NEOX,
        LN,
        fixed(activation="gelu"),
        alibi,
        must("attention.max_alibi_bias", "slopes are those of this number here", 8.0),
        biased(""),
    ),
    "stablelm": _row(
        "StableLM",
        lambda config: tables.QWEN2 if config.norm_position == "pre" else tables.STABLELM_PARALLEL,
        LN | KEY_HEADS,
        fixed(activation="swiglu"),
        by_array("ffn_norm", "norm_position", "pre", "parallel"),
        rotary(partial=True),
        biased("norm", "qkv norm"),
    ),
    "olmo": _row(
        "OLMo",
        tables.OLMO,
        LN | KEY_HEADS,
        fixed(norm="standardise", activation="swiglu"),
        rotary(),
        biased(""),
    ),
    "olmo2": _row(
        "OLMo 2",
        tables.OLMO2,
        RMS | KEY_HEADS,
        swiglu,
        must("tied", "this architecture has a matrix of its own for the head", False),
        fixed(norm_position="out", qk_norm="full"),
        rotary(),
        biased(""),
    ),
    "command-r": _row(
        "Cohere",
        tables.COHERE,
        LN | KEY_HEADS,
        fixed(activation="swiglu"),
        parallel,
        must("tied", "this architecture has one matrix", True),
        number("logit_scale", "logit_scale"),
        rotary(),
        biased(""),
    ),
    "cohere2": _row(
        "Cohere 2",
        tables.COHERE,
        LN | KEY_HEADS,
        fixed(activation="swiglu"),
        parallel,
        must("tied", "this architecture has one matrix", True),
        number("logit_scale", "logit_scale"),
        rotary(),
        biased(""),
        window_pattern(4, full={"positions": "none"}),
    ),
    "nemotron": _row(
        "Nemotron",
        tables.STARCODER2,
        LN | KEY_HEADS,
        fixed(activation="relu2"),
        must("tied", "this architecture has a matrix of its own for the head", False),
        rotary(partial=True),
        biased("norm", EVERY),
    ),
    "arcee": _row(
        "Arcee",
        tables.ARCEE,
        RMS | KEY_HEADS | HEAD_DIM,
        fixed(norm="rmsnorm", activation="relu2"),
        head_length(),
        rotary(),
        biased(""),
    ),
    "smollm3": _row(
        "SmolLM3",
        tables.LLAMA,
        RMS | KEY_HEADS | HEAD_DIM,
        swiglu,
        head_length(),
        rotary(),
        biased(""),
        layers_without_rotation(4),
    ),
    "granite": _row(
        "Granite",
        tables.LLAMA,
        RMS | KEY_HEADS | HEAD_DIM,
        swiglu,
        head_length(),
        rotary(),
        biased(""),
        *GRANITE,
    ),
    "granitemoe": _row(
        "GraniteMoE",
        tables.LLAMA_EXPERTS,
        RMS | KEY_HEADS | HEAD_DIM,
        swiglu,
        head_length(),
        rotary(),
        biased(""),
        *GRANITE,
        experts("renorm"),
    ),
    "qwen2moe": _row(
        "Qwen2-MoE",
        tables.QWEN2_EXPERTS,
        RMS | KEY_HEADS,
        swiglu,
        must("tied", "this architecture has a matrix of its own for the head", False),
        rotary(),
        biased("qkv"),
        experts("raw", "expert_feed_forward_length", shared=True),
    ),
    "qwen3moe": _row(
        "Qwen3-MoE",
        tables.QWEN3_EXPERTS,
        RMS | KEY_HEADS | HEAD_DIM,
        swiglu,
        by_head,
        head_length(),
        rotary(),
        biased(""),
        experts("renorm", "expert_feed_forward_length"),
    ),
    "olmoe": _row(
        "OLMoE",
        tables.QWEN3_EXPERTS,
        RMS | KEY_HEADS,
        swiglu,
        must("tied", "this architecture has a matrix of its own for the head", False),
        fixed(qk_norm="full"),
        rotary(),
        biased(""),
        experts("raw"),
    ),
}


def fitting(config: Config) -> tuple[str, Architecture]:
    """(general.architecture, its row) that computes a model; InputError where there is none."""
    if not config.n_layer:
        raise InputError("save: the model has n_layer 0, expected at least 1 in a file of GGUF")
    differing = {kind: row.differing(config) for kind, row in ARCHITECTURES.items()}
    kind = min(differing, key=lambda kind: len(differing[kind]))
    if not differing[kind]:
        return kind, ARCHITECTURES[kind]
    name = differing[kind][0]
    raise InputError(
        f"save: the model has {name} {getattr(config, name)}, expected another with its other settings in a"
        f" file of GGUF, nearest to its {kind}: save it as numgpt's own checkpoint"
    )
