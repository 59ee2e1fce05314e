"""Twin of the pre-norm block: its ops run tile by tile of rows, so that what one writes the next finds in the cache.

Used where nothing inside the block is kept, edited or dropped. It saves less than the ops do: of a norm only x̂, from which the
gradient of the matrix that reads the norm follows too, and the activation's slope in the place of its input.
"""

import functools
import math

import numpy as np

from .blas import gemm
from .jit import kernel, launch, parallel
from .ops.activations_numba import INV_SQRT_2PI, SQRT_2_OVER_PI
from .ops.attention import one_head_each, split_heads
from .ops.attention_numba import attend_back_into, attend_into
from .ops.elementary_numba import exp, half_erfc
from .ops.linear_numba import grid, multiply, rows, set_rows, sum_rows
from .ops.norms_numba import gradient_rows, normalise_rows

ACTIVATIONS = ("gelu", "gelu_tanh")

TILES = 8  # of rows, whatever the number of threads
SMALLEST = 64  # rows of a tile below which the ops' own division of the work is better


@kernel
def gelu_and_slope(h, act):
    """act = x Φ(x) and h ← Φ(x) + x φ(x), the slope, for x = h, all flat."""
    one, half, scale = h.dtype.type(1), h.dtype.type(0.5), h.dtype.type(INV_SQRT_2PI)
    for i in range(len(h)):
        v = h[i]
        a = abs(v)
        gauss = exp(-half * a * a)
        tail = half_erfc(a, gauss)
        cdf = tail if v < 0 else one - tail
        act[i] = v * cdf
        h[i] = cdf + v * gauss * scale


@kernel
def gelu_tanh_and_slope(h, act):
    """act = x σ(2u) and h ← σ + x 2σ(1 − σ) du/dx, the slope, for x = h, all flat."""
    one, a, b = h.dtype.type(1), h.dtype.type(-2 * SQRT_2_OVER_PI), h.dtype.type(0.044715)
    c, e = h.dtype.type(2 * SQRT_2_OVER_PI), h.dtype.type(3 * 0.044715)
    for i in range(len(h)):
        v = h[i]
        s = one / (one + exp(a * (v + b * v * v * v)))
        act[i] = v * s
        h[i] = s + v * s * (one - s) * c * (one + e * v * v)


@kernel
def multiply_by(y, x):
    """y *= x."""
    for i in range(len(y)):
        y[i] *= x[i]


@kernel
def span(tile, N):
    """The rows of a tile."""
    return tile * N // TILES, (tile + 1) * N // TILES


# Where there is no bias it is None, and tanh is None for GELU's erf form: the compiler then leaves out what is not needed.


@parallel
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


@parallel
def after_attention(tile, x, y, weight_o, bias_o, w, b, eps, weight_fc, bias_fc, weight_proj, bias_proj, tanh, xhat, rstd, slope, act, out):
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


@parallel
def back_to_attention(tile, dy, weight_proj, slope, weight_fc, xhat, rstd, w, weight_o, dh, dmiddle, dheads, sums):
    """From the block's gradient to that of attention's result; dmiddle is the residual stream's between the two parts."""
    N, C = dy.shape
    n0, n1 = span(tile, N)
    dnormed, d = np.empty((n1 - n0, C), dy.dtype), dh[n0:n1]
    gemm(False, True, 1.0, dy[n0:n1], weight_proj, 0.0, d)
    multiply_by(d.reshape(-1), slope[n0:n1].reshape(-1))
    gemm(False, True, 1.0, d, weight_fc, 0.0, dnormed)
    gradient_rows(dnormed, xhat[n0:n1], rstd[n0:n1], w, dy[n0:n1], dmiddle[n0:n1], sums[tile])
    gemm(False, True, 1.0, dmiddle[n0:n1], weight_o, 0.0, dheads[n0:n1])


@parallel
def back_to_input(tile, dqkv, weight, xhat, rstd, w, dmiddle, dx, sums):
    """From the gradient of c_attn's result to that of the block's input."""
    N, C = dmiddle.shape
    n0, n1 = span(tile, N)
    dnormed = np.empty((n1 - n0, C), dx.dtype)
    gemm(False, True, 1.0, dqkv[n0:n1], weight, 0.0, dnormed)
    gradient_rows(dnormed, xhat[n0:n1], rstd[n0:n1], w, dmiddle[n0:n1], dx[n0:n1], sums[tile])


@parallel
def scaled_gradient(block, rows, columns, x, d, w, b, dbias, g, add_to_it):
    """A block of g ← w xᵀ d + b dbias (+ g), which is divided into rows × columns: the gradient of a matrix that reads x̂ w + b."""
    M, N = g.shape
    i, j = block // columns, block % columns
    i0, i1, j0, j1 = i * M // rows, (i + 1) * M // rows, j * N // columns, (j + 1) * N // columns
    part = np.empty((i1 - i0, j1 - j0), g.dtype)
    gemm(True, False, 1.0, x[:, i0:i1], d[:, j0:j1], 0.0, part)
    if not add_to_it:
        g[i0:i1, j0:j1] = 0
    for m in range(i1 - i0):
        for n in range(j1 - j0):
            if b is None:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n]
            else:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n] + b[i0 + m] * dbias[j0 + n]


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


def pre_norm_block_forward(r, x):
    """Twin of transformer.pre_norm_block_forward; returns (y, saved)."""
    if r.cache is not None:
        return decoding().cached_block(r, x), None
    config, p, bias = r.config, r.parameter, lambda name: r.parameter(name) if r.config.bias else None
    xs, F = rows(x), config.ffn_width
    N, C = xs.shape
    tanh = True if config.activation == "gelu_tanh" else None
    xhat1, rstd1, qkv = np.empty_like(xs), np.empty(N, x.dtype), np.empty((*x.shape[:-1], 3 * C), x.dtype)
    launch(
        before_attention, TILES, xs, p("ln_1.weight"), bias("ln_1.bias"), config.layer_norm_epsilon, p("attn.c_attn.weight"), bias("attn.c_attn.bias"),
        xhat1, rstd1, rows(qkv),
    )
    q, k, v = split_heads(qkv, config.n_head)
    scale, merged = 1 / math.sqrt(C // config.n_head), np.empty_like(xs)
    y = one_head_each(merged.reshape(x.shape), config.n_head)
    top, total = attend_into(q, k, v, scale, y)
    xhat2, rstd2, slope, act, out = np.empty_like(xs), np.empty(N, x.dtype), np.empty((N, F), x.dtype), np.empty((N, F), x.dtype), np.empty_like(xs)
    launch(
        after_attention, TILES, xs, merged, p("attn.c_proj.weight"), bias("attn.c_proj.bias"), p("ln_2.weight"), bias("ln_2.bias"), config.layer_norm_epsilon,
        p("mlp.c_fc.weight"), bias("mlp.c_fc.bias"), p("mlp.c_proj.weight"), bias("mlp.c_proj.bias"), tanh, xhat2, rstd2, slope, act, out,
    )
    return out.reshape(x.shape), (xhat1, rstd1, q, k, v, y, top, total, scale, merged, xhat2, rstd2, slope, act)


def pre_norm_block_backward(r, dy, saved):
    """Twin of transformer.pre_norm_block_backward."""
    xhat1, rstd1, q, k, v, y, top, total, scale, merged, xhat2, rstd2, slope, act = saved
    config, p, bias = r.config, r.parameter, lambda name: r.parameter(name) if r.config.bias else None
    dys = rows(dy)
    N, C = dys.shape
    sums = np.zeros((2, TILES, 2, C))
    dh, dmiddle, dheads, dx = np.empty_like(act), np.empty_like(dys), np.empty(dy.shape, dy.dtype), np.empty_like(dys)
    launch(
        back_to_attention, TILES, dys, p("mlp.c_proj.weight"), slope, p("mlp.c_fc.weight"), xhat2, rstd2, p("ln_2.weight"), p("attn.c_proj.weight"),
        dh, dmiddle, rows(dheads), sums[1],
    )
    dqkv = np.empty((*dy.shape[:-1], 3 * C), dy.dtype)
    attend_back_into(one_head_each(dheads, config.n_head), (q, k, v, y, top, total, scale), *split_heads(dqkv, config.n_head))
    dqkvs = rows(dqkv)
    launch(back_to_input, TILES, dqkvs, p("attn.c_attn.weight"), xhat1, rstd1, p("ln_1.weight"), dmiddle, dx, sums[0])

    biases = {}
    if config.bias:
        for name, d in (("mlp.c_proj", dys), ("mlp.c_fc", dh), ("attn.c_proj", dmiddle), ("attn.c_attn", dqkvs)):
            biases[name] = sum_rows(d)
            r.put(f"{name}.bias", biases[name])
    for name, (dweight, dbias) in zip(("ln_1", "ln_2"), sums.sum(1)):
        r.put(f"{name}.weight", dweight)
        if config.bias:
            r.put(f"{name}.bias", dbias)
    for name, x, d in (("mlp.c_proj", act, dys), ("attn.c_proj", merged, dmiddle)):
        with r.place(f"{name}.weight") as into:
            multiply(True, False, x, d, into=into)
    for name, norm, x, d in (("mlp.c_fc", "ln_2", xhat2, dh), ("attn.c_attn", "ln_1", xhat1, dqkvs)):
        with r.place(f"{name}.weight") as (g, add_to_it):
            i, j = grid(*g.shape)
            launch(scaled_gradient, i * j, i, j, x, d, p(f"{norm}.weight"), bias(f"{norm}.bias"), biases.get(name), g, add_to_it)
    return dx.reshape(dy.shape)
