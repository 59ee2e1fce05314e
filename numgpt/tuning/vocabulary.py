"""A vocabulary that grows: a model gets rows for tokens that its tokenizer has and it has not."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from ..architecture.additions import all_shapes, pruned_by, quantized_by
from ..architecture.parameters import Flat
from ..architecture.pruned import Pruned
from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from ..tokenizers import Tokenizer


@checked
def grown(model: GPT, tokenizer: Tokenizer) -> GPT:
    """A model that knows every token of a tokenizer, which is its own with more tokens behind.

    New rows of the embedding, and of an unembedding of its own, are drawn as at the beginning, by the model's
    seed. A model whose vocabulary is padded has rows to spare: those are used before it grows.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
        As a template's with_specials gives it.

    Returns
    -------
    GPT
        With this tokenizer and parameters of its own. Of the tokens that the model knew before, the logits
        are the same.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.data import CHATML
    >>> tokenizer = numgpt.tokenizers.Bytes()
    >>> config = numgpt.Config(vocab_size=256, block_size=4, n_layer=1, n_head=1, n_embd=4)
    >>> model = numgpt.GPT(config, tokenizer=tokenizer)
    >>> grown(model, CHATML.with_specials(tokenizer)).config.vocab_size
    258
    """
    if quantized_by(model.additions) is not None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise InputError(
                f"vocabulary: the model is quantized and has {model.config.vocab_size:,} tokens, expected the"
                f" {tokenizer.vocab_size:,} of the tokenizer: add tokens before quantize()"
            )
        same = copy.copy(model)
        same.tokenizer = tokenizer
        return same
    V = max(model.config.vocab_size, tokenizer.vocab_size)
    config = dataclasses.replace(model.config, vocab_size=V)
    kept: tuple[Any, ...] = model.replaced, model.additions, model.template
    params = None
    if pruned_by(model.additions) is not None:  # whose masks are not drawn, but those that there are
        params = Flat(all_shapes(config, model.additions), model.params.dtype, integers=model.params.integers)
        rest = [addition for addition in model.additions if not isinstance(addition, Pruned)]
        fresh = GPT(config, model.seed, model.params.dtype, None, None, model.replaced, rest).params
        params.flat[:] = fresh.to("reference").flat
    larger = GPT(config, model.seed, model.params.dtype, tokenizer, params, *kept)
    for name in model.params.shapes:
        old = model.params[name]
        larger.params[name][tuple(map(slice, old.shape))] = old
    return larger
