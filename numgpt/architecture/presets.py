"""Presets: named models as data. Each is the fields of a Config; some have those of a Training, too."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..arguments import checked
from ..errors import InputError, did_you_mean
from .config import Config, Training
from .published import LLAMA_FORMS, MIXTURE, PUBLISHED

# Small models for a CPU: no biases and the exact GELU, as in nanoGPT. The tokenizer gives the vocabulary.
_CPU: dict[str, Any] = {"bias": False, "activation": "gelu", "vocab_size": 128}
_GPT1: dict[str, Any] = {"vocab_size": 40478, "block_size": 512, "norm_position": "post", "dropout": 0.1}
# GPT-2's vocabulary and forms; GPT-3's are the same at twice the length (its sparse layers are not modelled).
_GPT2 = {"vocab_size": 50257, "block_size": 1024}
_GPT3 = {"vocab_size": 50257, "block_size": 2048}

# As many parameters and FLOPs as the GPTs of these names, within 3 %.
_LLAMA_CPU = LLAMA_FORMS | {"vocab_size": 128, "block_size": 64}
_LLAMA = LLAMA_FORMS | {"vocab_size": 32000, "tied": False}
_STORIES = _LLAMA | {"tied": True, "block_size": 1024}  # of llama2.c
_LLAMA1 = _LLAMA | {"block_size": 2048, "layer_norm_epsilon": 1e-6}
_LLAMA2 = _LLAMA | {"block_size": 4096}
_LLAMA3 = _LLAMA | {"vocab_size": 128256, "block_size": 8192, "rotary_base": 500000.0, "n_kv_head": 8}
_LLAMA31 = _LLAMA3 | {
    "block_size": 131072,
    "rotary_scaling": {"kind": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "length": 8192},
}
_QWEN2 = LLAMA_FORMS | {
    "bias": True,
    "biases": "qkv",
    "block_size": 131072,
    "layer_norm_epsilon": 1e-6,
    "rotary_base": 1000000.0,
}
_7B = {"n_layer": 32, "n_head": 32, "n_embd": 4096, "n_inner": 11008}
_8B = {"n_layer": 32, "n_head": 32, "n_embd": 4096, "n_inner": 14336}
_13B = {"n_layer": 40, "n_head": 40, "n_embd": 5120, "n_inner": 13824}
_70B = {"n_layer": 80, "n_head": 64, "n_kv_head": 8, "n_embd": 8192, "n_inner": 28672}

MODELS: dict[str, dict[str, Any]] = {
    "gpt-nano": _CPU | {"n_layer": 3, "n_head": 3, "n_embd": 48, "block_size": 64},
    "gpt-micro": _CPU | {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64},
    "gpt-mini": _CPU | {"n_layer": 6, "n_head": 6, "n_embd": 192, "block_size": 128},
    "gpt-baby": _CPU | {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "dropout": 0.2},
    "gpt1": _GPT1 | {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2": _GPT2 | {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": _GPT2 | {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": _GPT2 | {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": _GPT2 | {"n_layer": 48, "n_head": 25, "n_embd": 1600},
    "gpt3-small": _GPT3 | {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt3-medium": _GPT3 | {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt3-large": _GPT3 | {"n_layer": 24, "n_head": 16, "n_embd": 1536},
    # The paper's 24 heads of 128 do not make 2048.
    "gpt3-xl": _GPT3 | {"n_layer": 24, "n_head": 16, "n_embd": 2048},
    "gpt3-2.7b": _GPT3 | {"n_layer": 32, "n_head": 32, "n_embd": 2560},
    "gpt3-6.7b": _GPT3 | {"n_layer": 32, "n_head": 32, "n_embd": 4096},
    # The paper's 5140 is not 40 heads of 128.
    "gpt3-13b": _GPT3 | {"n_layer": 40, "n_head": 40, "n_embd": 5120},
    "gpt3-175b": _GPT3 | {"n_layer": 96, "n_head": 96, "n_embd": 12288},
    "llama-nano": _LLAMA_CPU | {"n_layer": 3, "n_head": 3, "n_embd": 48, "n_inner": 132},
    "llama-micro": _LLAMA_CPU | {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_inner": 344},
    # Two experts of half the width compute a token: it costs what it does in the llama of this name.
    "moe-nano": _LLAMA_CPU | {"n_layer": 3, "n_head": 3, "n_embd": 48, "n_inner": 66} | MIXTURE,
    "moe-micro": _LLAMA_CPU | {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_inner": 172} | MIXTURE,
    "stories15m": _STORIES | {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 288, "n_inner": 768},
    "stories42m": _STORIES | {"n_layer": 8, "n_head": 8, "n_embd": 512, "n_inner": 1376},
    "stories110m": _STORIES | {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_inner": 2048},
    "tinyllama-1.1b": _LLAMA
    | {"block_size": 2048, "n_layer": 22, "n_head": 32, "n_kv_head": 4, "n_embd": 2048, "n_inner": 5632},
    "llama-7b": _LLAMA1 | _7B,
    "llama-13b": _LLAMA1 | _13B,
    "llama-30b": _LLAMA1 | {"n_layer": 60, "n_head": 52, "n_embd": 6656, "n_inner": 17920},
    "llama-65b": _LLAMA1 | {"n_layer": 80, "n_head": 64, "n_embd": 8192, "n_inner": 22016},
    "llama2-7b": _LLAMA2 | _7B,
    "llama2-13b": _LLAMA2 | _13B,
    "llama2-70b": _LLAMA2 | _70B,
    "llama3-8b": _LLAMA3 | _8B,
    "llama3-70b": _LLAMA3 | _70B,
    "llama3.1-8b": _LLAMA31 | _8B,
    "llama3.1-70b": _LLAMA31 | _70B,
    "mistral-7b": _LLAMA | _8B | {"block_size": 32768, "n_kv_head": 8, "window": 4096},
    "qwen2-0.5b": _QWEN2
    | {"vocab_size": 151936, "n_layer": 24, "n_head": 14, "n_kv_head": 2, "n_embd": 896, "n_inner": 4864},
    "qwen2-1.5b": _QWEN2
    | {"vocab_size": 151936, "n_layer": 28, "n_head": 12, "n_kv_head": 2, "n_embd": 1536, "n_inner": 8960},
    "qwen2-7b": _QWEN2
    | {"vocab_size": 152064, "n_layer": 28, "n_head": 28, "n_kv_head": 4, "n_embd": 3584, "n_inner": 18944}
    | {"tied": False},
    "qwen2-72b": _QWEN2 | _70B | {"vocab_size": 152064, "n_inner": 29568, "tied": False},
}

MODELS |= PUBLISHED

# Where they differ from Training's defaults.
TRAINING: dict[str, dict[str, Any]] = {
    "gpt-nano": {"steps": 1000},
    "gpt-micro": {"steps": 2700, "lr": 4e-3},
    "gpt-mini": {"steps": 3000, "batch_size": 16},
    "gpt-baby": {"steps": 5000, "batch_size": 64},
    "llama-nano": {"steps": 1000},
    "llama-micro": {"steps": 1800},
    "moe-nano": {"steps": 1000},
    "moe-micro": {"steps": 1000, "lr": 2e-3},
}

# Large models: betas, decay and clipping of the GPT-3 paper, appendix B.
_LARGE: dict[str, Any] = {
    "lr": 6e-4,
    "beta2": 0.95,
    "batch_size": 8,
    "accumulate": 8,
    "steps": 10000,
    "warmup": 500,
}

DEFAULT = "gpt-micro"


@checked
def preset(name: str, **changes: Any) -> Config:
    """The Config of a preset, with fields changed.

    Parameters
    ----------
    name : str
        A name of MODELS, from "gpt-nano" to "qwen2-72b".
    **changes
        Fields of Config that replace the preset's.

    Raises
    ------
    InputError
        For an unknown name, and for values that Config does not take.

    Examples
    --------
    >>> preset("gpt2", n_layer=2).n_embd
    768
    """
    return dataclasses.replace(Config(**_find(name)), **changes)


@checked
def preset_training(name: str, **changes: Any) -> Training:
    """The Training settings that go with a preset, with fields changed.

    >>> preset_training("gpt-nano", lr=3e-4).steps
    1000
    """
    _find(name)
    return dataclasses.replace(Training(**TRAINING.get(name, _LARGE)), **changes)


def _find(name: str) -> dict[str, Any]:
    if name not in MODELS:
        raise InputError(
            f"preset: {name!r} is unknown{did_you_mean(name, MODELS)}, expected one of {', '.join(MODELS)}"
        )
    return MODELS[name]
