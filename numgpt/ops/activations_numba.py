"""Twins of the activations: one pass over memory."""

import math

import numpy as np

from ..engine.jit import kernel, launch, parallel
from .activations import FAR
from .elementary_numba import exp, half_erfc
from .linear_numba import rows

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


@kernel
def swiglu_row(g, u, y):
    """y = silu(g) u, in float64 but for exp."""
    for i in range(len(g)):
        y[i] = g[i] / (1.0 + exp(-g[i])) * u[i]


@kernel
def swiglu_gradient_row(g, u, dy, dg, du):
    """dg = dy u silu'(g) and du = dy silu(g), in float64 but for exp."""
    far = g.dtype.type(FAR)
    for i in range(len(g)):
        e = exp(-abs(g[i]))
        large = 1.0 / (1.0 + e)
        small = e * large
        s, rest = (small, large) if g[i] < 0 else (large, small)
        dg[i] = dy[i] * (s * (1.0 + kept_near(g[i], far) * rest)) * u[i]
        du[i] = dy[i] * (g[i] * s)


@parallel
def swiglu_values(task, rows, x, y):
    """Some rows of y (N, F), for x (N, 2F) = g | u."""
    N, F = y.shape
    for n in range(task * rows, min(N, task * rows + rows)):
        swiglu_row(x[n][:F], x[n][F:], y[n])


@parallel
def swiglu_gradients(task, rows, x, dy, dx):
    """Some rows of dx (N, 2F) = dg | du, for x (N, 2F) = g | u."""
    N, F = dy.shape
    for n in range(task * rows, min(N, task * rows + rows)):
        swiglu_gradient_row(x[n][:F], x[n][F:], dy[n], dx[n][:F], dx[n][F:])


def swiglu_forward(x):
    """Twin of ops.activations.swiglu_forward."""
    xs = rows(x)
    y = np.empty((len(xs), xs.shape[1] // 2), x.dtype)
    launch(swiglu_values, *tasks_of(y), xs, y)
    return y.reshape(*x.shape[:-1], y.shape[1]), (x,)


def swiglu_backward(dy, saved):
    """Twin of ops.activations.swiglu_backward."""
    (x,) = saved
    xs, dys = rows(x), rows(dy)
    dx = np.empty_like(xs)
    launch(swiglu_gradients, *tasks_of(dys), xs, dys, dx)
    return (dx.reshape(x.shape),)


def tasks_of(y):
    """How many tasks there are for y (N, F), and the rows of each."""
    N, F = y.shape
    each = max(1, CHUNK // F)
    return -(-N // each), each
