"""Products on a GPU whose operands have 16 bits: cuBLAS adds up in float32, and gives float32.

CuPy's own product of float16 arrays gives float16 and that of float32 arrays knows TF32 for matrices alone,
so cuBLAS is asked here. Operands of bf16 are the upper halves of float32 numbers, as integers of 16 bits: no
package of types is needed, and none of CuPy's that may change.
"""

import math

import numpy as np

from .formats import rounded

R_32F, R_16F, R_16BF = 0, 2, 14  # CUDA's numbers of types: of floats with so many bits
COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77  # cuBLAS's: how it adds up
TYPES = {"bf16": (R_16BF, COMPUTE_32F), "fp16": (R_16F, COMPUTE_32F), "tf32": (R_32F, COMPUTE_32F_FAST_TF32)}
DEFAULT_ALGORITHM = -1


def multiply(a, b, name):
    """a @ b of float32 arrays (..., M, K) and (..., K, N) from operands in a format, as float32.

    cuBLAS counts along columns: in its eyes the rows of a are columns. It is asked for (a b)ᵀ = bᵀ aᵀ, which
    is a b along our rows.
    """
    import cupy as cp

    M, K, N = *a.shape[-2:], b.shape[-1]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c = cp.empty((*lead, M, N), "float32")
    if 0 in (*c.shape, K):
        return cp.zeros(c.shape, "float32")
    if b.ndim == 2 and a.ndim > 2:  # rows of all leading axes: one product
        return multiply(a.reshape(-1, K), b, name).reshape(c.shape)
    a, b = (operand(x, lead, name) for x in (a, b))
    kind, adds_up = TYPES[name]
    one, zero = np.ones((), "float32"), np.zeros((), "float32")
    cp.cuda.cublas.gemmStridedBatchedEx(
        cp.cuda.get_cublas_handle(),
        *(0, 0, N, M, K),  # neither is transposed
        one.ctypes.data,
        # of each: where, of what, from one row to the next, from one matrix to the next
        *(b.data.ptr, kind, N, K * N),
        *(a.data.ptr, kind, K, M * K),
        zero.ctypes.data,
        *(c.data.ptr, R_32F, N, M * N),
        *(math.prod(lead), adds_up, DEFAULT_ALGORITHM),
    )
    return c


def operand(x, lead, name):
    """An operand (*lead, …) in a format, its rows one after the other."""
    import cupy as cp

    x = cp.broadcast_to(x, (*lead, *x.shape[-2:]))
    if name == "fp16":
        x = x.astype("float16")
    elif name == "bf16":
        x = (rounded(x, name).view("uint32") >> 16).astype("uint16")
    return cp.ascontiguousarray(x)
