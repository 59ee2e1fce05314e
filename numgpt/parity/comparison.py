"""Two runs of one batch side by side: a row for every parameter, value and gradient that both have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import rounding
from .forms import Run

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
    """

    stage: str
    name: str
    difference: float
    explained: float
    size: float
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference; NaN and infinity do not agree even with themselves."""
        return self.difference <= self.explained and math.isfinite(self.difference)

    def __str__(self) -> str:
        size = self.size or 1.0
        note = f"  {self.note}" if self.note else ""
        return (
            f"{self.stage:9}  {self.name:24}  {self.difference / size:10.1e}  {self.explained / size:10.1e} "
            f" {'ok' if self.agrees else 'DIFFERS'}{note}"
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
    """

    a: str
    b: str
    dtype: str
    rows: tuple[Row, ...]

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
        return "\n".join([head, *map(str, self.rows), "", self.summary])

    @property
    def summary(self) -> str:
        """How many rows of each stage agree, in a line."""
        counts = []
        for stage in dict.fromkeys(r.stage for r in self.rows):
            agreements = [r.agrees for r in self.rows if r.stage == stage]
            counts.append(f"{sum(agreements)} of {len(agreements)} {stage}s agree")
        return ", ".join(counts)


def first(rows: Iterable[Row]) -> Row | None:
    """The first Row that differs, in the order of its stage; None where all agree."""
    return min((r for r in rows if not r.agrees), key=lambda r: ORDER[r.stage], default=None)


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
    return Row(stage, name, difference, explained, rounding.rms(a), note)
