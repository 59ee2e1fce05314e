"""How byte pairs are joined: always the pair of least rank, and of pairs of one rank the leftmost."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranks = Mapping[tuple[int, int], tuple[int, int]]  # (left, right) → (rank, id of both)


SCANNED = 64  # ids up to which all pairs are looked at for each join


def joiner(ranks: Ranks) -> Callable[[Sequence[int] | NDArray[Any]], NDArray[Any]]:
    """A function ids (T,) → ids that joins as join does, by whichever way is the sooner."""
    return lambda ids: (join if len(ids) <= SCANNED else join_queued)(ids, ranks)


def join(ids: Iterable[int], ranks: Ranks) -> NDArray[Any]:
    """Join neighbours until no pair of them is in ranks, looking at all pairs for each join.

    ids (T,) → ids.  ranks: (left, right) → (rank, id of both).
    """
    ids = list(ids)
    while True:
        known = [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
        if not known:
            return np.array(ids, np.int64)
        (_, joined), i = min(known)
        ids[i : i + 2] = [joined]


def join_queued(ids: Iterable[int], ranks: Ranks) -> NDArray[Any]:
    """What join gives, in O(n log n): pairs wait in a queue, ordered by rank and place.

    Nothing is taken out of the middle of the queue. An entry whose pair has changed since is passed over.

    ids (T,) → ids.  ranks as of join.
    """
    nodes: list[int | None] = [int(i) for i in ids]  # the id that begins at a place, None inside a joined one
    n = len(nodes)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))

    def known(i: int) -> tuple[int, int] | None:
        """(rank, id of both) of the pair that begins at i, None where it is not joined."""
        return ranks.get((nodes[i], nodes[after[i]])) if after[i] < n else None  # type: ignore[arg-type]

    queue = [(pair[0], i) for i in range(n) if (pair := known(i))]
    heapq.heapify(queue)
    while queue:
        rank, i = heapq.heappop(queue)
        pair, right = known(i), after[i]
        if not pair or pair[0] != rank:
            continue
        nodes[i], nodes[right], after[i] = pair[1], None, after[right]
        if after[i] < n:
            before[after[i]] = i
        for place in (before[i], i):
            if place >= 0 and (pair := known(place)):
                heapq.heappush(queue, (pair[0], place))
    return np.array([i for i in nodes if i is not None], np.int64)
