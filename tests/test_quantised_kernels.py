"""Kernels for quantized decoding: few rows times integers, tiles for many rows, the block in one launch."""

import numpy as np
import pytest

from numgpt import GPT, Config, engine
from numgpt.engine.jit import set_threads
from numgpt.layers import decoding_numba
from numgpt.model.decoding import logits_stream
from numgpt.ops import quantised, quantised_numba
from numgpt.ops.few_quantised_rows_numba import logits_of_few, suits, suits_logits, suits_nibbles
from numgpt.ops.few_rows_numba import FEW

# Inputs, outputs and the inputs of a group: with loops, with columns left over, and without loops.
SIZES = [(16, 32, 16), (96, 96, 32), (768, 160, 64), (288, 224, 16), (6, 5, 2), (640, 203, 64)]
KINDS = ["int8", "int4", "int4 with zeros", "unembedding"]
# A block's form, and how it is rounded: each pair compiles a block of its own.
FORMS = {
    "gpt2": ({}, {"bits": 8}),
    "llama": (
        {
            **{"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False},
            **{"n_kv_head": 1, "layers": ({"window": 5}, {})},
        },
        {"bits": 4, "group": 16, "asymmetric": True},
    ),
    "parallel": ({"norm_position": "parallel", "positions": "rotary"}, {"bits": 4}),
    "two norms": ({"norm_position": "parallel2", "activation": "gelu"}, {"bits": 8, "keep_embedding": True}),
}


@pytest.fixture(autouse=True)
def numba_engine():
    """Kernels run, and two threads are there again for whoever comes next."""
    before = engine.current()
    engine.use("numba")
    yield
    set_threads(2)
    engine.use(before)


def call(kind, M, K, N, group, dtype, seed=0):
    """(name of the op, its arrays, dy) of a kind."""
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal((M, n)).astype(dtype) for n in (K, N))
    bias, scale = (rng.uniform(0.5, 1.5, N).astype(dtype) for _ in range(2))
    groups, zero = (
        rng.uniform(low, high, (K // group, N)).astype(dtype) for low, high in ((0.5, 1.5), (0, 15))
    )
    bytes_ = rng.integers(-127, 128, (K, N), np.int8)
    nibbles = rng.integers(0, 256, (K // 2, N), np.uint8)
    return {
        "int8": ("quantised_linear", (x, bytes_, scale, bias), dy),
        "int4": ("quantised4_linear", (x, nibbles, groups, None, bias), dy),
        "int4 with zeros": ("quantised4_linear", (x, nibbles, groups, zero, None), dy),
        "unembedding": ("quantised_unembedding", (x, np.ascontiguousarray(bytes_.T), scale), dy),
    }[kind]


def both_ways(module, name, arrays, dy):
    """The value and the gradients, of a module's functions."""
    y, saved = getattr(module, f"{name}_forward")(*arrays)
    return y, *getattr(module, f"{name}_backward")(dy, saved)


def wider(arrays, dtype):
    """Arrays with their floats in a dtype."""
    return [a if a is None or a.dtype.kind in "iu" else a.astype(dtype) for a in arrays]


@pytest.mark.parametrize("dtype, exact", [("float32", "float64"), ("float64", "longdouble")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K, N, group", SIZES)
def test_twins_err_no_more_than_the_specification(K, N, group, kind, dtype, exact):
    for M in (*range(1, FEW + 2), 70):
        name, arrays, dy = call(kind, M, K, N, group, dtype)
        found = both_ways(quantised_numba, name, arrays, dy)
        own = both_ways(quantised, name, arrays, dy)
        truth = both_ways(quantised, name, wider(arrays, exact), dy.astype(exact))
        for value, specified, true in zip(found, own, truth):
            if true is None:
                assert value is None
                continue
            assert value.dtype == dtype and value.shape == true.shape
            rounding = 16 * np.finfo(dtype).eps * abs(true).max()
            assert abs(value - true).max() <= 2 * abs(specified - true).max() + rounding, (M, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K, N, group", [(96, 96, 32), (640, 203, 64)])
def test_threads_change_no_bit(K, N, group, kind):
    for M in (1, 5, 70):
        bits = []
        for threads in (1, 2):
            set_threads(threads)
            found = both_ways(quantised_numba, *call(kind, M, K, N, group, "float32"))
            bits.append([None if value is None else value.tobytes() for value in found])
        assert bits[0] == bits[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_rows_beside_it(kind):
    name, (x, *rest), _ = call(kind, FEW, 128, 96, 32, "float32")
    forward = getattr(quantised_numba, f"{name}_forward")
    y, _ = forward(x, *rest)
    for M in range(1, FEW + 1):
        assert forward(x[:M], *rest)[0].tobytes() == y[:M].tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_in_its_row(bad, kind):
    for M in (2, 20):
        name, (x, q, *rest), _ = call(kind, M, 64, 64, 32, "float32")
        q[q == 0] = 1  # 0 times infinity has a value of its own
        x[1, 5] = bad
        y, _ = getattr(quantised_numba, f"{name}_forward")(x, q, *rest)
        assert np.isfinite(np.delete(y, 1, 0)).all()
        assert not np.isfinite(y[1]).all()


def test_sizes_without_loops_are_declined():
    assert suits(1, 96, 64) and suits_nibbles(FEW, 96, 64, 3) and suits_logits(4, 96, 77)
    assert not suits(FEW + 1, 96, 64) and not suits(1, 97, 64) and not suits(1, 96, 65)
    assert not suits_nibbles(1, 96, 64, 12)  # of 8 rows a group: a piece of rows would lie in two
    with pytest.raises(AssertionError, match="leave the arrays"):
        logits_of_few(np.ones((1, 97), "f"), np.ones((40, 97), np.int8), np.ones(40, "f"))


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_model_decodes_with_its_cache_in_one_launch_a_block(form, monkeypatch):
    changes, options = FORMS[form]
    launched = []
    whole = decoding_numba.cached_block
    monkeypatch.setattr(decoding_numba, "cached_block", lambda r, x: launched.append(r.scope) or whole(r, x))
    config = Config(vocab_size=77, block_size=48, n_layer=2, n_head=2, n_embd=64, **changes)
    model = GPT(config, 1, "float64").quantize(**options)
    ids = np.random.default_rng(0).integers(0, 77, (3, 2))
    steps = logits_stream(model, ids)
    logits, STEPS = next(steps), 12
    for _ in range(STEPS):
        assert np.allclose(logits, model(ids)[:, -1], rtol=0, atol=1e-12)
        ids = np.concatenate([ids, logits.argmax(-1)[:, None]], axis=1)
        logits = steps.send(ids[:, -1])
    assert launched == ["h.0.", "h.1."] * (STEPS + 1)


def test_groups_without_loops_decode_op_by_op(monkeypatch):
    monkeypatch.setattr(decoding_numba, "cached_block", None)
    config = Config(vocab_size=77, block_size=48, n_layer=1, n_head=2, n_embd=64)
    model = GPT(config, 1, "float64").quantize(bits=4, group=8)
    text = model.generate([1, 2, 3], 8, temperature=0)
    full = np.array([[1, 2, 3]])
    for _ in range(8):
        full = np.concatenate([full, model(full)[:, -1].argmax(-1)[:, None]], axis=1)
    assert np.array_equal(np.ravel(text)[-8:], full[0, -8:])


def test_another_op_in_a_quantized_block_is_heard_of():
    """A block in one launch would not run what is served inside it."""
    config = Config(vocab_size=77, block_size=48, n_layer=1, n_head=2, n_embd=64)
    model = GPT(config, 1, "float64").quantize()
    ran = []

    def forward(x, *rest, **options):
        """GELU, counted."""
        ran.append(1)
        return own.forward(x, *rest, **options)

    own = model.record(np.array([[1, 2]])).ops["h.0.mlp.act"]
    counted = type(own)(own.line, forward, own.backward)
    served = {**model.served, "h.0.mlp.act": counted}
    other = GPT(config, 1, "float64", params=model.params, additions=model.additions, served=served)
    other.generate([1, 2, 3], 4, temperature=0)
    assert len(ran) == 4
