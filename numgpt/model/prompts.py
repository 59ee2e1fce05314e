"""Prompts: what a model reads, given as a text or as its ids."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..argument_kinds import as_array
from ..errors import InputError
from .gpt import GPT

Array = NDArray[Any]


def ids_of(who: str, model: GPT, prompt: Any) -> Array:
    """The ids (T,) of a prompt that a model can read."""
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise InputError(f"{who}: the model has no tokenizer, expected one for a text: give ids")
        prompt = model.tokenizer.encode(prompt)
    ids = as_array(f"{who}: prompt", prompt, "a text or the ids (T,) of one")
    if ids.ndim != 1 or not ids.size:
        given = "no tokens" if not ids.size else f"the shape {ids.shape}"
        raise InputError(f"{who}: prompt has {given}, expected one text of at least a token")
    limit = model.config.block_size
    if model.config.positions == "learned" and len(ids) > limit:
        raise InputError(
            f"{who}: prompt has {len(ids):,} tokens, expected at most {limit:,}, the positions that the model"
            " knows"
        )
    return ids
