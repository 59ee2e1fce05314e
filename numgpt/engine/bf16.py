"""Whether kernels have products of bfloat16 operands, and the flag by which one asks for them."""

import functools

import llvmlite.binding
from numba.core.codegen import get_host_cpu_features

from . import jit, precision
from .blas import BF16_PRODUCT

HAS_INSTRUCTION = "+avx512bf16" in get_host_cpu_features()
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
        from . import bf16_numba

        llvmlite.binding.add_symbol(BF16_PRODUCT, bf16_numba.as_blas().address)
