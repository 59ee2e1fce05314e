"""Twins of the activations: one pass over memory."""

import math

import numpy as np

from ..engine.jit import kernel, launch, parallel
from .elementary_numba import exp, half_erfc

CHUNK = 8192  # entries a task
INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
BOUND = 64.0  # of |x|, beyond which both gates are 0 or 1, and x² might overflow


@kernel
def kept_near(v, bound):
    """v cut to ±bound; NaN stays NaN."""
    v = bound if v > bound else v
    return -bound if v < -bound else v


@kernel
def gelu_chunk(x, y):
    """y = x Φ(x)."""
    one, half, bound = x.dtype.type(1), x.dtype.type(0.5), x.dtype.type(BOUND)
    for i in range(len(x)):
        a = min(abs(x[i]), bound)  # NaN comes back by the product with x
        tail = half_erfc(a, exp(-half * a * a))
        y[i] = x[i] * (tail if x[i] < 0 else one - tail)


@kernel
def gelu_gradient_chunk(x, dy, dx):
    """dx = dy (Φ(x) + x φ(x))."""
    one, half, scale = x.dtype.type(1), x.dtype.type(0.5), x.dtype.type(INV_SQRT_2PI)
    bound = x.dtype.type(BOUND)
    for i in range(len(x)):
        near = kept_near(x[i], bound)
        a = abs(near)
        gauss = exp(-half * a * a)
        tail = half_erfc(a, gauss)
        dx[i] = dy[i] * ((tail if near < 0 else one - tail) + near * gauss * scale)


@kernel
def gelu_tanh_chunk(x, y):
    """y = x σ(2u)."""
    one, a, b = x.dtype.type(1), x.dtype.type(-2 * SQRT_2_OVER_PI), x.dtype.type(0.044715)
    for i in range(len(x)):
        v = x[i]
        y[i] = v / (one + exp(a * (v + b * v * v * v)))


@kernel
def gelu_tanh_gradient_chunk(x, dy, dx):
    """dx = dy (σ + x 2σ(1 − σ) du/dx)."""
    one, a, b = x.dtype.type(1), x.dtype.type(-2 * SQRT_2_OVER_PI), x.dtype.type(0.044715)
    c, d, bound = x.dtype.type(2 * SQRT_2_OVER_PI), x.dtype.type(3 * 0.044715), x.dtype.type(BOUND)
    for i in range(len(x)):
        v = x[i]
        s = one / (one + exp(a * (v + b * v * v * v)))
        near = min(max(v, -bound), bound)
        dx[i] = dy[i] * (s + near * s * (one - s) * c * (one + d * near * near))


@kernel
def chunk_of(x, chunk):
    """A chunk of a flat array."""
    return x[chunk * CHUNK : (chunk + 1) * CHUNK]


@parallel
def gelu_values(chunk, x, y):
    """A chunk of GELU."""
    gelu_chunk(chunk_of(x, chunk), chunk_of(y, chunk))


@parallel
def gelu_gradients(chunk, x, dy, dx):
    """A chunk of GELU's gradient."""
    gelu_gradient_chunk(chunk_of(x, chunk), chunk_of(dy, chunk), chunk_of(dx, chunk))


@parallel
def gelu_tanh_values(chunk, x, y):
    """A chunk of GELU's tanh form."""
    gelu_tanh_chunk(chunk_of(x, chunk), chunk_of(y, chunk))


@parallel
def gelu_tanh_gradients(chunk, x, dy, dx):
    """A chunk of the gradient of GELU's tanh form."""
    gelu_tanh_gradient_chunk(chunk_of(x, chunk), chunk_of(dy, chunk), chunk_of(dx, chunk))


def _map(kernel, *arrays):
    """Run an elementwise kernel over arrays of one shape; returns its last argument, a new array."""
    flat = [np.ascontiguousarray(a).reshape(-1) for a in arrays]
    out = np.empty_like(flat[0])
    launch(kernel, -(-out.size // CHUNK), *flat, out)
    return out.reshape(arrays[0].shape)


def gelu_forward(x):
    """Twin of ops.activations.gelu_forward."""
    return _map(gelu_values, x), (x,)


def gelu_backward(dy, saved):
    """Twin of ops.activations.gelu_backward."""
    return (_map(gelu_gradients, saved[0], dy),)


def gelu_tanh_forward(x):
    """Twin of ops.activations.gelu_tanh_forward."""
    return _map(gelu_tanh_values, x), (x,)


def gelu_tanh_backward(dy, saved):
    """Twin of ops.activations.gelu_tanh_backward."""
    return (_map(gelu_tanh_gradients, saved[0], dy),)
