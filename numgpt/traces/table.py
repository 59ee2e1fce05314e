"""Table: the index of a trace, a line for each name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

WIDTH = 100  # columns


class Row(NamedTuple):
    """A name, its axes and shape, the norms of its value and its gradient (None: not held), and its op."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    value: float | None
    grad: float | None
    op: str


class Table(NamedTuple):
    """The rows of an index; printed, it is a table at most 100 columns wide.

    sizes: letter → size of the axes.
    """

    rows: tuple[Row, ...]
    sizes: Mapping[str, int]

    def __repr__(self) -> str:
        letters = {a for row in self.rows for axis in row.axes for a in axis if a.isalpha()}
        sizes = ", ".join(f"{a} = {size}" for a, size in self.sizes.items() if a in letters)
        head = ("name", "axes", "shape", "‖value‖", "‖gradient‖", "op")
        lines = [head, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        right = (False, False, False, True, True, False)
        text = [_line(line, widths, right) for line in lines]
        return "\n".join([*(line[:WIDTH] for line in text), *([sizes] if sizes else [])])


def _cells(row: Row) -> tuple[str, ...]:
    shape = "×".join(map(str, row.shape)) or "()"
    return row.name, " ".join(row.axes) or "()", shape, _number(row.value), _number(row.grad), row.op


def _number(norm: float | None) -> str:
    return "" if norm is None else f"{norm:.4g}"


def _line(cells: tuple[str, ...], widths: list[int], right: tuple[bool, ...]) -> str:
    padded = [f"{c:>{w}}" if r else f"{c:{w}}" for c, w, r in zip(cells, widths, right)]
    return "  ".join(padded).rstrip()
