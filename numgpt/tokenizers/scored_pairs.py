"""llama2.c's tokenizer.bin: pieces with scores, whose neighbours are joined, the best score first."""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError
from .joining import join_queued
from .tokenizer import Tokenizer, counted, utf8

HEAD = struct.Struct("<I")  # how many bytes the longest token has
TOKEN = struct.Struct("<fi")  # before each token: its score, and how many bytes it has
LONGEST = 256  # bytes of a token: all places where it may be cut are tried
LARGEST = 2**24  # bytes of a file: that of the public models has 433,869
# How the file begins: what is unknown, begins a text and ends one, then the 256 bytes.
FIRST = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % b for b in range(256))]
BEGIN, END, BYTES = 1, 2, 3  # ids: <s>, </s>, and the first of the bytes
LEAST = -1e10  # a score that is not above it joins nothing
SYMBOL = re.compile(rb"[\x00-\xff][\x80-\xbf]{0,3}")  # a character, or what stands where one should
READ_AS_BYTE = re.compile(rb" ?<0x\s*[+-]?[0-9A-Fa-f]")  # of a piece that run.c decodes as a byte
LONG = 64  # bytes of a word from which on its ids are not remembered
REMEMBERED = 2**17  # words whose ids are remembered
EXPECTED = "expected tokenizer.bin as llama2.c's tokenizer.py writes it"


class ScoredPairs(Tokenizer):
    """The tokenizer of llama2.c; its ids are those of run.c.

    A text that is not empty gets a space before it. Then each character is the token that it spells, or the
    tokens of its bytes, and of all neighbours that together spell a token those are joined whose token has
    the highest score; where several have it, the leftmost. It ends where no neighbours spell a token.

    <s> and </s> are special tokens. At the start of a text and after <s>, decode leaves out one space. run.c
    begins every text with <s>: spell it, and allow it with special="allow".

    Parameters
    ----------
    file
        The bytes of a tokenizer.bin.

    Raises
    ------
    InputError
        Where they are damaged, or run.c would not give ids by which a text comes back.
    """

    kind = "scored"
    specials: Mapping[str, int] = {"<s>": BEGIN, "</s>": END}

    @checked
    def __init__(self, file: bytes) -> None:
        self.file = bytes(file)
        tokens = list(_tokens(self.file))
        names = [name for name, _ in tokens]
        _expect_first(names)
        ids = {name: i for i, name in enumerate(names)}
        if len(ids) < len(names):
            twice = next(name for i, name in enumerate(names) if ids[name] != i)
            raise InputError(f"tokenizer: holds {twice!r} twice, expected each token once")
        if b" " not in ids:
            raise InputError(
                "tokenizer: has no token for a space, which comes before every text, expected one"
            )
        self._ids = ids
        self._ranks = _ranks(names, [score for _, score in tokens], ids)
        special = {i: text.encode() for text, i in self.specials.items()}
        self.pieces = [special.get(i, name) for i, name in enumerate(names)]
        self.pieces[BYTES : BYTES + 256] = [bytes([b]) for b in range(256)]
        # Where no token goes on with a space, nothing is joined over the place before it.
        before = {name[k - 1 : k] for name in names for k in range(1, len(name)) if name[k] == 0x20}
        self._word = re.compile(b"(?<![%s]) " % b"".join(map(re.escape, sorted(before))) if before else b" ")
        self._encode_word = functools.lru_cache(REMEMBERED)(self._joined)

    @classmethod
    @checked
    def from_state(cls, state: Mapping[str, Any]) -> ScoredPairs:
        """The tokenizer of a state."""
        try:
            return cls(base64.b64decode(state["file"], validate=True))
        except (binascii.Error, TypeError, ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"tokenizer: the file is not base64 ({error}), expected tokenizer.json as numgpt wrote it"
            ) from error

    def state(self) -> dict[str, Any]:
        """The kind, and the file's bytes in base64."""
        return {"type": self.kind, "file": base64.b64encode(self.file).decode()}

    def _summary(self) -> list[str]:
        return [counted(len(self._ranks), "pair")]

    @property
    def begin_of_text(self) -> str | None:
        """<s>, by which every text that a model of llama2.c has read begins."""
        return "<s>"

    @property
    def end_of_text(self) -> int | None:
        """The id of <s>: a text ends where the next one begins, as in run.c."""
        return BEGIN

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is made anew of the file: what is remembered belongs to one tokenizer."""
        return type(self), (self.file,)

    @checked
    def encode_ordinary(self, text: str) -> NDArray[Any]:
        """text → (tokens,) integers; InputError for half of a character."""
        data = b" " + utf8(text) if text else b""
        places = [0, *(match.start() for match in self._word.finditer(data, 1)), len(data)]
        ids: list[int] = []
        for start, end in itertools.pairwise(places):
            encode = self._encode_word if end - start < LONG else self._joined
            ids += encode(data[start:end], start == 0)
        return np.array(ids, np.int64)

    def _joined(self, word: bytes, begins: bool) -> list[int]:
        """The ids of bytes that are joined with nothing before or after them.

        begins: whether their first is the space that is put before a text, which is a character for certain.
        """
        symbols: list[int] = []
        for symbol in [word[:begins], *SYMBOL.findall(word, begins)]:
            i = self._ids.get(symbol)
            symbols += [BYTES + b for b in symbol] if i is None else [i]
        return join_queued(symbols, self._ranks).tolist()

    @checked
    def count_bytes(self, ids: NDArray[Any]) -> int:
        """How many bytes ids (N,) stand for, less the spaces that decode leaves out."""
        total = super().count_bytes(ids)  # refuses what is no id
        begins = np.append(True, ids[:-1] == BEGIN)[: len(ids)]
        return total - int(self._has_space[ids[begins].astype(np.int64)].sum())  # none are of any dtype

    @functools.cached_property
    def _has_space(self) -> NDArray[Any]:
        """Whether a token begins with a space that may be the one before a text. A byte's own is not."""
        return np.array(
            [i >= len(FIRST) and piece[:1] == b" " for i, piece in enumerate(self.pieces) if piece]
        )

    def _shower(self) -> Callable[[int], bytes]:
        """A function id → bytes, for the ids of one text in order, less a space where it begins."""
        begins = True

        def show(i: int) -> bytes:
            nonlocal begins
            data = self._piece(i)
            if begins and self._has_space[i]:
                data = data[1:]
            begins = i == BEGIN
            return data

        return show


@checked
def is_scored(data: bytes) -> bool:
    """Whether the bytes of a file begin as tokenizer.bin does."""
    begin = HEAD.size + TOKEN.size
    size = len(FIRST[0])
    return data[begin - 4 : begin + size] == size.to_bytes(4, "little") + FIRST[0]


def _tokens(data: bytes) -> Iterator[tuple[bytes, float]]:
    """(bytes, score) of every token of a file; InputError unless it holds them to its last byte."""
    if len(data) < HEAD.size or len(data) > LARGEST:
        raise InputError(f"tokenizer: has {len(data):,} bytes, expected up to {LARGEST:,}: {EXPECTED}")
    (promised,) = HEAD.unpack_from(data)
    place, longest, i = HEAD.size, 0, 0
    while place < len(data):
        begin = place + TOKEN.size
        score, size = TOKEN.unpack_from(data, place) if begin <= len(data) else (0.0, -1)
        place = begin + size
        if not 1 <= size <= LONGEST or place > len(data):
            raise InputError(
                f"tokenizer: token {i} does not lie in the file with 1 to {LONGEST} bytes, {EXPECTED}: it is"
                " cut short or damaged"
            )
        name = data[begin:place]
        if not math.isfinite(score):
            raise InputError(f"tokenizer: token {i} has the score {score}, expected a finite number")
        yield _checked(name, i), score
        longest, i = max(longest, size), i + 1
    if longest != promised:
        raise InputError(
            f"tokenizer: its longest token has {longest} bytes, expected {promised} from its header: it is"
            " cut short or damaged"
        )


def _checked(name: bytes, i: int) -> bytes:
    """The bytes of a token; InputError for what run.c would read or show as something else."""
    problem = None
    try:
        name.decode()
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    if 0 in name:
        problem = "holds a byte of 0, at which run.c ends it"
    elif i >= len(FIRST) and READ_AS_BYTE.match(name):
        problem = "begins as a byte is spelled, which run.c shows instead"
    if problem:
        raise InputError(f"tokenizer: token {i} {name!r} {problem}, {EXPECTED}")
    return name


def _expect_first(names: list[bytes]) -> None:
    """Raise InputError unless the tokens begin with those by which run.c knows ids."""
    for i, expected in enumerate(FIRST):
        if names[i : i + 1] != [expected]:
            actual = repr(names[i]) if i < len(names) else "missing"
            raise InputError(
                f"tokenizer: token {i} is {actual}, expected {expected!r}: run.c takes it for that"
            )


def _ranks(
    names: list[bytes], scores: list[float], ids: Mapping[bytes, int]
) -> dict[tuple[int, int], tuple[int, int]]:
    """(left, right) → (rank, id of both) of all tokens that together spell one; equal scores, equal ranks."""
    order = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True))}
    ranks = {}
    for i, name in enumerate(names):
        for k in range(1, len(name)):
            pair = ids.get(name[:k], -1), ids.get(name[k:], -1)
            if min(pair) < 0 or scores[i] <= LEAST:
                continue
            if min(*pair, i) < len(FIRST):
                raise InputError(
                    f"tokenizer: token {i} {name!r} is spelled by two others, and one of the three is special"
                    " or a byte, which ordinary text would become in run.c, expected none such"
                )
            ranks[pair] = order[scores[i]], i
    return ranks
