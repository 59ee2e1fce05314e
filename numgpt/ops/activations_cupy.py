"""Twins of the activations on a GPU: an element a thread, read and written once.

And GELU with the bias before it in one kernel, for transformer_cupy.py.
"""

from ..engine.cuda import THREADS, blocks_of, launch, threads_for
from .tiles_cupy import TILE, add_tiles, tiles_of

ACTIVATIONS_SOURCE = r"""
#define INV_SQRT_2 ((real)0.70710678118654752440)
#define INV_SQRT_2PI ((real)0.39894228040143267794)
#define SQRT_2_OVER_PI ((real)0.79788456080286535588)
#define CUBIC ((real)0.044715)
#define BOUND ((real)64)
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

// x cut to ±64, where Φ and σ have been 0 or 1 for long: x² might overflow, and 0 · ∞ is no number
__device__ real bounded(real x)
{
    return x > BOUND ? BOUND : x < -BOUND ? -BOUND : x;
}

// Φ(x) + x φ(x)
__device__ real slope(real x)
{
    real near = bounded(x);
    return normal_cdf(x) + near * (exp(near * near * (real)-0.5) * INV_SQRT_2PI);
}

// σ + x 2σ(1 − σ) du/dx
__device__ real slope_tanh(real x)
{
    real near = bounded(x), s = gate(x), du = SQRT_2_OVER_PI * (1 + 3 * CUBIC * near * near);
    return s + 2 * near * s * (1 - s) * du;
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
        dx[i] = dy[i] * slope(x[i]);
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
    if (i < N)
        dx[i] = dy[i] * slope_tanh(x[i]);
}

// h ← h + bias and a = gelu(h), in the form that is asked for: a block a row, or part of one
extern "C" __global__ void bias_gelu(real *h, const real *bias, long long C, long long tanh_form, real *a)
{
    long long c = blockIdx.y * (long long)blockDim.x + threadIdx.x, i = blockIdx.x * C + c;
    if (c >= C)
        return;
    real x = h[i] + bias[c];
    h[i] = x;
    a[i] = x * (tanh_form ? gate(x) : normal_cdf(x));
}

// da ← da gelu'(h), and the sum of that over a tile of rows, a thread a column: sums (tiles, C)
extern "C" __global__ void bias_gelu_gradient(const real *h, real *da, long long N, long long C,
                                              long long tile, long long tanh_form, double *sums)
{
    long long c = blockIdx.y * (long long)blockDim.x + threadIdx.x;
    if (c >= C)
        return;
    long long first = blockIdx.x * tile, last = first + tile < N ? first + tile : N;
    double sum = 0;
    for (long long n = first; n < last; n++) {
        long long i = n * C + c;
        real d = da[i] * (tanh_form ? slope_tanh(h[i]) : slope(h[i]));
        da[i] = d;
        sum += d;
    }
    sums[blockIdx.x * C + c] = sum;
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


def bias_gelu(h, bias, tanh_form):
    """h ← h + bias in its place, and gelu of that.  h (..., F) contiguous, bias (F) → (..., F)"""
    import cupy as cp

    a, F = cp.empty_like(h), h.shape[-1]
    threads, bias = threads_for(F), cp.ascontiguousarray(bias)
    blocks = h.size // F, blocks_of(F, threads)
    launch(ACTIVATIONS_SOURCE, "bias_gelu", h.dtype, blocks, threads, h, bias, F, tanh_form, a)
    return a


def bias_gelu_backward(da, h, tanh_form, dbias, add):
    """Gradients of bias_gelu, where h is what the activation read: dh in da's place, and dbias.

        dh = da gelu'(h)
        dbias ← Σ dh (+ dbias, if add)    because all rows share the bias

    da and h (..., F) contiguous → dh (..., F)
    """
    import cupy as cp

    F = h.shape[-1]
    N, threads = h.size // F, threads_for(F)
    sums = cp.empty((tiles_of(N), 1, F), "float64")
    blocks, args = (len(sums), blocks_of(F, threads)), (h, da, N, F, TILE, tanh_form, sums)
    launch(ACTIVATIONS_SOURCE, "bias_gelu_gradient", h.dtype, blocks, threads, *args)
    add_tiles(sums, 0, dbias, add)
    return da
