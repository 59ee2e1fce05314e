"""Where neurons are strongest: the texts, one below the other, each up to the token at which it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arguments import Size, checked
from ..interpretability import Neurons
from ..tokenizers import Tokenizer
from . import style

FONT = "DejaVu Sans Mono"  # which matplotlib carries; columns of it are of one width
LONGEST = 64  # characters before the strongest token
NUMBERS = 8  # columns of the activation, left of the text
INCH = 0.0785  # inches of a character of 9 points


class Line(NamedTuple):
    """A text before the strongest token, that token, and its activation."""

    before: str
    token: str
    value: float


@checked
def neurons(found: Neurons, ax: Any = None, *, tokenizer: Tokenizer | None = None, most: Size = 8) -> Any:
    """The strongest activations of neurons, each with its context; the darker, the stronger.

    Parameters
    ----------
    found : Neurons
        Of numgpt.interpretability.strongest_activations.
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.
    tokenizer : Tokenizer, optional
        Whose texts tokens have; their ids unless given.
    most : int, default 8
        Neurons to show, the first ones.

    Returns
    -------
    matplotlib axes
    """
    shown = min(most, len(found.neurons))
    lines = {n: lines_of(found, n, tokenizer) for n in range(shown)}
    left = max((len(line.before) for group in lines.values() for line in group), default=0) + NUMBERS
    right = max((len(line.token) for group in lines.values() for line in group), default=1)
    rows = sum(len(group) + 1.6 for group in lines.values())
    with style.styled():
        width = max(5.0, 0.4 + INCH * (left + right + 1))
        ax = style.axes_of("neurons", ax, (min(40.0, width), min(40.0, 0.55 + 0.19 * rows)))
        ax.set(xlim=(0, (width - 0.4) / INCH), ylim=(rows - 0.4, -0.4))
        ax.set_axis_off()
        ax.set_title(f"where neurons of layer {found.layer} are strongest")
        row = 0.4
        for n, group in lines.items():
            mean, share = found.mean[n], found.share[n]
            head = f"neuron {found.neurons[n]}: mean {mean:.2g}, above 0 at {share:.0%} of the tokens"
            ax.text(0, row, head.replace("-", "−"), fontsize=9, weight="bold", va="center")
            for line in group:
                row += 1
                _draw(ax, row, left, line, max(abs(one.value) for one in group) or 1.0)
            row += 1.6
    return ax


def lines_of(found: Neurons, n: int, tokenizer: Tokenizer | None) -> list[Line]:
    """The contexts of a neuron, the strongest first; blanks stay blanks, as in a text."""
    lines = []
    for value, ids in zip(found.value[n], found.context[n]):
        texts = [text.replace("␣", " ") for text in style.tokens(ids[ids >= 0], tokenizer)]
        joined = ("" if tokenizer is not None else " ").join([*texts[:-1], ""])
        before = joined if len(joined) <= LONGEST else f"…{joined[1 - LONGEST :]}"
        lines.append(Line(before, texts[-1], float(value)))
    return lines


def _draw(ax: Any, row: float, left: int, line: Line, strongest: float) -> None:
    """A line of text whose strongest token begins at a column, on a ground as dark as it is strong."""
    strength = max(0.0, line.value / strongest)
    patch = style.matplotlib("patches").Rectangle
    ground = style.matplotlib("pyplot").get_cmap("Oranges")(0.08 + 0.42 * strength)
    ax.add_patch(patch((left, row - 0.46), max(1, len(line.token)), 0.92, color=ground, linewidth=0))
    said = {"family": FONT, "fontsize": 9, "va": "center_baseline"}
    ax.text(0, row, f"{line.value:.2f}".replace("-", "−"), color=style.GREY, **said)
    ax.text(left, row, line.before, ha="right", color="#444444", **said)
    ax.text(left, row, line.token, ha="left", color="#1a1a1a", weight="bold", **said)
