"""How a text is cut into pretokens before byte pairs are joined: no token reaches over a cut."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, TextError
from .tokenizer import expect_characters

LARGEST = 2**18  # characters of a pattern, its repetitions written out
# How long a pattern of your own may take: seconds of this process's CPU, and more for each character of the
# text, some fifty times what a pattern usually takes.
PATIENCE = 2.0
PATIENCE_A_CHARACTER = 1e-5

# As published with GPT-2, and as tiktoken spells those of GPT-4 and GPT-4o (tiktoken_ext/openai_public.py).
# Alternatives are tried from left to right. (?!\S) leaves the last of several spaces to the word behind them;
# ++ gives nothing back. Which characters are letters is for the library's version of Unicode to say: regex
# 2026, tiktoken 0.14 and tokenizers 0.23 cut alike for all characters of Unicode 14 but ʕ in o200k, a letter
# without case since Unicode 17.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
        r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": "|".join(
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTION,
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTION,
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
}

# Two neighbours between which a pattern cuts, whatever stands before and behind them. In GPT-2's, no pretoken
# has white space after anything else. In the others', line breaks may follow punctuation, and then end the
# pretoken; o200k counts "/" among them. No pretoken has punctuation after a letter or digit, except for 's
# and the like in o200k, where a mark is a letter too.
_NO_WORD = r"[\p{L}\p{N}][^\s\p{L}\p{N}\p{M}']"
_SURE = {
    "gpt2": rf"\S\s|{_NO_WORD}",
    "cl100k": rf"\S[^\S\r\n]|[\p{{L}}\p{{N}}]\s|[\r\n][^\s/]|{_NO_WORD}",
}
_SURE["o200k"] = _SURE["cl100k"]


class Pattern:
    """Cuts a text into pretokens.

    Parameters
    ----------
    name
        One of PATTERNS, or a regular expression of the regex package.

    Raises
    ------
    InputError
        Where the expression does not compile. Later, where a text would take it more time than PATIENCE
        grants: some take twice the time for each character more, such as (a|aa)+b on a word of a's.

    Examples
    --------
    >>> from numgpt.tokenizers.patterns import Pattern
    >>> Pattern("gpt2").split("it's  two")
    ['it', "'s", ' ', ' two']
    """

    def __init__(self, name: str) -> None:
        expect_characters(name, "pattern:", "a regular expression of whole characters")
        self.name = name
        self.source = PATTERNS.get(name, name)
        self._compiled = _compile(self.source)

    def __repr__(self) -> str:
        return f"Pattern({self.name!r})"

    def split(self, text: str) -> list[str]:
        """The pretokens of a text in order, which joined are the text.

        TextError names the first character that no pretoken has.
        """
        # With groups, findall would give those instead of what matches.
        if self._compiled.groups == 0:
            with self._in_time(text) as seconds:
                pretokens = self._compiled.findall(text, timeout=seconds)
        else:
            pretokens = list(self.matches(text))
        if sum(map(len, pretokens)) != len(text):
            self._raise_dropped(text)
        return pretokens

    def _raise_dropped(self, text: str) -> None:
        place = 0
        with self._in_time(text) as seconds:
            for match in self._compiled.finditer(text, timeout=seconds):
                if match.start() > place:
                    break
                place = match.end()
        c = text[place]
        raise TextError(
            f"pattern: {self.source!r} drops {c!r} (U+{ord(c):04X})",
            place,
            ", expected every character in a pretoken: add an alternative that matches it, such as |[\\s\\S]",
        )

    def matches(self, text: str) -> Iterator[str]:
        """The pretokens one by one; unlike split, it does not notice what is dropped between them."""
        with self._in_time(text) as seconds:
            for match in self._compiled.finditer(text, timeout=seconds):
                yield match[0]

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of what matches, in order; what stands between matches is the caller's affair.

        InputError where a match has no characters: libraries differ in where they go on.
        """
        with self._in_time(text) as seconds:
            for match in self._compiled.finditer(text, timeout=seconds):
                if match.start() == match.end():
                    raise InputError(
                        f"pattern: {self.source!r} matches no characters at position {match.start()},"
                        " expected at least one: write + in the place of *"
                    )
                yield match.span()

    @contextlib.contextmanager
    def _in_time(self, text: str) -> Iterator[float | None]:
        """The seconds that the expression may take for a text; InputError where they, or memory, run out.

        The published patterns take time in proportion to any text, and are not stopped.
        """
        seconds = PATIENCE + PATIENCE_A_CHARACTER * len(text)
        try:
            yield None if self.source in PATTERNS.values() else seconds
        except (TimeoutError, MemoryError) as error:
            spent = f"{seconds:.1f} s" if isinstance(error, TimeoutError) else "all memory"
            raise InputError(
                f"pattern: {self.source!r} takes more than {spent} for {len(text):,} characters, expected"
                " time in proportion to the text: a repetition of what can match the same text in several"
                " ways, such as (a|aa)+ or (a*)*, tries them all; write a+, or possessively a++"
            ) from error

    def safe_cut(self, text: str) -> int:
        """The last place where the text is cut whatever follows it, 0 where none is known.

        The pretokens of what is before that place, and of what is behind it and may go on, are those of the
        whole. Of a pattern of your own nothing is known.
        """
        import regex

        match = regex.search(f"(?r){_SURE[self.name]}", text) if self.name in _SURE else None
        return match.start() + 1 if match else 0


def ends(text: str, pattern: Pattern) -> NDArray[Any]:
    """Where the pretokens of a text end, counted in its bytes of UTF-8: (pretokens,) integers."""
    sizes = [len(pretoken.encode("utf-8", "surrogateescape")) for pretoken in pattern.split(text)]
    return np.cumsum(sizes, dtype=np.int64)


@functools.cache
def _compile(source: str) -> Any:
    import regex  # late: a model needs no pattern

    try:
        # What is repeated n times is compiled n times: a few characters could ask for all memory.
        size = len(source) * math.prod(max(1, int(n)) for n in re.findall(r"\{\s*(\d{1,9})", source))
        if size > LARGEST:
            raise OverflowError(
                f"it is {size:,} characters long with its repetitions written out, more than {LARGEST:,}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets whose meaning a later version may change
            compiled = regex.compile(source)
        if compiled.flags & regex.REVERSE:
            raise ValueError("(?r) gives the pretokens from the last to the first")
        return compiled
    except (regex.error, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InputError(
            f"pattern: {source!r} does not compile ({error}), expected one of {', '.join(PATTERNS)} or a"
            " regular expression of the regex package"
        ) from error
