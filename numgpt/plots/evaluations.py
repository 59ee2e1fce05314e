"""What models scored, with error bars: by kinds of questions, and the loss by position in a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arguments import checked
from ..errors import InputError
from . import style

ERRORS = "bars are ± one standard error"


@checked
def scores(found: Any, ax: Any = None, *, measure: str = "") -> Any:
    """A measure of results on the same questions: a point with its error for each group, and for all.

    Parameters
    ----------
    found : Result of numgpt.evaluation.evaluate, or mapping of names to them
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.
    measure : str
        The results' main one unless given.

    Returns
    -------
    matplotlib axes
        With lines called by gids: ``scores 0`` of the first result. A dashed line is chance, where there are
        choices.

    Raises
    ------
    InputError
        Where matplotlib is not installed, and for anything but results.
    """
    several = _several("scores", found, ("suite", "measures", "estimate"))
    first = next(iter(several.values()))
    name = measure or first.main
    named = [group for group in first.suite.groups if group]
    groups: list[str | None] = [None, *named] if len(named) > 1 else [None]
    with style.styled():
        ax = style.axes_of("scores", ax, (max(4.0, 1.6 + 0.85 * len(groups)), 4.2))
        for n, (label, result) in enumerate(several.items()):
            estimates = [result.estimate(name, group) for group in groups]
            colour, marker, _ = style.look(n)
            x = np.arange(len(groups)) + 0.16 * (n - (len(several) - 1) / 2)
            values, errors = np.array(estimates).T
            shown = style.literal(label)
            drawn = ax.errorbar(x, values, errors, fmt=marker, color=colour, capsize=3, label=shown)
            drawn.lines[0].set_gid(f"scores {n}")
        chances = [1 / len(question.choices) for question in first.suite.questions if question.choices]
        if chances and name.startswith("acc"):
            ax.axhline(np.mean(chances), color=style.GREY, linestyle="--", linewidth=1, label="chance")
        if first.suite.kind != "text":  # shares
            ax.set_ylim(-0.03, 1.03)
        texts = [f"all {len(first.suite.questions):,}", *map(style.literal, named)][: len(groups)]
        ax.set_xticks(range(len(groups)), texts, rotation=20 if len(groups) > 4 else 0)
        ax.set_xlim(-0.5, len(groups) - 0.5)
        ax.set_title(f"{style.literal(first.suite.name)}: {name}")
        ax.set_ylabel(f"{name} ({ERRORS})")
        if len(several) > 1 or chances:
            ax.legend()
    return ax


@checked
def positions(found: Any, ax: Any = None) -> Any:
    """The mean loss at each position of a window, on a logarithmic axis: the in-context curve.

    Parameters
    ----------
    found : Positions of numgpt.evaluation.loss_by_position, or mapping of names to them
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.

    Returns
    -------
    matplotlib axes
        With lines called by gids: ``positions 0`` of the first. A band is ± one standard error.

    Raises
    ------
    InputError
        Where matplotlib is not installed, and for anything else.
    """
    several = _several("positions", found, ("losses", "mean", "error"))
    with style.styled():
        ax = style.axes_of("positions", ax)
        for n, (label, curve) in enumerate(several.items()):
            colour, _, dash = style.look(n)
            x = np.arange(1, len(curve.mean) + 1)
            shown = style.literal(label)
            ax.plot(x, curve.mean, color=colour, linestyle=dash, label=shown, gid=f"positions {n}")
            low, high = curve.mean - curve.error, curve.mean + curve.error
            ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.set_title("loss by position (bands are ± one standard error)")
        ax.set_xlabel("tokens read before")
        ax.set_ylabel("loss (nats per token)")
        if len(several) > 1:
            ax.legend()
    return ax


def _several(who: str, found: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Name → what was found; InputError for what lacks one of the names that such things have."""
    several = found if isinstance(found, Mapping) else {"": found}
    if not several:
        raise InputError(f"{who}: found is empty, expected at least one")
    for one in several.values():
        if not all(hasattr(one, name) for name in names):
            raise InputError(
                f"{who}: found is {type(one).__name__}, expected what numgpt.evaluation gives, or a mapping"
                " of names to it"
            )
    return {str(name): one for name, one in several.items()}
