"""Twins of the activations: one pass over memory."""

import math

import numpy as np
from numba import prange

from ..jit import kernel, launch, parallel
from .elementary_numba import exp, half_erfc

CHUNK = 8192
INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


@kernel
def gelu_chunk(x, y):
    """y = x Φ(x)."""
    one, half = x.dtype.type(1), x.dtype.type(0.5)
    for i in range(len(x)):
        a = abs(x[i])
        tail = half_erfc(a, exp(-half * a * a))
        y[i] = x[i] * (tail if x[i] < 0 else one - tail)


@kernel
def gelu_gradient_chunk(x, dy, dx):
    """dx = dy (Φ(x) + x φ(x))."""
    one, half, scale = x.dtype.type(1), x.dtype.type(0.5), x.dtype.type(INV_SQRT_2PI)
    for i in range(len(x)):
        a = abs(x[i])
        gauss = exp(-half * a * a)
        tail = half_erfc(a, gauss)
        dx[i] = dy[i] * ((tail if x[i] < 0 else one - tail) + x[i] * gauss * scale)


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
    c, d = x.dtype.type(2 * SQRT_2_OVER_PI), x.dtype.type(3 * 0.044715)
    for i in range(len(x)):
        v = x[i]
        s = one / (one + exp(a * (v + b * v * v * v)))
        dx[i] = dy[i] * (s + v * s * (one - s) * c * (one + d * v * v))


# Each chunk is a call of a kernel without prange, which the compiler turns into vector code as it would any loop.


@parallel
def gelu_values(x, y):
    """All chunks of gelu_chunk."""
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        a, b = chunk * CHUNK, min(x.size, (chunk + 1) * CHUNK)
        gelu_chunk(x[a:b], y[a:b])


@parallel
def gelu_gradients(x, dy, dx):
    """All chunks of gelu_gradient_chunk."""
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        a, b = chunk * CHUNK, min(x.size, (chunk + 1) * CHUNK)
        gelu_gradient_chunk(x[a:b], dy[a:b], dx[a:b])


@parallel
def gelu_tanh_values(x, y):
    """All chunks of gelu_tanh_chunk."""
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        a, b = chunk * CHUNK, min(x.size, (chunk + 1) * CHUNK)
        gelu_tanh_chunk(x[a:b], y[a:b])


@parallel
def gelu_tanh_gradients(x, dy, dx):
    """All chunks of gelu_tanh_gradient_chunk."""
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        a, b = chunk * CHUNK, min(x.size, (chunk + 1) * CHUNK)
        gelu_tanh_gradient_chunk(x[a:b], dy[a:b], dx[a:b])


def _map(kernel, *arrays):
    """Run an elementwise kernel over arrays of one shape; returns its last argument, a new array."""
    flat = [np.ascontiguousarray(a).reshape(-1) for a in arrays]
    out = np.empty_like(flat[0])
    launch(kernel, *flat, out)
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
