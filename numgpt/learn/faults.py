"""The checker checked: every known fault is planted in every solution, and must be called by its name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from . import starting
from .exercise import Exercise, Fault
from .exercises import NAMES
from .judging import judge
from .variation import exercise
from .verdict import Report


class Planted(NamedTuple):
    """A fault in an exercise, and what the checker said of it."""

    exercise: Exercise
    fault: Fault
    report: Report

    @property
    def named(self) -> bool:
        """Whether it was called by all of its names, and no other."""
        return set(self.report.codes) == set(self.fault.codes)


def plant(names: Iterable[str] = (), student: str = "") -> Iterator[Planted]:
    """Every fault of the exercises, or of some of them, judged."""
    for name in names or NAMES:
        wanted = exercise(name, student)
        for fault, text in starting.wrong(wanted):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield Planted(wanted, fault, judge(wanted, starting.loaded(wanted, text)))


def accepted(names: Iterable[str] = (), student: str = "") -> Iterator[tuple[Exercise, Report]]:
    """Other right solutions of the exercises, judged."""
    for name in names or NAMES:
        wanted = exercise(name, student)
        for body in wanted.alternatives:
            text = starting.page(wanted, stub=False, body=body)
            yield wanted, judge(wanted, starting.loaded(wanted, text))


def table(names: Iterable[str] = (), student: str = "") -> tuple[str, bool]:
    """(the counts an exercise in a table, with what was not named; whether none was called right)."""
    rows: list[tuple[str, ...]] = [("exercise", "faults", "named", "called right", "other forms", "accepted")]
    rest = []
    counts = np.zeros(5, int)
    for name in names or NAMES:
        planted, others = list(plant([name], student)), list(accepted([name], student))
        row = [len(planted), sum(p.named for p in planted), sum(p.report.right for p in planted)]
        row += [len(others), sum(report.right for _, report in others)]
        counts += row
        rows.append((name, *map(str, row)))
        rest += [
            f"{name}: {p.fault.seen}: expected {', '.join(p.fault.codes)}, got {', '.join(p.report.codes)}"
            for p in planted
            if not p.named
        ]
    rows.append(("all", *map(str, counts)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines.append(
        f"{100 * counts[1] / counts[0]:.1f} % of {counts[0]} faults are named, {counts[2]} called right"
    )
    return "\n".join([*lines, *rest]), bool(counts[2] == 0 and counts[3] == counts[4])
