"""The subjects of numgpt check: every op, layer and model variant as a pair at random arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from .. import ops
from ..architecture.config import Config
from ..layers import transformer
from ..layers.record import Record
from .op_subjects import AGAIN, MISFIT, KindOfRecord, OnRecord, Subject, op_subjects
from .record_subjects import (
    Edits,
    Recorded,
    ScopedLayer,
    edited_subject,
    frozen_subject,
    inputs_subject,
    layer_subject,
    model_subject,
    placed_subject,
    sent_subject,
)

__all__ = [
    "AGAIN",
    "MISFIT",
    "SMALL",
    "VARIANTS",
    "Edits",
    "KindOfRecord",
    "OnRecord",
    "Recorded",
    "ScopedLayer",
    "Subject",
    "block_layers",
    "composed_subjects",
    "edited_subject",
    "frozen_subject",
    "inputs_subject",
    "layer_subject",
    "model_subject",
    "op_subjects",
    "placed_subject",
    "sent_subject",
    "subjects",
]

# The config of layers and models, but for what their variants differ in.
SMALL: dict[str, Any] = {"vocab_size": 7, "block_size": 5, "n_layer": 2, "n_head": 2, "n_embd": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "GPT-1": {"norm_position": "post"},
    "nanoGPT": {"bias": False, "activation": "gelu"},
    "untied": {"tied": False},
    "ReLU": {"activation": "relu"},
    "LLaMA": {
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
        "positions": "rotary",
        "n_head": 3,
        "n_kv_head": 1,
        "head_dim": 2,
    },
    "ALiBi, capped": {"positions": "alibi", "softcap": 1.5},
    "OLMo": {"norm": "standardise", "activation": "swiglu_clamped", "bias": False, "residual_scale": 0.5},
    "OLMo 2": {
        "norm": "rmsnorm",
        "norm_position": "out",
        "qk_norm": "full",
        "positions": "rotary",
        "n_head": 3,
        "head_dim": 2,
        "activation": "swiglu",
        "bias": False,
    },
    "Gemma 2": {
        "norm": "rmsnorm",
        "norm_position": "both",
        "activation": "geglu_tanh",
        "embed_scale": 2.5,
        "attn_scale": 0.4,
        "softcap": 3.0,
        "final_softcap": 2.0,
        "bias": False,
    },
    "GPT-J": {
        "norm_position": "parallel",
        "positions": "rotary",
        "rotary_dim": 4,
        "tied": False,
        "n_head": 1,
        "head_dim": 6,
        "biases": "mlp norm head",
    },
    "NeoX and Bloom": {"norm_position": "parallel2", "positions": "alibi", "alibi_scale": 0.5}
    | {"embed_norm": True, "logit_scale": 0.5, "final_softcap": 2.0, "tied": False}
    | {"biases": "qkv out mlp norm head"},
    "Persimmon with sinks": {"qk_norm": "head", "head_dim": 3, "activation": "relu2", "sink": True}
    | {"n_kv_head": 1, "dropout": 0.3, "embed_norm": True},
    "Cohere": {"norm_position": "parallel", "qk_norm": "each", "positions": "rotary", "n_head": 2}
    | {
        "n_kv_head": 1,
        "head_dim": 3,
        "rotary_dim": 2,
        "activation": "swiglu",
        "biases": "",
        "logit_scale": 0.5,
    },
    "Mixtral": {"norm": "rmsnorm", "activation": "swiglu", "bias": False, "positions": "rotary"}
    | {"n_head": 3, "head_dim": 2, "n_expert": 4, "n_inner": 3},
    "Qwen2-MoE": {"norm": "rmsnorm", "biases": "qkv", "positions": "rotary", "activation": "swiglu"}
    | {"n_head": 3, "head_dim": 2, "n_expert": 4, "n_inner": 3, "router": "raw", "shared_inner": 5}
    | {"residual_scale": 0.5},
    "GPT-OSS": {"norm": "rmsnorm", "activation": "swiglu_clamped", "sink": True, "positions": "rotary"}
    | {"biases": "qkv out mlp router", "n_head": 3, "head_dim": 2, "n_expert": 3, "n_inner": 3},
    "Switch": {"n_inner": 4, "dropout": 0.3, "n_expert": 3, "n_expert_active": 1, "router": "raw"},
    "dropout": {"dropout": 0.3},
    "narrow": {"n_inner": 3, "n_head": 1},
    "square": {"n_inner": 6},  # as wide inside as outside, so that steps in the wrong order fit in shape
    "GPT-1 untied, dropout, no bias": {"norm_position": "post", "tied": False, "dropout": 0.3, "bias": False},
}


def block_layers(config: Config, layers: Any = transformer) -> tuple[ScopedLayer, ...]:
    """A block and the layers in it, taken from a module of layers."""
    return (
        ScopedLayer("attention", layers.causal_attention, "h.0.attn."),
        ScopedLayer("ffn", layers.MLPS[config.mlp], "h.0.mlp."),
        ScopedLayer("block", layers.BLOCKS[config.norm_position], "h.0."),
    )


def subjects(seed: int = 0) -> Iterator[Subject]:
    """Every op in every variant, the layers, and the model variants, at random arrays, on the engine in use.

    Complex and longdouble arrays run on the specification, so a twin's gradient is held to the derivative of
    the specification.
    """
    for op in ops.ALL.values():
        yield from op_subjects(op, seed)
    yield from composed_subjects(seed)


def composed_subjects(
    seed: int = 0,
    layers: ModuleType = transformer,
    record: KindOfRecord = Record,
    variants: Iterable[str] = VARIANTS,
) -> Iterator[Subject]:
    """The layers and models in variants, and GPT-2 edited, run twice, and as training runs it.

    layers, record: the module of the layers and the kind of Record, where they are not the package's own.
    """
    for name in variants:
        config = Config(**SMALL | VARIANTS[name])
        for scoped in block_layers(config, layers):
            yield layer_subject(f"{scoped.name} of {name}", scoped, config, seed, record=record)
        yield model_subject(f"model {name}", config, seed, layer=layers.loss, record=record)
    config = Config(**SMALL)
    yield inputs_subject("several inputs", seed, record)
    yield placed_subject("put in place", seed, record)
    yield frozen_subject("frozen", seed, record)
    yield sent_subject("sent by readers that no layer knows of", seed, record)
    yield edited_subject("model GPT-2, edited", config, seed, layer=layers.loss, record=record)
    yield model_subject("model GPT-2, added up", config, seed, layer=layers.loss, record=record, passes=2)
    yield model_subject("model GPT-2, as trained", config, seed, layer=layers.loss, record=record, keep=False)
