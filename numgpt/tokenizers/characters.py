"""One token a character: the vocabulary is the sorted set of characters of a text."""

import numpy as np

from ..errors import InputError, TextError
from .tokenizer import Tokenizer


class Characters(Tokenizer):
    """characters: the vocabulary; a token is a character's index in it."""

    def __init__(self, characters):
        if not isinstance(characters, str) or any(0xD800 <= ord(c) < 0xE000 for c in characters):
            raise InputError(
                "tokenizer: the characters are not a text, expected tokenizer.json as numgpt wrote it"
            )
        self.characters = characters
        self._codes = _codes(characters)
        if len(characters) == 0 or (np.diff(self._codes.astype(np.int64)) <= 0).any():
            raise InputError(
                "tokenizer: the characters are not a sorted set, expected tokenizer.json as numgpt wrote it"
            )
        self.pieces = [c.encode() for c in characters]

    @classmethod
    def build(cls, text):
        """The characters of a text, a str or an iterable of its parts, sorted by code point."""
        found = set()
        for part in [text] if isinstance(text, str) else text:
            found |= set(part)
        return cls("".join(sorted(found)))

    def encode_ordinary(self, text):
        """text → (characters,) integers; InputError names the first character that the vocabulary lacks."""
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

    def safe_cut(self, text):
        """A text may be cut anywhere."""
        return len(text)

    def state(self):
        """The kind and the characters."""
        return {"type": "chars", "characters": self.characters}


def _codes(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
