"""The pre-norm block for a few rows of new positions that read those in the cache: one launch, six phases.

A matrix is read by parts of its rows, in the order in which it lies in memory; whoever needs a product adds
up its parts, in order. What takes less time than a wait between two phases, a norm or a sum of parts, each
task does for itself.
"""

import math

import numpy as np

from ..engine.jit import SUMS, kernel, launch, parallel
from ..ops.attention_numba import exponentials
from ..ops.elementary_numba import row_max
from ..ops.few_rows_numba import PARTS, add_products, multiply_part, padded, part_of
from ..ops.few_rows_numba import suits as few_rows_suit
from ..ops.linear_numba import rows
from ..ops.norms_numba import normalise_rows
from .block_numba import KNOWN, activate, parameters_of, tanh_flag
from .known import beyond

# The phases of a launch: each begins when all tasks of the one before are done. A task is a head in HEADS,
# some columns in LAST_SUM, and everywhere else a part of a matrix's rows.
TO_QKV, HEADS, FROM_HEADS, TO_INNER, FROM_INNER, LAST_SUM = range(6)


@kernel
def add_parts(parts, m0, c0, bias, y, at, width):
    """y[:, at : at + width] += Σ parts[:, m0 :, c0 : c0 + width] + bias[c0 : c0 + width].

    bias None is none.
    """
    for m in range(len(y)):
        for c in range(width):
            s = y[m, at + c]
            for p in range(PARTS):
                s += parts[p, m0 + m, c0 + c]
            y[m, at + c] = s if bias is None else s + bias[c0 + c]


@kernel
def normalised(x, w, b, eps):
    """LayerNorm of a few rows."""
    y, xhat, rstd = np.empty_like(x), np.empty_like(x), np.empty(len(x), x.dtype)
    normalise_rows(x, w, b, eps, y, xhat, rstd)
    return y


@kernel(fastmath=SUMS)
def row_product(x, w, v):
    """The product of a row with row v of w."""
    s = x.dtype.type(0)
    for i in range(len(x)):
        s += x[i] * w[v, i]
    return s


@kernel
def attend_position(q, keys, values, y):
    """y (D) = Σ softmax(⟨q, k⟩) v over all keys and values (S, D)."""
    S, D = keys.shape
    scores = np.empty(S, q.dtype)
    for s in range(S):
        scores[s] = row_product(q, keys, s)
    total = exponentials(scores, row_max(scores))
    y[:] = 0
    for s in range(S):
        for d in range(D):
            y[d] += scores[s] * values[s, d]
    for d in range(D):
        y[d] *= q.dtype.type(1 / total)


@parallel
def block(phase, task, x, T, scale, eps, tanh, parameters, store, length, work, stream):
    """x (M, C), of whose rows B T are positions → stream (M, C); new keys and values are added to the store.

    store (2, B, H, room, D) holds the keys and the values of `length` positions.
    """
    # Loose, unlike in training: with NamedTuples this kernel took 9 % longer to compile (median of 3 pairs).
    w1, b1, weight_a, bias_a, weight_o, bias_o, w2, b2, weight_fc, bias_fc, weight_proj, bias_proj = (
        parameters
    )
    qkv_parts, heads, attn_parts, inner_parts, mlp_parts = work
    M, C = x.shape
    if phase == TO_QKV:
        normed = normalised(x, w1, b1, eps)
        multiply_part(task, normed, weight_a, qkv_parts)
    elif phase == HEADS:  # its new keys and values go to the store, its result to heads
        H, D = store.shape[2], store.shape[4]
        b, h = task // H, task % H
        qkv = np.zeros((3, T, D), x.dtype)
        for part in range(3):
            add_parts(qkv_parts, b * T, part * C + h * D, bias_a, qkv[part], 0, D)
        store[0, b, h, length : length + T] = qkv[1]
        store[1, b, h, length : length + T] = qkv[2]
        for t in range(T):
            for d in range(D):
                qkv[0, t, d] *= scale
            seen = length + t + 1
            place = heads[b * T + t, h * D : (h + 1) * D]
            attend_position(qkv[0, t], store[0, b, h, :seen], store[1, b, h, :seen], place)
    elif phase == FROM_HEADS:
        multiply_part(task, heads, weight_o, attn_parts)
    elif phase == TO_INNER:  # the residual stream between attention and feed-forward is each task's own
        middle = x.copy()
        add_parts(attn_parts, 0, 0, bias_o, middle, 0, C)
        if task == 0:
            stream[:] = middle
        multiply_part(task, normalised(middle, w2, b2, eps), weight_fc, inner_parts)
    elif phase == FROM_INNER:
        f0, f1 = part_of(task, len(weight_proj))
        h, act = np.zeros((M, f1 - f0), x.dtype), np.empty((M, f1 - f0), x.dtype)
        add_parts(inner_parts, 0, f0, bias_fc, h, 0, f1 - f0)
        activate(tanh, h, act)
        mlp_parts[task] = 0
        add_products(act, weight_proj[f0:f1], 0, f1 - f0, mlp_parts[task])
    else:
        c0, c1 = task * C // PARTS, (task + 1) * C // PARTS
        add_parts(mlp_parts, 0, c0, bias_proj, stream, c0, c1 - c0)


def suits(r, x):
    """Whether the block is for this file: few rows, and widths that come out even."""
    N, C, F = x[..., 0].size, r.config.n_embd, r.config.ffn_width
    matrices = (C, 3 * C), (C, C), (C, F), (F, C)
    if not all(few_rows_suit(N, K, width) for K, width in matrices):
        return False
    # Asked once a model: at every layer of every token it would show.
    return r.cache.kept((r.scope, "beyond"), beyond, r.config, KNOWN) is None


def work_arrays(M, C, F, dtype):
    """What one phase writes for the next: products as parts that are yet to be added up, and heads.

    Rows of heads that are there only to fill up to a size that has loops stay 0.
    """
    return (
        np.empty((PARTS, M, 3 * C), dtype),  # q k v
        np.zeros((M, C), dtype),  # heads: what attention returns
        np.empty((PARTS, M, C), dtype),  # attention's c_proj
        np.empty((PARTS, M, F), dtype),  # what the activation reads
        np.empty((PARTS, M, C), dtype),  # the feed-forward's c_proj
    )


def cached_block(r, x):
    """transformer.pre_norm_block_forward for positions x (..., T, C) after those in the record's cache."""
    xs, T, H = padded(rows(x)), x.shape[-2], r.config.n_head
    M, C = xs.shape
    parameters = r.cache.kept(r.scope, parameters_of, r)
    work = r.cache.kept((M, x.shape), work_arrays, M, C, r.config.ffn_width, x.dtype)
    store = r.cache.memory(f"{r.scope}attn.heads", (*x.shape[:-2], H, T, C // H), x.dtype)
    store = store.reshape(2, -1, *store.shape[-3:])
    stream, scale = np.empty_like(xs), x.dtype.type(1 / math.sqrt(C // H))
    settings = scale, r.config.layer_norm_epsilon, tanh_flag(r.config)
    tasks = PARTS, store.shape[1] * H, PARTS, PARTS, PARTS, PARTS
    launch(block, tasks, xs, T, *settings, parameters, store, r.cache.length, work, stream)
    return stream[: x[..., 0].size].reshape(x.shape)
