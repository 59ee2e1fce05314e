"""Maps whose rows are layers: what each would say, what a patch brings back, what heads attend to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..interpretability import HeadScores, Lens, Patching, Tracing
from ..tokenizers import Tokenizer
from . import style

Array = NDArray[Any]
SEQUENTIAL = "Blues"
LINES = "#ebebeb"  # between cells, of which many are white
FEW_HEADS = 6  # up to which all kinds of heads stand in one row
MOST_NUMBERS = 420  # cells of a map that have their number written in them
KIND = {
    "resid_pre": "the stream before each layer",
    "resid_mid": "the stream in the middle of each layer",
    "resid_post": "the stream after each layer",
    "attn": "what attention adds",
    "mlp": "what the feed-forward adds",
    "heads": "the result of each head",
    "q": "the query of each head",
    "k": "the keys of each head",
    "v": "the values of each head",
}


@checked
def lens(found: Lens, ax: Any = None, *, tokenizer: Tokenizer | None = None) -> Any:
    """What each layer would say next, written in its cell; the colour is the probability of the answer.

    Bold is what is the answer already. Layers go upward as the stream does: the top row is the model's own.

    Parameters
    ----------
    found : Lens
        Of numgpt.interpretability.logit_lens.
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.
    tokenizer : Tokenizer, optional
        Whose texts tokens have; their ids unless given.

    Returns
    -------
    matplotlib axes
    """
    says = found.top[..., 0]
    texts = [style.tokens(row, tokenizer) for row in says]
    read = style.tokens(found.ids, tokenizer)
    widest = min(6, max(len(text) for row in texts for text in row))
    probs = np.exp(found.log_prob)
    rows = ["embeddings", *(f"after layer {n}" for n in range(len(probs) - 1))]
    with style.styled():
        ax = style.axes_of("lens", ax, _size(len(rows), read, 0.14 + 0.075 * max(2, widest)))
        image = _draw(ax, probs, rows, read, (SEQUENTIAL, 0.0, 1.0))
        for (row, column), p in np.ndenumerate(probs):
            weight = "bold" if says[row, column] == found.answers[column] else "normal"
            _write(ax, (row, column), texts[row][column], light=p < 0.55, weight=weight)
        ax.set_title("what each layer would say next")
        ax.set_xlabel("token that was read")
        style.scale(ax.figure, image, ax, f"probability of {_asked(found, tokenizer)}")
    return ax


def _asked(found: Lens, tokenizer: Tokenizer | None) -> str:
    """What the probabilities of a lens are of."""
    if len(found.answers) > 1 and (found.answers == found.answers[0]).all():
        return f"“{style.tokens(found.answers[:1], tokenizer)[0]}”"
    return "the answer"


@checked
def patching(found: Patching, ax: Any = None, *, tokenizer: Tokenizer | None = None) -> Any:
    """How much of the difference each patch brings back: orange for it, blue against it, white nothing.

    Rows are layers, or each head of each layer; columns are tokens of the corrupted prompt, or heads.

    Parameters
    ----------
    found : Patching
        Of activation_patching or attribution_patching.
    ax, tokenizer
        As in lens.

    Returns
    -------
    matplotlib axes
    """
    share, rows, columns = patching_grid(found, style.tokens(found.ids[0], tokenizer))
    limit = _limit(share)
    with style.styled():
        ax = style.axes_of("patching", ax, _size(len(rows), columns, 0.34))
        image = _draw(ax, share, rows, columns, (style.diverging(), -limit, limit))
        _write_numbers(ax, share, limit)
        ax.set_title(f"patched: {KIND[found.at]}")
        ax.set_xlabel({"position": "token of the corrupted prompt", "head": "head"}.get(_across(found), ""))
        style.scale(ax.figure, image, ax, "share brought back")
    return ax


def patching_grid(found: Patching, texts: Sequence[str]) -> tuple[Array, list[str], list[str]]:
    """The shares as rows and columns, and what these are called; texts: of the tokens."""
    L = len(found.share)
    rows, share = [f"layer {n}" for n in range(L)], found.share
    if found.axes == ("layer", "position", "head"):
        H = share.shape[2]
        share = share.swapaxes(1, 2).reshape(L * H, -1)
        rows = [f"layer {n}, head {head}" for n in range(L) for head in range(H)]
    across = _across(found)
    if across == "position":
        return share, rows, list(texts)
    if across == "head":
        return share, rows, [str(n) for n in range(share.shape[1])]
    return share[:, None], rows, ["all tokens"]


def _across(found: Patching) -> str:
    """The axis that columns are."""
    return found.axes[1] if len(found.axes) > 1 else ""


@checked
def heads(found: HeadScores, figure: Any = None) -> Any:
    """A map for each kind of head, of which layer (row) and head (column) is how much of that kind.

    Parameters
    ----------
    found : HeadScores
        Of numgpt.interpretability.head_scores.
    figure : matplotlib figure, optional
        To draw into; a new one unless given.

    Returns
    -------
    matplotlib figure
        Of an axes for each kind, and the scale.
    """
    L, H = next(iter(found.scores.values())).shape
    with style.styled():
        across = len(found.scores) if H <= FEW_HEADS else 2  # maps beside each other
        down = -(-len(found.scores) // across)
        width, height = 0.45 * H + 0.35, max(2.0, 0.9 + 0.36 * L)
        size = (min(40.0, 1.6 + width * across), min(40.0, 0.2 + height * down))
        figure = style.figure_of("heads", figure, size)
        grid = figure.subplots(down, across, squeeze=False).reshape(-1)
        for n, (ax, (kind, scores)) in enumerate(zip(grid, found.scores.items())):
            rows = [f"layer {layer}" for layer in range(L)] if n % across == 0 else [""] * L
            image = _draw(ax, scores, rows, [str(head) for head in range(H)], (SEQUENTIAL, 0.0, 1.0))
            _write_numbers(ax, scores, 1.0)
            ax.set_title(kind, fontsize=10)
            ax.set_xlabel("head")
        style.scale(figure, image, grid, "score")
    return figure


@checked
def tracing(found: Tracing, figure: Any = None, *, tokenizer: Tokenizer | None = None) -> Any:
    """A map for each kind of state: how much of the answer's probability comes back where it is restored.

    A star marks the tokens of the subject, which have the noise.

    Parameters
    ----------
    found : Tracing
        Of numgpt.interpretability.causal_tracing.
    figure : matplotlib figure, optional
        To draw into; a new one unless given.
    tokenizer : Tokenizer, optional
        Whose texts tokens have; their ids unless given.

    Returns
    -------
    matplotlib figure
        Of an axes for each kind, one below the other, and the scale.
    """
    texts = style.tokens(found.ids, tokenizer)
    begin, end = found.subject
    texts = [f"{text}*" if begin <= t < end else text for t, text in enumerate(texts)]
    limit = max(map(_limit, found.effect.values()))
    answer = style.tokens([found.answer], tokenizer)[0]
    with style.styled():
        L = len(next(iter(found.effect.values())))
        width, height = _size(L, texts, 0.34)
        lower = max(1.5, 0.62 + 0.3 * L)  # inches of the maps that have no texts below
        size = (width, min(40.0, height + lower * (len(found.effect) - 1) + 0.3))
        figure = style.figure_of("tracing", figure, size)
        figure.suptitle(
            f"probability of “{answer}”: {found.clean:.3g}, with noise on the subject {found.noised:.3g}",
            fontsize=11,
            x=0.01,
            ha="left",
        )
        grid = figure.subplots(len(found.effect), 1, squeeze=False)[:, 0]
        for n, (ax, (kind, effect)) in enumerate(zip(grid, found.effect.items())):
            columns = texts if n == len(grid) - 1 else [""] * len(texts)
            rows = [f"layer {layer}" for layer in range(L)]
            image = _draw(ax, effect, rows, columns, (style.diverging(), -limit, limit))
            _write_numbers(ax, effect, limit)
            ax.set_title(f"restored: {KIND[kind]}", fontsize=10)
        grid[-1].set_xlabel("token; * has the noise")
        style.scale(figure, image, grid, "probability brought back")
    return figure


# Cells.


def _size(rows: int, columns: Sequence[str], cell: float) -> tuple[float, float]:
    """Inches of a figure whose cells are so wide, with room for the texts below."""
    margin = 0.9 + 0.075 * max(map(len, columns))
    return min(40.0, max(4.6, 2.6 + cell * len(columns))), min(40.0, max(2.6, margin + 0.3 * rows))


def _limit(values: Array) -> float:
    """What a scale around 0 reaches."""
    largest = np.nanmax(abs(values), initial=0.0)
    return float(largest) if largest > 0 else 1.0


def _draw(
    ax: Any, values: Array, rows: Sequence[str], columns: Sequence[str], scale: tuple[Any, float, float]
) -> Any:
    """The cells of values (rows, columns), the first row at the bottom; grey where there is none."""
    colours, low, high = scale
    colours = style.matplotlib("pyplot").get_cmap(colours).with_extremes(bad=style.NOTHING)
    shown = np.ma.masked_invalid(values)
    image = ax.imshow(
        shown, cmap=colours, vmin=low, vmax=high, origin="lower", aspect="auto", interpolation="none"
    )
    ax.spines[:].set_visible(False)
    every = max(1, -(-len(rows) // style.MOST_TICKS))
    ax.set_yticks(range(0, len(rows), every), rows[::every], fontsize=8)
    every = max(1, -(-len(columns) // style.MOST_TICKS))
    turned = 90 if max(map(len, columns)) > 2 else 0
    ax.set_xticks(range(0, len(columns), every), columns[::every], rotation=turned, fontsize=8)
    ax.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    ax.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    ax.grid(which="minor", color=LINES, linewidth=1)
    ax.tick_params(which="both", length=0)
    return image


def _write(ax: Any, place: tuple[int, int], text: str, *, light: bool, weight: str = "normal") -> None:
    """A text in a cell, dark on light ones."""
    size = min(8.0, 48.0 / max(1, len(text)))
    colour = "#1a1a1a" if light else "white"
    ax.text(*place[::-1], text, ha="center", va="center", fontsize=size, color=colour, weight=weight)


def _write_numbers(ax: Any, values: Array, limit: float) -> None:
    """The numbers of a map in its cells, where two digits say something and can be read."""
    if values.size > MOST_NUMBERS or limit < 0.1:
        return
    for place, value in np.ndenumerate(values):
        if np.isfinite(value) and abs(value) >= max(0.005, 0.03 * limit):
            text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.1f}"
            _write(ax, place, text.replace("-", "−"), light=bool(abs(value) < 0.6 * limit))
