"""Special tokens that are added to a tokenizer, behind all of its ids: those of a chat, for example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import checked
from ..errors import InputError
from .bpe import BPE
from .bytes import Bytes
from .characters import Characters
from .pipeline import Pipeline
from .tokenizer import Tokenizer, expect_characters


@checked
def with_specials(tokenizer: Tokenizer, specials: Sequence[str]) -> Tokenizer:
    """A tokenizer that has special tokens besides its own; every other text becomes the ids that it became.

    The new ids follow the largest, in the order of specials. One that the tokenizer has already stays what it
    is, and where it has all, it is returned itself. Of bytes comes a BPE without merges, of characters a
    Pipeline; a model needs as many more rows in its embedding as there are new ids.

    Raises
    ------
    InputError
        For a text that is no special token, and where the tokenizer's own kind has no room for any.

    Examples
    --------
    >>> from numgpt import tokenizers
    >>> tokenizer = tokenizers.with_specials(tokenizers.Bytes(), ["<|im_start|>", "<|im_end|>"])
    >>> tokenizer.encode("a<|im_end|>", special="allow").tolist()
    [97, 257]
    """
    for text in specials:
        expect_characters(text, "with_specials: the special token", "a text")
        if not text:
            raise InputError("with_specials: a special token is empty, expected a text")
    missing = [text for text in dict.fromkeys(specials) if text not in tokenizer.specials]
    if not missing:
        return tokenizer
    V = tokenizer.vocab_size
    new = {text: V + n for n, text in enumerate(missing)}
    if isinstance(tokenizer, Bytes):
        return BPE([bytes([b]) for b in range(256)], [], specials=new)
    if isinstance(tokenizer, BPE):
        return BPE(
            tokenizer.tokens,
            tokenizer.merges,
            tokenizer.pattern.name,
            {**tokenizer.specials, **new},
            tokenizer.whole,
        )
    if isinstance(tokenizer, Characters | Pipeline):
        return _with_added(tokenizer, new)
    raise InputError(
        f"with_specials: the tokenizer is {tokenizer.kind!r}, which has no room for special tokens, expected"
        " bpe, bytes, chars or a tokenizer.json: choose another, or a chat template without them (plain)"
    )


def _with_added(tokenizer: Characters | Pipeline, new: Mapping[str, int]) -> Pipeline:
    file = tokenizer.file if isinstance(tokenizer, Pipeline) else _of_characters(tokenizer)
    ordinary = next((text for text in new if text in file["model"]["vocab"]), None)
    if ordinary is not None:
        raise InputError(
            f"with_specials: {ordinary!r} is an ordinary token already, expected another text for a new one"
        )
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": text, **flags, "special": True} for text, i in new.items()]
    return Pipeline({**file, "added_tokens": [*(file.get("added_tokens") or []), *added]})


def _of_characters(tokenizer: Characters) -> dict[str, Any]:
    """The file of a Pipeline that makes a token of each character: byte pairs of which none are joined."""
    vocab = {c: i for i, c in enumerate(tokenizer.characters)}
    return {"decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
