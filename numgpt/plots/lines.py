"""Lines over the steps of runs: loss, norm of the gradient, learning rate, tokens per second."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arguments import Size, checked
from ..errors import InputError
from . import style
from .runs import Run, expect_one_text, labels, opened

Over = Literal["step", "tokens", "seconds"]
OVER = {"step": "step", "tokens": "tokens read", "seconds": "seconds of training steps"}
FEW = 60  # measurements, each of which has a marker


@checked
def loss(runs: Any, ax: Any = None, *, x: Over = "step", smooth: Size = 1) -> Any:
    """The training and the held-out loss of runs, with a ring around the best of each.

    Parameters
    ----------
    runs : Run, path, sequence of them, or mapping of names to them
        The legend says in which settings they differ.
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.
    x : "step", "tokens" or "seconds", default "step"
        What the losses are drawn over. Seconds are those of the steps, without measurements and pauses.
    smooth : int, default 1
        The training loss is the mean over so many last steps.

    Returns
    -------
    matplotlib axes
        With lines called by gids: ``training 0``, ``held-out 0`` and ``best 0`` of the first run.

    Raises
    ------
    InputError
        Where matplotlib is not installed, a run has no loss, or no log of its tokens for x.
    """
    several = opened("loss", runs)
    expect_one_text(several)
    with style.styled():
        ax = style.axes_of("loss", ax)
        if len(several) > 1:
            mean = f", mean of {smooth} steps" if smooth > 1 else ""
            ax.plot([], [], color=style.GREY, linewidth=1.8, label="held-out loss")
            ax.plot([], [], color=style.GREY, linewidth=0.9, alpha=0.6, label=f"training loss{mean}")
        for n, (run, label) in enumerate(zip(several, labelled(several))):
            _losses(ax, n, run, label if len(several) > 1 else "", Axis(x, smooth))
        title = "loss" if len(several) > 1 else f"loss of {style.literal(several[0].name)}"
        finish(ax, title, "loss (nats per token)", x)
        ax.legend(loc="upper right")
    return ax


@checked
def gradient_norm(runs: Any, ax: Any = None, *, x: Over = "step", smooth: Size = 1) -> Any:
    """The norm of the gradient of each step of runs, before it is clipped.

    Parameters
    ----------
    runs, ax, x, smooth
        As in loss.

    Returns
    -------
    matplotlib axes
    """
    return _one("gradient_norm", runs, ax, "norm", Axis(x, smooth))


@checked
def learning_rate(runs: Any, ax: Any = None, *, x: Over = "step") -> Any:
    """The learning rate of each step of runs.

    Parameters
    ----------
    runs, ax, x
        As in loss.

    Returns
    -------
    matplotlib axes
    """
    return _one("learning_rate", runs, ax, "lr", Axis(x, 1))


@checked
def tokens_per_second(runs: Any, ax: Any = None, *, x: Over = "step", smooth: Size = 1) -> Any:
    """The speed of each step of runs.

    Parameters
    ----------
    runs, ax, x, smooth
        As in loss.

    Returns
    -------
    matplotlib axes
    """
    return _one("tokens_per_second", runs, ax, "tokens_per_s", Axis(x, smooth))


@checked
def curves(runs: Any, figure: Any = None, *, x: Over = "step", smooth: Size = 1) -> Any:
    """Four panels: loss, norm of the gradient, learning rate and tokens per second of runs.

    Parameters
    ----------
    runs, x, smooth
        As in loss.
    figure : matplotlib figure, optional
        To draw into; a new one unless given.

    Returns
    -------
    matplotlib figure
    """
    several = opened("curves", runs)
    with style.styled():
        figure = style.figure_of("curves", figure, (11, 7))
        (top, norm), (rate, speed) = figure.subplots(2, 2)
        loss(several, top, x=x, smooth=smooth)
        gradient_norm(several, norm, x=x, smooth=smooth)
        learning_rate(several, rate, x=x)
        tokens_per_second(several, speed, x=x, smooth=smooth)
        for ax in (norm, rate, speed):  # the legend of the losses is that of all
            if ax.get_legend() is not None:
                ax.get_legend().remove()
    return figure


class Axis:
    """What is drawn over, and over how many steps the mean is taken."""

    def __init__(self, x: str, smooth: int) -> None:
        self.x = x
        self.smooth = smooth

    def places(self, run: Run) -> NDArray[np.float64]:
        """Where the steps of a run stand."""
        columns = run.training
        if self.x == "step":
            return columns["step"]
        each = columns["tokens"]
        if self.x == "seconds":
            with np.errstate(divide="ignore", invalid="ignore"):
                each = each / columns["tokens_per_s"]
        if not np.isfinite(each).all():
            raise InputError(
                f"{run.name}: its log does not say how many {self.x} each step took, expected that to draw"
                f" over {self.x}: draw over the step"
            )
        return np.cumsum(each)

    def place(self, run: Run, steps: Any) -> Any:
        """Where given steps of a run stand, between those that are logged too."""
        if self.x == "step":
            return steps
        return np.interp(steps, [0, *run.training["step"]], [0, *self.places(run)])

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of each value and those before it, as many as smooth says."""
        if self.smooth == 1:
            return values
        sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
        counts = np.concatenate([[0], np.cumsum(np.isfinite(values))])
        first = np.maximum(np.arange(len(values)) + 1 - min(self.smooth, len(values)), 0)
        with np.errstate(invalid="ignore"):
            return (sums[1:] - sums[first]) / (counts[1:] - counts[first])


def _losses(ax: Any, n: int, run: Run, label: str, axis: Axis) -> None:
    """Draw the losses of run number n; without a label the lines are called by what they are."""
    colour, marker, dash = style.look(n)
    training, held_out = run.training["loss"], run.held_out["held_out_loss"]
    if not np.isfinite(training).any() and not np.isfinite(held_out).any():
        raise InputError(f"{run.name}: its log has no finite loss, expected one to draw")
    if np.isfinite(training).any():
        mean = f", mean of {axis.smooth} steps" if axis.smooth > 1 else ""
        ax.plot(
            axis.places(run),
            axis.mean(training),
            color=colour,
            linewidth=0.9,
            alpha=0.45,
            label=None if label else f"training loss{mean}",
            gid=f"training {n}",
            zorder=2,
        )
    if run.best is None:
        ax.plot([], [], color=colour, linewidth=0.9, label=label or None)
        return
    step, best = run.best
    words = f"best {best:.4f} at step {step:,}"
    ax.plot(
        axis.place(run, run.held_out["step"]),
        held_out,
        color=colour,
        linewidth=1.8,
        linestyle=dash,
        marker=marker if len(held_out) <= FEW else None,
        markersize=4,
        label=f"{label}; {words}" if label else f"held-out loss; {words}",
        gid=f"held-out {n}",
        zorder=3,
    )
    ax.plot(
        [axis.place(run, step)],
        [best],
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=colour,
        markeredgewidth=1.3,
        linestyle="none",
        gid=f"best {n}",
        zorder=4,
    )


# Column of the log → (title, label of the y axis).
ONE = {
    "norm": ("norm of the gradient, before clipping", "‖gradient‖"),
    "lr": ("learning rate", "learning rate"),
    "tokens_per_s": ("speed", "tokens per second"),
}


def _one(who: str, runs: Any, ax: Any, column: str, axis: Axis) -> Any:
    """Draw a column of the logs of runs."""
    several = opened(who, runs)
    title, unit = ONE[column]
    with style.styled():
        ax = style.axes_of(who, ax)
        for n, (run, label) in enumerate(zip(several, labelled(several))):
            colour, _, dash = style.look(n)
            ax.plot(
                axis.places(run),
                axis.mean(run.training[column]),
                color=colour,
                linestyle=dash,
                linewidth=1.2,
                label=label,
                gid=f"{column} {n}",
            )
        finish(ax, title, unit, axis.x)
        if len(several) > 1:
            ax.legend(loc="best" if _length(several) < 10_000 else "upper right")
    return ax


def labelled(runs: Sequence[Run]) -> list[str]:
    """The label of each run, in lines that leave room for what is drawn."""
    return [style.literal(textwrap.fill(label, 56)) for label in labels(runs)]


def _length(runs: Sequence[Run]) -> int:
    return sum(len(run.training["step"]) for run in runs)


def finish(ax: Any, title: str, unit: str, x: str) -> None:
    """Title, units and limits."""
    ax.set(title=title, xlabel=OVER[x], ylabel=unit)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.02)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    ax.set_axisbelow(True)
    if x != "seconds":
        ax.xaxis.set_major_formatter("{x:,.0f}")
