"""Twins of attend and attention: blocks of queries against the keys that they see.

There is no T × T array and no copy of q, k or v.
"""

import math

import numpy as np
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from ..engine.blas import gemm
from ..engine.jit import SUMS, kernel, launch, parallel
from .attention import attend, attention, one_head_each, split_heads
from .elementary_numba import exp, row_max

QUERIES = 64  # a block of queries


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


@kernel
def attend_head(q, k, v, scale, y, top, total):
    """A head: q (T, D), k and v (S, D) → y (T, D), top and total (T)."""
    T, S = len(q), len(k)
    for t0 in range(0, T, QUERIES):
        t1 = min(T, t0 + QUERIES)
        seen = t1 + S - T
        scores = np.empty((t1 - t0, seen), y.dtype)
        gemm(False, True, scale, q[t0:t1], k[:seen], 0.0, scores)
        for t in range(t1 - t0):
            row = scores[t]
            row[seen - (t1 - t0) + t + 1 :] = -np.inf
            top[t0 + t] = m = row_max(row)
            total[t0 + t] = exponentials(row, m)
        gemm(False, False, 1.0, scores, v[:seen], 0.0, y[t0:t1])
        for t in range(t0, t1):
            multiply(contiguous(y[t]), y.dtype.type(1.0 / total[t]))


@kernel
def attend_head_gradients(dy, q, k, v, top, total, scale, dq, dk, dv):
    """The gradients of a head."""
    T, S = len(q), len(k)
    for t0 in range(0, T, QUERIES):
        t1 = min(T, t0 + QUERIES)
        seen = t1 + S - T
        p, ds = np.empty((t1 - t0, seen), dy.dtype), np.empty((t1 - t0, seen), dy.dtype)
        deltas = np.empty(t1 - t0, dy.dtype)
        beta = 0.0 if t0 == 0 else 1.0
        gemm(False, True, scale, q[t0:t1], k[:seen], 0.0, p)
        gemm(False, True, 1.0, dy[t0:t1], v[:seen], 0.0, ds)
        for t in range(t1 - t0):
            row = p[t]
            row[seen - (t1 - t0) + t + 1 :] = -np.inf
            probabilities(row, top[t0 + t], row.dtype.type(1.0 / total[t0 + t]))
            deltas[t] = dot(row, ds[t])
        for t in range(t1 - t0):
            for s in range(seen):
                ds[t, s] = p[t, s] * (ds[t, s] - deltas[t])
        # The first block sees the fewest keys; the later ones add to what is there, so it must be 0.
        if t0 == 0:
            dk[seen:] = 0
            dv[seen:] = 0
        gemm(True, False, 1.0, p, dy[t0:t1], beta, dv[:seen])
        gemm(False, False, scale, ds, k[:seen], 0.0, dq[t0:t1])
        gemm(True, False, scale, ds, q[t0:t1], beta, dk[:seen])


@parallel
def attend_heads(task, q, k, v, scale, y, top, total):
    """q (B, H, T, D), k and v (B, H, S, D) → y (B, H, T, D), top and total (B, H, T)."""
    b, h = task // q.shape[1], task % q.shape[1]
    attend_head(q[b, h], k[b, h], v[b, h], scale, y[b, h], top[b, h], total[b, h])


@parallel
def attend_heads_gradients(task, dy, q, k, v, top, total, scale, dq, dk, dv):
    """The gradients of attend_heads."""
    b, h = task // q.shape[1], task % q.shape[1]
    attend_head_gradients(
        dy[b, h], q[b, h], k[b, h], v[b, h], top[b, h], total[b, h], scale, dq[b, h], dk[b, h], dv[b, h]
    )


def by_batch(x):
    """x (..., H, T, D) → (B, H, T, D) with a contiguous last axis, or (…, T, D) → (1, B, T, D).

    A view where it can be one.
    """
    if x.shape[-1] > 1 and x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x.reshape(_batched(x))


def place(x):
    """by_batch for an array to write to: always a view."""
    return np.reshape(x, _batched(x), copy=False)


def _batched(x):
    """Four axes: those that are missing are 1, and those before the last three become one."""
    return (*[1] * (4 - x.ndim), *x.shape) if x.ndim < 4 else (-1, *x.shape[-3:])


def attend_into(q, k, v, scale, y):
    """Fill y; returns the maximum and the sum of each query's scores (..., T, 1)."""
    top, total = np.empty((*q.shape[:-1], 1), q.dtype), np.empty((*q.shape[:-1], 1), q.dtype)
    q, k, v = map(by_batch, (q, k, v))
    results = place(y), place(top)[..., 0], place(total)[..., 0]
    launch(attend_heads, q.shape[0] * q.shape[1], q, k, v, scale, *results)
    return top, total


def attend_forward(q, k, v, *, scale=None, mask=None, keep=None, p=0.0):
    """Twin of ops.attention.attend_forward; masks and dropout are the specification's."""
    if mask is not None or keep is not None:
        return attend.forward(q, k, v, scale=scale, mask=mask, keep=keep, p=p)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    y = np.empty(q.shape, q.dtype)
    top, total = attend_into(q, k, v, scale, y)
    return y, (q, k, v, top, total, scale, mask, keep, p)


def attend_backward(dy, saved):
    """Twin of ops.attention.attend_backward."""
    q, k, v, *_, mask, keep, _ = saved
    if mask is not None or keep is not None:
        return attend.backward(dy, saved)
    grads = np.empty(q.shape, q.dtype), np.empty(k.shape, q.dtype), np.empty(v.shape, q.dtype)
    attend_back_into(dy, saved, *grads)
    return grads


def attend_back_into(dy, saved, dq, dk, dv):
    """Fill dq, dk and dv from what attend saved."""
    q, k, v, top, total, scale = saved[:6]
    dy, q, k, v, top, total = map(by_batch, (dy, q, k, v, top, total))
    given = dy, q, k, v, top[..., 0], total[..., 0], scale
    launch(attend_heads_gradients, q.shape[0] * q.shape[1], *given, place(dq), place(dk), place(dv))


def attention_forward(qkv, *, n_head, scale=None, mask=None, keep=None, p=0.0):
    """Twin of ops.attention.attention_forward; masks and dropout are the specification's."""
    if mask is not None or keep is not None:
        return attention.forward(qkv, n_head=n_head, scale=scale, mask=mask, keep=keep, p=p)
    C = qkv.shape[-1] // 3
    scale = 1 / math.sqrt(C // n_head) if scale is None else scale
    merged = np.empty((*qkv.shape[:-1], C), qkv.dtype)
    q, k, v = split_heads(qkv, n_head)
    y = one_head_each(merged, n_head)
    top, total = attend_into(q, k, v, scale, y)
    return merged, ((q, k, v, top, total, scale, mask, keep, p), n_head)


def attention_backward(dy, saved):
    """Twin of ops.attention.attention_backward: dq, dk and dv are written side by side."""
    heads, n_head = saved
    if heads[-3] is not None or heads[-2] is not None:
        return attention.backward(dy, saved)
    dqkv = np.empty((*dy.shape[:-1], 3 * dy.shape[-1]), dy.dtype)
    attend_back_into(one_head_each(dy, n_head), heads, *split_heads(dqkv, n_head))
    return (dqkv,)
