"""Answers that a model writes, each ended by a stop string, and when one is right."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..model.generate import stream
from ..model.gpt import GPT
from ..random import generator
from .likelihoods import Array, Progress, ids_of, prefix_of, tokenizer_of

NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\.\d+")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def written(
    model: GPT,
    prompts: Sequence[str],
    stop: Sequence[str],
    max_new_tokens: int,
    *,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = None,
    **sampling: Any,
) -> list[list[str]]:
    """For each prompt what the model writes behind it, `samples` times; greedy where there is no temperature.

    A prompt is cut off at its beginning where it leaves no room. What is drawn depends on seed, prompt's
    number and sample alone, not on which prompts are read together.
    """
    room = model.config.block_size - max_new_tokens
    if room < 1:
        raise InputError(
            f"eval: max_new_tokens is {max_new_tokens}, expected less than block_size"
            f" {model.config.block_size}"
        )
    ids = [_prompt_ids(model, prompt)[-room:] for prompt in prompts]
    options = {"temperature": 0.0, "among": tokenizer_of(model).vocab_size} | sampling
    found: list[list[str]] = []
    drawn = options["temperature"] > 0
    size = 1 if drawn or samples > 1 else batch_size
    for begin in range(0, len(ids), size):
        rows = ids[begin : begin + size]
        if size == 1:
            of_prompt = int(generator(seed, "answers", begin).integers(2**31))
            texts = _written(model, rows * samples, stop, max_new_tokens, {"seed": of_prompt} | options)
            found.append(texts)
        else:
            found += [[text] for text in _written(model, rows, stop, max_new_tokens, options)]
        if progress:
            progress(len(rows))
    return found


def _prompt_ids(model: GPT, prompt: str) -> Array:
    """The ids of a prompt, behind the token by which a text begins where the model has one."""
    tokenizer = tokenizer_of(model)
    ids = ids_of(tokenizer, prompt)
    if tokenizer.begin_of_text is None and len(ids):
        return ids
    return np.concatenate([prefix_of(tokenizer), ids])


def _written(
    model: GPT, rows: Sequence[Array], stop: Sequence[str], max_new_tokens: int, options: dict[str, Any]
) -> list[str]:
    """What the model writes behind each row."""
    tokenizer = tokenizer_of(model)
    end = tokenizer.end_of_text
    new: list[list[int]] = [[] for _ in rows]
    texts = [""] * len(rows)
    open_rows = set(range(len(rows)))
    same = len({len(row) for row in rows}) == 1
    for ids in stream(model, np.stack(rows) if same else list(rows), max_new_tokens, **options):
        for row in sorted(open_rows):
            if ids[row] == end:
                open_rows.remove(row)
                continue
            new[row].append(int(ids[row]))
            texts[row] = tokenizer.decode(new[row])
            if any(text in texts[row] for text in stop):
                open_rows.remove(row)
        if not open_rows:
            break
    return [_until(text, stop) for text in texts]


def _until(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: min((text.index(s) for s in stop if s and s in text), default=len(text))]


def is_exact(text: str, answers: Sequence[str]) -> bool:
    """Whether a text is one of the answers, without the spaces around it."""
    return text.strip() in {answer.strip() for answer in answers}


def is_near(text: str, answers: Sequence[str]) -> bool:
    """Whether a text says one of the answers in other words that mean no other.

    Of an answer that is a number, the last number in the text counts; of another, small and capital letters,
    punctuation, articles and how words are spaced do not.
    """
    return any(_says(text, answer) for answer in answers)


def _says(text: str, answer: str) -> bool:
    if NUMBER.fullmatch(answer.strip()):
        numbers = NUMBER.findall(text)
        return bool(numbers) and _value(numbers[-1]) == _value(answer.strip())
    return _plain(text) == _plain(answer)


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("$", ""))


def _plain(text: str) -> str:
    words = ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()
    return " ".join(words) or text.strip()
