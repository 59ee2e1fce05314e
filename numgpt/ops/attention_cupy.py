"""Twins of attend and attention on a GPU: blocks of queries against the keys that they see; no T × T array.

The products are cuBLAS's, batched over the heads; one kernel a block of queries does what lies between them.
A mask, and what dropout keeps, are given as whole arrays and applied to a block at a time.
"""

import math

from ..engine.cuda import launch, threads_for
from .attention import (
    Form,
    attend,
    attend_groups,
    attend_in_form,
    attention,
    by_group,
    dropped,
    heads_in_groups,
    in_groups,
    masked_scores,
    one_head_each,
    split_heads,
)

QUERIES = 128  # a block of queries

# A row of scores is ⟨q_t, k_s⟩ for the keys that the last query of its block sees. Row n belongs to the query
# n mod block of its block, which sees `fewest` keys and `step` more for each query before it there. What
# a query does not see becomes 0 and is not read.
ATTENTION_SOURCE = r"""
#define MINE (fewest + step * (blockIdx.x % block))

// The place of the row's query among all T queries of all heads.
#define QUERY (blockIdx.x / block * T + start + blockIdx.x % block)

// scores ← exp(s − m) / Σ exp(s − m) with s = scale scores; m and the sum of each query
extern "C" __global__ void softmax(real *scores, real scale, long long S, long long fewest, long long step,
                                   long long block, long long T, long long start, real *top, real *total)
{
    real *row = scores + blockIdx.x * S;
    long long seen = MINE;
    real m = row[0] * scale, sum = 0;
    for (long long s = threadIdx.x; s < seen; s += blockDim.x) {
        real x = row[s] * scale;
        m = x > m ? x : m;
    }
    m = block_max(m);
    for (long long s = threadIdx.x; s < seen; s += blockDim.x) {
        real e = exp(row[s] * scale - m);
        row[s] = e;
        sum += e;
    }
    sum = block_sum(sum);
    for (long long s = threadIdx.x; s < S; s += blockDim.x)
        row[s] = s < seen ? row[s] / sum : 0;
    if (threadIdx.x == 0) {
        top[QUERY] = m;
        total[QUERY] = sum;
    }
}

// scores ← P from the forward's m and sum; dprobs ← ds = P (dP − Δ), Δ = Σ_s dP P
extern "C" __global__ void softmax_gradient(real *scores, real *dprobs, real scale, long long S,
                                            long long fewest, long long step, long long block, long long T,
                                            long long start,
                                            const real *top, const real *total)
{
    real *row = scores + blockIdx.x * S, *drow = dprobs + blockIdx.x * S;
    long long seen = MINE;
    real m = top[QUERY], sum = total[QUERY], mean = 0;
    for (long long s = threadIdx.x; s < S; s += blockDim.x) {
        real p = s < seen ? exp(row[s] * scale - m) / sum : 0;
        row[s] = p;
        if (s < seen)
            mean += p * drow[s];
    }
    mean = block_sum(mean);
    for (long long s = threadIdx.x; s < S; s += blockDim.x)
        drow[s] = s < seen ? row[s] * (drow[s] - mean) : 0;
}
"""


def attend_forward(
    q, k, v, *, scale=None, cap=None, slopes=None, first=None, last=None, mask=None, keep=None, p=0.0
):
    """Twin of ops.attention.attend_forward; what is_plain does not name is the specification's.

    With a mask the host waits for the GPU at each block of queries, to know that every query has a key;
    without one it never waits.
    """
    form = Form(1 / math.sqrt(q.shape[-1]) if scale is None else scale, cap, slopes, first, last, mask)
    return attend_in_blocks(q, k, v, form, keep, p)


def attend_in_blocks(q, k, v, form, keep, p):
    """attend_forward, its options as a Form."""
    import cupy as cp

    if not is_plain(form):
        return attend_in_form(q, k, v, form, keep, p)
    y = cp.empty(q.shape, q.dtype)
    top, total = attend_into(q, k, v, form, keep, p, y)
    return y, (q, k, v, top, total, form, keep, p)


def attend_backward(dy, saved):
    """Twin of ops.attention.attend_backward."""
    import cupy as cp

    if not is_plain(saved[5]):
        return attend.backward(dy, saved)
    grads = tuple(cp.empty(a.shape, a.dtype) for a in saved[:3])
    attend_back_into(dy, saved, *grads)
    return grads


def attend_groups_forward(q, k, v, *, scale=None, cap=None, slopes=None, first=None, last=None):
    """Twin of ops.attention.attend_groups_forward."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    form = in_groups(Form(scale, cap, slopes, first, last), *q.shape[-4:-2])
    return attend_in_blocks(q, k[..., None, :, :], v[..., None, :, :], form, None, 0.0)


def attend_groups_backward(dy, saved):
    """Twin of ops.attention.attend_groups_backward."""
    if not is_plain(saved[5]):
        return attend_groups.backward(dy, saved)
    dq, dk, dv = attend_backward(dy, saved)
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
    """Twin of ops.attention.attention_forward; what is_plain does not name is the specification's."""
    import cupy as cp

    q, k, v = split_heads(qkv, n_head, n_kv_head)
    K, D = k.shape[-3], q.shape[-1]
    form = Form(1 / math.sqrt(D) if scale is None else scale, cap, slopes, first, last, mask)
    if not is_plain(form):
        return attention.forward(qkv, n_head=n_head, n_kv_head=n_kv_head, **form._asdict(), keep=keep, p=p)
    merged = cp.empty((*qkv.shape[:-1], n_head * D), qkv.dtype)
    form, keep = in_groups(form, K, n_head // K), heads_in_groups(keep, K, n_head // K)
    q, k, v = by_group(q, K), k[..., None, :, :], v[..., None, :, :]
    top, total = attend_into(q, k, v, form, keep, p, by_group(one_head_each(merged, n_head), K))
    return merged, ((q, k, v, top, total, form, keep, p), n_head)


def attention_backward(dy, saved):
    """Twin of ops.attention.attention_backward: dq, dk and dv are written side by side."""
    import cupy as cp

    heads, n_head = saved
    if not is_plain(heads[5]):
        return attention.backward(dy, saved)
    *_, K, _, _, D = heads[0].shape
    dqkv = cp.empty((*dy.shape[:-1], (n_head + 2 * K) * D), dy.dtype)
    dq, dk, dv = split_heads(dqkv, n_head, K)
    dys = by_group(one_head_each(dy, n_head), K)
    attend_back_into(dys, heads, by_group(dq, K), dk[..., None, :, :], dv[..., None, :, :])
    return (dqkv,)


def is_plain(form):
    """Whether the kernels compute a Form: nothing is added to the scores, and none is capped."""
    return form.cap is None and form.slopes is None


def attend_into(q, k, v, form, keep, p, y):
    """Fill y; returns the maximum and the sum of each query's scores (..., T, 1)."""
    import cupy as cp

    T, S = q.shape[-2], k.shape[-2]
    top, total = cp.empty((*q.shape[:-1], 1), q.dtype), cp.empty((*q.shape[:-1], 1), q.dtype)
    for start, stop in blocks(T):
        seen = keys_of(form, stop, T, S)
        scores, rest, step = scores_of(q, k, form, start, stop, seen)
        row_by_row("softmax", scores, (scores,), rest, step, T, start, top, total)
        kept = part_of(keep, q, S, start, stop, seen)
        y[..., start:stop, :] = dropped(scores, kept, p) @ v[..., :seen, :]
    return top, total


def attend_back_into(dy, saved, dq, dk, dv):
    """Fill dq, dk and dv from what attend saved; the last block goes first, for it sees all keys."""
    import cupy as cp

    q, k, v, top, total, form, keep, p = saved
    top, total = cp.ascontiguousarray(top), cp.ascontiguousarray(total)
    T, S = q.shape[-2], k.shape[-2]
    for start, stop in reversed(blocks(T)):
        seen = keys_of(form, stop, T, S)
        kept = part_of(keep, q, S, start, stop, seen)
        qs, dys, ks = q[..., start:stop, :], dy[..., start:stop, :], k[..., :seen, :]
        probs, rest, step = scores_of(q, k, form, start, stop, seen)
        dscores = cp.ascontiguousarray(dropped(dys @ v[..., :seen, :].swapaxes(-1, -2), kept, p))
        row_by_row("softmax_gradient", probs, (probs, dscores), rest, step, T, start, top, total)
        dq[..., start:stop, :] = dscores @ ks * form.scale
        dks = dscores.swapaxes(-1, -2) @ qs * form.scale
        dvs = dropped(probs, kept, p).swapaxes(-1, -2) @ dys
        for place, part in ((dk, dks), (dv, dvs)):
            part = part if part.shape[:-2] == place.shape[:-2] else part.sum(-3, keepdims=True)
            if stop == T:
                place[...] = part
            else:
                place[..., :seen, :] += part


def keys_of(form, stop, T, S):
    """How many keys a block of queries up to stop is computed with: those before it, or all."""
    return stop + S - T if form.last is None else S


def scores_of(q, k, form, start, stop, seen):
    """The scores of a block of queries, the factor that is yet to be applied, and how many more each sees.

    Where there is a mask or an interval these are 1 and 0: what is hidden has −∞ already, applied after
    scaling.
    """
    import cupy as cp

    S = k.shape[-2]
    qs, ks = q[..., start:stop, :], k[..., :seen, :]
    if form.mask is None and form.first is None and form.last is None:
        return cp.ascontiguousarray(qs @ ks.swapaxes(-1, -2)), form.scale, 1
    mask = part_of(form.mask, q, S, start, stop, seen)
    first, last = (
        None if a is None else cp.broadcast_to(a, q.shape[:-1])[..., start:stop]
        for a in (form.first, form.last)
    )
    form = form._replace(mask=mask, first=first, last=last)
    return cp.ascontiguousarray(masked_scores(qs, ks, form)), 1.0, 0


def part_of(mask, q, S, start, stop, seen):
    """The part of a mask (…, T, S) for a block of queries and the keys that it sees; None is none."""
    import cupy as cp

    if mask is None:
        return None
    return cp.broadcast_to(mask, (*q.shape[:-1], S))[..., start:stop, :seen]


def blocks(T):
    """The first query and the one after the last of each block of queries."""
    return [(start, min(T, start + QUERIES)) for start in range(0, T, QUERIES)]


def row_by_row(name, scores, arrays, scale, step, T, start, top, total):
    """Launch a kernel over the rows of scores (..., queries, keys), of which each row sees step more."""
    queries, keys = scores.shape[-2:]
    fewest = keys - step * (queries - 1)
    grid = (scores.size // keys,)
    args = (*arrays, scale, keys, fewest, step, queries, T, start, top, total)
    launch(ATTENTION_SOURCE, name, scores.dtype, grid, threads_for(keys), *args)
