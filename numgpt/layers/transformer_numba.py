"""Twin of the pre-norm block: its ops run tile by tile of rows, so that what one writes the next finds in the
cache.

Used where nothing inside the block is kept, edited or dropped. It saves less than the ops do: of a norm only
x̂, from which the gradient of the matrix that reads the norm follows too, and the activation's slope in the
place of its input.
"""

import contextlib
import functools
import itertools
import math

import numpy as np

from ..engine.blas import gemm
from ..engine.jit import kernel, launch, parallel
from ..ops.attention_numba import attend_head, attend_head_gradients
from ..ops.linear_numba import borders, grid, rows, set_rows, tile_sums
from ..ops.norms_numba import gradient_rows, normalise_rows
from .block_numba import ACTIVATIONS, gelu_and_slope, gelu_tanh_and_slope, parameters_of

TILES = 8  # of rows, whatever the number of threads
SMALLEST = 64  # rows of a tile below which the ops' own division of the work is better


@kernel
def multiply_by(y, x):
    """y *= x."""
    for i in range(len(y)):
        y[i] *= x[i]


@kernel
def span(tile, N):
    """The rows of a tile."""
    return tile * N // TILES, (tile + 1) * N // TILES


# Where there is no bias it is None, and tanh is None for GELU's erf form: the compiler then leaves out what
# is not needed.


@kernel
def before_attention(tile, x, w, b, eps, weight, bias, xhat, rstd, qkv):
    """ln_1 and c_attn."""
    N, C = x.shape
    n0, n1 = span(tile, N)
    normed, y = np.empty((n1 - n0, C), x.dtype), qkv[n0:n1]
    normalise_rows(x[n0:n1], w, b, eps, normed, xhat[n0:n1], rstd[n0:n1])
    if bias is None:
        gemm(False, False, 1.0, normed, weight, 0.0, y)
    else:
        set_rows(bias, 0, qkv, n0, n1, len(bias))
        gemm(False, False, 1.0, normed, weight, 1.0, y)


@kernel
def after_attention(
    tile,
    x,
    y,
    weight_o,
    bias_o,
    w,
    b,
    eps,
    weight_fc,
    bias_fc,
    weight_proj,
    bias_proj,
    tanh,
    xhat,
    rstd,
    slope,
    act,
    out,
):
    """c_proj, the residual, ln_2, c_fc, the activation, c_proj and the residual."""
    N, C = x.shape
    n0, n1 = span(tile, N)
    normed, inner, stream = np.empty((n1 - n0, C), x.dtype), slope[n0:n1], out[n0:n1]
    sum_with_bias(x[n0:n1], bias_o, stream)
    gemm(False, False, 1.0, y[n0:n1], weight_o, 1.0, stream)
    normalise_rows(stream, w, b, eps, normed, xhat[n0:n1], rstd[n0:n1])
    if bias_fc is None:
        gemm(False, False, 1.0, normed, weight_fc, 0.0, inner)
    else:
        set_rows(bias_fc, 0, slope, n0, n1, len(bias_fc))
        gemm(False, False, 1.0, normed, weight_fc, 1.0, inner)
    if tanh is None:
        gelu_and_slope(inner.reshape(-1), act[n0:n1].reshape(-1))
    else:
        gelu_tanh_and_slope(inner.reshape(-1), act[n0:n1].reshape(-1))
    if bias_proj is not None:
        sum_with_bias(stream, bias_proj, stream)
    gemm(False, False, 1.0, act[n0:n1], weight_proj, 1.0, stream)


@kernel
def sum_with_bias(x, bias, y):
    """y = x + bias, bias None is none."""
    N, C = x.shape
    for n in range(N):
        for c in range(C):
            if bias is None:
                y[n, c] = x[n, c]
            else:
                y[n, c] = x[n, c] + bias[c]


@kernel
def back_to_attention(
    tile, dy, weight_proj, slope, weight_fc, xhat, rstd, w, weight_o, dh, dmiddle, dheads, sums
):
    """From the block's gradient to that of attention's result; dmiddle is the residual stream's between the
    two parts.
    """
    N, C = dy.shape
    n0, n1 = span(tile, N)
    dnormed, d = np.empty((n1 - n0, C), dy.dtype), dh[n0:n1]
    gemm(False, True, 1.0, dy[n0:n1], weight_proj, 0.0, d)
    multiply_by(d.reshape(-1), slope[n0:n1].reshape(-1))
    gemm(False, True, 1.0, d, weight_fc, 0.0, dnormed)
    gradient_rows(dnormed, xhat[n0:n1], rstd[n0:n1], w, dy[n0:n1], dmiddle[n0:n1], sums[tile])
    gemm(False, True, 1.0, dmiddle[n0:n1], weight_o, 0.0, dheads[n0:n1])


@kernel
def back_to_input(tile, dqkv, weight, xhat, rstd, w, dmiddle, dx, sums):
    """From the gradient of c_attn's result to that of the block's input."""
    N, C = dmiddle.shape
    n0, n1 = span(tile, N)
    dnormed = np.empty((n1 - n0, C), dx.dtype)
    gemm(False, True, 1.0, dqkv[n0:n1], weight, 0.0, dnormed)
    gradient_rows(dnormed, xhat[n0:n1], rstd[n0:n1], w, dmiddle[n0:n1], dx[n0:n1], sums[tile])


@kernel
def head(task, qkv, B, H):
    """The place of a head in an array (N, C), and its q, k and v as slices of columns of qkv (N, 3 C)."""
    N, C = len(qkv), qkv.shape[1] // 3
    b, h, D, T = task // H, task % H, C // H, N // B
    own, columns = qkv[b * T : (b + 1) * T], slice(h * D, (h + 1) * D)
    return (
        slice(b * T, (b + 1) * T),
        columns,
        own[:, columns],
        own[:, C + h * D : C + (h + 1) * D],
        own[:, 2 * C + h * D : 2 * C + (h + 1) * D],
    )


@parallel
def block_forward(phase, task, x, B, H, scale, eps, tanh, parameters, saved, out):
    """A block in three phases; parameters and saved as parameters_of and new_saved give them."""
    w1, b1, weight_a, bias_a, weight_o, bias_o, w2, b2, weight_fc, bias_fc, weight_proj, bias_proj = (
        parameters
    )
    xhat1, rstd1, qkv, merged, top, total, xhat2, rstd2, slope, act = saved
    if phase == 0:
        before_attention(task, x, w1, b1, eps, weight_a, bias_a, xhat1, rstd1, qkv)
    elif phase == 1:
        n, c, q, k, v = head(task, qkv, B, H)
        attend_head(q, k, v, scale, merged[n, c], top[task], total[task])
    else:
        after_attention(
            task,
            x,
            merged,
            weight_o,
            bias_o,
            w2,
            b2,
            eps,
            weight_fc,
            bias_fc,
            weight_proj,
            bias_proj,
            tanh,
            xhat2,
            rstd2,
            slope,
            act,
            out,
        )


@kernel
def bias_gradient(task, d, dbias):
    """A tile of columns of dbias ← Σ rows of d, if the task is one of its tiles; returns the task's number
    among those of the next.
    """
    tiles = (d.shape[1] + 63) // 64
    if dbias is not None:
        if 0 <= task < tiles:
            tile_sums(task, d, False, dbias)
    return task - tiles


@kernel
def gradient(block, blocks, x, d, into):
    """A block of g ← xᵀ d (+ g) for into = (g, whether to add)."""
    g, add = into
    i0, i1, j0, j1 = borders(block, blocks[1], blocks[2], g)
    gemm(True, False, 1.0, x[:, i0:i1], d[:, j0:j1], 1.0 if add else 0.0, g[i0:i1, j0:j1])


@kernel
def scaled_gradient(block, blocks, x, d, w, b, dbias, into):
    """A block of g ← w xᵀ d + b dbias (+ g): the gradient of a matrix that reads x̂ w + b."""
    g, add = into
    i0, i1, j0, j1 = borders(block, blocks[1], blocks[2], g)
    part = np.empty((i1 - i0, j1 - j0), g.dtype)
    gemm(True, False, 1.0, x[:, i0:i1], d[:, j0:j1], 0.0, part)
    if not add:
        g[i0:i1, j0:j1] = 0
    for m in range(i1 - i0):
        for n in range(j1 - j0):
            if b is None:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n]
            else:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n] + b[i0 + m] * dbias[j0 + n]


@parallel
def block_backward(phase, task, dy, B, H, scale, parameters, saved, between, dx, sums, dbiases, blocks, into):
    """A block backwards in five phases: the rows, attention, the rows again, the biases' gradients, the
    matrices'.

    between: the gradients within the block. For each of MATRICES dbiases has its bias's gradient, blocks the
    task after its last, and the rows and columns that its own is divided into, into that gradient and whether
    to add to it.
    """
    w1, b1, weight_a, _, weight_o, _, w2, b2, weight_fc, _, weight_proj, _ = parameters
    xhat1, rstd1, qkv, merged, top, total, xhat2, rstd2, slope, act = saved
    dh, dmiddle, dmerged, dqkv = between
    dbias_proj, dbias_fc, dbias_o, dbias_a = dbiases
    if phase == 0:
        back_to_attention(
            task, dy, weight_proj, slope, weight_fc, xhat2, rstd2, w2, weight_o, dh, dmiddle, dmerged, sums[1]
        )
    elif phase == 1:
        n, c, q, k, v = head(task, qkv, B, H)
        _, _, dq, dk, dv = head(task, dqkv, B, H)
        attend_head_gradients(dmerged[n, c], q, k, v, top[task], total[task], scale, dq, dk, dv)
    elif phase == 2:
        back_to_input(task, dqkv, weight_a, xhat1, rstd1, w1, dmiddle, dx, sums[0])
    elif phase == 3:
        task = bias_gradient(task, dy, dbias_proj)
        task = bias_gradient(task, dh, dbias_fc)
        task = bias_gradient(task, dmiddle, dbias_o)
        bias_gradient(task, dqkv, dbias_a)
    else:
        end_proj, end_fc, end_o = blocks[0][0], blocks[1][0], blocks[2][0]
        if task < end_proj:
            gradient(task, blocks[0], act, dy, into[0])
        elif task < end_fc:
            scaled_gradient(task - end_proj, blocks[1], xhat2, dh, w2, b2, dbias_fc, into[1])
        elif task < end_o:
            gradient(task - end_fc, blocks[2], merged, dmiddle, into[2])
        else:
            scaled_gradient(task - end_o, blocks[3], xhat1, dqkv, w1, b1, dbias_a, into[3])


def suits(r, x):
    """Whether the twin is made for this block and input: many rows, or few that are decoded with a cache."""
    if r.cache is not None:
        return decoding().suits(r, x)
    return r.config.activation in ACTIVATIONS and x.ndim > 1 and x[..., 0].size >= TILES * SMALLEST


@functools.cache
def decoding():
    """Imported when first needed: who trains only does not wait for it."""
    from . import decoding_numba

    return decoding_numba


MATRICES = (
    "mlp.c_proj",
    "mlp.c_fc",
    "attn.c_proj",
    "attn.c_attn",
)  # in the order in which their gradients are done


def new_saved(B, T, C, F, H, dtype):
    """Arrays for x̂ and r of ln_1, q k v, what attention returns, its maxima and sums, x̂ and r of ln_2, the
    activation's slope and value.
    """
    N = B * T
    return tuple(
        np.empty(s, dtype)
        for s in ((N, C), N, (N, 3 * C), (N, C), (B * H, T), (B * H, T), (N, C), N, (N, F), (N, F))
    )


def pre_norm_block_forward(r, x):
    """Twin of transformer.pre_norm_block_forward; returns (y, saved)."""
    if r.cache is not None:
        return decoding().cached_block(r, x), None
    config, xs = r.config, rows(x)
    (N, C), T, H = xs.shape, x.shape[-2], config.n_head
    B, scale, tanh = N // T, 1 / math.sqrt(C // H), True if config.activation == "gelu_tanh" else None
    saved, out = new_saved(B, T, C, config.ffn_width, H, x.dtype), np.empty_like(xs)
    launch(
        block_forward,
        (TILES, B * H, TILES),
        xs,
        B,
        H,
        scale,
        config.layer_norm_epsilon,
        tanh,
        parameters_of(r),
        saved,
        out,
    )
    return out.reshape(x.shape), (B, H, scale, saved)


def pre_norm_block_backward(r, dy, saved):
    """Twin of transformer.pre_norm_block_backward."""
    (B, H, scale, arrays), dys = saved, rows(dy)
    (N, C), F = dys.shape, r.config.ffn_width
    between, dx = tuple(np.empty((N, width), dy.dtype) for width in (F, C, C, 3 * C)), np.empty_like(dys)
    sums, widths = np.zeros((2, TILES, 2, C)), (C, F, C, 3 * C) if r.config.bias else ()
    dbiases = tuple(np.empty(width, dy.dtype) for width in widths) or (None,) * len(MATRICES)
    with contextlib.ExitStack() as stack:
        into = tuple(stack.enter_context(r.place(f"{name}.weight")) for name in MATRICES)
        grids = [grid(*g.shape) for g, _ in into]
        ends = itertools.accumulate(i * j for i, j in grids)
        blocks = tuple((end, *g) for end, g in zip(ends, grids))
        phases = TILES, B * H, TILES, sum(-(-width // 64) for width in widths), blocks[-1][0]
        launch(
            block_backward,
            phases,
            dys,
            B,
            H,
            scale,
            parameters_of(r),
            arrays,
            between,
            dx,
            sums,
            dbiases,
            blocks,
            into,
        )
    for name, dbias in zip(MATRICES, dbiases):
        if dbias is not None:
            r.put(f"{name}.bias", dbias)
    for name, (dweight, dbias) in zip(("ln_1", "ln_2"), sums.sum(1)):
        r.put(f"{name}.weight", dweight)
        if r.config.bias:
            r.put(f"{name}.bias", dbias)
    return dx.reshape(dy.shape)
