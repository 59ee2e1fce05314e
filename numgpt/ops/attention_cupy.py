"""Twins of attend and attention on a GPU: blocks of queries against the keys that they see; no T × T array.

The products are cuBLAS's, batched over the heads; one kernel a block of queries does what lies between them.
A mask, and what dropout keeps, are given as whole arrays and applied to a block at a time.
"""

import math

from ..engine.cuda import launch, threads_for
from .attention import dropped, masked_scores, one_head_each, split_heads

QUERIES = 128  # a block of queries

# A row of scores is ⟨q_t, k_s⟩ for the keys that the last query of its block sees. Row n belongs to the query
# n mod block of its block, which sees `fewest` keys and one more for each query before it in the block. What
# a query does not see becomes 0 and is not read.
ATTENTION_SOURCE = r"""
#define MINE (fewest + blockIdx.x % block)

// The place of the row's query among all T queries of all heads.
#define QUERY (blockIdx.x / block * T + start + blockIdx.x % block)

// scores ← exp(s − m) / Σ exp(s − m) with s = scale scores; m and the sum of each query
extern "C" __global__ void softmax(real *scores, real scale, long long S, long long fewest, long long block,
                                   long long T, long long start, real *top, real *total)
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
                                            long long fewest, long long block, long long T, long long start,
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


def attend_forward(q, k, v, *, scale=None, mask=None, keep=None, p=0.0):
    """Twin of ops.attention.attend_forward.

    With a mask the host waits for the GPU at each block of queries, to know that every query has a key;
    without one it never waits.
    """
    import cupy as cp

    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    y = cp.empty(q.shape, q.dtype)
    top, total = attend_into(q, k, v, scale, mask, keep, p, y)
    return y, (q, k, v, top, total, scale, mask, keep, p)


def attend_backward(dy, saved):
    """Twin of ops.attention.attend_backward."""
    import cupy as cp

    grads = tuple(cp.empty(a.shape, a.dtype) for a in saved[:3])
    attend_back_into(dy, saved, *grads)
    return grads


def attention_forward(qkv, *, n_head, scale=None, mask=None, keep=None, p=0.0):
    """Twin of ops.attention.attention_forward."""
    import cupy as cp

    C = qkv.shape[-1] // 3
    scale = 1 / math.sqrt(C // n_head) if scale is None else scale
    merged = cp.empty((*qkv.shape[:-1], C), qkv.dtype)
    q, k, v = split_heads(qkv, n_head)
    y = one_head_each(merged, n_head)
    top, total = attend_into(q, k, v, scale, mask, keep, p, y)
    return merged, ((q, k, v, top, total, scale, mask, keep, p), n_head)


def attention_backward(dy, saved):
    """Twin of ops.attention.attention_backward: dq, dk and dv are written side by side."""
    import cupy as cp

    heads, n_head = saved
    dqkv = cp.empty((*dy.shape[:-1], 3 * dy.shape[-1]), dy.dtype)
    attend_back_into(one_head_each(dy, n_head), heads, *split_heads(dqkv, n_head))
    return (dqkv,)


def attend_into(q, k, v, scale, mask, keep, p, y):
    """Fill y; returns the maximum and the sum of each query's scores (..., T, 1)."""
    import cupy as cp

    T, S = q.shape[-2], k.shape[-2]
    top, total = cp.empty((*q.shape[:-1], 1), q.dtype), cp.empty((*q.shape[:-1], 1), q.dtype)
    for start, stop in blocks(T):
        seen = stop + S - T
        visible = part_of(mask, q, S, start, stop)
        scores, rest = scores_of(q[..., start:stop, :], k[..., :seen, :], scale, visible)
        row_by_row("softmax", scores, (scores,), rest, T, S, start, top, total)
        y[..., start:stop, :] = dropped(scores, part_of(keep, q, S, start, stop), p) @ v[..., :seen, :]
    return top, total


def attend_back_into(dy, saved, dq, dk, dv):
    """Fill dq, dk and dv from what attend saved; the last block goes first, for it sees all keys."""
    import cupy as cp

    q, k, v, top, total, scale, mask, keep, p = saved
    top, total = cp.ascontiguousarray(top), cp.ascontiguousarray(total)
    T, S = q.shape[-2], k.shape[-2]
    for start, stop in reversed(blocks(T)):
        seen, kept = stop + S - T, part_of(keep, q, S, start, stop)
        qs, dys, ks = q[..., start:stop, :], dy[..., start:stop, :], k[..., :seen, :]
        probs, rest = scores_of(qs, ks, scale, part_of(mask, q, S, start, stop))
        dscores = cp.ascontiguousarray(dropped(dys @ v[..., :seen, :].swapaxes(-1, -2), kept, p))
        row_by_row("softmax_gradient", probs, (probs, dscores), rest, T, S, start, top, total)
        dq[..., start:stop, :] = dscores @ ks * scale
        dks = dscores.swapaxes(-1, -2) @ qs * scale
        dvs = dropped(probs, kept, p).swapaxes(-1, -2) @ dys
        for place, part in ((dk, dks), (dv, dvs)):
            if stop == T:
                place[...] = part
            else:
                place[..., :seen, :] += part


def scores_of(q, k, scale, mask):
    """The scores of a block of queries, and the factor that is yet to be applied to them.

    With a mask that is 1: masks with −∞ are applied after scaling.
    """
    import cupy as cp

    if mask is None:
        return cp.ascontiguousarray(q @ k.swapaxes(-1, -2)), scale
    return cp.ascontiguousarray(masked_scores(q, k, scale, mask)), 1.0


def part_of(mask, q, S, start, stop):
    """The part of a mask (…, T, S) for a block of queries and the keys that it sees; None is none."""
    import cupy as cp

    if mask is None:
        return None
    return cp.broadcast_to(mask, (*q.shape[:-1], S))[..., start:stop, : stop + S - q.shape[-2]]


def blocks(T):
    """The first query and the one after the last of each block of queries."""
    return [(start, min(T, start + QUERIES)) for start in range(0, T, QUERIES)]


def row_by_row(name, scores, arrays, scale, T, S, start, top, total):
    """Launch a kernel over the rows of scores (..., queries, keys seen)."""
    queries, seen = scores.shape[-2:]
    fewest = start + S - T + 1
    blocks, args = (scores.size // seen,), (*arrays, scale, seen, fewest, queries, T, start, top, total)
    launch(ATTENTION_SOURCE, name, scores.dtype, blocks, threads_for(seen), *args)
