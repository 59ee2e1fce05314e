"""Twins of the norms of a part of the channels: one pass a row, in float64 and rounded once."""

import math

import numpy as np

from ..engine.jit import SUMS, kernel, launch, parallel
from .linear_numba import rows
from .norms_numba import TILE, put
from .part_norms import part_of


@kernel(fastmath=SUMS)
def moments(x, inverse, centred):
    """The mean of x inverse, 0 unless centred, and the mean square of its distance from that."""
    mean, squares = 0.0, 0.0
    if centred is not None:
        for i in range(len(x)):
            mean += x[i] * inverse
        mean /= len(x)
    for i in range(len(x)):
        d = x[i] * inverse - mean
        squares += d * d
    return mean, squares / len(x)


@kernel
def scale_of(x, eps, centred):
    """(1/s, mean of x/s, r) of x̂ = (x/s − mean) r; s is 1 unless squares overflow, as in within_range."""
    mean, squares = moments(x, 1.0, centred)
    largest = 0.0
    if not np.isfinite(squares):
        for i in range(len(x)):
            largest = max(largest, abs(np.float64(x[i])))
    if largest == 0 or not np.isfinite(largest):
        return 1.0, mean, 1.0 / np.sqrt(squares + eps)
    inverse = math.ldexp(1.0, 1 - math.frexp(largest)[1])
    mean, squares = moments(x, inverse, centred)
    return inverse, mean, 1.0 / np.sqrt(squares + eps * inverse * inverse)


# Where centred or bias is None, Numba leaves out what only layernorm computes.


@parallel
def normalise_parts(tile, x, weight, bias, eps, centred, begin, y, xhat, rstd):
    """A tile of rows of y as x, x̂ (N, G, W) and r (N, G): vectors of W channels from begin on."""
    N, G, W = xhat.shape
    end, scales = begin + G * W, np.empty((G, 3))
    for n in range(tile * TILE, min(N, tile * TILE + TILE)):
        part, into, hats = x[n][begin:end].reshape(G, W), y[n][begin:end].reshape(G, W), xhat[n]
        for g in range(G):
            inverse, mean, r = scale_of(part[g], eps, centred)
            scales[g, 0], scales[g, 1], scales[g, 2] = inverse, mean, r
            rstd[n, g] = r * inverse
        for g in range(G):
            inverse, mean, r = scales[g]
            for c in range(W):
                hat = (part[g, c] * inverse - mean) * r
                hats[g, c] = hat
                if bias is None:
                    into[g, c] = hat * weight[c]
                else:
                    into[g, c] = hat * weight[c] + bias[c]
        y[n, :begin] = x[n, :begin]
        y[n, end:] = x[n, end:]


@kernel(fastmath=SUMS)
def part_products(dy, weight, xhat):
    """(⟨e⟩, ⟨e x̂⟩) with e = dy weight, in float64."""
    a, b = 0.0, 0.0
    for i in range(len(dy)):
        e = np.float64(dy[i]) * weight[i]
        a += e
        b += e * xhat[i]
    return a / len(dy), b / len(dy)


@kernel(fastmath=False)  # as in norms_numba.gradient_rows
def part_gradient(dy, xhat, r, weight, a, b, dx, sums):
    """dx = r (e − a − x̂ b) of a vector, a None is none; Σ dy x̂ and Σ dy are added to sums (2, W)."""
    for c in range(len(dy)):
        d, hat = np.float64(dy[c]), np.float64(xhat[c])
        if a is None:
            dx[c] = r * (d * weight[c] - hat * b)
        else:
            dx[c] = r * (d * weight[c] - a - hat * b)
            sums[1, c] += d
        sums[0, c] += d * hat


@parallel
def normalise_parts_gradients(tile, dy, xhat, rstd, weight, centred, begin, dx, sums):
    """A tile of rows of dx, and its sums (tiles, 2, W)."""
    N, G, W = xhat.shape
    end = begin + G * W
    for n in range(tile * TILE, min(N, tile * TILE + TILE)):
        part, into = dy[n][begin:end].reshape(G, W), dx[n][begin:end].reshape(G, W)
        for g in range(G):
            hat, r = xhat[n, g], np.float64(rstd[n, g])
            a, b = part_products(part[g], weight, hat)
            if centred is None:
                part_gradient(part[g], hat, r, weight, None, b, into[g], sums[tile])
            else:
                part_gradient(part[g], hat, r, weight, a, b, into[g], sums[tile])
        dx[n, :begin] = dy[n, :begin]
        dx[n, end:] = dy[n, end:]


def normalised(x, weight, bias, eps, centred, begin, end):
    """y, x̂ (..., G, W), r (..., G, 1) and end."""
    part, end = part_of(x, weight, begin, end)
    xs, shape = rows(x), part.shape
    y, xhat, rstd = (
        np.empty_like(xs),
        np.empty((len(xs), *shape[-2:]), x.dtype),
        np.empty((len(xs), shape[-2]), x.dtype),
    )
    launch(normalise_parts, -(-len(xs) // TILE), xs, weight, bias, eps, centred, begin, y, xhat, rstd)
    return y.reshape(x.shape), xhat.reshape(shape), rstd.reshape(*shape[:-1], 1), end


def gradients(dy, xhat, rstd, weight, centred, begin):
    """dx and the sums (2, W) for the parameters' gradients."""
    dys, (G, W) = rows(dy), xhat.shape[-2:]
    dx, sums = np.empty_like(dys), np.zeros((-(-len(dys) // TILE), 2, W))
    hats, scales = xhat.reshape(-1, G, W), rstd.reshape(-1, G)
    launch(normalise_parts_gradients, len(sums), dys, hats, scales, weight, centred, begin, dx, sums)
    return dx.reshape(dy.shape), sums.sum(0)


def part_rmsnorm_forward(x, weight, *, begin=0, end=None, eps=1e-5):
    """Twin of ops.part_norms.part_rmsnorm_forward."""
    y, xhat, rstd, end = normalised(x, weight, None, eps, None, begin, end)
    return y, (xhat, rstd, weight, begin, end)


def part_rmsnorm_backward(dy, saved, into=(None,)):
    """Twin of ops.part_norms.part_rmsnorm_backward; into: where the gradient of weight goes."""
    xhat, rstd, weight, begin, _ = saved
    dx, (dweight, _) = gradients(dy, xhat, rstd, weight, None, begin)
    return dx, put(dweight, dy.dtype, into[0])


def part_layernorm_forward(x, weight, bias=None, *, begin=0, end=None, eps=1e-5):
    """Twin of ops.part_norms.part_layernorm_forward."""
    y, xhat, rstd, end = normalised(x, weight, bias, eps, True, begin, end)
    return y, (xhat, rstd, weight, bias is not None, begin, end)


def part_layernorm_backward(dy, saved, into=(None, None)):
    """Twin of ops.part_norms.part_layernorm_backward; into: where the gradients of weight and bias go."""
    xhat, rstd, weight, has_bias, begin, _ = saved
    dx, (dweight, dbias) = gradients(dy, xhat, rstd, weight, True, begin)
    dbias = put(dbias, dy.dtype, into[1]) if has_bias else None
    return dx, put(dweight, dy.dtype, into[0]), dbias
