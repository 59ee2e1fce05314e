"""Twins of the optimizer's arithmetic on a GPU; the norm and the factor that clips stay there."""

from ..engine.cuda import THREADS, blocks_of, launch

CHUNK = 16384  # entries whose squares one block adds up

OPTIM_SOURCE = r"""
extern "C" __global__ void chunk_squares(const real *x, long long N, long long chunk, double *sums)
{
    long long last = (blockIdx.x + 1) * chunk < N ? (blockIdx.x + 1) * chunk : N;
    double s = 0;
    for (long long i = blockIdx.x * chunk + threadIdx.x; i < last; i += blockDim.x)
        s += (double)x[i] * x[i];
    s = block_sum(s);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = s;
}

// one block: √Σ of the chunks' sums
extern "C" __global__ void root_of_sum(const double *sums, long long chunks, double *norm)
{
    double s = 0;
    for (long long i = threadIdx.x; i < chunks; i += blockDim.x)
        s += sums[i];
    s = block_sum(s);
    if (threadIdx.x == 0)
        *norm = sqrt(s);
}

extern "C" __global__ void update(real *w, const real *g, real *m, real *v, long long N, long long decayed,
                                  real beta1, real rest1, real beta2, real rest2, const real *clip, real keep,
                                  real eps, real root, real rate)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= N)
        return;
    real grad = g[i] * *clip;
    m[i] = m[i] * beta1 + rest1 * grad;
    v[i] = v[i] * beta2 + rest2 * grad * grad;
    w[i] = (i < decayed ? w[i] * keep : w[i]) - m[i] / (sqrt(v[i] / root) + eps) * rate;
}
"""


def global_norm(flat):
    """Twin of optim.global_norm; the norm is a device scalar in float64.

    Two launches: blocks cannot wait for each other without atomics.
    """
    import cupy as cp

    chunks = blocks_of(flat.size, CHUNK)
    sums, norm = cp.empty(chunks, "float64"), cp.empty((), "float64")
    launch(OPTIM_SOURCE, "chunk_squares", flat.dtype, (chunks,), THREADS, flat, flat.size, CHUNK, sums)
    launch(OPTIM_SOURCE, "root_of_sum", flat.dtype, (1,), THREADS, sums, chunks, norm)
    return norm


def adamw(w, g, m, v, decayed, betas, eps, weight_decay, clip, lr, t):
    """Twin of optim.adamw in one launch, with the specification's roundings.

    clip is a number, or an array () of w's dtype on the device.
    """
    import cupy as cp

    beta1, beta2 = betas
    clip = clip if isinstance(clip, cp.ndarray) else cp.full((), clip, w.dtype)
    decays = beta1, 1 - beta1, beta2, 1 - beta2
    keep, root, rate = 1 - lr * weight_decay, 1 - beta2**t, lr / (1 - beta1**t)
    args = w, g, m, v, w.size, decayed, *decays, clip, keep, eps, root, rate
    launch(OPTIM_SOURCE, "update", w.dtype, (blocks_of(w.size),), THREADS, *args)
