"""The table of tokenizers: whatever else needs to know which there are reads it here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..errors import InputError
from . import bpe_training, unigram
from .bpe import BPE
from .bytes import Bytes
from .characters import Characters
from .pipeline import Pipeline
from .scored_pairs import ScoredPairs
from .tokenizer import Tokenizer
from .unigram import Unigram

Texts = str | Iterable[str]  # a text, or its parts


class Name(NamedTuple):
    """What a name such as "bpe:2048:cl100k" asks for."""

    kind: str
    size: int = 0  # of the vocabulary
    pattern: str = ""


class Kind(NamedTuple):
    """A row of the table."""

    tokenizer: type[Tokenizer]
    # From a text, what the name asks for; whether a bar shows. None for what is only read from files.
    learn: Callable[[Texts, Name, bool], Tokenizer] | None
    size: int = 0  # of the vocabulary, unless the name says another; 0 where a name says none
    pattern: str = ""  # likewise
    closed: bool = False  # whether it can encode only what is made of characters that it learned
    formats: tuple[str, ...] = ("numgpt",)  # of files.FORMATS, in which it can be written
    what: str = ""  # it is, for the help of the command line


_OF_BYTE_PAIRS = ("numgpt", "huggingface", "gpt2", "tiktoken")

# A tokenizer's name, which is its class's `kind` and its state's "type" → its row.
KINDS = {
    "chars": Kind(
        Characters,
        lambda texts, name, progress: Characters.build(texts),
        closed=True,
        formats=("numgpt", "huggingface"),
    ),
    "bytes": Kind(Bytes, lambda texts, name, progress: Bytes(), formats=_OF_BYTE_PAIRS),
    "bpe": Kind(
        BPE,
        lambda texts, name, progress: bpe_training.train(
            texts, name.size, pattern=name.pattern, progress=progress
        ),
        size=2048,
        pattern="gpt2",
        formats=_OF_BYTE_PAIRS,
        what="byte-pair encoding",
    ),
    "unigram": Kind(
        Unigram,
        lambda texts, name, progress: unigram.train(texts, name.size),
        size=2048,
        formats=("numgpt", "sentencepiece"),
        what="SentencePiece's unigram model, which needs the sentencepiece package",
    ),
    "pipeline": Kind(Pipeline, None, formats=("numgpt", "huggingface")),
    "scored": Kind(ScoredPairs, None, formats=("numgpt", "llama2.c")),
}


def formats_of(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The formats in which a tokenizer can be written; one that the table lacks, in numgpt's alone."""
    row = KINDS.get(tokenizer.kind)
    return row.formats if row else ("numgpt",)


def from_state(state: Any) -> Tokenizer:
    """The tokenizer of a state, which tokenizer.state() gave.

    Raises
    ------
    InputError
        Where it is not the state of any tokenizer.

    Examples
    --------
    >>> from numgpt import tokenizers
    >>> tokenizers.from_state({"type": "chars", "characters": "ehlo"})
    <Characters: 4 tokens>
    """
    kind = state.get("type") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"tokenizer: type {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    try:
        return KINDS[kind].tokenizer.from_state(state)
    except TypeError as error:
        raise InputError(
            f"tokenizer: the state is not that of {kind} ({error}), expected what .state() gives"
        ) from error
