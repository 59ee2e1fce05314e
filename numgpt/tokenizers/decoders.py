"""From tokens back to text: the decoders of a tokenizer.json that are known here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..errors import InputError
from .entries import Entry, kind, prepend_scheme, short, steps, text
from .spelling import unspell

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # the text of a token that is a byte
Step = Callable[[str, bool], str]  # (the text of a token, whether it is the first of all) → the same, decoded
LONGEST = 4096  # characters that a Replace may make of a token
KNOWN = ("ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip")


class Decoder(NamedTuple):
    """What becomes of the texts of tokens."""

    steps: tuple[Step, ...]
    to_bytes: Callable[[str], bytes]  # at last
    stripped: str = ""  # a character that is taken away where the whole text begins with it,
    times: int = 0  # up to so many times
    between: bytes = b""  # tokens

    def piece(self, token: str, first: bool) -> bytes:
        """The bytes of a token. first: whether it is the first of all."""
        for step in self.steps:
            token = step(token, first)
        return self.to_bytes(token)


def read(part: Any, is_of_bytes: bool) -> Decoder:
    """The Decoder of a file.

    is_of_bytes: whether tokens spell bytes. Without a decoder, their bytes are joined then, which a file that
    is read must ask for; other tokens get a space between them, as in their library. InputError names what is
    not known here.
    """
    if part is None:
        return Decoder((), byte_level) if is_of_bytes else Decoder((), str.encode, between=b" ")
    members = steps(part, "decoders")
    unknown = next((kind(step) for step in members if kind(step) not in KNOWN), None)
    if unknown:
        raise InputError(
            f"its decoder is {unknown}, expected {', '.join(KNOWN)}, or several of them in a Sequence: others"
            " are not supported"
        )
    return _in_order(iter(members))


def _in_order(members: Iterator[Entry]) -> Decoder:
    """The Decoder of steps that come in the one order that can be done token by token.

    Metaspace and Replace, then the bytes of a token, then Fuse, then Strip.
    """
    texts: list[Step] = []
    to_bytes: Callable[[str], bytes] | None = None
    step = next(members, None)
    while step and kind(step) in ("Metaspace", "Replace"):
        texts.append(_metaspace(step) if kind(step) == "Metaspace" else _replace(step))
        step = next(members, None)
    if step and kind(step) in ("ByteLevel", "ByteFallback"):
        to_bytes = byte_level if kind(step) == "ByteLevel" else _byte_fallback
        step = next(members, None)
    is_fused = step is not None and kind(step) == "Fuse"
    step = next(members, None) if is_fused else step
    decoder = Decoder(tuple(texts), to_bytes or str.encode)
    if step and is_fused and kind(step) == "Strip":
        decoder = decoder._replace(stripped=_stripped(step), times=step["start"])
        step = next(members, None)
    if step:
        raise InputError(
            f"its decoder has {kind(step)} where it cannot be done token by token, expected Metaspace or"
            " Replace, then ByteFallback or ByteLevel, then Fuse, then Strip"
        )
    return decoder


def _metaspace(step: Entry) -> Step:
    mark, scheme = text(step, "replacement", is_character=True), prepend_scheme(step)
    return lambda token, first: token.replace(mark, "" if first and scheme != "never" else " ")


def _replace(step: Entry) -> Step:
    pattern, new = step.get("pattern"), step.get("content")
    old = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(old, str) or not old or not isinstance(new, str):
        raise InputError(f"its decoder's Replace is {short(step, 80)}, expected a String and its content")

    def replace(token: str, first: bool) -> str:
        size = len(token) + token.count(old) * (len(new) - len(old))
        if size > max(LONGEST, len(token)):  # forty steps that double a token would ask for all memory
            raise InputError(
                f"its decoder makes {size:,} characters of {token[:40]!r}, expected at most {LONGEST:,}"
            )
        return token.replace(old, new)

    return replace


def _stripped(step: Entry) -> str:
    """The character of a Strip at the start of the text."""
    content, start = text(step, "content", is_character=True), step.get("start")
    if not content.isascii() or step.get("stop") != 0 or type(start) is not int or start < 0:
        raise InputError(
            f"its decoder's Strip is {short(step, 80)}, expected one character of ASCII, start from 0, and"
            " stop 0"
        )
    return content


def byte_level(token: str) -> bytes:
    """The bytes that a token spells as GPT-2's files do; one that does not is taken as it stands."""
    try:
        return unspell(token)
    except InputError:
        return token.encode()


def _byte_fallback(token: str) -> bytes:
    match = BYTE.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token.encode()
