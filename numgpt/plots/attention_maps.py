"""Who reads from whom: a map of attention for every layer and head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import Count, Ids, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..model.prompts import ids_of
from ..traces import Trace
from . import style

PROBS = "attn.heads.probs"
NAME = re.compile(rf"h\.(\d+)\.{re.escape(PROBS)}")
Array = NDArray[Any]


@checked
def attention(
    of: GPT | Trace,
    prompt: str | Ids | None = None,
    figure: Any = None,
    *,
    layers: Sequence[Count] | None = None,
    heads: Sequence[Count] | None = None,
) -> Any:
    """A map for each head and layer of how much each token reads from those before it; rows sum to 1.

    Parameters
    ----------
    of : GPT or Trace
        A Trace has its tokens, of which the first row is shown.
    prompt : str or integers (T,), optional
        What a model reads.
    figure : matplotlib figure, optional
        To draw into; a new one unless given.
    layers, heads : sequence of int, optional
        Those to show; all unless given.

    Returns
    -------
    matplotlib figure
        Of an axes for each layer (row) and head (column), and the scale.

    Raises
    ------
    InputError
        Where matplotlib is not installed, the prompt is empty or longer than the model's positions, a Trace
        has no attention, or there is no such layer or head.
    """
    trace = of if isinstance(of, Trace) else _trace(of, prompt)
    if isinstance(of, Trace) and prompt is not None:
        raise InputError("attention: a Trace has its tokens, expected no prompt beside it")
    maps = attention_maps(trace)
    rows = chosen("layers", layers, list(maps))
    columns = chosen("heads", heads, range(max(len(m) for m in maps.values())))
    texts = _texts(trace, next(iter(maps.values())).shape[-1])
    with style.styled():
        figure = style.figure_of("attention", figure, _size(len(rows), len(columns), texts))
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for axes, layer in zip(grid, rows):
            for ax, head in zip(axes, columns):
                _draw(ax, maps[layer], head)
                ax.set_title(f"layer {layer}, head {head}", fontsize=9)
        _name_tokens(grid, texts)
        style.scale(figure, grid[0][0].images[0], grid, "share of attention")
    return figure


def attention_maps(trace: Trace) -> dict[int, Array]:
    """Layer → the probabilities (H, T, S) of the first row of a batch, with those masked that are hidden."""
    maps = {}
    for name in trace.value:
        match = NAME.fullmatch(name)
        if match:
            probs = np.asarray(trace.value[name])
            probs = probs.reshape(-1, *probs.shape[-3:])[0]
            maps[int(match[1])] = np.ma.masked_where(_hidden(probs), probs)
    if not maps:
        raise InputError(
            f"attention: the trace has no h.*.{PROBS}, expected attention: record the model with them"
        )
    return dict(sorted(maps.items()))


def _hidden(probs: Array) -> Array:
    """What lies ahead of each position, where none of it is read: the upper triangle."""
    T, S = probs.shape[-2:]
    ahead = np.arange(S) > np.arange(T)[:, None] + S - T
    is_causal = not probs[..., ahead].any()
    return np.broadcast_to(ahead & is_causal, probs.shape)


def _trace(model: GPT, prompt: Any) -> Trace:
    """The trace of a prompt, with attention alone."""
    if prompt is None:
        raise InputError("attention: prompt is None, expected a text or ids for the model to read")
    return model.record(ids_of("attention", model, prompt), keep=[f"h.*.{PROBS}"]).trace()


def chosen(what: str, asked: Sequence[int] | None, there: Sequence[int]) -> list[int]:
    """Those that were asked for, or all; InputError where one is not there."""
    numbers = list(there) if asked is None else list(asked)
    missing = [n for n in numbers if n not in there]
    if missing or not numbers:
        given = f"has {missing[0]}" if missing else "is empty"
        raise InputError(f"attention: {what} {given}, expected some of {_range(there)}")
    return numbers


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}"


def _texts(trace: Trace, T: int) -> list[str]:
    """What each token of the first row is called at the axes."""
    ids = trace.ids.get("tokens")
    if ids is None:
        return [str(n) for n in range(T)]
    return [
        style.token(trace.texts[int(i)]) if int(i) in trace.texts else str(i) for i in ids.reshape(-1, T)[0]
    ]


def _size(rows: int, columns: int, texts: Sequence[str]) -> tuple[float, float]:
    """Inches of a figure whose maps have room for the texts of their tokens."""
    side = min(4.0, max(1.3, 0.12 * len(texts)))
    margin = 0.5 + 0.08 * max(map(len, texts))
    return min(40.0, 1.0 + margin + (side + 0.1) * columns), min(40.0, margin + (side + 0.3) * rows)


def _draw(ax: Any, probs: Array, head: int) -> None:
    """Draw the map of one head; nothing where a layer has fewer heads."""
    shown = probs[head] if head < len(probs) else np.ma.masked_all(probs.shape[-2:])
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=1, interpolation="none")
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _name_tokens(grid: Array, texts: Sequence[str]) -> None:
    """The texts of the tokens, at the outer axes of a grid: they are the same for all."""
    every = max(1, -(-len(texts) // style.MOST_TICKS))
    ticks, names = range(0, len(texts), every), texts[::every]
    size = 8 if len(texts) <= 24 else 6
    turned = 90 if max(map(len, texts)) > 1 else 0
    for ax in grid[-1]:
        ax.set_xticks(ticks, names, rotation=turned, fontsize=size)
        ax.set_xlabel("reads from", fontsize=9)
    for ax in grid[:, 0]:
        ax.set_yticks(ticks, names, fontsize=size)
        ax.set_ylabel("token", fontsize=9)
