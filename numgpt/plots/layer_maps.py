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
from .cells import draw, limit_of, size_of, write, write_numbers

Array = NDArray[Any]
SEQUENTIAL = "Blues"
FEW_HEADS = 6  # up to which all kinds of heads stand in one row
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
        ax = style.axes_of("lens", ax, size_of(len(rows), read, 0.14 + 0.075 * max(2, widest)))
        image = draw(ax, probs, rows, read, (SEQUENTIAL, 0.0, 1.0))
        for (row, column), p in np.ndenumerate(probs):
            weight = "bold" if says[row, column] == found.answers[column] else "normal"
            write(ax, (row, column), texts[row][column], light=p < 0.55, weight=weight)
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
    limit = limit_of(share)
    with style.styled():
        ax = style.axes_of("patching", ax, size_of(len(rows), columns, 0.34))
        image = draw(ax, share, rows, columns, (style.diverging(), -limit, limit))
        write_numbers(ax, share, limit)
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
            image = draw(ax, scores, rows, [str(head) for head in range(H)], (SEQUENTIAL, 0.0, 1.0))
            write_numbers(ax, scores, 1.0)
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
    limit = max(map(limit_of, found.effect.values()))
    answer = style.tokens([found.answer], tokenizer)[0]
    with style.styled():
        L = len(next(iter(found.effect.values())))
        width, height = size_of(L, texts, 0.34)
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
            image = draw(ax, effect, rows, columns, (style.diverging(), -limit, limit))
            write_numbers(ax, effect, limit)
            ax.set_title(f"restored: {KIND[kind]}", fontsize=10)
        grid[-1].set_xlabel("token; * has the noise")
        style.scale(figure, image, grid, "probability brought back")
    return figure
