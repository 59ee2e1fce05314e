"""Which numbers of the whole model's flat buffer each rank holds, and what is gathered by that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..training.optim import BLOCK
from .ranks import Ranks

Array = NDArray[Any]
AT_ONCE = 16  # torn blocks of a norm that are gathered in one message


class Piece(NamedTuple):
    """Numbers that lie side by side in the whole buffer, and in a rank's own."""

    whole: slice
    own: slice


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces in the whole's order, those that are neighbours on both sides as one."""
    runs: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.whole.start):
        if runs and _follows(runs[-1], piece):
            before = runs.pop()
            piece = Piece(
                slice(before.whole.start, piece.whole.stop), slice(before.own.start, piece.own.stop)
            )
        runs.append(piece)
    return runs


def _follows(a: Piece, b: Piece) -> bool:
    return a.whole.stop == b.whole.start and a.own.stop == b.own.start


def gathered(ranks: Ranks, pieces: Sequence[Sequence[Piece]], own: Array) -> Array:
    """The whole buffer, on every rank, from the pieces that each rank holds; together they are everything."""
    mine = [own[piece.own] for piece in pieces[ranks.rank]]
    parts = ranks.all_gather(np.concatenate([own[:0], *mine]))
    whole = np.empty_like(parts)
    offset = 0
    for of_rank in pieces:
        for place, _ in of_rank:
            end = offset + place.stop - place.start
            whole[place] = parts[offset:end]
            offset = end
    assert offset == len(parts), "each number is held by one rank"
    return whole


def whole_norm(ranks: Ranks, pieces: Sequence[Sequence[Piece]], own: Array) -> float:
    """The norm of the whole buffer with the bits of training.optim.global_norm, the same on every rank.

        ‖g‖² = Σ_b Σ_{i in block b} g_i²        blocks of the whole buffer, as one process adds them up

    A block that one rank holds is summed there. One that is torn between ranks is put together on all of
    them, because its sum's bits depend on all of its numbers lying side by side.
    """
    size = sum(piece.whole.stop - piece.whole.start for of_rank in pieces for piece in of_rank)
    n_blocks = -(-size // BLOCK)
    sums = np.zeros(n_blocks)
    is_whole = np.zeros(n_blocks, bool)
    for rank, of_rank in enumerate(pieces):
        for piece in of_rank:
            for b in _blocks_within(piece.whole, size):
                is_whole[b] = True
                if rank == ranks.rank:
                    sums[b] = _square(own[_part(piece, _block(b, size))])
    sums = ranks.all_reduce(sums)
    torn = np.flatnonzero(~is_whole).tolist()
    for first in range(0, len(torn), AT_ONCE):
        some = torn[first : first + AT_ONCE]
        rows = ranks.all_reduce(_rows(pieces[ranks.rank], some, size, own))
        for b, row in zip(some, rows):
            sums[b] = _square(row[: _length(_block(b, size))])
    return math.sqrt(sum(sums.tolist()))


def _rows(pieces: Sequence[Piece], blocks: Sequence[int], size: int, own: Array) -> Array:
    """A row for each of some blocks: this rank's numbers in their places, zeros elsewhere."""
    rows = np.zeros((len(blocks), BLOCK), own.dtype)
    for row, b in zip(rows, blocks):
        block = _block(b, size)
        for piece in pieces:
            part = slice(max(piece.whole.start, block.start), min(piece.whole.stop, block.stop))
            if part.start < part.stop:
                row[part.start - block.start : part.stop - block.start] = own[_part(piece, part)]
    return rows


def _square(numbers: Array) -> float:
    """Σ g² in float64, as global_norm has it of a block."""
    wide = numbers.astype(np.float64)
    return float(wide @ wide)


def _block(b: int, size: int) -> slice:
    return slice(b * BLOCK, min((b + 1) * BLOCK, size))


def _blocks_within(whole: slice, size: int) -> range:
    """The blocks that lie in a piece of the whole buffer entirely."""
    end = -(-size // BLOCK) if whole.stop == size else whole.stop // BLOCK
    return range(-(-whole.start // BLOCK), end)


def _part(piece: Piece, whole: slice) -> slice:
    """Where a part of a piece lies in the rank's own buffer."""
    offset = piece.own.start - piece.whole.start
    return slice(whole.start + offset, whole.stop + offset)


def _length(part: slice) -> int:
    return part.stop - part.start
