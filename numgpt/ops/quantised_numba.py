"""Twins of the products with rounded weights.

Few rows are multiplied as few_quantised_rows_numba does. For many, a tile of the matrix becomes floats, which
a BLAS then multiplies while they are in cache: so a prompt costs little more than with a matrix of floats.
"""

import numpy as np

from ..engine.blas import gemm
from ..engine.jit import kernel, launch, parallel
from . import few_quantised_rows_numba as few
from . import quantised as specification
from .experts import result_type, rows_by_expert
from .few_quantised_rows_numba import MIDDLE
from .linear_numba import LOGITS, rows, sum_rows

OUTPUTS = 192  # of the result's columns, those of a task
INPUTS = 256  # of the columns of x that a task reads at once: so a tile of floats stays in cache
LOW, HALF = np.uint8(15), np.uint8(4)  # of a byte


@kernel
def fill_with_bytes(q, i0, i1, j0, j1, tile):
    """tile = q[i0:i1, j0:j1]."""
    for i in range(i1 - i0):
        row, to = q[i0 + i, j0:j1], tile[i]
        for j in range(j1 - j0):
            to[j] = row[j]


@kernel
def fill_with_nibbles(q, scale, zero, i0, i1, j0, j1, tile):
    """tile = W[i0:i1, j0:j1], the rows even; zero None is 8."""
    size = 2 * len(q) // len(scale)
    middle = tile.dtype.type(MIDDLE)
    for i in range(0, i1 - i0, 2):
        both, s = q[(i0 + i) // 2, j0:j1], scale[(i0 + i) // size, j0:j1]
        first, second = tile[i], tile[i + 1]
        for j in range(j1 - j0):
            z = middle if zero is None else zero[(i0 + i) // size, j0 + j]
            first[j] = s[j] * (np.float32(np.uint8(both[j] & LOW)) - z)
            second[j] = s[j] * (np.float32(np.uint8(both[j] >> HALF)) - z)


@kernel
def fill(q, scale, zero, i0, i1, j0, j1, tile):
    """tile = W[i0:i1, j0:j1] for a matrix of nibbles, or of bytes without their scale where scale is None."""
    if scale is None:
        fill_with_bytes(q, i0, i1, j0, j1, tile)
    else:
        fill_with_nibbles(q, scale, zero, i0, i1, j0, j1, tile)


@parallel
def columns_of_product(task, x, q, scale, zero, y):
    """y = x W for OUTPUTS columns of y."""
    j0, j1 = task * OUTPUTS, min(y.shape[1], (task + 1) * OUTPUTS)
    tile, K = np.empty((INPUTS, j1 - j0), x.dtype), x.shape[1]
    for i0 in range(0, K, INPUTS):
        i1 = min(K, i0 + INPUTS)
        fill(q, scale, zero, i0, i1, j0, j1, tile)
        gemm(False, False, 1.0, x[:, i0:i1], tile[: i1 - i0], 0.0 if i0 == 0 else 1.0, y[:, j0:j1])


@parallel
def columns_of_transposed_product(task, x, q, scale, zero, y):
    """y = x Wᵀ for OUTPUTS columns of y, which are rows of W."""
    i0, i1 = task * OUTPUTS, min(y.shape[1], (task + 1) * OUTPUTS)
    tile, K = np.empty((i1 - i0, INPUTS), x.dtype), x.shape[1]
    for j0 in range(0, K, INPUTS):
        j1 = min(K, j0 + INPUTS)
        fill(q, scale, zero, i0, i1, j0, j1, tile)
        gemm(False, True, 1.0, x[:, j0:j1], tile[:, : j1 - j0], 0.0 if j0 == 0 else 1.0, y[:, i0:i1])


def multiply(x, q, scale=None, zero=None, bias=None, transposed=False, into=None):
    """x W + bias, or x Wᵀ, for rows x (M, K), as a new array or in `into`.

    q int8 is W; with scale (N, O) it is the bytes of nibbles.
    """
    wide = q.shape[1]
    if transposed:
        wide = len(q) if scale is None else 2 * len(q)
    y = np.empty((len(x), wide), x.dtype) if into is None else into
    product = columns_of_transposed_product if transposed else columns_of_product
    launch(product, -(-wide // OUTPUTS), x, q, scale, zero, y)
    if bias is not None:
        y += bias
    return y


def quantised_linear_forward(x, weight_q, weight_scale, bias=None):
    """Twin of ops.quantised.quantised_linear_forward."""
    xs, weight_q = rows(x), np.ascontiguousarray(weight_q)
    if few.suits(len(xs), *weight_q.shape):
        y = few.multiply_few(xs, weight_q, weight_scale, None, bias)
    else:
        y = multiply(xs, weight_q)
        y *= weight_scale
        if bias is not None:
            y += bias
    return y.reshape(*x.shape[:-1], y.shape[-1]), (x, weight_q, weight_scale, bias is not None)


def quantised_linear_backward(dy, saved, wanted=(True, True, True)):
    """Twin of ops.quantised.quantised_linear_backward."""
    x, weight_q, weight_scale, has_bias = saved
    dys = rows(dy)
    dx = multiply(dys * weight_scale, weight_q, transposed=True).reshape(x.shape)
    dscale = _dscale(dys, multiply(rows(x), weight_q)) if wanted[1] else None
    return dx, None, dscale, sum_rows(dys) if has_bias and wanted[2] else None


def _dscale(dy, products):
    """Σ_n dy_no (x Q)_no."""
    products *= dy
    return sum_rows(products)


def quantised4_linear_forward(x, weight_q, weight_scale, weight_zero=None, bias=None):
    """Twin of ops.quantised.quantised4_linear_forward."""
    xs, weight_q = rows(x), np.ascontiguousarray(weight_q)
    if few.suits_nibbles(*xs.shape, weight_q.shape[1], len(weight_scale)):
        y = few.multiply_few(xs, weight_q, weight_scale, weight_zero, bias)
    else:
        y = multiply(xs, weight_q, weight_scale, weight_zero, bias)
    saved = x, weight_q, weight_scale, weight_zero, bias is not None
    return y.reshape(*x.shape[:-1], y.shape[-1]), saved


def quantised4_linear_backward(dy, saved, wanted=(True, True, True, True)):
    """Twin of ops.quantised.quantised4_linear_backward; scales and zeros are tuned by the specification."""
    x, weight_q, weight_scale, weight_zero, has_bias = saved
    dys = rows(dy)
    dx = multiply(dys, weight_q, weight_scale, weight_zero, transposed=True).reshape(x.shape)
    dscale = dzero = None
    if wanted[1] or (wanted[2] and weight_zero is not None):
        _, _, dscale, dzero, _ = specification.quantised4_linear_backward(dy, saved, (*wanted[:3], False))
    return dx, None, dscale, dzero, sum_rows(dys) if has_bias and wanted[3] else None


def quantised_unembedding_forward(x, weight_q, weight_scale):
    """Twin of ops.quantised.quantised_unembedding_forward."""
    xs, weight_q = rows(x), np.ascontiguousarray(weight_q)
    if few.suits_logits(len(xs), weight_q.shape[1], len(weight_q)):
        y = few.logits_of_few(xs, weight_q, weight_scale)
    else:
        y = LOGITS.empty((len(xs), len(weight_q)), x.dtype)
        multiply(xs, weight_q, transposed=True, into=y)
        y *= weight_scale
    return y.reshape(*x.shape[:-1], len(weight_q)), (x, weight_q, weight_scale)


def quantised_unembedding_backward(dy, saved, wanted=(True, True)):
    """Twin of ops.quantised.quantised_unembedding_backward."""
    x, weight_q, weight_scale = saved
    dys = rows(dy)
    dx = multiply(dys * weight_scale, weight_q).reshape(x.shape)
    dscale = _dscale(dys, multiply(rows(x), weight_q, transposed=True)) if wanted[1] else None
    return dx, None, dscale


def expert_quantised_linear_forward(x, chosen, weight_q, weight_scale, bias=None):
    """Twin of ops.quantised.expert_quantised_linear_forward."""
    groups = rows_by_expert(chosen, len(weight_q))
    y = _by_expert(quantised_linear_forward, x, groups, weight_q, weight_scale, bias)
    return y, (x, groups, weight_q, weight_scale, bias is not None)


def expert_quantised4_linear_forward(x, chosen, weight_q, weight_scale, weight_zero=None, bias=None):
    """Twin of ops.quantised.expert_quantised4_linear_forward."""
    groups = rows_by_expert(chosen, len(weight_q))
    y = _by_expert(quantised4_linear_forward, x, groups, weight_q, weight_scale, weight_zero, bias)
    return y, (x, groups, weight_q, weight_scale, weight_zero, bias is not None)


def _by_expert(forward, x, groups, weight_q, *stacked):
    """What a forward gives for the rows of each expert, put where they came from."""
    xs = rows(x)
    y = np.empty((len(xs), weight_q.shape[-1]), result_type(x, *stacked))
    for e, group in groups:
        y[group], _ = forward(xs[group], weight_q[e], *(None if a is None else a[e] for a in stacked))
    return y.reshape(*x.shape[:-1], y.shape[-1])
