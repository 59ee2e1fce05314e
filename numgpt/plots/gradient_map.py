"""Where the gradient of one batch is large: a map of its norm by name and depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arguments import Ids, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..traces import Trace
from . import style
from .table import Table

LAYER = re.compile(r"(?P<before>(?:[^.]+\.)*?)(?P<layer>\d+)(?:\.(?P<kind>.+))?")
WHOLE = "whole layer"  # the value of a layer itself, h.0
COLOURS = "viridis"
Of = Literal["parameters", "values"]


@checked
def gradients(
    of: GPT | Trace,
    tokens: Ids | None = None,
    targets: Ids | None = None,
    figure: Any = None,
    *,
    which: Of = "parameters",
) -> Any:
    """The norm of the gradient of every parameter, or value, of one batch: kinds are rows, layers columns.

    What belongs to no layer stands apart. Where an embedding is the unembedding too, what comes from either
    place of use has a row of its own. Grey is a gradient of 0, or none.

    Parameters
    ----------
    of : GPT or Trace
        A Trace has its batch; of a model give one.
    tokens, targets : integers (..., T), optional
    figure : matplotlib figure, optional
        To draw into; a new one unless given.
    which : "parameters" or "values", default "parameters"

    Returns
    -------
    matplotlib figure
        Of three axes: the layers, what stands apart, and the scale.

    Raises
    ------
    InputError
        Where matplotlib is not installed, or a Trace has no gradients.
    """
    norms = gradient_norms(of, tokens, targets, which)
    layers, apart = grid(norms)
    with style.styled():
        figure = style.figure_of("gradients", figure, _size(layers, apart))
        _draw(figure, layers, apart, which)
    return figure


class Grid:
    """Norms (kinds, layers), NaN where a layer has no such kind."""

    def __init__(self, kinds: Sequence[str], columns: Sequence[int], norms: NDArray[np.float64]) -> None:
        self.kinds = kinds
        self.columns = columns
        self.norms = norms


def gradient_norms(of: Any, tokens: Any, targets: Any, which: str) -> dict[str, float]:
    """Name → ‖gradient‖, in the order of the trace; a gradient by places of use has a name for each."""
    trace = of if isinstance(of, Trace) else _trace(of, tokens, targets, which)
    if isinstance(of, Trace) and (tokens is not None or targets is not None):
        raise InputError("gradients: a Trace has its batch, expected no tokens and no targets beside it")
    norms: dict[str, float] = {}
    for name, grad in trace.grad.items():
        if (name in trace.parameters) != (which == "parameters"):
            continue
        places = trace.parts.get(name, {})
        if len(places) > 1:
            norms |= {f"{name} as {place}": _norm(part) for place, part in places.items()}
        else:
            norms[name] = _norm(grad)
    if not norms:
        raise InputError(
            f"gradients: the trace has no gradients of {which}, expected those of a record with targets"
        )
    return norms


def _trace(model: GPT, tokens: Any, targets: Any, which: str) -> Trace:
    if tokens is None or targets is None:
        missing = "tokens" if tokens is None else "targets"
        raise InputError(f"gradients: {missing} is None, expected the batch whose gradients are drawn")
    keep = list(model.params) if which == "parameters" else None
    return model.record(tokens, targets, keep=keep).trace()


def _norm(array: Any) -> float:
    """‖array‖ in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.linalg.norm(np.asarray(array, "float64").reshape(-1)))


def grid(norms: Mapping[str, float]) -> tuple[Grid, dict[str, float]]:
    """(the norms of what belongs to a layer, name → norm of what does not)."""
    matches = {name: LAYER.fullmatch(name) for name in norms}
    inside = {name: match for name, match in matches.items() if match}
    stacks = {match["before"] for match in inside.values()}
    kinds = dict.fromkeys(_kind(match, len(stacks) > 1) for match in inside.values())
    columns = sorted({int(match["layer"]) for match in inside.values()})
    table = np.full((len(kinds), len(columns)), np.nan)
    rows = {kind: n for n, kind in enumerate(kinds)}
    for name, match in inside.items():
        table[rows[_kind(match, len(stacks) > 1)], columns.index(int(match["layer"]))] = norms[name]
    return Grid(list(kinds), columns, table), {name: n for name, n in norms.items() if name not in inside}


def _kind(match: re.Match[str], named: bool) -> str:
    """What a name is in its layer; where there are several stacks of layers, with the stack's name."""
    before = match["before"] if named else ""
    return before + (match["kind"] or WHOLE)


def gradient_table(norms: Mapping[str, float]) -> Table:
    """The numbers of the map, what stands apart below."""
    layers, apart = grid(norms)
    rows = [(kind, *map(_text, row)) for kind, row in zip(layers.kinds, layers.norms)]
    columns = [f"layer {n}" for n in layers.columns] or [""]
    rows += [(name, _text(norm), *[""] * (len(columns) - 1)) for name, norm in apart.items()]
    return Table(("‖gradient‖", *columns), tuple(rows))


def _text(norm: float) -> str:
    return "–" if np.isnan(norm) else f"{norm:.3g}"


def _size(layers: Grid, apart: Mapping[str, float]) -> tuple[float, float]:
    """Inches of a figure with room for all names."""
    names = [max(map(len, kinds), default=0) for kinds in (layers.kinds, apart)]
    cells = 0.4 * (len(layers.columns) + 1)
    rows = max(len(layers.kinds), len(apart))
    return 1.7 + 0.075 * sum(names) + cells, 1.1 + 0.25 * rows


def _draw(figure: Any, layers: Grid, apart: Mapping[str, float], which: str) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(max(1, len(layers.columns)), 1))
    figure.suptitle(f"‖gradient‖ of {which}, one batch", fontsize=11, x=0.01, ha="left")
    scale = _scale([*layers.norms.reshape(-1), *apart.values()])
    rows = max(len(layers.kinds), len(apart), 1)
    image = _map(left, layers.norms, scale, rows)
    left.set_xlabel("layer")
    left.set_xticks(range(len(layers.columns)), layers.columns)
    left.set_yticks(range(len(layers.kinds)), map(style.literal, layers.kinds))
    _map(right, np.array([*apart.values()]).reshape(-1, 1), scale, rows)
    right.set_xlabel("apart")
    right.yaxis.tick_right()
    right.set_xticks([])
    right.set_yticks(range(len(apart)), map(style.literal, apart))
    right.tick_params(length=0)
    style.scale(figure, image, [left, right], "‖gradient‖")


def _scale(norms: Iterable[float]) -> Any:
    """The logarithmic scale of all maps, over the norms that it has a colour for."""
    shown = [norm for norm in norms if np.isfinite(norm) and norm > 0] or [1.0]
    low, high = min(shown), max(shown)
    return style.matplotlib("colors").LogNorm(low, high if high > low else 2 * low)


def _map(ax: Any, norms: NDArray[np.float64], scale: Any, rows: int) -> Any:
    """Draw norms (kinds, layers) as an image of a cell each, with room for so many rows."""
    shown = np.ma.masked_where(~(norms > 0), norms)
    colours = style.matplotlib("pyplot").get_cmap(COLOURS).with_extremes(bad=style.NOTHING)
    columns = max(1, norms.shape[1])
    if norms.size == 0:
        shown, colours = np.ma.masked_all((1, 1)), COLOURS
    image = ax.imshow(shown, cmap=colours, norm=scale, aspect="auto", interpolation="none")
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0, labelsize=9)
    return image
