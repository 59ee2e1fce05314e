"""What is held out of a list: a random share of it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import BelowOne, Count, checked
from ..errors import InputError
from ..random import generator


@checked
def permuted_split(
    n: Count, held_out: BelowOne, seed: int = 0, *, groups: Sequence[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(train, held out): the numbers 0 … n − 1, dealt out by a random permutation; each part is sorted.

    A rule that computes sides from what the items are, a hash say, may hold out a kind of them: of sums
    a + b, (7919 a + 104729 b) mod 10 = 0 takes exactly those that end in 0. A permutation knows nothing of
    the items.

    Parameters
    ----------
    n
        How many items there are.
    held_out
        The share to hold out, rounded, but at least one item, and not all; 0 holds out none.
    seed
        Draws the permutation.
    groups
        To which group each item belongs, n values that can be told apart, such as prompts: a group stays on
        one side, and the share is one of groups. None: each item is its own.

    Returns
    -------
    tuple
        Two arrays of integers, which together are 0 … n − 1.

    Raises
    ------
    InputError
        Where there are too few items or groups for two parts.

    Examples
    --------
    >>> from numgpt.data import permuted_split
    >>> train, held_out = permuted_split(10, 0.2, seed=1)
    >>> len(train), len(held_out), sorted([*train, *held_out]) == list(range(10))
    (8, 2, True)
    """
    group = np.arange(n) if groups is None else _numbered(groups, n)
    size = int(group.max()) + 1 if n else 0
    n_held = 0
    if held_out:
        if size < 2:
            what = "items" if groups is None else "groups"
            raise InputError(
                f"split: there are {size} {what}, expected two or more, to hold out {held_out:g} of them"
            )
        n_held = min(max(1, round(held_out * size)), size - 1)
    is_held = np.zeros(size, bool)
    is_held[generator(seed, "split", size).permutation(size)[:n_held]] = True
    places = is_held[group]
    return np.flatnonzero(~places), np.flatnonzero(places)


def _numbered(groups: Sequence[Any], n: int) -> NDArray[np.int64]:
    """The number of each item's group, in the order in which groups first occur."""
    if len(groups) != n:
        raise InputError(f"split: there are {len(groups)} groups, expected n = {n}, one an item")
    numbers: dict[Hashable, int] = {}
    try:
        return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
    except TypeError as error:
        raise InputError(
            f"split: a group cannot be told apart ({error}), expected texts or numbers"
        ) from error
