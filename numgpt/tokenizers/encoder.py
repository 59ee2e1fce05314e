"""Encoding a text that comes in parts: tokens are given out once nothing that follows can change them."""

from __future__ import annotations

import codecs
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

POLICIES = ("refuse", "allow", "text")  # for special tokens that a text spells out


class Certain(Protocol):
    """(ids, n) of the first n characters of a text: those whose tokens do not depend on what follows."""

    def __call__(self, text: str, special: str, final: bool, start: int) -> tuple[NDArray[Any], int]: ...


class Encoder:
    """Encodes a text that comes in parts: add() gives the tokens that are certain, in the end all of them."""

    def __init__(self, certain: Certain, special: str, size: int) -> None:
        self._certain, self._special, self._size = certain, special, size
        self._codec = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # for parts that are bytes
        self._waiting: list[str] = []  # parts that are not encoded yet
        self._length = 0  # their characters
        self._enough = size  # characters from which on it is tried to encode them
        self._start = 0  # the place of the first in the whole text, which errors name

    def add(self, text: str | bytes, final: bool = False) -> NDArray[Any]:
        """Take the next part of the text, and give the tokens that are certain now.

        Parameters
        ----------
        text
            Text, or bytes that may end in the middle of a character.
        final
            Whether it is the last part; then all that is left is encoded.

        Returns
        -------
        numpy.ndarray
            Integers (T,), often none.
        """
        expect_text(text)
        if isinstance(text, bytes):
            text = self._codec.decode(text, final)
        else:
            # Bytes before it that are no whole character stay so: text does not complete them.
            text = self._codec.decode(b"", True) + text
        self._waiting.append(text)
        self._length += len(text)
        if self._length < self._enough and not final:
            return np.zeros(0, np.int64)
        text = "".join(self._waiting)
        ids, n = self._certain(text, self._special, final, self._start)
        self._waiting = [text[n:]]
        self._length = len(text) - n
        self._start += n
        # Twice as much as was uncertain: so a word without end is not looked through again and again.
        self._enough = max(self._size, 2 * self._length)
        return ids


def expect_text(text: object) -> None:
    """Raise InputError unless text is a str or bytes."""
    if not isinstance(text, str | bytes):
        raise InputError(f"encode: the text is of type {type(text).__name__}, expected str or bytes")


def expect_policy(special: object) -> None:
    """Raise InputError unless special is one of POLICIES."""
    if special not in POLICIES:
        raise InputError(f"encode: special is {special!r}, expected one of {', '.join(POLICIES)}")
