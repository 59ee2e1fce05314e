"""Mixtures of experts among the classes of transformers: rows as in classes.py."""

from __future__ import annotations

from . import class_tables as tables
from .classes import (
    ATTENTION_BIAS,
    GRANITE,
    GRANITE_SCALES,
    HEAD_DIM,
    KEY_HEADS,
    RMS,
    SILU,
    SIZES,
    by_head,
    qwen_windows,
    rms,
    size,
)
from .expert_features import experts, experts_in_some
from .features import biases, fixed, gate, must, rotary
from .gpt_classes import Row
from .layer_features import from_sliding, one_window, window_where_used, windows
from .llama_keys import QWEN2

GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}

MIXTURES = {
    "mixtral": Row(
        "Mixtral",
        "MixtralForCausalLM",
        tables.MIXTRAL,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        SILU
        | size(32000, 4096, 14336, 32, 32, 131072, num_key_value_heads=8, rms_norm_eps=1e-5)
        | {"rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2},
        (rms, gate("hidden_act"), rotary(), biases(), one_window(), experts("num_local_experts")),
    ),
    "qwen2_moe": Row(
        "Qwen2-MoE",
        "Qwen2MoeForCausalLM",
        tables.QWEN2_MOE,
        SIZES | KEY_HEADS | RMS,
        QWEN2
        | size(151936, 2048, 5632, 24, 16, 32768, num_key_value_heads=16, rms_norm_eps=1e-6)
        | {"num_experts": 60, "num_experts_per_tok": 4, "norm_topk_prob": False, "qkv_bias": True}
        | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "sliding_window": None}
        | {"decoder_sparse_step": 1, "mlp_only_layers": []},
        (
            rms,
            gate("hidden_act"),
            rotary(),
            biases(qkv_bias="qkv"),
            qwen_windows,
            experts_in_some("num_experts", "shared_expert_intermediate_size"),
        ),
    ),
    "qwen3_moe": Row(
        "Qwen3-MoE",
        "Qwen3MoeForCausalLM",
        tables.QWEN3_MOE,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        QWEN2
        | size(151936, 2048, 6144, 24, 32, 32768, num_key_value_heads=4, rms_norm_eps=1e-6)
        | {"num_local_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": False}
        | {"moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": []},
        (
            rms,
            by_head,
            gate("hidden_act"),
            rotary(),
            ATTENTION_BIAS,
            window_where_used(),
            experts_in_some("num_local_experts"),
        ),
        older={"num_experts": "num_local_experts"},
    ),
    "olmoe": Row(
        "OLMoE",
        "OlmoeForCausalLM",
        tables.OLMOE,
        SIZES | KEY_HEADS | RMS,
        SILU
        | size(50304, 2048, 2048, 16, 16, 4096, num_key_value_heads=16, rms_norm_eps=1e-5)
        | {"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False, "attention_bias": False},
        (
            rms,
            fixed(qk_norm="full"),
            gate("hidden_act"),
            rotary(),
            ATTENTION_BIAS,
            must("clip_qkv", "queries, keys and values are not clipped here", None),
            experts("num_experts", "norm_topk_prob"),
        ),
    ),
    "granitemoe": Row(
        "GraniteMoE",
        "GraniteMoeForCausalLM",
        tables.GRANITE_MOE,
        SIZES | KEY_HEADS | RMS,
        GRANITE | {"num_local_experts": 8, "num_experts_per_tok": 2},
        (
            rms,
            gate("hidden_act"),
            rotary(),
            ATTENTION_BIAS,
            *GRANITE_SCALES,
            experts("num_local_experts"),
        ),
    ),
    "gpt_oss": Row(
        "GPT-OSS",
        "GptOssForCausalLM",
        tables.GPT_OSS,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        SILU
        | size(201088, 2880, 2880, 36, 64, 131072, num_key_value_heads=8, head_dim=64, rms_norm_eps=1e-5)
        | {"num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128}
        | {"attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "rope_theta": 150000.0},
        (
            rms,
            fixed(activation="swiglu_clamped", sink=True),
            must("hidden_act", "the gate is a clamped SiLU", "silu"),
            must("swiglu_alpha", "the gate's steepness is that of the published models", 1.702),
            must("swiglu_limit", "gate and value are clamped where the published models do", 7.0, 7),
            rotary(scaled=GPT_OSS_ROPE),
            must("attention_bias", "queries, keys, values and what heads give have biases", True),
            biases("qkv out mlp router"),
            windows(from_sliding),
            experts("num_local_experts"),
        ),
    ),
}
