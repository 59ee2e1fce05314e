"""Two runs of one batch side by side: a row for every parameter, value and gradient that both have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..gradcheck.places import index, reached
from . import rounding
from .forms import Run

# Elements that are 0 on one side of arrays that agree by their root mean square are missing where the other
# side has so many times what rounding explains, in one of so many elements.
FAR, SHARE = 8, 50
ORDER = {"value": 0, "gradient": 1, "update": 2, "parameter": 3}  # in which a difference is looked for


class ParityError(AssertionError):
    """Two models that should give the same do not."""


@dataclass(frozen=True)
class Row:
    """One name in both models.

    Attributes
    ----------
    stage : {"parameter", "value", "gradient", "update"}
        What is compared under the name.
    name : str
        numgpt's.
    difference, explained, size : float
        How far the two are apart, how much of that rounding explains, and how large A's array is: root mean
        squares.
    note : str
        Where the shapes differ.
    missing : str
        Of a gradient, the side that lacks some of it, and how much it reaches; "" where neither does.
    worst : str
        The element in which the two differ most, where they differ.
    """

    stage: str
    name: str
    difference: float
    explained: float
    size: float
    note: str = ""
    missing: str = ""
    worst: str = ""

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference; NaN and infinity do not agree even with themselves."""
        is_explained = self.difference == 0 or self.difference <= self.explained
        return is_explained and math.isfinite(self.difference) and not self.missing

    @property
    def verdict(self) -> str:
        """ "ok", "DIFFERS", or "MISSING" of a gradient that differs by what does not arrive alone."""
        if self.agrees:
            return "ok"
        return "MISSING" if self.missing else "DIFFERS"

    def __str__(self) -> str:
        size = self.size or 1.0
        notes = "".join(f"  {note}" for note in (self.note, self.missing or self.worst) if note)
        return (
            f"{self.stage:9}  {self.name:24}  {self.difference / size:10.1e}  {self.explained / size:10.1e} "
            f" {self.verdict}{notes}"
        )


@dataclass(frozen=True)
class Comparison:
    """What compare returns: a Row for each name that both sides have, in the order of computation.

    Attributes
    ----------
    a, b : str
        The titles of both sides.
    dtype : str
        Whose rounding counts.
    rows : tuple of Row
    warnings : tuple of str
        Where the comparison says little: parts that are not compared, and inputs that hide mistakes.
    cut : str
        Where a gradient that is missing is lost, "" where none is.
    """

    a: str
    b: str
    dtype: str
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    cut: str = ""

    @property
    def missing(self) -> tuple[Row, ...]:
        """The gradients that do not arrive on one side, or not everywhere; the nearest to the loss first."""
        return tuple(r for r in self.rows if r.missing)

    @property
    def first(self) -> Row | None:
        """The first Row that differs, values before gradients, parameters last; None where all agree."""
        return first(self.rows)

    def check(self) -> None:
        """Raise ParityError where something differs."""
        if self.first is not None:
            raise ParityError(
                f"{self.b} parts from {self.a} at {self.first.stage} {self.first.name}: "
                + " ".join(str(self.first).split()[2:])
            )

    def __str__(self) -> str:
        columns = f"{'what':9}  {'name':24}  difference   explained"
        unit = f"(of A's size, root mean square, {self.dtype})"
        head = f"A  {self.a}\nB  {self.b}\n\n{columns}  {unit}"
        warnings = [f"warning: {text}" for text in self.warnings]
        return "\n".join([head, *map(str, self.rows), "", self.summary, *warnings])

    @property
    def summary(self) -> str:
        """How many rows of each stage agree, in a line."""
        counts = []
        for stage in dict.fromkeys(r.stage for r in self.rows):
            agreements = [r.agrees for r in self.rows if r.stage == stage]
            counts.append(f"{sum(agreements)} of {len(agreements)} {stage}s agree")
        if self.missing:
            counts.append(f"{len(self.missing)} gradient{'s' * (len(self.missing) > 1)} missing")
        return ", ".join(counts)


def first(rows: Iterable[Row]) -> Row | None:
    """The first Row that differs, in the order of its stage; None where all agree."""
    return min((r for r in rows if not r.agrees), key=lambda r: ORDER[r.stage], default=None)


def cut(rows: Iterable[Row], a: Run, b: Run) -> str:
    """Where the first gradient that is missing is lost, "" where none is.

    A program in which no parameter acts on a value has lost the gradient before it: of several such values
    in a row the cut is in what gives the earliest.
    """
    constants = a.constants | b.constants
    missing = [r.name for r in rows if r.missing]
    behind = list(itertools.takewhile(lambda name: name in constants, missing))
    if behind:
        return f"where {behind[-1]} is computed"
    return f"where {missing[0]} is used" if missing else ""


def computed(rows: Iterable[Row]) -> list[Row]:
    """The rows of what was computed, not given."""
    return [r for r in rows if r.stage != "parameter"]


def rows(a: Run, b: Run, explained: Mapping[tuple[str, str], float], dtype: DTypeLike) -> tuple[Row, ...]:
    """A Row for every name that two Runs share.

    explained: what rounding.explained gave for A's form and the dtype.
    """
    one_rounding = rounding.TIMES * rounding.unit(dtype)
    params = [
        _row("parameter", name, array, b.params[name], one_rounding * rounding.rms(array))
        for name, array in a.params.items()
        if name in b.params
    ]
    theirs = b.named()
    computed = [
        _row(*key, array, theirs[key], explained[key])
        for key, array in a.named().items()
        if key in theirs and key in explained
    ]
    return *params, *computed


def _row(stage: str, name: str, a: Any, b: Any, explained: float) -> Row:
    """The Row of one name; arrays of which one is longer along one axis are compared where they overlap."""
    a, b, note = np.asarray(a), np.asarray(b), ""
    if a.shape != b.shape:
        note = f"A's shape is {a.shape}, B's {b.shape}"
        if a.ndim != b.ndim or sum(m != n for m, n in zip(a.shape, b.shape)) > 1:
            return Row(stage, name, np.inf, explained, rounding.rms(a), note)
        overlap = tuple(slice(min(m, n)) for m, n in zip(a.shape, b.shape))
        a, b = a[overlap], b[overlap]
        note = f"{note}: compared where they overlap"
    difference = rounding.rms(np.subtract(a, b, dtype=np.float64))
    missing = _missing(a, b, difference, explained) if stage == "gradient" else ""
    worst = ""
    if difference != 0 and not difference <= explained:
        worst = _worst(a, b)
    return Row(stage, name, difference, explained, rounding.rms(a), note, missing, worst)


def _worst(a: Any, b: Any) -> str:
    """The element in which two arrays differ most; one that is not a number comes first."""
    apart = abs(np.subtract(a, b, dtype=np.float64))
    apart = np.where(np.isnan(apart), np.inf, apart)
    at = np.unravel_index(int(apart.argmax()), apart.shape)
    return f"most at {index(apart == apart[at])}: {a[at]:.9g} in A, {b[at]:.9g} in B"


def _missing(a: Any, b: Any, difference: float, explained: float) -> str:
    """Which side's gradient lacks elements, and how many arrive; "" where none is missing.

    An element is missing where one side has exactly 0 and the other more than rounding explains of the array,
    if nothing else in the array differs. Where the arrays agree otherwise, it takes far more and in many
    elements: errors of single ones may be larger than their root mean square, and a rectifier may let one
    pass on one side only.
    """
    agrees = difference <= explained
    for side, own, other in (("B", b, a), ("A", a, b)):
        is_missing = (own == 0) & (abs(other) > (FAR * explained if agrees else explained))
        count = int(np.count_nonzero(is_missing))
        if not count or (agrees and count * SHARE < own.size):
            continue
        rest = np.where(is_missing, 0.0, np.subtract(a, b, dtype=np.float64))
        if rounding.rms(rest) <= explained:
            needed = (other != 0) if own.any() else np.ones(own.shape, bool)
            return f"missing in {side}: {reached((own == 0) & needed, needed)}"
    return ""
