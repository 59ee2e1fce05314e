"""The interface that every tokenizer fills in, and what follows from it."""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arguments import Ids, checked
from ..errors import InputError, TextError
from ..storage.atomic import write_json
from .encoder import POLICIES, Encoder, expect_policy, expect_text

ERRORS = (
    "replace",
    "strict",
    "ignore",
    "surrogateescape",
    "backslashreplace",
)  # for bytes that are not UTF-8
# Special tokens by which tokenizers mark where a text ends; the first that a tokenizer has is its own.
ENDS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
    "<|eot_id|>",
    "[EOS]",
    "<|end|>",
)
COUNTED = 2**20  # ids whose bytes are counted at a time

__all__ = ["ENDS", "ERRORS", "POLICIES", "Tokenizer", "finder", "utf8"]


class Tokenizer:
    """Text ↔ integers. A tokenizer gives kind, pieces, encode_ordinary and state; the rest follows.

    Attributes
    ----------
    kind
        The tokenizer's name in KINDS, and the "type" of its state.
    pieces
        The bytes of each id; None for an id that stands for nothing.
    specials
        Text → id of the special tokens, which no ordinary text becomes; their pieces are their texts.

    Examples
    --------
    >>> from numgpt import tokenizers
    >>> tokenizer = tokenizers.build("chars", "hello")
    >>> tokenizer.encode("hole").tolist()
    [1, 3, 2, 0]
    >>> tokenizer.decode([1, 3, 2, 0])
    'hole'
    """

    kind: ClassVar[str] = "own"
    pieces: list[bytes | None]
    specials: Mapping[str, int] = {}

    def encode_ordinary(self, text: str) -> NDArray[Any]:
        """Integers (T,) for a text in which nothing is special.

        Raises
        ------
        InputError
            Where the vocabulary lacks a part of the text. TextError, a kind of it, names the place.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What from_state needs to make this tokenizer again, as JSON can hold it; its "type" is the kind."""
        raise NotImplementedError

    @classmethod
    @checked
    def from_state(cls, state: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer of a state; InputError or TypeError where it is not a state of this kind."""
        return cls(**{name: value for name, value in state.items() if name != "type"})

    def safe_cut(self, text: str) -> int:
        """The last place where a text may be cut whatever follows it, 0 where none is known.

        encode_ordinary of what is before that place, and of what is behind it and may go on, joined are the
        ids of the whole.
        """
        return 0

    def _summary(self) -> list[str]:
        """What repr tells besides kind, vocabulary and special tokens."""
        return []

    def __repr__(self) -> str:
        parts = [counted(self.vocab_size, "token"), *self._summary()]
        if self.specials:
            names = [repr(text) for text in list(self.specials)[:3]]
            more = f" and {len(self.specials) - 3:,} more" if len(self.specials) > 3 else ""
            parts.append(f"special {', '.join(names)}{more}")
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return len(self.pieces)

    @property
    def end_of_text(self) -> int | None:
        """The id of the special token that ends a text, such as "<|endoftext|>"; None where there is none."""
        return next((self.specials[text] for text in ENDS if text in self.specials), None)

    @property
    def begin_of_text(self) -> str | None:
        """The special token by which every text begins that its model has read, where that is known."""
        return None

    @checked
    def encode(self, text: str | bytes, special: str = "refuse") -> NDArray[Any]:
        """The ids of a text.

        Parameters
        ----------
        text
            Text, or its bytes. Bytes that are not UTF-8 are encoded as they are, where the vocabulary has
            tokens for bytes.
        special
            What the text of a special token becomes: "refuse", an InputError; "allow", its id; "text", the
            ids of ordinary text.

        Returns
        -------
        numpy.ndarray
            Integers (T,).

        Raises
        ------
        InputError
            Where the vocabulary lacks a part of the text, or a special token is refused.

        Examples
        --------
        >>> from numgpt.tokenizers import Bytes
        >>> Bytes().encode("é").tolist()
        [195, 169]
        """
        expect_policy(special)
        expect_text(text)
        text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        return self._encode_certain(text, special, True, 0)[0]

    @checked
    def encode_parts(
        self, texts: Iterable[str | bytes], special: str = "refuse", size: int = 2**18
    ) -> Iterator[NDArray[Any]]:
        """The ids of a text that comes in parts: arrays that joined are encode() of the whole.

        Parameters
        ----------
        texts
            The parts, text or bytes, cut anywhere. A part waits until it is certain which tokens it becomes.
            With a pattern of your own, which may cut by what follows, that is at the end of the text.
        special
            As in encode.
        size
            How many characters are encoded at a time.

        Yields
        ------
        numpy.ndarray
            Integers (T,).

        Examples
        --------
        >>> from numgpt.tokenizers import Bytes
        >>> [ids.tolist() for ids in Bytes().encode_parts(["ab", "c"], size=1)]
        [[97], [98], [99], []]
        """
        encoder = self.encoder(special, size)
        for text in texts:
            for i in range(0, len(text), size):
                yield encoder.add(text[i : i + size])
        yield encoder.add("", True)

    @checked
    def encoder(self, special: str = "refuse", size: int = 2**18) -> Encoder:
        """An Encoder, to which a text is given in parts; special and size as in encode_parts."""
        expect_policy(special)
        if size < 1:
            raise InputError(f"encode: size is {size}, expected at least 1 character")
        return Encoder(self._encode_certain, special, size)

    def _encode_certain(self, text: str, special: str, final: bool, start: int) -> tuple[NDArray[Any], int]:
        """(ids, n) of the first n characters of a text: those whose tokens do not depend on what follows.

        final: nothing follows, so n is all. start: the place of text in the whole, for errors.
        """
        matches: Iterable[re.Match[str]] = ()
        edge = len(text)  # a special token that begins from here on might go on behind the text
        if self.specials and special != "text":
            matches = self._finder.finditer(text)
            if not final:
                edge = max(0, edge + 1 - max(map(len, self.specials)))
        ids: list[NDArray[Any]] = []
        place = 0
        for match in matches:
            if match.start() >= edge:
                break
            if special == "refuse":
                raise TextError(
                    f"text: holds the special token {match[0]!r}",
                    start + match.start(),
                    ', expected ordinary text: allow it with special="allow" (--special allow), or take it'
                    ' for text with special="text" (--special text)',
                )
            ids.append(self._encode_at(text[place : match.start()], start + place))
            ids.append(np.array([self.specials[match[0]]]))
            place = match.end()
        n = len(text) if final else place + self.safe_cut(text[place:edge])
        ids.append(self._encode_at(text[place:n], start + place))
        return np.concatenate(ids).astype(np.int64, copy=False), n

    def _encode_at(self, text: str, start: int) -> NDArray[Any]:
        try:
            return self.encode_ordinary(text)
        except TextError as error:
            raise error.moved(start) from None

    @functools.cached_property
    def _finder(self) -> re.Pattern[str]:
        return finder(self.specials)

    @checked
    def decode(self, ids: Ids, errors: str = "replace") -> str:
        r"""The text of ids.

        Parameters
        ----------
        ids
            Integers (T,).
        errors
            What shows in the place of bytes that are not UTF-8: "replace", U+FFFD; "ignore", nothing;
            "backslashreplace", \xff; "surrogateescape", what encode takes back to the same bytes; "strict",
            an InputError.

        Raises
        ------
        InputError
            Where an id stands for nothing.

        Examples
        --------
        >>> from numgpt.tokenizers import Bytes
        >>> Bytes().decode([195, 169, 255], errors="backslashreplace")
        'é\\xff'
        """
        _expect_known(errors)
        data = b"".join(map(self._shower(), _integers(ids)))
        try:
            return data.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise _no_text(error) from error

    @checked
    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes that ids (T,) stand for; InputError where one stands for nothing."""
        return b"".join(map(self._shower(), _integers(ids)))

    @checked
    def decoder(self, errors: str = "replace") -> Callable[..., str]:
        """A function that decodes id by id, for streaming.

        It takes an id and gives the text that is complete with it, "" in the middle of a character. At the
        end it takes (None, True) and gives what is left. errors: as in decode.

        Examples
        --------
        >>> from numgpt.tokenizers import Bytes
        >>> decode = Bytes().decoder()
        >>> [decode(i) for i in "né".encode()], decode(None, True)
        (['n', '', 'é'], '')
        """
        codec, show = _codec(errors), self._shower()

        def decode(i: int | None, final: bool = False) -> str:
            data = b"" if i is None else b"".join(map(show, _integers([i])))
            return _decoded(codec, data, final)

        return decode

    def _shower(self) -> Callable[[int], bytes]:
        """A function id → bytes, for the ids of one text in order; a subclass may look at those before."""
        return self._piece

    def _piece(self, i: int) -> bytes:
        piece = self.pieces[i] if 0 <= i < len(self.pieces) else None
        if piece is None:
            raise InputError(
                f"decode: {i} is no token's id, expected one of the vocabulary of {self.vocab_size:,}: were"
                " the ids made by another tokenizer?"
            )
        return piece

    @checked
    def count_bytes(self, ids: NDArray[Any]) -> int:
        """How many bytes ids (N,) stand for, without making them; InputError where one stands for nothing."""
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(
                f"count_bytes: the ids are {ids.dtype} of shape {ids.shape}, expected integers (N,)"
            )
        total = 0
        for i in range(0, len(ids), COUNTED):
            part = np.asarray(ids[i : i + COUNTED], np.int64)
            sizes = self._sizes[np.clip(part, 0, len(self.pieces) - 1)]
            wrong = np.flatnonzero((part < 0) | (part >= len(self.pieces)) | (sizes < 0))
            if len(wrong):
                self._piece(int(part[wrong[0]]))  # raises, and says what is wrong
            total += int(sizes.sum())
        return total

    @functools.cached_property
    def _sizes(self) -> NDArray[Any]:
        return np.array([-1 if piece is None else len(piece) for piece in self.pieces])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the state: tokenizers are equal where it is."""
        return hashlib.sha256(json.dumps(self.state(), sort_keys=True).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @checked
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as JSON, which tokenizers.load reads; a file that is there is replaced."""
        write_json(path, self.state())


def counted(n: int, noun: str) -> str:
    """A number and its noun: "1 merge", "2,048 merges"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def finder(specials: Iterable[str]) -> re.Pattern[str]:
    """A regular expression that finds special tokens: of those that begin at one place, the longest."""
    return re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))))


def utf8(text: str) -> bytes:
    r"""The bytes of a text, where \udc80 to \udcff stand for bytes that are not UTF-8 (surrogateescape).

    TextError where it holds another half of a character.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise TextError(
            f"text: U+{ord(error.object[error.start]):04X}",
            error.start,
            " is half of a character, expected text",
        ) from error


def expect_characters(text: object, who: str, expected: str = "text") -> None:
    """Raise InputError unless text is a str of whole characters: no file of UTF-8 holds half of one.

    who: what the text is, for the error, such as "train: the special token".
    """
    if not isinstance(text, str):
        raise InputError(f"{who} {text!r} is of type {type(text).__name__}, expected {expected}")
    half = re.search("[\ud800-\udfff]", text)
    if half is not None:
        quoted = repr(text if len(text) <= 40 else f"{text[:40]}…")
        raise InputError(
            f"{who} {quoted} holds U+{ord(half[0]):04X}, half of a character, expected {expected}"
        )


def _integers(ids: Ids) -> list[int]:
    """ids as a list; InputError unless they are integers in a row."""
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"decode: the ids are no array ({error}), expected integers (T,)") from error
    if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"decode: the ids are {array.dtype} of shape {array.shape}, expected integers (T,)")
    return array.ravel().tolist()


def _expect_known(errors: str) -> None:
    if errors not in ERRORS:
        raise InputError(f"decode: errors is {errors!r}, expected one of {', '.join(ERRORS)}")


def _codec(errors: str) -> codecs.IncrementalDecoder:
    _expect_known(errors)
    return codecs.getincrementaldecoder("utf-8")(errors)


def _decoded(codec: codecs.IncrementalDecoder, data: bytes, final: bool) -> str:
    try:
        return codec.decode(data, final)
    except UnicodeDecodeError as error:
        raise _no_text(error) from error


def _no_text(error: UnicodeDecodeError) -> InputError:
    """What is said of bytes that are no text."""
    byte = error.object[error.start]
    return InputError(
        f"decode: byte 0x{byte:02x} at {error.start} is not UTF-8, expected text: choose another errors than"
        " strict"
    )
