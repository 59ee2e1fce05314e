"""One token a character: the vocabulary is the sorted set of characters of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError, TextError
from .tokenizer import Tokenizer, expect_characters


class Characters(Tokenizer):
    """A token is a character's place in the vocabulary.

    Parameters
    ----------
    characters
        The vocabulary, sorted by code point, each character once.

    Examples
    --------
    >>> from numgpt.tokenizers import Characters
    >>> Characters.build("hello").characters
    'ehlo'
    """

    kind = "chars"

    @checked
    def __init__(self, characters: str) -> None:
        expect_characters(characters, "tokenizer: the vocabulary", "whole ones: take bytes for any others")
        self.characters = characters
        self._codes = _codes(characters)
        if len(characters) == 0 or (np.diff(self._codes.astype(np.int64)) <= 0).any():
            what = "not a sorted set" if characters else "missing"
            raise InputError(
                f"tokenizer: the characters are {what}, expected each once, sorted by code point:"
                " Characters.build makes them of a text"
            )
        self.pieces = [c.encode() for c in characters]

    @classmethod
    @checked
    def build(cls, text: str | Iterable[str]) -> Characters:
        """The tokenizer of all characters of a text, a str or an iterable of its parts."""
        characters: set[str] = set()
        for part in [text] if isinstance(text, str) else text:
            characters |= set(part)
        return cls("".join(sorted(characters)))

    @checked
    def encode_ordinary(self, text: str) -> NDArray[Any]:
        """text → (characters,) integers; TextError names the first character that the vocabulary lacks."""
        codes = _codes(text)
        ids = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        unknown = np.flatnonzero(self._codes[ids] != codes)
        if len(unknown):
            c = text[unknown[0]]
            raise TextError(
                f"text: character {c!r} (U+{ord(c):04X})",
                int(unknown[0]),
                f" is not in the vocabulary, expected one of its {self.vocab_size} characters: leave it out,"
                " or train with --tokenizer bytes or bpe:2048",
            )
        return ids

    @checked
    def safe_cut(self, text: str) -> int:
        """The end: a text may be cut anywhere."""
        return len(text)

    def state(self) -> dict[str, Any]:
        """The kind and the characters."""
        return {"type": self.kind, "characters": self.characters}


def _codes(text: str) -> NDArray[Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
