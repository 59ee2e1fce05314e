"""Twin of the pre-norm block: its ops run tile by tile of rows, so that what one writes the next finds in the cache.

Used where nothing inside the block is kept, edited or dropped. It saves less than the ops do: the results of the norms and of
the activation are made again in the backward.
"""

import math

import numpy as np

from .blas import gemm
from .jit import kernel, launch, parallel
from .ops.activations_numba import INV_SQRT_2PI, SQRT_2_OVER_PI, gelu_chunk, gelu_tanh_chunk
from .ops.attention import one_head_each, split_heads
from .ops.attention_numba import attend_into, attend_back_into
from .ops.elementary_numba import exp, half_erfc
from .ops.linear_numba import copy, grid, multiply, rows, sum_rows
from .ops.norms_numba import gradient_row, normalise_row, row_products

TILES = 8  # of rows, whatever the number of threads
SMALLEST = 64  # rows of a tile below which the ops' own division of the work is better


@kernel
def add(x, y):
    """y += x."""
    for i in range(len(x)):
        y[i] += x[i]


@kernel
def gelu_both(h, d, act):
    """act = x Φ(x) and d ← d (Φ(x) + x φ(x)) of a row x = h."""
    one, half, scale = h.dtype.type(1), h.dtype.type(0.5), h.dtype.type(INV_SQRT_2PI)
    for i in range(len(h)):
        v = h[i]
        a = abs(v)
        gauss = exp(-half * a * a)
        tail = half_erfc(a, gauss)
        cdf = tail if v < 0 else one - tail
        act[i] = v * cdf
        d[i] = d[i] * (cdf + v * gauss * scale)


@kernel
def gelu_tanh_both(h, d, act):
    """act = x σ(2u) and d ← d (σ + x 2σ(1 − σ) du/dx) of a row x = h."""
    one, a, b = h.dtype.type(1), h.dtype.type(-2 * SQRT_2_OVER_PI), h.dtype.type(0.044715)
    c, e = h.dtype.type(2 * SQRT_2_OVER_PI), h.dtype.type(3 * 0.044715)
    for i in range(len(h)):
        v = h[i]
        s = one / (one + exp(a * (v + b * v * v * v)))
        act[i] = v * s
        d[i] = d[i] * (s + v * s * (one - s) * c * (one + e * v * v))


@kernel
def span(tile, N):
    """The rows of a tile."""
    return tile * N // TILES, (tile + 1) * N // TILES


@parallel
def before_attention(tile, x, w, b, eps, weight, bias, xhat, rstd, qkv):
    """ln_1 and c_attn."""
    N, C = x.shape
    n0, n1 = span(tile, N)
    normed = np.empty((n1 - n0, C), x.dtype)
    for n in range(n0, n1):
        rstd[n] = normalise_row(x[n], w, b, eps, normed[n - n0], xhat[n])
        if len(bias):
            copy(bias, qkv[n])
    gemm(False, False, 1.0, normed, weight, 1.0 if len(bias) else 0.0, qkv[n0:n1])


@parallel
def after_attention(tile, x, y, weight_o, bias_o, w, b, eps, weight_fc, bias_fc, weight_proj, bias_proj, tanh, xhat, rstd, h, out):
    """c_proj, the residual, ln_2, c_fc, the activation, c_proj and the residual."""
    N, C = x.shape
    F = h.shape[1]
    n0, n1 = span(tile, N)
    normed, act = np.empty((n1 - n0, C), x.dtype), np.empty((n1 - n0, F), x.dtype)
    for n in range(n0, n1):
        copy(x[n], out[n])
        if len(bias_o):
            add(bias_o, out[n])
    gemm(False, False, 1.0, y[n0:n1], weight_o, 1.0, out[n0:n1])
    for n in range(n0, n1):
        rstd[n] = normalise_row(out[n], w, b, eps, normed[n - n0], xhat[n])
        if len(bias_fc):
            copy(bias_fc, h[n])
    gemm(False, False, 1.0, normed, weight_fc, 1.0 if len(bias_fc) else 0.0, h[n0:n1])
    for n in range(n0, n1):
        if tanh:
            gelu_tanh_chunk(h[n], act[n - n0])
        else:
            gelu_chunk(h[n], act[n - n0])
        if len(bias_proj):
            add(bias_proj, out[n])
    gemm(False, False, 1.0, act, weight_proj, 1.0, out[n0:n1])


@kernel
def norm_back(d, xhat, rstd, w, base, dx, sums):
    """dx = base + the norm's gradient for d, row by row; sums (2, C) collects those of its weight and bias."""
    N, C = d.shape
    for n in range(N):
        a, b = row_products(d[n], w, xhat[n])
        gradient_row(d[n], xhat[n], w, rstd[n], d.dtype.type(a / C), d.dtype.type(b / C), dx[n], sums[0], sums[1])
        add(base[n], dx[n])


@parallel
def back_to_attention(tile, dy, weight_proj, h, tanh, weight_fc, xhat, rstd, w, weight_o, act, dh, dmiddle, dheads, sums):
    """From the block's gradient to that of attention's result; dmiddle is the residual stream's between the two parts."""
    N, C = dy.shape
    n0, n1 = span(tile, N)
    dnormed = np.empty((n1 - n0, C), dy.dtype)
    gemm(False, True, 1.0, dy[n0:n1], weight_proj, 0.0, dh[n0:n1])
    for n in range(n0, n1):
        if tanh:
            gelu_tanh_both(h[n], dh[n], act[n])
        else:
            gelu_both(h[n], dh[n], act[n])
    gemm(False, True, 1.0, dh[n0:n1], weight_fc, 0.0, dnormed)
    norm_back(dnormed, xhat[n0:n1], rstd[n0:n1], w, dy[n0:n1], dmiddle[n0:n1], sums[tile])
    gemm(False, True, 1.0, dmiddle[n0:n1], weight_o, 0.0, dheads[n0:n1])


@parallel
def back_to_input(tile, dqkv, weight, xhat, rstd, w, dmiddle, dx, sums):
    """From the gradient of c_attn's result to that of the block's input."""
    N, C = dmiddle.shape
    n0, n1 = span(tile, N)
    dnormed = np.empty((n1 - n0, C), dx.dtype)
    gemm(False, True, 1.0, dqkv[n0:n1], weight, 0.0, dnormed)
    norm_back(dnormed, xhat[n0:n1], rstd[n0:n1], w, dmiddle[n0:n1], dx[n0:n1], sums[tile])


@kernel
def scale_rows(part, w, b, dbias, add_to_it, out):
    """out ← w part + b dbias (+ out), w and b by row: the gradient of a matrix that reads x̂ w + b, from part = x̂ᵀ dy."""
    for i in range(len(part)):
        row, target, factor = part[i], out[i], w[i]
        if not add_to_it:
            target[:] = 0
        for j in range(len(row)):
            target[j] += factor * row[j]
        if len(b):
            for j in range(len(row)):
                target[j] += b[i] * dbias[j]


@parallel
def scaled_gradient(block, rows, columns, x, d, w, b, dbias, g, add_to_it):
    """A block of g ← w xᵀ d + b dbias (+ g), which is divided into rows × columns of them."""
    M, N = g.shape
    i, j = block // columns, block % columns
    i0, i1, j0, j1 = i * M // rows, (i + 1) * M // rows, j * N // columns, (j + 1) * N // columns
    part = np.empty((i1 - i0, j1 - j0), g.dtype)
    gemm(True, False, 1.0, x[:, i0:i1], d[:, j0:j1], 0.0, part)
    scale_rows(part, w[i0:i1], b[i0:i1] if len(b) else b, dbias[j0:j1] if len(b) else dbias, add_to_it, g[i0:i1, j0:j1])


def suits(r, x):
    """Whether the twin is made for this block and input."""
    return x[..., 0].size >= TILES * SMALLEST and r.config.activation in ("gelu", "gelu_tanh") and x.ndim >= 2


def pre_norm_block_forward(r, x):
    """Twin of transformer.pre_norm_block_forward; returns (y, saved)."""
    config, none = r.config, np.empty(0, x.dtype)
    p, bias = r.parameter, lambda name: r.parameter(name) if config.bias else none
    xs, F = rows(x), config.ffn_width
    N, C = xs.shape
    tanh = config.activation == "gelu_tanh"
    xhat1, rstd1, qkv = np.empty_like(xs), np.empty(N, x.dtype), np.empty((*x.shape[:-1], 3 * C), x.dtype)
    launch(
        before_attention, TILES, xs, p("ln_1.weight"), bias("ln_1.bias"), config.layer_norm_epsilon, p("attn.c_attn.weight"), bias("attn.c_attn.bias"),
        xhat1, rstd1, rows(qkv),
    )
    q, k, v = split_heads(qkv, config.n_head)
    scale, merged = 1 / math.sqrt(C // config.n_head), np.empty_like(xs)
    y = one_head_each(merged.reshape(x.shape), config.n_head)
    top, total = attend_into(q, k, v, scale, y)
    xhat2, rstd2, h, out = np.empty_like(xs), np.empty(N, x.dtype), np.empty((N, F), x.dtype), np.empty_like(xs)
    launch(
        after_attention, TILES, xs, merged, p("attn.c_proj.weight"), bias("attn.c_proj.bias"), p("ln_2.weight"), bias("ln_2.bias"), config.layer_norm_epsilon,
        p("mlp.c_fc.weight"), bias("mlp.c_fc.bias"), p("mlp.c_proj.weight"), bias("mlp.c_proj.bias"), tanh, xhat2, rstd2, h, out,
    )
    return out.reshape(x.shape), (xhat1, rstd1, q, k, v, y, top, total, scale, merged, xhat2, rstd2, h, tanh)


def pre_norm_block_backward(r, dy, saved):
    """Twin of transformer.pre_norm_block_backward."""
    xhat1, rstd1, q, k, v, y, top, total, scale, merged, xhat2, rstd2, h, tanh = saved
    config, none = r.config, np.empty(0, dy.dtype)
    p, bias = r.parameter, lambda name: r.parameter(name) if config.bias else none
    dys = rows(dy)
    N, C = dys.shape
    sums = np.zeros((2, TILES, 2, C))
    act, dh, dmiddle, dheads, dx = np.empty_like(h), np.empty_like(h), np.empty_like(dys), np.empty(dy.shape, dy.dtype), np.empty_like(dys)
    launch(
        back_to_attention, TILES, dys, p("mlp.c_proj.weight"), h, tanh, p("mlp.c_fc.weight"), xhat2, rstd2, p("ln_2.weight"), p("attn.c_proj.weight"),
        act, dh, dmiddle, rows(dheads), sums[1],
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
    for i, name in enumerate(("ln_1", "ln_2")):
        dweight, dbias = sums[i].sum(0)
        r.put(f"{name}.weight", dweight)
        if config.bias:
            r.put(f"{name}.bias", dbias)
    for name, x, d in (("mlp.c_proj", act, dys), ("attn.c_proj", merged, dmiddle)):
        with r.place(f"{name}.weight") as into:
            multiply(True, False, x, d, into=into)
    for name, norm, x, d in (("mlp.c_fc", "ln_2", xhat2, dh), ("attn.c_attn", "ln_1", xhat1, dqkvs)):
        with r.place(f"{name}.weight") as (g, add_to_it):
            i, j = grid(*g.shape)
            launch(scaled_gradient, i * j, i, j, x, d, p(f"{norm}.weight"), bias(f"{norm}.bias"), biases.get(name, none), g, add_to_it)
    return dx.reshape(dy.shape)
