"""The embedding's gradient on a GPU: the order of its sums is stated and kept, whatever the ids.

In the twin and in the specification.
"""

import functools

import cuda_on_cpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_kernels import cupy, device, host  # noqa: F401 (a fixture)

from numgpt import ops
from numgpt.ops import embedding_cupy
from numgpt.ops.embedding import add_at

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
each = pytest.mark.parametrize("dtype", ["float32", "float64"])
SOURCE = embedding_cupy.EMBEDDING_SOURCE


def gradient(backward, dy, ids, weight):
    return host(backward(device(dy), device((ids, weight)))[1])


def by_chunks(dy, ids, weight, chunk):
    """Σ of each id's rows: chunks of so many in the order of the tokens, then the chunks in order."""
    expected = np.zeros_like(weight)
    for v in np.unique(ids):
        rows, zero = dy[ids == v], np.zeros_like(dy[0])
        parts = [functools.reduce(np.add, rows[i : i + chunk], zero) for i in range(0, len(rows), chunk)]
        expected[v] = functools.reduce(np.add, parts)
    return expected


def assert_adds_by_chunks(ids, chunk, monkeypatch, source=SOURCE):
    """In all orders of blocks and threads, to the bit."""
    rng = np.random.default_rng(0)
    dy, weight = rng.standard_normal((len(ids), 3)).astype("float32"), np.zeros((9, 3), "float32")
    with monkeypatch.context() as patch:
        patch.setattr(embedding_cupy, "CHUNK", chunk)
        patch.setattr(embedding_cupy, "EMBEDDING_SOURCE", source)
        for name in cuda_on_cpu.ORDERS:
            with cuda_on_cpu.order(name):
                found = gradient(embedding_cupy.embedding_backward, dy, ids, weight)
                assert found.tobytes() == by_chunks(dy, ids, weight, chunk).tobytes()


SKEWED = [
    np.random.default_rng(seed).permutation(np.repeat([0, 3, 4, 8], [1, 7, 40, 16])) for seed in range(4)
]


@each
def test_ids_that_are_not_too_frequent_get_the_bits_of_numpys_scatter_add(dtype):
    """Few ids, each often: an order other than the tokens' would round otherwise."""
    rng = np.random.default_rng(0)
    ids, dy = rng.integers(0, 5, (4, 70)), rng.standard_normal((4, 70, 300)).astype(dtype)
    weight = np.zeros((9, 300), dtype)
    assert np.bincount(ids.reshape(-1)).max() <= embedding_cupy.CHUNK
    expected = ops.embedding.backward(dy, (ids, weight))[1]
    for backward in (embedding_cupy.embedding_backward, ops.embedding.backward):
        assert gradient(backward, dy, ids, weight).tobytes() == expected.tobytes()
    turned = ops.embedding.backward(dy[::-1, ::-1], (ids[::-1, ::-1], weight))[1]
    assert turned.tobytes() != expected.tobytes()


@settings(max_examples=40)
@given(
    chunk=st.integers(1, 7),
    counts=st.lists(st.integers(0, 23), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_the_tokens_of_an_id_are_added_up_by_chunks_and_the_chunks_in_order(chunk, counts, seed):
    ids = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    with pytest.MonkeyPatch.context() as patch:
        assert_adds_by_chunks(ids, chunk, patch)


@pytest.mark.parametrize("before, after", [
    ("before % chunk) % chunk", "before % chunk)"),
    ("n < begin + chunk && ids", "n <= begin + chunk && ids"),
    ("n < first + chunk && ids", "ids"),
    ("n < first + chunk && ids", "n < first + chunk - 1 && ids"),
    ("first > 0 && ids[first - 1] == id", "false"),
    ("n += chunk", "n += chunk + 1"),
    ("parts[n / chunk * C + c]", "parts[(n / chunk + 1) * C + c]"),
])  # fmt: skip
def test_a_mistake_in_a_chunk_is_found(before, after, monkeypatch):
    assert SOURCE.count(before) == 1
    found = []
    for ids in SKEWED:
        try:
            assert_adds_by_chunks(ids, 4, monkeypatch, SOURCE.replace(before, after))
        except AssertionError:
            found.append(ids)
    assert found, "the mistake shows nowhere"


@each
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_one_token_that_is_half_of_the_text_errs_by_its_chunks_not_by_its_count(share, dtype):
    """|error| ≤ k u/(1 − k u) Σ |dy|, u = eps/2, where a term goes through k = CHUNK + n/CHUNK + 1 additions.

    Equal rows, whose roundings do not cancel: added up one after the other they err by more than that.
    """
    N, rng = 100_000, np.random.default_rng(0)
    ids = np.where(rng.random(N) < share, 3, rng.integers(0, 9, N))
    dy, weight = np.full((N, 2), 0.1, dtype), np.zeros((9, 2), dtype)
    n = (ids == 3).sum()
    exact = n * np.asarray(dy[0, 0], "longdouble")
    k, u = embedding_cupy.CHUNK + n / embedding_cupy.CHUNK + 1, np.finfo(dtype).eps / 2
    bound = k * u / (1 - k * u) * exact
    assert abs(gradient(embedding_cupy.embedding_backward, dy, ids, weight)[3] - exact).max() <= bound
    assert abs(ops.embedding.backward(dy, (ids, weight))[1][3] - exact).max() > bound


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_the_specification_adds_in_a_fixed_order_on_the_gpu_too(dtype, order, monkeypatch):
    """By chunks, where CuPy's scatter-add is atomic; for complex numbers and any layout of the weight too."""
    monkeypatch.setattr(embedding_cupy, "CHUNK", 4)
    rng = np.random.default_rng(0)
    ids, factor = rng.integers(0, 3, 40), 1 + 2j if dtype == "complex128" else 1
    dy = (rng.standard_normal((40, 5)).astype(dtype) * factor).astype(dtype)
    weight = np.zeros((7, 5), dtype, order)
    expected = by_chunks(dy, ids, weight, 4)
    for name in cuda_on_cpu.ORDERS:
        with cuda_on_cpu.order(name):
            found = gradient(ops.embedding.backward, dy, ids, weight)
            assert found.dtype == dtype and found.tobytes() == expected.tobytes()


def test_rows_are_added_to_what_is_there():
    array, ids = np.random.default_rng(0).standard_normal((4, 2)), np.array([[1, 3], [1, 1]])
    rows = np.random.default_rng(1).standard_normal((2, 2, 2))
    there = device(array)
    add_at(there, device(ids), device(rows))
    add_at(array, ids, rows)
    # Three additions in another order.
    np.testing.assert_allclose(host(there), array, rtol=0, atol=8 * np.finfo(float).eps)
    add_at(there, device(ids[:0]), device(rows[:0]))  # no rows
