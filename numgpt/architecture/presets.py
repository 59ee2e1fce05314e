"""Presets: named models as data. Each is the fields of a Config; some have those of a Training, too."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..arguments import checked
from ..errors import InputError, did_you_mean
from .config import Config, Training

# Character models for a CPU: no biases and the exact GELU, as in nanoGPT. The tokenizer gives the vocabulary.
_CPU: dict[str, Any] = {"bias": False, "activation": "gelu", "vocab_size": 128}
_GPT1: dict[str, Any] = {"vocab_size": 40478, "block_size": 512, "norm_position": "post", "dropout": 0.1}
# GPT-2's vocabulary and forms; GPT-3's are the same at twice the length (its sparse layers are not modelled).
_GPT2 = {"vocab_size": 50257, "block_size": 1024}
_GPT3 = {"vocab_size": 50257, "block_size": 2048}

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
}

# Where they differ from Training's defaults.
TRAINING: dict[str, dict[str, Any]] = {
    "gpt-nano": {"steps": 1000},
    "gpt-micro": {"steps": 2000},
    "gpt-mini": {"steps": 3000, "batch_size": 16},
    "gpt-baby": {"steps": 5000, "batch_size": 64},
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
        A name of MODELS, from "gpt-nano" to "gpt3-175b".
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
