"""Sums by the tree of tree_sum, of what comes one after the other."""

from __future__ import annotations

from ..architecture.parameters import Flat


class BinaryCounter:
    """Adds up gradients as they come, pairs first, then pairs of pairs: the bits are those of tree_sum.

    What has come is held as sums of 1, 2, 4, … of them, each at most once, as the digits of their number in
    base two. So ⌈log₂ n⌉ + 1 buffers will do for n gradients.

    home: the buffer that holds the sum in the end.
    """

    def __init__(self, home: Flat) -> None:
        self.home = home
        self._free: list[Flat] = [home]
        self._digits: list[tuple[int, Flat]] = []  # (k, a sum of 2ᵏ), the largest first

    def place(self) -> Flat:
        """A buffer for the next gradients, whatever it holds."""
        return self._free.pop() if self._free else self.home.like()

    def add(self, grads: Flat) -> None:
        """Take the buffer that place() gave, filled."""
        power = 0
        while self._digits and self._digits[-1][0] == power:
            grads = self._merged(self._digits.pop()[1], grads)
            power += 1
        self._digits.append((power, grads))

    def finish(self) -> None:
        """Bring the sum home: what has no partner joins the sum before it."""
        while len(self._digits) > 1:
            _, last = self._digits.pop()
            power, before = self._digits.pop()
            self._digits.append((power, self._merged(before, last)))
        assert self._digits and self._digits[0][1] is self.home, "the first buffer is every sum's first term"

    def _merged(self, a: Flat, b: Flat) -> Flat:
        """a + b in a's buffer; b's is free."""
        a.flat += b.flat
        self._free.append(b)
        return a
