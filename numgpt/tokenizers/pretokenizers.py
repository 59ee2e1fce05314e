"""How a text is cut before tokens are joined: the pre-tokenizers of a tokenizer.json that are known here.

Each takes pieces of a text and gives smaller ones; a piece without characters is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import InputError
from .entries import Entry, flag, kind, prepend_scheme, short, steps, text
from .patterns import Pattern
from .spelling import spell
from .tokenizer import utf8
from .two_libraries import expression


class Span(NamedTuple):
    """A stretch of a piece: what a pattern matches, or what stands between two matches."""

    start: int
    end: int
    is_match: bool


Cutter = Callable[[str, bool], Iterable[str]]  # (a piece, whether the text begins with it) → its pieces


def read(part: Any, is_normalized: bool) -> list[Cutter]:
    """The functions of a pre-tokenizer, in order; none for null.

    is_normalized: whether a normalizer goes before. InputError names what is not known here.
    """
    members = steps(part, "pretokenizers")
    for step in members:
        if kind(step) not in PRETOKENIZERS:
            raise InputError(
                f"its pre_tokenizer is {kind(step)}, expected {', '.join(PRETOKENIZERS)}, or several of them"
                " in a Sequence: others are not supported"
            )
    late = members if is_normalized else members[1:]
    if any(kind(step) == "Metaspace" and step.get("prepend_scheme") == "first" for step in late):
        raise InputError(
            "its Metaspace has prepend_scheme first behind a normalizer or another pre_tokenizer, expected"
            " always, never, or nothing before it: their library asks which piece came first in the text as"
            " it was"
        )
    return [PRETOKENIZERS[kind(step)](step) for step in members]


def cut(text: str, cutters: Iterable[Cutter], begins: bool) -> list[str]:
    """The pieces of a text, one cutter after the other. begins: whether nothing stands before the text."""
    pieces = [text] if text else []
    for cutter in cutters:
        new: list[str] = []
        for number, piece in enumerate(pieces):
            new += [part for part in cutter(piece, begins and number == 0) if part]
        pieces = new
    return pieces


def spans(pattern: Pattern, piece: str, invert: bool = False) -> Iterator[Span]:
    """The stretches of a piece in order. invert: what stands between counts as what matches."""
    place = 0
    for start, end in pattern.spans(piece):
        if place < start:
            yield Span(place, start, invert)
        yield Span(start, end, not invert)
        place = end
    if place < len(piece):
        yield Span(place, len(piece), invert)


def _removed(found: Iterable[Span]) -> Iterator[Span]:
    """What does not match."""
    return (span for span in found if not span.is_match)


def _with_previous(found: Iterable[Span]) -> list[Span]:
    """What matches goes with what stands before it; of several in a row, the first."""
    joined: list[Span] = []
    after_match = False
    for span in found:
        if span.is_match and not after_match and joined:
            joined[-1] = joined[-1]._replace(end=span.end)
        else:
            joined.append(span)
        after_match = span.is_match
    return joined


def _with_next(found: Iterable[Span]) -> list[Span]:
    """What matches goes with what stands behind it; of several in a row, the last."""
    joined: list[Span] = []
    before_match = False
    for span in reversed(list(found)):
        if span.is_match and not before_match and joined:
            joined[-1] = joined[-1]._replace(start=span.start)
        else:
            joined.append(span)
        before_match = span.is_match
    return joined[::-1]


def _contiguous(found: Iterable[Span]) -> list[Span]:
    """Neighbours that both match are one."""
    joined: list[Span] = []
    for span in found:
        if joined and joined[-1].is_match == span.is_match:
            joined[-1] = joined[-1]._replace(end=span.end)
        else:
            joined.append(span)
    return joined


# What a Split does with what matches, as its file calls it.
BEHAVIORS: dict[str, Callable[[Iterable[Span]], Iterable[Span]]] = {
    "Isolated": lambda found: found,
    "Removed": _removed,
    "MergedWithPrevious": _with_previous,
    "MergedWithNext": _with_next,
    "Contiguous": _contiguous,
}


def _splitter(pattern: Pattern, behavior: str, invert: bool = False) -> Cutter:
    join = BEHAVIORS[behavior]
    return lambda piece, begins: [piece[s.start : s.end] for s in join(spans(pattern, piece, invert))]


def _split(step: Entry) -> Cutter:
    behavior = step.get("behavior")
    if not isinstance(behavior, str) or behavior not in BEHAVIORS:
        raise InputError(
            f"its Split has behavior {short(behavior, 40)}, expected one of {', '.join(BEHAVIORS)}"
        )
    return _splitter(Pattern(expression(step.get("pattern"), "Split")), behavior, flag(step, "invert"))


def _digits(step: Entry) -> Cutter:
    return _splitter(Pattern(r"\p{N}"), "Isolated" if flag(step, "individual_digits") else "Contiguous")


def _metaspace(step: Entry) -> Cutter:
    """Spaces become a character, which begins a word; the text gets one before it."""
    mark, scheme = text(step, "replacement", is_character=True), prepend_scheme(step)
    words = _splitter(Pattern(expression({"String": mark}, "Metaspace")), "MergedWithNext")
    is_split = flag(step, "split", absent=True)

    def cut(piece: str, begins: bool) -> Iterable[str]:
        piece = piece.replace(" ", mark)
        if not piece.startswith(mark) and (scheme == "always" or (scheme == "first" and begins)):
            piece = mark + piece
        return words(piece, begins) if is_split else [piece]

    return cut


def _byte_level(step: Entry) -> Cutter:
    """GPT-2's pattern, unless it is switched off; then the bytes of each piece, spelled as in its files."""
    adds_space, is_split = flag(step, "add_prefix_space"), flag(step, "use_regex", absent=True)
    pattern = Pattern("gpt2")

    def cut(piece: str, begins: bool) -> Iterable[str]:
        piece = " " + piece if adds_space and not piece.startswith(" ") else piece
        return (spell(utf8(part)) for part in (pattern.split(piece) if is_split else [piece]))

    return cut


# A pre-tokenizer's type → what makes it of its entry in the file.
PRETOKENIZERS: dict[str, Callable[[Entry], Cutter]] = {
    "ByteLevel": _byte_level,
    "Digits": _digits,
    "Metaspace": _metaspace,
    "Split": _split,
}
