"""Matrix products inside kernels: a BLAS called by pointer, one thread a call, so that the kernels' threads are the only pool."""

import contextlib
import ctypes
import functools
import glob
import importlib.metadata
import os
import sys

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import overload

from .jit import kernel

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def _mkl():
    """The extra [fast]: MKL, told to bring no threads of its own."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError, AttributeError):
        for file in importlib.metadata.files("mkl") or ():
            if "mkl_rt" in file.name:
                library = ctypes.CDLL(str(file.locate()))
                library.MKL_Set_Threading_Layer(1)  # sequential
                return "MKL", library.cblas_sgemm_64, library.cblas_dgemm_64, None, None


def _numpy_openblas():
    """The OpenBLAS that NumPy's wheel carries, and failing that SciPy's wheel of it."""
    folders = [os.path.join(os.path.dirname(os.path.dirname(np.__file__)), "numpy.libs"), os.path.join(os.path.dirname(np.__file__), ".dylibs")]
    with contextlib.suppress(ImportError):
        import scipy_openblas64

        folders.append(scipy_openblas64.get_lib_dir())
    for path in (p for folder in folders for p in glob.glob(os.path.join(folder, "*scipy_openblas64_*"))):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            return "OpenBLAS", library.scipy_cblas_sgemm64_, library.scipy_cblas_dgemm64_, library.scipy_openblas_get_num_threads64_, library.scipy_openblas_set_num_threads64_


NAME, _sgemm, _dgemm, _get_threads, _set_threads = os.environ.get("NUMGPT_BLAS") != "openblas" and _mkl() or _numpy_openblas() or ("none", None, None, None, None)


def available():
    """Whether there is a BLAS that kernels can call."""
    return _sgemm is not None


@contextlib.contextmanager
def one_thread():
    """Within it a BLAS call uses the calling thread only."""
    if _set_threads is None:
        yield
        return
    before = _get_threads()
    _set_threads(1)
    try:
        yield
    finally:
        _set_threads(before)


def _symbol(name, function, dtype):
    """Register an address by name, so that cached kernels find it again in another process."""
    llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    i32, i64, p = types.int32, types.int64, types.voidptr
    return types.ExternalFunction(name, types.void(i32, i32, i32, i64, i64, i64, dtype, p, i64, p, i64, dtype, p, i64))


if available():
    _sgemm_symbol = _symbol("numgpt_sgemm", _sgemm, types.float32)
    _dgemm_symbol = _symbol("numgpt_dgemm", _dgemm, types.float64)


def _gemm(ta, tb, alpha, a, b, beta, c):
    """c ← alpha op(a) op(b) + beta c for 2-d arrays whose rows are contiguous."""


@overload(_gemm)
def _gemm_overload(ta, tb, alpha, a, b, beta, c):
    if c.dtype == types.float32:
        call, dtype, size = _sgemm_symbol, types.float32, 4
    else:
        call, dtype, size = _dgemm_symbol, types.float64, 8

    def run(ta, tb, alpha, a, b, beta, c):
        M, N = c.shape
        K = a.shape[0] if ta else a.shape[1]
        call(
            ROW_MAJOR, TRANSPOSED if ta else PLAIN, TRANSPOSED if tb else PLAIN, M, N, K, dtype(alpha),
            a.ctypes, max(a.strides[0] // size, a.shape[1]), b.ctypes, max(b.strides[0] // size, b.shape[1]),
            dtype(beta), c.ctypes, max(c.strides[0] // size, N),
        )

    return run


@kernel
def gemm(ta, tb, alpha, a, b, beta, c):
    """c ← alpha op(a) op(b) + beta c, op(x) = xᵀ where the flag is set; rows contiguous, strides free."""
    _gemm(ta, tb, alpha, a, b, beta, c)


@functools.cache
def keep_memory():
    """Have the C library keep the memory that arrays leave, instead of giving it back and paging it in again at every step."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD; 32 MiB is the most that glibc takes
            libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
