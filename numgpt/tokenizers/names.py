"""Tokenizers by name: "chars", "bpe:2048:cl100k", or the path of a file, as --tokenizer takes them."""

from __future__ import annotations

from pathlib import Path

from ..arguments import checked
from ..errors import InputError
from ..storage.shipped import located
from .files import load
from .kinds import KINDS, Name, Texts
from .patterns import PATTERNS
from .tokenizer import Tokenizer

DIGITS = 18  # of a size: more are no size


@checked
def build(name: str, texts: Texts, progress: bool = False) -> Tokenizer:
    """The tokenizer of a name, its vocabulary learned from a text where it needs one.

    Parameters
    ----------
    name
        "chars", "bytes", "bpe", "bpe:2048", "bpe:2048:cl100k", "unigram:2048", or the path of a tokenizer's
        file or folder. The number is the size of the vocabulary, 2048 unless given; behind it stands the
        pattern of byte pairs, one of PATTERNS or a regular expression, gpt2 unless given.
    texts
        A str, or an iterable of str, the parts of one text, cut anywhere.
    progress
        Whether a terminal shows a bar while byte pairs are learned.

    Returns
    -------
    Tokenizer
        A Characters, Bytes, BPE or Unigram.

    Raises
    ------
    InputError
        For a name that no tokenizer has, and where the text or the size cannot be used.

    Examples
    --------
    >>> from numgpt import tokenizers
    >>> tokenizers.build("bpe:258", "she sells sea shells")
    <BPE: 258 tokens, 2 merges, pattern 'gpt2'>
    """
    parsed = _parsed(name)
    learn = None if parsed is None else KINDS[parsed.kind].learn
    return load(name) if parsed is None or learn is None else learn(texts, parsed, progress)


@checked
def is_closed(name: str) -> bool:
    """Whether a tokenizer built by this name can encode only text of the characters that it learned from."""
    row = KINDS.get(name.partition(":")[0])
    return row is not None and row.closed


@checked
def expect_named(name: str, tokenizer: Tokenizer, who: str) -> None:
    """Raise InputError where build(name, ...) could not have made a tokenizer.

    who: whose it is, for the error, such as "the run's".
    """
    parsed = _parsed(name)
    if parsed is None:
        own, is_same = "another than that", load(name) == tokenizer
    else:
        described = _described(tokenizer)
        own, is_same = ":".join(str(part) for part in described if part), described == parsed
    if not is_same:
        raise InputError(f"{who} tokenizer is {own}, expected {name}: leave --tokenizer out")


def _described(tokenizer: Tokenizer) -> Name:
    """The full name of a tokenizer."""
    row = KINDS.get(tokenizer.kind)
    size = tokenizer.vocab_size if row and row.size else 0
    pattern = tokenizer.pattern.name if row and row.pattern else ""  # type: ignore[attr-defined]
    return Name(tokenizer.kind, size, pattern)


def _parsed(name: str) -> Name | None:
    """The parts of a name, None where it is the path of something that exists."""
    kind, _, rest = name.partition(":")
    row = KINDS.get(kind)
    if row is not None and row.learn is None:
        row = None
    if row is not None and name == kind:
        return Name(kind, row.size, row.pattern)
    if row is not None and row.size:
        size, _, pattern = rest.partition(":")
        is_size = size.isascii() and size.isdigit() and len(size) <= DIGITS
        if is_size and (row.pattern or not pattern):
            return Name(kind, int(size), pattern or row.pattern)
    if name and Path(located(name)).exists():
        return None
    raise InputError(
        f"tokenizer: {name!r} is unknown, expected {', '.join(_examples())} (the size of the vocabulary, and"
        f" one of {', '.join(PATTERNS)} or a regular expression), or the path of a tokenizer's file or folder"
    )


def _examples() -> list[str]:
    """A name of every kind, and one with a pattern."""
    examples = []
    for kind, row in KINDS.items():
        if row.learn is None:
            continue
        examples.append(f"{kind}:{row.size}" if row.size else kind)
        if row.pattern:
            examples.append(f"{kind}:{row.size}:cl100k")
    return examples
