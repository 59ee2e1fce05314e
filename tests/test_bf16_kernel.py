"""The product of bfloat16 operands in kernels: exact but for its sums, whatever the shapes, on any number of threads."""

import itertools

import numpy as np
import pytest

import numgpt
from numgpt.engine import bf16, precision
from numgpt.engine.formats import rounded
from numgpt.ops import linear_numba

if not bf16.HAS_INSTRUCTION:
    pytest.skip("the processor has no AVX-512 BF16", allow_module_level=True)

# Float32 sums of up to a thousand products, whose operands are exact: 4e-7 is some six roundings.
TOLERANCE = 4e-7
# Whole panels and parts of them, one row, one column, one term, odd sizes, more than one block of each axis.
SHAPES = [
    (1, 1, 1),
    (8, 48, 32),
    (7, 5, 3),
    (33, 50, 65),
    (96, 512, 128),
    (100, 70, 1025),
    (481, 97, 513),
    (1000, 49, 31),
    (3, 1000, 600),
]
TRANSPOSITIONS = list(itertools.product((False, True), repeat=2))


@pytest.fixture(autouse=True)
def numba_engine():
    numgpt.use("numba")
    yield
    numgpt.set_threads(numgpt.engine.jit.numba_config.NUMBA_NUM_THREADS)


def operands(M, N, K, ta, tb, seed=0):
    """a and b as they lie in memory: in slices of columns, so that rows are further apart than they are long."""
    random = np.random.default_rng(seed)
    shapes = (K, M + 3) if ta else (M, K + 3), (N, K + 1) if tb else (K, N + 1)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return a[:, : (M if ta else K)], b[:, : (K if tb else N)]


def exact(a, b, ta, tb):
    """op(a) op(b) of rounded operands in float64."""
    a, b = (np.float64(rounded(np.ascontiguousarray(x), "bf16")) for x in (a, b))
    return (a.T if ta else a) @ (b.T if tb else b)


def distance(y, expected):
    return np.linalg.norm(y - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("ta", "tb"), TRANSPOSITIONS)
@pytest.mark.parametrize(("M", "N", "K"), SHAPES)
def test_a_product_is_that_of_the_rounded_operands(M, N, K, ta, tb):
    a, b = operands(M, N, K, ta, tb)
    with precision.of_products("bf16"):
        y = linear_numba.multiply(ta, tb, a, b)
    assert distance(y, exact(a, b, ta, tb)) < TOLERANCE
