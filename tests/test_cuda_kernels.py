"""The kernels of *_cupy.py on a CPU, under a minimal cupy.

They keep the laws, err no more than the specification, and depend on no order.
"""

import functools
import importlib.util
import inspect
import math
import sys
import types
from string import ascii_uppercase

import cuda_on_cpu
import numpy as np
import pytest
from hypothesis import strategies as st
from shares import drawn, slow

from numgpt import InputError, engine, gradcheck, ops
from numgpt.proofs.subjects import op_subjects
from numgpt.training import optim, optim_cupy

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
DTYPES = [("float32", "float64"), ("float64", "longdouble")]
both = pytest.mark.parametrize("dtype, wider", DTYPES)
each = pytest.mark.parametrize("dtype", ["float32", "float64"])


class DeviceArray(np.ndarray):
    """An array of the minimal cupy; its memory is _host."""

    @property
    def _host(self):
        return self.view(np.ndarray)


def device(tree):
    """Arrays in nested tuples, moved."""
    return moved(tree, lambda array: np.array(array).view(DeviceArray))


def host(tree):
    """Arrays in nested tuples, moved back."""
    return moved(tree, np.array)


def moved(tree, move):
    if isinstance(tree, tuple | list):
        parts = [moved(part, move) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return move(tree) if isinstance(tree, np.ndarray | np.generic) else tree


@pytest.fixture(autouse=True, scope="module")
def cupy():
    """As much of CuPy as the twins use."""
    module = types.ModuleType("cupy")
    module.ndarray, module.RawKernel = DeviceArray, cuda_on_cpu.raw_kernel
    for name in (
        "empty",
        "empty_like",
        "full",
        "ascontiguousarray",
        "argsort",
        "searchsorted",
        "broadcast_to",
    ):
        setattr(module, name, _on_device(getattr(np, name)))
    module.asarray = _owned
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", module)
        yield


def _owned(array):
    """A copy that owns its memory, as one on a GPU does."""
    found = DeviceArray(array.shape, array.dtype)
    found[...] = array
    return found


def _on_device(function):
    def of_device(*args, **options):
        found = np.asarray(function(*args, **options)).view(DeviceArray)
        if function in (np.empty, np.empty_like):  # what a kernel leaves unwritten shows
            found.reshape(-1).view(np.uint8)[...] = 0xFF
        return found

    return of_device


@functools.cache
def module_of(function):
    """The module of a function's twins on a GPU, or None."""
    name = f"{function.__module__}_cupy"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def twins_of(op):
    """(forward, backward), the specification's where there is no twin."""
    return tuple(getattr(module_of(f), f.__name__, f) for f in (op.forward, op.backward))


TWINNED = [
    op for op in ops.ALL.values() if module_of(op.forward) and twins_of(op) != (op.forward, op.backward)
]
every_twin = pytest.mark.parametrize("op", TWINNED, ids=lambda op: op.name)


def test_what_a_profile_shows_hot_has_twins():
    assert {op.name for op in TWINNED} == {
        "layernorm",
        "rmsnorm",
        "standardise",
        "part_rmsnorm",
        "part_layernorm",
        "heads_layernorm",
        "gelu",
        "gelu_tanh",
        "gelu_bloom",
        "silu",
        "swiglu",
        "geglu",
        "geglu_tanh",
        "reglu",
        "swiglu_clamped",
        "rotary",
        "softcap",
        "cross_entropy",
        "attend",
        "attend_groups",
        "attention",
        "sink_attention",
        "embedding",
    }


@pytest.mark.parametrize(
    "function",
    [f for op in TWINNED for f in (op.forward, op.backward)] + [optim.adamw, optim.global_norm],
    ids=lambda f: f.__name__,
)
def test_a_twin_takes_what_its_specification_takes(function):
    twin = getattr(module_of(function), function.__name__, function)
    parameters = {n: p for n, p in inspect.signature(twin).parameters.items() if n not in ("into", "spare")}
    assert list(parameters.values()) == list(inspect.signature(function).parameters.values())


def cast(arrays, dtype):
    return [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]


def specified(op, arrays, dy, options):
    """[y, gradients …] of the specification."""
    y, saved = op.forward(*arrays, **options)
    return [np.asarray(y), *(np.asarray(g) for g in op.backward(dy, saved) if g is not None)]


def twinned(op, arrays, dy, options):
    """[y, gradients …] of the twins."""
    forward, backward = twins_of(op)
    y, saved = forward(*device(arrays), **{name: device(value) for name, value in options.items()})
    return [host(y), *(host(g) for g in backward(device(dy), saved) if g is not None)]


SIZES = {
    "ones": dict.fromkeys(ascii_uppercase, 1),
    "odd": {"C": 37, "D": 5, "F": 21, "G": 2, "H": 3, "I": 7, "K": 3, "S": 2, "T": 67, "V": 131, "W": 11},
    "larger than a block": {
        "C": 777,
        "D": 33,
        "F": 399,
        "G": 2,
        "H": 2,
        "I": 300,
        "K": 1,
        "S": 30,
        "T": 150,
        "V": 3001,
        "W": 270,
    },
}


@pytest.mark.parametrize(
    "size, scale, dtype, wider",  # larger scores would compare the luck of their rounding
    [
        *((size, scale, *of) for size in ("ones", "odd") for scale in (1.0, 3.0) for of in DTYPES),
        ("larger than a block", 3.0, "float32", "float64"),
        slow("larger than a block", 3.0, "float64", "longdouble"),  # which take long on a CPU
    ],
)
@every_twin
def test_a_twin_errs_no_more_than_its_specification(op, size, scale, dtype, wider):
    """Against wider precision, relative to the largest entry of each result: at most 4 times the
    specification's, and 16 roundings.
    """
    assert_errs_no_more_on_the_twin(op, size, scale, dtype, wider)


def assert_errs_no_more_on_the_twin(op, size, scale, dtype, wider):
    for subject in op_subjects(op, 0, SIZES[size], (2,)):
        arrays = cast(scaled(cast(subject.arrays, dtype), scale), dtype)
        y, _ = op.forward(*arrays, **subject.options)
        dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(dtype)[()]
        exact = specified(op, cast(arrays, wider), np.asarray(dy, wider)[()], subject.options)
        theirs, ours = specified(op, arrays, dy, subject.options), twinned(op, arrays, dy, subject.options)
        for e, s, f in zip(exact, theirs, ours, strict=True):
            assert f.dtype == dtype and f.shape == s.shape
            assert_errs_no_more(f, s, e, dtype, subject.name)


@each
def test_rotary_has_the_bits_of_its_specification(dtype):
    for subject in op_subjects(ops.rotary, 0, SIZES["odd"], (2,)):
        arrays = cast(subject.arrays, dtype)
        dy = np.random.default_rng(1).standard_normal(arrays[0].shape).astype(dtype)
        ours, theirs = (f(ops.rotary, arrays, dy, subject.options) for f in (twinned, specified))
        assert [a.tobytes() for a in ours] == [a.tobytes() for a in theirs], subject.name


def scaled(arrays, factor):
    """Arrays of floats, multiplied; all others as they are."""
    return [a * factor if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]


def assert_errs_no_more(found, specified, exact, dtype, what):
    largest = abs(exact).max(initial=0.0)
    ours, theirs = (abs(a - exact).max(initial=0.0) for a in (found, specified))
    # Below it what a value is made of underflows, in a twin perhaps earlier.
    lost = np.finfo(dtype).tiny / np.finfo(dtype).eps
    assert ours <= 4 * theirs + 16 * np.finfo(dtype).eps * largest + lost, (what, ours, theirs, largest)


@pytest.mark.parametrize("op, before, after", [
    (ops.rmsnorm, "mean += centred ? d / n : 0", "mean += d / n"),
    (ops.rmsnorm, "mean_g = centred ? mean_g : 0;", ""),
    (ops.part_layernorm, "(n) % count * C", "0"),
    (ops.heads_layernorm, "blockIdx.x % count * each", "0"),
    (ops.rotary, "x[i + half] * (sign * ", "x[i + half] * ("),
    (ops.rotary, "blockIdx.x % (unsigned)P", "blockIdx.x % 2"),
    (ops.rotary, "j >= 2 * half", "false"),
    (ops.swiglu, "2 * blockIdx.x * F + c", "blockIdx.x * F + c"),
    (ops.swiglu_clamped, " * (low(x) == x)", ""),
    (ops.swiglu_clamped, "(cut(u, LIMIT) == u)", "1"),
])  # fmt: skip
def test_a_mistake_in_a_kernel_of_the_family_is_found(op, before, after, monkeypatch):
    module = module_of(op.forward)
    if module.__name__.endswith("part_norms_cupy"):
        module = sys.modules["numgpt.ops.norms_cupy"]
    (name,) = (n for n in vars(module) if n.endswith("_SOURCE"))
    source = getattr(module, name)
    assert before in source
    monkeypatch.setattr(module, name, source.replace(before, after))
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        assert_errs_no_more_on_the_twin(op, "odd", 3.0, "float64", "longdouble")


@every_twin
@drawn(few=5, many=15, data=st.data())
def test_twins_keep_the_laws(op, data):
    """A twin's gradient is held to the derivative of the specification, which complex and long double run on.

    An activation gets more than one number: a single one may lie where the slope crosses 0, and then all of
    its error is rounding.
    """
    forward, backward = twins_of(op)

    def on_either(*arrays, **options):
        dtypes = [a.dtype for a in arrays if a is not None and a.dtype.kind != "i"]
        if any(dtype not in ("float32", "float64") for dtype in dtypes):
            return op.forward(*arrays, **options)
        y, saved = forward(*device(arrays), **options)
        return host(y)[()], saved

    def back(dy, saved):
        if dy.dtype not in ("float32", "float64"):
            return op.backward(dy, saved)
        return host(backward(device(np.asarray(dy)), saved))

    sizes = {c: data.draw(st.integers(1, 9), label=c) for c in sorted({c for c in op.line if c.isupper()})}
    lead = data.draw(st.sampled_from([(), (1,), (3,), (2, 3)] if sizes else [(3,), (2, 3)]), label="lead")
    for subject in op_subjects(op, data.draw(st.integers(0, 2**32 - 1), label="seed"), sizes, lead):
        gradcheck.check(on_either, back, *subject.arrays, **subject.options)


@pytest.mark.parametrize("dtype", ["float32", slow("float64")])
@every_twin
def test_the_bits_are_the_same_in_any_order_of_blocks_and_threads(op, dtype):
    """And in a second run, at sizes of several blocks and of several entries a thread."""
    sizes = {"C": 300, "D": 4, "F": 300, "G": 2, "H": 2, "I": 3, "K": 2, "S": 3, "T": 140, "V": 1000, "W": 90}
    subject = next(iter(op_subjects(op, 0, sizes, (2,))))
    arrays = cast(subject.arrays, dtype)
    shape = np.shape(op.forward(*arrays, **subject.options)[0])
    dy = np.random.default_rng(1).standard_normal(shape).astype(dtype)[()]
    orders = *cuda_on_cpu.ORDERS, "forwards"
    assert len({bits_in_order(name, op, arrays, dy, subject.options) for name in orders}) == 1


def bits_in_order(name, op, arrays, dy, options):
    with cuda_on_cpu.order(name):
        return b"".join(a.tobytes() for a in twinned(op, arrays, dy, options))


@pytest.mark.parametrize("place", [0, 1])
def test_each_barrier_of_the_norms_is_needed_and_missed(monkeypatch, place):
    """The only kernel with barriers of its own; test_cuda_shim.py looks at those of sums and maxima."""
    module = module_of(ops.layernorm.forward)
    pieces = module.NORMS_SOURCE.split("__syncthreads();")
    assert len(pieces) == 3
    x, weight = np.random.default_rng(0).standard_normal((3, 100)), np.ones(100)
    expected = host(module.layernorm_forward(device(x), device(weight))[0])
    before, after = pieces[: place + 1], pieces[place + 1 :]
    without_one = "__syncthreads();".join(before) + "__syncthreads();".join(after)
    monkeypatch.setattr(module, "NORMS_SOURCE", without_one)
    found = []
    for name in cuda_on_cpu.ORDERS:
        with cuda_on_cpu.order(name):
            found.append(host(module.layernorm_forward(device(x), device(weight))[0]))
    assert any(f.tobytes() != expected.tobytes() for f in found)


@every_twin
def test_a_twin_saves_what_its_specification_saves(op):
    """So that either half may be swapped for the specification's."""
    subject = next(iter(op_subjects(op, 0)))
    arrays = cast(subject.arrays, "float64")
    forward, backward = twins_of(op)
    y, saved = forward(*device(arrays), **subject.options)
    same, theirs = op.forward(*arrays, **subject.options)
    dy = np.random.default_rng(0).standard_normal(np.shape(y))
    expected = op.backward(dy, theirs)
    for mixed in (op.backward(dy, host(saved)), host(backward(device(dy), device(theirs)))):
        for a, b in zip(mixed, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@every_twin
def test_a_backward_writes_to_nothing_but_what_it_may(op):
    """Called twice it gives the same bits, and what was given and saved is as it was."""
    subject = next(iter(op_subjects(op, 0)))
    arrays, (forward, backward) = device(cast(subject.arrays, "float32")), twins_of(op)
    y, saved = forward(*arrays, **subject.options)
    dy = device(np.random.default_rng(0).standard_normal(np.shape(y)).astype("float32"))
    before = [leaf.tobytes() for leaf in leaves((arrays, dy, saved))]
    first = [leaf.tobytes() for leaf in leaves(backward(dy, saved))]
    assert [leaf.tobytes() for leaf in leaves(backward(dy, saved))] == first
    assert [leaf.tobytes() for leaf in leaves((arrays, dy, saved))] == before


def leaves(tree):
    if isinstance(tree, np.ndarray):
        return [tree]
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else []


@each
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    "op", [op for op in TWINNED if engine.takes(twins_of(op)[1], "into")], ids=lambda op: op.name
)
def test_gradients_go_to_the_places_that_are_given(op, add, dtype):
    for subject in op_subjects(op, 0, SIZES["odd"]):
        arrays, (forward, backward) = cast(subject.arrays, dtype), twins_of(op)
        y, saved = forward(*device(arrays), **subject.options)
        dy = np.random.default_rng(0).standard_normal(y.shape).astype(dtype)
        expected = op.backward(dy, op.forward(*arrays, **subject.options)[1])[-len(op.parameters) :]
        there = [
            None if e is None else np.random.default_rng(1).standard_normal(e.shape).astype(dtype)
            for e in expected
        ]
        places = [None if t is None else (device(t), add) for t in there]
        found = backward(device(dy), saved, into=places)[-len(op.parameters) :]
        for f, e, t, place in zip(found, expected, there, places, strict=True):
            assert (f is None) == (e is None) and (f is None or f is place[0])
            if f is not None:
                atol = 100 * np.finfo(dtype).eps * abs(e).max()
                np.testing.assert_allclose(host(f), t * add + e, rtol=0, atol=atol)


def test_a_gradient_that_nobody_gave_a_place_gets_one_of_its_own():
    """As where the parameters of one op are frozen: some places are None."""
    x, dy = device(np.random.default_rng(0).standard_normal((2, 5, 7)))
    forward, backward = twins_of(ops.layernorm)
    saved = forward(x, device(np.ones(7)), device(np.ones(7)))[1]
    place = device(np.zeros(7))
    _, dweight, dbias = backward(dy, saved, into=[None, (place, False)])
    assert dbias is place and host(dbias).any() and host(dweight).any()


@each
def test_the_gradient_takes_the_logits_place_where_they_are_spare(dtype):
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((5, 300)).astype(dtype), np.array([1, -1, 299, 0, 7])
    forward, backward = twins_of(ops.cross_entropy)
    _, saved = forward(device(logits), device(targets))
    kept = backward(device(np.ones((), dtype)), saved)[0]
    assert host(saved[0]).tobytes() == logits.tobytes()
    overwritten = backward(device(np.ones((), dtype)), saved, spare=True)[0]
    assert np.shares_memory(overwritten, saved[0]) and overwritten.tobytes() == kept.tobytes()


@each
@pytest.mark.parametrize("clip", [1.0, 0.37])
@pytest.mark.parametrize("N, decayed", [(1, 1), (1, 0), (333, 100), (1000, 1000)])
def test_adamw_has_the_bits_of_its_specification(N, decayed, clip, dtype):
    rng = np.random.default_rng(0)
    state = [rng.standard_normal(N).astype(dtype) for _ in range(2)]
    state = [state[0], state[1] * 0, abs(state[1]) * 0]
    moved = device(tuple(state))
    for t in range(1, 6):
        g = rng.standard_normal(N).astype(dtype)
        settings = decayed, (0.9, 0.99), 1e-8, 0.1
        optim.adamw(state[0], g, *state[1:], *settings, clip, 1e-3, t)
        scalar = clip if t % 2 else device(np.asarray(clip, dtype))  # a number or one on the device
        optim_cupy.adamw(moved[0], device(g), *moved[1:], *settings, scalar, 1e-3, t)
        assert [a.tobytes() for a in host(moved)] == [a.tobytes() for a in state]


@each
@pytest.mark.parametrize("N", [1, 255, 16384, 16385, 50001])
def test_the_norm_is_the_specifications_to_float64s_rounding(N, dtype):
    """Both add squares in float64: a term goes through at most 16384/256 + 16 additions here.

    In the specification it goes through 65536 + 1 at worst.
    """
    x = (np.random.default_rng(0).standard_normal(N) * 1e5).astype(dtype)
    norms = {name: bits_of_norm(name, x) for name in cuda_on_cpu.ORDERS}
    assert len(set(norms.values())) == 1
    found = np.frombuffer(next(iter(norms.values())))[0]
    exact = math.sqrt(math.fsum(float(v) ** 2 for v in x))
    assert found == pytest.approx(exact, rel=80 * np.finfo(float).eps)
    assert found == pytest.approx(optim.global_norm(x), rel=1e-12)


def bits_of_norm(name, x):
    with cuda_on_cpu.order(name):
        norm = optim_cupy.global_norm(device(x))
    assert isinstance(norm, DeviceArray) and norm.shape == () and norm.dtype == "float64"
    return norm.tobytes()


@both
@pytest.mark.parametrize("shift", [1e2, 1e4, -1e4])
def test_one_pass_over_a_row_keeps_the_digits_of_two(shift, dtype, wider):
    """Where the mean is far larger than the deviation; Σx² − (Σx)² would have no digit left in float32."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((20, 500)) + shift).astype(dtype), rng.standard_normal(500).astype(dtype)
    x[:, 0] += 50 * rng.standard_normal(20).astype(dtype)  # no entry stands for the mean
    exact, theirs = (ops.layernorm.forward(*cast((x, weight), d), None)[0] for d in (wider, dtype))
    ours = host(twins_of(ops.layernorm)[0](device(x), device(weight))[0])
    assert_errs_no_more(ours, theirs, exact, dtype, "layernorm")


@pytest.mark.parametrize(
    "dtype, size", [("float32", 1e19), ("float32", 1e38), ("float64", 1e154), ("float64", 1e307)]
)
@pytest.mark.parametrize("op", [ops.layernorm, ops.rmsnorm], ids=lambda op: op.name)
def test_a_norm_is_right_where_squares_overflow(op, dtype, size):
    rng = np.random.default_rng(0)
    x, dy = (3 * size * rng.uniform(-1, 1, (3, 300))).astype(dtype), rng.standard_normal((3, 300))
    x[1] = x[1] / np.dtype(dtype).type(size)
    parameters = rng.standard_normal((len(op.parameters), 300)).astype(dtype)
    y, saved = op.forward(*(a.astype("longdouble") for a in (x, *parameters)))
    truth = y, *op.backward(dy.astype("longdouble"), saved)
    forward, backward = twins_of(op)
    y, saved = forward(*map(device, (x, *parameters)))
    for ours, right in zip((y, *backward(device(dy.astype(dtype)), saved)), truth):
        assert abs(host(ours) - right).max() <= 64 * np.finfo(dtype).eps * abs(right).max()
    x[0, 7], x[2, 7] = np.inf, np.nan
    y = host(forward(*map(device, (x, *parameters)))[0])
    with np.errstate(all="ignore"):
        specified = op.forward(x, *parameters)[0]
    assert (np.isnan(y) == np.isnan(specified)).all()
    assert np.isnan([y[0, 7], y[2, 7]]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("dtype, largest", [("float32", 38), ("float64", 307)])
@pytest.mark.parametrize("op", [ops.gelu, ops.gelu_tanh, ops.silu, ops.softcap], ids=lambda op: op.name)
def test_the_slope_of_an_activation_is_right_for_inputs_of_any_size(op, dtype, largest):
    x = 10.0 ** np.linspace(-largest, largest, 300)
    x = np.concatenate([-x, x]).astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        y, saved = op.forward(x.astype("longdouble"))
        (right,) = op.backward(np.ones_like(y), saved)
    forward, backward = twins_of(op)
    y, saved = forward(device(x))
    (dx,) = backward(device(np.ones_like(x)), saved)
    assert abs(host(dx) - right).max() <= 64 * np.finfo(dtype).eps


def test_hidden_logits_count_for_nothing():
    """Logits of −∞, also first in a row and alone in a thread's entries.

    A row of nothing else is NaN, as in the specification.
    """
    logits = np.random.default_rng(0).standard_normal((4, 700))
    logits[0, :300] = logits[1, 5:] = logits[2, ::2] = -np.inf
    targets = np.array([300, 0, 1, 2])
    forward, backward = twins_of(ops.cross_entropy)
    expected, saved = ops.cross_entropy.forward(logits, targets)
    found, ours = forward(device(logits), device(targets))
    assert host(found) == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(
        host(backward(1.0, ours)[0]), ops.cross_entropy.backward(1.0, saved)[0], rtol=1e-13, atol=1e-16
    )
    logits[3] = -np.inf
    with np.errstate(invalid="ignore"):
        assert np.isnan(ops.cross_entropy.forward(logits, targets)[0])
        assert np.isnan(host(forward(device(logits), device(targets))[0]))


def test_targets_that_all_do_not_count_are_an_error():
    with pytest.raises(InputError, match="no target counts"):
        twins_of(ops.cross_entropy)[0](device(np.zeros((2, 3))), device(np.array([-1, -1])))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every_twin
def test_what_is_not_finite_is_not_hidden(op, bad):
    subject = next(iter(op_subjects(op, 0)))
    arrays = cast(subject.arrays, "float32")
    next(a for a in arrays if a.dtype.kind == "f").reshape(-1)[-1] = bad
    with np.errstate(all="ignore"):
        dy = np.ones(np.shape(op.forward(*arrays, **subject.options)[0]), "float32")[()]
        ours, theirs = twinned(op, arrays, dy, subject.options), specified(op, arrays, dy, subject.options)
        for found, expected in zip(ours, theirs, strict=True):
            # A block of attention does not look at keys that none of its queries sees.
            if "attend" in op.name or "attention" in op.name:
                assert np.isfinite(found).all() <= np.isfinite(expected).all()
            else:
                assert not (np.isfinite(found) & ~np.isfinite(expected)).any()
