"""The pre-norm block, or a parallel one, for a few new positions of many rows, which read those in the cache.

One launch without phases: what a row becomes depends on its own keys and values alone, so a task takes some
of them through the whole block. It reads all of the weights, which therefore have to fit into a processor's
cache: of larger models the ops divide the products better, and their own time does not show.
"""

import numpy as np

from ..engine.blas import gemm
from ..engine.jit import kernel, launch, parallel
from ..ops.few_rows_numba import FEW
from ..ops.linear_numba import rows
from ..ops.rotary_numba import turn_rows
from .block_numba import (
    KNOWN,
    TILES,
    activate,
    add_bias,
    angles,
    form_of,
    inner_width,
    multiply_rows,
    parameters_of,
    sum_with_bias,
)
from .decoding_numba import MATRICES, attend_position, normalised
from .known import beyond
from .pickers import visible_keys

POSITIONS = 16  # of a task at least, while there are so many
MOST_NEW = 32  # positions of a row: of more, attention is faster by blocks of queries
MOST_BYTES = 1 << 21  # of a block's matrices


@kernel
def attend_rows(qkv, n0, T, H, K, D, scale, window, starts, store, first, length, heads):
    """Position by position: its key and value go to the store, what its queries read to heads (M, H D).

    n0: the number of the first one, T to a row.
    """
    G = H // K
    for m in range(len(qkv)):
        here, b, place = qkv[m], (n0 + m) // T, length + (n0 + m) % T
        begin = first if window is None else max(first, place + 1 - window)
        if starts is not None:
            begin = max(begin, starts[n0 + m])
        for i in range(H * D):
            here[i] *= scale
        for kv in range(K):
            keys, values = store[0, b, kv], store[1, b, kv]
            for d in range(D):
                keys[place, d] = here[(H + kv) * D + d]
                values[place, d] = here[(H + K + kv) * D + d]
            seen = keys[begin : place + 1], values[begin : place + 1]
            for h in range(kv * G, (kv + 1) * G):
                attend_position(here[h * D : (h + 1) * D], *seen, heads[m, h * D : (h + 1) * D])


@kernel
def fed_forward(x, normed, weight_fc, bias_fc, weight_proj, bias_proj, tanh, gated):
    """x += what the feed-forward makes of normed rows."""
    inner = np.empty((len(x), weight_fc.shape[1]), x.dtype)
    act = np.empty((len(x), len(weight_proj)), x.dtype)
    multiply_rows(normed, weight_fc, bias_fc, inner)
    activate(tanh, gated, inner, act)
    add_bias(x, bias_proj)
    gemm(False, False, 1.0, act, weight_proj, 1.0, x)


@parallel
def block_of_rows(
    task,
    tasks,
    x,
    T,
    H,
    K,
    D,
    scale,
    eps,
    rms,
    tanh,
    gated,
    sequential,
    parallel,
    second,
    cos,
    sin,
    window,
    starts,
    parameters,
    store,
    first,
    length,
    stream,
):
    """x (N, C), T positions of each row → stream (N, C); new keys and values are added to the store.

    H to second: a Form. cos and sin (T or N, R/2): of the angles by which queries and keys turn, or None.
    window: how many positions each sees, its own included, None for all. starts (N): the place in the store
    of the first that each sees, None where that is `first`.
    store (2, N / T, K, room, D) holds the keys, as they are turned, and the values, from first to length.
    """
    w1, b1, weight_a, bias_a, weight_o, bias_o, w2, b2, weight_fc, bias_fc, weight_proj, bias_proj = (
        parameters
    )
    B = len(x) // T
    n0, n1 = task * B // tasks * T, (task + 1) * B // tasks * T
    xs, out = x[n0:n1], stream[n0:n1]
    normed, qkv = normalised(xs, w1, b1, eps, rms), np.empty((n1 - n0, (H + 2 * K) * D), x.dtype)
    multiply_rows(normed, weight_a, bias_a, qkv)
    if cos is not None:
        turn_rows(qkv, n0, cos, sin, H + K, D)
    heads = np.empty((n1 - n0, H * D), x.dtype)
    attend_rows(qkv, n0, T, H, K, D, scale, window, starts, store, first, length, heads)
    sum_with_bias(xs, bias_o, out)
    gemm(False, False, 1.0, heads, weight_o, 1.0, out)
    if sequential is not None:
        normed = normalised(out, w2, b2, eps, rms)
    elif second is not None:
        normed = normalised(xs, w2, b2, eps, rms)
    fed_forward(out, normed, weight_fc, bias_fc, weight_proj, bias_proj, tanh, gated)


def suits(r, x):
    """Whether the block is for this file: a few positions of many rows, and matrices that stay in cache."""
    if x.ndim < 2 or x.shape[-2] > MOST_NEW or x[..., 0].size <= FEW:
        return False
    if r.visibility is not None and r.visibility.last is not None:
        return False
    if any(f"{r.scope}{name}.weight_q" in r.params for name in MATRICES):
        return False  # of integers: the ops turn them into floats for all rows at once
    c = r.config
    size = c.n_embd * (c.qkv_width + inner_width(c) + c.n_head * c.head_size + c.ffn_width)
    return size * x.itemsize <= MOST_BYTES and beyond(c, KNOWN) is None


def first_seen(r, x, held, begin):
    """The place in the store (N) of the first position that each one sees; None where all see those held."""
    if r.visibility is None:
        return None
    seen = r.cache.seen(visible_keys(r, x), held).get("first")
    return None if seen is None else np.array(np.broadcast_to(seen, x.shape[:-1]).reshape(-1) + begin)


def cached_block(r, x):
    """transformer.pre_norm_block_forward for positions x (..., T, C) after those in the record's cache."""
    xs, form, T = rows(x), form_of(r.config), x.shape[-2]
    form, B = form._replace(scale=x.dtype.type(form.scale)), len(xs) // T
    shape = (*x.shape[:-2], form.K, T, form.D)
    store, begin, end = r.cache.memory(f"{r.scope}attn.heads", shape, x.dtype, r.config)
    starts, stream = first_seen(r, x, end - begin, begin), np.empty_like(xs)
    tasks = max(1, min(TILES, B, len(xs) // POSITIONS))
    given = *form, *angles(r, x), r.config.window, starts, parameters_of(r)
    store = store.reshape(2, B, *store.shape[-3:])
    launch(block_of_rows, tasks, tasks, xs, T, *given, store, begin, end, stream)
    return stream.reshape(x.shape)
