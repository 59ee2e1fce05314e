"""The search for the cause that moves the first difference of two models on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from . import rounding
from .batch import Batch
from .causes import Cause, local
from .comparison import Row, computed, rows
from .forms import Form, Run

SMALLER = 30  # times: a cause that shrinks the first difference by so much is one, though something is left
# Times what rounding explains of A, or B's last digit: more than rounding explains of a changed form, which
# is measured only where that is close.
ROOM = 1000


class Attempt(NamedTuple):
    """A cause that was tried: the changed form, and the first Row in which it still differs from B."""

    cause: Cause | None  # None: one that acts in a single place
    text: str
    form: Form
    left: Row | None


class Search:
    """The rows of two Runs in the order of their computation, and the first that is to be explained."""

    def __init__(
        self, runs: tuple[Run, Run], batch: Batch, compared: Iterable[Row], left: Row, dtype: np.dtype[Any]
    ) -> None:
        self.runs, self.batch, self.left, self.dtype = runs, batch, left, dtype
        ours = computed(compared)
        self.places = {(r.stage, r.name): n for n, r in enumerate(ours)}
        theirs = runs[1].named()
        # more than what rounding explains of any form near A, so that most forms need not be measured
        self.wide_limits = {
            (r.stage, r.name): ROOM
            * max(r.explained, rounding.unit(dtype) * rounding.rms(theirs[r.stage, r.name]))
            for r in ours
        }

    def place(self, row: Row) -> int:
        """Where a row stands in A's order; that of a changed form may be another."""
        return self.places.get((row.stage, row.name), len(self.places))

    def first_left(self, run: Run, limits: Mapping[tuple[str, str], float]) -> Row | None:
        """The first Row in which a changed form's Run differs from B."""
        differing = [r for r in computed(rows(run, self.runs[1], limits, self.dtype)) if not r.agrees]
        return min(differing, key=self.place, default=None)

    def moves_on(self, row: Row | None) -> bool:
        """Whether the first difference is now a later one, or the same and far smaller."""
        if row is None or self.place(row) > self.place(self.left):
            return True
        is_same = self.place(row) == self.place(self.left)
        return is_same and row.difference * SMALLER < self.left.difference

    def attempts(self, form: Form, causes: Iterable[Cause]) -> Iterator[tuple[Cause | None, str, Form]]:
        """(cause, what it is, changed form) of all that may explain the first difference."""
        everywhere = ((cause, *tried) for cause in causes for tried in cause(form, *self.runs))
        here: Iterable[tuple[Cause | None, str, Form]] = ()
        if self.left.stage == "value":
            here = ((None, *tried) for tried in local(form, *self.runs, self.left.name))
        return itertools.chain(everywhere, here)


def best_cause(search: Search, form: Form, causes: Iterable[Cause]) -> Attempt | None:
    """The cause that explains most; None where none moves the first difference on."""
    from tqdm import tqdm  # late: without it everything else of the room works

    best: Attempt | None = None
    best_score = (-1, 0.0)
    attempts = search.attempts(form, causes)
    for cause, text, changed in tqdm(attempts, "causes tried", unit="", leave=False, disable=None):
        try:
            run = changed.run(*search.batch)
        except InputError:  # a form that does not fit the batch
            continue
        if not search.moves_on(search.first_left(run, search.wide_limits)):
            continue
        left = search.first_left(run, rounding.explained(changed, *search.batch, search.dtype, run))
        if left is None:
            return Attempt(cause, text, changed, None)
        score = search.place(left), -left.difference / (left.size or 1.0)
        if search.moves_on(left) and (best is None or score > best_score):
            best, best_score = Attempt(cause, text, changed, left), score
    return best
