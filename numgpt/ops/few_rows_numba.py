"""Products of a few rows with a matrix, for decoding: the matrix is read once, in the order in which it lies.

A BLAS packs a matrix before it multiplies, which pays for many rows only. A row's result does not depend on
the rows beside it. Written in vector instructions: the compiler cannot tell whether y overlaps the rows of w,
and would not use them for loops over columns.
"""

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_name
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from ..engine.jit import kernel, launch, parallel

FEW = 8  # rows up to which this is used; benchmarks/decode.py compares
PARTS = 8  # of a matrix's rows, whatever the number of threads: their sums are added up in order
DEPTH = 16  # the rows of a part are a multiple of it
WIDTH = 32  # and the columns of the matrix a multiple of this
VECTOR = 64 if "+avx512f" in get_host_cpu_features() else 32  # bytes
# Rows that are read side by side, and how many vectors ahead memory is asked for within them. Intel's guess
# of what comes next is late. AMD's is in time for a few rows, and asking gets in its way: on a Zen 3 these
# products read 1.4 to 2.4 times as fast without. No bit changes: each column adds up its rows in order.
SIDE_BY_SIDE, AHEAD = (4, 0) if get_host_cpu_name().startswith("znver") else (16, 4)
ROWS_AHEAD = 8  # of an embedding, how far ahead memory is asked for


def suits(rows, K, N):
    """Whether x (rows, K) times a matrix (K, N) is for this file."""
    return 0 < rows <= FEW and K % DEPTH == 0 and N % WIDTH == 0


def suits_logits(rows, K, V):
    """Whether x (rows, K) times the transpose of (V, K) is for this file."""
    return 0 < rows <= FEW and K % DEPTH == 0 and V >= 4 * PARTS


def padded(x):
    """x (M, K) with rows of zeros added, up to 1, 4 or 8 rows, for which there are loops."""
    M = len(x)
    missing = next(n for n in (1, 4, FEW) if n >= M) - M
    return np.concatenate([x, np.zeros((missing, x.shape[1]), x.dtype)]) if missing else x


def instructions(context, builder, signature, args, dtype):
    """(vector, place, load, spread), to write a kernel in vector instructions.

    vector: the type. place: the address of entry [row, column] of argument i. load: the vector at an address.
    spread: the number at an address, in all lanes.
    """
    size = dtype.bitwidth // 8
    vector = ir.VectorType(context.get_value_type(dtype), VECTOR // size)
    undefined = ir.Constant(vector, ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)

    def place(i, row, column, kind=vector):
        array = context.make_array(signature.args[i])(context, builder, args[i])
        _, columns = cgutils.unpack_tuple(builder, array.shape, 2)
        pointer = builder.gep(array.data, [builder.add(builder.mul(row, columns), column)])
        return builder.bitcast(pointer, kind.as_pointer()) if kind else pointer

    def load(pointer):
        loaded = builder.load(pointer)
        loaded.align = size
        return loaded

    def spread(pointer):
        one_lane = builder.insert_element(undefined, builder.load(pointer), ir.IntType(32)(0))
        return builder.shuffle_vector(one_lane, undefined, first)

    return vector, place, load, spread


def fused(builder, a, b, c):
    """a b + c in one rounding, where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def prefetch(builder, address):
    """Have a line of memory brought to the second cache; an address outside all arrays does no harm."""
    i32 = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
    builder.call(
        cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"),
        [address, i32(0), i32(2), i32(1)],
    )


def _accumulate(rows):
    """An intrinsic y[:, n : n + step] += x[:, k : k + d] w[k : k + d, n : n + step], d = SIDE_BY_SIDE.

    For so many rows of x; a step is two vectors.
    """

    @intrinsic
    def accumulate(typing, x, w, y, k, n):
        def codegen(context, builder, signature, args):
            intp, (k, n) = context.get_value_type(types.intp), args[3:]
            vector, place, load, spread = instructions(context, builder, signature, args, w.dtype)
            both = n, builder.add(n, intp(vector.count))
            places = [place(2, intp(i), column) for i in range(rows) for column in both]
            sums = [load(p) for p in places]
            for d in range(SIDE_BY_SIDE):
                row = builder.add(k, intp(d))
                entries = [load(place(1, row, column)) for column in both]
                for column in both if AHEAD else ():
                    ahead = builder.add(column, intp(AHEAD * vector.count))
                    prefetch(builder, place(1, row, ahead, ir.IntType(8)))
                for i in range(rows):
                    factor, own = spread(place(0, intp(i), row, None)), slice(2 * i, 2 * i + 2)
                    sums[own] = [fused(builder, factor, e, s) for e, s in zip(entries, sums[own])]
            for p, total in zip(places, sums):
                builder.store(total, p).align = w.dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.void(x, w, y, types.intp, types.intp), codegen

    return accumulate


def _dot_products(rows, group):
    """An intrinsic y[:, v : v + group] = x w[v : v + group]ᵀ, for so many rows of x."""

    @intrinsic
    def dot_products(typing, x, w, y, v):
        def codegen(context, builder, signature, args):
            intp, v = context.get_value_type(types.intp), args[3]
            vector, place, load, _ = instructions(context, builder, signature, args, w.dtype)
            _, K = cgutils.unpack_tuple(builder, context.make_array(w)(context, builder, args[1]).shape, 2)
            sums = [
                cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * vector.count))
                for _ in range(rows * group)
            ]
            with cgutils.for_range_slice(builder, intp(0), K, intp(vector.count), intp) as (k, _):
                entries = [load(place(1, builder.add(v, intp(j)), k)) for j in range(group)]
                for j in range(group):
                    prefetch(builder, place(1, builder.add(v, intp(j + ROWS_AHEAD)), k, ir.IntType(8)))
                for i in range(rows):
                    factors = load(place(0, intp(i), k))
                    for j in range(group):
                        s = sums[i * group + j]
                        builder.store(fused(builder, factors, entries[j], builder.load(s)), s)
            name = f"llvm.vector.reduce.fadd.v{vector.count}f{w.dtype.bitwidth}"
            kind = ir.FunctionType(vector.element, [vector.element, vector])
            across = cgutils.get_or_insert_function(builder.module, kind, name)
            zero = ir.Constant(vector.element, 0.0)
            for i in range(rows):
                for j in range(group):
                    lanes = builder.load(sums[i * group + j])
                    # reassoc: the lanes may be added in a tree, instead of one after the other
                    total = builder.call(across, [zero, lanes], fastmath=("reassoc",))
                    builder.store(total, place(2, intp(i), builder.add(v, intp(j)), None))
            return context.get_dummy_value()

        return types.void(x, w, y, types.intp), codegen

    return dot_products


_one_row, _four_rows, _eight_rows = _accumulate(1), _accumulate(4), _accumulate(8)
_dots_of_one, _dots_of_four, _dots_of_eight = _dot_products(1, 4), _dot_products(4, 4), _dot_products(8, 2)


@kernel
def part_of(part, K):
    """The rows k0 to k1 of a matrix of K that are a part."""
    return DEPTH * (part * (K // DEPTH) // PARTS), DEPTH * ((part + 1) * (K // DEPTH) // PARTS)


@kernel
def add_products(x, w, k0, k1, y):
    """y (M, N) += x[:, k0:k1] w[k0:k1] for M = 1, 4 or 8 rows."""
    M, N = y.shape
    step = 2 * VECTOR // w.itemsize
    for k in range(k0, k1, SIDE_BY_SIDE):
        for n in range(0, N, step):
            if M == 1:
                _one_row(x, w, y, k, n)
            elif M == 4:
                _four_rows(x, w, y, k, n)
            else:
                _eight_rows(x, w, y, k, n)


@kernel
def multiply_part(part, x, w, sums):
    """sums[part] (M, N) = x w over a part of w's rows."""
    k0, k1 = part_of(part, len(w))
    sums[part] = 0
    add_products(x, w, k0, k1, sums[part])


@parallel
def part_products(part, x, w, sums):
    """All parts of a product."""
    multiply_part(part, x, w, sums)


def multiply_few(x, w, bias=None):
    """x w + bias for x (M, K), w (K, N) that suit."""
    assert suits(len(x), *w.shape), "the loops would leave the arrays"
    M, x = len(x), padded(x)
    sums = np.empty((PARTS, len(x), w.shape[1]), x.dtype)
    launch(part_products, PARTS, x, w, sums)
    y = sums.sum(0)[:M]
    if bias is not None:
        y += bias
    return y


@parallel
def part_logits(part, x, w, y):
    """y = x wᵀ for a part of w's rows, for M = 1, 4 or 8 rows of x."""
    V = len(w)
    v0, v1 = part * V // PARTS, (part + 1) * V // PARTS
    step = 2 if len(x) == 8 else 4
    for v in range(v0, v1, step):
        v = min(v, v1 - step)  # the last ones again, where the step does not come out even
        if len(x) == 1:
            _dots_of_one(x, w, y, v)
        elif len(x) == 4:
            _dots_of_four(x, w, y, v)
        else:
            _dots_of_eight(x, w, y, v)


def logits_of_few(x, w):
    """x wᵀ for x (M, K) of few rows, w (V, K) that suit."""
    assert suits_logits(len(x), w.shape[1], len(w)), "the loops would leave the arrays"
    M, x = len(x), padded(x)
    y = np.empty((len(x), len(w)), x.dtype)
    launch(part_logits, PARTS, x, w, y)
    return y[:M]
