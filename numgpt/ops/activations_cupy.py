"""Twins of the activations on a GPU: an element a thread, read and written once.

Each is a row of PLAIN or GATED, from which its kernels are made; relu and relu2, which do not keep
their input, have none. And GELU with the bias before it in one kernel, for transformer_cupy.py.
"""

from ..engine.cuda import THREADS, blocks_of, launch, threads_for
from .tiles_cupy import TILE, add_tiles, tiles_of

ACTIVATIONS_SOURCE = r"""
#define INV_SQRT_2 ((real)0.70710678118654752440)
#define INV_SQRT_2PI ((real)0.39894228040143267794)
#define SQRT_2_OVER_PI ((real)0.79788456080286535588)
#define CUBIC ((real)0.044715)
#define BLOOM ((real)0.79788456)
#define BOUND ((real)64)
#define FAR ((real)16384)
#define LIMIT ((real)7)
#define STEEPNESS ((real)1.702)
#define COLUMN (blockIdx.y * (long long)blockDim.x + threadIdx.x)
#define HERE (blockIdx.x * (long long)blockDim.x + threadIdx.x)

// Φ(x) = ½ erfc(−x/√2), which keeps its digits in the left tail
__device__ real normal_cdf(real x)
{
    return (real)0.5 * erfc(-x * INV_SQRT_2);
}

// σ = 1/(1 + exp(−2u)), u = k (x + 0.044715 x³); where exp overflows, σ is 0
__device__ real gate(real x, real k = SQRT_2_OVER_PI)
{
    return 1 / (1 + exp(-2 * k * (x + CUBIC * x * x * x)));
}

__device__ real cut(real x, real most)
{
    return x > most ? most : x < -most ? -most : x;
}

// x cut to ±64, where Φ and σ have been 0 or 1 for long: x² might overflow, and 0 · ∞ is no number
__device__ real bounded(real x)
{
    return cut(x, BOUND);
}

// Φ(x) + x φ(x)
__device__ real slope(real x)
{
    real near = bounded(x);
    return normal_cdf(x) + near * (exp(near * near * (real)-0.5) * INV_SQRT_2PI);
}

// σ + x 2σ(1 − σ) du/dx
__device__ real slope_tanh(real x, real k = SQRT_2_OVER_PI)
{
    real near = bounded(x), s = gate(x, k), du = k * (1 + 3 * CUBIC * near * near);
    return s + 2 * near * s * (1 - s) * du;
}

// σ(x) = 1/(1 + exp(−x)) from exp(−|x|), which cannot overflow
__device__ real sigmoid(real x)
{
    real e = exp(-fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

// σ (1 + k x (1 − σ)), the slope of x σ(kx); 1 − σ(kx) = σ(−kx) has all its digits
__device__ real slope_sigmoid(real x, real k)
{
    return sigmoid(k * x) * (1 + k * cut(x, FAR) * sigmoid(-k * x));
}

// x cut from above alone
__device__ real low(real x)
{
    return x > LIMIT ? LIMIT : x;
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

# Value and slope of an activation, as expressions of a number x.
PLAIN = {
    "gelu": ("x * normal_cdf(x)", "slope(x)"),
    "gelu_tanh": ("x * gate(x)", "slope_tanh(x)"),
    "gelu_bloom": ("x * gate(x, BLOOM)", "slope_tanh(x, BLOOM)"),
    "silu": ("x * sigmoid(x)", "slope_sigmoid(x, 1)"),
}

# What lets a value u through, as an expression of its gate x, and its slope; then what of u is let through,
# and its slope. A slope of 0 is a factor, so that what is no number stays none.
THE_VALUE = "u", "1"
GATED = {
    "swiglu": (*PLAIN["silu"], *THE_VALUE),
    "geglu": (*PLAIN["gelu"], *THE_VALUE),
    "geglu_tanh": (*PLAIN["gelu_tanh"], *THE_VALUE),
    "reglu": ("(x > 0 || x != x ? x : 0)", "(x > 0)", *THE_VALUE),
    "swiglu_clamped": (
        "low(x) * sigmoid(STEEPNESS * low(x))",
        "slope_sigmoid(low(x), STEEPNESS) * (low(x) == x)",
        "(cut(u, LIMIT) + 1)",
        "(cut(u, LIMIT) == u)",
    ),
}
PLAIN_KERNELS = r"""
extern "C" __global__ void NAME(const real *in, long long N, real *y)
{
    long long i = HERE;
    if (i >= N)
        return;
    real x = in[i];
    y[i] = VALUE;
}

extern "C" __global__ void NAME_gradient(const real *in, const real *dy, long long N, real *dx)
{
    long long i = HERE;
    if (i >= N)
        return;
    real x = in[i];
    dx[i] = dy[i] * (SLOPE);
}
"""

# A row of `in` holds F gates and then F values. A block works on a row, or part of one.
GATED_KERNELS = r"""
extern "C" __global__ void NAME(const real *in, long long F, real *y)
{
    long long c = COLUMN, n = 2 * blockIdx.x * F + c;
    if (c >= F)
        return;
    real x = in[n], u = in[n + F];
    y[blockIdx.x * F + c] = THROUGH * (VALUE);
}

extern "C" __global__ void NAME_gradient(const real *in, const real *dy, long long F, real *dx)
{
    long long c = COLUMN, n = 2 * blockIdx.x * F + c;
    if (c >= F)
        return;
    real x = in[n], u = in[n + F], d = dy[blockIdx.x * F + c];
    dx[n] = d * THROUGH * (SLOPE);
    dx[n + F] = d * (VALUE) * OPENED;
}
"""


def _kernels(source, **words):
    """A source in which words have their texts."""
    for word, text in words.items():
        source = source.replace(word, text)
    return source


ACTIVATIONS_SOURCE += "".join(
    _kernels(PLAIN_KERNELS, VALUE=value, SLOPE=slope, NAME=name) for name, (value, slope) in PLAIN.items()
) + "".join(
    _kernels(GATED_KERNELS, VALUE=value, SLOPE=slope, THROUGH=through, OPENED=opened, NAME=name)
    for name, (value, slope, through, opened) in GATED.items()
)


def gelu_forward(x):
    """Twin of ops.activations.gelu_forward."""
    return _values("gelu", x), (x,)


def gelu_backward(dy, saved):
    """Twin of ops.activations.gelu_backward."""
    return (_gradients("gelu", saved[0], dy),)


def gelu_tanh_forward(x):
    """Twin of ops.activations.gelu_tanh_forward."""
    return _values("gelu_tanh", x), (x,)


def gelu_tanh_backward(dy, saved):
    """Twin of ops.activations.gelu_tanh_backward."""
    return (_gradients("gelu_tanh", saved[0], dy),)


def gelu_bloom_forward(x):
    """Twin of ops.activations.gelu_bloom_forward."""
    return _values("gelu_bloom", x), (x,)


def gelu_bloom_backward(dy, saved):
    """Twin of ops.activations.gelu_bloom_backward."""
    return (_gradients("gelu_bloom", saved[0], dy),)


def silu_forward(x):
    """Twin of ops.activations.silu_forward."""
    return _values("silu", x), (x,)


def silu_backward(dy, saved):
    """Twin of ops.activations.silu_backward."""
    return (_gradients("silu", saved[0], dy),)


def swiglu_forward(x):
    """Twin of ops.activations.swiglu_forward."""
    return _gated("swiglu", x), (x,)


def swiglu_backward(dy, saved):
    """Twin of ops.activations.swiglu_backward."""
    return (_gated_gradients("swiglu", saved[0], dy),)


def geglu_forward(x):
    """Twin of ops.activations.geglu_forward."""
    return _gated("geglu", x), (x,)


def geglu_backward(dy, saved):
    """Twin of ops.activations.geglu_backward."""
    return (_gated_gradients("geglu", saved[0], dy),)


def geglu_tanh_forward(x):
    """Twin of ops.activations.geglu_tanh_forward."""
    return _gated("geglu_tanh", x), (x,)


def geglu_tanh_backward(dy, saved):
    """Twin of ops.activations.geglu_tanh_backward."""
    return (_gated_gradients("geglu_tanh", saved[0], dy),)


def reglu_forward(x):
    """Twin of ops.activations.reglu_forward."""
    return _gated("reglu", x), (x,)


def reglu_backward(dy, saved):
    """Twin of ops.activations.reglu_backward."""
    return (_gated_gradients("reglu", saved[0], dy),)


def swiglu_clamped_forward(x):
    """Twin of ops.activations.swiglu_clamped_forward."""
    return _gated("swiglu_clamped", x), (x,)


def swiglu_clamped_backward(dy, saved):
    """Twin of ops.activations.swiglu_clamped_backward."""
    return (_gated_gradients("swiglu_clamped", saved[0], dy),)


def _values(name, x):
    """An activation's value."""
    import cupy as cp

    x, y = cp.ascontiguousarray(x), cp.empty(x.shape, x.dtype)
    launch(ACTIVATIONS_SOURCE, name, x.dtype, (blocks_of(x.size),), THREADS, x, x.size, y)
    return y


def _gradients(name, x, dy):
    """The gradient of its x."""
    import cupy as cp

    x, dy, dx = cp.ascontiguousarray(x), cp.ascontiguousarray(dy), cp.empty(x.shape, x.dtype)
    args = x, dy, x.size, dx
    launch(ACTIVATIONS_SOURCE, f"{name}_gradient", x.dtype, (blocks_of(x.size),), THREADS, *args)
    return dx


def _gated(name, x):
    """What a gated activation lets through.  x (..., 2F) → (..., F)"""
    import cupy as cp

    F = x.shape[-1] // 2
    x, y, threads = cp.ascontiguousarray(x), cp.empty((*x.shape[:-1], F), x.dtype), threads_for(F)
    blocks = y.size // F, blocks_of(F, threads)
    launch(ACTIVATIONS_SOURCE, name, x.dtype, blocks, threads, x, F, y)
    return y


def _gated_gradients(name, x, dy):
    """The gradient of its x (..., 2F)."""
    import cupy as cp

    x, dy, dx = cp.ascontiguousarray(x), cp.ascontiguousarray(dy), cp.empty(x.shape, x.dtype)
    F = dy.shape[-1]
    threads = threads_for(F)
    blocks = dy.size // F, blocks_of(F, threads)
    launch(ACTIVATIONS_SOURCE, f"{name}_gradient", x.dtype, blocks, threads, x, dy, F, dx)
    return dx


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
