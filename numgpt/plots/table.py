"""Table: the settings in which runs differ, beside what came of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arguments import checked
from .runs import Run, differing, opened, value_text

Cells = tuple[str, ...]


class Table(NamedTuple):
    """Rows of texts under a head; printed, they are aligned."""

    head: Cells
    rows: tuple[Cells, ...]

    def __repr__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        is_number = [all(_is_number(cell) for cell in column) for column in zip(*self.rows)]
        return "\n".join(_line(line, widths, is_number) for line in lines)


@checked
def table(runs: Any) -> Table:
    """A row for each run: the settings that differ, its steps, its best and its last losses, its speed.

    Of runs that all learn from rewards, the first and the last reward and the last divergence stand there.

    Parameters
    ----------
    runs : Run, path, sequence of them, or mapping of names to them

    Returns
    -------
    Table
        Print it.

    Examples
    --------
    >>> import numgpt
    >>> slow = numgpt.plots.Run("slow", [{"step": 1, "held_out_loss": 2.999}], {"lr": 0.001})
    >>> fast = numgpt.plots.Run("fast", [{"step": 1, "held_out_loss": 2.99}], {"lr": 0.01})
    >>> print(numgpt.plots.table([slow, fast]))
    run      lr  steps  best held-out  at step  last training  tokens/s
    slow  0.001      1         2.9990        1              –         –
    fast   0.01      1         2.9900        1              –         –
    """
    several = opened("table", runs)
    different = differing(several)
    rewarded = all(run.has_rewards for run in several)
    results = (
        ("steps", "first reward", "last reward", "last KL", "tokens/s")
        if rewarded
        else ("steps", "best held-out", "at step", "last training", "tokens/s")
    )
    results_of = _rewards if rewarded else _results
    rows = []
    for n, run in enumerate(several):
        settings = (value_text(values[n]) for values in different.values())
        rows.append((run.name, *settings, *results_of(run)))
    return Table(("run", *different, *results), tuple(rows))


def _results(run: Run) -> Cells:
    """What came of a run."""
    loss, at = ("–", "–") if run.best is None else (f"{run.best[1]:.4f}", f"{run.best[0]:,}")
    training = run.training["loss"][np.isfinite(run.training["loss"])]
    last = f"{training[-1]:.4f}" if training.size else "–"
    return f"{run.steps:,}", loss, at, last, _speed(run)


def _rewards(run: Run) -> Cells:
    """What came of a run that learns from rewards."""
    known = {name: column[np.isfinite(column)] for name, column in run.rewards.items()}
    reward, kl = known["reward"], known["kl"]
    last = f"{kl[-1]:.4f}" if kl.size else "–"
    return f"{run.steps:,}", f"{reward[0]:.4f}", f"{reward[-1]:.4f}", last, _speed(run)


def _speed(run: Run) -> str:
    """The median of tokens per second."""
    speed = run.training["tokens_per_s"][np.isfinite(run.training["tokens_per_s"])]
    return f"{np.median(speed):,.0f}" if speed.size else "–"


def _is_number(cell: str) -> bool:
    """Whether a cell stands to the right, as numbers do."""
    cell = cell.strip().removesuffix("*").lstrip("+-")
    return cell == "–" or cell.replace(",", "").replace(".", "").replace("e-", "").isdigit()


def _line(cells: Cells, widths: list[int], is_number: list[Any]) -> str:
    padded = [f"{c:>{w}}" if right else f"{c:{w}}" for c, w, right in zip(cells, widths, is_number)]
    return "  ".join(padded).rstrip()
