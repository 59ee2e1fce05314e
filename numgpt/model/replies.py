"""Replies: what a model that knows a chat template writes when it is its turn in a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from ..arguments import Size, checked
from ..data import ChatTemplate, Conversation, JinjaTemplate
from ..errors import InputError
from .decoding import Model
from .generate import texts_behind


class Reply:
    """What a model answers, piece by piece: go through it once.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    template : ChatTemplate or JinjaTemplate
        The one that it was tuned with. Its end ends the reply, and is not shown.
    conversation : Conversation
        What was said so far.
    max_new_tokens : int
        There may be less room in the model's context.
    **sampling
        temperature, top_k, top_p, seed and the others of numgpt.model.generate.stream.

    Attributes
    ----------
    text : str
        What has come so far.
    is_cut : bool
        Whether it ran out of tokens before it came to its end.

    Raises
    ------
    InputError
        Where the model has no tokenizer, that cannot spell what was said, or nothing fits behind it.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt import data
    >>> tokenizer = numgpt.tokenizers.Bytes()
    >>> config = numgpt.Config(vocab_size=256, block_size=64, n_layer=1, n_head=1, n_embd=4)
    >>> model = numgpt.GPT(config, tokenizer=tokenizer)
    >>> conversation = data.Conversation([data.Message("user", "hello")])
    >>> reply = Reply(model, data.PLAIN, conversation, 8, top_k=1)
    >>> "".join(reply) == reply.text
    True
    """

    @checked
    def __init__(
        self,
        model: Model,
        template: ChatTemplate | JinjaTemplate,
        conversation: Conversation,
        max_new_tokens: Size = 200,
        **sampling: Any,
    ) -> None:
        ids = tokens_before(model, template, conversation)
        room = model.config.block_size - len(ids)
        if room < 1:
            raise InputError(
                f"reply: the conversation has {len(ids):,} tokens, expected fewer than block_size"
                f" {model.config.block_size:,}, which the model sees: say less"
            )
        end = template.end_for(model.tokenizer)  # type: ignore[arg-type]  # tokens_before has looked
        stop = () if end.id is not None else (end.text,)
        self.room = min(max_new_tokens, room)
        self.pieces = texts_behind(model, ids, self.room, 1, stop, end.id, **sampling)
        self.text = ""
        self.is_cut = False

    def __iter__(self) -> Iterator[str]:
        """The pieces; one may be empty: a character of several tokens is shown when it is whole."""
        for n, (piece,) in enumerate(self.pieces):
            self.text += piece
            self.is_cut = n == self.room  # a piece behind the last token: of what was held back
            yield piece


def tokens_before(
    model: Model, template: ChatTemplate | JinjaTemplate, conversation: Conversation
) -> NDArray[Any]:
    """The tokens that a model sees when it is to answer."""
    if model.tokenizer is None:
        raise InputError(
            "reply: the model has no tokenizer, expected one to read the conversation: set model.tokenizer"
        )
    ids = template.encode_prompt(conversation, model.tokenizer)
    if not len(ids):
        raise InputError("reply: the conversation has no token, expected at least one")
    return ids
