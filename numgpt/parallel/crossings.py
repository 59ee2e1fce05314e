"""Where values cross between what every rank has and what each has a part of, and the way back.

    enter    before a product with a rank's columns          leave    after a product with a rank's rows

A linear map cut by columns and one cut by rows behind it, with anything by element between them, is

    y = Σ_r f(x W_r) V_r        so dx = Σ_r …, because every rank's part was made of all of x

Tensor parallelism has x and y on every rank. Sequence parallelism has T/N positions of them on each: the same
bytes travel, in two halves, and what lies between two such maps is computed once, not N times.

    tensor      enter  x → x                    its backward  dx = Σ_r dx_r       an all-reduce
                leave  y = Σ_r y_r              its backward  dy_r = dy           y_r is in the sum once
    sequence    enter  x = x_0 | x_1 | …        its backward  the own part of Σ_r dx_r
                leave  the own part of Σ_r y_r  its backward  dy = dy_0 | dy_1 | …

Source: Shoeybi et al. 2019; Korthikanti et al. 2022.
"""

from __future__ import annotations

from typing import Any, Protocol

from .cuts import bounds
from .ranks import Ranks


class Crossing(Protocol):
    """The two ways and their backwards, of arrays (..., T, C)."""

    ranks: Ranks

    def enter(self, x: Any) -> Any:
        """All of x, on this rank."""

    def entered(self, dx: Any) -> Any:
        """The gradient with respect to what enter was given, from this rank's part of it."""

    def leave(self, y: Any) -> Any:
        """The sum of all ranks' parts."""

    def left(self, dy: Any) -> Any:
        """The gradient with respect to this rank's part."""


class TensorCrossing:
    """Every rank has all positions."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def enter(self, x: Any) -> Any:
        """x is here already."""
        return x

    def entered(self, dx: Any) -> Any:
        """Each rank's columns were multiplied by all of x, so their gradients add up."""
        return self.ranks.all_reduce(dx)

    def leave(self, y: Any) -> Any:
        """Each rank's rows give a term of every entry."""
        return self.ranks.all_reduce(y)

    def left(self, dy: Any) -> Any:
        """∂y/∂y_r = 1."""
        return dy


class SequenceCrossing:
    """Each rank has some of the positions, side by side; the first ranks have one more where they must."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def lengths(self, T: int) -> list[int]:
        """How many of T positions each rank has."""
        ends = [bounds(T, rank, self.ranks.size) for rank in range(self.ranks.size)]
        return [end - begin for begin, end in ends]

    def enter(self, x: Any) -> Any:
        """The positions of all ranks."""
        return self.ranks.all_gather(x, x.ndim - 2)

    def entered(self, dx: Any) -> Any:
        """Gradients add up as in tensor parallelism; those of own positions stay here."""
        return self.ranks.reduce_scatter(dx, self.lengths(dx.shape[-2]), dx.ndim - 2)

    def leave(self, y: Any) -> Any:
        """Terms add up as in tensor parallelism; own positions stay here."""
        return self.ranks.reduce_scatter(y, self.lengths(y.shape[-2]), y.ndim - 2)

    def left(self, dy: Any) -> Any:
        """This rank's term is in the sums of all positions."""
        return self.ranks.all_gather(dy, dy.ndim - 2)
