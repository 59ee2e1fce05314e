"""What is trained on and what is held out: repeats are dropped, then blocks of paragraphs are set aside.

First comes the specification, for a whole text; then the same for a text in parts, which need not fit in
memory. There a text's segments (paragraphs or lines) are a stream of lists: between two neighbours in a list
one segment ends and the next begins, while the last segment of a list continues in the first of the next.
So a segment may be longer than a part.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .text import Text

SPLITS = ("blocks", "tail")
BLOCKS = 50  # at least that many blocks, from which those to hold out are spread evenly
HEADING = 40  # characters: shorter paragraphs may repeat, as headings do
_BLANK = re.compile(r"\n\s*\n")


def without_repeats(text: str) -> str:
    """The text without paragraphs of more than HEADING characters that occurred before.

    Two paragraphs are the same if they differ in white space only.
    """
    seen: set[str] = set()
    paragraphs = []
    for paragraph in _BLANK.split(text):
        words = " ".join(paragraph.split())
        if len(words) > HEADING and words in seen:
            continue
        seen.add(words)
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def split_blocks(text: str, held_out: float) -> tuple[str, str]:
    """(train, held out): blocks of whole paragraphs, held out at even distances over the whole text.

    Both parts are thus of the same kind, and few contexts are cut. A text with too few paragraphs is divided
    at line ends, and one with too few lines anywhere.
    """
    blocks = _blocks(held_out)
    segments, glue = _BLANK.split(text), "\n\n"
    if len(segments) < blocks:
        segments, glue = text.split("\n"), "\n"
    if len(segments) < blocks:
        size = max(1, len(text) // blocks)
        segments, glue = [text[i : i + size] for i in range(0, len(text), size)], ""
    train: list[str] = []
    held: list[str] = []
    done = 0
    for segment in segments:
        side = held if _is_held_out(done, len(text), blocks, held_out) else train
        side.append(segment)
        done += len(segment) + len(glue)
    return glue.join(train), glue.join(held)


def split_tail(text: str, held_out: float) -> tuple[str, str]:
    """(train, held out): the first 1 − held_out of the characters, and the rest, as nanoGPT splits."""
    at = int(len(text) * (1 - held_out))
    return text[:at], text[at:]


def _blocks(held_out: float) -> int:
    return max(BLOCKS, math.ceil(5 / held_out))


def _is_held_out(done: int, size: int, blocks: int, held_out: float) -> bool:
    """Whether the segment that begins after `done` of a text's `size` characters is held out."""
    block = done * blocks // max(1, size)
    return int((block + 1) * held_out) > int(block * held_out)


class Split:
    """The same for a text in parts: iterating yields (train, held out) pairs of parts, as often as needed.

    dedup: whether to drop repeats. The first use makes two extra passes through the text: one to find the
    repeats, for which 16 bytes a long paragraph are kept in memory, and one to count.
    """

    def __init__(self, text: Text, held_out: float, split: str = "blocks", dedup: bool = True) -> None:
        if not 1e-6 <= held_out <= 0.5:
            raise InputError(f"data: held_out is {held_out}, expected a share from 1e-6 to 0.5")
        if split not in SPLITS:
            raise InputError(f"data: split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.text = text
        self.held_out = held_out
        self.split = split
        self.dedup = dedup

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self.parts()

    def parts(self, doing: str | None = None) -> Iterator[tuple[str, str]]:
        """The pairs; doing as in Text.parts."""
        parts = self._text(doing)
        if self.split == "tail":
            return _cut(parts, int(self.size * (1 - self.held_out)))

        blocks = _blocks(self.held_out)
        segments: Iterator[list[str]]
        if self._counts[1] >= blocks:
            segments, glue = paragraphs(parts), "\n\n"
        elif self._counts[2] >= blocks:
            segments, glue = (part.split("\n") for part in parts), "\n"
        else:
            segments, glue = _of_size(parts, max(1, self.size // blocks)), ""
        return _deal(segments, glue, lambda done: _is_held_out(done, self.size, blocks, self.held_out))

    @property
    def size(self) -> int:
        """Characters of the text without repeats."""
        return self._counts[0]

    @property
    def dropped(self) -> int | None:
        """Paragraphs that are left out as repeats; None as long as nobody has asked for the parts."""
        if not self.dedup:
            return 0
        return int(self._repeated.sum()) if "_repeated" in vars(self) else None

    @functools.cached_property
    def _counts(self) -> tuple[int, int, int]:
        """(characters, paragraphs, lines) of the text without repeats."""
        characters, breaks, lines = 0, 0, 1

        def counted() -> Iterator[str]:
            nonlocal characters, lines
            for part in self._text("measuring the text"):
                characters += len(part)
                lines += part.count("\n")
                yield part

        for segments in paragraphs(counted()):
            breaks += len(segments) - 1
        return characters, breaks + 1, lines

    @functools.cached_property
    def _repeated(self) -> NDArray[Any]:
        return repeats(self.text.parts("looking for repeats"))

    def _text(self, doing: str | None) -> Iterator[str]:
        """The parts of the text, without repeats where they are to be dropped."""
        parts = self.text.parts(doing)
        return drop(parts, self._repeated) if self.dedup else parts


def paragraphs(parts: Iterable[str]) -> Iterator[list[str]]:
    """A text in parts → its paragraphs as segments."""
    # White space from the end of a line on. Whether it holds a blank line shows only where it ends.
    space: list[str] = []
    for part in parts:
        body = part.rstrip()
        if not body:
            if space or "\n" in part:
                at = 0 if space else part.index("\n")
                yield [part[:at]]
                space.append(part[at:])
            else:
                yield [part]
            continue
        at = part.find("\n", len(body))
        if at < 0:
            at = len(part)
        yield _BLANK.split("".join(space) + part[:at])
        space = [part[at:]] if at < len(part) else []
    yield _BLANK.split("".join(space))


def repeats(parts: Iterable[str]) -> NDArray[Any]:
    """Whether without_repeats drops it, for each paragraph of a text in parts.  → (paragraphs,) bool

    Paragraphs are compared by a BLAKE2b hash of 16 bytes.
    """
    digests, places = bytearray(), array("q")  # of each long paragraph: its hash, its number
    n, current = 0, _Words()

    def note() -> None:
        if current.length > HEADING:
            digests.extend(current.hash.digest())
            places.append(n)

    for segments in paragraphs(parts):
        current.add(segments[0])
        for segment in segments[1:]:
            note()
            n += 1
            current = _Words()
            current.add(segment)
    note()
    repeated = np.zeros(n + 1, bool)
    hashes = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    order = np.lexsort(hashes.T)  # stable: the first of equal paragraphs stays first
    same = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    repeated[np.array(places, np.int64)[order[1:][same]]] = True
    return repeated


class _Words:
    """The words of a paragraph that comes in parts, joined by single spaces: their length and their hash."""

    def __init__(self) -> None:
        self.length = 0
        self.hash = hashlib.blake2b(digest_size=16)
        self.space = False  # whether the last part ended in white space

    def add(self, part: str) -> None:
        """Take the next part of the paragraph."""
        words = " ".join(part.split())
        if not words:
            self.space = self.space or bool(part)
            return
        if self.length and (self.space or part[0].isspace()):
            words = " " + words
        self.length += len(words)
        self.hash.update(words.encode("utf-8", "surrogatepass"))
        self.space = part[-1].isspace()


def drop(parts: Iterable[str], repeated: NDArray[Any]) -> Iterator[str]:
    """A text in parts, without its repeated paragraphs: without_repeats in parts."""
    n = 0
    for segments in paragraphs(parts):
        first = "" if repeated[n] else segments[0]
        rest = [segment for i, segment in enumerate(segments[1:], n + 1) if not repeated[i]]
        n += len(segments) - 1
        yield "\n\n".join([first, *rest])


def _of_size(parts: Iterable[str], size: int) -> Iterator[list[str]]:
    """A text in parts → segments of `size` characters."""
    full = 0  # characters of the segment that has begun
    for part in parts:
        segments = [part[: size - full], *(part[i : i + size] for i in range(size - full, len(part), size))]
        if len(segments) > 1:
            full = 0
        full += len(segments[-1])
        yield segments


def _deal(
    stream: Iterable[list[str]], glue: str, is_held_out: Callable[[int], bool]
) -> Iterator[tuple[str, str]]:
    """Segments → (train, held out) pairs of parts, the segments of each side joined by glue.

    is_held_out(done): the side of a segment that begins after `done` characters.
    """
    done, side = 0, False
    begun = [True, False]  # whether a side has a segment already, so that glue precedes the next one
    for segments in stream:
        sides: tuple[list[str], list[str]] = ([], [])
        sides[side].append(segments[0])
        done += len(segments[0])
        for segment in segments[1:]:
            done += len(glue)
            side = is_held_out(done)
            sides[side].append(glue + segment if begun[side] else segment)
            begun[side] = True
            done += len(segment)
        yield "".join(sides[0]), "".join(sides[1])


def _cut(parts: Iterable[str], at: int) -> Iterator[tuple[str, str]]:
    """A text in parts → pairs of parts: what lies before a place, and the rest."""
    for part in parts:
        yield part[: max(0, at)], part[max(0, at) :]
        at -= len(part)
