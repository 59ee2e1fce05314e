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
def silu_chunk(x, y):
    """y = x σ(x), in float64 but for exp."""
    for i in range(len(x)):
        y[i] = x[i] / (1.0 + exp(-x[i]))


@kernel
def silu_gradient_chunk(x, dy, dx):
    """dx = dy (σ + x σ (1 − σ)), in float64 but for exp."""
    far = x.dtype.type(FAR)
    for i in range(len(x)):
        e = exp(-abs(x[i]))
        large = 1.0 / (1.0 + e)
        small = e * large
        s, rest = (small, large) if x[i] < 0 else (large, small)
        dx[i] = dy[i] * (s * (1.0 + kept_near(x[i], far) * rest))


@parallel
def silu_values(chunk, x, y):
    """A chunk of SiLU."""
    silu_chunk(chunk_of(x, chunk), chunk_of(y, chunk))


@parallel
def silu_gradients(chunk, x, dy, dx):
    """A chunk of SiLU's gradient."""
    silu_gradient_chunk(chunk_of(x, chunk), chunk_of(dy, chunk), chunk_of(dx, chunk))


def silu_forward(x):
    """Twin of ops.activations.silu_forward."""
    return _map(silu_values, x), (x,)


def silu_backward(dy, saved):
    """Twin of ops.activations.silu_backward."""
    return (_map(silu_gradients, saved[0], dy),)


@kernel
def relu2_chunk(x, positive, y):
    """y = max(x, 0)², and max(x, 0)."""
    zero = x.dtype.type(0)
    for i in range(len(x)):
        v = zero if x[i] <= 0 else x[i]  # NaN stays NaN
        positive[i] = v
        y[i] = v * v


@kernel
def relu2_gradient_chunk(positive, dy, dx):
    """dx = 2 max(x, 0) dy."""
    two = dy.dtype.type(2)
    for i in range(len(dy)):
        dx[i] = two * positive[i] * dy[i]


@parallel
def relu2_values(chunk, x, positive, y):
    """A chunk of the rectifier's square."""
    relu2_chunk(chunk_of(x, chunk), chunk_of(positive, chunk), chunk_of(y, chunk))


@parallel
def relu2_gradients(chunk, positive, dy, dx):
    """A chunk of its gradient."""
    relu2_gradient_chunk(chunk_of(positive, chunk), chunk_of(dy, chunk), chunk_of(dx, chunk))


def relu2_forward(x):
    """Twin of ops.activations.relu2_forward."""
    flat = np.ascontiguousarray(x).reshape(-1)
    positive, y = np.empty_like(flat), np.empty_like(flat)
    launch(relu2_values, -(-flat.size // CHUNK), flat, positive, y)
    return y.reshape(x.shape), (positive.reshape(x.shape),)


def relu2_backward(dy, saved):
    """Twin of ops.activations.relu2_backward."""
    return (_map(relu2_gradients, saved[0], dy),)


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


@parallel
def geglu_values(task, rows, x, y):
    """Some rows of gelu(g) u as in swiglu_values: Φ in x's type, the rest in float64."""
    N, F = y.shape
    half, bound = x.dtype.type(0.5), x.dtype.type(BOUND)
    for n in range(task * rows, min(N, task * rows + rows)):
        g, u, out = x[n][:F], x[n][F:], y[n]
        for i in range(F):
            a = min(abs(g[i]), bound)  # NaN comes back by the product with g
            tail = np.float64(half_erfc(a, exp(-half * a * a)))
            out[i] = g[i] * (tail if g[i] < 0 else 1.0 - tail) * u[i]


@parallel
def geglu_gradients(task, rows, x, dy, dx):
    """Some rows of dg = dy u gelu'(g) and du = dy gelu(g): Φ and φ in x's type, the rest in float64."""
    N, F = dy.shape
    half, bound = x.dtype.type(0.5), x.dtype.type(BOUND)
    for n in range(task * rows, min(N, task * rows + rows)):
        g, u, d, dg, du = x[n][:F], x[n][F:], dy[n], dx[n][:F], dx[n][F:]
        for i in range(F):
            near = kept_near(g[i], bound)
            a = abs(near)
            gauss = exp(-half * a * a)
            tail = np.float64(half_erfc(a, gauss))
            cdf = tail if near < 0 else 1.0 - tail
            dg[i] = d[i] * (cdf + near * (gauss * INV_SQRT_2PI)) * u[i]
            du[i] = d[i] * (g[i] * cdf)


@kernel
def tanh_gate(v, like):
    """σ(2u) of GELU's tanh form, in float64 but for exp, which is in like's type."""
    return 1.0 / (1.0 + exp(like.dtype.type(-2 * SQRT_2_OVER_PI * (v + 0.044715 * v * v * v))))


@parallel
def geglu_tanh_values(task, rows, x, y):
    """Some rows of gelu_tanh(g) u, in float64 but for exp."""
    N, F = y.shape
    for n in range(task * rows, min(N, task * rows + rows)):
        g, u, out = x[n][:F], x[n][F:], y[n]
        for i in range(F):
            v = np.float64(g[i])
            out[i] = v * tanh_gate(v, x) * u[i]


@parallel
def geglu_tanh_gradients(task, rows, x, dy, dx):
    """Some rows of dg = dy u gelu_tanh'(g) and du = dy gelu_tanh(g), in float64 but for exp."""
    N, F = dy.shape
    for n in range(task * rows, min(N, task * rows + rows)):
        g, u, d, dg, du = x[n][:F], x[n][F:], dy[n], dx[n][:F], dx[n][F:]
        for i in range(F):
            near = kept_near(np.float64(g[i]), BOUND)
            s = tanh_gate(near, x)
            slope = 2 * SQRT_2_OVER_PI * (1.0 + 3 * 0.044715 * near * near)
            dg[i] = d[i] * (s + near * s * (1.0 - s) * slope) * u[i]
            du[i] = d[i] * (g[i] * s)


@parallel
def reglu_values(task, rows, x, y):
    """Some rows of max(g, 0) u."""
    N, F = y.shape
    zero = x.dtype.type(0)
    for n in range(task * rows, min(N, task * rows + rows)):
        g, u, out = x[n][:F], x[n][F:], y[n]
        for i in range(F):
            out[i] = (zero if g[i] <= 0 else g[i]) * u[i]  # NaN stays NaN


@parallel
def reglu_gradients(task, rows, x, dy, dx):
    """Some rows of dg = dy u where g > 0, else 0, and of du = dy max(g, 0)."""
    N, F = dy.shape
    zero = x.dtype.type(0)
    for n in range(task * rows, min(N, task * rows + rows)):
        g, u, d, dg, du = x[n][:F], x[n][F:], dy[n], dx[n][:F], dx[n][F:]
        for i in range(F):
            dg[i] = d[i] * u[i] if g[i] > 0 else zero
            du[i] = d[i] * (zero if g[i] <= 0 else g[i])


def gated(kernel, x):
    """y (..., F) of a kernel for x (..., 2F), and x to be saved."""
    xs = rows(x)
    y = np.empty((len(xs), xs.shape[1] // 2), x.dtype)
    launch(kernel, *tasks_of(y), xs, y)
    return y.reshape(*x.shape[:-1], y.shape[1]), (x,)


def through_gate(kernel, dy, saved):
    """The gradient of what gated gives."""
    (x,) = saved
    xs, dys = rows(x), rows(dy)
    dx = np.empty_like(xs)
    launch(kernel, *tasks_of(dys), xs, dys, dx)
    return (dx.reshape(x.shape),)


def geglu_forward(x):
    """Twin of ops.activations.geglu_forward."""
    return gated(geglu_values, x)


def geglu_backward(dy, saved):
    """Twin of ops.activations.geglu_backward."""
    return through_gate(geglu_gradients, dy, saved)


def geglu_tanh_forward(x):
    """Twin of ops.activations.geglu_tanh_forward."""
    return gated(geglu_tanh_values, x)


def geglu_tanh_backward(dy, saved):
    """Twin of ops.activations.geglu_tanh_backward."""
    return through_gate(geglu_tanh_gradients, dy, saved)


def reglu_forward(x):
    """Twin of ops.activations.reglu_forward."""
    return gated(reglu_values, x)


def reglu_backward(dy, saved):
    """Twin of ops.activations.reglu_backward."""
    return through_gate(reglu_gradients, dy, saved)
