"""Products of a few rows with a matrix, as decoding asks for: the matrix comes from memory once, in the order in which it lies.

A BLAS packs a matrix before it multiplies, which pays for many rows only. A row's result does not depend on the rows beside it.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import SUMS, kernel, launch, parallel

FEW = 8  # rows up to which this is used; benchmarks/decode.py compares
PARTS = 8  # of a matrix's rows, whatever the number of threads: their sums are added up in order
LANES = 16  # columns that are worked on at once
GROUP = 4  # rows of the left matrix, or of the embedding, that are worked on at once


def suits(rows, K, N):
    """Whether x (rows, K) times a matrix (K, N) is for this file."""
    return rows <= FEW and K % (8 * PARTS) == 0 and N % LANES == 0


def _accumulate(rows, depth):
    """An intrinsic y[m : m + rows, n : n + LANES] += x[m : m + rows, k : k + depth] w[k : k + depth, n : n + LANES].

    In vector instructions, since before each loop over columns the compiler would ask in vain whether y overlaps the rows of w.
    """

    @intrinsic
    def accumulate(typing, x, w, y, m, k, n):
        def codegen(context, builder, signature, args):
            intp, i32 = context.get_value_type(types.intp), ir.IntType(32)
            vector = ir.VectorType(context.get_value_type(w.dtype), LANES)
            undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, LANES), [0] * LANES)
            fused = {"flags": ("contract",)}

            def place(i, row, column):
                array = context.make_array(signature.args[i])(context, builder, args[i])
                _, columns = cgutils.unpack_tuple(builder, array.shape, 2)
                return builder.gep(array.data, [builder.add(builder.mul(row, columns), column)])

            def vector_at(i, row, column):
                return builder.bitcast(place(i, row, column), vector.as_pointer())

            def load(pointer):
                loaded = builder.load(pointer)
                loaded.align = w.dtype.bitwidth // 8
                return loaded

            m, k, n = args[3:]
            xs = [builder.add(m, intp(i)) for i in range(rows)]
            ys = [vector_at(2, i, n) for i in xs]
            sums = [load(y) for y in ys]
            for d in range(depth):
                row = builder.add(k, intp(d))
                entries = load(vector_at(1, row, n))
                for i, x_row in enumerate(xs):
                    factor = builder.insert_element(undefined, builder.load(place(0, x_row, row)), i32(0))
                    factor = builder.shuffle_vector(factor, undefined, first)
                    sums[i] = builder.fadd(builder.fmul(factor, entries, **fused), sums[i], **fused)
            for y, total in zip(ys, sums):
                builder.store(total, y).align = w.dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.void(x, w, y, types.intp, types.intp, types.intp), codegen

    return accumulate


_one_row, _group = _accumulate(1, 4), _accumulate(GROUP, 8)


@parallel
def part_products(part, x, w, sums):
    """sums[part] (M, N) = x w over a part of w's rows; x is one row or GROUP, 2 GROUP … of them."""
    M, (K, N) = len(x), w.shape
    k0, k1, y = part * K // PARTS, (part + 1) * K // PARTS, sums[part]
    y[:] = 0
    if M == 1:
        for k in range(k0, k1, 4):
            for n in range(0, N, LANES):
                _one_row(x, w, y, 0, k, n)
    else:
        for k in range(k0, k1, 8):
            for m in range(0, M, GROUP):
                for n in range(0, N, LANES):
                    _group(x, w, y, m, k, n)


def multiply_few(x, w, bias=None):
    """x w + bias for x (M, K), w (K, N) that suit."""
    M = len(x)
    if M > 1 and M % GROUP:
        x = np.concatenate([x, np.zeros((-M % GROUP, x.shape[1]), x.dtype)])
    sums = np.empty((PARTS, len(x), w.shape[1]), x.dtype)
    launch(part_products, PARTS, x, w, sums)
    y = sums.sum(0)[:M]
    if bias is not None:
        y += bias
    return y


@kernel(fastmath=SUMS)
def group_products(x, w, v):
    """The products of a row with GROUP rows of w from v on."""
    a = b = c = d = x.dtype.type(0)
    for i in range(len(x)):
        a += x[i] * w[v, i]
        b += x[i] * w[v + 1, i]
        c += x[i] * w[v + 2, i]
        d += x[i] * w[v + 3, i]
    return a, b, c, d


@kernel(fastmath=SUMS)
def row_product(x, w, v):
    """The product of a row with row v of w."""
    s = x.dtype.type(0)
    for i in range(len(x)):
        s += x[i] * w[v, i]
    return s


@parallel
def part_logits(part, x, w, y):
    """y = x wᵀ for a part of w's rows."""
    V = len(w)
    groups = V // GROUP
    g0, g1 = part * groups // PARTS, (part + 1) * groups // PARTS
    for v in range(GROUP * g0, GROUP * g1, GROUP):
        for m in range(len(x)):
            y[m, v], y[m, v + 1], y[m, v + 2], y[m, v + 3] = group_products(x[m], w, v)
    if part == PARTS - 1:
        for v in range(GROUP * groups, V):
            for m in range(len(x)):
                y[m, v] = row_product(x[m], w, v)


def logits_of_few(x, w):
    """x wᵀ for x (M, K) of few rows, w (V, K)."""
    y = np.empty((len(x), len(w)), x.dtype)
    launch(part_logits, PARTS, x, w, y)
    return y
