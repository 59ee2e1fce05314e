"""Twins of attend and attention: blocks of queries against the keys that they see; no T × T array, no copy of q, k or v."""

import math

import numpy as np

from ..blas import gemm
from ..jit import SUMS, kernel, launch, parallel
from .attention import attend, attention, one_head_each, split_heads
from .elementary_numba import exp

QUERIES = 64  # a block of queries


@kernel(fastmath={"nnan", "nsz", "reassoc"})
def row_max(s):
    """The largest entry. A NaN may be passed over, for the sake of vector code: the sum of exponentials that follows has it."""
    top = s[0]
    for i in range(1, len(s)):
        top = s[i] if s[i] > top else top
    return top


@kernel(fastmath=SUMS)
def exponentials(s, top):
    """s ← exp(s − top); returns its sum, taken in lanes of s's type: all terms are positive, and float64 would halve the speed."""
    total = s.dtype.type(0)
    for i in range(len(s)):
        e = exp(s[i] - top)
        s[i] = e
        total += e
    return total


@kernel
def hide(row, n):
    """−∞ from entry n on. Whole rows then go through the loops that follow: their lengths are round, which vector code likes."""
    for i in range(n, len(row)):
        row[i] = -np.inf


@kernel
def multiply(row, factor):
    """row *= factor."""
    for i in range(len(row)):
        row[i] *= factor


@kernel
def probabilities(s, top, inverse):
    """s ← exp(s − top) inverse."""
    for i in range(len(s)):
        s[i] = exp(s[i] - top) * inverse


@kernel
def score_gradients(p, d, delta):
    """d ← p (d − delta)."""
    for i in range(len(p)):
        d[i] = p[i] * (d[i] - delta)


@kernel(fastmath=SUMS)
def dot(a, b):
    """⟨a, b⟩ in float64."""
    s = 0.0
    for i in range(len(a)):
        s += a[i] * b[i]
    return s


@kernel
def attend_head(q, k, v, scale, y, top, total, work):
    """One head: y, and the maximum and sum of each query's scores. q (T, D), k and v (S, D), work (QUERIES, S)."""
    T, S = len(q), len(k)
    for t0 in range(0, T, QUERIES):
        t1 = min(T, t0 + QUERIES)
        seen = t1 + S - T
        scores = work[: t1 - t0, :seen]
        gemm(False, True, scale, q[t0:t1], k[:seen], 0.0, scores)
        for t in range(t0, t1):
            n = t + 1 + S - T
            row = work[t - t0][:seen]
            hide(row, n)
            m = row_max(row)
            s = exponentials(row, m)
            top[t], total[t] = m, s
            multiply(row, row.dtype.type(1.0 / s))
        gemm(False, False, 1.0, scores, v[:seen], 0.0, y[t0:t1])


@kernel
def attend_head_gradients(dy, q, k, v, top, total, scale, dq, dk, dv, probs, dprobs):
    """One head: dq, dk and dv, which hold anything before. probs, dprobs (QUERIES, S)."""
    T, S = len(q), len(k)
    for t0 in range(0, T, QUERIES):
        t1 = min(T, t0 + QUERIES)
        seen = t1 + S - T
        p, d = probs[: t1 - t0, :seen], dprobs[: t1 - t0, :seen]
        gemm(False, True, scale, q[t0:t1], k[:seen], 0.0, p)
        gemm(False, True, 1.0, dy[t0:t1], v[:seen], 0.0, d)
        for t in range(t0, t1):
            n = t + 1 + S - T
            ps, ds = probs[t - t0][:seen], dprobs[t - t0][:seen]
            hide(ps, n)
            probabilities(ps, top[t], ps.dtype.type(1.0 / total[t]))
            score_gradients(ps, ds, ps.dtype.type(dot(ps, ds)))
        # The first block sees the fewest keys: what later blocks add to must be there already.
        if t0 == 0:
            dk[seen:] = 0
            dv[seen:] = 0
        gemm(True, False, 1.0, p, dy[t0:t1], 0.0 if t0 == 0 else 1.0, dv[:seen])
        gemm(False, False, scale, d, k[:seen], 0.0, dq[t0:t1])
        gemm(True, False, scale, d, q[t0:t1], 0.0 if t0 == 0 else 1.0, dk[:seen])


@parallel
def attend_heads(task, q, k, v, scale, y, top, total):
    """A head: q (B, H, T, D), k and v (B, H, S, D) → y (B, H, T, D), top and total (B, H, T)."""
    b, h = task // q.shape[1], task % q.shape[1]
    work = np.empty((min(q.shape[2], QUERIES), k.shape[2]), y.dtype)
    attend_head(q[b, h], k[b, h], v[b, h], scale, y[b, h], top[b, h], total[b, h], work)


@parallel
def attend_heads_gradients(task, dy, q, k, v, top, total, scale, dq, dk, dv):
    """The gradients of a head."""
    b, h = task // q.shape[1], task % q.shape[1]
    work = np.empty((2, min(q.shape[2], QUERIES), k.shape[2]), dy.dtype)
    attend_head_gradients(
        dy[b, h], q[b, h], k[b, h], v[b, h], top[b, h], total[b, h], scale, dq[b, h], dk[b, h], dv[b, h], work[0], work[1]
    )


def by_batch(x):
    """x (..., H, T, D) → (B, H, T, D), or (..., T, D) → (1, B, T, D): a view where it can be, its last axis contiguous."""
    if x.shape[-1] > 1 and x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x.reshape(_batched(x))


def place(x):
    """by_batch for an array to write to: always a view."""
    return np.reshape(x, _batched(x), copy=False)


def _batched(x):
    return (1, *x.shape) if x.ndim == 3 else (1, 1, *x.shape) if x.ndim == 2 else (-1, *x.shape[-3:])


def attend_into(q, k, v, scale, y):
    """Fill y; returns the maximum and the sum of each query's scores (..., T, 1)."""
    top, total = np.empty((*q.shape[:-1], 1), q.dtype), np.empty((*q.shape[:-1], 1), q.dtype)
    q, k, v = map(by_batch, (q, k, v))
    launch(attend_heads, q.shape[0] * q.shape[1], q, k, v, scale, place(y), place(top)[..., 0], place(total)[..., 0])
    return top, total


def attend_forward(q, k, v, *, scale=None, mask=None, keep=None, p=0.0):
    """Twin of ops.attention.attend_forward; masks and dropout are the specification's."""
    if mask is not None or keep is not None:
        return attend.forward(q, k, v, scale=scale, mask=mask, keep=keep, p=p)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    y = np.empty(q.shape, q.dtype)
    top, total = attend_into(q, k, v, scale, y)
    return y, (q, k, v, y, top, total, scale, mask, keep, p)


def attend_backward(dy, saved):
    """Twin of ops.attention.attend_backward."""
    q, k, v, y, top, total, scale, mask, keep, p = saved
    if mask is not None or keep is not None:
        return attend.backward(dy, saved)
    grads = np.empty(q.shape, q.dtype), np.empty(k.shape, q.dtype), np.empty(v.shape, q.dtype)
    attend_back_into(dy, saved, *grads)
    return grads


def attend_back_into(dy, saved, dq, dk, dv):
    """Fill dq, dk and dv from what attend saved."""
    q, k, v, _, top, total, scale = saved[:7]
    dy, q, k, v, top, total = map(by_batch, (dy, q, k, v, top, total))
    launch(attend_heads_gradients, q.shape[0] * q.shape[1], dy, q, k, v, top[..., 0], total[..., 0], scale, place(dq), place(dk), place(dv))


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
    return merged, ((q, k, v, y, top, total, scale, mask, keep, p), n_head)


def attention_backward(dy, saved):
    """Twin of ops.attention.attention_backward: dq, dk and dv are written side by side."""
    heads, n_head = saved
    if heads[-3] is not None or heads[-2] is not None:
        return attention.backward(dy, saved)
    dqkv = np.empty((*dy.shape[:-1], 3 * dy.shape[-1]), dy.dtype)
    attend_back_into(one_head_each(dy, n_head), heads, *split_heads(dqkv, n_head))
    return (dqkv,)
