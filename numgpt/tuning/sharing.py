"""Sharing: which of several processes answers and scores a micro-batch, and how all get what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Sharing(NamedTuple):
    """A process among several that share the micro-batches of each step.

    gather: the arrays of all of them, one behind the other in the order of their ranks.
    """

    rank: int
    size: int
    gather: Callable[[Array], Array]

    def owner(self, n: int, accumulate: int) -> int:
        """Who has micro-batch n of those of an iteration, accumulate of them a step."""
        return n % accumulate * self.size // accumulate

    def gathered(
        self, parts: Sequence[Array | None], shapes: Sequence[tuple[int, ...]], by: int
    ) -> list[Array]:
        """The arrays of all micro-batches, of which each process gives its own, of these shapes.

        by: the micro-batches of a step.
        """
        own = [part.reshape(-1) for part in parts if part is not None]
        kind = own[0].dtype
        whole = self.gather(np.concatenate(own))
        result: list[Array] = [np.empty(0, kind)] * len(parts)
        begin = 0
        for n in sorted(range(len(parts)), key=lambda n: (self.owner(n, by), n)):
            end = begin + int(np.prod(shapes[n]))
            result[n] = whole[begin:end].reshape(shapes[n])
            begin = end
        return result
