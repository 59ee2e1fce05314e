"""Twins of attend and attention: blocks of queries against the keys that they see.

There is no T × T array and no copy of q, k or v.
"""

import math

import numpy as np

from ..engine import bf16
from ..engine.blas import gemm
from ..engine.jit import kernel, launch, parallel
from .attention import (
    Form,
    attend,
    attend_groups,
    attend_in_form,
    attention,
    by_group,
    in_groups,
    no_key,
    one_head_each,
    split_heads,
)
from .attention_tiles_numba import (
    KEYS,
    block_keys,
    block_size,
    contiguous,
    dot,
    exponentials,
    multiply,
    probabilities,
    score_tile,
)
from .elementary_numba import exp, row_max

PRECISIONS = bf16.PRECISIONS


@kernel
def attend_head(q, k, v, scale, first, last, y, top, total, bf16, cap=None, slope=None, sink=None):
    """A head: q (T, D), k and v (S, D), first and last (T) or None → y (T, D), top and total (T).

    cap, slope, sink: numbers, or all of them None. bf16: see gemm.

    Where a tile has a larger score than all tiles before it, what was summed up to then is scaled down to the
    new maximum (Milakov and Gimelshein 2018).
    """
    T, before, none = len(q), len(k) - len(q), y.dtype.type(0)
    queries = block_size(T, first, last)
    for t0 in range(0, T, queries):
        t1 = min(T, t0 + queries)
        begin, end, firsts, lasts = block_keys(t0, t1, before, first, last)
        top[t0:t1] = -np.inf if sink is None else sink
        total[t0:t1] = 0
        for s0 in range(begin, end, KEYS):
            s1 = min(end, s0 + KEYS)
            scores = np.empty((t1 - t0, s1 - s0), y.dtype)
            more = cap, slope, scores, None, bf16
            score_tile(q[t0:t1], k[s0:s1], s0, t0 + before, scale, firsts, lasts, *more)
            for t in range(t0, t1):
                row = scores[t - t0]
                m = row_max(row)
                if s0 > begin and m > top[t]:
                    less = exp(top[t] - m)
                    multiply(contiguous(y[t]), less)
                    total[t] *= less
                m = max(m, top[t])
                top[t] = m
                # A query may see no key of this tile, only of others.
                total[t] += exponentials(row, m if m != -np.inf else none)
            gemm(False, False, 1.0, scores, v[s0:s1], 0.0 if s0 == begin else 1.0, y[t0:t1], bf16)
        for t in range(t0, t1):
            if sink is not None:
                total[t] += exp(sink - top[t])
            multiply(contiguous(y[t]), y.dtype.type(1.0 / total[t]))


@kernel
def tile(block, first, begin, end, count):
    """The tile of keys begin … end − 1 of a block (count · S) of queries, whose first key is first."""
    return block[count * (begin - first) : count * (end - first)].reshape(count, end - begin)


@kernel
def attend_head_gradients(
    dy, q, k, v, top, total, scale, first, last, more, dq, dk, dv, bf16, cap=None, slope=None, sink=None
):
    """The gradients of a head; more: dk and dv are added to, as the heads of a group do after its first.

    Returns the gradient of its sink, 0 where there is none.

    Of a block of queries P and dP are held whole, for Δ is a sum over all of their keys.
    """
    T, S = len(q), len(k)
    before, dsink, kind = S - T, 0.0, dy.dtype
    queries = block_size(T, first, last)
    if first is not None and not more:
        dk[:] = 0
        dv[:] = 0
    for t0 in range(0, T, queries):
        t1 = min(T, t0 + queries)
        Q = t1 - t0
        begin, end, firsts, lasts = block_keys(t0, t1, before, first, last)
        size = Q * (end - begin)
        ps, dss, deltas = np.empty(size, kind), np.empty(size, kind), np.empty(Q, kind)
        bends = ps if cap is None else np.ones_like(ps)
        sums = np.zeros(Q)
        for s0 in range(begin, end, KEYS):
            s1 = min(end, s0 + KEYS)
            p, ds = tile(ps, begin, s0, s1, Q), tile(dss, begin, s0, s1, Q)
            bend = None if cap is None else tile(bends, begin, s0, s1, Q)
            formed = cap, slope, p, bend, bf16
            score_tile(q[t0:t1], k[s0:s1], s0, t0 + before, scale, firsts, lasts, *formed)
            gemm(False, True, 1.0, dy[t0:t1], v[s0:s1], 0.0, ds, bf16)
            for t in range(Q):
                probabilities(p[t], top[t0 + t], kind.type(1.0 / total[t0 + t]))
                sums[t] += dot(p[t], ds[t])
        for t in range(Q):
            deltas[t] = sums[t]
            if sink is not None:  # a key without a value, whose dP is 0
                dsink -= exp(sink - top[t0 + t]) / total[t0 + t] * deltas[t]
        # The first block sees the fewest keys; the later ones add to what is there, so it must be 0.
        beta = 1.0
        if first is None and t0 == 0 and not more:
            beta = 0.0
            dk[end:] = 0
            dv[end:] = 0
        for s0 in range(begin, end, KEYS):
            s1 = min(end, s0 + KEYS)
            p, ds = tile(ps, begin, s0, s1, Q), tile(dss, begin, s0, s1, Q)
            bend = None if cap is None else tile(bends, begin, s0, s1, Q)
            for t in range(Q):
                for s in range(s1 - s0):
                    d = p[t, s] * (ds[t, s] - deltas[t])
                    if bend is None:
                        ds[t, s] = d
                    else:
                        ds[t, s] = d * bend[t, s]
            gemm(True, False, 1.0, p, dy[t0:t1], beta, dv[s0:s1], bf16)
            gemm(False, False, scale, ds, k[s0:s1], 0.0 if s0 == begin else 1.0, dq[t0:t1], bf16)
            gemm(True, False, scale, ds, q[t0:t1], beta, dk[s0:s1], bf16)
    return dsink


@kernel
def own(all_heads, b, h):
    """What belongs to a head, among that of all (B, H, …); None is None."""
    if all_heads is None:
        return None
    return all_heads[b, h]


@parallel
def attend_heads(task, q, k, v, scale, first, last, cap, slopes, sinks, y, top, total, bf16):
    """q (B, KG, T, D), k and v (B, K, S, D) → y as q, top and total (B, KG, T).

    first and last (B, KG, T), or None; cap, slopes and sinks (B, KG), or all of them None.
    """
    b, h = task // q.shape[1], task % q.shape[1]
    kv = h // (q.shape[1] // k.shape[1])
    begin, end, slope, sink = own(first, b, h), own(last, b, h), own(slopes, b, h), own(sinks, b, h)
    into = y[b, h], top[b, h], total[b, h]
    attend_head(q[b, h], k[b, kv], v[b, kv], scale, begin, end, *into, bf16, cap, slope, sink)


@parallel
def attend_heads_gradients(
    task, dy, q, k, v, top, total, scale, first, last, cap, slopes, sinks, dq, dk, dv, dsinks, bf16
):
    """The gradients of attend_heads: a task is a head of keys, which goes through the heads that read it.

    dsinks (B, KG): those of the sinks.
    """
    b, kv = task // k.shape[1], task % k.shape[1]
    G = q.shape[1] // k.shape[1]
    for h in range(kv * G, kv * G + G):
        begin, end, slope, sink = own(first, b, h), own(last, b, h), own(slopes, b, h), own(sinks, b, h)
        read = dy[b, h], q[b, h], k[b, kv], v[b, kv], top[b, h], total[b, h]
        into = dq[b, h], dk[b, kv], dv[b, kv]
        dsink = attend_head_gradients(*read, scale, begin, end, h > kv * G, *into, bf16, cap, slope, sink)
        if sinks is not None:
            dsinks[b, h] = dsink


def by_batch(x, H=None):
    """x (..., H, T, D) → (B, H, T, D) with a contiguous last axis, or (…, T, D) → (1, B, T, D).

    H: how many heads, where their axis is divided into several. A view where it can be one.
    """
    if x.shape[-1] > 1 and x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x.reshape(_batched(x, H))


def place(x, H=None):
    """by_batch for an array to write to: always a view."""
    return np.reshape(x, _batched(x, H), copy=False)


def _batched(x, H):
    """Four axes: missing ones are 1, and those before the last three, or before H heads, become one."""
    if H is not None:
        return (-1, H, *x.shape[-2:])
    return (*[1] * (4 - x.ndim), *x.shape) if x.ndim < 4 else (-1, *x.shape[-3:])


def is_compiled(form, keep):
    """Whether the kernels compute a Form: no mask and no dropout."""
    return keep is None and form.mask is None


def bounds(first, last, shape, S):
    """The first and the last of S keys that each query (..., T) sees; first or last None: 0, or its own.

    Copies, since Numba compiles a kernel again for an array that may not be written to, as what is broadcast.
    """
    T = shape[-1]
    first = 0 if first is None else first
    last = np.arange(S - T, S) if last is None else last
    first, last = (
        np.array(np.broadcast_to(a, shape), np.int64, order="C")
        for a in (np.maximum(first, 0), np.minimum(last, S - 1))
    )
    if (first > last).any():
        raise no_key("visibility leaves")
    return first, last


def settings(form, q, S, heads, sinks):
    """What the kernels take of a Form, and the sinks: scale, first, last, cap, slopes, sinks."""
    is_plain = form.cap is None and form.slopes is None and sinks is None
    if is_plain and form.first is None and form.last is None:
        return form.scale, None, None, None, None, None
    seen = bounds(form.first, form.last, q.shape[:-1], S)
    seen = tuple(each.reshape(_batched(q, heads)[:-1]) for each in seen)
    if is_plain:
        return form.scale, *seen, None, None, None

    def each_head(numbers, absent, dtype):
        """Numbers that broadcast to q's heads, one a head (B, H); a copy as in bounds."""
        numbers = np.broadcast_to(absent if numbers is None else numbers, q.shape[:-2])
        return np.array(numbers, dtype, order="C").reshape(_batched(q, heads)[:2])

    cap = 0.0 if form.cap is None else float(form.cap)
    slopes, sinks = each_head(form.slopes, 0.0, np.float64), each_head(sinks, -np.inf, q.dtype)
    return form.scale, *seen, cap, slopes, sinks


def attend_into(q, k, v, form, y, H=None, K=None, sinks=None):
    """Fill y; returns the maximum and the sum of each query's scores (..., T, 1).

    H, K: how many heads q and k have, where their axes are divided into groups.
    sinks: numbers that broadcast to q's heads, or None.
    """
    top, total = np.empty((*q.shape[:-1], 1), q.dtype), np.empty((*q.shape[:-1], 1), q.dtype)
    given = settings(form, q, k.shape[-2], H, sinks)
    q, k, v = by_batch(q, H), by_batch(k, K), by_batch(v, K)
    results = place(y, H), place(top, H)[..., 0], place(total, H)[..., 0]
    launch(attend_heads, q.shape[0] * q.shape[1], q, k, v, *given, *results, bf16.flag())
    return top, total


def attend_forward(
    q, k, v, *, scale=None, cap=None, slopes=None, first=None, last=None, mask=None, keep=None, p=0.0
):
    """Twin of ops.attention.attend_forward; what is_compiled does not name is the specification's."""
    form = Form(1 / math.sqrt(q.shape[-1]) if scale is None else scale, cap, slopes, first, last, mask)
    if not is_compiled(form, keep):
        return attend_in_form(q, k, v, form, keep, p)
    y = np.empty(q.shape, q.dtype)
    top, total = attend_into(q, k, v, form, y)
    return y, (q, k, v, top, total, form, keep, p)


def attend_backward(dy, saved):
    """Twin of ops.attention.attend_backward."""
    q, k, v, _, _, form, keep, _ = saved
    if not is_compiled(form, keep):
        return attend.backward(dy, saved)
    grads = np.empty(q.shape, q.dtype), np.empty(k.shape, q.dtype), np.empty(v.shape, q.dtype)
    attend_back_into(dy, saved, *grads)
    return grads


def attend_back_into(dy, saved, dq, dk, dv, H=None, K=None, sinks=None):
    """Fill dq, dk and dv from what attend saved; returns the gradients of sinks (B, KG), or None."""
    q, k, v, top, total, form = saved[:6]
    given = settings(form, q, k.shape[-2], H, sinks)
    dy, q, top, total = (by_batch(a, H) for a in (dy, q, top, total))
    k, v = by_batch(k, K), by_batch(v, K)
    read = dy, q, k, v, top[..., 0], total[..., 0]
    dsinks = np.empty(q.shape[:2])
    into = place(dq, H), place(dk, K), place(dv, K), dsinks
    launch(attend_heads_gradients, k.shape[0] * k.shape[1], *read, *given, *into, bf16.flag())
    return dsinks


def attend_groups_forward(q, k, v, *, scale=None, cap=None, slopes=None, first=None, last=None):
    """Twin of ops.attention.attend_groups_forward."""
    K, G = q.shape[-4:-2]
    form = Form(1 / math.sqrt(q.shape[-1]) if scale is None else scale, cap, slopes, first, last)
    if not is_compiled(form, None):
        return attend_groups.forward(q, k, v, scale=scale, cap=cap, slopes=slopes, first=first, last=last)
    form = in_groups(form, K, G)
    k, v, y = k[..., None, :, :], v[..., None, :, :], np.empty(q.shape, q.dtype)
    top, total = attend_into(q, k, v, form, y, K * G, K)
    return y, (q, k, v, top, total, form, None, 0.0)


def attend_groups_backward(dy, saved):
    """Twin of ops.attention.attend_groups_backward."""
    q, k, v, _, _, form, *_ = saved
    if not is_compiled(form, None):
        return attend_groups.backward(dy, saved)
    K, G = q.shape[-4:-2]
    dq, dk, dv = np.empty(q.shape, q.dtype), np.empty(k.shape, q.dtype), np.empty(v.shape, q.dtype)
    attend_back_into(dy, saved, dq, dk, dv, K * G, K)
    return dq, dk[..., 0, :, :], dv[..., 0, :, :]


def attention_forward(
    qkv,
    *,
    n_head,
    n_kv_head=None,
    scale=None,
    cap=None,
    slopes=None,
    first=None,
    last=None,
    mask=None,
    keep=None,
    p=0.0,
):
    """Twin of ops.attention.attention_forward; what is_compiled does not name is the specification's."""
    q, k, v = split_heads(qkv, n_head, n_kv_head)
    K = k.shape[-3]
    form = Form(1 / math.sqrt(q.shape[-1]) if scale is None else scale, cap, slopes, first, last, mask)
    if not is_compiled(form, keep):
        return attention.forward(qkv, n_head=n_head, n_kv_head=n_kv_head, **form._asdict(), keep=keep, p=p)
    merged = np.empty((*qkv.shape[:-1], n_head * q.shape[-1]), qkv.dtype)
    form = in_groups(form, K, n_head // K)
    q, k, v = by_group(q, K), k[..., None, :, :], v[..., None, :, :]
    y = by_group(one_head_each(merged, n_head), K)
    top, total = attend_into(q, k, v, form, y, n_head, K)
    return merged, ((q, k, v, top, total, form, keep, p), n_head)


def attention_backward(dy, saved):
    """Twin of ops.attention.attention_backward: dq, dk and dv are written side by side."""
    heads, n_head = saved
    q, _, _, _, _, form, keep, _ = heads
    if not is_compiled(form, keep):
        return attention.backward(dy, saved)
    K, D = q.shape[-4], q.shape[-1]
    dqkv = np.empty((*dy.shape[:-1], (n_head + 2 * K) * D), dy.dtype)
    dys = one_head_each(dy, n_head)
    attend_back_into(dys, heads, *split_heads(dqkv, n_head, K), n_head, K)
    return (dqkv,)
