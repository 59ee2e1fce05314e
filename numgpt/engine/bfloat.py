"""Instructions of AVX-512 BF16 for kernels, as LLVM's IR over addresses.

A product of bfloat16 operands takes them in pairs: vdpbf16ps adds a₀ b₀ + a₁ b₁ to each of 16 float32. So the
unit of everything here is a *word* of 32 bits, two neighbours along the axis that is summed.
LLVM ends the process where it is asked for an instruction that the processor lacks: nothing here may be
compiled where bf16.HAS_INSTRUCTION is False.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # words of a vector
ROWS = 8  # of the result that a call of multiply_panels makes, and the most of its vectors of columns
VECTORS = 3
PANEL = LANES * VECTORS  # columns of a panel
DEPTH = 512  # of a block along the axis that is summed: panels of that depth stay in the caches
# Bytes from row to row of a block packed by rows: a power of two would crowd a cache's sets.
STRIDE = 2 * DEPTH + 64
PAIR = 4 * PANEL  # bytes from pair to pair of a panel packed by pairs

I1, I16, I32, I64, F32 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, WORDS, HALVES = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES), ir.VectorType(I16, 2 * LANES)
MASK = ir.VectorType(I1, LANES)


class Bfloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite does not have."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, Bfloat)

    def __hash__(self):
        return hash(Bfloat)


BFLOATS = ir.VectorType(Bfloat(), 2 * LANES)


def _declared(builder, name, returned, *arguments):
    """A function of LLVM's own, by its name."""
    module = builder.module
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(returned, arguments), name)


def _at(builder, address, offset, kind):
    """A pointer to what lies offset bytes behind an address."""
    if not isinstance(offset, int) or offset:
        offset = I64(offset) if isinstance(offset, int) else offset
        address = builder.add(address, offset)
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder, address, offset, kind):
    """A vector from memory, at any address."""
    return builder.load(_at(builder, address, offset, kind), align=4)


def _mask(builder, count):
    """The first `count` lanes, all for 16 or more and none for 0 or less."""
    lanes = ir.Constant(WORDS, list(range(LANES)))
    return builder.icmp_signed("<", lanes, _all(builder, builder.trunc(count, I32), WORDS))


def _all(builder, number, kind):
    """A number in each lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _masked_load(builder, address, offset, mask):
    """Float32 from memory, 0 in the lanes that the mask leaves out, which are not read."""
    function = _declared(
        builder, "llvm.masked.load.v16f32.p0", FLOATS, FLOATS.as_pointer(), I32, MASK, FLOATS
    )
    zeros = ir.Constant(FLOATS, [0.0] * LANES)
    return builder.call(function, [_at(builder, address, offset, FLOATS), I32(4), mask, zeros])


def _masked_store(builder, vector, address, offset, mask):
    """Float32 to memory, but for the lanes that the mask leaves out."""
    function = _declared(
        builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), FLOATS, FLOATS.as_pointer(), I32, MASK
    )
    builder.call(function, [vector, _at(builder, address, offset, FLOATS), I32(4), mask])


def _rounded(builder, low, high):
    """32 float32 as bfloat16, rounded to nearest, ties to even: 16 of low, then 16 of high."""
    function = _declared(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, FLOATS, FLOATS)
    return builder.call(function, [high, low])


def _shuffled(builder, a, b, places):
    """Lanes of a and b, side by side, in the order of places."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(places)), places))


def _integers(count):
    return [types.int64] * count


@intrinsic
def pack_pair(typing, to, low, high, count_low, count_high):
    """16 words of two rows of float32 that are neighbours along the summed axis.

    count_low, count_high: how many of each row are there; the rest is 0.
    """

    def codegen(context, builder, signature, values):
        to, low, high, count_low, count_high = values
        rows = [
            _masked_load(builder, address, 0, _mask(builder, count))
            for address, count in ((low, count_low), (high, count_high))
        ]
        halves = builder.bitcast(_rounded(builder, *rows), HALVES)
        places = [lane for i in range(LANES) for lane in (i, LANES + i)]
        words = _shuffled(builder, halves, halves, places)
        builder.store(words, _at(builder, to, 0, HALVES), align=64)
        return context.get_dummy_value()

    return types.void(*_integers(5)), codegen


@intrinsic
def pack_row(typing, to, row, count):
    """16 words of a row of float32 along the summed axis; count: how many float32 are there."""

    def codegen(context, builder, signature, values):
        to, row, count = values
        low = _masked_load(builder, row, 0, _mask(builder, count))
        high = _masked_load(builder, row, 4 * LANES, _mask(builder, builder.sub(count, I64(LANES))))
        halves = builder.bitcast(_rounded(builder, low, high), HALVES)
        builder.store(halves, _at(builder, to, 0, HALVES), align=64)
        return context.get_dummy_value()

    return types.void(*_integers(3)), codegen


def _turned(builder, rows):
    """The transpose of 16 × 16 words, in four rounds: in round r blocks of 2ʳ are exchanged."""
    for size in (1, 2, 4, 8):
        turned = list(rows)
        for i in range(LANES):
            if not i & size:
                first = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
                second = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
                a, b = rows[i], rows[i + size]
                turned[i] = _shuffled(builder, a, b, first)
                turned[i + size] = _shuffled(builder, a, b, second)
        rows = turned
    return rows


@intrinsic
def pack_turned(typing, to, row, stride, rows, count):
    """16 × 16 words of 16 rows of float32 along the summed axis, a column of words for each row.

    stride: bytes from row to row; rows, count: how many of them, and float32 in each, are there.
    """

    def codegen(context, builder, signature, values):
        to, row, stride, rows, count = values
        low, high = count, builder.sub(count, I64(LANES))
        words = []
        for i in range(LANES):
            is_there = builder.icmp_signed("<", I64(i), rows)
            masks = [_mask(builder, builder.select(is_there, n, I64(0))) for n in (low, high)]
            halves = [_masked_load(builder, row, 4 * LANES * j, mask) for j, mask in enumerate(masks)]
            words.append(builder.bitcast(_rounded(builder, *halves), WORDS))
            row = builder.add(row, stride)
        for i, column in enumerate(_turned(builder, words)):
            builder.store(column, _at(builder, to, PAIR * i, WORDS), align=64)
        return context.get_dummy_value()

    return types.void(*_integers(5)), codegen


@intrinsic
def prefetch(typing, address):
    """Have a line of memory brought to the second cache."""

    def codegen(context, builder, signature, values):
        byte = ir.IntType(8).as_pointer()
        function = _declared(builder, "llvm.prefetch.p0", ir.VoidType(), byte, I32, I32, I32)
        builder.call(function, [builder.inttoptr(values[0], byte), I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _sums(builder, a, b, pairs, vectors, row, pair):
    """Σ over pairs of a's 8 rows with b's columns: 8 lists of vectors, which stay in registers all the while.

    row, pair: bytes between a's words of two rows and of two pairs.
    """
    before, loop, out = builder.block, *(builder.append_basic_block(name) for name in ("sum", "summed"))
    builder.branch(loop)
    builder.position_at_end(loop)
    left = builder.phi(I64)
    at_a, at_b = builder.phi(I64), builder.phi(I64)
    sums = [[builder.phi(FLOATS) for _ in range(vectors)] for _ in range(ROWS)]
    zeros = ir.Constant(FLOATS, [0.0] * LANES)
    product = _declared(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, FLOATS, BFLOATS, BFLOATS)
    columns = [builder.bitcast(_load(builder, at_b, 64 * v, WORDS), BFLOATS) for v in range(vectors)]
    totals = []
    for i, partial in enumerate(sums):
        word = builder.load(_at(builder, at_a, row * i, I32), align=4)
        word = builder.bitcast(_all(builder, word, WORDS), BFLOATS)
        totals.append([builder.call(product, [s, word, column]) for s, column in zip(partial, columns)])
    rest = builder.sub(left, I64(1))
    following = builder.add(at_a, I64(pair)), builder.add(at_b, I64(PAIR))
    end = builder.block
    for phi, first, then in ((left, pairs, rest), (at_a, a, following[0]), (at_b, b, following[1])):
        phi.add_incoming(first, before)
        phi.add_incoming(then, end)
    for partial, total in zip(sums, totals):
        for phi, then in zip(partial, total):
            phi.add_incoming(zeros, before)
            phi.add_incoming(then, end)
    builder.cbranch(builder.icmp_signed(">", rest, I64(0)), loop, out)
    builder.position_at_end(out)
    return totals


def _written(builder, sums, alpha, beta, c, distance, rows, columns):
    """c ← alpha sums + beta c, of which there are so many rows and columns; beta 0 does not read c."""
    vectors = len(sums[0])
    alpha, scale = _all(builder, alpha, FLOATS), _all(builder, beta, FLOATS)
    reads = builder.fcmp_unordered("!=", beta, F32(0.0))
    masks = [_mask(builder, builder.sub(columns, I64(LANES * v))) for v in range(vectors)]
    is_whole = builder.and_(
        builder.icmp_signed(">=", rows, I64(ROWS)), builder.icmp_signed(">=", columns, I64(LANES * vectors))
    )
    with builder.if_else(is_whole) as (whole, part):
        with whole, builder.if_else(reads) as (adding, replacing):
            for branch, adds in ((adding, True), (replacing, False)):
                with branch:
                    at = c
                    for row in sums:
                        for v, total in enumerate(row):
                            total = builder.fmul(total, alpha)
                            if adds:
                                old = _load(builder, at, 64 * v, FLOATS)
                                total = builder.fadd(total, builder.fmul(old, scale))
                            builder.store(total, _at(builder, at, 64 * v, FLOATS), align=4)
                        at = builder.add(at, distance)
        with part:
            at = c
            nothing = ir.Constant(MASK, [False] * LANES)
            for i, row in enumerate(sums):
                is_there = builder.icmp_signed(">", rows, I64(i))
                for v, total in enumerate(row):
                    mask = builder.select(is_there, masks[v], nothing)
                    total = builder.fmul(total, alpha)
                    old = _masked_load(builder, at, 64 * v, builder.select(reads, mask, nothing))
                    total = builder.select(reads, builder.fadd(total, builder.fmul(old, scale)), total)
                    _masked_store(builder, total, at, 64 * v, mask)
                at = builder.add(at, distance)


PART = types.UniTuple(
    types.int64, 4
)  # of a result: its address, the bytes between rows, its rows and columns


def _multiplication(vectors, row, pair):
    """The signature and the code of multiply_rows, or of multiply_pairs."""

    def codegen(context, builder, signature, values):
        _, a, b, pairs, alpha, beta, part = values
        sums = _sums(builder, a, b, pairs, vectors.literal_value, row, pair)
        _written(builder, sums, alpha, beta, *cgutils.unpack_tuple(builder, part, 4))
        return context.get_dummy_value()

    return types.void(vectors, *_integers(3), types.float32, types.float32, PART), codegen


@intrinsic(prefer_literal=True)
def multiply_rows(typing, vectors, a, b, pairs, alpha, beta, part):
    """c ← alpha a b + beta c for 8 rows of a, packed by rows, and up to 48 columns of b, packed by pairs.

    vectors: of columns, 1 to 3. part: c, the bytes between its rows, and how many of rows and columns it has.
    """
    return _multiplication(vectors, STRIDE, 4)


@intrinsic(prefer_literal=True)
def multiply_pairs(typing, vectors, a, b, pairs, alpha, beta, part):
    """As multiply_rows, for an a that is packed by pairs as b is: its transpose lies in memory."""
    return _multiplication(vectors, 4, PAIR)
