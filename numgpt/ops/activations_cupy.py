"""Twins of the activations on a GPU: an element a thread, read and written once."""

from ..cuda import THREADS, blocks_of, launch

ACTIVATIONS_SOURCE = r"""
#define INV_SQRT_2 ((real)0.70710678118654752440)
#define INV_SQRT_2PI ((real)0.39894228040143267794)
#define SQRT_2_OVER_PI ((real)0.79788456080286535588)
#define CUBIC ((real)0.044715)
#define HERE (blockIdx.x * (long long)blockDim.x + threadIdx.x)

// Φ(x) = ½ erfc(−x/√2), which keeps its digits in the left tail
__device__ real normal_cdf(real x)
{
    return (real)0.5 * erfc(-x * INV_SQRT_2);
}

// σ = 1/(1 + exp(−2u)); where exp overflows, σ is 0
__device__ real gate(real x)
{
    return 1 / (1 + exp(-2 * SQRT_2_OVER_PI * (x + CUBIC * x * x * x)));
}

extern "C" __global__ void gelu(const real *x, long long N, real *y)
{
    long long i = HERE;
    if (i < N)
        y[i] = x[i] * normal_cdf(x[i]);
}

extern "C" __global__ void gelu_gradient(const real *x, const real *dy, long long N, real *dx)
{
    long long i = HERE;
    if (i < N)
        dx[i] = dy[i] * (normal_cdf(x[i]) + x[i] * (exp(x[i] * x[i] * (real)-0.5) * INV_SQRT_2PI));
}

extern "C" __global__ void gelu_tanh(const real *x, long long N, real *y)
{
    long long i = HERE;
    if (i < N)
        y[i] = x[i] * gate(x[i]);
}

extern "C" __global__ void gelu_tanh_gradient(const real *x, const real *dy, long long N, real *dx)
{
    long long i = HERE;
    if (i < N) {
        real s = gate(x[i]), slope = SQRT_2_OVER_PI * (1 + 3 * CUBIC * x[i] * x[i]);
        dx[i] = dy[i] * (s + 2 * x[i] * s * (1 - s) * slope);
    }
}
"""


def gelu_forward(x):
    """Twin of ops.activations.gelu_forward."""
    return _map("gelu", x), (x,)


def gelu_backward(dy, saved):
    """Twin of ops.activations.gelu_backward."""
    return (_map("gelu_gradient", saved[0], dy),)


def gelu_tanh_forward(x):
    """Twin of ops.activations.gelu_tanh_forward."""
    return _map("gelu_tanh", x), (x,)


def gelu_tanh_backward(dy, saved):
    """Twin of ops.activations.gelu_tanh_backward."""
    return (_map("gelu_tanh_gradient", saved[0], dy),)


def _map(name, *arrays):
    """An elementwise kernel over arrays of one shape."""
    import cupy as cp

    out = cp.empty(arrays[0].shape, arrays[0].dtype)
    arrays = [cp.ascontiguousarray(a) for a in arrays]
    launch(ACTIVATIONS_SOURCE, name, out.dtype, (blocks_of(out.size),), THREADS, *arrays, out.size, out)
    return out
