"""Whether kernels have products of bfloat16 operands, and the flag by which one asks for them."""

import ctypes
import functools

import llvmlite.binding
from numba.core.codegen import get_host_cpu_features

from . import jit, precision
from .blas import BF16_PRODUCT, MKL_BF16_PRODUCT, mkl_bf16

FEATURES = get_host_cpu_features().split(",")
HAS_INSTRUCTION = "+avx512bf16" in FEATURES
HAS_TILES = "+amx-bf16" in FEATURES  # of which MKL makes the faster product, where it is installed
# The formats that products in kernels know: the PRECISIONS of a module of twins that has any.
PRECISIONS = ("bf16",) if HAS_INSTRUCTION else ()


def flag():
    """True where products are computed in bf16, else None: the argument bf16 of kernels, which gemm is given.

    Numba compiles a kernel for each of the two when it is first asked for.
    """
    if precision.current() != "bf16":
        return None
    _make_ready()
    return True


@functools.cache
def _make_ready():
    """Compile the product, which takes a few seconds once, and give it the name by which kernels call it.

    Imported here only: LLVM ends the process where it compiles an instruction that the processor lacks.
    """
    assert HAS_INSTRUCTION
    with jit.LOCK:
        mkl = mkl_bf16() if HAS_TILES else None
        if mkl is None:
            from . import bf16_numba as product
        else:
            llvmlite.binding.add_symbol(MKL_BF16_PRODUCT, ctypes.cast(mkl, ctypes.c_void_p).value)
            from . import bf16_mkl_numba as product
        llvmlite.binding.add_symbol(BF16_PRODUCT, product.as_blas().address)
