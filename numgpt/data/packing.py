"""From examples to rows: several packed into each, or one in each with padding behind it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..argument_kinds import as_array
from ..arguments import Size, checked
from ..errors import InputError
from ..random import generator
from .rendering import Example

Integers = NDArray[np.int64]
NOTHING = -1  # the target where there is none: in padding


class RowBatch(NamedTuple):
    """Rows of tokens, each position with the token that comes next and what that counts.

    inputs, targets: integers (B, T); padding is 0 and has the target -1. weights: floats (B, T), 1 where the
    assistant writes the target, its end too, 0 elsewhere. lengths: for each row those of its examples, in
    their order, and of the padding behind them; Visibility.packed(lengths) keeps each to itself. Rows of one
    example need no Visibility: in the causal order nothing sees what is behind it.
    """

    inputs: Integers
    targets: Integers
    weights: NDArray[np.float64]
    lengths: list[list[int]]


class Rows:
    """A plan of rows, made by packed or padded: which examples stand in each. Rows are made when asked for.

    An example of n ids takes n − 1 places: its last id is a target alone.

    examples: those of the plan, cut where that was allowed. plan: for each row the numbers of its examples.
    T: the length of a row; None: that of the longest one in a batch.
    """

    @checked
    def __init__(
        self, examples: Sequence[Example], plan: Sequence[Sequence[int]], T: Size | None = None
    ) -> None:
        self.examples = [_checked(n, example) for n, example in enumerate(examples)]
        self.plan = [list(row) for row in plan]
        self.T = T
        n = len(self.examples)
        for row in self.plan:
            unknown = next((i for i in row if not 0 <= i < n), None)
            if unknown is not None or not row:
                what = "is empty" if unknown is None else f"has example {unknown}"
                raise InputError(f"rows: a row of the plan {what}, expected numbers from 0 to {n - 1}")
        sizes = [sum(len(self.examples[i].ids) - 1 for i in row) for row in self.plan]
        if T is not None and max(sizes, default=0) > T:
            raise InputError(f"rows: a row has {max(sizes)} places, expected at most T = {T}")
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def density(self) -> float:
        """The share of places that are no padding, where all rows have the length T or the longest one's."""
        return sum(self._sizes) / (len(self) * (self.T or max(self._sizes)))

    @property
    def counts(self) -> Integers:
        """How many targets count in each row.  → integers (rows,)"""
        return np.array([sum(int(self.examples[i].is_response[1:].sum()) for i in row) for row in self.plan])

    @checked
    def batch(self, rows: Sequence[int]) -> RowBatch:
        """Some rows, by their numbers."""
        unknown = next((row for row in rows if not 0 <= row < len(self)), None)
        if unknown is not None or not len(rows):
            what = "no row" if unknown is None else f"row {unknown}"
            raise InputError(f"rows: {what} is asked for, expected numbers from 0 to {len(self) - 1}")
        T = self.T or max(self._sizes[row] for row in rows)
        engine.expect_room(f"rows: {len(rows):,} rows of {T:,} places", 3 * 8 * len(rows) * T)
        inputs = np.zeros((len(rows), T), np.int64)
        targets = np.full_like(inputs, NOTHING)
        weights = np.zeros((len(rows), T))
        lengths = []
        for b, row in enumerate(rows):
            place = 0
            lengths.append([len(self.examples[i].ids) - 1 for i in self.plan[row]])
            for i, n in zip(self.plan[row], lengths[b]):
                ids, is_response = self.examples[i]
                inputs[b, place : place + n] = ids[:-1]
                targets[b, place : place + n] = ids[1:]
                weights[b, place : place + n] = is_response[1:]
                place += n
            if place < T:
                lengths[b].append(T - place)
        return RowBatch(inputs, targets, weights, lengths)


@checked
def packed(examples: Sequence[Example], block_size: Size, *, seed: int = 0, truncate: bool = False) -> Rows:
    """Rows of block_size places with several examples each: little padding, and no step for it.

    The examples come in an order that the seed draws; each goes to the first row that has room (first-fit).

    Parameters
    ----------
    examples
        As a template's encode gives them.
    block_size
        The places of a row.
    seed
        Draws the order: another one for each epoch mixes other examples into a row.
    truncate
        Whether to cut the end off a response that is too long; a warning says of how many. What is cut is
        never learned, the end of the response among it.

    Raises
    ------
    InputError
        Where an example is longer than block_size + 1 ids and is not to be cut, or has no response within
        it.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt import data
    >>> examples = [data.Example(np.arange(n), np.arange(n) > 1) for n in (5, 4, 3)]
    >>> batch = data.packed(examples, 6).batch([0])
    >>> batch.inputs, batch.lengths
    (array([[0, 1, 0, 1, 2, 3]]), [[2, 4]])
    """
    fitting = _fitting(examples, block_size, truncate)
    order = generator(seed, "packing", len(fitting)).permutation(len(fitting))
    sizes = np.array([len(example.ids) - 1 for example in fitting])
    room = min(block_size, int(sizes.sum()))  # no row has more
    return Rows(fitting, _first_fit(sizes, order, room), block_size)


@checked
def padded(examples: Sequence[Example], block_size: Size, *, truncate: bool = False) -> Rows:
    """Rows of one example each, in their order, as long as the longest of a batch.

    The arguments and errors are those of packed.
    """
    fitting = _fitting(examples, block_size, truncate)
    return Rows(fitting, [[i] for i in range(len(fitting))])


@checked
def stacked(sequences: Sequence[Any]) -> tuple[Integers, Integers]:
    """Sequences of ids as rows of whole texts, for a head that reads the last token of each.

    → (ids (B, T), lengths (B)); T is the longest length, and what is behind a shorter one is 0.

    Examples
    --------
    >>> from numgpt import data
    >>> ids, lengths = data.stacked([[1, 2, 3], [4]])
    >>> ids.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    rows = [_integers(f"stacked: sequence {n}", sequence) for n, sequence in enumerate(sequences)]
    if not rows:
        raise InputError("stacked: there are no sequences, expected one or more")
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = row
    return ids, lengths


def _integers(who: str, ids: Any) -> Integers:
    array = as_array(who, ids, "integers (n,)")
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise InputError(f"{who} is {array.dtype} of shape {array.shape}, expected integers (n,), n ≥ 1")
    if int(array.min()) < 0:
        raise InputError(f"{who} has {array.min()}, expected ids from 0")
    return array.astype(np.int64, copy=False)


def _fitting(examples: Sequence[Example], block_size: int, truncate: bool) -> list[Example]:
    """Examples of at most block_size + 1 ids; InputError for those that are none, or too long."""
    if not examples:
        raise InputError("examples: there are none, expected one or more")
    whole = [_checked(n, example) for n, example in enumerate(examples)]
    sizes = [len(example.ids) - 1 for example in whole]
    long = sum(size > block_size for size in sizes)
    if long and not truncate:
        raise InputError(
            f"examples: {long:,} of {len(sizes):,} are longer than {block_size:,} places, the longest"
            f" {max(sizes):,}, expected none: choose a larger block size, or truncate=True, which cuts off"
            " the ends of their responses"
        )
    if not long:
        return whole
    cut = [Example(ids[: block_size + 1], mask[: block_size + 1]) for ids, mask in whole]
    lost = sum(not example.is_response[1:].any() for example in cut)
    if lost:
        raise InputError(
            f"examples: {lost:,} of {len(sizes):,} have no response within {block_size:,} places, where they"
            " are cut, expected some: leave them out, or choose a larger block size"
        )
    warnings.warn(
        f"examples: {long:,} of {len(sizes):,} are longer than {block_size:,} places and are cut there: the"
        " ends of their responses are not learned",
        stacklevel=4,
    )
    return cut


def _checked(n: int, example: Example) -> Example:
    """An example with ids and a response; InputError where it is none."""
    ids = _integers(f"examples: the ids of {n}", example.ids)
    mask = as_array(f"examples: is_response of {n}", example.is_response, "booleans (n,)")
    if mask.dtype != bool or mask.shape != ids.shape:
        raise InputError(
            f"examples: is_response of {n} is {mask.dtype} of shape {mask.shape}, expected booleans"
            f" {ids.shape}, as many as ids"
        )
    if not mask[1:].any():
        raise InputError(
            f"examples: {n} has no response behind its first token, expected one: nothing would be learned"
            " from it"
        )
    return Example(ids, mask)


def _first_fit(sizes: Integers, order: Integers, room: int) -> list[list[int]]:
    """Rows of numbers, none with more than room places: each to the first row that takes it."""
    plan: list[list[int]] = []
    free = np.zeros(len(sizes), np.int64)
    least, first = int(sizes.min()), 0  # rows before the first are full for all
    for i in order.tolist():
        fits = free[first : len(plan)] >= sizes[i]
        row = first + int(fits.argmax()) if fits.any() else len(plan)
        if row == len(plan):
            plan.append([])
            free[row] = room
        plan[row].append(i)
        free[row] -= sizes[i]
        while first < len(plan) and free[first] < least:
            first += 1
    return plan
