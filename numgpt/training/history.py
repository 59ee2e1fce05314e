"""History: what a run has measured so far, and the warnings that follow from it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import numpy as np

from .. import engine
from ..architecture.parameters import Flat
from .log import Entry

GROWTH = 1e4  # of the largest |weight| since the start: no training that works comes near it
RISES = 3  # of the held-out loss in a row, after which a model overfits


class History:
    """The held-out losses of a run, and the largest weight at its start."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, float]] = []  # (step, held-out loss)
        self.largest: float | None = None  # |weight| at the start
        self.warned = False  # that a weight is too large

    def take_over(self, entries: Sequence[Entry]) -> None:
        """Go on from the entries of a log, which may hold anything; not where something is known already."""
        if self.losses:
            return
        measured = [entry for entry in entries if "held_out_loss" in entry]
        numbers = [[e[name] for name in ("step", "held_out_loss")] for e in measured]
        if all(isinstance(n, int | float) for pair in numbers for n in pair):
            self.losses = [(int(step), float(loss)) for step, loss in numbers]
        start = measured[0].get("largest_weight") if measured else None
        if isinstance(start, float) and start > 0:
            self.largest = start

    def add(self, step: int, loss: float) -> Entry:
        """Note a held-out loss, in the place of those from this step on; the log says what follows."""
        self.losses = [(earlier, before) for earlier, before in self.losses if earlier < step]
        self.losses.append((step, loss))
        since = overfitting_since(self.losses)
        return {} if since is None else {"overfitting_since": since}

    def largest_weight(self, step: int, params: Flat) -> float:
        """The largest |weight|; a warning once it is far beyond what it was at the start."""
        largest = float(engine.home(np.maximum(params.flat.max(), -params.flat.min())))
        if self.largest is None:
            self.largest = largest
        if largest > GROWTH * self.largest and not self.warned:
            self.warned = True
            warnings.warn(
                f"step {step}: the largest weight is {largest:.3g}, and was {self.largest:.3g} at the start:"
                " such a model has diverged, however its loss looks; lower --lr",
                stacklevel=3,
            )
        return largest


def overfitting_since(losses: Sequence[tuple[int, float]]) -> int | None:
    """The step after which the held-out loss has risen three times in a row, as soon as it has; else None.

    >>> overfitting_since([(0, 4.0), (10, 2.0), (20, 2.1), (30, 2.2), (40, 2.3)])
    10
    """
    last = [loss for _, loss in losses[-RISES - 2 :]]
    rises = [a < b for a, b in itertools.pairwise(last)]
    if len(rises) < RISES or not all(rises[-RISES:]) or (len(rises) > RISES and rises[0]):
        return None
    return losses[-RISES - 1][0]
