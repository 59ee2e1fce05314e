"""How a text is cut before byte pairs are joined: no token reaches over a cut."""

import functools
import math
import re
import warnings

import numpy as np

from ..errors import InputError, TextError

LARGEST = 2**18  # characters of a pattern, its repetitions written out
# As published with GPT-2, and as tiktoken spells those of GPT-4 and GPT-4o (tiktoken_ext/openai_public.py).
# Alternatives are tried from left to right. (?!\S) leaves the last of several spaces to the word behind them;
# ++ gives nothing back. Which characters are letters, Unicode's version says that a library knows: with regex
# 2026, tiktoken 0.14 and tokenizers 0.23 the cuts are the same for all characters of Unicode 14 but ʕ in
# o200k, a letter without case since Unicode 17.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
        r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": "|".join(
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
}

# Two neighbours between which a pattern cuts whatever stands before and behind them. No piece of GPT-2's has
# white space after anything else. In the others' line breaks may follow punctuation, and then always end a
# piece; o200k counts "/" among them. No piece has punctuation after a letter or digit but for o200k's 's and
# the like, in which a mark is a letter too.
_NO_WORD = r"[\p{L}\p{N}][^\s\p{L}\p{N}\p{M}']"
_SURE = {
    "gpt2": rf"\S\s|{_NO_WORD}",
    "cl100k": rf"\S[^\S\r\n]|[\p{{L}}\p{{N}}]\s|[\r\n][^\s/]|{_NO_WORD}",
}
_SURE["o200k"] = _SURE["cl100k"]


class Pattern:
    """What cuts a text into pieces. name: one of PATTERNS, or a regular expression of the regex package."""

    def __init__(self, name):
        self.name, self.source = name, PATTERNS.get(name, name)
        self._compiled = _compile(self.source)

    def split(self, text):
        """The pieces of a text, in order; joined they are the text. InputError names the first character that
        no piece has.
        """
        pieces = self._compiled.findall(text) if self._compiled.groups == 0 else list(self.found(text))
        if sum(map(len, pieces)) != len(text):
            place = 0
            for found in self._compiled.finditer(text):
                if found.start() > place:
                    break
                place = found.end()
            c = text[place]
            raise TextError(
                f"pattern: {self.source!r} drops {c!r} (U+{ord(c):04X})",
                place,
                ", expected every character in a piece: add an alternative that matches it, such as"
                " |[\\s\\S]",
            )
        return pieces

    def found(self, text):
        """The pieces one by one; what is dropped between them goes unnoticed."""
        return (match[0] for match in self._compiled.finditer(text))

    def safe_cut(self, text):
        """The last place at which a text is surely cut: its pieces are those of what is before, and of what
        is behind and may go on.

        0 where there is none, as always with a pattern of one's own, of which nothing is known.
        """
        import regex

        found = regex.search(f"(?r){_SURE[self.name]}", text) if self.name in _SURE else None
        return found.start() + 1 if found else 0


def ends(text, pattern):
    """Where the pieces of a text end, counted in its bytes of UTF-8: (pieces,) integers."""
    return np.cumsum(
        [len(piece.encode("utf-8", "surrogateescape")) for piece in pattern.split(text)], dtype=np.int64
    )


@functools.cache
def _compile(source):
    import regex  # late: a model needs no pattern

    try:
        # What is to be repeated so many times is compiled so many times: a pattern of a few characters could
        # ask for all memory.
        size = len(source) * math.prod(max(1, int(n)) for n in re.findall(r"\{\s*(\d{1,9})", source))
        if size > LARGEST:
            raise OverflowError(
                f"it is {size:,} characters long with its repetitions written out, more than {LARGEST:,}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that may mean something else one day
            compiled = regex.compile(source)
        if compiled.flags & regex.REVERSE:
            raise ValueError("(?r) gives the pieces from the last to the first")
        return compiled
    except (regex.error, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InputError(
            f"pattern: {source!r} does not compile ({error}), expected one of {', '.join(PATTERNS)} or a"
            " regular expression of the regex package"
        ) from error
