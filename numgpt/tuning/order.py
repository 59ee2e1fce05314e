"""The order in which examples are drawn: each once an epoch, in an order of its own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Training
from ..arguments import Count, Size, checked
from ..random import generator


@checked
def drawn(n: Size, training: Training, step: Count, batch: Count) -> NDArray[np.int64]:
    """Which of n items are in a batch of a step: the next ones in the order of their epoch.

    It depends on the seed, step and batch alone, so that a run that goes on draws what it would have drawn.
    """
    B = training.batch_size
    place = (step * training.accumulate + batch) * B
    items = np.empty(B, np.int64)
    done = 0
    while done < B:
        epoch, at = divmod(place + done, n)
        taken = _order(training.seed, epoch, n)[at : at + B - done]
        items[done : done + len(taken)] = taken
        done += len(taken)
    return items


@functools.lru_cache(maxsize=2)  # an epoch has many batches, and one may reach into the next epoch
def _order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of an epoch."""
    order = generator(seed, "epoch", epoch, n).permutation(n)
    order.flags.writeable = False  # all batches read this one
    return order


def in_turn(n: int, training: Training) -> Iterator[NDArray[np.int64]]:
    """The batches of what is held out: all of n items in their order, or the first eval_iters batches."""
    B = training.batch_size
    for begin in range(0, min(n, B * training.eval_iters), B):
        yield np.arange(begin, min(n, begin + B))


def digest(words: Iterable[Any], arrays: Iterable[Any]) -> str:
    """SHA-256 of settings and of what is trained on, so that a run goes on with its own."""
    sha = hashlib.sha256(repr(list(words)).encode())
    for array in arrays:
        array = np.ascontiguousarray(array)
        sha.update(repr((array.dtype.str, array.shape)).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
