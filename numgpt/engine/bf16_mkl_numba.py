"""The product of bfloat16 operands by MKL, which uses the tiles of a processor that has AMX."""

import functools

import numpy as np
from numba import types

from .bf16_numba import LINE, NUMBERS
from .bfloat import LANES, pack_row
from .blas import MKL_BF16_PRODUCT, TRANSPOSED
from .jit import compiled, kernel

# cblas_gemm_bf16bf16f32: as sgemm, with a and b of 16 bits.
multiply = types.ExternalFunction(MKL_BF16_PRODUCT, types.void(*NUMBERS))


@kernel
def width_of(columns):
    """Of a rounded matrix, with whole vectors."""
    return (columns + 2 * LANES - 1) // (2 * LANES) * (2 * LANES)


@kernel
def rounded_rows(x, stride, rows, columns, to):
    """A matrix of float32 as bfloat16, row by row."""
    for i in range(rows):
        for j in range(0, columns, 2 * LANES):
            pack_row(to + 2 * (i * width_of(columns) + j), x + i * stride + 4 * j, columns - j)


@kernel
def rounded_product(layout, ta, tb, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc):
    """c ← alpha op(a) op(b) + beta c by way of rounded copies."""
    rows_a, columns_a = (K, M) if ta == TRANSPOSED else (M, K)
    rows_b, columns_b = (N, K) if tb == TRANSPOSED else (K, N)
    size = 2 * rows_a * width_of(columns_a)
    memory = np.empty(size + 2 * rows_b * width_of(columns_b) + LINE, np.uint8)
    left = (memory.ctypes.data + LINE - 1) // LINE * LINE
    right = left + size
    rounded_rows(a, 4 * lda, rows_a, columns_a, left)
    rounded_rows(b, 4 * ldb, rows_b, columns_b, right)
    width_a, width_b = max(1, width_of(columns_a)), max(1, width_of(columns_b))
    multiply(layout, ta, tb, M, N, K, alpha, left, width_a, right, width_b, beta, c, ldc)
    # An array whose address alone is used would be freed after that use.
    return memory[0]


def product(layout, ta, tb, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc):
    """cblas_sgemm with its operands rounded to bfloat16."""
    rounded_product(layout, ta, tb, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc)


@functools.cache  # what holds the code
def as_blas():
    """The product in C's manner, with its address."""
    return compiled(product, types.void(*NUMBERS))
