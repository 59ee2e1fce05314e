"""Products of bfloat16 operands in kernels: exact but for their sums, whatever the shapes and threads."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="Numba is not installed")

import numgpt
from numgpt.engine import bf16, jit, precision
from numgpt.engine.blas import gemm
from numgpt.engine.formats import rounded
from numgpt.engine.jit import launch, parallel
from numgpt.ops import linear_numba

with_instruction = pytest.mark.skipif(
    not bf16.HAS_INSTRUCTION, reason="the processor has no AVX-512 BF16, of which these kernels are made"
)

# Products of bf16 numbers are float32 numbers, so only the sums are rounded, in blocks of 512 terms. Float32
# operands, rounded nowhere, lie 2e-3 away, and sums of 8 bits further.
TOLERANCE = 4e-7
# One of everything; whole panels and parts of them; odd sizes; more than one block along each axis.
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
    before = jit.threads()
    yield
    numgpt.set_threads(before)


def operands(M, N, K, ta, tb):
    """a and b as they lie in memory, slices of columns of larger arrays."""
    random = np.random.default_rng((M, N, K))
    shapes = (K, M + 3) if ta else (M, K + 3), (N, K + 1) if tb else (K, N + 1)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return a[:, : (M if ta else K)], b[:, : (K if tb else N)]


def exact(a, b, ta, tb):
    """op(a) op(b) of rounded operands in float64."""
    a, b = (np.float64(rounded(np.ascontiguousarray(x), "bf16")) for x in (a, b))
    return (a.T if ta else a) @ (b.T if tb else b)


def expect_near(y, expected, tolerance=TOLERANCE):
    distance = np.linalg.norm(y - expected) / np.linalg.norm(expected)
    assert distance <= tolerance, f"{distance:.1e} from float64, allowed {tolerance:.1e}"


@parallel
def scaled_products(task, ta, tb, alpha, a, b, beta, c, flag):
    """gemm with all that it takes, in a kernel."""
    gemm(ta, tb, alpha, a, b, beta, c, flag)


@with_instruction
@pytest.mark.parametrize(("ta", "tb"), TRANSPOSITIONS)
@pytest.mark.parametrize(("M", "N", "K"), SHAPES)
def test_a_product_is_that_of_the_rounded_operands(M, N, K, ta, tb):
    a, b = operands(M, N, K, ta, tb)
    with precision.of_products("bf16"):
        y = linear_numba.multiply(ta, tb, a, b)
    expect_near(y, exact(a, b, ta, tb))


@with_instruction
@pytest.mark.parametrize(("ta", "tb"), TRANSPOSITIONS)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.3, 0.0), (-2.0, 0.5)])
def test_it_is_scaled_and_added_to_what_is_there_and_writes_nowhere_else(ta, tb, alpha, beta):
    M, N, K = 37, 61, 1030
    a, b = operands(M, N, K, ta, tb)
    whole = np.random.default_rng(1).standard_normal((M + 2, N + 40)).astype(np.float32)
    before, c = whole.copy(), whole[1:-1, 3 : 3 + N]
    if beta == 0:
        c[...] = np.nan  # is not read
    with precision.of_products("bf16"):
        launch(scaled_products, 1, ta, tb, alpha, a, b, beta, c, bf16.flag())
    here = np.float64(before[1:-1, 3 : 3 + N])
    expect_near(c, alpha * exact(a, b, ta, tb) + (beta * here if beta else 0))
    whole[1:-1, 3 : 3 + N] = before[1:-1, 3 : 3 + N]
    assert np.array_equal(whole, before)


@with_instruction
def test_a_product_of_no_terms_is_what_is_there():
    c = np.arange(6, dtype=np.float32).reshape(2, 3)
    with precision.of_products("bf16"):
        none = np.empty((2, 0), np.float32), np.empty((0, 3), np.float32)
        launch(scaled_products, 1, False, False, 1.0, *none, 0.5, c, bf16.flag())
    assert c.tolist() == [[0, 0.5, 1], [1.5, 2, 2.5]]


@with_instruction
def test_what_is_not_finite_stays_so_and_spoils_no_other_row():
    a, b = operands(20, 30, 40, False, False)
    a = a.copy()
    a[3, 7], a[5, 8], a[6, 9] = np.nan, np.inf, 3.4e38  # the last one overflows when it is rounded
    with precision.of_products("bf16"):
        y = linear_numba.multiply(False, False, a, b)
    assert np.isnan(y[3]).all()
    assert np.isinf(y[[5, 6]]).all()
    assert np.isfinite(np.delete(y, [3, 5, 6], 0)).all()


@with_instruction
def test_the_law_tells_what_rounds_nothing():
    """Else a kernel that forgot its flag would pass."""
    a, b = operands(96, 512, 128, False, False)
    with pytest.raises(AssertionError, match="allowed"):
        expect_near(linear_numba.multiply(False, False, a, b), exact(a, b, False, False))


@with_instruction
def test_float64_is_multiplied_as_it_is():
    a, b = (np.float64(x) for x in operands(20, 30, 40, False, False))
    with precision.of_products("bf16"):
        y = linear_numba.multiply(False, False, a, b)
    expect_near(y, a @ b, 1e-14)


SMALL = {"vocab_size": 65, "block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 96}
LLAMA = SMALL | {"norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "bias": False}
MODELS = {
    "fused blocks": (SMALL, (12, 64)),
    "ops": (SMALL, (3, 32)),
    "one row": (SMALL, (1, 5)),
    "fused LLaMA": (LLAMA, (12, 64)),
    "experts, all asked": (SMALL | {"n_expert": 2, "n_expert_active": 2}, (12, 64)),
}


def gradient(config, batch, engine, dtype, name=None):
    """The gradient of the loss with respect to all parameters, in one array of float64."""
    numgpt.use(engine)
    model = numgpt.GPT(numgpt.Config(**config), dtype=dtype, seed=3)
    tokens, targets = np.random.default_rng(0).integers(0, 65, (2, *batch))
    with precision.of_products(name):
        _, grads = model.loss_and_grads(tokens, targets)
    return np.concatenate([np.float64(grads[name]).ravel() for name in sorted(grads)])


@with_instruction
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_errs_as_the_specification_in_bf16_does(kind):
    """A model is no law for a product: roundings of 2⁻⁹ differ where a block divides its work otherwise."""
    config, batch = MODELS[kind]
    true = gradient(config, batch, "reference", "float64")
    expected, own = (
        np.linalg.norm(gradient(config, batch, engine, "float32", "bf16") - true) / np.linalg.norm(true)
        for engine in ("reference", "numba")
    )
    assert expected / 3 < own < 1.5 * expected  # float32's are 1e-4 of it: each product of the model rounds


@with_instruction
@pytest.mark.parametrize("kind", MODELS)
def test_bits_do_not_depend_on_the_number_of_threads(kind):
    config, batch = MODELS[kind]
    each = []
    for threads in (1, 2):
        numgpt.set_threads(threads)
        each.append(gradient(config, batch, "numba", "float32", "bf16"))
    assert np.array_equal(*each)


BY_MKL = """
import sys, numpy as np, numgpt
from numgpt.engine import bf16, blas, precision
from numgpt.engine.formats import rounded
from numgpt.ops import linear_numba
if blas.mkl_bf16() is None:
    sys.exit("MKL is not installed")
bf16.HAS_TILES = True
numgpt.use("numba")
a, b = np.random.default_rng(0).standard_normal((2, 101, 67)).astype(np.float32)
x, y = (np.float64(rounded(m, "bf16")) for m in (a, b))
with precision.of_products("bf16"):
    for ta, expected in ((True, x.T @ y), (False, x @ y.T)):
        product = linear_numba.multiply(ta, not ta, a, b)
        assert np.linalg.norm(product - expected) <= 4e-7 * np.linalg.norm(expected)
assert "numgpt.engine.bf16_mkl_numba" in sys.modules
"""


@with_instruction
def test_mkl_may_multiply_in_its_place():
    """As it does where the processor has AMX; what it gives is the same everywhere."""
    done = subprocess.run([sys.executable, "-c", BY_MKL], capture_output=True, text=True)
    if "MKL is not installed" in done.stderr:
        pytest.skip("MKL is not installed")
    assert done.returncode == 0, done.stderr


WITHOUT = """
import numba.core.codegen as codegen, sys
features = codegen.get_host_cpu_features().replace("+avx512bf16", "-avx512bf16")
codegen.get_host_cpu_features = lambda: features
import numpy as np, numgpt
from numgpt.engine import precision
from numgpt.ops.linear import linear
numgpt.use("numba")
x, weight = np.random.default_rng(0).standard_normal((2, 70, 70)).astype(np.float32)
with precision.of_products("bf16"):
    y, _ = numgpt.engine.forward(linear, (x, weight))(x, weight)
numgpt.use("reference")
with precision.of_products("bf16"):
    assert np.array_equal(y, linear.forward(x, weight)[0])
assert "numgpt.engine.bfloat" not in sys.modules
"""


def test_nothing_is_compiled_where_the_processor_lacks_the_instruction():
    """LLVM would end the process; the specification runs instead."""
    subprocess.run([sys.executable, "-c", WITHOUT], check=True)
