"""Tiles of scores: what a block of queries makes of the keys that it sees, and what bounds them."""

import numpy as np
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from ..engine.blas import gemm
from ..engine.jit import SUMS, kernel
from .elementary_numba import exp, tanh

# Scores are made tile by tile, so that they stay in a processor's cache. Where queries see many keys a block
# has more of them: each block reads all keys that it sees, and adds to all their gradients.
QUERIES, MORE_QUERIES, KEYS = 64, 256, 512
MANY = 1024  # keys that queries see on average from which on a block has MORE_QUERIES


@kernel(fastmath=SUMS)
def exponentials(s, top):
    """s ← exp(s − top); returns its sum.

    In lanes of s's own type: all terms are positive, so little is lost, and float64 would halve the speed.
    """
    total = s.dtype.type(0)
    for i in range(len(s)):
        e = exp(s[i] - top)
        s[i] = e
        total += e
    return total


@kernel
def probabilities(s, top, inverse):
    """s ← exp(s − top) inverse."""
    for i in range(len(s)):
        s[i] = exp(s[i] - top) * inverse


@kernel
def multiply(x, factor):
    """x *= factor."""
    for i in range(len(x)):
        x[i] *= factor


@intrinsic
def contiguous(typing, x):
    """Tell the compiler that the entries of a row lie side by side, where it cannot know it."""

    def codegen(context, builder, signature, args):
        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return x.copy(layout="C")(x), codegen


@kernel(fastmath=SUMS)
def dot(a, b):
    """⟨a, b⟩ in float64."""
    s = 0.0
    for i in range(len(a)):
        s += a[i] * b[i]
    return s


# Keys that a query does not see get the score −∞ instead of being left out: vector code is fastest on rows of
# one length, best a round one. Each block has arrays of just its size, because the compiler cannot know that
# the rows of a slice of columns are contiguous. Loops that read one array and write another run over both
# axes of a block: before each such loop the code has to test whether they overlap.


# first and last bound the keys that a query sees. Where both are None, query t sees keys 0 … t + S − T, and
# Numba leaves the other branch out. It does the same where cap, slope and sink are None: the plain form is
# compiled as if there were nothing else. What has one of the three is one form, with bounds: a cap of 0, a
# slope of 0 and a sink of −∞ mean none, for each combination would take as long to compile again.


@kernel
def cap_scores(scores, cap, bend):
    """s ← c tanh(s / c); bend: where the slope of that goes, or None."""
    number = scores.dtype.type
    c, inverse, one, four = number(cap), number(1.0 / cap), number(1), number(4)
    for t in range(scores.shape[0]):
        for s in range(scores.shape[1]):
            y, e = tanh(scores[t, s] * inverse)
            scores[t, s] = y * c
            if bend is not None:
                bend[t, s] = four * e / ((one + e) * (one + e))


@kernel
def add_distances(scores, slope, distance):
    """s ← s + m (key − query); distance: key − query of the first entry."""
    for t in range(scores.shape[0]):
        for s in range(scores.shape[1]):
            scores[t, s] += scores.dtype.type(slope * (distance + s - t))


@kernel
def score_tile(q, k, s0, place, scale, first, last, cap, slope, scores, bend, bf16):
    """scores: those of queries q (Q, D) and keys k (S, D), −∞ where a query does not see a key.

    s0: the first key's place; place: the first query's. first and last (Q), or None.
    bend: where the cap's slope goes, or None. bf16: see gemm.
    """
    gemm(False, True, scale, q, k, 0.0, scores, bf16)
    if cap is not None:
        if cap > 0:
            cap_scores(scores, cap, bend)
        if slope != 0:
            add_distances(scores, slope, s0 - place)
    for t in range(len(scores)):
        row = scores[t]
        if first is None:
            row[max(place + t + 1 - s0, 0) :] = -np.inf
        else:
            row[: max(first[t] - s0, 0)] = -np.inf
            row[max(last[t] + 1 - s0, 0) :] = -np.inf


@kernel
def block_size(T, first, last):
    """How many queries a block has."""
    keys = T if first is None else (last - first).mean()
    return QUERIES if keys < MANY else MORE_QUERIES


@kernel
def block_keys(t0, t1, before, first, last):
    """What a block of queries sees: its first key, the one after its last, and the bounds of each query.

    before: how many keys there are before the first query's own, S − T.
    """
    if first is None:
        return 0, t1 + before, None, None
    return first[t0:t1].min(), last[t0:t1].max() + 1, first[t0:t1], last[t0:t1]
