"""Visibility: where each token of a batch stands, and which of the others it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import engine
from ..argument_kinds import as_array
from ..arguments import Count, Ids, Size, checked
from ..errors import InputError

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Visibility:
    """An interval of keys for each query, and a position for each token: arrays (..., T), or None.

    Query t sees the keys first_t … last_t of the T tokens of its row: 0 … t unless given, the causal order.
    Its position is positions_t, unless given t.

    Raises
    ------
    InputError
        For what is no integers, for a negative position, for a query that would see no key, or a key that is
        not there; the last two are seen where a model checks it against its tokens.

    Examples
    --------
    Two documents in one row, of which each is alone:

    >>> packed = Visibility.packed([[3, 2]])
    >>> packed.positions, packed.first
    (array([[0, 1, 2, 0, 1]]), array([[0, 0, 0, 3, 3]]))

    A prefix of two tokens that see each other, before three that see what came before:

    >>> Visibility.prefix([2], 5).last
    array([[1, 1, 2, 3, 4]])
    """

    positions: Any = None
    first: Any = None
    last: Any = None

    def __post_init__(self) -> None:
        for name in ("positions", "first", "last"):
            given = getattr(self, name)
            if given is None:
                continue
            array = as_array(f"visibility: {name}", given, "integers (..., T)")
            if array.dtype.kind not in "iu" or array.ndim == 0:
                raise InputError(
                    f"visibility: {name} is {array.dtype} of shape {array.shape}, expected integers (..., T)"
                )
            if array.size and int(array.min()) < 0 and name != "last":
                raise InputError(f"visibility: {name} has {array.min()}, expected 0 or more")
            object.__setattr__(self, name, array.astype(np.int64))

    @classmethod
    @checked
    def documents(cls, tokens: Ids, begin: Count) -> Visibility:
        """Documents in rows of tokens (..., T), each alone: one begins wherever the token begin stands.

        What stands before the first of them in a row is the end of a document that began earlier.

        >>> Visibility.documents([[5, 6, 0, 7, 8]], 0).positions
        array([[0, 1, 0, 1, 2]])
        """
        ids = as_array("visibility: tokens", tokens, "integers (..., T)")
        if ids.dtype.kind not in "iu" or ids.ndim == 0:
            raise InputError(
                f"visibility: tokens is {ids.dtype} of shape {ids.shape}, expected integers (..., T)"
            )
        places = np.arange(ids.shape[-1])
        first = np.maximum.accumulate(np.where(ids == begin, places, 0), -1)
        return cls(places - first, first)

    @classmethod
    @checked
    def packed(cls, lengths: Sequence[Sequence[int]]) -> Visibility:
        """Documents side by side in each row, each alone and counted from 0.

        lengths: for each row the lengths of its documents; all rows have the same sum, T.
        """
        rows = [_lengths("packed", row) for row in lengths]
        sums = sorted({sum(map(int, row)) for row in rows})
        if len(sums) != 1:
            raise InputError(
                f"visibility: rows of {', '.join(map(str, sums)) or 'no'} tokens, expected as many in each"
            )
        _expect_room(len(rows), sums[0])
        first = np.array([np.repeat(np.cumsum(row) - row, row) for row in rows], np.int64)
        return cls(np.arange(first.shape[-1]) - first, first)

    @classmethod
    @checked
    def padded(cls, lengths: Ids, T: Size) -> Visibility:
        """Rows of different length in T places, their tokens at the end and padding before them.

        lengths: integers (B). Padding sees itself alone; nothing else sees it.
        """
        rows = _lengths("padded", lengths)
        if int(rows.max()) > T:
            raise InputError(f"visibility: a row has {rows.max()} tokens, expected at most T = {T}")
        _expect_room(len(rows), T)
        padding = (T - rows)[:, None]
        place = np.arange(T)
        return cls(np.maximum(place - padding, 0), np.where(place < padding, place, padding))

    @classmethod
    @checked
    def prefix(cls, lengths: Ids, T: Size) -> Visibility:
        """Rows whose first tokens see each other, also those after them, as a prompt's or a picture's may.

        lengths: integers (B), how many; the tokens after them see what came before.
        """
        rows = _lengths("prefix", lengths)
        if int(rows.max()) > T:
            raise InputError(f"visibility: a prefix has {rows.max()} tokens, expected at most T = {T}")
        _expect_room(len(rows), T)
        return cls(last=np.maximum(np.arange(T), rows[:, None] - 1))

    def beside(self, params: Any) -> Visibility:
        """The same where an array lies, to be read by what computes there."""
        moved = object.__new__(Visibility)
        for name in ("positions", "first", "last"):
            array = getattr(self, name)
            object.__setattr__(moved, name, None if array is None else engine.told(array, params))
        return moved

    @checked
    def checked(self, shape: Sequence[Count]) -> Visibility:
        """The same for tokens of a shape (..., T), each array of that shape, or an InputError."""
        if not shape:
            raise InputError("visibility: the tokens have shape (), expected (..., T)")
        shape, T = tuple(shape), shape[-1]
        full: dict[str, Any] = {}
        for name in ("positions", "first", "last"):
            array = getattr(self, name)
            if array is None:
                continue
            try:
                full[name] = np.ascontiguousarray(np.broadcast_to(array, shape))
            except ValueError:
                raise InputError(
                    f"visibility: {name} has shape {array.shape}, expected {shape} as the tokens have"
                ) from None
        first, last = full.get("first", np.zeros(T, int)), full.get("last", np.arange(T))
        hidden = np.argwhere(first > last)
        if len(hidden):
            place = tuple(map(int, hidden[0]))
            raise InputError(
                f"visibility: the query at {place} sees no key, from {_at(first, place)} to"
                f" {_at(last, place)}, expected at least one: let it see itself"
            )
        if full and int(last.max()) >= T:
            raise InputError(
                f"visibility: last has {last.max()}, expected at most {T - 1}, the last of T keys"
            )
        return Visibility(**full)


def _at(array: Integers, place: tuple[int, ...]) -> int:
    return int(array[place[-array.ndim :]])


def _expect_room(rows: int, T: int) -> None:
    """Raise InputError for more places than fit in memory: three arrays, and one on the way."""
    engine.expect_room(f"visibility: {rows:,} rows of {T:,} places", 4 * 8 * rows * T)


def _lengths(what: str, lengths: ArrayLike) -> Integers:
    array = as_array(f"visibility: lengths of {what}", lengths, "integers (n)")
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.size == 0:
        raise InputError(
            f"visibility: lengths are {array.dtype} of shape {array.shape}, expected one integer or more"
        )
    if int(array.min()) < 1:
        raise InputError(f"visibility: a length is {array.min()}, expected 1 or more")
    return array.astype(np.int64)
