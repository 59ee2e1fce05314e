"""Twins of linear and unembedding: blocks of the result, each one BLAS call of one thread."""

import math
import sys

import numpy as np

from ..engine import bf16, jit
from ..engine.blas import gemm
from ..engine.jit import kernel, launch, parallel
from . import few_rows_numba as few

PRECISIONS = bf16.PRECISIONS

# The fewest rows and columns of a block, and the fewest columns where the result is wider than high.
BLOCK = 64
WIDE = 192
# The most blocks, whatever the number of threads: so the bits depend on the shape alone.
BLOCKS = 8
TILE = 64  # columns of a task that sums rows
REUSED_BYTES = 1 << 25  # from here on the C library would ask the system for an array's memory anew each time


def grid(M, N):
    """(rows, columns) of blocks that a result (M, N) is divided into.

    Along the longer side, so that the BLAS packs little twice.
    """
    if N > M:
        columns = min(BLOCKS, max(1, N // WIDE))
        return min(BLOCKS // columns, max(1, M // BLOCK)), columns
    rows = min(BLOCKS, max(1, M // BLOCK))
    return rows, min(BLOCKS // rows, max(1, N // BLOCK))


@kernel
def set_rows(x, c0, y, n0, n1, width):
    """y[n0 : n1, c0 : c0 + width] = x[c0 : c0 + width] in each row."""
    for n in range(n1 - n0):
        for c in range(width):
            y[n0 + n, c0 + c] = x[c0 + c]


@kernel
def borders(block, rows, columns, c):
    """The rows and the columns (i0, i1, j0, j1) of a block of c, which is divided into rows × columns."""
    M, N = c.shape
    i, j = block // columns, block % columns
    return i * M // rows, (i + 1) * M // rows, j * N // columns, (j + 1) * N // columns


@parallel
def product(block, rows, columns, ta, tb, a, b, bias, beta, c, bf16):
    """A block of c ← op(a) op(b) + bias, or without a bias (None) of c ← op(a) op(b) + beta c.

    beta 0 ignores what c held. bf16: see gemm.
    """
    i0, i1, j0, j1 = borders(block, rows, columns, c)
    scale = beta
    if bias is not None:
        set_rows(bias, j0, c, i0, i1, j1 - j0)
        scale = 1.0
    rows_of_a = a[:, i0:i1] if ta else a[i0:i1]
    columns_of_b = b[j0:j1] if tb else b[:, j0:j1]
    gemm(ta, tb, 1.0, rows_of_a, columns_of_b, scale, c[i0:i1, j0:j1], bf16)


class ReusedMemory:
    """The memory of one large array, lent as long as anybody reads it, and lent again afterwards.

    The logits are a model's largest array and needed anew at every step; memory that comes from the system
    each time is paged in each time.

    What is lent are views of _array, and each view, or view of a view, counts as a reference to it.
    Invariant: _array is lent only when nobody but this object refers to it, so no two living arrays share
    memory. When somebody does, another array takes its place; the old one lives as long as its views.
    """

    def __init__(self):
        self._array = np.empty(0)
        self._unlent = self._references()  # as counted here, where nobody else can have a view

    def _references(self):
        return sys.getrefcount(self._array)

    def empty(self, shape, dtype):
        """As np.empty, for arrays beyond REUSED_BYTES from reused memory where it fits."""
        if math.prod(shape) * np.dtype(dtype).itemsize <= REUSED_BYTES:
            return np.empty(shape, dtype)
        with jit.LOCK:  # between the count and the view no other thread may ask
            fits = self._array.shape == tuple(shape) and self._array.dtype == dtype
            if not fits or self._references() > self._unlent:
                self._array = None  # let go before more is asked for
                self._array = np.empty(shape, dtype)
            return self._array[...]


LOGITS = ReusedMemory()


def rows(x):
    """x (..., C) → (N, C), rows contiguous."""
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]))


def multiply(ta, tb, a, b, bias=None, into=None):
    """op(a) op(b) + bias as a new array, or written to or added to into = (array, add)."""
    shape = (a.shape[1 if ta else 0], b.shape[0 if tb else 1])
    c, add = (np.empty(shape, a.dtype), False) if into is None else into
    i, j = grid(*shape)
    launch(product, i * j, i, j, ta, tb, a, b, bias, 1.0 if add else 0.0, c, bf16.flag())
    return c


@kernel
def tile_sums(tile, x, add, out):
    """out ← Σ rows of x (+ out) for 64 columns, each added up in the order of the rows, in float64."""
    N, C = x.shape
    c0, c1 = tile * TILE, min(C, tile * TILE + TILE)
    sums = np.zeros(TILE, np.float64)
    for n in range(N):
        row = x[n, c0:c1]  # the compiler has to see that its entries lie side by side
        if len(row) == TILE:  # and a length that it knows: together they are seven times as fast
            for c in range(TILE):
                sums[c] += row[c]
        else:
            for c in range(len(row)):
                sums[c] += row[c]
    for c in range(c1 - c0):
        out[c0 + c] = sums[c] + (out[c0 + c] if add else 0.0)


@parallel
def column_sums(tile, x, add, out):
    """The sums of all columns, tile by tile."""
    tile_sums(tile, x, add, out)


def sum_rows(x, into=None):
    """Σ rows of x (N, C) → (C), new or into = (array, add)."""
    out, add = (np.empty(x.shape[1], x.dtype), False) if into is None else into
    launch(column_sums, -(-x.shape[1] // TILE), x, add, out)
    return out


def linear_forward(x, weight, bias=None):
    """Twin of ops.linear.linear_forward."""
    xs, weight = rows(x), np.ascontiguousarray(weight)
    if bf16.flag() is None and few.suits(len(xs), *weight.shape):
        y = few.multiply_few(xs, weight, bias)
    else:
        y = multiply(False, False, xs, weight, bias)
    return y.reshape(*x.shape[:-1], weight.shape[1]), (x, weight, bias is not None)


def linear_backward(dy, saved, wanted=(True, True), into=(None, None)):
    """Twin of ops.linear.linear_backward; into: where the gradients of weight and bias go."""
    x, weight, has_bias = saved
    xs, dys = rows(x), rows(dy)
    dx = multiply(False, True, dys, weight).reshape(x.shape)
    dweight = multiply(True, False, xs, dys, into=into[0]) if wanted[0] else None
    dbias = sum_rows(dys, into[1]) if has_bias and wanted[1] else None
    return dx, dweight, dbias


def unembedding_forward(x, weight):
    """Twin of ops.linear.unembedding_forward."""
    xs = rows(x)
    weight = np.ascontiguousarray(weight)
    if bf16.flag() is None and few.suits_logits(len(xs), weight.shape[1], len(weight)):
        y = few.logits_of_few(xs, weight)
    else:
        logits = LOGITS.empty((len(xs), len(weight)), x.dtype)
        y = multiply(False, True, xs, weight, into=(logits, False))
    return y.reshape(*x.shape[:-1], len(weight)), (x, weight)


def unembedding_backward(dy, saved, wanted=(True,), into=(None,)):
    """Twin of ops.linear.unembedding_backward."""
    x, weight = saved
    dys = rows(dy)
    dx = multiply(False, False, dys, weight).reshape(x.shape)
    return dx, multiply(True, False, dys, rows(x), into=into[0]) if wanted[0] else None
