"""Byte-pair encoding of the characters of a piece, as the model of a tokenizer.json does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import engine
from ..errors import InputError
from .entries import Entry, expect, flag
from .joining import joiner
from .tokenizer import utf8
from .vocabulary import read_pairs

FEW = 512  # characters of a piece up to which the specification answers sooner than Numba is imported
LONG = 64  # characters of a piece from which on its ids are not remembered
REMEMBERED = 2**17  # pieces whose ids are remembered


class CharacterPairs:
    """The ids of a piece of text.

    A character is a token of the vocabulary; else, with byte_fallback, the bytes of its UTF-8 are, which the
    vocabulary calls <0x00> to <0xFF>; else it is the unknown token, where there is one. Then neighbours are
    joined as the merges say. With ignore_merges, a piece that is a token is taken whole.

    Parameters
    ----------
    model
        The entry "model" of a tokenizer.json.
    vocab
        Text → id, as checked_vocabulary gives it.
    """

    def __init__(self, model: Entry, vocab: Mapping[str, int]) -> None:
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            expect(model, name, (None, ""))
        expect(model, "dropout", (None, 0))
        self.vocab = vocab
        self.whole = flag(model, "ignore_merges", absent=False)
        self._is_fused = flag(model, "fuse_unk", absent=False)
        falls_back = flag(model, "byte_fallback", absent=False)
        names = (f"<0x{b:02X}>" for b in range(256))
        self._bytes = [vocab.get(name) if falls_back else None for name in names]
        unknown = model.get("unk_token")
        if unknown is not None and (not isinstance(unknown, str) or unknown not in vocab):
            raise InputError(f"its unk_token is {unknown!r}, expected a token of the vocabulary, or null")
        self.unknown = None if unknown is None else vocab[unknown]
        self.ranks = _ranks(model, vocab)
        self._remembered: dict[str, list[int]] = {}
        self._join_long: Any = None  # made when a long piece first comes

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece; InputError for a character without a token, where none stands for it."""
        known = self._remembered.get(piece)
        if known is not None:
            return known
        ids = self._encode(piece)
        if len(piece) < LONG:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[piece] = ids
        return ids

    def _encode(self, piece: str) -> list[int]:
        if self.whole and piece in self.vocab:
            return [self.vocab[piece]]
        symbols = self._symbols(piece)
        if len(symbols) <= FEW:
            return joiner(self.ranks)(symbols).tolist()
        if self._join_long is None:
            self._join_long = engine.host_twin(joiner)(self.ranks)
        return self._join_long(symbols).tolist()

    def _symbols(self, piece: str) -> list[int]:
        """The ids of the characters. Before bytes, an unknown token waits for the next that is known.

        So it does in their library; it is seen only where the vocabulary lacks some bytes.
        """
        unknown: list[int] = [] if self.unknown is None else [self.unknown]
        symbols: list[int] = []
        waiting: list[int] = []
        for c in piece:
            i = self.vocab.get(c)
            if i is not None:
                symbols += [*waiting, i]
                waiting = []
                continue
            data = utf8(c)
            byte_ids = [i for b in data if (i := self._bytes[b]) is not None]
            if len(byte_ids) == len(data):
                symbols += byte_ids
                continue
            if not unknown or 0xDC80 <= ord(c) <= 0xDCFF:
                raise _without_token(c, data, piece)
            symbols += [] if self._is_fused else waiting
            waiting = unknown
        return symbols + waiting


def _without_token(c: str, data: bytes, piece: str) -> InputError:
    """The error for a character, or a byte that is not UTF-8, that has no token."""
    name = f"byte 0x{data[0]:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else f"character {c!r}"
    return InputError(
        f"text: {name} of {piece[:40]!r} has no token, expected one of the vocabulary: use another tokenizer"
    )


def _ranks(model: Entry, vocab: Mapping[str, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """(left, right) → (rank, id of both), of the merges of a model."""
    ranks: dict[tuple[int, int], tuple[int, int]] = {}
    for n, (left, right) in enumerate(read_pairs(model.get("merges"))):
        unknown = next((part for part in (left, right, left + right) if part not in vocab), None)
        if unknown is not None:
            what = "makes" if unknown == left + right else "joins"
            raise InputError(f"merge {n} {what} {unknown!r}, expected a token of the vocabulary")
        pair = vocab[left], vocab[right]
        if pair in ranks:
            raise InputError(
                f"merge {n} joins {left!r} and {right!r} as an earlier one does, expected each pair once"
            )
        ranks[pair] = n, vocab[left + right]
    return ranks
