"""Products of a few rows with a quantised matrix, for decoding: x stays as it is, integers become floats.

The loops are those of few_rows_numba, and so is the division into parts. Eight rows of a matrix are one piece
of memory. While one is multiplied, the next is asked for: without that these products, which have little to
read for each multiplication, would wait for memory half of their time.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..engine.jit import kernel, launch, parallel
from .few_rows_numba import (
    DEPTH,
    PARTS,
    VECTOR,
    add_products,
    fused,
    instructions,
    padded,
    part_of,
    prefetch,
)
from .few_rows_numba import suits as few_rows_suit
from .few_rows_numba import suits_logits as few_logits_suit

SIDE_BY_SIDE = 8  # rows of integers, or of bytes that hold two of them
ROWS_AHEAD = 16  # of integers, how far ahead memory is asked for
MIDDLE = 8  # of the nibbles 0 to 15: without zeros of its own a matrix is this far above 0
# How many vectors of columns are added up at once, by the rows of x: as many sums as there are registers for.
VECTORS = {1: 4, 4: 4, 8: 2} if VECTOR == 64 else {1: 4, 4: 2, 8: 1}
LINE = 64  # bytes that memory brings at once
BYTE = ir.IntType(8)


def suits(rows, K, N):
    """Whether x (rows, K) times int8 (K, N) is for this file."""
    return few_rows_suit(rows, K, N)


def suits_nibbles(rows, K, N, groups):
    """Whether x (rows, K) times a matrix (K, N) of nibbles, with so many groups of rows, is for this file."""
    return few_rows_suit(rows, K, N) and K // groups % DEPTH == 0


def suits_logits(rows, K, V):
    """Whether x (rows, K) times the transpose of int8 (V, K) is for this file."""
    return few_logits_suit(rows, K, V)


def _integers(builder, vector, pointer, signed):
    """Bytes at an address, one for each lane, as 32-bit integers."""
    bytes_ = ir.VectorType(BYTE, vector.count)
    loaded = builder.load(builder.bitcast(pointer, bytes_.as_pointer()))
    loaded.align = 1
    extend = builder.sext if signed else builder.zext
    return extend(loaded, ir.VectorType(ir.IntType(32), vector.count))


def _nibble_less_middle(context, builder, vector, integers):
    """u − MIDDLE as a float for the low four bits u of each integer.

    With AVX-512 a table is looked up, which heeds these bits alone. It is never compiled where the processor
    that Numba compiles for lacks the instruction.
    """
    kind = integers.type
    if vector.count == 16 and "+avx512f" in context.codegen().magic_tuple()[2]:
        table = ir.Constant(vector, [float(u - MIDDLE) for u in range(16)])
        name = "llvm.x86.avx512.permvar.sf.512"
        lookup = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector, kind]), name)
        return builder.call(lookup, [table, integers])
    low = builder.and_(integers, ir.Constant(kind, [15] * kind.count))
    return builder.sitofp(builder.sub(low, ir.Constant(kind, [MIDDLE] * kind.count)), vector)


def _columns(builder, intp, n, vectors, lanes):
    """The first columns of so many vectors from n on."""
    return [builder.add(n, intp(v * lanes)) for v in range(vectors)]


def _accumulate(rows, vectors):
    """An intrinsic y[:, n : n + step] += x[:, k : k + d] q[k : k + d, n : n + step], d = SIDE_BY_SIDE.

    For so many rows of x and vectors of columns; q is int8.
    """

    @intrinsic
    def accumulate(typing, x, q, y, k, n):
        def codegen(context, builder, signature, args):
            intp, (k, n) = context.get_value_type(types.intp), args[3:]
            vector, place, load, spread = instructions(context, builder, signature, args, x.dtype)
            columns = _columns(builder, intp, n, vectors, vector.count)
            places = [place(2, intp(i), column) for i in range(rows) for column in columns]
            sums = [load(p) for p in places]
            for d in range(SIDE_BY_SIDE):
                row = builder.add(k, intp(d))
                prefetch(builder, place(1, builder.add(row, intp(ROWS_AHEAD)), n, BYTE))
                for v, column in enumerate(columns):
                    integers = _integers(builder, vector, place(1, row, column, None), True)
                    entries = builder.sitofp(integers, vector)
                    for i in range(rows):
                        factor, s = spread(place(0, intp(i), row, None)), i * vectors + v
                        sums[s] = fused(builder, factor, entries, sums[s])
            for p, total in zip(places, sums):
                builder.store(total, p).align = x.dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.void(x, q, y, types.intp, types.intp), codegen

    return accumulate


def _accumulate_nibbles(rows, vectors):
    """An intrinsic y[:, n : n + step] += s (Σ x (u − 8) + (8 − z) Σ x), the sums over 2 SIDE_BY_SIDE inputs.

    Nibbles u lie in the rows r of bytes q from k on, x's columns 2r in the low ones and 2r + 1 in the high
    ones. s and z are row g of scale and zero; zero None is 8. total (M, 1) holds Σ x.
    """

    @intrinsic
    def accumulate(typing, x, q, scale, zero, total, y, k, g, n):
        def codegen(context, builder, signature, args):
            intp, (k, g, n) = context.get_value_type(types.intp), args[6:]
            vector, place, load, spread = instructions(context, builder, signature, args, x.dtype)
            columns = _columns(builder, intp, n, vectors, vector.count)
            sums = [ir.Constant(vector, [0.0] * vector.count)] * (rows * vectors)
            for d in range(SIDE_BY_SIDE):
                row = builder.add(k, intp(d))
                prefetch(builder, place(1, builder.add(row, intp(SIDE_BY_SIDE)), n, BYTE))
                first = builder.add(row, row)
                for v, column in enumerate(columns):
                    both = _integers(builder, vector, place(1, row, column, None), False)
                    high = builder.lshr(both, ir.Constant(both.type, [4] * vector.count))
                    for half, nibbles in enumerate((both, high)):
                        entries = _nibble_less_middle(context, builder, vector, nibbles)
                        for i in range(rows):
                            factor = spread(place(0, intp(i), builder.add(first, intp(half)), None))
                            s = i * vectors + v
                            sums[s] = fused(builder, factor, entries, sums[s])
            if zero is not types.none:
                # At the end: a product to begin with could be rounded here and not there, since the compiler
                # may choose which of two products it adds up in one rounding.
                middle = ir.Constant(vector, [float(MIDDLE)] * vector.count)
                for v, column in enumerate(columns):
                    below = builder.fsub(middle, load(place(3, g, column)))
                    for i in range(rows):
                        s, factor = i * vectors + v, spread(place(4, intp(i), intp(0), None))
                        sums[s] = fused(builder, factor, below, sums[s])
            for i in range(rows):
                for v, column in enumerate(columns):
                    p = place(5, intp(i), column)
                    result = fused(builder, load(place(2, g, column)), sums[i * vectors + v], load(p))
                    builder.store(result, p).align = x.dtype.bitwidth // 8
            return context.get_dummy_value()

        integers = types.intp, types.intp, types.intp
        return types.void(x, q, scale, zero, total, y, *integers), codegen

    return accumulate


def _dot_products(rows, group):
    """An intrinsic y[:, v : v + group] = x q[v : v + group]ᵀ scale, for so many rows of x; q is int8."""

    @intrinsic
    def dot_products(typing, x, q, scale, y, v):
        def codegen(context, builder, signature, args):
            intp, v = context.get_value_type(types.intp), args[4]
            vector, place, load, _ = instructions(context, builder, signature, args, x.dtype)
            _, K = cgutils.unpack_tuple(builder, context.make_array(q)(context, builder, args[1]).shape, 2)
            zero = ir.Constant(vector, [0.0] * vector.count)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(rows * group)]

            def add_up(k0, width):
                for k in _columns(builder, intp, k0, width // vector.count, vector.count):
                    entries = []
                    for j in range(group):
                        pointer = place(1, builder.add(v, intp(j)), k, None)
                        entries.append(builder.sitofp(_integers(builder, vector, pointer, True), vector))
                    for i in range(rows):
                        factors = load(place(0, intp(i), k))
                        for j in range(group):
                            s = sums[i * group + j]
                            builder.store(fused(builder, factors, entries[j], builder.load(s)), s)

            end = builder.and_(K, intp(-LINE))
            with cgutils.for_range_slice(builder, intp(0), end, intp(LINE), intp) as (k, _):
                for j in range(group):
                    prefetch(builder, place(1, builder.add(v, intp(j + ROWS_AHEAD)), k, BYTE))
                add_up(k, LINE)
            with cgutils.for_range_slice(builder, end, K, intp(DEPTH), intp) as (k, _):
                add_up(k, DEPTH)
            name = f"llvm.vector.reduce.fadd.v{vector.count}f{x.dtype.bitwidth}"
            kind = ir.FunctionType(vector.element, [vector.element, vector])
            across = cgutils.get_or_insert_function(builder.module, kind, name)
            for i in range(rows):
                for j in range(group):
                    lanes, row = builder.load(sums[i * group + j]), builder.add(v, intp(j))
                    # reassoc: the lanes may be added in a tree, instead of one after the other
                    given = [ir.Constant(vector.element, 0.0), lanes]
                    total = builder.call(across, given, fastmath=("reassoc",))
                    factor = builder.load(place(2, intp(0), row, None))
                    builder.store(builder.fmul(total, factor), place(3, intp(i), row, None))
            return context.get_dummy_value()

        return types.void(x, q, scale, y, types.intp), codegen

    return dot_products


_one_row, _four_rows, _eight_rows = (_accumulate(M, VECTORS[M]) for M in (1, 4, 8))
_rest_of_one, _rest_of_four, _rest_of_eight = (_accumulate(M, 1) for M in (1, 4, 8))
_nibbles_of_one, _nibbles_of_four, _nibbles_of_eight = (_accumulate_nibbles(M, VECTORS[M]) for M in (1, 4, 8))
_rest_of_one_nibbles, _rest_of_four_nibbles, _rest_of_eight_nibbles = (
    _accumulate_nibbles(M, 1) for M in (1, 4, 8)
)
_dots_of_one, _dots_of_four, _dots_of_eight = _dot_products(1, 4), _dot_products(4, 4), _dot_products(8, 2)
WIDE_OF_ONE, WIDE_OF_FOUR, WIDE_OF_EIGHT = VECTORS[1], VECTORS[4], VECTORS[8]


@kernel
def whole_steps(M, N, lanes):
    """(step, end): how many columns are taken at once, and up to which all of them are."""
    if M == 1:
        step = lanes * WIDE_OF_ONE
    elif M == 4:
        step = lanes * WIDE_OF_FOUR
    else:
        step = lanes * WIDE_OF_EIGHT
    return step, N // step * step


@kernel
def add_quantised_products(x, q, k0, k1, y):
    """y (M, N) += x[:, k0:k1] q[k0:k1] for M = 1, 4 or 8 rows; the scale of a column is yet to come."""
    M, N = y.shape
    lanes = VECTOR // x.itemsize
    step, end = whole_steps(M, N, lanes)
    for k in range(k0, k1, SIDE_BY_SIDE):
        for n in range(0, end, step):
            if M == 1:
                _one_row(x, q, y, k, n)
            elif M == 4:
                _four_rows(x, q, y, k, n)
            else:
                _eight_rows(x, q, y, k, n)
        for n in range(end, N, lanes):
            if M == 1:
                _rest_of_one(x, q, y, k, n)
            elif M == 4:
                _rest_of_four(x, q, y, k, n)
            else:
                _rest_of_eight(x, q, y, k, n)


@kernel
def add_nibble_products(x, q, scale, zero, size, first, k0, k1, y):
    """y (M, N) += x[:, k0:k1] W[k0:k1] for M = 1, 4 or 8 rows and a matrix of nibbles, in groups of `size`.

    first: the row of scale's matrix at which q and x begin; zero None is 8.
    """
    M, N = y.shape
    lanes = VECTOR // x.itemsize
    step, end = whole_steps(M, N, lanes)
    total = np.empty((M, 1), x.dtype)
    for k in range(k0 // 2, k1 // 2, SIDE_BY_SIDE):
        g = (first + 2 * k) // size
        if zero is not None:
            sum_of_inputs(x, 2 * k, 2 * (k + SIDE_BY_SIDE), total)
        for n in range(0, end, step):
            if M == 1:
                _nibbles_of_one(x, q, scale, zero, total, y, k, g, n)
            elif M == 4:
                _nibbles_of_four(x, q, scale, zero, total, y, k, g, n)
            else:
                _nibbles_of_eight(x, q, scale, zero, total, y, k, g, n)
        for n in range(end, N, lanes):
            if M == 1:
                _rest_of_one_nibbles(x, q, scale, zero, total, y, k, g, n)
            elif M == 4:
                _rest_of_four_nibbles(x, q, scale, zero, total, y, k, g, n)
            else:
                _rest_of_eight_nibbles(x, q, scale, zero, total, y, k, g, n)


@kernel
def sum_of_inputs(x, k0, k1, total):
    """total (M, 1) = Σ x[:, k0:k1]."""
    for m in range(len(x)):
        s = x.dtype.type(0)
        for k in range(k0, k1):
            s += x[m, k]
        total[m, 0] = s


class Stored(NamedTuple):
    """How the entries of a matrix are stored: the fields that are not None say it.

    Numba leaves out the branches of arguments that are None, so one product compiles for each kind.
    """

    floats: bool | None  # True: as they are
    columns: np.ndarray | None  # (N): int8, with a scale for each column
    groups: np.ndarray | None  # (K / G, N): nibbles, two rows to a row of bytes, with a scale for each G rows
    zero: np.ndarray | None  # (K / G, N): of nibbles; None is 8


def stored(scale, zero):
    """The Stored of a matrix with these, a plain tuple."""
    if scale is None:
        return tuple(Stored(True, None, None, None))
    return tuple(Stored(None, scale, None, None) if scale.ndim == 1 else Stored(None, None, scale, zero))


@kernel
def add_products_of(x, x0, w, k0, k1, y, floats, columns, groups, zero):
    """y (M, N) += x W[k0:k1], x with W's rows from x0 on; floats to zero: a Stored.

    The scale of int8 columns is not multiplied yet.
    """
    if floats is not None:
        add_products(x, w[x0:], k0 - x0, k1 - x0, y)
    if columns is not None:
        add_quantised_products(x, w[x0:], k0 - x0, k1 - x0, y)
    if groups is not None:
        size = 2 * len(w) // len(groups)
        add_nibble_products(x, w[x0 // 2 :], groups, zero, size, x0, k0 - x0, k1 - x0, y)


@kernel
def rows_of(w, groups):
    """The rows of a matrix as it is stored."""
    return len(w) if groups is None else 2 * len(w)


@kernel
def multiply_part_of(part, x, w, how, sums):
    """sums[part] (M, N) = x W over a part of W's rows; how: a Stored."""
    k0, k1 = part_of(part, rows_of(w, how[2]))
    sums[part] = 0
    add_products_of(x, 0, w, k0, k1, sums[part], *how)


@parallel
def part_products_of(part, x, w, how, sums):
    """All parts of a product."""
    multiply_part_of(part, x, w, how, sums)


def multiply_few(x, q, scale, zero=None, bias=None):
    """x W + bias for few rows x (M, K) that suit.

    q int8 (K, N) with scale (N), or q uint8 (K / 2, N) of nibbles with scale and zero (K / G, N).
    """
    (M, K), N = x.shape, q.shape[1]
    fits = suits(M, K, N) if scale.ndim == 1 else suits_nibbles(M, K, N, len(scale))
    assert fits, "the loops would leave the arrays"
    x = padded(x)
    sums = np.empty((PARTS, len(x), N), x.dtype)
    launch(part_products_of, PARTS, x, q, stored(scale, zero), sums)
    y = sums.sum(0)[:M]
    if scale.ndim == 1:
        y *= scale
    if bias is not None:
        y += bias
    return y


@parallel
def quantised_part_logits(part, x, q, scale, y):
    """y = x qᵀ scale for a part of q's rows, for M = 1, 4 or 8 rows of x; scale is (1, V)."""
    V = len(q)
    v0, v1 = part * V // PARTS, (part + 1) * V // PARTS
    step = 2 if len(x) == 8 else 4
    for v in range(v0, v1, step):
        v = min(v, v1 - step)  # the last ones again, where the step does not come out even
        if len(x) == 1:
            _dots_of_one(x, q, scale, y, v)
        elif len(x) == 4:
            _dots_of_four(x, q, scale, y, v)
        else:
            _dots_of_eight(x, q, scale, y, v)


def logits_of_few(x, q, scale):
    """x qᵀ scale for x (M, K) of few rows, q int8 (V, K) that suit, scale (V)."""
    assert suits_logits(len(x), q.shape[1], len(q)), "the loops would leave the arrays"
    M, x = len(x), padded(x)
    y = np.empty((len(x), len(q)), x.dtype)
    launch(quantised_part_logits, PARTS, x, q, scale.reshape(1, -1), y)
    return y[:M]
