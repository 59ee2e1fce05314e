"""Two runs of one batch side by side: a row for every parameter, value and gradient that both have."""

import math
from dataclasses import dataclass

import numpy as np

from . import rounding

ORDER = {"value": 0, "gradient": 1, "update": 2, "parameter": 3}  # in which a difference is looked for


class ParityError(AssertionError):
    """Two models that should give the same do not."""


@dataclass(frozen=True)
class Row:
    """One name in both models: how far apart they are, root mean square, and how far rounding explains."""

    stage: str  # parameter, value, gradient or update
    name: str
    difference: float
    explained: float
    size: float  # of A's array
    note: str = ""

    @property
    def agrees(self):
        """Whether rounding explains the difference; NaN and infinity no, also where both sides have them."""
        return self.difference <= self.explained and math.isfinite(self.difference)

    def __str__(self):
        size = self.size or 1.0
        return (
            f"{self.stage:9}  {self.name:24}  {self.difference / size:10.1e}  {self.explained / size:10.1e} "
            f" {'ok' if self.agrees else 'DIFFERS'}{self.note and '  ' + self.note}"
        )


@dataclass(frozen=True)
class Comparison:
    """What compare found: titles of both sides, and a Row for each name that both have, in the order of
    computation.
    """

    a: str
    b: str
    dtype: str
    rows: tuple

    @property
    def first(self):
        """The first Row that differs, values before gradients, parameters last; None where all agree."""
        return first(self.rows)

    def check(self):
        """Raise ParityError where something differs."""
        if self.first is not None:
            raise ParityError(
                f"{self.b} parts from {self.a} at {self.first.stage} {self.first.name}: "
                + " ".join(str(self.first).split()[2:])
            )

    def __str__(self):
        head = (
            f"A  {self.a}\nB  {self.b}\n\n{'what':9}  {'name':24}  difference   explained  (of A's size, root"
            f" mean square, {self.dtype})"
        )
        return "\n".join([head, *map(str, self.rows), "", self.summary])

    @property
    def summary(self):
        """One line a stage: how many agree."""
        stages = list(dict.fromkeys(r.stage for r in self.rows))
        counts = [
            (s, sum(r.stage == s and r.agrees for r in self.rows), sum(r.stage == s for r in self.rows))
            for s in stages
        ]
        return ", ".join(f"{good} of {total} {stage}s agree" for stage, good, total in counts)


def first(rows):
    """The first Row that differs, in the order of its stage; None where all agree."""
    return min((r for r in rows if not r.agrees), key=lambda r: ORDER[r.stage], default=None)


def rows(a, b, explained, dtype):
    """A Row for every name that two Runs have in common. explained: what rounding.explained gave for A's form
    and the dtype.
    """
    own, theirs = a.named(), b.named()
    params = [
        _row("parameter", n, x, b.params[n], rounding.TIMES * rounding.unit(dtype) * rounding.rms(x))
        for n, x in a.params.items()
        if n in b.params
    ]
    return (
        *params,
        *(
            _row(*key, x, theirs[key], explained[key])
            for key, x in own.items()
            if key in theirs and key in explained
        ),
    )


def _row(stage, name, a, b, explained):
    """The Row of one name; arrays of which one is longer along one axis are compared where both are."""
    a, b, note = np.asarray(a), np.asarray(b), ""
    if a.shape != b.shape:
        note = f"A's shape is {a.shape}, B's {b.shape}"
        if a.ndim != b.ndim or sum(m != n for m, n in zip(a.shape, b.shape)) > 1:
            return Row(stage, name, np.inf, explained, rounding.rms(a), note)
        common = tuple(slice(min(m, n)) for m, n in zip(a.shape, b.shape))
        a, b, note = a[common], b[common], f"{note}: compared where both are"
    difference = rounding.rms(np.subtract(a, b, dtype=np.float64))
    return Row(stage, name, difference, explained, rounding.rms(a), note)
