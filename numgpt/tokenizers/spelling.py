"""How files that hold only text spell bytes: a printable character a byte, as GPT-2's do (Ġ is a space)."""

from __future__ import annotations

from ..errors import InputError

# Bytes that print stand for themselves; the others, in their order, for the characters from U+0100 on.
_PRINTING = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [b for b in range(256) if b not in _PRINTING]
ALPHABET = "".join(
    chr(b if b in _PRINTING else 0x100 + _OTHERS.index(b)) for b in range(256)
)  # byte → character
_BYTES = {c: b for b, c in enumerate(ALPHABET)}


def spell(data: bytes) -> str:
    """bytes → text, a character a byte."""
    return "".join(ALPHABET[b] for b in data)


def unspell(text: str) -> bytes:
    """The bytes that a text spells; InputError where a character of it spells none."""
    try:
        return bytes([_BYTES[c] for c in text])
    except KeyError as error:
        raise InputError(
            f"tokenizer: {text!r} holds {error.args[0]!r}, expected the characters that stand for bytes in"
            " GPT-2's files"
        ) from error
