"""The interface that every tokenizer fills in, and what follows from it."""

import codecs
import functools
import hashlib
import json
import re

import numpy as np

from ..atomic import write_json
from ..errors import InputError

POLICIES = ("refuse", "allow", "text")  # of special tokens that a text spells out
ERRORS = ("replace", "strict", "ignore", "surrogateescape", "backslashreplace")  # of bytes that are not UTF-8


class Tokenizer:
    """Text ↔ integers. A tokenizer gives pieces, encode_ordinary, state and build; the rest follows.

    pieces: the bytes of each id, None for an id that stands for nothing. specials: text → id of the tokens that no ordinary
    text becomes; their pieces are their texts.
    """

    pieces: list
    specials = {}

    @classmethod
    def build(cls, text):
        """A tokenizer whose vocabulary fits text."""
        raise NotImplementedError

    def encode_ordinary(self, text):
        """Integers (T,) for a text in which nothing is special; InputError where the vocabulary lacks a part of it."""
        raise NotImplementedError

    @classmethod
    def from_state(cls, state):
        """The tokenizer of a state."""
        return cls(**{name: value for name, value in state.items() if name != "type"})

    def state(self):
        """What from_state needs to make this tokenizer again, as JSON holds it; its "type" is the tokenizer's kind."""
        raise NotImplementedError

    @property
    def vocab_size(self):
        """One more than the largest id."""
        return len(self.pieces)

    def encode(self, text, special="refuse"):
        """Integers (T,) for a text, a str or bytes; InputError where the vocabulary lacks a part of it.

        special: what the text of a special token becomes: "refuse", an InputError; "allow", its id; "text", what any other
        text becomes. Bytes that are not UTF-8 are encoded as they are where the vocabulary has bytes.
        """
        if special not in POLICIES:
            raise InputError(f"encode: special is {special!r}, expected one of {', '.join(POLICIES)}")
        text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        if not self.specials or special == "text":
            return self.encode_ordinary(text)
        if special == "refuse":
            found = self._special.search(text)
            if found:
                raise InputError(
                    f"text: holds the special token {found[0]!r} at position {found.start()}, expected ordinary text: "
                    'allow it with special="allow" (--special allow), or take it for text with special="text" (--special text)'
                )
            return self.encode_ordinary(text)
        ids, place = [], 0
        for found in self._special.finditer(text):
            ids += [self.encode_ordinary(text[place : found.start()]), np.array([self.specials[found[0]]])]
            place = found.end()
        return np.concatenate([*ids, self.encode_ordinary(text[place:])]).astype(np.int64, copy=False)

    @functools.cached_property
    def _special(self):
        """What finds special tokens: of two that begin at one place the longer."""
        return re.compile("|".join(map(re.escape, sorted(self.specials, key=len, reverse=True))))

    def decode_bytes(self, ids):
        """The bytes that ids (T,) stand for; InputError where one stands for nothing."""
        return b"".join(map(self._piece, _integers(ids)))

    def _piece(self, i):
        if 0 <= i < len(self.pieces) and self.pieces[i] is not None:
            return self.pieces[i]
        raise InputError(f"decode: {i} is no token's id, expected one of the vocabulary of {self.vocab_size:,}: were the ids made by another tokenizer?")

    def decode(self, ids, errors="replace"):
        """The text of ids.

        errors: what shows where bytes are not UTF-8: "replace", U+FFFD; "ignore", nothing; "backslashreplace", \\xff;
        "surrogateescape", what encode takes back to the same bytes; "strict", an InputError.
        """
        return _decoded(_codec(errors), self.decode_bytes(ids), True)

    def decoder(self, errors="replace"):
        """A function for streaming: an id → the text that is complete with it, "" in the middle of a character; None, True at the end."""
        codec = _codec(errors)
        return lambda i, final=False: _decoded(codec, b"" if i is None else self.decode_bytes([i]), final)

    @functools.cached_property
    def digest(self):
        """SHA-256 of the state."""
        return hashlib.sha256(json.dumps(self.state(), sort_keys=True).encode()).hexdigest()

    def __eq__(self, other):
        return isinstance(other, Tokenizer) and self.digest == other.digest

    def __hash__(self):
        return hash(self.digest)

    def save(self, path):
        """Write the state as JSON, which tokenizers.load reads; a file at the place is replaced, whole or not at all."""
        write_json(path, self.state())


def _integers(ids):
    """ids as a list; InputError where they are no integers in a row."""
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"decode: the ids are no array ({error}), expected integers (T,)") from error
    if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"decode: the ids are {array.dtype} of shape {array.shape}, expected integers (T,)")
    return array.ravel().tolist()


def _codec(errors):
    if errors not in ERRORS:
        raise InputError(f"decode: errors is {errors!r}, expected one of {', '.join(ERRORS)}")
    return codecs.getincrementaldecoder("utf-8")(errors)


def _decoded(codec, data, final):
    try:
        return codec.decode(data, final)
    except UnicodeDecodeError as error:
        raise InputError(f"decode: byte 0x{error.object[error.start]:02x} at {error.start} is not UTF-8, expected text: choose another errors than strict") from error
