"""Matrix products inside kernels: a BLAS called by pointer.

It uses one thread a call, so that the kernels' threads are the only pool.
"""

import contextlib
import ctypes
import functools
import glob
import importlib.metadata
import os
import sys

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from . import blas_threads

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # CBLAS's own numbers
BF16_PRODUCT = "numgpt_bf16_product"  # what bf16.flag has made ready, called as sgemm is
MKL_BF16_PRODUCT = "numgpt_mkl_bf16_product"  # MKL's own, whose operands are of 16 bits


def _mkl():
    """MKL, which the extra [fast] installs; it is asked to use no threads of its own."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError, AttributeError):
        for file in importlib.metadata.files("mkl") or ():
            if "mkl_rt" in file.name:
                library = ctypes.CDLL(str(file.locate()))
                library.MKL_Set_Threading_Layer(1)  # sequential
                return "MKL", library.cblas_sgemm_64, library.cblas_dgemm_64, None


def _numpy_openblas():
    """The OpenBLAS that NumPy's wheel carries, and failing that SciPy's wheel of it."""
    paths = [*blas_threads.openblas_files()]
    with contextlib.suppress(ImportError):
        import scipy_openblas64

        paths += glob.glob(os.path.join(scipy_openblas64.get_lib_dir(), "*scipy_openblas64_*"))
    for path in paths:
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            return (
                "OpenBLAS",
                library.scipy_cblas_sgemm64_,
                library.scipy_cblas_dgemm64_,
                blas_threads.of(library),
            )


def _find():
    """(name, sgemm, dgemm, threads) of the BLAS that kernels call."""
    mkl = None if os.environ.get("NUMGPT_BLAS") == "openblas" else _mkl()
    return mkl or _numpy_openblas() or ("none", None, None, None)


NAME, _sgemm, _dgemm, POOL = _find()


def mkl_bf16():
    """MKL's product of bfloat16 operands, or None where MKL is not the BLAS in use or does not have it."""
    if NAME != "MKL":
        return None
    path = next(file for file in importlib.metadata.files("mkl") if "mkl_rt" in file.name)
    return getattr(ctypes.CDLL(str(path.locate())), "cblas_gemm_bf16bf16f32_64", None)


def available():
    """Whether there is a BLAS that kernels can call."""
    return _sgemm is not None


def one_thread():
    """A session: a BLAS call uses the calling thread only, and what underflows is 0."""
    return blas_threads.OneThread(POOL)


def _register():
    """Give the two functions a name each: by it a kernel from the cache finds them, wherever they lie now."""
    for name, function in (("numgpt_sgemm", _sgemm), ("numgpt_dgemm", _dgemm)):
        llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)


if available():
    _register()


@intrinsic
def gemm(typing, ta, tb, alpha, a, b, beta, c, bf16=None):
    """c ← alpha op(a) op(b) + beta c for 2-d arrays, op(x) = xᵀ where its flag ta or tb is set.

    Rows are contiguous, at any distance from each other. An intrinsic, only the instructions of the call: a
    function would be compiled anew for every mixture of layouts.

    bf16: None or True, see bf16.flag: whether float32 operands are rounded to bfloat16. Its type decides
    which function is called, so kernels without it are what they would be if there were no such argument.
    """
    if not a.dtype == b.dtype == c.dtype:
        raise TypingError(f"gemm: the matrices are {a.dtype}, {b.dtype} and {c.dtype}, expected one dtype")
    single = c.dtype == types.float32
    number, size = (ir.FloatType(), 4) if single else (ir.DoubleType(), 8)
    is_rounded = single and bf16 is not None and not isinstance(bf16, types.NoneType | types.Omitted)

    def codegen(context, builder, signature, values):
        i32, i64, pointer = ir.IntType(32), ir.IntType(64), cgutils.voidptr_t

        def matrix(i):
            array = context.make_array(signature.args[i])(context, builder, values[i])
            M, N = cgutils.unpack_tuple(builder, array.shape, 2)
            stride, _ = cgutils.unpack_tuple(builder, array.strides, 2)
            distance = builder.sdiv(stride, i64(size))
            # Of a single row the stride may be anything; a BLAS refuses one that is smaller than the row.
            leading = builder.select(builder.icmp_signed(">", distance, N), distance, N)
            return M, N, builder.bitcast(array.data, pointer), leading

        def factor(i):
            return context.cast(builder, values[i], signature.args[i], c.dtype)

        (a_rows, a_columns, a, lda), (_, _, b, ldb), (M, N, c_data, ldc) = matrix(3), matrix(4), matrix(6)
        K = builder.select(values[0], a_rows, a_columns)
        ops = [builder.select(values[i], i32(TRANSPOSED), i32(PLAIN)) for i in (0, 1)]
        kinds = [i32] * 3 + [i64] * 3 + [number, pointer, i64, pointer, i64, number, pointer, i64]
        name = "numgpt_sgemm" if single else "numgpt_dgemm"
        if is_rounded:
            name = BF16_PRODUCT
        call = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
        builder.call(call, [i32(ROW_MAJOR), *ops, M, N, K, factor(2), a, lda, b, ldb, factor(5), c_data, ldc])
        return context.get_dummy_value()

    given = types.Omitted(None) if bf16 is None else bf16
    return types.void(types.boolean, types.boolean, alpha, a, b, beta, c, given), codegen


@functools.cache
def keep_memory():
    """Have the C library keep the memory that arrays leave.

    Else it would give it back to the system and page it in again at every step. The largest arrays are left
    out: their memory would be broken up for small ones. linear_numba.ReusedMemory holds that of the logits.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, the most that glibc takes
            libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
