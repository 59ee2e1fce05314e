"""Whole texts in tokens, as a head reads them: with their beginning, and cut where they are too long."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..model.gpt import GPT
from ..tokenizers import Tokenizer


def text_ids(model: GPT, texts: Sequence[str], places: Sequence[str], truncate: bool) -> list[NDArray[Any]]:
    """The ids of texts, each with the tokenizer's beginning where it has one; places say where each was read.

    truncate: whether to cut off the ends of those that are too long; InputError for them otherwise.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("texts: the model has no tokenizer, expected one to read them")
    found = [_ids(tokenizer, text, place) for text, place in zip(texts, places)]
    empty = next((place for ids, place in zip(found, places) if not len(ids)), None)
    if empty is not None:
        raise InputError(f"{empty}: the text has no token, expected one or more")
    return cut(found, model.config.block_size, truncate, "texts", places)


def _ids(tokenizer: Tokenizer, text: str, place: str) -> NDArray[Any]:
    try:
        ids: NDArray[Any] = tokenizer.encode(text, special="text")
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    begin = tokenizer.begin_of_text
    return ids if begin is None else np.concatenate([[tokenizer.specials[begin]], ids])


def cut(
    texts: Sequence[NDArray[Any]], size: int, truncate: bool, who: str, places: Sequence[str] = ()
) -> list[NDArray[Any]]:
    """Texts of at most size tokens: a warning says how many were cut, or an InputError where none may be."""
    lengths = [len(ids) for ids in texts]
    long = [n for n, length in enumerate(lengths) if length > size]
    if long and not truncate:
        where = places[long[0]] if places else who
        raise InputError(
            f"{where}: {len(long):,} of {len(lengths):,} texts have more tokens than block_size, the longest"
            f" {max(lengths):,}, expected at most {size:,}: leave them out, or truncate=True, which cuts off"
            " their ends"
        )
    if long:
        warnings.warn(
            f"{who}: {len(long):,} of {len(lengths):,} are longer than {size:,} tokens and are cut there: the"
            " ends are not read",
            stacklevel=2,
        )
    return [ids[:size] for ids in texts]
