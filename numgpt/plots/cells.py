"""Cells: a map of numbers, coloured, with names of rows and columns and the numbers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import style

Array = NDArray[Any]
LINES = "#ebebeb"  # between cells, of which many are white
MOST_NUMBERS = 420  # cells of a map that have their number written in them


def size_of(rows: int, columns: Sequence[str], cell: float) -> tuple[float, float]:
    """Inches of a figure whose cells are so wide, with room for the texts below."""
    margin = 0.9 + 0.075 * max(map(len, columns))
    return min(40.0, max(4.6, 2.6 + cell * len(columns))), min(40.0, max(2.6, margin + 0.3 * rows))


def limit_of(values: Array) -> float:
    """What a scale around 0 reaches."""
    largest = np.nanmax(abs(values), initial=0.0)
    return float(largest) if largest > 0 else 1.0


def draw(
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


def write(ax: Any, place: tuple[int, int], text: str, *, light: bool, weight: str = "normal") -> None:
    """A text in a cell, dark on light ones."""
    size = min(8.0, 48.0 / max(1, len(text)))
    colour = "#1a1a1a" if light else "white"
    ax.text(*place[::-1], text, ha="center", va="center", fontsize=size, color=colour, weight=weight)


def write_numbers(ax: Any, values: Array, limit: float) -> None:
    """The numbers of a map in its cells, where two digits say something and can be read."""
    if values.size > MOST_NUMBERS or limit < 0.1:
        return
    for place, value in np.ndenumerate(values):
        if np.isfinite(value) and abs(value) >= max(0.005, 0.03 * limit):
            text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.1f}"
            write(ax, place, text.replace("-", "−"), light=bool(abs(value) < 0.6 * limit))
