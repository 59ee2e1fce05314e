"""What a verdict says: an Element that is wrong, an ArgumentVerdict, and the Verdict with its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import kinks
from .pair import title
from .witness import Witness

PHRASES = {
    "right": "correct",
    "rounding": "correct (differs by rounding only)",
    "missing": "missing",
    "wrong": "wrong",
}  # from best to worst
WORDS = tuple(PHRASES)
SHOWN = 3  # wrong elements of an argument


@dataclass(frozen=True)
class Element:
    """One element of a gradient: where, what it should be, what it is, and their distance."""

    index: tuple[int, ...]
    expected: float
    got: float
    ulps: float

    def __str__(self) -> str:
        place = f"[{', '.join(map(str, self.index))}]" if self.index else "its value"
        digits = 9 if abs(self.got - self.expected) > 1e-6 * abs(self.expected) else 17
        return (
            f"{place} expected {self.expected:.{digits}g}, got {self.got:.{digits}g}, {self.ulps:.2g}"
            " ulps off"
        )


@dataclass(frozen=True)
class ArgumentVerdict:
    """The verdict on the gradient of one argument.

    Attributes
    ----------
    index, name, shape
        Which argument; name is None where the forward does not give it one.
    word : {"right", "rounding", "missing", "wrong"}
        "right": each element is within 4 floats of the exact one, or no further off than the witness may be.
        "rounding": further off, but within what rounding explains. "wrong": beyond that; "missing": beyond
        that, because the elements get exactly 0.
    ulps, limit, doubt : float
        Of the element that is furthest beyond, or nearest to, its limit: how far it is off, how far it may
        be, and how much of that is the witness's own error; in the ulps of ulps.py.
    examined : int
        How many elements were looked at.
    wrong : tuple of indices
        The elements beyond rounding, among those examined; of a gradient that is missing too.
    worst : tuple of Element
        The first few of them, or the element that is furthest off.
    pattern, note : str
        What the mistake looks like, and what else is to be known; "" for nothing.
    kinks : tuple of indices
        The elements at which the function has no derivative, because left and right disagree, and whose
        gradient is one of the two or between: they are not among those examined.
    unknown : int
        How many other elements have no verdict, which the note says: the witness knows nothing of them, or
        they are 0 but for what may be rounding.
    """

    index: int
    name: str | None
    shape: tuple[int, ...]
    word: str
    ulps: float
    limit: float
    doubt: float
    examined: int
    wrong: tuple[tuple[int, ...], ...]
    worst: tuple[Element, ...]
    pattern: str = ""
    note: str = ""
    kinks: tuple[tuple[int, ...], ...] = ()
    unknown: int = 0

    @property
    def title(self) -> str:
        """The argument's name, or "argument 1" where it has none."""
        return title(self.index, self.name)

    @property
    def size(self) -> int:
        """How many elements the gradient has."""
        return int(np.prod(self.shape))

    def __str__(self) -> str:
        size = f"{self.size:,} element{'s' * (self.size != 1)}"
        sample = f"{self.examined:,} sampled of {size}" if self.examined < self.size else size
        explained = f"rounding explains {self.limit - self.doubt:.2g}"
        if self.doubt > 1:
            explained += f", and the witness may be off by {self.doubt:.2g}"
        if self.wrong:
            parts = [
                f"{self.word} in {len(self.wrong):,} of {sample} ({explained} ulps)",
                *map(str, self.worst),
            ]
        else:
            parts = [PHRASES[self.word], f"{sample}, at most {self.ulps:.2g} ulps off where {explained}"]
        return f"{self.title}: " + "; ".join([*parts, *filter(None, (self.pattern, self.note))])


@dataclass(frozen=True, repr=False)
class Verdict:
    """The verdict on a backward: an ArgumentVerdict for each array of floats; prints as a short table.

    Attributes
    ----------
    arguments : tuple of ArgumentVerdict
        In the forward's order; verdict["weight"] and verdict[1] pick one.
    dtype : dtype
        In which the pair was run.
    witness : Witness
        What the gradients were compared with.
    known : float
        How far the witness may be off, on the whole, relative to the terms.
    """

    arguments: tuple[ArgumentVerdict, ...]
    dtype: np.dtype[Any]
    witness: Witness
    known: float

    @property
    def word(self) -> str:
        """The worst word of all arguments: "right", "rounding", "missing" or "wrong"."""
        return max((a.word for a in self.arguments), key=WORDS.index)

    @property
    def wrong(self) -> tuple[ArgumentVerdict, ...]:
        """The arguments whose gradient is wrong, or missing."""
        return tuple(a for a in self.arguments if a.wrong)

    @property
    def missing(self) -> tuple[ArgumentVerdict, ...]:
        """The arguments whose gradient is wrong only in that elements of it, or all, do not arrive."""
        return tuple(a for a in self.arguments if a.word == "missing")

    @property
    def kinks(self) -> str:
        """At which elements the function has no derivative, in a sentence; "" for none."""
        return "; ".join(kinks.sentence(a.title, a.kinks) for a in self.arguments if a.kinks)

    def __getitem__(self, key: int | str) -> ArgumentVerdict:
        """The ArgumentVerdict of an argument, by its index or its name."""
        for argument in self.arguments:
            if key in (argument.index, argument.name):
                return argument
        known = ", ".join(a.title for a in self.arguments)
        raise KeyError(f"the verdict has no argument {key!r}, expected one of {known}")

    def summary(self) -> str:
        """What is wrong in one paragraph, or the verdict in a sentence."""
        if self.wrong:
            return ". ".join(map(str, self.wrong))
        unknown = "".join(f"; {a.title}: {a.note}" for a in self.arguments if a.unknown)
        if self.word == "right":
            return f"all gradients are correct{unknown}"
        return f"all gradients are correct (they differ by rounding only){unknown}"

    def __str__(self) -> str:
        why = f"; {self.witness.why}" if self.witness.why else ""
        head = (
            f"{self.dtype} gradients: {PHRASES[self.word]}."
            f" Witness: {self.witness}, good to {self.known:.0e}{why}"
        )
        rows = [("argument", "shape", "ulps off", "allowed", "verdict")]
        rows += [(a.title, str(a.shape), f"{a.ulps:.2g}", f"{a.limit:.2g}", _told(a)) for a in self.arguments]
        widths = [max(map(len, column)) for column in zip(*rows)][:-1]
        lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]
        return "\n".join([head, *(f"  {line}" for line in lines), *(f"  {a}" for a in self.wrong)])

    __repr__ = __str__


def _told(argument: ArgumentVerdict) -> str:
    """A verdict in a cell of the table, with the note where no line below has it."""
    if argument.wrong:
        return f"{argument.word} in {len(argument.wrong):,} of {argument.examined:,}"
    return "; ".join(filter(None, (PHRASES[argument.word], argument.note)))
