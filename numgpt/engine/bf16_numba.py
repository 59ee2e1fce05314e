"""A product of float32 matrices whose operands are rounded to bfloat16: for kernels, called as a BLAS is.

The loops are BLIS's (Van Zee and van de Geijn 2015): a block of A and a panel of B are packed, so that what
the innermost loop reads lies side by side in a cache. Packing is where float32 is rounded, so nobody holds
copies of 16 bits. It costs little even of weights, which are packed anew for each block of rows: while one
panel is multiplied, the next is brought near.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import types

from .bfloat import (
    DEPTH,
    LANES,
    PAIR,
    PANEL,
    ROWS,
    STRIDE,
    multiply_pairs,
    multiply_rows,
    pack_pair,
    pack_row,
    pack_turned,
    prefetch,
)
from .blas import TRANSPOSED
from .jit import compiled, kernel

LINE = 64  # bytes of a line of the caches
# The types of what cblas_sgemm takes, all matrices as addresses.
WHOLE, SINGLE = types.int64, types.float32
NUMBERS = (*[types.int32] * 3, *[WHOLE] * 3, SINGLE, *[WHOLE] * 4, SINGLE, *[WHOLE] * 2)
BLOCK = 480  # the most rows of a block of A: half a megabyte, which stays in the second cache


@kernel
def rows_packed(a, stride, rows, depth, to):
    """Pack rows (rows, depth) as rows; what is missing of the last 8 is 0."""
    for i in range((rows + ROWS - 1) // ROWS * ROWS):
        here = depth if i < rows else 0
        for k in range(0, depth, 2 * LANES):
            pack_row(to + i * STRIDE + 2 * k, a + i * stride + 4 * k, here - k)


@kernel
def panel_packed(b, stride, depth, columns, to):
    """Pack a matrix (depth, columns ≤ 48) by pairs of its rows."""
    for v in range(0, columns, LANES):
        left = columns - v
        for k in range(0, depth - 1, 2):
            row = b + k * stride + 4 * v
            pack_pair(to + k // 2 * PAIR + 4 * v, row, row + stride, left, left)
        if depth % 2:
            row = b + (depth - 1) * stride + 4 * v
            pack_pair(to + depth // 2 * PAIR + 4 * v, row, row, left, 0)


@kernel
def turned_panel_packed(b, stride, depth, columns, to):
    """Pack the transpose of a matrix (columns ≤ 48, depth) by pairs of its rows."""
    for v in range(0, columns, LANES):
        for k in range(0, depth, 2 * LANES):
            pack_turned(to + k // 2 * PAIR + 4 * v, b + v * stride + 4 * k, stride, columns - v, depth - k)


class Ahead(NamedTuple):
    """What will be packed next: rows in memory, to be brought near while products keep the processor busy."""

    address: Any
    stride: Any  # bytes from row to row
    rows: Any
    bytes: Any  # of each row


@kernel
def bring(ahead, part, parts):
    """Have one of so many parts of it brought near."""
    for row in range(part * ahead.rows // parts, (part + 1) * ahead.rows // parts):
        here = ahead.address + row * ahead.stride
        for line in range(0, ahead.bytes + LINE - 1, LINE):  # a row may begin anywhere in a line
            prefetch(here + line)


class Packed(NamedTuple):
    """A block of op(a), which is packed by rows or, where a is meant turned, by pairs; a panel of op(b)."""

    block: Any
    size: Any  # bytes of a panel
    turned: Any
    panel: Any
    pairs: Any  # of the summed axis


@kernel
def rows_multiplied(packed, i, alpha, beta, part, columns):
    """Rows i … i + 8 of a block's product with a panel: a part of c."""
    panel, pairs = packed.panel, packed.pairs
    if packed.turned:
        a = packed.block + i // PANEL * packed.size + 4 * (i % PANEL)
        if columns > 2 * LANES:
            multiply_pairs(3, a, panel, pairs, alpha, beta, part)
        elif columns > LANES:
            multiply_pairs(2, a, panel, pairs, alpha, beta, part)
        else:
            multiply_pairs(1, a, panel, pairs, alpha, beta, part)
    else:
        a = packed.block + i * STRIDE
        if columns > 2 * LANES:
            multiply_rows(3, a, panel, pairs, alpha, beta, part)
        elif columns > LANES:
            multiply_rows(2, a, panel, pairs, alpha, beta, part)
        else:
            multiply_rows(1, a, panel, pairs, alpha, beta, part)


@kernel
def block_multiplied(packed, alpha, beta, c, distance, rows, columns, ahead):
    """c (rows, columns ≤ 48) ← alpha block panel + beta c; distance: bytes from row to row of c."""
    parts = (rows + ROWS - 1) // ROWS
    for part in range(parts):
        i = part * ROWS
        bring(ahead, part, parts)
        here = c + i * distance, distance, rows - i, columns
        rows_multiplied(packed, i, alpha, beta, here, columns)


class Matrix(NamedTuple):
    """A matrix of float32, whose rows are contiguous."""

    address: Any
    stride: Any  # bytes from row to row
    turned: Any  # whether its transpose is meant


@kernel
def block_packed(a, i, k, rows, depth, size, to):
    """Pack rows i … i + rows of op(a), k … k + depth of each: by rows, or a transpose by pairs.

    By pairs it becomes panels of `size` bytes.
    """
    if not a.turned:
        rows_packed(a.address + i * a.stride + 4 * k, a.stride, rows, depth, to)
        return
    for n in range(0, rows, PANEL):
        here = a.address + k * a.stride + 4 * (i + n)
        panel_packed(here, a.stride, depth, min(PANEL, rows - n), to + n // PANEL * size)


@kernel
def columns_packed(b, k, j, depth, columns, to):
    """Pack a panel of op(b): rows k … k + depth, columns j … j + columns ≤ 48."""
    if b.turned:
        turned_panel_packed(b.address + j * b.stride + 4 * k, b.stride, depth, columns, to)
    else:
        panel_packed(b.address + k * b.stride + 4 * j, b.stride, depth, columns, to)


@kernel
def panel_after(b, k, j, following, depth, K, N):
    """An Ahead of the panel of op(b) (K, N) after the one at k and j; of nothing after the last.

    following: where k is once all columns are done.
    """
    j += PANEL
    if j >= N:
        k, j = following, 0
    depth, columns = max(0, min(depth, K - k)), min(PANEL, N - j)
    if b.turned:
        return Ahead(b.address + j * b.stride + 4 * k, b.stride, columns, 4 * depth)
    return Ahead(b.address + k * b.stride + 4 * j, b.stride, depth, 4 * columns)


@kernel
def pieces(n, size, unit):
    """The size of the parts of n, of at most `size` and about equal: a multiple of unit."""
    parts = max(1, (n + size - 1) // size)
    return (max(1, n) + parts * unit - 1) // (parts * unit) * unit


@kernel
def multiply(alpha, M, N, K, a, b, beta, c):
    """c (M, N) ← alpha op(a) op(b) + beta c.

    A block of op(a) is packed once and meets all panels of op(b), each of which is packed for it.
    """
    depth, height = pieces(K, DEPTH, 2 * LANES), pieces(M, BLOCK, PANEL)
    size = depth // 2 * PAIR  # of a panel
    whole = height // PANEL * size if a.turned else height * STRIDE
    memory = np.empty(whole + size + LINE, np.uint8)
    block = (memory.ctypes.data + LINE - 1) // LINE * LINE
    panel = block + whole
    if K == 0:  # one pair of zeros
        memory[:] = 0
    for k in range(0, max(K, 1), depth):
        here = min(depth, K - k)
        factor = beta if k == 0 else np.float32(1)
        for i in range(0, M, height):
            rows = min(height, M - i)
            following = k if i + height < M else k + depth
            block_packed(a, i, k, rows, here, size, block)
            for j in range(0, N, PANEL):
                columns = min(PANEL, N - j)
                columns_packed(b, k, j, here, columns, panel)
                ahead = panel_after(b, k, j, following, depth, K, N)
                to = c.address + i * c.stride + 4 * j
                packed = Packed(block, size, a.turned, panel, max(1, (here + 1) // 2))
                block_multiplied(packed, alpha, factor, to, c.stride, rows, columns, ahead)
    # An array whose address alone is used would be freed after that use.
    return memory[0]


def product(layout, ta, tb, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc):
    """cblas_sgemm with its operands rounded to bfloat16; layout is that of rows."""
    left, right = Matrix(a, 4 * lda, ta == TRANSPOSED), Matrix(b, 4 * ldb, tb == TRANSPOSED)
    multiply(alpha, M, N, K, left, right, beta, Matrix(c, 4 * ldc, False))


@functools.cache  # what holds the code
def as_blas():
    """The product in C's manner, with its address."""
    return compiled(product, types.void(*NUMBERS))
