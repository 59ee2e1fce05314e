"""Runs that learn from rewards: what their responses earned, and how far they went from the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import Size, checked
from ..errors import InputError
from . import style
from .lines import Axis, Over, finish, labelled
from .runs import Run, opened


class Panel(NamedTuple):
    """A column of the log, and what its panel says."""

    column: str
    title: str
    unit: str


SHARE = "share"  # the unit of what is drawn from 0 on
LEAST = 0.05  # of the height of such a panel: a share that is 0 throughout lies on its axis

PANELS = (
    Panel("reward", "reward", "mean reward"),
    Panel("kl", "divergence from the beginning", "KL (nats per response)"),
    Panel("entropy", "entropy", "nats per token"),
    Panel("length", "length of responses", "tokens"),
    Panel("ended", "responses that ended", SHARE),
    Panel("clip_fraction", "clipped tokens", SHARE),
    Panel("no_signal", "groups without signal", SHARE),
    Panel("explained_variance", "what the critic knew", "explained variance"),
)


@checked
def rewards(runs: Any, figure: Any = None, *, x: Over = "step", smooth: Size = 1) -> Any:
    """What the iterations of runs earned that learn from rewards, at which divergence, and how: a panel each.

    Parameters
    ----------
    runs : Run, path, sequence of them, or mapping of names to them
        The legend says in which settings they differ.
    figure : matplotlib figure, optional
        To draw into; a new one unless given.
    x : "step", "tokens" or "seconds", default "step"
        What is drawn over.
    smooth : int, default 1
        Each number is the mean over so many last iterations.

    Returns
    -------
    matplotlib figure
        With lines called by gids: ``reward 0``, ``kl 0`` and so on of the first run. Panels of which no run
        knows a number are left out.

    Raises
    ------
    InputError
        Where matplotlib is not installed, or a run has no rewards.
    """
    several = opened("rewards", runs)
    for run in several:
        if not run.has_rewards:
            raise InputError(f"{run.name}: its log has no rewards, expected those of numgpt tune grpo or ppo")
    shown = [panel for panel in PANELS if any(_is_known(run, panel) for run in several)]
    with style.styled():
        rows = 2
        columns = -(-len(shown) // rows)
        figure = style.figure_of("rewards", figure, (3.6 * columns, 6.4))
        axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True).ravel())
        for panel, ax in zip(shown, axes):
            _draw(panel, ax, several, Axis(x, smooth))
        for ax in axes[len(shown) :]:
            ax.set_axis_off()
        if len(several) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=min(len(several), columns))
    return figure


def _is_known(run: Run, panel: Panel) -> bool:
    return bool(np.isfinite(of_iterations(run, panel.column)).any())


def _draw(panel: Panel, ax: Any, runs: Sequence[Run], axis: Axis) -> None:
    """A line for each run."""
    for n, (run, label) in enumerate(zip(runs, labelled(runs))):
        colour, _, dash = style.look(n)
        ax.plot(
            axis.place(run, run.rewards["step"]),
            axis.mean(of_iterations(run, panel.column)),
            color=colour,
            linestyle=dash,
            linewidth=1.2,
            label=label,
            gid=f"{panel.column} {n}",
        )
    if panel.unit == SHARE:
        highest = max(float(np.nanmax([0.0, *of_iterations(run, panel.column)])) for run in runs)
        top = 1.05 * max(highest, LEAST)
        ax.set_ylim(-0.03 * top, top)
    ax.tick_params(labelbottom=True)  # which sharing an axis leaves out
    finish(ax, panel.title, panel.unit, axis.x)


def of_iterations(run: Run, column: str) -> NDArray[np.float64]:
    """A number for each iteration. Tokens are clipped in each of its steps: of them it is the mean.

    In the first step nothing can be clipped: the policy is the one that has sampled.
    """
    if column in run.rewards:
        return run.rewards[column]
    values, steps = run.training[column], run.training["step"]
    begins = np.searchsorted(steps, run.rewards["step"])
    parts = np.split(values, begins[1:])
    return np.array([_mean(part[begin:]) for part, begin in zip(parts, [begins[0], *[0] * len(parts)])])


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan
