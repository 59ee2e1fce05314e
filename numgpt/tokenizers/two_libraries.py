"""Regular expressions between two libraries: Oniguruma, which Hugging Face's tokenizers use, and regex."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from .patterns import PATTERNS

# A pattern as their library spells it, whose regular expressions are Oniguruma's; the first is what is
# written. There, {1,3}+ is not a possessive {1,3} but one that is repeated.
SOURCES = {
    "gpt2": (
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    ),
    "cl100k": (
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}|"
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
        ),
    ),
    "o200k": (PATTERNS["o200k"],),
}
LONGEST_PATTERN = 2**14  # characters
# What Oniguruma, whose syntax is Ruby's, and the regex package take alike. Elsewhere they part: \h is a
# hexadecimal digit to one and a blank to the other; \w, on which \b rests, has other members; sets may hold
# sets; (?m) is another flag; ss folds to ß.
ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|x[0-7][0-9A-Fa-f]|u[0-9A-Fa-f]{4}|.)", re.S)
ALIKE = re.compile(
    r"\\(?:[pP]\{\^?(?!(?i:word|xdigit|extended_?pictographic)\})\w+\}|[sSdDrntf]|x..|u....|[^\w\n])", re.S
)
SET = re.compile(r"\[\^?\]?[^\]]*\]")
FOLDED_APART = re.compile(r"[^ -~]|[\\(]|\[\^|ss|ff|fi|fl|st", re.I)  # in (?i:…)


def name_of(source: str) -> str:
    """The pattern that cuts as their library does by an expression: one of PATTERNS, or the expression."""
    name = next((name for name, sources in SOURCES.items() if source in sources), None)
    return name or same_in_both(source)


def source_of(pattern: str) -> str:
    """The expression by which their library cuts as a pattern does."""
    return SOURCES[pattern][0] if pattern in SOURCES else same_in_both(pattern)


def same_in_both(source: str) -> str:
    """A pattern that Oniguruma and the regex package take alike; InputError for what they may not."""
    if len(source) > LONGEST_PATTERN:  # to look for what follows takes time in its square
        raise InputError(
            f"pattern: {source[:40]!r}… has {len(source):,} characters, expected at most {LONGEST_PATTERN:,}"
        )
    rest = source.replace(r"\s++$", "")  # $ behind all white space is the end to both
    plain = ESCAPE.sub("_", rest)
    bare = SET.sub("_", plain)
    suspects = [
        *(escape for escape in ESCAPE.findall(rest) if not ALIKE.fullmatch(escape)),
        *(part for part in SET.findall(plain) if re.search(r".\[|&&|\|\||--|~~", part, re.S)),
        *re.findall(r"\(\?(?!i?:|<?[=!]|>).?", bare, re.S),
        *(f"(?i:{part}" for part in re.findall(r"\(\?i:([^)]*)", rest) if FOLDED_APART.search(part)),
        # In Ruby }+ and {2}? repeat what {} repeats, and ^ and $ are the ends of any line.
        *re.findall(r"\}\+|\{\d+\}\?|[\^$]", bare),
    ]
    if suspects:
        raise InputError(
            f"pattern: {source!r} holds {suspects[0]}, which may mean something else to Hugging Face's"
            " tokenizers, expected it written otherwise"
        )
    return source


def expression(pattern: Any, whose: str) -> str:
    """The expression for {"String": text} or {"Regex": source}, as a file holds it. whose: for the error."""
    entries = list(pattern.items()) if isinstance(pattern, dict) else []
    if len(entries) == 1 and isinstance(entries[0][1], str) and entries[0][1]:
        kind, source = entries[0]
        if kind == "String":
            return re.escape(source)
        if kind == "Regex":
            return name_of(source)
    raise InputError(
        f'its {whose} has another pattern than a String or a Regex, expected {{"Regex": source}}'
    )
