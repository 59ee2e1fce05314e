"""Replies: what a model that knows a chat template writes when it is its turn in a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..arguments import Count, checked
from ..data import ChatTemplate, Conversation, JinjaTemplate
from ..errors import InputError
from .decoding import Model
from .generate import texts_behind


@checked
def reply(
    model: Model,
    template: ChatTemplate | JinjaTemplate,
    conversation: Conversation,
    max_new_tokens: Count = 200,
    **sampling: Any,
) -> Iterator[str]:
    """Yield what a model answers, piece by piece, until the template's end, which is not shown.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    template : ChatTemplate or JinjaTemplate
        The one that it was tuned with.
    conversation : Conversation
        What was said so far.
    max_new_tokens : int
    **sampling
        temperature, top_k, top_p, seed and the others of numgpt.model.generate.stream.

    Yields
    ------
    str
        It may be empty: a character of several tokens is shown when it is whole.

    Raises
    ------
    InputError
        Where the model has no tokenizer, or that cannot spell what was said.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt import data
    >>> tokenizer = numgpt.tokenizers.Bytes()
    >>> config = numgpt.Config(vocab_size=256, block_size=64, n_layer=1, n_head=1, n_embd=4)
    >>> model = numgpt.GPT(config, tokenizer=tokenizer)
    >>> conversation = data.Conversation([data.Message("user", "hello")])
    >>> text = "".join(reply(model, data.PLAIN, conversation, 8, top_k=1))
    >>> isinstance(text, str)
    True
    """
    if model.tokenizer is None:
        raise InputError(
            "reply: the model has no tokenizer, expected one to read the conversation: set model.tokenizer"
        )
    ids = template.encode_prompt(conversation, model.tokenizer)
    if not len(ids):
        raise InputError("reply: the conversation has no token, expected at least one")
    end = template.end_for(model.tokenizer)
    stop = () if end.id is not None else (end.text,)
    for (piece,) in texts_behind(model, ids, max_new_tokens, 1, stop, end.id, **sampling):
        yield piece
