"""Twins of attend and attention on a GPU: blocks of queries against the keys that they see; no T × T array.

The products are cuBLAS's, batched over the heads; one kernel a block of queries does what lies between them.
A mask, and what dropout keeps, are given as whole arrays and applied to a block at a time.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import engine
from ..engine.cuda import launch, threads_for
from ..engine.precision import FORMATS, product
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

PRECISIONS = FORMATS  # in which products can be computed here
QUERIES = 128  # a block of queries

# A row of scores is ⟨q_t, k_s⟩ for S keys from key `low` on. Row n belongs to query n mod block of its block,
# of the T queries of a head to query start + n mod block, at position `position` + n mod block. What it does
# not see becomes 0 and is not read; a query that sees nothing gets NaN, as in the specification.
#
# firsts, lasts, n_slopes, n_sinks: how many numbers the array before has, which queries or heads take turns
# with; 0 where it is not read. lasts is −1 where −∞ has hidden what is not seen. cap is 0 for none.
ATTENTION_SOURCE = r"""
#define WITHIN (blockIdx.x % block)
#define QUERY (blockIdx.x / block * T + start + WITHIN)
#define SLOPE (n_slopes ? slopes[blockIdx.x / block % n_slopes] : 0)
#define LO lowest(firsts ? first[QUERY % firsts] - low : 0)
#define HI highest(lasts > 0 ? last[QUERY % lasts] + 1 - low : lasts ? S : position + WITHIN + 1 - low, S)

__device__ long long lowest(long long key)
{
    return key > 0 ? key : 0;
}

__device__ long long highest(long long key, long long S)
{
    return key < S ? key : S;
}

// c tanh(s / c), then what is added for the distance of the key
__device__ real changed(real s, real cap, double slope, long long distance)
{
    s = cap > 0 ? tanh(s * (1 / cap)) * cap : s;
    return slope == 0 ? s : s + (real)(slope * distance);
}

// 1 − tanh² (s / c), with all its digits
__device__ real cap_slope(real s, real cap)
{
    if (cap == 0)
        return 1;
    real e = exp(fabs(s) * (-2 / cap));
    return 4 * e / ((1 + e) * (1 + e));
}

#define SCORE(s) changed(row[s] * scale, cap, slope, low + (s) - position - WITHIN)

// scores ← exp(s − m) / Σ exp(s − m) with s as changed; m and the sum of each query, a sink's share in it
extern "C" __global__ void softmax(real *scores, real scale, real cap, const double *slopes,
                                   long long n_slopes, const long long *first, long long firsts,
                                   const long long *last, long long lasts, const real *sinks,
                                   long long n_sinks, long long S, long long low, long long position,
                                   long long block, long long T, long long start, real *top, real *total)
{
    real *row = scores + blockIdx.x * S;
    long long lo = LO, hi = HI, any = lo < S ? lo : S - 1;
    double slope = SLOPE;
    real m = SCORE(any), sum = 0;
    for (long long s = lo + threadIdx.x; s < hi; s += blockDim.x) {
        real x = SCORE(s);
        m = x > m ? x : m;
    }
    m = block_max(m);
    real sink = n_sinks ? sinks[blockIdx.x / block % n_sinks] : m;
    m = sink > m ? sink : m;
    for (long long s = lo + threadIdx.x; s < hi; s += blockDim.x) {
        real e = exp(SCORE(s) - m);
        row[s] = e;
        sum += e;
    }
    sum = block_sum(sum);
    sum += n_sinks ? exp(sink - m) : 0;
    real hidden = sum == 0 ? sum / sum : 0;
    for (long long s = threadIdx.x; s < S; s += blockDim.x)
        row[s] = s >= lo && s < hi ? row[s] / sum : hidden;
    if (threadIdx.x == 0) {
        top[QUERY] = m;
        total[QUERY] = sum;
    }
}

// scores ← P from the forward's m and sum; dprobs ← ds = P (dP − Δ), Δ = Σ_s dP P, times the slope of a cap
extern "C" __global__ void softmax_gradient(real *scores, real *dprobs, real scale, real cap,
                                            const double *slopes, long long n_slopes, const long long *first,
                                            long long firsts, const long long *last, long long lasts,
                                            long long S, long long low, long long position, long long block,
                                            long long T, long long start, const real *top, const real *total)
{
    real *row = scores + blockIdx.x * S, *drow = dprobs + blockIdx.x * S;
    long long lo = LO, hi = HI;
    double slope = SLOPE;
    real m = top[QUERY], sum = total[QUERY], mean = 0, hidden = sum == 0 ? sum / sum : 0;
    for (long long s = lo + threadIdx.x; s < hi; s += blockDim.x)
        mean += exp(SCORE(s) - m) / sum * drow[s];
    mean = block_sum(mean);
    for (long long s = threadIdx.x; s < S; s += blockDim.x) {
        long long seen = s >= lo && s < hi;
        real opened = cap_slope(row[s] * scale, cap), p = seen ? exp(SCORE(s) - m) / sum : hidden;
        row[s] = p;
        drow[s] = seen ? p * (drow[s] - mean) * opened : hidden;
    }
}
"""


def attend_forward(
    q, k, v, *, scale=None, cap=None, slopes=None, first=None, last=None, mask=None, keep=None, p=0.0
):
    """Twin of ops.attention.attend_forward; what has_kernels declines is the specification's.

    With a mask the host waits for the GPU at each block of queries, to know that every query has a key;
    without one it never waits.
    """
    form = Form(1 / math.sqrt(q.shape[-1]) if scale is None else scale, cap, slopes, first, last, mask)
    return attend_in_blocks(q, k, v, form, keep, p)


def attend_in_blocks(q, k, v, form, keep, p):
    """attend_forward, its options as a Form."""
    import cupy as cp

    if not has_kernels(form):
        return attend_in_form(q, k, v, form, keep, p)
    y = cp.empty(q.shape, q.dtype)
    top, total = attend_into(q, k, v, form, keep, p, y)
    return y, (q, k, v, top, total, form, keep, p)


def attend_backward(dy, saved):
    """Twin of ops.attention.attend_backward."""
    import cupy as cp

    if not has_kernels(saved[5]):
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
    if not has_kernels(saved[5]):
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
    """Twin of ops.attention.attention_forward; what has_kernels declines is the specification's."""
    import cupy as cp

    q, k, v = split_heads(qkv, n_head, n_kv_head)
    K, D = k.shape[-3], q.shape[-1]
    form = Form(1 / math.sqrt(D) if scale is None else scale, cap, slopes, first, last, mask)
    if not has_kernels(form):
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
    if not has_kernels(heads[5]):
        return attention.backward(dy, saved)
    *_, K, _, _, D = heads[0].shape
    dqkv = cp.empty((*dy.shape[:-1], (n_head + 2 * K) * D), dy.dtype)
    dq, dk, dv = split_heads(dqkv, n_head, K)
    dys = by_group(one_head_each(dy, n_head), K)
    attend_back_into(dys, heads, by_group(dq, K), dk[..., None, :, :], dv[..., None, :, :])
    return (dqkv,)


def has_kernels(form):
    """Whether the kernels compute a Form: a mask is applied before them, what changes the scores within."""
    return form.mask is None or (form.cap is None and form.slopes is None)


def attend_into(q, k, v, form, keep, p, y, sink=None):
    """Fill y; returns the maximum and the sum of each query's scores (..., T, 1).

    sink: one more score of each head, of no key.
    """
    import cupy as cp

    top, total = cp.empty((*q.shape[:-1], 1), q.dtype), cp.empty((*q.shape[:-1], 1), q.dtype)
    changes, sinks = changes_of(q, form), numbers(sink, q.dtype)
    for block in blocks(form, q.shape[-2], k.shape[-2]):
        scores = scores_of(q, k, form, block)
        kept = part_of(keep, q, k.shape[-2], block)
        row_by_row("softmax", (scores,), (*changes, *sinks), block, q.shape[-2], (top, total))
        y[..., block.start : block.stop, :] = product(
            dropped(scores, kept, p), v[..., block.low : block.high, :]
        )
    return top, total


def attend_back_into(dy, saved, dq, dk, dv):
    """Fill dq, dk and dv from what attend saved."""
    import cupy as cp

    q, k, v, top, total, form, keep, p = saved
    sums = cp.ascontiguousarray(top), cp.ascontiguousarray(total)
    changes = changes_of(q, form)
    dk[...] = 0
    dv[...] = 0
    for block in blocks(form, q.shape[-2], k.shape[-2]):
        queries, keys = slice(block.start, block.stop), slice(block.low, block.high)
        kept = part_of(keep, q, k.shape[-2], block)
        qs, dys, ks = q[..., queries, :], dy[..., queries, :], k[..., keys, :]
        probs = scores_of(q, k, form, block)
        dscores = cp.ascontiguousarray(dropped(product(dys, v[..., keys, :].swapaxes(-1, -2)), kept, p))
        row_by_row("softmax_gradient", (probs, dscores), changes, block, q.shape[-2], sums)
        dq[..., queries, :] = product(dscores, ks) * form.scale
        dks = product(dscores.swapaxes(-1, -2), qs) * form.scale
        dvs = product(dropped(probs, kept, p).swapaxes(-1, -2), dys)
        for place, part in ((dk, dks), (dv, dvs)):
            part = part if part.shape[:-2] == place.shape[:-2] else part.sum(-3, keepdims=True)
            place[..., keys, :] += part


class Block(NamedTuple):
    """Queries start … stop − 1, the first at position; none of them sees a key but low … high − 1."""

    start: int
    stop: int
    low: int
    high: int
    position: int


def blocks(form, T, S):
    """The blocks of the last T of S positions, each with the keys that it is computed with.

    A window's keys are few. Bounds that the host does not know would have to be waited for: then the keys are
    all that a query could see.
    """
    first, last = (
        None if form.mask is not None or a is None else engine.known(a) for a in (form.first, form.last)
    )
    first, last = (None if a is None else np.broadcast_to(a, (*a.shape[:-1], T)) for a in (first, last))
    found = []
    for start in range(0, T, QUERIES):
        stop = min(T, start + QUERIES)
        low, high = 0, stop + S - T if form.last is None else S
        if last is not None:
            high = min(S, max(1, 1 + int(last[..., start:stop].max())))
        if first is not None:
            low = min(high - 1, max(0, int(first[..., start:stop].min())))
        found.append(Block(start, stop, low, high, start + S - T))
    return found


def changes_of(q, form):
    """What the kernels are told of a Form: the factor, the cap, slopes and bounds of what is seen.

    Where there is a mask, the scores that they get are scaled, and −∞ where a key is hidden.
    """
    import cupy as cp

    if form.mask is not None:
        return 1.0, 0.0, *numbers(None, "float64"), *numbers(None, "int64"), numbers(None, "int64")[0], -1
    slopes = None if form.slopes is None else cp.broadcast_to(form.slopes, q.shape[:-2])
    bounds = []
    for bound in (form.first, form.last):
        if bound is not None:
            T, is_shared = q.shape[-2], bound.size == bound.shape[-1]
            bound = cp.broadcast_to(
                bound.reshape(-1) if is_shared else bound, (T,) if is_shared else q.shape[:-1]
            )
        bounds += numbers(bound, "int64")
    return form.scale, form.cap or 0.0, *numbers(slopes, "float64"), *bounds


def numbers(array, dtype):
    """An array as a kernel reads it, and how many numbers it has; 0 for None."""
    import cupy as cp

    if array is None:
        return cp.empty(1, dtype), 0
    return cp.ascontiguousarray(array, dtype), array.size


def scores_of(q, k, form, block):
    """The scores of a block of queries; where there is a mask, scaled and −∞ for the keys that it hides."""
    import cupy as cp

    S = k.shape[-2]
    qs, ks = q[..., block.start : block.stop, :], k[..., block.low : block.high, :]
    if form.mask is None:
        return cp.ascontiguousarray(product(qs, ks.swapaxes(-1, -2)))
    mask = part_of(form.mask, q, S, block)
    first, last = (
        None if a is None else cp.broadcast_to(a, q.shape[:-1])[..., block.start : block.stop]
        for a in (form.first, form.last)
    )
    form = form._replace(mask=mask, first=first, last=last)
    return cp.ascontiguousarray(masked_scores(qs, ks, form))


def part_of(mask, q, S, block):
    """The part of a mask (…, T, S) for a block of queries and its keys; None is none."""
    import cupy as cp

    if mask is None:
        return None
    return cp.broadcast_to(mask, (*q.shape[:-1], S))[..., block.start : block.stop, block.low : block.high]


def row_by_row(name, scores, changes, block, T, sums):
    """Launch a kernel over the rows of scores (..., queries, keys) of a block."""
    queries, keys = scores[0].shape[-2:]
    args = (*scores, *changes, keys, block.low, block.position, queries, T, block.start, *sums)
    launch(ATTENTION_SOURCE, name, scores[0].dtype, (scores[0].size // keys,), threads_for(keys), *args)
