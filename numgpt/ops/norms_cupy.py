"""Twin of layernorm on a GPU: a block a row.

The parameters' gradients are added up by tiles of rows, then the tiles in order.
"""

from ..engine.cuda import blocks_of, launch, threads_for
from .tiles_cupy import TILE, add_tiles, tiles_of

# The mean and Σ (x − mean)² are taken in one pass, in `real`: each thread follows its entries with Welford's
# update, and pairs of threads are merged with Chan's formula in a tree. Nothing is subtracted but an entry
# and a mean, so a large mean costs no more digits than it must: with n = ⌈C/256⌉ + 8 steps on the way of an
# entry, the mean errs by at most about n eps max|x|, and the variance relatively by n eps (1 + |mean|/σ). Two
# passes find the variance better where the mean is large, but not x̂, whose error is the mean's there. A row
# whose squares overflow is gone through once more, divided by s, as in the specification.
NORMS_SOURCE = r"""
__device__ real power_of_two_below(real x)
{
    int exponent;
    frexp(x, &exponent);
    return ldexp((real)1, exponent - 1);
}

extern "C" __global__ void normalise(const real *x, const real *weight, const real *bias, long long has_bias,
                                     long long C, real eps, real *y, real *xhat, real *rstd)
{
    __shared__ real counts[256], means[256], squares[256];
    long long row = blockIdx.x * C;
    int i = threadIdx.x;
    real s = 1;
    for (int pass = 0; pass < 2; pass++) {
        real n = 0, mean = 0, m2 = 0;
        for (long long c = i; c < C; c += blockDim.x) {
            n += 1;
            real d = x[row + c] / s - mean;
            mean += d / n;
            m2 += d * (x[row + c] / s - mean);
        }
        counts[i] = n;
        means[i] = mean;
        squares[i] = m2;
        __syncthreads();
        for (int half = blockDim.x / 2; half > 0; half /= 2) {
            if (i < half && counts[i + half] > 0) {
                real a = counts[i], b = counts[i + half], d = means[i + half] - means[i];
                means[i] += d * (b / (a + b));
                squares[i] += squares[i + half] + d * d * (a * b / (a + b));
                counts[i] = a + b;
            }
            __syncthreads();
        }
        if (isfinite(squares[0]))
            break; // all threads at once, for they read the same number
        real largest = 0;
        for (long long c = i; c < C; c += blockDim.x)
            largest = fabs(x[row + c]) > largest ? fabs(x[row + c]) : largest;
        largest = block_max(largest);
        s = pass == 0 ? power_of_two_below(largest) : s;
    }
    real mean = means[0];
    real r = 1 / sqrt(squares[0] / C + eps / s / s);
    if (i == 0)
        rstd[blockIdx.x] = r / s;
    for (long long c = i; c < C; c += blockDim.x) {
        real hat = (x[row + c] / s - mean) * r, scaled = hat * weight[c];
        xhat[row + c] = hat;
        y[row + c] = has_bias ? scaled + bias[c] : scaled;
    }
}

extern "C" __global__ void input_gradient(const real *dy, const real *xhat, const real *rstd,
                                          const real *weight, long long C, real *dx)
{
    long long row = blockIdx.x * C;
    real a = 0, b = 0;
    for (long long c = threadIdx.x; c < C; c += blockDim.x) {
        real g = dy[row + c] * weight[c];
        a += g;
        b += g * xhat[row + c];
    }
    real mean_g = block_sum(a) / C, mean_g_xhat = block_sum(b) / C;
    for (long long c = threadIdx.x; c < C; c += blockDim.x)
        dx[row + c] = rstd[blockIdx.x] * (dy[row + c] * weight[c] - mean_g - xhat[row + c] * mean_g_xhat);
}

// Σ dy x̂ and Σ dy over a tile of rows, a thread a column: sums (tiles, 2, C)
extern "C" __global__ void tile_sums(const real *dy, const real *xhat, long long N, long long C,
                                     long long tile, double *sums)
{
    long long c = blockIdx.y * (long long)blockDim.x + threadIdx.x;
    if (c >= C)
        return;
    long long first = blockIdx.x * tile, last = first + tile < N ? first + tile : N;
    double products = 0, plain = 0;
    for (long long n = first; n < last; n++) {
        real d = dy[n * C + c];
        products += (double)d * xhat[n * C + c];
        plain += d;
    }
    sums[2 * blockIdx.x * C + c] = products;
    sums[(2 * blockIdx.x + 1) * C + c] = plain;
}
"""


def layernorm_forward(x, weight, bias=None, *, eps=1e-5):
    """Twin of ops.norms.layernorm_forward."""
    import cupy as cp

    C = x.shape[-1]
    x = cp.ascontiguousarray(x)
    y, xhat, rstd = cp.empty_like(x), cp.empty_like(x), cp.empty((*x.shape[:-1], 1), x.dtype)
    weight = cp.ascontiguousarray(weight)
    biases = weight if bias is None else cp.ascontiguousarray(bias)  # not read without a bias
    args = x, weight, biases, bias is not None, C, eps, y, xhat, rstd
    launch(NORMS_SOURCE, "normalise", x.dtype, (rstd.size,), threads_for(C), *args)
    return y, (xhat, rstd, weight, bias is not None)


def layernorm_backward(dy, saved, into=(None, None)):
    """Twin of ops.norms.layernorm_backward; into: where the gradients of weight and bias go."""
    import cupy as cp

    xhat, rstd, weight, has_bias = saved
    dy, xhat, weight = (cp.ascontiguousarray(a) for a in (dy, xhat, weight))
    C, N, dtype = dy.shape[-1], rstd.size, dy.dtype
    dx = cp.empty_like(dy)
    launch(NORMS_SOURCE, "input_gradient", dtype, (N,), threads_for(C), dy, xhat, rstd, weight, C, dx)
    threads, tiles = threads_for(C), tiles_of(N)
    sums = cp.empty((tiles, 2, C), "float64")
    blocks = tiles, blocks_of(C, threads)
    launch(NORMS_SOURCE, "tile_sums", dtype, blocks, threads, dy, xhat, N, C, TILE, sums)
    grads = [dx]
    for n, place in enumerate(into if has_bias else into[:1]):  # the weight's, then the bias's
        gradient, add = place or (cp.empty_like(weight), False)
        add_tiles(sums, n, gradient, add)
        grads.append(gradient)
    return (*grads, None)[:3]
