"""The interface that every tokenizer fills in, and what follows from it."""

import codecs
import functools
import hashlib
import json
import re

import numpy as np

from ..errors import InputError, TextError
from ..storage.atomic import write_json

POLICIES = ("refuse", "allow", "text")  # of special tokens that a text spells out
ERRORS = ("replace", "strict", "ignore", "surrogateescape", "backslashreplace")  # of bytes that are not UTF-8


class Tokenizer:
    """Text ↔ integers. A tokenizer gives pieces, encode_ordinary, state and build; the rest follows.

    pieces: the bytes of each id, None for an id that stands for nothing. specials: text → id of the tokens
    that no ordinary text becomes; their pieces are their texts.
    """

    pieces: list
    specials = {}

    @classmethod
    def build(cls, text):
        """A tokenizer whose vocabulary fits a text, a str or an iterable of its parts."""
        raise NotImplementedError

    def encode_ordinary(self, text):
        """Integers (T,) for a text in which nothing is special; InputError where the vocabulary lacks a part
        of it.
        """
        raise NotImplementedError

    @classmethod
    def from_state(cls, state):
        """The tokenizer of a state; InputError or TypeError for what is none."""
        return cls(**{name: value for name, value in state.items() if name != "type"})

    def state(self):
        """What from_state needs to make this tokenizer again, as JSON holds it; its "type" is the tokenizer's
        kind.
        """
        raise NotImplementedError

    @property
    def vocab_size(self):
        """One more than the largest id."""
        return len(self.pieces)

    def encode(self, text, special="refuse"):
        """Integers (T,) for a text, a str or bytes; InputError where the vocabulary lacks a part of it.

        special: what the text of a special token becomes: "refuse", an InputError; "allow", its id; "text",
        what any other text becomes. Bytes that are not UTF-8 are encoded as they are where the vocabulary has
        bytes.
        """
        _expect_policy(special)
        _expect_text(text)
        text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        return self._encode_sure(text, special, True, 0)[0]

    def encode_parts(self, texts, special="refuse", size=2**18):
        """Arrays of integers that joined are encode() of a text that comes in parts, str or bytes, cut
        anywhere.

        A part of the text waits until it is certain which tokens it becomes: for byte pairs with a pattern of
        one's own, which may cut by what follows, the whole of it. size: characters that are encoded at a
        time.
        """
        encoder = self.encoder(special, size)
        for text in texts:
            for i in range(0, len(text), size):
                yield encoder.add(text[i : i + size])
        yield encoder.add("", True)

    def encoder(self, special="refuse", size=2**18):
        """An Encoder, for a text in parts; special and size as in encode_parts."""
        _expect_policy(special)
        if size < 1:
            raise InputError(f"encode: size is {size}, expected at least 1 character")
        return Encoder(self, special, size)

    def safe_cut(self, text):
        """A place so that encode_ordinary of what is before it, and of what is behind it and may go on,
        joined are that of the whole.

        The last that is surely one, 0 where there is none.
        """
        return 0

    def _encode_sure(self, text, special, final, start):
        """(ids, n) of the first n characters of a text, those that become the same tokens whatever follows;
        of all where it is final.

        start: the position of text in what errors name places of.
        """
        # No special token that is not there as a whole begins before edge.
        found, edge = (), len(text)
        if self.specials and special != "text":
            found, edge = (
                self._special.finditer(text),
                edge if final else max(0, edge + 1 - max(map(len, self.specials))),
            )
        ids, place = [], 0
        for match in found:
            if match.start() >= edge:
                break
            if special == "refuse":
                raise TextError(
                    f"text: holds the special token {match[0]!r}", start + match.start(), ", expected ordinary text: "
                    'allow it with special="allow" (--special allow), or take it for text with special="text" (--special text)'
                )  # fmt: skip
            ids += [
                self._encode_at(text[place : match.start()], start + place),
                np.array([self.specials[match[0]]]),
            ]
            place = match.end()
        n = len(text) if final else place + self.safe_cut(text[place:edge])
        return (
            np.concatenate([*ids, self._encode_at(text[place:n], start + place)]).astype(
                np.int64, copy=False
            ),
            n,
        )

    def _encode_at(self, text, start):
        try:
            return self.encode_ordinary(text)
        except TextError as error:
            raise error.moved(start) from None

    @functools.cached_property
    def _special(self):
        return finder(self.specials)

    def decode_bytes(self, ids):
        """The bytes that ids (T,) stand for; InputError where one stands for nothing."""
        return b"".join(map(self._shower(), _integers(ids)))

    def _shower(self):
        """A function: id → bytes, for the ids of one text in their order, on which a subclass may let the
        bytes depend.
        """
        return self._piece

    def count_bytes(self, ids):
        """How many bytes ids (N,) stand for, without making them; InputError where one stands for nothing."""
        total = 0
        for i in range(0, len(ids), 2**20):
            part = np.asarray(ids[i : i + 2**20], np.int64)
            sizes = self._sizes[np.clip(part, 0, len(self.pieces) - 1)]
            wrong = np.flatnonzero((part < 0) | (part >= len(self.pieces)) | (sizes < 0))
            if len(wrong):
                self._piece(int(part[wrong[0]]))  # says what is wrong
            total += int(sizes.sum())
        return total

    @functools.cached_property
    def _sizes(self):
        return np.array([-1 if piece is None else len(piece) for piece in self.pieces])

    def _piece(self, i):
        if 0 <= i < len(self.pieces) and self.pieces[i] is not None:
            return self.pieces[i]
        raise InputError(
            f"decode: {i} is no token's id, expected one of the vocabulary of {self.vocab_size:,}: were the"
            " ids made by another tokenizer?"
        )

    def decode(self, ids, errors="replace"):
        """The text of ids.

        errors: what shows where bytes are not UTF-8: "replace", U+FFFD; "ignore", nothing;
        "backslashreplace", \\xff; "surrogateescape", what encode takes back to the same bytes; "strict", an
        InputError.
        """
        return _decoded(_codec(errors), self.decode_bytes(ids), True)

    def decoder(self, errors="replace"):
        """A function for streaming: an id → the text that is complete with it, "" in the middle of a
        character; None, True at the end.
        """
        codec, show = _codec(errors), self._shower()
        return lambda i, final=False: _decoded(
            codec, b"" if i is None else b"".join(map(show, _integers([i]))), final
        )

    @functools.cached_property
    def digest(self):
        """SHA-256 of the state."""
        return hashlib.sha256(json.dumps(self.state(), sort_keys=True).encode()).hexdigest()

    def __eq__(self, other):
        return isinstance(other, Tokenizer) and self.digest == other.digest

    def __hash__(self):
        return hash(self.digest)

    def save(self, path):
        """Write the state as JSON, which tokenizers.load reads; a file at the place is replaced, whole or not
        at all.
        """
        write_json(path, self.state())


class Encoder:
    """What encodes a text that comes in parts: add() gives the tokens that are certain, in the end all of
    them.
    """

    def __init__(self, tokenizer, special, size):
        self._tokenizer, self._special, self._size = tokenizer, special, size
        self._codec = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # for bytes
        self._held, self._length, self._wanted, self._start = [], 0, size, 0

    def add(self, text, final=False):
        """A part of the text, str or bytes → integers (T,); final: it is the last."""
        _expect_text(text)
        if isinstance(text, bytes):
            text = self._codec.decode(text, final)
        else:  # bytes before it that are no whole character stay so
            text = self._codec.decode(b"", True) + text
        self._held.append(text)
        self._length += len(text)
        if self._length < self._wanted and not final:
            return np.zeros(0, np.int64)
        text = "".join(self._held)
        ids, n = self._tokenizer._encode_sure(text, self._special, final, self._start)
        self._held, self._length, self._start = [text[n:]], len(text) - n, self._start + n
        self._wanted = max(
            self._size, 2 * self._length
        )  # so that a word without end is not looked through again and again
        return ids


def finder(specials):
    """The regular expression that finds special tokens in a text: of two that begin at one place the longer."""
    return re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))))


def utf8(text):
    """The bytes of a text, for \\udc80 to \\udcff those that surrogateescape shows so; TextError where it
    holds another half of a character.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise TextError(
            f"text: U+{ord(error.object[error.start]):04X}",
            error.start,
            " is half of a character, expected text",
        ) from error


def _expect_policy(special):
    if special not in POLICIES:
        raise InputError(f"encode: special is {special!r}, expected one of {', '.join(POLICIES)}")


def _expect_text(text):
    if not isinstance(text, str | bytes):
        raise InputError(f"encode: the text is of type {type(text).__name__}, expected str or bytes")


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
        raise InputError(
            f"decode: byte 0x{error.object[error.start]:02x} at {error.start} is not UTF-8, expected text:"
            " choose another errors than strict"
        ) from error
