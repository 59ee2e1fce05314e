"""Twins of the norms on a GPU: a block a vector, all norms by the same kernels.

The parameters' gradients are added up by tiles of vectors, then the tiles in order.
"""

from typing import NamedTuple

from ..engine.cuda import blocks_of, launch, threads_for
from .tiles_cupy import TILE, add_tiles, tiles_of

# Vector n, of C channels, lies in row n / count of an array with `width` channels a row; a row has `count`
# vectors, one after the other, from channel `begin` on. x̂ holds the vectors and nothing else.
#
# The mean and Σ (x − mean)² are taken in one pass, in `real`: each thread follows its entries with Welford's
# update, and pairs of threads are merged with Chan's formula in a tree. Nothing is subtracted but an entry
# and a mean, so a large mean costs no more digits than it must: with n = ⌈C/256⌉ + 8 steps on the way of an
# entry, the mean errs by at most about n eps max|x|, and the variance relatively by n eps (1 + |mean|/σ). Two
# passes find the variance better where the mean is large, but not x̂, whose error is the mean's there. A
# vector whose squares overflow is gone through once more, divided by s, as in the specification. Where it is
# not centred, as in rmsnorm, the mean stays 0 and the squares are those of x.
NORMS_SOURCE = r"""
__device__ real power_of_two_below(real x)
{
    int exponent;
    frexp(x, &exponent);
    return ldexp((real)1, exponent - 1);
}

#define ROW(n) ((n) / count * width + begin + (n) % count * C)

extern "C" __global__ void normalise(const real *x, const real *weight, const real *bias,
                                     long long has_weight, long long has_bias, long long each,
                                     long long centred, long long C, long long count, long long width,
                                     long long begin, real eps, real *y, real *xhat, real *rstd)
{
    __shared__ real counts[256], means[256], squares[256];
    long long row = ROW(blockIdx.x), own = blockIdx.x % count * each; // each: 0 where all share a weight
    int i = threadIdx.x;
    real s = 1;
    for (int pass = 0; pass < 2; pass++) {
        real n = 0, mean = 0, m2 = 0;
        for (long long c = i; c < C; c += blockDim.x) {
            n += 1;
            real d = x[row + c] / s - mean;
            mean += centred ? d / n : 0;
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
        real hat = (x[row + c] / s - mean) * r, scaled = has_weight ? hat * weight[own + c] : hat;
        xhat[blockIdx.x * C + c] = hat;
        y[row + c] = has_bias ? scaled + bias[own + c] : scaled;
    }
}

extern "C" __global__ void input_gradient(const real *dy, const real *xhat, const real *rstd,
                                          const real *weight, long long has_weight, long long each,
                                          long long centred, long long C, long long count, long long width,
                                          long long begin, real *dx)
{
    long long row = ROW(blockIdx.x), hats = blockIdx.x * C, own = blockIdx.x % count * each;
    real a = 0, b = 0;
    for (long long c = threadIdx.x; c < C; c += blockDim.x) {
        real g = has_weight ? dy[row + c] * weight[own + c] : dy[row + c];
        a += g;
        b += g * xhat[hats + c];
    }
    real mean_g = block_sum(a) / C, mean_g_xhat = block_sum(b) / C;
    mean_g = centred ? mean_g : 0;
    for (long long c = threadIdx.x; c < C; c += blockDim.x) {
        real g = has_weight ? dy[row + c] * weight[own + c] : dy[row + c];
        dx[row + c] = rstd[blockIdx.x] * (g - mean_g - xhat[hats + c] * mean_g_xhat);
    }
}

// Σ dy x̂ and Σ dy over a tile of vectors, a thread a channel: sums (tiles, 2, C)
extern "C" __global__ void tile_sums(const real *dy, const real *xhat, long long N, long long C,
                                     long long count, long long width, long long begin, long long tile,
                                     double *sums)
{
    long long c = blockIdx.y * (long long)blockDim.x + threadIdx.x;
    if (c >= C)
        return;
    long long first = blockIdx.x * tile, last = first + tile < N ? first + tile : N;
    double products = 0, plain = 0;
    for (long long n = first; n < last; n++) {
        real d = dy[ROW(n) + c];
        products += (double)d * xhat[n * C + c];
        plain += d;
    }
    sums[2 * blockIdx.x * C + c] = products;
    sums[(2 * blockIdx.x + 1) * C + c] = plain;
}
"""


class Vectors(NamedTuple):
    """The vectors of an array (..., width): of C channels, count in a row, from channel begin on."""

    C: int
    count: int
    width: int
    begin: int = 0


def layernorm_forward(x, weight, bias=None, *, eps=1e-5):
    """Twin of ops.norms.layernorm_forward."""
    y, xhat, rstd = normalised(x, weight, bias, eps, whole(x))
    return y, (xhat.reshape(x.shape), rstd.reshape(*x.shape[:-1], 1), weight, bias is not None)


def layernorm_backward(dy, saved, into=(None, None)):
    """Twin of ops.norms.layernorm_backward; into: where the gradients of weight and bias go."""
    xhat, rstd, weight, has_bias = saved
    dx = input_gradient(dy, xhat, rstd, weight, whole(dy))
    dweight, dbias = gradients(dy, xhat, weight, whole(dy), into if has_bias else into[:1])
    return dx, dweight, dbias


def rmsnorm_forward(x, weight=None, *, eps=1e-5):
    """Twin of ops.norms.rmsnorm_forward."""
    y, xhat, rstd = normalised(x, weight, None, eps, whole(x), centred=False)
    return y, (xhat.reshape(x.shape), rstd.reshape(*x.shape[:-1], 1), weight)


def rmsnorm_backward(dy, saved, into=(None,)):
    """Twin of ops.norms.rmsnorm_backward; into: where the gradient of weight goes."""
    xhat, rstd, weight = saved
    dx = input_gradient(dy, xhat, rstd, weight, whole(dy), centred=False)
    if weight is None:
        return dx, None
    return dx, gradients(dy, xhat, weight, whole(dy), into)[0]


def standardise_forward(x, *, eps=1e-5):
    """Twin of ops.norms.standardise_forward."""
    y, _, rstd = normalised(x, None, None, eps, whole(x))
    return y, (y, rstd.reshape(*x.shape[:-1], 1))


def standardise_backward(dy, saved):
    """Twin of ops.norms.standardise_backward."""
    y, rstd = saved
    return (input_gradient(dy, y, rstd, None, whole(dy)),)


def whole(x):
    """Each row of x is one vector."""
    return Vectors(x.shape[-1], 1, x.shape[-1])


def normalised(x, weight, bias, eps, at, centred=True, each=0):
    """y, x as it is but for the vectors; x̂ (n, C) and r (n) of all n vectors.

    each: how far apart the weights of a row's vectors lie, 0 where they share one.
    """
    import cupy as cp

    x = cp.ascontiguousarray(x)
    n = x.size // at.width * at.count
    y = cp.empty_like(x) if at.C * at.count == at.width else x.copy()
    xhat = cp.empty((n, at.C), x.dtype)
    rstd = cp.empty(n, x.dtype)
    # What is not there is not read.
    weights, biases = (x if a is None else cp.ascontiguousarray(a) for a in (weight, bias))
    flags = weight is not None, bias is not None, each, centred
    args = x, weights, biases, *flags, *at, eps, y, xhat, rstd
    launch(NORMS_SOURCE, "normalise", x.dtype, (n,), threads_for(at.C), *args)
    return y, xhat, rstd


def input_gradient(dy, xhat, rstd, weight, at, centred=True, each=0):
    """The gradient of x as normalised read it."""
    import cupy as cp

    dy, xhat, rstd = (cp.ascontiguousarray(a) for a in (dy, xhat, rstd))
    dx = cp.empty_like(dy) if at.C * at.count == at.width else dy.copy()
    weights = dy if weight is None else cp.ascontiguousarray(weight)
    args = dy, xhat, rstd, weights, weight is not None, each, centred, *at, dx
    launch(NORMS_SOURCE, "input_gradient", dy.dtype, (rstd.size,), threads_for(at.C), *args)
    return dx


def gradients(dy, xhat, weight, at, into):
    """The gradients of weight and bias, which all vectors share; into: a place for each that is there."""
    import cupy as cp

    dy, xhat = cp.ascontiguousarray(dy), cp.ascontiguousarray(xhat)
    n, threads = xhat.size // at.C, threads_for(at.C)
    sums = cp.empty((tiles_of(n), 2, at.C), "float64")
    args = dy, xhat, n, *at, TILE, sums
    blocks = len(sums), blocks_of(at.C, threads)
    launch(NORMS_SOURCE, "tile_sums", dy.dtype, blocks, threads, *args)
    found = []
    for which, place in enumerate(into):  # the weight's, then the bias's
        gradient, add = place or (cp.empty(weight.shape, weight.dtype), False)
        add_tiles(sums, which, gradient.reshape(-1), add)
        found.append(gradient)
    return (*found, None)[:2]
