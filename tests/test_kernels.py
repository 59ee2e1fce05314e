"""What kernels stand on: tasks on threads, reused memory, products of a few rows, the largest of a row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

numba = pytest.importorskip("numba", reason="Numba is not installed")

from numgpt import GPT, Config, engine
from numgpt.engine.jit import launch, parallel, set_threads, threads
from numgpt.model.generate import logits_stream
from numgpt.ops import linear_numba
from numgpt.ops.elementary_numba import row_max
from numgpt.ops.few_rows_numba import FEW, logits_of_few, multiply_few, suits, suits_logits
from numgpt.ops.linear_numba import ReusedMemory

every_count = pytest.mark.parametrize("count", [1, 2])
both = pytest.mark.parametrize("dtype, wider", [("float32", "float64"), ("float64", "longdouble")])


@pytest.fixture(autouse=True)
def threads_as_before():
    before = threads()
    yield
    set_threads(before)


@parallel
def count_up(task, counts):
    counts[task] += 1


@parallel
def fail_at_three(task, counts):
    if task == 3:
        raise MemoryError
    counts[task] += 1


@every_count
@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 7, 64, 1001])
def test_every_task_runs_once(tasks, count):
    set_threads(count)
    counts = np.zeros(tasks + 1, int)
    for _ in range(20):
        launch(count_up, tasks, counts)
    assert counts.tolist() == [20] * tasks + [0]


@every_count
def test_a_failed_task_raises_after_all_others_have_run(count):
    set_threads(count)
    counts = np.zeros(6, int)
    with pytest.raises(MemoryError):
        launch(fail_at_three, 6, counts)
    assert counts.tolist() == [1, 1, 1, 0, 1, 1]


@parallel
def doubled_prefix_sums(phase, task, x, sums, seen):
    if phase == 0:
        x[task] *= 2
    elif phase == 1:
        sums[task] = x[: task + 1].sum()
        if task == 2:
            raise MemoryError
    else:
        seen[task] = sums.sum()


@every_count
@pytest.mark.parametrize("tasks", [1, 2, 50])
def test_a_phase_finds_all_that_the_one_before_wrote(tasks, count):
    set_threads(count)
    for _ in range(50):
        x, sums, seen = np.arange(tasks, dtype=float), np.zeros(tasks), np.zeros(3)
        try:
            launch(doubled_prefix_sums, (tasks, tasks, 3), x, sums, seen)
            assert tasks < 3
        except MemoryError:  # the other tasks have run
            assert tasks > 2
        assert seen.tolist() == [np.cumsum(2 * np.arange(tasks)).sum()] * 3


@every_count
def test_a_phase_may_have_no_tasks(count):
    set_threads(count)
    counts = np.zeros((3, 4), int)
    launch(count_phases, (0, 4, 0), counts)
    assert counts.tolist() == [[0] * 4, [1] * 4, [0] * 4]


@parallel
def count_phases(phase, task, counts):
    counts[phase, task] += 1


def test_numbas_own_number_of_threads_is_left_alone():
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        set_threads(2)
        launch(count_up, 8, np.zeros(8, int))
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


LARGE = (3, 50)


@pytest.fixture
def memory(monkeypatch):
    """Reused memory, for arrays beyond 1,000 bytes."""
    monkeypatch.setattr(linear_numba, "REUSED_BYTES", 1000)
    return ReusedMemory()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_lent_again_when_nobody_refers_to_it(memory):
    first = memory.empty(LARGE, "float64")
    place = address(first)
    del first
    assert address(memory.empty(LARGE, "float64")) == place
    assert memory.empty(LARGE, "float64").shape == LARGE


@pytest.mark.parametrize(
    "part", [lambda a: a, lambda a: a[1], lambda a: a.reshape(2, 75).T, lambda a: memoryview(a)],
    ids=["the array", "a row", "a view of a view", "a buffer"],
)  # fmt: skip
def test_memory_is_not_lent_while_somebody_refers_to_it(memory, part):
    first = memory.empty(LARGE, "float64")
    first[:] = 7
    reader = part(first)
    del first
    for _ in range(3):
        memory.empty(LARGE, "float64")[:] = 0
    assert (np.asarray(reader) == 7).all()
    assert not np.shares_memory(np.asarray(reader), memory.empty(LARGE, "float64"))


@pytest.mark.parametrize("shape, dtype", [((50, 3), "float64"), (LARGE, "complex128"), ((4, 50), "float64")])
def test_memory_of_another_shape_or_dtype_is_asked_for_anew(memory, shape, dtype):
    reader = memory.empty(LARGE, "float64")
    other = memory.empty(shape, dtype)
    assert other.shape == shape and other.dtype == dtype and not np.shares_memory(other, reader)


def test_small_arrays_are_their_own(memory):
    assert memory.empty((125,), "float64").base is None
    assert memory.empty((126,), "float64").base is not None


def test_logits_that_are_kept_stay_as_they_are(monkeypatch):
    """Two calls of a model whose logits come from reused memory."""
    monkeypatch.setattr(linear_numba, "REUSED_BYTES", 0)
    before = engine.current()
    engine.use("numba")
    try:
        model = GPT(Config(vocab_size=33, block_size=16, n_layer=1, n_head=2, n_embd=20))
        first = model(np.arange(16)[None])
        copy = first.copy()
        second = model(np.arange(16, 32)[None])
        assert first.tobytes() == copy.tobytes() != second.tobytes()
        assert not np.shares_memory(first, second)
    finally:
        engine.use(before)


@parallel
def largest_of_rows(task, x, out):
    out[task] = row_max(x[task])


@given(
    x=st.lists(
        st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45])).filter(
            lambda v: v == v
        ),
        min_size=1,
        max_size=70,
    ),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_largest_of_a_row_is_found_by_its_bits(x, dtype):
    x = np.array([x], dtype)
    out = np.empty(1, dtype)
    launch(largest_of_rows, 1, x, out)
    assert out[0] == x.max()


def products(M, K, N, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(dtype) for s in ((M, K), (K, N), (N,))]


@both
@pytest.mark.parametrize("K, N", [(16, 64), (128, 96), (768, 64)])
@pytest.mark.parametrize("M", range(1, FEW + 1))
def test_few_rows_err_no_more_than_a_blas(M, K, N, dtype, wider):
    x, w, b = products(M, K, N, dtype)
    assert suits(M, K, N) and not suits(FEW + 1, K, N) and not suits(M, K + 1, N) and not suits(M, K, N + 1)
    assert (
        suits_logits(M, K, N - 3)
        and not suits_logits(FEW + 1, K, N)
        and not suits_logits(M, K + 1, N)
        and not suits_logits(M, K, 31)
    )
    exact = x.astype(wider) @ w.astype(wider)
    uneven = slice(N - 3)  # no multiple of the step
    for found, blas, truth in (
        (multiply_few(x, w), x @ w, exact),
        (multiply_few(x, w, b), x @ w + b, exact + b.astype(wider)),
        (logits_of_few(x, w.T.copy()), x @ w, exact),
        (logits_of_few(x, w.T[uneven].copy()), x @ w[:, uneven], exact[:, uneven]),
    ):
        assert found.dtype == dtype and found.shape == blas.shape
        rounding = 16 * np.finfo(dtype).eps * abs(truth).max()
        assert abs(found - truth).max() <= 2 * abs(blas - truth).max() + rounding


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_does_not_depend_on_the_rows_beside_it_nor_on_the_threads(dtype):
    x, w, b = products(FEW, 128, 96, dtype)
    for product in (lambda x: multiply_few(x, w, b), lambda x: logits_of_few(x, w.T.copy())):
        set_threads(2)
        found = product(x)
        set_threads(1)
        assert all(product(x[:n]).tobytes() == found[:n].tobytes() for n in range(1, FEW + 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_in_few_rows(bad):
    x, w, _ = products(2, 64, 32, "float32")
    x[1, 5] = bad
    for found in (multiply_few(x, w), logits_of_few(x, w.T.copy())):
        assert np.isfinite(found[0]).all() and not np.isfinite(found[1]).any()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": False, "activation": "gelu"},
        {"activation": "relu"},
        {"norm_position": "post"},
        {
            **{"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "biases": "qkv"},
            **{"n_kv_head": 1, "layers": ({"window": 20}, {})},
        },
    ],
    ids=str,
)
def test_decoding_reads_the_cache_with_few_rows_as_with_many(changes):
    before = engine.current()
    engine.use("numba")
    try:
        model = GPT(
            Config(vocab_size=33, block_size=140, n_layer=2, n_head=2, n_embd=64, **changes), 1, "float64"
        )
        ids = np.random.default_rng(0).integers(0, 33, (3, 2))
        steps = logits_stream(model, ids)
        logits = next(steps)
        for _ in range(135):  # past 64 and 128, where the cache grows
            assert np.allclose(logits, model(ids)[:, -1], rtol=0, atol=1e-12)
            ids = np.concatenate([ids, logits.argmax(-1)[:, None]], axis=1)
            logits = steps.send(ids[:, -1])
    finally:
        engine.use(before)
