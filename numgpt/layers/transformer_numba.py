"""Twin of the pre-norm block: its ops run tile by tile of rows, and each reads from cache what one wrote.

Used where nothing inside the block is kept, edited or dropped. It saves less than the ops do: of a norm only
x̂, from which the gradient of the matrix that reads the norm follows too, and the activation's slope in the
place of its input.
"""

import contextlib
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..engine.blas import gemm
from ..engine.jit import kernel, launch, parallel
from ..ops.attention_numba import attend_head, attend_head_gradients
from ..ops.linear_numba import borders, grid, rows, set_rows, tile_sums
from ..ops.norms_numba import gradient_rows, normalise_rows
from .block_numba import KNOWN, Parameters, activate, parameters_of, tanh_flag
from .known import beyond

TILES = 8  # of rows, whatever the number of threads
SMALLEST = 64  # rows of a tile below which the ops' own division of the work is better

# The phases of a launch, forwards and backwards: each begins when all tasks of the one before are done. A
# task is a tile of rows or a head; in the last two phases it is a part of a parameter's gradient.
BEFORE_ATTENTION, ATTENTION, AFTER_ATTENTION = range(3)
BACK_TO_ATTENTION, BACK_THROUGH_ATTENTION, BACK_TO_INPUT, BIASES, MATRICES = range(5)

# The matrices in the order in which their gradients are computed.
MATRIX_NAMES = ("mlp.c_proj", "mlp.c_fc", "attn.c_proj", "attn.c_attn")


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
    slope: Any  # the activation's slope, and its value
    act: Any


class Between(NamedTuple):
    """The gradients within the block."""

    dh: Any  # of what the activation reads
    dmiddle: Any  # of the residual stream between attention and feed-forward
    dheads: Any
    dqkv: Any


class Gradient(NamedTuple):
    """Where the gradients of a linear map go, and how the matrix's is divided into tasks."""

    end: Any  # the task after its last
    rows: Any  # of blocks, and columns of blocks: a block is a task
    columns: Any
    weight: Any
    add: Any  # whether to add to what weight holds
    bias: Any  # None where there is none


@kernel
def multiply_by(y, x):
    """y *= x."""
    for i in range(len(y)):
        y[i] *= x[i]


@kernel
def span(tile, N):
    """The rows of a tile."""
    return tile * N // TILES, (tile + 1) * N // TILES


# Where an argument is None Numba leaves its branch out; it does not where a field is. So each bias is handed
# on as an argument of its own, and what a model does not need is never compiled.


@kernel
def multiply_rows(x, weight, bias, y):
    """y = x weight + bias, bias None is none."""
    if bias is None:
        gemm(False, False, 1.0, x, weight, 0.0, y)
    else:
        set_rows(bias, 0, y, 0, len(y), len(bias))
        gemm(False, False, 1.0, x, weight, 1.0, y)


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
def add_bias(y, bias):
    """y += bias, bias None is none."""
    if bias is not None:
        sum_with_bias(y, bias, y)


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
    """A block: the rows, attention, the rows again. Its phases stand in one kernel: see Parameters."""
    p, s = Parameters(*parameters), Saved(*saved)
    if phase == ATTENTION:
        n, c, q, k, v = head(task, s.qkv, B, H)
        attend_head(q, k, v, scale, None, None, s.heads[n, c], s.top[task], s.total[task])
        return
    N, C = x.shape
    n0, n1 = span(task, N)
    normed = np.empty((n1 - n0, C), x.dtype)
    if phase == BEFORE_ATTENTION:  # ln_1 and c_attn
        normalise_rows(x[n0:n1], p.ln_1_weight, p.ln_1_bias, eps, normed, s.xhat_1[n0:n1], s.rstd_1[n0:n1])
        multiply_rows(normed, p.attn_c_attn_weight, p.attn_c_attn_bias, s.qkv[n0:n1])
    else:  # c_proj, the residual, ln_2, c_fc, the activation, c_proj and the residual
        stream, inner, act = out[n0:n1], s.slope[n0:n1], s.act[n0:n1]
        sum_with_bias(x[n0:n1], p.attn_c_proj_bias, stream)
        gemm(False, False, 1.0, s.heads[n0:n1], p.attn_c_proj_weight, 1.0, stream)
        normalise_rows(stream, p.ln_2_weight, p.ln_2_bias, eps, normed, s.xhat_2[n0:n1], s.rstd_2[n0:n1])
        multiply_rows(normed, p.mlp_c_fc_weight, p.mlp_c_fc_bias, inner)
        activate(tanh, inner, act)
        add_bias(stream, p.mlp_c_proj_bias)
        gemm(False, False, 1.0, act, p.mlp_c_proj_weight, 1.0, stream)


@kernel
def bias_gradient(task, d, dbias):
    """A tile of columns of dbias ← Σ rows of d, if the task is one of its tiles.

    Returns the task's number among the tiles of the next bias.
    """
    tiles = (d.shape[1] + 63) // 64
    if dbias is not None and 0 <= task < tiles:
        tile_sums(task, d, False, dbias)
    return task - tiles


@kernel
def matrix_gradient(block, into, x, d):
    """A block of g ← xᵀ d (+ g) for g = into.weight."""
    g = into.weight
    i0, i1, j0, j1 = borders(block, into.rows, into.columns, g)
    gemm(True, False, 1.0, x[:, i0:i1], d[:, j0:j1], 1.0 if into.add else 0.0, g[i0:i1, j0:j1])


@kernel
def scaled_matrix_gradient(block, into, xhat, d, w, b):
    """A block of g ← w x̂ᵀ d + b dbias (+ g) for g = into.weight, of a matrix that reads x̂ w + b."""
    g, dbias = into.weight, into.bias
    i0, i1, j0, j1 = borders(block, into.rows, into.columns, g)
    part = np.empty((i1 - i0, j1 - j0), g.dtype)
    gemm(True, False, 1.0, xhat[:, i0:i1], d[:, j0:j1], 0.0, part)
    if not into.add:
        g[i0:i1, j0:j1] = 0
    for m in range(i1 - i0):
        for n in range(j1 - j0):
            if b is None:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n]
            else:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n] + b[i0 + m] * dbias[j0 + n]


@parallel
def block_backward(phase, task, dy, B, H, scale, parameters, saved, between, dx, sums, gradients):
    """A block backwards: the rows, attention, the rows again, the gradients of biases and of matrices.

    gradients: for each of MATRIX_NAMES a Gradient. sums (2, TILES, 2, C): of ln_1 and ln_2, for each tile,
    Σ dy x̂ and Σ dy.
    """
    p, s, d = Parameters(*parameters), Saved(*saved), Between(*between)
    proj, fc = Gradient(*gradients[0]), Gradient(*gradients[1])
    out, qkv = Gradient(*gradients[2]), Gradient(*gradients[3])
    if phase == BACK_THROUGH_ATTENTION:
        n, c, q, k, v = head(task, s.qkv, B, H)
        _, _, dq, dk, dv = head(task, d.dqkv, B, H)
        attend_head_gradients(
            d.dheads[n, c], q, k, v, s.top[task], s.total[task], scale, None, None, False, dq, dk, dv
        )
    elif phase == BACK_TO_ATTENTION or phase == BACK_TO_INPUT:
        N, C = dy.shape
        n0, n1 = span(task, N)
        dnormed, dmiddle = np.empty((n1 - n0, C), dy.dtype), d.dmiddle[n0:n1]
        if phase == BACK_TO_ATTENTION:  # through the feed-forward, ln_2 and attention's c_proj
            dh, hat, rstd = d.dh[n0:n1], s.xhat_2[n0:n1], s.rstd_2[n0:n1]
            gemm(False, True, 1.0, dy[n0:n1], p.mlp_c_proj_weight, 0.0, dh)
            multiply_by(dh.reshape(-1), s.slope[n0:n1].reshape(-1))
            gemm(False, True, 1.0, dh, p.mlp_c_fc_weight, 0.0, dnormed)
            gradient_rows(dnormed, hat, rstd, p.ln_2_weight, dy[n0:n1], dmiddle, sums[1, task])
            gemm(False, True, 1.0, dmiddle, p.attn_c_proj_weight, 0.0, d.dheads[n0:n1])
        else:  # through c_attn and ln_1
            gemm(False, True, 1.0, d.dqkv[n0:n1], p.attn_c_attn_weight, 0.0, dnormed)
            hat, rstd = s.xhat_1[n0:n1], s.rstd_1[n0:n1]
            gradient_rows(dnormed, hat, rstd, p.ln_1_weight, dmiddle, dx[n0:n1], sums[0, task])
    elif phase == BIASES:
        task = bias_gradient(task, dy, proj.bias)
        task = bias_gradient(task, d.dh, fc.bias)
        task = bias_gradient(task, d.dmiddle, out.bias)
        bias_gradient(task, d.dqkv, qkv.bias)
    elif task < proj.end:
        matrix_gradient(task, proj, s.act, dy)
    elif task < fc.end:
        scaled_matrix_gradient(task - proj.end, fc, s.xhat_2, d.dh, p.ln_2_weight, p.ln_2_bias)
    elif task < out.end:
        matrix_gradient(task - fc.end, out, s.heads, d.dmiddle)
    else:
        scaled_matrix_gradient(task - out.end, qkv, s.xhat_1, d.dqkv, p.ln_1_weight, p.ln_1_bias)


def suits(r, x):
    """Whether the twin is made for this block and input: many rows, or few that are decoded with a cache."""
    if r.cache is not None:
        return decoding().suits(r, x)
    return x.ndim > 1 and x[..., 0].size >= TILES * SMALLEST and beyond(r.config, KNOWN) is None


@functools.cache
def decoding():
    """The twin for decoding, imported when first needed: a run that only trains does not wait for it."""
    from . import decoding_numba

    return decoding_numba


def new_saved(B, T, C, F, H, dtype):
    """Arrays for what the forward saves."""
    N = B * T
    shapes = ((N, C), N, (N, 3 * C), (N, C), (B * H, T), (B * H, T), (N, C), N, (N, F), (N, F))
    return Saved(*(np.empty(shape, dtype) for shape in shapes))


def pre_norm_block_forward(r, x):
    """Twin of transformer.pre_norm_block_forward; returns (y, saved)."""
    if r.cache is not None:
        return decoding().cached_block(r, x), None
    config, xs = r.config, rows(x)
    (N, C), T, H = xs.shape, x.shape[-2], config.n_head
    B, scale = N // T, 1 / math.sqrt(C // H)
    saved, out = new_saved(B, T, C, config.ffn_width, H, x.dtype), np.empty_like(xs)
    settings = B, H, scale, config.layer_norm_epsilon, tanh_flag(config)
    launch(block_forward, (TILES, B * H, TILES), xs, *settings, parameters_of(r), tuple(saved), out)
    return out.reshape(x.shape), (B, H, scale, saved)


def pre_norm_block_backward(r, dy, saved):
    """Twin of transformer.pre_norm_block_backward."""
    (B, H, scale, arrays), dys = saved, rows(dy)
    (N, C), F = dys.shape, r.config.ffn_width
    between = tuple(np.empty((N, width), dy.dtype) for width in (F, C, C, 3 * C))
    dx, sums = np.empty_like(dys), np.zeros((2, TILES, 2, C))
    with contextlib.ExitStack() as places:
        gradients = tuple(gradients_of(r, dy.dtype, places))
        bias_tiles = sum(-(-len(g.bias) // 64) for g in gradients if g.bias is not None)
        launch(
            block_backward,
            (TILES, B * H, TILES, bias_tiles, gradients[-1].end),
            *(dys, B, H, scale, parameters_of(r), tuple(arrays)),
            *(between, dx, sums, tuple(map(tuple, gradients))),
        )
    for name, gradient in zip(MATRIX_NAMES, gradients):
        if gradient.bias is not None:
            r.put(f"{name}.bias", gradient.bias)
    for name, (dweight, dbias) in zip(("ln_1", "ln_2"), sums.sum(1)):
        r.put(f"{name}.weight", dweight)
        if r.config.bias:
            r.put(f"{name}.bias", dbias)
    return dx.reshape(dy.shape)


def gradients_of(r, dtype, places):
    """A Gradient for each of MATRIX_NAMES; places holds the matrices' places open until they are filled."""
    end = 0
    for name in MATRIX_NAMES:
        weight, add = places.enter_context(r.place(f"{name}.weight"))
        rows, columns = grid(*weight.shape)
        end += rows * columns
        bias = np.empty(weight.shape[1], dtype) if r.config.bias else None
        yield Gradient(end, rows, columns, weight, add, bias)
