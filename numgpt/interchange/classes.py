"""Classes of transformers, a row of features each: what config.json says, and how parameters are called.

A row's defaults are those of its class, for keys that a file leaves out.
"""

from __future__ import annotations

from typing import Any

from . import class_tables as tables
from . import falcon_keys
from .features import (
    Feature,
    biases,
    choice,
    embeddings_by_width,
    fixed,
    gate,
    inverse,
    must,
    number,
    plain,
    root,
    rotary,
    square,
)
from .gpt_classes import GPT_ROWS, Row
from .layer_features import (
    from_sliding,
    full_every,
    no_rope_layers,
    one_window,
    windows,
    windows_and_bases,
)
from .llama_keys import QWEN2, read_qwen2_windows, write_qwen2_windows

SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "tied": "tie_word_embeddings",
}
KEY_HEADS = {"n_kv_head": "num_key_value_heads"}
RMS = {"layer_norm_epsilon": "rms_norm_eps"}
LN = {"layer_norm_epsilon": "layer_norm_eps"}
HEAD_DIM = {"head_dim": "head_dim"}
SILU = {"hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": False}
rms = fixed(norm="rmsnorm")
parallel = fixed(norm_position="parallel")
by_head = fixed(qk_norm="head")
qwen_windows = Feature(
    ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"),
    lambda keys, _: read_qwen2_windows(keys),
    write_qwen2_windows,
)


def size(
    vocab: int, width: int, inner: int | None, layers: int, heads: int, length: int, **more: Any
) -> dict[str, Any]:
    """The defaults of a class's sizes, by the keys that most classes have."""
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": length,
    } | more


GEMMA = SILU | {"tie_word_embeddings": True, "attention_bias": False, "rms_norm_eps": 1e-6}
both_ways = must("use_bidirectional_attention", "numgpt sees what is before alone", None, False)
GEMMA_SCALE = number("attn_scale", "query_pre_attn_scalar", root, square)
CAPS = (number("softcap", "attn_logit_softcapping"), number("final_softcap", "final_logit_softcapping"))
ATTENTION_BIAS = biases(attention_bias="qkv out")
LLAMA_BIASES = biases(attention_bias="qkv out", mlp_bias="mlp")
GRANITE = (
    SILU
    | size(32000, 4096, 11008, 32, 32, 2048, rms_norm_eps=1e-6, attention_bias=False)
    | {"embedding_multiplier": 1.0, "logits_scaling": 1.0}
    | {"residual_multiplier": 1.0, "attention_multiplier": 1.0}
)
GRANITE_SCALES = (
    number("embed_scale", "embedding_multiplier"),
    number("residual_scale", "residual_multiplier"),
    number("attn_scale", "attention_multiplier"),
    number("logit_scale", "logits_scaling", inverse, inverse),
)

ROWS = GPT_ROWS | {
    "qwen3": Row(
        "Qwen3",
        "Qwen3ForCausalLM",
        tables.QWEN3,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        QWEN2 | {"head_dim": 128},
        (rms, by_head, gate("hidden_act"), rotary(), ATTENTION_BIAS, qwen_windows),
    ),
    "gemma": Row(
        "Gemma",
        "GemmaForCausalLM",
        tables.GEMMA,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        GEMMA
        | size(256000, 3072, 24576, 28, 16, 8192, num_key_value_heads=16, head_dim=256)
        | {"hidden_act": "gelu_pytorch_tanh"},
        (
            rms,
            embeddings_by_width(),
            gate("hidden_act", {"gelu": "geglu_tanh"}),
            rotary(),
            ATTENTION_BIAS,
            both_ways,
        ),
    ),
    "gemma2": Row(
        "Gemma 2",
        "Gemma2ForCausalLM",
        tables.GEMMA2,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        GEMMA
        | size(256000, 2304, 9216, 26, 8, 8192, num_key_value_heads=4, head_dim=256, sliding_window=4096)
        | {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256}
        | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        (
            rms,
            fixed(norm_position="both"),
            embeddings_by_width(),
            gate("hidden_activation"),
            GEMMA_SCALE,
            *CAPS,
            rotary(),
            ATTENTION_BIAS,
            both_ways,
            windows(from_sliding),
        ),
    ),
    "gemma3_text": Row(
        "Gemma 3",
        "Gemma3ForCausalLM",
        tables.GEMMA3,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        GEMMA
        | size(262208, 2304, 9216, 26, 8, 131072, num_key_value_heads=4, head_dim=256, sliding_window=4096)
        | {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256}
        | {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
        (
            rms,
            by_head,
            fixed(norm_position="both"),
            embeddings_by_width(),
            gate("hidden_activation"),
            GEMMA_SCALE,
            *CAPS,
            ATTENTION_BIAS,
            both_ways,
            windows_and_bases(full_every(6), "rope_local_base_freq"),
        ),
    ),
    "gpt_neox": Row(
        "GPT-NeoX",
        "GPTNeoXForCausalLM",
        tables.GPT_NEOX,
        SIZES | LN,
        size(50432, 6144, 24576, 44, 64, 2048, layer_norm_eps=1e-5, tie_word_embeddings=False)
        | {"hidden_act": "gelu", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
        | {"use_parallel_residual": True, "attention_bias": True},
        (
            plain("hidden_act"),
            rotary({"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}),
            choice("use_parallel_residual", "norm_position", "parallel2", "pre"),
            biases("mlp norm", attention_bias="qkv out"),
        ),
        "gpt_neox.",
        {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
    ),
    "phi": Row(
        "Phi",
        "PhiForCausalLM",
        tables.PHI,
        SIZES | KEY_HEADS | LN,
        SILU
        | size(51200, 2048, 8192, 24, 32, 2048, layer_norm_eps=1e-5, qk_layernorm=False)
        | {"hidden_act": "gelu_new", "partial_rotary_factor": 0.5},
        (
            plain("hidden_act"),
            parallel,
            rotary(),
            biases("qkv out mlp norm head"),
            choice("qk_layernorm", "qk_norm", "head", "none"),
        ),
    ),
    "phi3": Row(
        "Phi-3",
        "Phi3ForCausalLM",
        tables.PHI3,
        SIZES | KEY_HEADS | RMS,
        SILU
        | size(32064, 3072, 8192, 32, 32, 4096, rms_norm_eps=1e-5)
        | {"original_max_position_embeddings": 4096},
        (rms, gate("hidden_act"), rotary(), biases(), one_window()),
    ),
    "falcon": Row(
        "Falcon",
        "FalconForCausalLM",
        lambda config: {"pre": tables.FALCON, "parallel": tables.FALCON_PARALLEL}.get(
            config.norm_position, tables.FALCON_NEW
        ),
        SIZES | {"n_inner": "ffn_hidden_size", "layer_norm_epsilon": "layer_norm_epsilon"},
        size(65024, 4544, None, 32, 71, 2048, layer_norm_epsilon=1e-5, tie_word_embeddings=True)
        | {"activation": "gelu", "rope_theta": 10000.0, "alibi": False, "bias": False}
        | {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True},
        (
            plain("activation"),
            falcon_keys.architecture,
            falcon_keys.positions,
            biases("norm", bias="qkv out mlp"),
        ),
        "transformer.",
        {"n_embed": "hidden_size"},
    ),
    "bloom": Row(
        "Bloom",
        "BloomForCausalLM",
        tables.BLOOM,
        {"vocab_size": "vocab_size", "block_size": "seq_length", "n_layer": "n_layer", "n_head": "n_head"}
        | {"n_embd": "hidden_size", "tied": "tie_word_embeddings"}
        | {"layer_norm_epsilon": "layer_norm_epsilon"},
        {"vocab_size": 250880, "hidden_size": 64, "n_layer": 2, "n_head": 8, "seq_length": 2048}
        | {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
        | {"apply_residual_connection_post_layernorm": False},
        (
            fixed(positions="alibi", embed_norm=True, activation="gelu_bloom"),
            must("apply_residual_connection_post_layernorm", "the sum is of what was not normalised", False),
        ),
        "transformer.",
        {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
    ),
    "olmo": Row(
        "OLMo",
        "OlmoForCausalLM",
        tables.OLMO,
        SIZES | KEY_HEADS,
        SILU | size(50304, 4096, 11008, 32, 32, 2048, attention_bias=False),
        (
            fixed(norm="standardise"),
            gate("hidden_act"),
            rotary(),
            ATTENTION_BIAS,
            must("clip_qkv", "queries, keys and values are not clipped here", None),
        ),
    ),
    "olmo2": Row(
        "OLMo 2",
        "Olmo2ForCausalLM",
        tables.OLMO2,
        SIZES | KEY_HEADS | RMS,
        SILU | size(50304, 4096, 11008, 32, 32, 2048, attention_bias=False, rms_norm_eps=1e-5),
        (
            rms,
            fixed(norm_position="out", qk_norm="full"),
            gate("hidden_act"),
            rotary(),
            ATTENTION_BIAS,
        ),
    ),
    "olmo3": Row(
        "OLMo 3",
        "Olmo3ForCausalLM",
        tables.OLMO2,
        SIZES | KEY_HEADS | RMS,
        SILU
        | size(50304, 4096, 11008, 32, 32, 2048, attention_bias=False, rms_norm_eps=1e-5)
        | {"rope_theta": 500000.0, "sliding_window": 4096},
        (
            rms,
            fixed(norm_position="out", qk_norm="full"),
            gate("hidden_act"),
            ATTENTION_BIAS,
            windows_and_bases(full_every(4), None),
        ),
    ),
    "stablelm": Row(
        "StableLM",
        "StableLmForCausalLM",
        lambda config: {
            ("pre", "none"): tables.LLAMA,
            ("pre", "each"): tables.STABLELM_QK,
            ("parallel", "none"): tables.STABLELM_PARALLEL,
        }.get((config.norm_position, config.qk_norm), tables.STABLELM_PARALLEL_QK),
        SIZES | KEY_HEADS | LN,
        SILU
        | size(50304, 2560, 6912, 32, 32, 4096, num_key_value_heads=32, layer_norm_eps=1e-5)
        | {"partial_rotary_factor": 0.25, "use_qkv_bias": False, "use_parallel_residual": False}
        | {"qk_layernorm": False},
        (
            gate("hidden_act"),
            rotary(),
            biases("norm", use_qkv_bias="qkv"),
            choice("use_parallel_residual", "norm_position", "parallel", "pre"),
            choice("qk_layernorm", "qk_norm", "each", "none"),
        ),
    ),
    "starcoder2": Row(
        "Starcoder2",
        "Starcoder2ForCausalLM",
        tables.STARCODER2,
        SIZES | KEY_HEADS | {"layer_norm_epsilon": "norm_epsilon"},
        size(49152, 3072, 12288, 30, 24, 4096, num_key_value_heads=2, norm_epsilon=1e-5)
        | {"hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0, "use_bias": True}
        | {"tie_word_embeddings": True},
        (plain("hidden_act"), rotary(), biases("norm", use_bias="qkv out mlp"), one_window()),
    ),
    "nemotron": Row(
        "Nemotron",
        "NemotronForCausalLM",
        tables.NEMOTRON,
        SIZES | KEY_HEADS | HEAD_DIM | {"layer_norm_epsilon": "norm_eps"},
        SILU
        | size(256000, 6144, 24576, 32, 48, 4096, norm_eps=1e-5)
        | {"hidden_act": "relu2", "partial_rotary_factor": 0.5, "attention_bias": False, "mlp_bias": False},
        (plain("hidden_act"), rotary(), biases("norm", attention_bias="qkv out", mlp_bias="mlp")),
    ),
    "cohere": Row(
        "Cohere",
        "CohereForCausalLM",
        lambda config: tables.COHERE if config.qk_norm == "none" else tables.COHERE_QK,
        SIZES | KEY_HEADS | LN,
        SILU
        | size(256000, 8192, 22528, 40, 64, 8192, layer_norm_eps=1e-5, attention_bias=False)
        | {"logit_scale": 0.0625, "rope_theta": 500000.0, "tie_word_embeddings": True, "use_qk_norm": False},
        (
            parallel,
            gate("hidden_act"),
            rotary(),
            number("logit_scale", "logit_scale"),
            ATTENTION_BIAS,
            choice("use_qk_norm", "qk_norm", "each", "none"),
        ),
    ),
    "cohere2": Row(
        "Cohere 2",
        "Cohere2ForCausalLM",
        tables.COHERE,
        SIZES | KEY_HEADS | LN,
        SILU
        | size(256000, 8192, 22528, 40, 64, 8192, layer_norm_eps=1e-5, attention_bias=False)
        | {"logit_scale": 0.0625, "tie_word_embeddings": True, "sliding_window": 4096},
        (
            parallel,
            gate("hidden_act"),
            rotary(),
            number("logit_scale", "logit_scale"),
            ATTENTION_BIAS,
            windows(full_every(4), {"positions": "none"}),
        ),
    ),
    "smollm3": Row(
        "SmolLM3",
        "SmolLM3ForCausalLM",
        tables.LLAMA,
        SIZES | KEY_HEADS | RMS,
        SILU
        | size(128256, 2048, 11008, 36, 16, 32768, num_key_value_heads=4, rms_norm_eps=1e-6)
        | {"rope_theta": 2000000.0, "attention_bias": False, "mlp_bias": False}
        | {"tie_word_embeddings": True, "use_sliding_window": False, "no_rope_layer_interval": 4},
        (rms, gate("hidden_act"), rotary(), LLAMA_BIASES, no_rope_layers()),
    ),
    "granite": Row(
        "Granite",
        "GraniteForCausalLM",
        tables.LLAMA,
        SIZES | KEY_HEADS | RMS,
        GRANITE | {"mlp_bias": False},
        (rms, gate("hidden_act"), rotary(), LLAMA_BIASES, *GRANITE_SCALES),
    ),
    "glm": Row(
        "GLM",
        "GlmForCausalLM",
        tables.GLM,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        SILU
        | size(151552, 4096, 13696, 40, 32, 131072, num_key_value_heads=2, head_dim=128)
        | {"rms_norm_eps": 1.5625e-07, "attention_bias": True, "partial_rotary_factor": 0.5},
        (rms, gate("hidden_act"), rotary(), biases(attention_bias="qkv")),
    ),
    "glm4": Row(
        "GLM-4",
        "Glm4ForCausalLM",
        tables.GLM4,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        SILU
        | size(151552, 4096, 13696, 40, 32, 131072, num_key_value_heads=2, head_dim=128)
        | {"rms_norm_eps": 1.5625e-07, "attention_bias": True, "partial_rotary_factor": 0.5},
        (
            rms,
            fixed(norm_position="both"),
            gate("hidden_act"),
            rotary(),
            biases(attention_bias="qkv"),
        ),
    ),
    "helium": Row(
        "Helium",
        "HeliumForCausalLM",
        tables.HELIUM,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        SILU
        | size(48000, 2560, 7040, 24, 20, 4096, num_key_value_heads=20, head_dim=128, rms_norm_eps=1e-8)
        | {"rope_theta": 100000.0, "attention_bias": False, "mlp_bias": False},
        (rms, gate("hidden_act"), rotary(), biases(attention_bias="qkv", mlp_bias="mlp")),
    ),
    "arcee": Row(
        "Arcee",
        "ArceeForCausalLM",
        tables.ARCEE,
        SIZES | KEY_HEADS | RMS | HEAD_DIM,
        SILU
        | size(32000, 2560, 18432, 32, 32, 4096, rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False)
        | {"hidden_act": "relu2"},
        (rms, plain("hidden_act"), rotary(), LLAMA_BIASES),
    ),
    "persimmon": Row(
        "Persimmon",
        "PersimmonForCausalLM",
        tables.PERSIMMON,
        SIZES | LN,
        SILU
        | size(262144, 4096, 16384, 36, 64, 16384, layer_norm_eps=1e-5)
        | {"hidden_act": "relu2", "partial_rotary_factor": 0.5, "qk_layernorm": True},
        (plain("hidden_act"), rotary(), choice("qk_layernorm", "qk_norm", "head", "none")),
    ),
}
