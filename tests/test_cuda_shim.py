"""What kernels are looked at with, where there is no GPU, finds what is planted.

The shim finds mistakes, the compiler an error, the launcher a wrong array.
"""

import importlib
import pkgutil
import re
import types

import cuda_on_cpu
import numpy as np
import nvrtc
import pytest

import numgpt
from numgpt.engine import cuda

with_gcc = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
with_nvidia = pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
MODULES = [m.name for m in pkgutil.walk_packages(numgpt.__path__, "numgpt.") if m.name.endswith("_cupy")]
SOURCES = {
    name: text
    for m in MODULES
    for name, text in vars(importlib.import_module(m)).items()
    if name.endswith("_SOURCE")
}
every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
each = pytest.mark.parametrize("dtype", ["float32", "float64"])

ROW_SUMS = r"""
extern "C" __global__ void row_sums(const real *x, long long N, long long C, real *sums)
{
    __shared__ real part[256];
    if (blockIdx.x >= N)
        return;
    part[threadIdx.x] = 0;
    for (long long c = threadIdx.x; c < C; c += blockDim.x)
        part[threadIdx.x] += x[blockIdx.x * C + c];
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        sums[blockIdx.x] = part[0];
}
"""
X = np.random.default_rng(0).standard_normal((5, 300))
X = (X * 10.0 ** np.random.default_rng(1).integers(-6, 6, X.shape)).astype("float32")


def planted(before, after):
    """The source with a mistake."""
    assert before in ROW_SUMS
    return ROW_SUMS.replace(before, after)


def row_sums(source, order="forwards", blocks=5):
    """What the kernel of a source gives for X."""
    sums = np.full(len(X), np.nan, "float32")
    x, out = (types.SimpleNamespace(_host=a) for a in (X, sums))
    with cuda_on_cpu.order(order):
        kernel = cuda_on_cpu.raw_kernel(cuda.complete(source, "float32"), "row_sums")
        kernel((blocks,), (64,), (x, np.int64(len(X)), np.int64(X.shape[1]), out))
    return sums


def assert_sums(source):
    """Right, and with the same bits in all orders."""
    found = [row_sums(source, order) for order in cuda_on_cpu.ORDERS]
    atol = 300 * np.finfo("float32").eps * abs(X).max()
    np.testing.assert_allclose(found[0], X.astype("float64").sum(-1), rtol=0, atol=atol)
    assert len({f.tobytes() for f in found}) == 1, "the order shows"


@with_gcc
def test_a_right_kernel_passes():
    assert_sums(ROW_SUMS)


@with_gcc
@pytest.mark.parametrize(
    "before",
    ["x[blockIdx.x * C + c];\n    ", "part[threadIdx.x + half];\n        "],
    ids=["before the tree", "in the tree"],
)
def test_a_missing_barrier_is_found(before):
    with pytest.raises(AssertionError):
        assert_sums(planted(before + "__syncthreads();", before))


TWICE = r"""
extern "C" __global__ void twice(const real *x, double *sums, real *tops)
{
    int i = threadIdx.x, n = blockDim.x;
    sums[i] = block_sum(x[i]);
    sums[n + i] = block_sum(2 * x[i]);
    tops[i] = block_max(x[i]);
    tops[n + i] = block_max(-x[i]);
}
"""


def assert_prelude(prelude):
    """Each thread gets the sums and the maxima, in all orders."""
    x = np.random.default_rng(0).integers(-99, 99, 64).astype("float32")
    for order in cuda_on_cpu.ORDERS:
        sums, tops = np.zeros((2, 64)), np.zeros((2, 64), "float32")
        arrays = [types.SimpleNamespace(_host=a) for a in (x, sums, tops)]
        with cuda_on_cpu.order(order):
            cuda_on_cpu.raw_kernel(prelude + TWICE, "twice")((1,), (64,), arrays)
        assert (sums == x.sum() * np.array([[1], [2]])).all()
        assert (tops == np.array([[x.max()], [-x.min()]])).all()


@with_gcc
def test_each_barrier_of_the_sums_and_maxima_of_a_block_is_needed_and_missed():
    prelude = cuda.complete("", "float32")
    assert_prelude(prelude)
    places = [m.span() for m in re.finditer(r"__syncthreads\(\);", prelude)]
    assert len(places) == 6
    for start, end in places:
        with pytest.raises(AssertionError):
            assert_prelude(prelude[:start] + prelude[end:])


@with_gcc
def test_a_barrier_that_part_of_a_block_passes_by_is_found():
    zero = "    part[threadIdx.x] = 0;"
    source = planted(zero, f"    if (threadIdx.x == 7)\n        return;\n{zero}")
    with pytest.raises(AssertionError, match="wait at a barrier that others have passed by"):
        assert_sums(source)


@with_gcc
def test_shared_memory_that_nobody_set_is_found():
    with pytest.raises(AssertionError):
        assert_sums(planted("    part[threadIdx.x] = 0;\n", ""))


@with_gcc
def test_a_row_out_of_bounds_is_found():
    row_sums(ROW_SUMS, blocks=6)  # one block more than there are rows, which returns at once
    with pytest.raises(AssertionError, match=r"row_sums wrote outside an array of shape \(5,\)"):
        row_sums(planted("blockIdx.x >= N", "blockIdx.x > N"), blocks=6)
    with pytest.raises(AssertionError, match="wrote outside"):
        row_sums(planted("sums[blockIdx.x] =", "sums[blockIdx.x - 1ll] ="))


@with_gcc
def test_a_read_out_of_bounds_is_found():
    with pytest.raises(AssertionError):
        assert_sums(planted("c < C;", "c <= C;"))


@with_gcc
@pytest.mark.parametrize(
    "before, after",
    [
        (
            "sums[blockIdx.x] = part[0];",
            "sums[blockIdx.x] = sums[0] = (blockIdx.x == 0 ? 0 : sums[0]) + part[0];",
        ),
        ("part[threadIdx.x] += x[blockIdx.x * C + c];", "part[0] += x[blockIdx.x * C + c];"),
    ],
    ids=["of blocks", "of threads"],
)
def test_a_sum_in_the_order_in_which_it_happens_to_run_is_found(before, after):
    """As atomics would take it: right in some order, with bits that depend on it."""
    with pytest.raises(AssertionError):
        assert_sums(planted(before, after))


@with_gcc
def test_the_shim_takes_no_number_whose_size_is_a_guess_and_no_arrays_that_overlap():
    kernel = cuda_on_cpu.raw_kernel(cuda.complete(ROW_SUMS, "float32"), "row_sums")
    x = np.zeros(64, "float32")
    whole, half = types.SimpleNamespace(_host=x), types.SimpleNamespace(_host=x[32:])
    with pytest.raises(AssertionError, match="5 is no NumPy scalar"):
        kernel((1,), (32,), (whole, 5, np.int64(2), whole))
    with pytest.raises(AssertionError, match="arrays that overlap"):
        kernel((1,), (32,), (whole, np.int64(1), np.int64(2), half))
    with pytest.raises(AssertionError, match="given 1 arguments, it declares 4"):
        kernel((1,), (32,), (whole,))
    with pytest.raises(AssertionError, match="too high for a GPU"):
        kernel((1, 65536), (32,), (whole, np.int64(1), np.int64(2), whole))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 3)), np.zeros((2, 6), "float32")[:, ::2], np.zeros((2, 3), "int64")],
    ids=["dtype", "strides", "integers"],
)
def test_an_array_that_a_kernel_would_misread_is_not_launched(wrong):
    def arguments(*args):
        return list(cuda._arguments(ROW_SUMS, "row_sums", np.dtype("float32"), args))

    x, sums = np.zeros((2, 3), "float32"), np.zeros(2, "float32")
    assert len(arguments(x, 2, 3, sums)) == 4
    with pytest.raises(AssertionError, match="row_sums: x is"):
        arguments(wrong, 2, 3, sums)
    with pytest.raises(ValueError, match="shorter"):
        arguments(x, 2)


def test_numbers_get_the_size_that_a_kernel_declares():
    source = 'extern "C" __global__ void f(real a, double b, long long c,\n    const real *d) {}'
    assert cuda.parameters(source, "f") == (
        ("real", False, "a"),
        ("double", False, "b"),
        ("long long", False, "c"),
        ("real", True, "d"),
    )
    found = list(cuda._arguments(source, "f", np.dtype("float32"), (1, 1, True, np.zeros(1, "float32"))))
    assert [type(a) for a in found[:3]] == [np.float32, np.float64, np.int64]


def test_all_kernels_are_known():
    """Each declares what the launcher and the shim can read, and none has another's name."""
    names = [name for source in SOURCES.values() for name in cuda.names(source)]
    assert len(set(names)) == len(names) == sum(source.count("__global__") for source in SOURCES.values())
    assert all(cuda.parameters(source, name) for source in SOURCES.values() for name in cuda.names(source))


FORBIDDEN = r"atomic|__shfl|\basm\b|\bcurand|extern __shared__|clock|__ldg|#include"


@every_source
def test_a_kernel_uses_nothing_whose_order_is_chance_nor_what_the_shim_has_not(source):
    assert not re.search(FORBIDDEN, cuda.complete(source, "float32"))
    assert re.search(FORBIDDEN, planted("sums[blockIdx.x] = part[0]", "atomicAdd(sums, part[0])"))


@with_nvidia
@each
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
@every_source
def test_every_source_compiles_for_a_gpu(source, architecture, dtype):
    """Each kernel is there, and the compiler put in no atomic and no reduction in memory."""
    text = nvrtc.ptx(cuda.complete(source, dtype), architecture, cuda.OPTIONS)
    assert set(re.findall(r"\.entry (\w+)\(", text)) == set(cuda.names(source))
    assert not re.search(ATOMIC, text)


ATOMIC = r"\s(atom|red)\."


@with_nvidia
def test_what_a_gpus_compiler_would_refuse_or_order_by_chance_is_found():
    with pytest.raises(nvrtc.CompileError, match="error: expected a"):
        nvrtc.ptx(cuda.complete(planted("part[0];", "part[0]"), "float32"), "compute_80", cuda.OPTIONS)
    with pytest.raises(nvrtc.CompileError, match='identifier "rows" is undefined'):
        nvrtc.ptx(cuda.complete(planted(">= N", ">= rows"), "float32"), "compute_90", cuda.OPTIONS)
    atomic = planted("sums[blockIdx.x] = part[0]", "atomicAdd(sums, part[0])")
    assert re.search(ATOMIC, nvrtc.ptx(cuda.complete(atomic, "float32"), "compute_80", cuda.OPTIONS))


@with_nvidia
def test_no_product_and_sum_are_fused():
    """As in the specification; with the compiler's default they would be."""
    kernel = 'extern "C" __global__ void f(const real *a, real *b) { b[0] = a[0] * a[1] + a[2]; }'
    source = cuda.complete(kernel, "float32")
    assert "fma" not in nvrtc.ptx(source, "compute_80", cuda.OPTIONS)
    assert "fma" in nvrtc.ptx(source, "compute_80")


def test_sources_reach_the_compiler_in_ascii():
    assert cuda.complete("// Φ(x)\nreal x;", "float64").endswith("// (x)\nreal x;")
    assert "typedef double real;" in cuda.complete("", "float64")
