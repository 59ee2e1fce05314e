"""SentencePiece's .model file, as far as the package does not tell: what it does to a text before it cuts it.

The file is a message of Protocol Buffers; its fields are those of sentencepiece_model.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import InputError

NORMALIZER_SPEC = 3  # of the model; the fields of that are
CHARSMAP, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = range(2, 6)
VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5  # how the value of a field is written


class Normalisation(NamedTuple):
    """What a model does to a text before it is cut."""

    adds_space: bool  # before the text, and after each special token
    removes_spaces: bool  # at both ends, and all but one of several
    changes_nothing: bool


def normalisation(model: bytes) -> Normalisation:
    """The Normalisation of the bytes of a model; InputError where they are damaged."""
    # The last three are true where they are left out.
    spec: dict[int, int | bytes] = {CHARSMAP: b"", DUMMY_PREFIX: 1, REMOVE_SPACES: 1, ESCAPE_SPACES: 1}
    for number, value in _fields(model):
        if number == NORMALIZER_SPEC and isinstance(value, bytes):
            spec |= dict(_fields(value))
    adds, removes, escapes = (bool(spec[n]) for n in (DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES))
    return Normalisation(adds, removes, escapes and not (adds or removes or spec[CHARSMAP]))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message. Lengths are checked, not believed."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, written = key >> 3, key & 7
        if written == VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(written)
        if written == COUNTED:
            size, place = _varint(data, place)
        if size is None or place + size > len(data):
            raise InputError(
                "tokenizer: is damaged (a field that reaches over its end), expected a model of sentencepiece"
            )
        place += size
        yield number, data[place - size : place]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """(value, the place behind it) of an integer: seven bits a byte, the low ones first."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise InputError("tokenizer: is damaged (a number without end), expected a model of sentencepiece")
