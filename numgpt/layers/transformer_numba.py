"""Twin of the pre-norm block and the parallel ones: ops run tile by tile, and read from cache what one wrote.

Used where nothing inside the block is kept, edited or dropped. It saves less than the ops do: of a norm only
x̂, from which the gradient of the matrix that reads the norm follows too, and GELU's slope in the place of
its input. Of SwiGLU it keeps the input, gate and value, and finds the slope again.
"""

import contextlib
from typing import Any, NamedTuple

import numpy as np

from ..engine import bf16
from ..engine.blas import gemm
from ..engine.jit import kernel, launch, parallel
from ..ops.attention_numba import attend_head, attend_head_gradients, bounds
from ..ops.linear_numba import TILE, rows
from ..ops.norms_numba import gradient_rows, normalise_rows
from ..ops.rotary_numba import turn_rows
from .block_gradients_numba import (
    MATRIX_NAMES,
    Gradient,
    bias_gradient,
    gradients_of,
    matrix_gradient,
    scaled_matrix_gradient,
)
from .block_numba import (
    KNOWN,
    TILES,
    Parameters,
    activate,
    add_bias,
    angles,
    form_of,
    inner_width,
    multiply_rows,
    parameters_of,
    sum_with_bias,
    swiglu_gradient_rows,
)
from .known import beyond
from .pickers import visible_keys

PRECISIONS = bf16.PRECISIONS
SMALLEST = 64  # rows of a tile below which the ops' own division of the work is better

# The phases of a launch, forwards and backwards: each begins when all tasks of the one before are done. A
# task is a tile of rows or a head; in the last two phases it is a part of a parameter's gradient.
BEFORE_ATTENTION, ATTENTION, AFTER_ATTENTION = range(3)
BACK_TO_ATTENTION, BACK_THROUGH_ATTENTION, BACK_TO_INPUT, BIASES, MATRICES = range(5)


# As with Parameters, kernels are given these as plain tuples and name the parts inside.
class Saved(NamedTuple):
    """What the backward reads."""

    xhat_1: Any  # x̂ and r of ln_1
    rstd_1: Any
    qkv: Any
    heads: Any  # what attention returns, the heads side by side
    top: Any  # the largest of each query's scores, and the sum of their exponentials
    total: Any
    xhat_2: Any  # x̂ and r of ln_2
    rstd_2: Any
    inner: Any  # GELU's slope, or SwiGLU's input
    act: Any  # what the activation gives


class Between(NamedTuple):
    """The gradients within the block."""

    dh: Any  # of what the activation reads
    dmiddle: Any  # of the residual stream between attention and feed-forward; of a parallel block see below
    dheads: Any
    dqkv: Any


@kernel
def multiply_by(y, x):
    """y *= x."""
    for i in range(len(y)):
        y[i] *= x[i]


@kernel
def span(tile, N):
    """The rows of a tile."""
    return tile * N // TILES, (tile + 1) * N // TILES


@kernel
def sum_rows(y, x):
    """y += x."""
    N, C = x.shape
    for n in range(N):
        for c in range(C):
            y[n, c] += x[n, c]


@kernel
def of_batch(b, B, x):
    """The rows of a sequence."""
    T = len(x) // B
    return x[b * T : (b + 1) * T]


@kernel
def seen_by(b, bounds):
    """The bounds (T) of a sequence's queries, of those of all (B, T); None is None."""
    if bounds is None:
        return None
    return bounds[b]


@kernel
def head(n, x, D):
    """The columns of head n."""
    return x[:, n * D : (n + 1) * D]


@kernel
def keys_and_values(n, x, H, K, D):
    """The columns of k and of v that are key head n's, of rows q | k | v."""
    return head(H + n, x, D), head(H + K + n, x, D)


@parallel
def block_forward(
    phase,
    task,
    x,
    B,
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
    first,
    last,
    parameters,
    saved,
    out,
    bf16,
):
    """A block: the rows, attention, the rows again. Its phases stand in one kernel: see Parameters.

    H to second: a Form. cos and sin (T or BT, R/2): of the angles by which queries and keys turn, None if
    they do not. first and last (B, T): the keys that each query sees, None where they are those before it and
    its own. bf16: see gemm.
    """
    p, s = Parameters(*parameters), Saved(*saved)
    if phase == ATTENTION:
        b, h = task // H, task % H
        qkv, y = of_batch(b, B, s.qkv), head(h, of_batch(b, B, s.heads), D)
        k, v = keys_and_values(h // (H // K), qkv, H, K, D)
        seen = seen_by(b, first), seen_by(b, last)
        attend_head(head(h, qkv, D), k, v, scale, *seen, y, s.top[task], s.total[task], bf16)
        return
    N, C = x.shape
    n0, n1 = span(task, N)
    normed = np.empty((n1 - n0, C), x.dtype)
    if phase == BEFORE_ATTENTION:  # ln_1, c_attn and the rotation
        hat, rstd, qkv = s.xhat_1[n0:n1], s.rstd_1[n0:n1], s.qkv[n0:n1]
        normalise_rows(x[n0:n1], p.ln_1_weight, p.ln_1_bias, eps, normed, hat, rstd, rms)
        multiply_rows(normed, p.attn_c_attn_weight, p.attn_c_attn_bias, qkv, bf16)
        if cos is not None:
            turn_rows(qkv, n0, cos, sin, H + K, D)
        if parallel is not None:  # the feed-forward up to its activation, which reads the same rows
            if second is not None:
                hat, rstd = s.xhat_2[n0:n1], s.rstd_2[n0:n1]
                normalise_rows(x[n0:n1], p.ln_2_weight, p.ln_2_bias, eps, normed, hat, rstd, rms)
            multiply_rows(normed, p.mlp_c_fc_weight, p.mlp_c_fc_bias, s.inner[n0:n1], bf16)
            activate(tanh, gated, s.inner[n0:n1], s.act[n0:n1])
    else:  # c_proj, the residual, ln_2, c_fc, the activation, c_proj and the residual
        stream, inner, act = out[n0:n1], s.inner[n0:n1], s.act[n0:n1]
        sum_with_bias(x[n0:n1], p.attn_c_proj_bias, stream)
        gemm(False, False, 1.0, s.heads[n0:n1], p.attn_c_proj_weight, 1.0, stream, bf16)
        if sequential is not None:
            hat, rstd = s.xhat_2[n0:n1], s.rstd_2[n0:n1]
            normalise_rows(stream, p.ln_2_weight, p.ln_2_bias, eps, normed, hat, rstd, rms)
            multiply_rows(normed, p.mlp_c_fc_weight, p.mlp_c_fc_bias, inner, bf16)
            activate(tanh, gated, inner, act)
        add_bias(stream, p.mlp_c_proj_bias)
        gemm(False, False, 1.0, act, p.mlp_c_proj_weight, 1.0, stream, bf16)


@kernel
def back_through_activation(gated, dy, weight, inner, dh, bf16):
    """dh: the gradient of what the activation reads, for the rows dy of what c_proj gives."""
    if gated is None:  # inner is the slope
        gemm(False, True, 1.0, dy, weight, 0.0, dh, bf16)
        multiply_by(dh.reshape(-1), inner.reshape(-1))
    else:
        dact = np.empty((len(dy), len(weight)), dy.dtype)
        gemm(False, True, 1.0, dy, weight, 0.0, dact, bf16)
        swiglu_gradient_rows(inner, dact, dh)


@parallel
def block_backward(
    phase,
    task,
    dy,
    B,
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
    first,
    last,
    parameters,
    saved,
    between,
    dx,
    sums,
    gradients,
    bf16,
):
    """A block backwards: the rows, attention, the rows again, the gradients of biases and of matrices.

    A task of attention is a head of keys, which goes through the heads of queries that read it. In a parallel
    block d.dmiddle has the gradient of the stream but for what comes by ln_1, or without an ln_2 what the
    feed-forward sends to ln_1.
    cos and sin are of the angles back. gradients: for each of MATRIX_NAMES a Gradient. sums (2, TILES, 2, C):
    of ln_1 and ln_2, for each tile, Σ dy x̂ and Σ dy.
    """
    p, s, d = Parameters(*parameters), Saved(*saved), Between(*between)
    proj, fc = Gradient(*gradients[0]), Gradient(*gradients[1])
    out, qkv = Gradient(*gradients[2]), Gradient(*gradients[3])
    if phase == BACK_THROUGH_ATTENTION:
        b, kv, G = task // K, task % K, H // K
        values, grads, dheads = of_batch(b, B, s.qkv), of_batch(b, B, d.dqkv), of_batch(b, B, d.dheads)
        k, v = keys_and_values(kv, values, H, K, D)
        dk, dv = keys_and_values(kv, grads, H, K, D)
        for h in range(kv * G, kv * G + G):
            q, dq, top, total = head(h, values, D), head(h, grads, D), s.top[b * H + h], s.total[b * H + h]
            more = h > kv * G
            dyh = head(h, dheads, D)
            seen = seen_by(b, first), seen_by(b, last)
            attend_head_gradients(dyh, q, k, v, top, total, scale, *seen, more, dq, dk, dv, bf16)
    elif phase == BACK_TO_ATTENTION or phase == BACK_TO_INPUT:
        N, C = dy.shape
        n0, n1 = span(task, N)
        dnormed, dmiddle = np.empty((n1 - n0, C), dy.dtype), d.dmiddle[n0:n1]
        if phase == BACK_TO_ATTENTION:  # through the feed-forward, ln_2 and attention's c_proj
            dh, hat, rstd = d.dh[n0:n1], s.xhat_2[n0:n1], s.rstd_2[n0:n1]
            back_through_activation(gated, dy[n0:n1], p.mlp_c_proj_weight, s.inner[n0:n1], dh, bf16)
            if second is None:
                gemm(False, True, 1.0, dh, p.mlp_c_fc_weight, 0.0, dmiddle, bf16)
            else:
                gemm(False, True, 1.0, dh, p.mlp_c_fc_weight, 0.0, dnormed, bf16)
            if second is not None:
                gradient_rows(dnormed, hat, rstd, p.ln_2_weight, dy[n0:n1], dmiddle, sums[1, task], rms)
            dout = dmiddle if parallel is None else dy[n0:n1]
            gemm(False, True, 1.0, dout, p.attn_c_proj_weight, 0.0, d.dheads[n0:n1], bf16)
        else:  # through the rotation, c_attn and ln_1
            dqkv, hat, rstd = d.dqkv[n0:n1], s.xhat_1[n0:n1], s.rstd_1[n0:n1]
            if cos is not None:
                turn_rows(dqkv, n0, cos, sin, H + K, D)
            gemm(False, True, 1.0, dqkv, p.attn_c_attn_weight, 0.0, dnormed, bf16)
            stream = dmiddle
            if second is None:
                sum_rows(dnormed, dmiddle)
                stream = dy[n0:n1]
            gradient_rows(dnormed, hat, rstd, p.ln_1_weight, stream, dx[n0:n1], sums[0, task], rms)
    elif phase == BIASES:
        task = bias_gradient(task, dy, proj.bias)
        task = bias_gradient(task, d.dh, fc.bias)
        task = bias_gradient(task, d.dmiddle if parallel is None else dy, out.bias)
        bias_gradient(task, d.dqkv, qkv.bias)
    elif task < proj.end:
        matrix_gradient(task, proj, s.act, dy, bf16)
    elif task < fc.end:
        if second is not None:
            scaled_matrix_gradient(task - proj.end, fc, s.xhat_2, d.dh, p.ln_2_weight, p.ln_2_bias, bf16)
        else:
            scaled_matrix_gradient(task - proj.end, fc, s.xhat_1, d.dh, p.ln_1_weight, p.ln_1_bias, bf16)
    elif task < out.end:
        matrix_gradient(task - fc.end, out, s.heads, d.dmiddle if parallel is None else dy, bf16)
    else:
        scaled_matrix_gradient(task - out.end, qkv, s.xhat_1, d.dqkv, p.ln_1_weight, p.ln_1_bias, bf16)


def suits(r, x):
    """Whether the twin is made for this block and input: many rows, or few that are decoded with a cache."""
    if r.cache is not None:  # in float32 alone
        return bf16.flag() is None and decoding(r, x) is not None
    return x.ndim > 1 and x[..., 0].size >= TILES * SMALLEST and beyond(r.config, KNOWN) is None


def decoding(r, x):
    """The twin for decoding that suits, or None: of few positions, or of one position of many rows.

    Imported when first needed: a run that only trains does not wait for it.
    """
    from . import batch_decoding_numba, decoding_numba

    if r.visibility is None and decoding_numba.suits(r, x):
        return decoding_numba
    return batch_decoding_numba if batch_decoding_numba.suits(r, x) else None


def new_saved(B, T, config, dtype):
    """Arrays for what the forward saves."""
    N, C, H = B * T, config.n_embd, config.n_head
    widths = config.qkv_width, H * config.head_size, inner_width(config), config.ffn_width
    qkv, heads, inner, act = ((N, width) for width in widths)
    norm_2 = ((0, C), 0) if config.norm_position == "parallel" else ((N, C), N)
    shapes = (N, C), N, qkv, heads, (B * H, T), (B * H, T), *norm_2, inner, act
    return Saved(*(np.empty(shape, dtype) for shape in shapes))


def keys_seen(r, x):
    """The first and the last key (B, T) that each query sees; None and None where it is all up to its own."""
    seen = visible_keys(r, x)
    if not seen:
        return None, None
    T = x.shape[-2]
    return tuple(each.reshape(-1, T) for each in bounds(seen.get("first"), seen.get("last"), x.shape[:-1], T))


def pre_norm_block_forward(r, x):
    """Twin of transformer.pre_norm_block_forward; returns (y, saved)."""
    if r.cache is not None:
        twin = r.cache.kept(("decodes", r.scope, x.shape, r.visibility is None), decoding, r, x)
        return twin.cached_block(r, x), None
    xs, T = rows(x), x.shape[-2]
    B = len(xs) // T
    saved, out = new_saved(B, T, r.config, x.dtype), np.empty_like(xs)
    form, turn, seen = form_of(r.config), angles(r, x), keys_seen(r, x)
    tasks = TILES, B * form.H, TILES
    launch(block_forward, tasks, xs, B, *form, *turn, *seen, parameters_of(r), tuple(saved), out, bf16.flag())
    return out.reshape(x.shape), (B, form, turn, seen, saved)


def pre_norm_block_backward(r, dy, saved):
    """Twin of transformer.pre_norm_block_backward."""
    (B, form, (cos, sin), seen, arrays), dys = saved, rows(dy)
    (N, C), widths = dys.shape, (inner_width(r.config), r.config.n_embd, form.H * form.D, r.config.qkv_width)
    between = tuple(np.empty((N, width), dy.dtype) for width in widths)
    turn = cos, None if sin is None else -sin
    dx, sums = np.empty_like(dys), np.zeros((2, TILES, 2, C))
    with contextlib.ExitStack() as places:
        gradients = tuple(gradients_of(r, dy.dtype, places))
        bias_tiles = sum(-(-len(g.bias) // TILE) for g in gradients if g.bias is not None)
        launch(
            block_backward,
            (TILES, B * form.K, TILES, bias_tiles, gradients[-1].end),
            *(dys, B, *form, *turn, *seen, parameters_of(r), tuple(arrays)),
            *(between, dx, sums, tuple(map(tuple, gradients)), bf16.flag()),
        )
    for name, gradient in zip(MATRIX_NAMES, gradients):
        if f"{r.scope}{name}.bias" in r.params:
            r.put(f"{name}.bias", gradient.bias)
    for name, (dweight, dbias) in zip(("ln_1",) if form.second is None else ("ln_1", "ln_2"), sums.sum(1)):
        r.put(f"{name}.weight", dweight)
        if f"{r.scope}{name}.bias" in r.params:
            r.put(f"{name}.bias", dbias)
    return dx.reshape(dy.shape)


def parallel_block_forward(r, x):
    """Twin of transformer.parallel_block_forward; returns (y, saved)."""
    return pre_norm_block_forward(r, x)


def parallel_block_backward(r, dy, saved):
    """Twin of transformer.parallel_block_backward."""
    return pre_norm_block_backward(r, dy, saved)


def two_norm_parallel_block_forward(r, x):
    """Twin of transformer.two_norm_parallel_block_forward; returns (y, saved)."""
    return pre_norm_block_forward(r, x)


def two_norm_parallel_block_backward(r, dy, saved):
    """Twin of transformer.two_norm_parallel_block_backward."""
    return pre_norm_block_backward(r, dy, saved)
