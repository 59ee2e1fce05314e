"""Published models of many families as fields of a Config: for what they cost, and to build them.

Sizes are those of the config.json that each was published with. LLaMA, Mistral and Qwen2 stand in presets.py.
"""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]
LLAMA_FORMS: Fields = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False}
MIXTURE: Fields = {"n_expert": 8, "n_expert_active": 2}


def _sizes(
    vocab_size: int, block_size: int, n_layer: int, n_head: int, n_kv_head: int, n_embd: int, n_inner: int
) -> Fields:
    """The sizes of a model; as many key heads as heads are said by a Config's default."""
    sizes = {"vocab_size": vocab_size, "block_size": block_size, "n_layer": n_layer, "n_head": n_head}
    heads = {} if n_kv_head == n_head else {"n_kv_head": n_kv_head}
    return sizes | heads | {"n_embd": n_embd, "n_inner": n_inner}


_MIXTRAL = LLAMA_FORMS | MIXTURE | {"rotary_base": 1e6, "tied": False}
_QWEN3 = LLAMA_FORMS | {"layer_norm_epsilon": 1e-6, "rotary_base": 1e6, "head_dim": 128, "qk_norm": "head"}
_QWEN3_MOE = _QWEN3 | {"tied": False, "n_expert": 128, "n_expert_active": 8}
_QWEN_MOE = (
    LLAMA_FORMS
    | {"bias": True, "biases": "qkv", "layer_norm_epsilon": 1e-6, "tied": False}
    | {
        "n_expert": 60,
        "n_expert_active": 4,
        "router": "raw",
        "shared_inner": 5632,
        "rotary_base": 1e6,
    }
)
_GEMMA = LLAMA_FORMS | {"activation": "geglu_tanh", "layer_norm_epsilon": 1e-6, "head_dim": 256}
_GEMMA2 = (
    _GEMMA
    | {"norm_position": "both", "softcap": 50.0, "final_softcap": 30.0, "attn_scale": 1 / 16}
    | {"layers": [{"window": 4096}, {}]}
)
_GEMMA3 = _GEMMA | {"norm_position": "both", "qk_norm": "head", "rotary_base": 1e6, "attn_scale": 1 / 16}
_PHI: Fields = {"activation": "gelu_tanh", "norm_position": "parallel", "positions": "rotary", "tied": False}
_PHI |= {"biases": "qkv out mlp norm head"}
_FALCON: Fields = {"activation": "gelu", "positions": "rotary", "biases": "norm"}
_OLMO2 = LLAMA_FORMS | {"norm_position": "out", "qk_norm": "full", "rotary_base": 500000.0, "tied": False}
_OLMO2 |= {"layer_norm_epsilon": 1e-6}
_GPT_OSS = LLAMA_FORMS | {
    "bias": True,
    "biases": "qkv out mlp router",
    "activation": "swiglu_clamped",
    "sink": True,
}
_GPT_OSS |= {
    "tied": False,
    "head_dim": 64,
    "rotary_base": 150000.0,
    "rotary_scaling": {
        "kind": "yarn",
        "factor": 32.0,
        "length": 4096,
        "fast": 32.0,
        "slow": 1.0,
        "truncate": False,
    },
    "n_expert_active": 4,
    "layers": [{"window": 128}, {}],
}
_GRANITE = LLAMA_FORMS | {"embed_scale": 12.0, "residual_scale": 0.22, "rotary_base": 10000.0}


def _width(C: int) -> Fields:
    """Embeddings times √C, as in Gemma."""
    return {"n_embd": C, "embed_scale": C**0.5}


def _every_sixth(window: int) -> Fields:
    """Five layers with a window and slow rotary positions of their own, then one that sees all."""
    return {"layers": [{"window": window, "rotary_base": 1e4, "rotary_scaling": None}] * 5 + [{}]}


PUBLISHED: dict[str, Fields] = {
    "mixtral-8x7b": _MIXTRAL | _sizes(32000, 32768, 32, 32, 8, 4096, 14336),
    "mixtral-8x22b": _MIXTRAL | _sizes(32768, 65536, 56, 48, 8, 6144, 16384),
    "qwen3-0.6b": _QWEN3 | _sizes(151936, 40960, 28, 16, 8, 1024, 3072),
    "qwen3-1.7b": _QWEN3 | _sizes(151936, 40960, 28, 16, 8, 2048, 6144),
    "qwen3-4b": _QWEN3 | _sizes(151936, 40960, 36, 32, 8, 2560, 9728),
    "qwen3-8b": _QWEN3 | _sizes(151936, 40960, 36, 32, 8, 4096, 12288) | {"tied": False},
    "qwen3-30b-a3b": _QWEN3_MOE | _sizes(151936, 40960, 48, 32, 4, 2048, 768),
    "qwen3-235b-a22b": _QWEN3_MOE | _sizes(151936, 40960, 94, 64, 4, 4096, 1536),
    "qwen1.5-moe-a2.7b": _QWEN_MOE | _sizes(151936, 8192, 24, 16, 16, 2048, 1408),
    "gemma-2b": _GEMMA | _sizes(256000, 8192, 18, 8, 1, 2048, 16384) | _width(2048),
    "gemma-7b": _GEMMA | _sizes(256000, 8192, 28, 16, 16, 3072, 24576) | _width(3072),
    "gemma2-2b": _GEMMA2 | _sizes(256000, 8192, 26, 8, 4, 2304, 9216) | _width(2304),
    "gemma2-9b": _GEMMA2 | _sizes(256000, 8192, 42, 16, 8, 3584, 14336) | _width(3584),
    "gemma2-27b": _GEMMA2
    | _sizes(256000, 8192, 46, 32, 16, 4608, 36864)
    | _width(4608)
    | {"head_dim": 128, "attn_scale": 1 / 12},
    "gemma3-270m": _GEMMA3 | _sizes(262144, 32768, 18, 4, 1, 640, 2048) | _width(640) | _every_sixth(512),
    "gemma3-1b": _GEMMA3 | _sizes(262144, 32768, 26, 4, 1, 1152, 6912) | _width(1152) | _every_sixth(512),
    "gemma3-4b": _GEMMA3
    | _sizes(262208, 131072, 34, 8, 4, 2560, 10240)
    | _width(2560)
    | _every_sixth(1024)
    | {"rotary_scaling": {"kind": "linear", "factor": 8.0}},
    "phi-1.5": _PHI | _sizes(51200, 2048, 24, 32, 32, 2048, 8192) | {"rotary_dim": 32},
    "phi-2": _PHI | _sizes(51200, 2048, 32, 32, 32, 2560, 10240) | {"rotary_dim": 32},
    "phi3-mini": LLAMA_FORMS | _sizes(32064, 4096, 32, 32, 32, 3072, 8192) | {"window": 2047, "tied": False},
    "falcon-7b": _FALCON | _sizes(65024, 2048, 32, 71, 1, 4544, 18176) | {"norm_position": "parallel"},
    "falcon-40b": _FALCON | _sizes(65024, 2048, 60, 128, 8, 8192, 32768) | {"norm_position": "parallel2"},
    "olmo2-1b": _OLMO2 | _sizes(100352, 4096, 16, 16, 16, 2048, 8192),
    "olmo2-7b": _OLMO2 | _sizes(100352, 4096, 32, 32, 32, 4096, 11008),
    "olmo2-13b": _OLMO2 | _sizes(100352, 4096, 40, 40, 40, 5120, 13824),
    "olmoe-1b-7b": LLAMA_FORMS
    | _sizes(50304, 4096, 16, 16, 16, 2048, 1024)
    | {"qk_norm": "full", "tied": False, "n_expert": 64, "n_expert_active": 8, "router": "raw"},
    "gpt-oss-20b": _GPT_OSS | _sizes(201088, 131072, 24, 64, 8, 2880, 2880) | {"n_expert": 32},
    "gpt-oss-120b": _GPT_OSS | _sizes(201088, 131072, 36, 64, 8, 2880, 2880) | {"n_expert": 128},
    "granite3-2b": _GRANITE
    | _sizes(49155, 4096, 40, 32, 8, 2048, 8192)
    | {"attn_scale": 0.015625, "logit_scale": 1 / 8},
    "granite3-8b": _GRANITE
    | _sizes(49155, 4096, 40, 32, 8, 4096, 12800)
    | {"attn_scale": 0.0078125, "logit_scale": 1 / 16},
}
