"""Letters for the axes of every value and parameter, by the op lines of who made it and who reads it.

A linear map's line calls its axes I and O, whatever they are. Who made x knows what I is, and who reads y
says what O is: attention reads it as (3HD), a sum with the residual stream as C. What stands between two
linear maps alone is F, the features of the feed-forward layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..ops import Op

GENERIC = ("I", "O")  # letters that stand for whatever is there
HIDDEN = "F"  # an axis that only linear maps make and read
LONGEST = 64  # characters of an axis that anybody would write
_TERM = re.compile(r"(\d*)((?:[A-Z]\d*)*)")
Shape = tuple[int, ...]


class Axis:
    """An axis of one or several arrays; its text is found out when it is made, or when it is read."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.is_hidden = False
        self._same: Axis | None = None

    def found(self) -> Axis:
        """The axis that stands for all those that it turned out to be the same as."""
        return self if self._same is None else self._same.found()

    def is_called(self, text: str) -> None:
        """Take a name, unless there is one."""
        self.found().text = self.found().text or text

    def is_read_by_a_map(self) -> None:
        """A linear map sums over it."""
        self.found().is_hidden = True

    def is_same_as(self, other: Axis) -> None:
        """Both are one axis, where one of them has no name yet."""
        mine, theirs = self.found(), other.found()
        if mine is not theirs and not (mine.text and theirs.text):
            mine.is_called(theirs.text)
            mine.is_hidden |= theirs.is_hidden
            theirs._same = mine


Axes = tuple[Axis, ...]


def of_tokens(ndim: int) -> Axes:
    """The axes of ids (..., B, T): T is the last, B the one before it, further ones are numbered."""
    further = tuple(Axis(f"B{n}") for n in range(1, ndim - 1))
    return (*further, *map(Axis, "BT"[-ndim:] if ndim else ""))


def of_line(text: str) -> list[str]:
    """The axes that an entry of an op line names: ["T", "3HD"] of "...T(3HD)"."""
    text = re.sub("[<~][A-Z]", "", text)
    return [part.strip("()") for part in re.findall(r"[A-Z]|\([^()]+\)", text)]


def through(
    op: Op, inputs: Sequence[Axes | None], shapes: Sequence[Shape | None], tokens: Axes
) -> tuple[Axes, list[Axes]]:
    """(the axes of an op's value, those of each of its parameters), from those of its inputs.

    inputs: None for an array that has no name, whose axes then are those that the line gives it. shapes: of
    the inputs, None for one that is not there. tokens: the axes of the ids, which leading axes are taken to
    be.
    """
    local: dict[str, Axis] = {}
    lead: Axes | None = None
    for argument, axes, shape in zip(op.arguments, inputs, shapes):
        if shape is None:
            continue
        texts = of_line(argument.text)
        n = len(shape) - len(texts)
        if axes is None or len(axes) != len(shape):
            axes = (*_leading(n, texts, tokens), *(Axis("" if t in GENERIC else t) for t in texts))
        if argument.lead:
            lead = _met(lead, axes[:n])
        for text, axis in zip(texts, axes[n:]):
            _read(local, text, axis)
    inputs_end = len(op.arguments) - len(op.parameters)
    parameters = [_made(local, of_line(a.text)) for a in op.arguments[inputs_end:]]
    own = _made(local, of_line(op.result.text))
    return (*(lead or ()), *own) if op.result.lead else own, parameters


def _leading(n: int, texts: list[str], tokens: Axes) -> Axes:
    """n leading axes of an array without a name: those of the tokens, without T where the line has it."""
    known = tokens[:-1] if "T" in texts else tokens
    return known if len(known) == n else tuple(Axis() for _ in range(n))


def _met(lead: Axes | None, axes: Axes) -> Axes:
    """The leading axes, which are the same in all arrays."""
    if lead is None:
        return axes
    for mine, other in zip(lead, axes):
        mine.is_same_as(other)
    return lead


def _read(local: dict[str, Axis], text: str, axis: Axis) -> None:
    """An array's axis is what an op's line calls by text."""
    if text in GENERIC:
        axis.is_read_by_a_map()
    else:
        axis.is_called(text)
    if text in local:
        local[text].is_same_as(axis)
    local.setdefault(text, axis)


def _made(local: dict[str, Axis], texts: Iterable[str]) -> Axes:
    """Axes by the texts of a line: generic ones are those that the inputs have, or new."""
    return tuple(local.setdefault(t, Axis()) if t in GENERIC else Axis(t) for t in texts)


def size_of(text: str, sizes: Mapping[str, int]) -> int | None:
    """The size of an axis such as "3HD" or "KGD+2KD"; None where a letter's size is not known.

    >>> size_of("3HD", {"H": 2, "D": 4})
    24
    """
    total = 0
    if len(text) > LONGEST:
        return None
    for term in text.split("+"):
        match = _TERM.fullmatch(term)
        letters = re.findall(r"[A-Z]\d*", match[2]) if match else []
        if not match or not term or any(letter not in sizes for letter in letters):
            return None
        total += int(match[1] or 1) * math.prod(sizes[letter] for letter in letters)
    return total


def named(axes: Mapping[str, tuple[Axes, Shape]], sizes: dict[str, int]) -> dict[str, tuple[str, ...]]:
    """Name → the texts of its axes, each of which gives the axis' size; a number where no letter does.

    sizes: letter → size; those that are met here are added.
    """
    every = [(axis.found(), size) for of_one, shape in axes.values() for axis, size in zip(of_one, shape)]
    for hidden in (False, True):  # what has a name first: F is any other
        for axis, size in every:
            text = axis.text or (HIDDEN if axis.is_hidden and hidden else "")
            if re.fullmatch(r"[A-Z]\d*", text):
                sizes.setdefault(text, size)
    return {
        name: tuple(_shown(axis.found(), size, sizes) for axis, size in zip(of_one, shape))
        for name, (of_one, shape) in axes.items()
    }


def _shown(axis: Axis, size: int, sizes: Mapping[str, int]) -> str:
    """An axis' text where it gives the size, else the size."""
    text = axis.text or (HIDDEN if axis.is_hidden else "")
    return text if text and size_of(text, sizes) == size else str(size)


def fits(axes: Sequence[str], shape: Sequence[int], sizes: Mapping[str, int]) -> bool:
    """Whether axes are as many as a shape's, and each whose letters have a size gives it."""
    pairs: list[tuple[int | None, Any]] = [(size_of(text, sizes), size) for text, size in zip(axes, shape)]
    return len(axes) == len(shape) and all(known is None or known == size for known, size in pairs)
