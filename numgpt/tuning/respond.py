"""What a tuned model answers: responses to many prompts at once, each ended where the template ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import Count, Size, checked
from ..data import ChatTemplate, Conversation, JinjaTemplate
from ..errors import InputError
from ..model.generate import stream
from ..model.gpt import GPT


@checked
def respond(
    model: GPT,
    conversations: Sequence[Conversation],
    template: ChatTemplate | JinjaTemplate,
    *,
    max_new_tokens: Count = 100,
    batch_size: Size = 256,
    **sampling: Any,
) -> list[str]:
    """The assistant's next response to each conversation, without its end.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    conversations : sequence of data.Conversation
        What was said so far, the user's turn last.
    template : data.ChatTemplate or data.JinjaTemplate
    max_new_tokens : int
        Where a response is cut off that has not ended.
    batch_size : int
        How many are written at once.
    **sampling
        temperature, top_k, top_p, seed and the others of numgpt.model.generate.stream; greedy unless given.

    Returns
    -------
    list of str
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("respond: the model has no tokenizer, expected one: set model.tokenizer")
    end = template.end_for(tokenizer)
    sampling = {"temperature": 0.0, "among": tokenizer.vocab_size} | sampling
    found = []
    for begin in range(0, len(conversations), batch_size):
        prompts = [template.encode_prompt(c, tokenizer) for c in conversations[begin : begin + batch_size]]
        rows: list[list[int]] = [[] for _ in prompts]
        ended = np.zeros(len(prompts), bool)
        same = len({len(prompt) for prompt in prompts}) == 1
        for ids in stream(model, np.stack(prompts) if same else prompts, max_new_tokens, **sampling):
            for row, i in enumerate(ids.tolist()):
                if not ended[row]:
                    rows[row].append(i)
            ended |= _has_ended(rows, ended, end, tokenizer)
            if ended.all():
                break
        found += [tokenizer.decode(row).partition(end.text)[0] for row in rows]
    return found


def _has_ended(rows: Sequence[Sequence[int]], ended: Any, end: Any, tokenizer: Any) -> Any:
    """Which rows hold their end; of those that had, nothing is asked."""
    if end.id is not None:
        return np.array([bool(row) and row[-1] == end.id for row in rows])
    return np.array([done or end.text in tokenizer.decode(row) for done, row in zip(ended, rows)])
