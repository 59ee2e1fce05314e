"""Twin of cross_entropy on a GPU: a block a row, whose logits are read once forward and once backward."""

from ..engine.cuda import THREADS, launch, threads_for
from ..errors import InputError

# Each thread carries the maximum m of its entries and Σ exp(x − m), scaled anew when m grows; at the end all
# are scaled to the row's maximum. An entry equal to the maximum counts 1, also where both are −∞: exp(∞ − ∞)
# would be NaN.
LOSSES_SOURCE = r"""
extern "C" __global__ void surprises(const real *logits, const long long *ids, long long V, real *top,
                                     real *total, double *surprise)
{
    const real *row = logits + blockIdx.x * V;
    real m = row[0], s = 0;
    for (long long v = threadIdx.x; v < V; v += blockDim.x) {
        real x = row[v];
        if (x > m) {
            s *= exp(m - x);
            m = x;
        }
        s += x == m ? 1 : exp(x - m);
    }
    real m_row = block_max(m), s_row = block_sum(s * exp(m - m_row));
    if (threadIdx.x == 0) {
        long long id = ids[blockIdx.x];
        top[blockIdx.x] = m_row;
        total[blockIdx.x] = s_row;
        surprise[blockIdx.x] = id < 0 ? 0 : log((double)s_row) - ((double)row[id] - m_row);
    }
}

// one block: Σ surprise / count, in double
extern "C" __global__ void mean_surprise(const double *surprise, long long N, double count, real *loss)
{
    double s = 0;
    for (long long n = threadIdx.x; n < N; n += blockDim.x)
        s += surprise[n];
    s = block_sum(s);
    if (threadIdx.x == 0)
        *loss = s / count;
}

// dlogits may be the logits themselves: an entry is read and written by one thread
extern "C" __global__ void surprise_gradients(const real *logits, const long long *ids, const real *top,
                                              const real *total, const real *dy, double count, long long V,
                                              real *dlogits)
{
    long long row = blockIdx.x * V, id = ids[blockIdx.x];
    real m = top[blockIdx.x], s = total[blockIdx.x], scale = *dy * (real)(1 / count);
    for (long long v = threadIdx.x; v < V; v += blockDim.x)
        dlogits[row + v] = id < 0 ? 0 : (exp(logits[row + v] - m) / s - (v == id)) * scale;
}
"""


def cross_entropy_forward(logits, targets, *, count=None):
    """Twin of ops.losses.cross_entropy_forward.

    Where count is not given, the number of targets that count is fetched from the GPU: the host waits for it.
    """
    import cupy as cp

    V, dtype = logits.shape[-1], logits.dtype
    logits, ids = cp.ascontiguousarray(logits), _ids(targets.reshape(-1))
    count = int((ids >= 0).sum() if count is None else count)
    if count == 0:
        raise InputError("cross_entropy: no target counts, expected at least one that is not negative")
    N = ids.size
    top, total = cp.empty((N, 1), dtype), cp.empty((N, 1), dtype)
    surprise, loss = cp.empty(N, "float64"), cp.empty((), dtype)
    launch(LOSSES_SOURCE, "surprises", dtype, (N,), threads_for(V), logits, ids, V, top, total, surprise)
    launch(LOSSES_SOURCE, "mean_surprise", dtype, (1,), THREADS, surprise, N, count, loss)
    return loss, (logits, ids, top, total, count)


def cross_entropy_backward(dy, saved, spare=False):
    """Twin of ops.losses.cross_entropy_backward; spare: the gradient may take the logits' place."""
    import cupy as cp

    logits, ids, top, total, count = saved
    V, dtype = logits.shape[-1], logits.dtype
    logits, ids = cp.ascontiguousarray(logits), _ids(ids)
    dlogits = logits if spare else cp.empty_like(logits)
    dy = dy if isinstance(dy, cp.ndarray) else cp.full((), dy, dtype)
    args = logits, ids, top, total, dy, count, V, dlogits
    launch(LOSSES_SOURCE, "surprise_gradients", dtype, (ids.size,), threads_for(V), *args)
    return dlogits, None


def _ids(ids):
    """Targets as the kernels read them."""
    import cupy as cp

    return cp.ascontiguousarray(ids.astype("int64", copy=False))
