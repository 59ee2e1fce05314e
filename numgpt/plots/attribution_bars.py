"""Bars of what each part of a model, or each token of a prompt, gives to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import Count, Size, checked
from ..errors import InputError
from ..interpretability import DirectAttribution, TokenAttribution
from ..tokenizers import Tokenizer
from . import style

BELOW, ABOVE = style.COLOURS[:2]


@checked
def attribution(found: DirectAttribution, ax: Any = None, *, most: Size = 30) -> Any:
    """A bar for each part: what it adds to the logit, or to the difference; their sum is the last.

    Parameters
    ----------
    found : DirectAttribution
        Of numgpt.interpretability.direct_logit_attribution; of several prompts the mean is shown.
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.
    most : int, default 30
        Bars; what is smaller is one bar, so that the sum stays what it is.

    Returns
    -------
    matplotlib axes
    """
    values = found.value.mean(-1)
    names, shown = _largest(found.names, values, most)
    total = float(values.sum())
    with style.styled():
        ax = style.axes_of("attribution", ax, (7.2, min(40.0, 1.2 + 0.24 * (len(names) + 1))))
        rows = range(len(names) + 1)
        heights = [*shown, total]
        colours = [ABOVE if value > 0 else BELOW for value in shown]
        ax.barh(rows, heights, color=[*colours, style.GREY], height=0.72)
        ax.axvline(0, color="#333333", linewidth=0.8)
        ax.axhline(len(names) - 0.5, color="#bbbbbb", linewidth=0.8)
        ax.set_yticks(rows, [*map(style.literal, names), "sum"], fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.14, y=0.01)
        for row, value in zip(rows, heights):
            _number_beside(ax, row, value)
        ax.set_title("what each part adds")
        ax.set_xlabel("logit (blue takes away)")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    return ax


def _largest(names: Sequence[str], values: Any, most: int) -> tuple[list[str], list[float]]:
    """So many parts in the model's order, and what all others add."""
    if len(names) <= most:
        return list(names), [float(value) for value in values]
    kept = np.sort(np.argsort(-abs(values), kind="stable")[: most - 1])
    rest = float(values.sum() - values[kept].sum())
    shown = [names[n] for n in kept], [float(values[n]) for n in kept]
    return [*shown[0], f"{len(names) - len(kept)} others"], [*shown[1], rest]


def _number_beside(ax: Any, row: int, value: float) -> None:
    """A bar's number behind its end."""
    text = f"{value:+.2f}".replace("-", "−")
    away = 3 if value >= 0 else -3
    side = "left" if value >= 0 else "right"
    ax.annotate(text, (value, row), (away, 0), textcoords="offset points", va="center", ha=side, fontsize=7)


@checked
def token_attribution(
    found: TokenAttribution, ax: Any = None, *, tokenizer: Tokenizer | None = None, row: Count = 0
) -> Any:
    """A bar for each token of a prompt: what it counts for the metric.

    Parameters
    ----------
    found : TokenAttribution
        Of integrated_gradients or gradient_times_input.
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.
    tokenizer : Tokenizer, optional
        Whose texts tokens have; their ids unless given.
    row : int, default 0
        Which of several prompts.

    Returns
    -------
    matplotlib axes
    """
    if row >= len(found.ids):
        raise InputError(f"token_attribution: row is {row}, expected 0 to {len(found.ids) - 1}")
    texts, score = style.tokens(found.ids[row], tokenizer), found.score[row]
    with style.styled():
        size = (min(40.0, max(4.6, 1.2 + 0.3 * len(texts))), 2.9 + 0.06 * max(map(len, texts)))
        ax = style.axes_of("token_attribution", ax, size)
        places = np.arange(len(texts))
        ax.bar(places, score, color=[ABOVE if value > 0 else BELOW for value in score], width=0.8)
        ax.axhline(0, color="#333333", linewidth=0.8)
        every = max(1, -(-len(texts) // (2 * style.MOST_TICKS)))
        turned = 90 if max(map(len, texts)) > 2 else 0
        ax.set_xticks(places[::every], texts[::every], rotation=turned, fontsize=8)
        ax.set_xlim(-0.6, len(texts) - 0.4)
        ax.set_title(f"{found.method}, by token")
        ax.set_xlabel("token (blue speaks against the answer)")
        ax.set_ylabel("adds to the metric")
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(axis="x", length=0)
    return ax
