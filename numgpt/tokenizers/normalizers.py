"""What is done to a text before it is cut: the normalizers of a tokenizer.json that are known here."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, Literal

from ..errors import InputError
from .entries import Entry, flag, kind, steps, text
from .patterns import Pattern
from .two_libraries import expression

Normalizer = Callable[[str], str]

GROWTH = 100  # a text may become so many times as long: NFKD makes eighteen characters of U+FDFA
MOST_ADDED = 10_000  # and so many characters longer
# White space to Unicode, which their library strips; Python's strip takes \x1c to \x1f too.
WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"


def read(part: Any) -> list[Normalizer]:
    """The functions text → text of a normalizer, in order; none for null.

    InputError names a type that is not known here.
    """
    return [_made(step) for step in steps(part, "normalizers")]


def normalize(text: str, normalizers: Iterable[Normalizer]) -> str:
    """What normalizers make of a text, one after the other; InputError where it grows without measure."""
    size = len(text)
    for step in normalizers:
        text = step(text)
        _expect_measure(size, len(text))
    return text


def _expect_measure(before: int, after: int) -> None:
    """Raise InputError where a text became too long: forty steps that double it would ask for all memory."""
    if after > MOST_ADDED + GROWTH * before:
        raise InputError(
            f"text: the normalizer makes {after:,} characters of {before:,}, expected at most {GROWTH} times"
            f" as many and {MOST_ADDED:,} more: use another tokenizer"
        )


def _made(step: Entry) -> Normalizer:
    make = NORMALIZERS.get(kind(step))
    if make is None:
        raise InputError(
            f"its normalizer is {kind(step)}, expected {', '.join(NORMALIZERS)}, or several of them in a"
            " Sequence: others are not supported"
        )
    return make(step)


def _form(form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> Callable[[Entry], Normalizer]:
    """One of Unicode's normal forms, by the version of Unicode that Python has."""
    return lambda step: functools.partial(unicodedata.normalize, form)


def _lowercase(step: Entry) -> Normalizer:
    """Each character by itself: str.lower of a whole text gives Σ another letter at the end of a word."""
    return lambda text: "".join(map(str.lower, text))


def _strip(step: Entry) -> Normalizer:
    left, right = flag(step, "strip_left"), flag(step, "strip_right")

    def strip(text: str) -> str:
        text = text.lstrip(WHITE_SPACE) if left else text
        return text.rstrip(WHITE_SPACE) if right else text

    return strip


def _prepend(step: Entry) -> Normalizer:
    head = text(step, "prepend")
    return lambda text: head + text if text else ""


def _replace(step: Entry) -> Normalizer:
    """What a pattern matches becomes another text, as it stands: it names no groups."""
    pattern, new = Pattern(expression(step.get("pattern"), "Replace")), step.get("content")
    if not isinstance(new, str):
        raise InputError(f"its Replace has content {new!r}, expected a text")

    def replace(text: str) -> str:
        parts, place = [], 0
        for start, end in pattern.spans(text):
            parts += [text[place:start], new]
            place = end
        parts.append(text[place:])
        _expect_measure(len(text), sum(map(len, parts)))  # before they are joined
        return "".join(parts)

    return replace


# A normalizer's type → what makes it of its entry in the file.
NORMALIZERS: dict[str, Callable[[Entry], Normalizer]] = {
    "NFC": _form("NFC"),
    "NFD": _form("NFD"),
    "NFKC": _form("NFKC"),
    "NFKD": _form("NFKD"),
    "Lowercase": _lowercase,
    "Strip": _strip,
    "Prepend": _prepend,
    "Replace": _replace,
}
