"""Twin of rotary on a GPU: an element a thread; what is turned reads its partner besides."""

from ..engine.cuda import blocks_of, launch, threads_for
from .rotary import angles_of

# x (N, W) holds W/D heads of size D in a row; a block works on a row, or part of one. The first `heads` of
# row n turn by the angles of row n mod P of cos and sin (P, half); sign −1 turns back. Both products are
# rounded before their sum, as in the specification.
ROTARY_SOURCE = r"""
extern "C" __global__ void turn(const real *x, const real *cos, const real *sin, real sign, long long W,
                                long long P, long long half, long long heads, long long D, real *y)
{
    int c = blockIdx.y * blockDim.x + threadIdx.x, j = c % (int)D; // 64 bits would take several times as long
    if (c >= W)
        return;
    long long i = blockIdx.x * W + c, p = blockIdx.x % (unsigned)P;
    if (c >= heads * D || j >= 2 * half)
        y[i] = x[i];
    else if (j < half)
        y[i] = x[i] * cos[p * half + j] - x[i + half] * (sign * sin[p * half + j]);
    else
        y[i] = x[i - half] * (sign * sin[p * half + j - half]) + x[i] * cos[p * half + j - half];
}
"""


def rotary_forward(qkv, *, n_head, n_kv_head=None, base=1e4, dim=None, scaling=None, start=0, positions=None):
    """Twin of ops.rotary.rotary_forward, with its bits."""
    angles = angles_of(qkv, n_head, n_kv_head, base, dim, scaling, start, positions)
    return _turned(qkv, *angles, 1), angles


def rotary_backward(dy, saved):
    """Twin of ops.rotary.rotary_backward, with its bits."""
    return (_turned(dy, *saved, -1),)


def _turned(x, cos, sin, heads, D, sign):
    """x (..., T, W), its first heads turned by the angles of cos and sin (..., T, R/2), or back."""
    import cupy as cp

    half, W = cos.shape[-1], x.shape[-1]
    if cos.ndim > 2:  # each vector has angles of its own
        cos, sin = (cp.broadcast_to(a, (*x.shape[:-1], half)).reshape(-1, half) for a in (cos, sin))
    x, cos, sin = (cp.ascontiguousarray(a) for a in (x, cos, sin))
    y = cp.empty(x.shape, x.dtype)
    threads, args = threads_for(W), (x, cos, sin, sign, W, len(cos), half, heads, D, y)
    launch(ROTARY_SOURCE, "turn", x.dtype, (x.size // W, blocks_of(W, threads)), threads, *args)
    return y
