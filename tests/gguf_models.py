"""A small model for each architecture of GGUF that numgpt has: what is off its Config's defaults."""

import numpy as np

from numgpt import GPT, Config

SIZES = {"vocab_size": 64, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 64, "n_inner": 96}
LAYERS = {"bias": False, "norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "tied": False}
LN = {"bias": False, "activation": "swiglu", "positions": "rotary", "tied": False}
GEMMA = LAYERS | {
    "activation": "geglu_tanh",
    "tied": True,
    "embed_scale": 8.0,
    "head_dim": 32,
    "n_kv_head": 2,
}
EXPERTS = {"n_expert": 4, "n_expert_active": 2}
FORMS = {
    "gpt2": {},
    "gpt2 with a head": {"tied": False},
    "starcoder": {"n_kv_head": 1},
    "llama": LAYERS,
    "llama tied, shared key heads": LAYERS | {"tied": True, "n_kv_head": 2, "rotary_base": 5e5},
    "llama with biases, wide heads": LAYERS | {"bias": True, "head_dim": 32, "n_kv_head": 1},
    "llama, linear": LAYERS | {"rotary_scaling": {"kind": "linear", "factor": 4.0}},
    "llama, yarn": LAYERS | {"rotary_scaling": {"kind": "yarn", "factor": 4.0, "length": 16}},
    "llama 3": LAYERS
    | {"rotary_scaling": {"kind": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "length": 8192}},
    "mixtral": LAYERS | EXPERTS,
    "qwen2": LAYERS | {"biases": "qkv", "n_kv_head": 2},
    "qwen3": LAYERS | {"qk_norm": "head", "head_dim": 32, "n_kv_head": 2},
    "gemma": GEMMA,
    "gemma2": GEMMA
    | {"norm_position": "both", "softcap": 50.0, "final_softcap": 30.0, "layers": ({"window": 8}, {})},
    "gemma3": GEMMA
    | {"norm_position": "both", "qk_norm": "head", "n_layer": 6, "rotary_base": 1e6}
    | {"layers": (*[{"window": 8, "rotary_base": 1e4}] * 5, {})},
    "phi2": {"norm_position": "parallel", "positions": "rotary", "rotary_dim": 8, "tied": False}
    | {"bias": False, "biases": "qkv out mlp norm head"},
    "phi3": LAYERS | {"rotary_dim": 8},
    "falcon": LN
    | {"activation": "gelu", "norm_position": "parallel", "n_kv_head": 1, "tied": True, "biases": "norm"},
    "falcon with two norms": LN
    | {"activation": "gelu", "norm_position": "parallel2", "n_kv_head": 2, "biases": "norm"},
    "gptneox": {"norm_position": "parallel2", "activation": "gelu", "positions": "rotary", "rotary_dim": 4}
    | {"tied": False},
    "gptneox in sequence": {"activation": "gelu", "positions": "rotary", "rotary_dim": 4, "tied": False},
    "starcoder2": {"positions": "rotary", "n_kv_head": 2},
    "bloom": {"activation": "gelu_bloom", "positions": "alibi", "embed_norm": True, "n_inner": None},
    "mpt": {"activation": "gelu", "positions": "alibi", "bias": False, "n_inner": None},
    "stablelm": LN | {"rotary_dim": 4, "biases": "qkv norm"},
    "stablelm, parallel": LN | {"rotary_dim": 4, "norm_position": "parallel", "biases": "norm"},
    "olmo": LN | {"norm": "standardise"},
    "olmo2": LAYERS | {"norm_position": "out", "qk_norm": "full", "n_kv_head": 2},
    "command-r": LN | {"norm_position": "parallel", "tied": True, "logit_scale": 0.0625, "n_kv_head": 2},
    "cohere2": LN
    | {"norm_position": "parallel", "tied": True, "logit_scale": 0.0625, "n_layer": 4}
    | {"layers": (*[{"window": 8}] * 3, {"positions": "none"})},
    "nemotron": LN | {"activation": "relu2", "rotary_dim": 8, "biases": "norm"},
    "arcee": LAYERS | {"activation": "relu2"},
    "smollm3": LAYERS | {"n_layer": 4, "layers": (*[{}] * 3, {"positions": "none"})},
    "granite": LAYERS
    | {"embed_scale": 12.0, "residual_scale": 0.22, "attn_scale": 0.125, "logit_scale": 0.125},
    "granitemoe": LAYERS
    | EXPERTS
    | {"embed_scale": 12.0, "residual_scale": 0.22, "attn_scale": 0.125, "logit_scale": 0.125},
    "qwen2moe": LAYERS | EXPERTS | {"biases": "qkv", "router": "raw", "shared_inner": 32},
    "qwen3moe": LAYERS | EXPERTS | {"qk_norm": "head"},
    "olmoe": LAYERS | EXPERTS | {"qk_norm": "full", "router": "raw"},
}


def model_of(form, dtype="float32", tokenizer=None, **changes):
    """A model whose numbers are far from those that a new one has."""
    fields = SIZES | FORMS[form] | changes
    if "biases" in fields:
        del fields["bias"]
    config = Config(**fields)
    model = GPT(config, 1, tokenizer=tokenizer)
    model.params.flat += np.float32(0.1) * np.random.default_rng(2).standard_normal(
        model.n_params, np.float32
    )
    return model.astype(dtype)
