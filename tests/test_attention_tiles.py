"""Attention over more keys than a tile holds: the twin gives what the specification gives."""

import importlib.util

import numpy as np
import pytest

from numgpt import engine, ops
from numgpt.ops.attention import by_group, merge_heads, split_heads
from numgpt.ops.sinks import beside_sink, sink_attention

if not importlib.util.find_spec("numba"):
    pytest.skip("Numba is not installed", allow_module_level=True)

from numgpt.engine import jit
from numgpt.ops import attention_numba, attention_tiles_numba

KEYS, LONG = attention_tiles_numba.KEYS, attention_tiles_numba.MANY  # LONG: from here on blocks are larger
D = 4
RNG = np.random.default_rng(0)


def intervals(T, S):
    """For each query some keys far from the others' keys, its own among them or not."""
    first = RNG.integers(0, S, T)
    return {"first": first, "last": np.minimum(first + RNG.integers(0, 40, T), S - 1)}


FORMS = {
    "causal": lambda T, S: {},
    "window": lambda T, S: {"first": np.maximum(np.arange(S - T, S) - 700, 0)},
    "intervals": intervals,
    "to the end": lambda T, S: {"last": np.full(T, S - 1)},
    "cap and slope": lambda T, S: {"cap": 2.0, "slopes": np.array([0.01, 0.0])},
    "capped intervals": lambda T, S: intervals(T, S) | {"cap": 2.0},
}
SIZES = [(KEYS, KEYS + 1), (70, 2 * KEYS + 3), (LONG + 5, LONG + 5), (3, 3 * KEYS)]
ORDERS = {"mixed": 0.0, "rising": 0.3, "falling": -0.3}  # of scores from the first key to the last


def arrays(T, S, slope):
    """q, k, v and dy for two heads, whose scores rise by slope from key to key."""
    q, k, v, dy = (RNG.standard_normal((2, n, D)) for n in (T, S, S, T))
    q[..., 0], k[..., 0] = 1.0, slope * np.arange(S)
    return q, k, v, dy


@pytest.fixture(autouse=True)
def on_numba():
    before = engine.current()
    engine.use("numba")
    yield
    engine.use(before)


def both_ways(forward, backward, q, k, v, dy, options):
    """The value and the three gradients."""
    y, saved = forward(q, k, v, **options)
    return y, *backward(dy, saved)


def near(found, expected):
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=2e-12 * max(1, abs(e).max()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("T", "S"), SIZES)
def test_tiles_of_keys_give_what_the_specification_gives(T, S, order, form):
    q, k, v, dy = arrays(T, S, ORDERS[order])
    options = FORMS[form](T, S)
    twin = attention_numba.attend_forward, attention_numba.attend_backward
    found = both_ways(*twin, q, k, v, dy, options)
    near(found, both_ways(ops.attend.forward, ops.attend.backward, q, k, v, dy, options))


@pytest.mark.parametrize("order", ORDERS)
def test_a_sink_counts_once_however_many_tiles_there_are(order):
    T = LONG + 9
    q, k, v, dy = (array.swapaxes(0, 1).reshape(T, 2 * D) for array in arrays(T, T, ORDERS[order]))
    qkv, sinks = np.concatenate([q, k, v], -1), np.array([30.0, -1.0])
    forward, backward = (engine.forward(sink_attention, (qkv, sinks)), engine.backward(sink_attention, dy))
    y, saved = forward(qkv, sinks, n_head=2)
    expected, spec = sink_attention.forward(qkv, sinks, n_head=2)
    near([y, *backward(dy, saved)], [expected, *sink_attention.backward(dy, spec)])


@pytest.mark.parametrize("z", [-np.inf, -1e4, 0.0, 30.0, 1e4])
def test_a_sink_beside_what_attention_gives_is_attention_with_a_sink(z):
    qkv, sinks = RNG.standard_normal((2, 5, 2 * D * 3)), np.array([z, -1.0])
    q, k, v = split_heads(qkv, 2)
    with np.errstate(over="raise", invalid="raise"):
        found = beside_sink(*ops.attend_groups.forward(by_group(q, 2), k, v), sinks)
    near([merge_heads(found.reshape(q.shape))], [sink_attention.forward(qkv, sinks, n_head=2)[0]])


@pytest.mark.parametrize("place", [0, KEYS - 1, KEYS, 2 * KEYS])
@pytest.mark.parametrize("number", [np.nan, -np.nan, np.inf])
def test_what_is_not_finite_in_any_tile_shows_in_each_query_that_sees_it(place, number):
    T = 2 * KEYS + 2
    q, k, v, _ = arrays(T, T, 0.0)
    k[:, place, 0] = number
    y, _ = attention_numba.attend_forward(q, k, v)
    assert np.isfinite(y[:, :place]).all()
    assert not np.isfinite(y[:, place:]).all(-1).any()


def test_a_query_that_sees_one_tile_alone_has_no_part_in_the_others():
    """Its scores are −∞ in them, whose difference from −∞ is no number."""
    T = 2 * KEYS
    q, k, v, dy = arrays(T, T, 0.0)
    first = np.where(np.arange(T) % 2 == 0, 0, KEYS)
    last = np.where(np.arange(T) % 2 == 0, KEYS - 1, T - 1)
    options = {"first": first, "last": last}
    twin = attention_numba.attend_forward, attention_numba.attend_backward
    found = both_ways(*twin, q, k, v, dy, options)
    near(found, both_ways(ops.attend.forward, ops.attend.backward, q, k, v, dy, options))


@pytest.fixture
def set_threads():
    """jit.set_threads; afterwards there are as many as before."""
    before = jit.threads()
    yield jit.set_threads
    jit.set_threads(before)


@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_threads_changes_no_bit(set_threads, form):
    q, k, v, dy = arrays(LONG, LONG, 0.1)
    options = FORMS[form](LONG, LONG)
    twin = attention_numba.attend_forward, attention_numba.attend_backward
    found = []
    for threads in (1, 2):
        set_threads(threads)
        found.append(both_ways(*twin, q, k, v, dy, options))
    for one, two in zip(*found):
        np.testing.assert_array_equal(one, two)
