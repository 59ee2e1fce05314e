"""What is trained on and what is held out: repeats dropped, blocks dealt. First the specification, then the
same of a text in parts.

A text in pieces (paragraphs, lines) that comes in parts is a sequence of lists: between two neighbours in a
list one piece ends and the next begins; the last of a list goes on in the first of the next. So no piece has
to fit in memory.
"""

import functools
import hashlib
import math
import re
from array import array

import numpy as np

from ..errors import InputError

SPLITS = ("blocks", "tail")
BLOCKS = 50
LONG = 40  # characters of a paragraph's words; no longer ones may repeat: they are headings, not copies
_BLANK = re.compile(r"\n\s*\n")


def without_repeats(text):
    """text without the paragraphs of more than LONG characters that came before in it, whatever their white
    space.
    """
    seen, kept = set(), []
    for paragraph in _BLANK.split(text):
        words = " ".join(paragraph.split())
        if len(words) > LONG and words in seen:
            continue
        seen.add(words)
        kept.append(paragraph)
    return "\n\n".join(kept)


def split_blocks(text, held_out):
    """(train, held out): the text in some 50 blocks of whole paragraphs, every so-many-th of which is held
    out.

    Dealt out of the whole text, so that both parts are of the same kind; in blocks, so that few contexts are
    cut. Text without paragraphs is divided at line ends, or failing those anywhere.
    """
    blocks = _blocks(held_out)
    pieces, glue = _BLANK.split(text), "\n\n"
    if len(pieces) < blocks:
        pieces, glue = text.split("\n"), "\n"
    if len(pieces) < blocks:
        size = max(1, len(text) // blocks)
        pieces, glue = [text[i : i + size] for i in range(0, len(text), size)], ""
    parts, done = ([], []), 0
    for piece in pieces:
        parts[_is_held(done, len(text), blocks, held_out)].append(piece)
        done += len(piece) + len(glue)
    return glue.join(parts[0]), glue.join(parts[1])


def split_tail(text, held_out):
    """(train, held out): the first 1 − held_out of the characters, and the rest, as nanoGPT splits."""
    at = int(len(text) * (1 - held_out))
    return text[:at], text[at:]


def _blocks(held_out):
    return max(BLOCKS, math.ceil(5 / held_out))


def _is_held(done, size, blocks, held_out):
    """Whether a piece is held out that begins after so many of a text's characters."""
    block = done * blocks // max(1, size)
    return int((block + 1) * held_out) > int(block * held_out)


class Dealt:
    """The same of a text in parts: iterating gives pairs of parts, (train, held out), as often as it is asked
    for.

    text: a text.Text. dedup: whether repeats are dropped. Passes through the text: one to find the repeats,
    of which 16 bytes a long paragraph are kept, one to count; then one each time.
    """

    def __init__(self, text, held_out, split="blocks", dedup=True):
        if not 1e-6 <= held_out <= 0.5:
            raise InputError(f"data: held_out is {held_out}, expected a share from 1e-6 to 0.5")
        if split not in SPLITS:
            raise InputError(f"data: split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.text, self.held_out, self.split, self.dedup = text, held_out, split, dedup

    def __iter__(self):
        return self.parts()

    def parts(self, doing=None):
        """The pairs; doing as in Text.parts."""
        kept = self._kept(doing)
        if self.split == "tail":
            return _cut(kept, int(self.size * (1 - self.held_out)))
        blocks = _blocks(self.held_out)
        if self._counts[1] >= blocks:
            pieces, glue = paragraphs(kept), "\n\n"
        elif self._counts[2] >= blocks:
            pieces, glue = (part.split("\n") for part in kept), "\n"
        else:
            pieces, glue = _of_size(kept, max(1, self.size // blocks)), ""
        return _deal(pieces, glue, lambda done: _is_held(done, self.size, blocks, self.held_out))

    @property
    def size(self):
        """Characters without the repeats."""
        return self._counts[0]

    @functools.cached_property
    def _counts(self):
        """(characters, paragraphs, lines) without the repeats."""
        counts = [0, 1, 1]

        def passing():
            for part in self._kept("measuring the text"):
                counts[0] += len(part)
                counts[2] += part.count("\n")
                yield part

        for pieces in paragraphs(passing()):
            counts[1] += len(pieces) - 1
        return tuple(counts)

    @functools.cached_property
    def _repeated(self):
        return repeats(self.text.parts("looking for repeats"))

    def _kept(self, doing):
        parts = self.text.parts(doing)
        return drop(parts, self._repeated) if self.dedup else parts


def paragraphs(parts):
    """A text in parts → the pieces between its blank lines."""
    run = []  # white space from a line's end on: whether it is blank lines is known when it ends
    for part in parts:
        body = part.rstrip()
        if not body:
            if run or "\n" in part:
                at = 0 if run else part.index("\n")
                yield [part[:at]]
                run.append(part[at:])
            else:
                yield [part]
            continue
        at = part.find("\n", len(body))
        at = len(part) if at < 0 else at
        yield _BLANK.split("".join(run) + part[:at])
        run = [part[at:]] if at < len(part) else []
    yield _BLANK.split("".join(run))


def repeats(parts):
    """For each paragraph of a text in parts, whether it is one that without_repeats drops.  → (paragraphs,)
    bool

    Paragraphs are compared by 16 bytes of BLAKE2b.
    """
    digests, places, n, current = bytearray(), array("q"), 0, _Words()
    for pieces in paragraphs(parts):
        current.add(pieces[0])
        for piece in pieces[1:]:
            if current.length > LONG:
                digests += current.hash.digest()
                places.append(n)
            n, current = n + 1, _Words()
            current.add(piece)
    if current.length > LONG:
        digests += current.hash.digest()
        places.append(n)
    repeated, numbers = np.zeros(n + 1, bool), np.frombuffer(digests, np.uint64).reshape(-1, 2)
    order = np.lexsort(numbers.T)  # stable: of equal ones the first comes first
    same = (numbers[order[1:]] == numbers[order[:-1]]).all(axis=1)
    repeated[np.array(places, np.int64)[order[1:][same]]] = True
    return repeated


class _Words:
    """The length and the hash of a paragraph's words with a space between them, of a paragraph that comes in
    parts.
    """

    def __init__(self):
        self.length, self.hash, self.space = 0, hashlib.blake2b(digest_size=16), False

    def add(self, part):
        """The next part of the paragraph."""
        words = " ".join(part.split())
        if not words:
            self.space = self.space or bool(part)
            return
        if self.length and (self.space or part[0].isspace()):
            words = " " + words
        self.length += len(words)
        self.hash.update(words.encode("utf-8", "surrogatepass"))
        self.space = part[-1].isspace()


def drop(parts, repeated):
    """A text in parts without the paragraphs that are repeated, a blank line between the others:
    without_repeats in parts.
    """
    n = 0
    for pieces in paragraphs(parts):
        kept = ["" if repeated[n] else pieces[0]]
        kept += [piece for i, piece in enumerate(pieces[1:], n + 1) if not repeated[i]]
        n += len(pieces) - 1
        yield "\n\n".join(kept)


def _of_size(parts, size):
    """A text in parts → pieces of so many characters."""
    full = 0
    for part in parts:
        pieces = [part[: size - full], *(part[i : i + size] for i in range(size - full, len(part), size))]
        full = len(pieces[-1]) + (full if len(pieces) == 1 else 0)
        yield pieces


def _deal(pieces, glue, is_held):
    """Pieces → pairs of parts, each side's pieces glued together. is_held(done): the side of a piece after so
    many characters.
    """
    done, side, begun = 0, False, [True, False]
    for together in pieces:
        sides = ([], [])
        sides[side].append(together[0])
        done += len(together[0])
        for piece in together[1:]:
            done += len(glue)
            side = is_held(done)
            sides[side].append(glue + piece if begun[side] else piece)
            begun[side] = True
            done += len(piece)
        yield "".join(sides[0]), "".join(sides[1])


def _cut(parts, at):
    """A text in parts → pairs of parts: what is before a place, and the rest."""
    for part in parts:
        yield part[: max(0, at)], part[max(0, at) :]
        at -= len(part)
