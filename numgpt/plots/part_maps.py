"""What parts of a model are worth, and what heads could do: ablations, paths and circuits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..interpretability import Ablation, Circuit, PathPatching
from . import style
from .cells import draw, limit_of, size_of, write_numbers

Array = NDArray[Any]
INSTEAD = {"zero": "0", "mean": "the mean", "resample": "another text's"}


@checked
def ablation(found: Ablation, ax: Any = None) -> Any:
    """What the metric becomes without each part: orange gains, blue loses, white is as before.

    Rows are layers and columns heads; of parts without heads, or of names, one column.

    Parameters
    ----------
    found : Ablation
        Of numgpt.interpretability.ablation.
    ax : matplotlib axes, optional
        To draw into; those of a new figure unless given.

    Returns
    -------
    matplotlib axes
    """
    effect = found.effect if found.effect.ndim == 2 else found.effect[:, None]
    rows = list(found.names) if found.axes == ("name",) else layers(effect)
    columns = heads(effect) if found.effect.ndim == 2 else [found.at]
    whole = f"{found.metric:.3g}".replace("-", "−")
    title = f"with {INSTEAD[found.how]} in its place; the metric was {whole}"
    return _signed(ax, "ablation", effect, (rows, columns), title, "change of the metric")


@checked
def path_patching(found: PathPatching, ax: Any = None) -> Any:
    """How much of the difference comes back by the path from each head to one receiver.

    Parameters
    ----------
    found : PathPatching
        Of numgpt.interpretability.path_patching.
    ax
        As in ablation.

    Returns
    -------
    matplotlib axes
    """
    title = f"paths to {_receiver(found.receiver)}"
    names = layers(found.share), heads(found.share)
    return _signed(ax, "path_patching", found.share, names, title, "share brought back")


@checked
def eigenvalues(found: Circuit, ax: Any = None) -> Any:
    """The eigenvalues of a head's circuit, as points of the complex plane.

    To the right are those of a head that copies (OV), or attends to tokens like the query (QK); to the left
    those of one that does the opposite. The title has Re Σ λ / Σ |λ|.

    Parameters
    ----------
    found : Circuit
        Of numgpt.interpretability.ov_circuit or qk_circuit.
    ax
        As in ablation.

    Returns
    -------
    matplotlib axes
    """
    values = found.eigenvalues
    limit = 1.1 * max(float(abs(values).max(initial=0.0)), 1e-12)
    with style.styled():
        ax = style.axes_of("eigenvalues", ax, (4.2, 4.0))
        ax.axhline(0, color=style.GREY, linewidth=0.8)
        ax.axvline(0, color=style.GREY, linewidth=0.8)
        ax.scatter(values.real, values.imag, s=28, color="#0b66a8", zorder=3)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        head = f"{found.kind} of layer {found.layer}, head {found.head}"
        ax.set_title(f"{head}: {found.positive_share:+.2f}".replace("-", "−"))
        ax.set_xlabel("real part of the eigenvalue")
        ax.set_ylabel("imaginary part")
    return ax


def layers(values: Array) -> list[str]:
    """What rows are called."""
    return [f"layer {n}" for n in range(len(values))]


def heads(values: Array) -> list[str]:
    """What columns are called."""
    return [str(n) for n in range(values.shape[1])]


def _receiver(receiver: Any) -> str:
    """What a path leads to."""
    if isinstance(receiver, str):
        return f"the {receiver}"
    layer, head, part = receiver
    return f"the {part} of layer {layer}, head {head}"


def _signed(
    ax: Any, name: str, values: Array, names: tuple[list[str], list[str]], title: str, scale: str
) -> Any:
    """A map around 0."""
    limit = limit_of(values)
    rows, columns = names
    with style.styled():
        ax = style.axes_of(name, ax, size_of(len(rows), columns, 0.45))
        image = draw(ax, values, rows, columns, (style.diverging(), -limit, limit))
        write_numbers(ax, values, limit)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("head" if np.shape(values)[1] > 1 else "")
        style.scale(ax.figure, image, ax, scale)
    return ax
