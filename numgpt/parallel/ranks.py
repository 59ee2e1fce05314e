"""Ranks: what processes that work on one model say to each other, whoever carries it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Part = TypeVar("Part")


class Ranks(Protocol):
    """A group of processes, of which this one has the number rank. The names are MPI's.

    What is given is never written to, and what is returned is the caller's own. All ranks of a group make the
    same calls in the same order. Arrays are float32, float64, complex128 or integers, contiguous or not.
    """

    rank: int
    size: int

    def all_reduce(self, array: Array, how: str = "sum") -> Array:
        """The sum over all ranks, or their largest, entry by entry, with the same bits on each of them.

        A sum is added up by a fixed tree, as tree_sum does, so its bits depend on the parts and their order
        alone.
        """

    def all_gather(self, array: Array, axis: int = 0) -> Array:
        """The parts of all ranks side by side along an axis, where their lengths may differ."""

    def reduce_scatter(self, array: Array, lengths: Sequence[int], axis: int = 0) -> Array:
        """This rank's part of the sum over all ranks, cut along an axis into parts of these lengths."""

    def all_to_all(self, parts: Sequence[Array]) -> list[Array]:
        """Part r of this rank goes to rank r; what each rank had for this one comes back, in their order."""

    def broadcast(self, array: Array | None, root: int = 0) -> Array:
        """The array of rank root; the others give None."""

    def send(self, array: Array, to: int, tag: int) -> None:
        """Send to one rank, and go on before it has arrived."""

    def receive(self, source: int, tag: int) -> Array:
        """What a rank sent with a tag; waits for it."""

    def gather_texts(self, text: str) -> list[str]:
        """A text of each rank, in their order."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def split(self, group: int) -> Ranks:
        """The ranks that gave the same number, in the order that they have here."""

    def window(self, n: int, dtype: DTypeLike) -> list[Array] | None:
        """An array of zeros of each rank, as long as it asks for, which all of them read and write.

        None where they have no memory in common. Between writing and reading lies a barrier().
        """


class Alone:
    """The group of one process, which says nothing to anybody."""

    rank = 0
    size = 1

    def all_reduce(self, array: Array, how: str = "sum") -> Array:
        """A copy."""
        return array.copy()

    def all_gather(self, array: Array, axis: int = 0) -> Array:
        """A copy."""
        return array.copy()

    def reduce_scatter(self, array: Array, lengths: Sequence[int], axis: int = 0) -> Array:
        """A copy."""
        return array.copy()

    def all_to_all(self, parts: Sequence[Array]) -> list[Array]:
        """Copies."""
        return [part.copy() for part in parts]

    def broadcast(self, array: Array | None, root: int = 0) -> Array:
        """A copy."""
        assert array is not None, "the root gives one"
        return array.copy()

    def send(self, array: Array, to: int, tag: int) -> None:
        """There is nobody to send to."""
        raise AssertionError("a process alone sends nothing")

    def receive(self, source: int, tag: int) -> Array:
        """There is nobody who sends."""
        raise AssertionError("a process alone receives nothing")

    def gather_texts(self, text: str) -> list[str]:
        """The text by itself."""
        return [text]

    def barrier(self) -> None:
        """There is nobody to wait for."""

    def split(self, group: int) -> Alone:
        """Itself."""
        return self

    def window(self, n: int, dtype: DTypeLike) -> list[Array] | None:
        """Its own array."""
        return [np.zeros(n, dtype)]


def tree_sum(parts: Sequence[Array]) -> Array:
    """The sum of parts by a fixed tree: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), a new array.

    A power of two of parts, cut among a power of two of ranks side by side, has a subtree on each rank: so
    the bits do not depend on how many ranks there are. Of other numbers, what has no partner joins the level
    above.

    >>> tree_sum([np.array(1), np.array(2), np.array(3)])
    array(6)
    """
    level = [np.array(part) for part in parts]
    while len(level) > 1:
        pairs = [np.asarray(a + b) for a, b in zip(level[::2], level[1::2])]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]
