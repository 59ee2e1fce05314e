"""Twin of softcap on a GPU, which a model's logits go through too: an element a thread."""

from ..engine.cuda import THREADS, blocks_of, launch

CAP_SOURCE = r"""
extern "C" __global__ void softcap(const real *x, real cap, long long N, real *y)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < N)
        y[i] = tanh(x[i] * (1 / cap)) * cap;
}

// dy (1 − tanh²) = dy 4 e / (1 + e)², in which nothing cancels
extern "C" __global__ void softcap_gradient(const real *x, const real *dy, real cap, long long N, real *dx)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= N)
        return;
    real e = exp(fabs(x[i]) * (-2 / cap));
    dx[i] = dy[i] * (4 * e / ((1 + e) * (1 + e)));
}
"""


def softcap_forward(x, *, cap=None):
    """Twin of ops.attention_steps.softcap_forward."""
    import cupy as cp

    cap = 50.0 if cap is None else cap
    x, y = cp.ascontiguousarray(x), cp.empty(x.shape, x.dtype)
    launch(CAP_SOURCE, "softcap", x.dtype, (blocks_of(x.size),), THREADS, x, cap, x.size, y)
    return y, (x, cap)


def softcap_backward(dy, saved):
    """Twin of ops.attention_steps.softcap_backward."""
    import cupy as cp

    x, cap = saved
    x, dy, dx = cp.ascontiguousarray(x), cp.ascontiguousarray(dy), cp.empty(x.shape, x.dtype)
    args = x, dy, cap, x.size, dx
    launch(CAP_SOURCE, "softcap_gradient", x.dtype, (blocks_of(x.size),), THREADS, *args)
    return (dx,)
