"""Twin of layernorm: one pass a row, sums in float64."""

import math

import numpy as np

from ..engine.jit import SUMS, kernel, launch, parallel
from .linear_numba import rows

TILE = 64  # rows whose parameter gradients are added up together, before the tiles are, in order


@kernel(fastmath=SUMS)
def row_sum(x):
    """Σ x in float64."""
    s = 0.0
    for i in range(len(x)):
        s += x[i]
    return s


@kernel(fastmath=SUMS)
def row_squares(x, mean):
    """Σ (x − mean)² in float64."""
    s = 0.0
    for i in range(len(x)):
        d = x[i] - mean
        s += d * d
    return s


@kernel(fastmath=SUMS)
def row_products(dy, weight, xhat):
    """(Σ g, Σ g x̂) with g = dy weight, in float64."""
    a, b = 0.0, 0.0
    for i in range(len(dy)):
        g = dy[i] * weight[i]
        a += g
        b += g * xhat[i]
    return a, b


@kernel
def normalise_large(x, weight, bias, eps, y, xhat):
    """y and x̂ of a row whose squares overflow; returns r. As in the specification, x is divided by s."""
    largest = 0.0
    for i in range(len(x)):
        largest = max(largest, abs(np.float64(x[i])))
    s = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    mean = 0.0
    for i in range(len(x)):
        mean += x[i] / s
    mean /= len(x)
    squares = 0.0
    for i in range(len(x)):
        squares += (x[i] / s - mean) ** 2
    r = 1.0 / np.sqrt(squares / len(x) + eps / s / s)
    for i in range(len(x)):
        xhat[i] = (x[i] / s - mean) * r
        y[i] = xhat[i] * weight[i]
        if bias is not None:
            y[i] += bias[i]
    return x.dtype.type(r / s)


# Loops that write run over both axes of a tile: before each such loop the code has to test whether the arrays
# overlap.


@kernel
def normalise_rows(x, weight, bias, eps, y, xhat, rstd):
    """y, x̂ and r of each row; bias None is none."""
    N, C = x.shape
    for n in range(N):
        row = x[n]
        mean = x.dtype.type(row_sum(row) / C)
        squares = row_squares(row, mean)
        r = x.dtype.type(1.0 / np.sqrt(squares / C + eps))
        rstd[n] = r
        for c in range(C):
            hat = (x[n, c] - mean) * r
            xhat[n, c] = hat
            if bias is None:
                y[n, c] = hat * weight[c]
            else:
                y[n, c] = hat * weight[c] + bias[c]
        if not np.isfinite(squares):
            rstd[n] = normalise_large(row, weight, bias, eps, y[n], xhat[n])


@parallel
def normalise(tile, x, weight, bias, eps, y, xhat, rstd):
    """y, x̂ and r of a tile of rows."""
    n0, n1 = tile * TILE, min(len(x), tile * TILE + TILE)
    normalise_rows(x[n0:n1], weight, bias, eps, y[n0:n1], xhat[n0:n1], rstd[n0:n1])


@kernel(fastmath=False)  # a fused multiply-add would leave the rounding of dy w where g − ⟨g⟩ cancels
def gradient_rows(dy, xhat, rstd, weight, base, dx, sums):
    """dx = r (g − ⟨g⟩ − x̂ ⟨g x̂⟩) + base of each row, base None is none.

    Σ dy x̂ and Σ dy are added to sums (2, C) in float64.
    """
    N, C = dy.shape
    for n in range(N):
        a, b = row_products(dy[n], weight, xhat[n])
        a, b, r = dy.dtype.type(a / C), dy.dtype.type(b / C), rstd[n]
        for c in range(C):
            d, hat = dy[n, c], xhat[n, c]
            dx[n, c] = r * (d * weight[c] - a - hat * b)
            if base is not None:
                dx[n, c] += base[n, c]
            sums[0, c] += d * hat
            sums[1, c] += d


@parallel
def normalise_gradients(tile, dy, xhat, rstd, weight, dx, sums):
    """dx of a tile of rows, and its sums (tiles, 2, C)."""
    n0, n1 = tile * TILE, min(len(dy), tile * TILE + TILE)
    gradient_rows(dy[n0:n1], xhat[n0:n1], rstd[n0:n1], weight, None, dx[n0:n1], sums[tile])


def layernorm_forward(x, weight, bias=None, *, eps=1e-5):
    """Twin of ops.norms.layernorm_forward."""
    xs = rows(x)
    y, xhat, rstd = np.empty_like(xs), np.empty_like(xs), np.empty(len(xs), x.dtype)
    launch(normalise, -(-len(xs) // TILE), xs, weight, bias, eps, y, xhat, rstd)
    saved = xhat.reshape(x.shape), rstd.reshape(*x.shape[:-1], 1), weight, bias is not None
    return y.reshape(x.shape), saved


def layernorm_backward(dy, saved, into=(None, None)):
    """Twin of ops.norms.layernorm_backward; into: where the gradients of weight and bias go."""
    xhat, rstd, weight, has_bias = saved
    dys = rows(dy)
    dx, sums = np.empty_like(dys), np.zeros((-(-len(dys) // TILE), 2, dys.shape[1]))
    launch(normalise_gradients, len(sums), dys, rows(xhat), rstd.reshape(-1), weight, dx, sums)
    dweight, dbias = sums.sum(0)
    dweight = put(dweight, dy.dtype, into[0])
    dbias = put(dbias, dy.dtype, into[1]) if has_bias else None
    return dx.reshape(dy.shape), dweight, dbias


def put(gradient, dtype, into):
    """A gradient in its dtype, or written to or added to into = (array, add)."""
    if into is None:
        return gradient.astype(dtype)
    array, add = into
    if add:
        array += gradient
    else:
        array[...] = gradient
    return array
