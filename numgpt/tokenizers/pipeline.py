"""A tokenizer.json whose steps are done one after the other: normalizer, pre-tokenizer, model, decoder."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError, TextError
from . import added_tokens, decoders, normalizers, pretokenizers
from .character_pairs import CharacterPairs
from .entries import kind, short, steps
from .tokenizer import Tokenizer, counted, finder, utf8
from .vocabulary import checked_vocabulary, expect_no_holes


class Pipeline(Tokenizer):
    """What Hugging Face's tokenizers do by a tokenizer.json, LLaMA's or Gemma's for example.

        encode(text) = the model's ids of the pieces that the pre-tokenizer cuts the normalized text into

    Between special tokens, each stretch of a text is normalized and cut by itself. What is normalized does
    not come back: decode gives what the normalizer made of a text, and a space that was put before it is left
    out again where the decoder says so. By errors="replace", bytes that are not UTF-8 show as Python shows
    them.

    Added tokens that the file does not call special are taken wherever they stand, whatever encode is told of
    special tokens. Which characters are letters, and what normal forms they have, is for the versions of
    Unicode of regex and Python to say; they are their library's for all characters of Unicode 9.

    Parameters
    ----------
    file
        What the tokenizer.json holds, as JSON gives it.

    Raises
    ------
    InputError
        Where something in it, which is named, would make other ids here.

    Examples
    --------
    >>> from numgpt.tokenizers import Pipeline
    >>> model = {"type": "BPE", "vocab": {"▁": 0, "a": 1, "▁a": 2}, "merges": [["▁", "a"]]}
    >>> metaspace = {"type": "Metaspace", "replacement": "▁"}
    >>> tokenizer = Pipeline({"pre_tokenizer": metaspace, "model": model, "decoder": metaspace})
    >>> tokenizer.encode("a aa").tolist(), tokenizer.decode([2, 2, 1])
    ([2, 2, 1], 'a aa')
    """

    kind = "pipeline"

    @checked
    def __init__(self, file: Mapping[str, Any]) -> None:
        if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
            raise InputError(
                f"tokenizer: the file is {short(file, 40)}, expected what a tokenizer.json holds"
            )
        self.file = file
        model = file["model"]
        vocab = checked_vocabulary(model.get("vocab"))
        self._model = CharacterPairs(model, vocab)
        self._normalizers = normalizers.read(file.get("normalizer"))
        self._cutters = pretokenizers.read(file.get("pre_tokenizer"), bool(self._normalizers))
        self.specials, self._added = _added(file, vocab, bool(self._normalizers))
        cutters = steps(file.get("pre_tokenizer"), "pretokenizers")
        self._decoder = decoders.read(file.get("decoder"), any(kind(s) == "ByteLevel" for s in cutters))
        self._texts = _texts({**vocab, **self._added, **self.specials})
        ends = set(self.specials.values())
        self.pieces = [
            text.encode() if i in ends else self._decoder.piece(text, False)
            for i, text in enumerate(self._texts)
        ]
        self._forbidden = frozenset(ends - {self._model.unknown})

    @classmethod
    @checked
    def from_state(cls, state: Mapping[str, Any]) -> Pipeline:
        """The tokenizer of a state."""
        return cls(state.get("file"))  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        """The kind, and what the tokenizer.json holds."""
        return {"type": self.kind, "file": self.file}

    def _summary(self) -> list[str]:
        names = [*steps(self.file.get("normalizer"), "normalizers")]
        names += steps(self.file.get("pre_tokenizer"), "pretokenizers")
        return [counted(len(self._model.ranks), "merge"), " then ".join([*map(kind, names), "byte pairs"])]

    @checked
    def encode_ordinary(self, text: str) -> NDArray[Any]:
        """text → (tokens,) integers; InputError for a character without a token."""
        return self._encode_from(text, 0)

    def _encode_at(self, text: str, start: int) -> NDArray[Any]:
        try:
            return self._encode_from(text, start)
        except TextError as error:
            raise error.moved(start) from None

    def _encode_from(self, text: str, start: int) -> NDArray[Any]:
        """The ids of a text that begins at a place of a whole."""
        utf8(text)  # names half of a character with its place
        ids: list[int] = []
        place = 0
        for match in self._finder_of_added.finditer(text) if self._added else ():
            ids += self._encode_stretch(text[place : match.start()], start + place == 0)
            ids.append(self._added[match[0]])
            place = match.end()
        ids += self._encode_stretch(text[place:], start + place == 0)
        return np.array(ids, np.int64)

    def _encode_stretch(self, text: str, begins: bool) -> list[int]:
        """The ids of what stands between added tokens. begins: whether nothing stands before it."""
        text = normalizers.normalize(text, self._normalizers)
        ids: list[int] = []
        for piece in pretokenizers.cut(text, self._cutters, begins):
            ids += self._model.encode(piece)
        if not self._forbidden.isdisjoint(ids):
            i = next(i for i in ids if i in self._forbidden)
            raise InputError(
                f"text: becomes the special token {self._texts[i]!r} without its text, expected ordinary"
                ' tokens: spell it, and allow it with special="allow"'
            )
        return ids

    @functools.cached_property
    def _finder_of_added(self) -> re.Pattern[str]:
        return finder(self._added)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is made anew of the file: the steps are functions, which cannot be pickled."""
        return type(self), (self.file,)

    def _shower(self) -> Callable[[int], bytes]:
        """A function id → bytes, for the ids of one text in order: the first may lose its space."""
        is_first = True
        times, stripped = self._decoder.times, self._decoder.stripped.encode()
        ends = set(self.specials.values())

        def show(i: int) -> bytes:
            nonlocal is_first, times
            data = self._piece(i)
            if is_first and i not in ends:
                data = self._decoder.piece(self._texts[i], True)
            while times and data.startswith(stripped):
                data, times = data[1:], times - 1
            times = 0 if data else times
            between = b"" if is_first else self._decoder.between
            is_first = False
            return between + data

        return show


def _added(
    file: Mapping[str, Any], vocab: Mapping[str, int], is_normalized: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """(special tokens, other added ones) of a file, each {text: id}."""
    both = added_tokens.read(file.get("added_tokens"), vocab)
    entries = file.get("added_tokens") or []
    normalized = next((entry["content"] for entry in entries if entry.get("normalized")), None)
    if is_normalized and normalized is not None:
        raise InputError(
            f"its added token {normalized!r} is normalized, expected false beside a normalizer: their library"
            " looks for it in the normalized text"
        )
    special = {entry["content"] for entry in entries if entry.get("special")}
    specials = {text: i for text, i in both.items() if text in special}
    others = {text: i for text, i in both.items() if text not in special}
    added_tokens.expect_apart(list(others), list(specials), "special")
    return specials, others


def _texts(vocab: Mapping[str, int]) -> list[str]:
    """The text of each id."""
    expect_no_holes(checked_vocabulary(dict(vocab)).values())
    return sorted(vocab, key=vocab.__getitem__)
