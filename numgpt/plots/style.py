"""What all pictures share: matplotlib, colours, axes, and texts that are shown as they are."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import InputError
from ..tokenizers import Tokenizer

# Colours that stay apart to the colour-blind and, by their lightness, in greyscale; each run has a marker and
# a dash of its own besides.
COLOURS = ("#1f4e8c", "#d55e00", "#1a1a1a", "#62b5e5", "#8c1d40", "#2a9d6f", "#b07cc6", "#7a6a00")
MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (7, 1.5, 1.5, 1.5)))
GREY = "#707070"
NOTHING = "#e4e4e4"  # the cell of a map that has no number, or none that its scale has a colour for
MOST_TICKS = 40  # texts at an axis that can be read
SETTINGS = {
    "font.family": "DejaVu Sans",  # which matplotlib carries
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.edgecolor": "#888888",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "numgpt",  # names in an SVG are drawn from it: the same picture is the same file
    "svg.fonttype": "path",
}


class Look(NamedTuple):
    """How one of several runs is drawn."""

    colour: str
    marker: str
    dash: Any


def look(n: int) -> Look:
    """The look of run number n; only after 32 runs it comes again."""
    return Look(COLOURS[n % 8], MARKERS[n % 8], DASHES[(n + n // 8) % 4])


def matplotlib(name: str = "") -> Any:
    """matplotlib, or a module of it; InputError where it is not installed."""
    try:
        return importlib.import_module(f"matplotlib.{name}".rstrip("."))
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise InputError(
            "plots: matplotlib is not installed, expected it to draw: pip install 'numgpt[plot]'"
        ) from error


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """In this scope what is made has the look of all pictures; a user's own settings come back after it."""
    with matplotlib().rc_context(SETTINGS):
        yield


def axes_of(who: str, ax: Any, size: tuple[float, float] = (7.2, 4.2)) -> Any:
    """The axes that were given, or those of a new figure; InputError for anything else."""
    if ax is None:
        return matplotlib("pyplot").subplots(figsize=size)[1]
    if not isinstance(ax, matplotlib("axes").Axes):
        raise InputError(
            f"{who}: ax is {type(ax).__name__}, expected axes of matplotlib, or None for new ones"
        )
    return ax


def figure_of(who: str, figure: Any, size: tuple[float, float]) -> Any:
    """The figure that was given, or a new one; InputError for anything else."""
    if figure is None:
        return matplotlib("pyplot").figure(figsize=size)
    if not isinstance(figure, matplotlib("figure").FigureBase):
        raise InputError(
            f"{who}: figure is {type(figure).__name__}, expected one of matplotlib, or None for a new one"
        )
    return figure


def scale(figure: Any, image: Any, axes: Any, label: str) -> None:
    """The scale of an image's colours beside axes, some two inches high."""
    height = figure.bbox.height / figure.dpi
    share = min(1.0, 2.2 / height)
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.03, shrink=share, anchor=(0, 1), aspect=14)
    bar.ax.tick_params(labelsize=9)


def diverging() -> Any:
    """Colours around 0 as on the pages: blue below, white at it, orange above."""
    return matplotlib("colors").LinearSegmentedColormap.from_list(
        "blue and orange", [COLOURS[0], "#8fb4de", "#ffffff", "#f4b183", COLOURS[1]]
    )


def literal(text: str) -> str:
    """A text that is no formula, whatever dollar signs are in it; ? for halves of characters."""
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def token(text: str) -> str:
    """A token as a label shows it: blanks and breaks as signs, what the font has none for as its code."""
    signs = {" ": "␣", "\n": "↵", "\t": "⇥"}
    known = _characters()
    return literal("".join(signs.get(c) or (c if ord(c) in known else _escaped(c)) for c in text))


def tokens(ids: Iterable[Any], tokenizer: Tokenizer | None) -> list[str]:
    """What tokens are called at axes and in cells: their texts, or where there is no tokenizer their ids."""
    known = 0 if tokenizer is None else tokenizer.vocab_size
    return [token(tokenizer.decode([int(i)])) if tokenizer and int(i) < known else str(int(i)) for i in ids]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _characters() -> Any:
    """The code points that the font of labels has a sign for."""
    manager = matplotlib("font_manager")
    font = manager.get_font(manager.findfont(manager.FontProperties()))
    return font.get_charmap()
