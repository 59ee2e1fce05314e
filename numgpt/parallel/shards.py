"""Shards: the batches of a step, added up by a tree that does not depend on who computes which of them."""

from __future__ import annotations

from collections.abc import Callable

from ..architecture.parameters import Flat
from ..errors import InputError


def leaves_of(batches: int) -> int:
    """The leaves of the tree: the largest power of two that divides a step's batches.

    >>> [leaves_of(n) for n in (1, 8, 12)]
    [1, 8, 4]
    """
    return batches & -batches


def expect_divides(size: int, batches: int) -> None:
    """Raise InputError unless so many ranks can share a step's batches, each a whole part of the tree."""
    if leaves_of(batches) % size == 0:
        return
    if size & (size - 1):
        power = 1 << (size.bit_length() - 1)
        raise InputError(
            f"parallel: {size} ranks share the batches of a step, expected a power of two, so that the sum's"
            f" bits do not depend on their number: start {power} or {2 * power}"
        )
    raise InputError(
        f"parallel: a step has accumulate {batches} batches, which {size} ranks cannot share evenly, expected"
        f" a multiple of {size}: give --accumulate {size * -(-batches // size)}, or start fewer ranks"
    )


def added(
    leaves: int, per_leaf: int, grads: Flat, scratch: list[Flat], compute: Callable[[int, Flat, bool], None]
) -> None:
    """The gradients of leaves · per_leaf batches, added up by a tree → grads.

        leaf i   the sum of its batches, one after the other
        the sum  ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))

    as a binary counter does it: what is at level k is the sum of 2ᵏ leaves, and waits for its neighbour, so
    log₂ leaves buffers do for any number of leaves. leaves is a power of two.

    compute(n, place, add): the gradients of batch n → place, onto what is there where add says so. scratch:
    a buffer a level, made when it is needed, and kept by the caller.
    """
    assert leaves & (leaves - 1) == 0, "a tree of a power of two"
    for leaf in range(leaves):
        is_last = leaf == leaves - 1
        level = _trailing_ones(leaf)
        if not is_last and level == len(scratch):
            scratch.append(grads.like())
        place = grads if is_last else scratch[level]
        for n in range(leaf * per_leaf, (leaf + 1) * per_leaf):
            compute(n, place, n > leaf * per_leaf)
        for below in scratch[:level]:
            place.flat += below.flat


def _trailing_ones(n: int) -> int:
    """How many levels are full below a leaf: those that it completes."""
    return (~n & (n + 1)).bit_length() - 1
