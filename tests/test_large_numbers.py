"""Numbers near the end of a type's range: a result is right or not finite, never merely plausible.

The truth is the specification's in long double, whose range and digits are far larger.
"""

import numpy as np
import pytest

from numgpt import GPT, Config, engine, ops
from numgpt.ops.activations import ACTIVATIONS
from numgpt.ops.norms import NORMS
from numgpt.ops.part_norms import PART_NORMS

SIZES = {"float32": [1e-30, 1, 1e17, 1e19, 1e20, 1e30, 1e38], "float64": [1, 1e153, 1e154, 1e200, 1e307]}
PLAIN = [name for name, row in ACTIVATIONS.items() if not row.gated]
# But for the clamped one, in which nothing is large.
GATED = [name for name, row in ACTIVATIONS.items() if row.gated and name != "swiglu_clamped"]
every_size = pytest.mark.parametrize("dtype, size", [(d, size) for d in SIZES for size in SIZES[d]])


def both_ways(op, dy, *arrays):
    """The value and the gradients on the engine in use, and in long double."""
    run, back = engine.forward(op, arrays), engine.backward(op, dy)
    with np.errstate(over="ignore", under="ignore"):
        y, saved = run(*arrays)
        ours = y, *back(dy, saved)
        y, saved = op.forward(*(a.astype(np.longdouble) for a in arrays))
        return ours, (y, *op.backward(dy.astype(np.longdouble), saved))


def assert_near(ours, truth, tolerance):
    for mine, right in zip(ours, truth, strict=True):
        assert np.isfinite(mine).all()
        assert abs(mine - right).max() <= tolerance * abs(right).max()


@every_size
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_right_for_inputs_of_any_size(name, each_engine, dtype, size):
    rng = np.random.default_rng(0)
    x, dy = (3 * size * rng.uniform(-1, 1, (6, 9))).astype(dtype), rng.standard_normal((6, 9)).astype(dtype)
    x[0], x[1, 1:], x[2] = 0, 0, x[2] / np.dtype(dtype).type(size)  # rows of all sizes beside one another
    parameters = rng.standard_normal((len(NORMS[name].parameters), 9)).astype(dtype)
    assert_near(*both_ways(NORMS[name], dy, x, *parameters), 16 * np.finfo(dtype).eps)


@every_size
@pytest.mark.parametrize("name", PART_NORMS)
def test_a_norm_of_heads_is_right_for_inputs_of_any_size(name, each_engine, dtype, size):
    rng = np.random.default_rng(0)
    x, dy = (3 * size * rng.uniform(-1, 1, (6, 18))).astype(dtype), rng.standard_normal((6, 18)).astype(dtype)
    x[0], x[1, 1:], x[2] = 0, 0, x[2] / np.dtype(dtype).type(size)
    parameters = rng.standard_normal((len(PART_NORMS[name].parameters), 9)).astype(dtype)
    assert_near(*both_ways(PART_NORMS[name], dy, x, *parameters), 16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_what_is_not_finite_is_not_finite(name, each_engine, bad):
    """Beside an infinite number all others are nothing: 0, or NaN where their distance to the mean counts."""
    x, parameters = np.ones((2, 4), "float32"), np.ones((len(NORMS[name].parameters), 4), "float32")
    x[1, 2] = bad
    with np.errstate(invalid="ignore"):
        y, _ = engine.forward(NORMS[name], [x, *parameters])(x, *parameters)
    assert np.isfinite(y[0]).all() and np.isnan(y[1, 2])
    assert (np.isnan(y[1]) | (y[1] == 0)).all() and (name != "layernorm" or np.isnan(y[1]).all())


@pytest.mark.parametrize("dtype, largest", [("float32", 38), ("float64", 307)])
@pytest.mark.parametrize("name", PLAIN)
def test_an_activation_is_right_for_inputs_of_any_size(name, each_engine, dtype, largest):
    """The slope errs by more than eps where 1 − σ cancels, which x du/dx multiplies by up to 30."""
    x = 10.0 ** np.linspace(-largest, largest, 301)
    x = np.concatenate([-x, x, np.linspace(-45, 45, 401)]).astype(dtype)
    (y, dx), truth = both_ways(ACTIVATIONS[name].op, np.ones_like(x), x)
    eps, tiny, most = np.finfo(dtype).eps, np.finfo(dtype).tiny, np.finfo(dtype).max
    for ours, exact, error in ((y, truth[0], 4 * eps * abs(x) + tiny), (dx, truth[1], 64 * eps)):
        fits = abs(exact) < most
        grown = 4 * eps * abs(exact[fits])  # of one that grows faster than x
        assert (abs(ours[fits] - exact[fits]) <= np.broadcast_to(error, x.shape)[fits] + grown).all()
        assert np.isinf(ours[~fits]).all()


@pytest.mark.parametrize("dtype, largest", [("float32", 38), ("float64", 307)])
@pytest.mark.parametrize("name", GATED)
def test_a_gate_is_right_for_gates_and_values_of_any_size(name, each_engine, dtype, largest):
    """Large gates beside values of 1, and values of any size beside gates about 0: nothing overflows."""
    sizes = 10.0 ** np.linspace(-largest, largest, 301)
    gates = np.concatenate([-sizes, sizes, np.linspace(-2, 2, 602)])
    values = np.concatenate([np.ones(602), -sizes, sizes])
    x = np.stack([gates, values], axis=-1).astype(dtype)
    eps = np.finfo(dtype).eps
    with np.errstate(over="raise"):
        engine.forward(ACTIVATIONS[name].op, [x])(x)
    ours, truth = both_ways(ACTIVATIONS[name].op, np.ones((len(x), 1), dtype), x)
    scale = abs(x).astype("longdouble").prod(-1, keepdims=True)
    assert (abs(ours[0] - truth[0]) <= 4 * eps * scale + np.finfo(dtype).tiny).all()
    assert (abs(ours[1] - truth[1]) <= 64 * eps * abs(x[:, ::-1]) + np.finfo(dtype).tiny).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu", "silu"])
def test_an_activation_keeps_infinity_nan_and_the_sign_of_zero_on_every_engine(name, each_engine, dtype):
    """At −∞ x · 0 is no number, as in PyTorch; the slopes are those of the asymptotes."""
    op, most = ACTIVATIONS[name].op, np.finfo(dtype).max
    x = np.array([np.inf, -np.inf, np.nan, -0.0, 0.0, most, -most], dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        y, saved = engine.forward(op, [x])(x)
        (dx,) = engine.backward(op, x)(np.ones_like(x), saved)
    below = 0 if name == "relu" else np.nan
    assert np.array_equal(y, np.array([np.inf, below, np.nan, 0, 0, most, 0], dtype), equal_nan=True)
    assert np.signbit(y[3]) == (name != "relu")
    flat = 0 if name == "relu" else 0.5
    slope_of_nan = dx[2:3] if name == "relu" else [np.nan]
    assert np.array_equal(dx, np.array([1, 0, *slope_of_nan, flat, flat, 1, 0], dtype), equal_nan=True)


@pytest.mark.parametrize(
    "dtype, part, factor",
    [
        ("float32", "", 1e3),
        ("float32", "", 1e6),
        ("float32", "", 1e9),
        ("float32", "wte", 5e19),
        ("float32", "ln_", 1e20),
        ("float64", "", 1e6),
        ("float64", "", 1e18),
        ("float64", "wte", 1e160),
    ],
)
def test_a_model_of_large_weights_has_the_right_loss_and_gradients(each_engine, dtype, part, factor):
    """Above all a diverged run's: its loss must not look like chance."""
    config = Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8)
    model = GPT(config, seed=0).astype(dtype)
    for name, weight in model.params.items():
        if part in name:
            weight *= factor
    batch = [[0, 1, 2, 3]], [[1, 2, 3, 4]]
    with np.errstate(over="ignore", under="ignore"):
        loss, grads = model.loss_and_grads(*batch)
        true_loss, truth = model.astype("longdouble").loss_and_grads(*batch)
    eps = np.finfo(dtype).eps
    assert abs(loss - true_loss) <= 64 * eps * true_loss
    assert true_loss > 1000
    largest = max(abs(grad).max() for grad in truth.values())
    for name, grad in grads.items():
        assert abs(grad - truth[name]).max() <= 64 * eps * largest, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_query_with_one_key_has_a_gradient_of_exactly_nothing(each_engine, dtype):
    """Its probability is 1 whatever it asks: ds = P (dP − Σ P dP) = 0; with ⟨dy, y⟩ noise is left."""
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.standard_normal((3, 5, 7)).astype(dtype) for _ in range(4))
    (_, dq, _, _), _ = both_ways(ops.attend, dy, q, k, v)
    assert (dq[:, 0] == 0).all() and (dq[:, 1:] != 0).any()
    (_, dq, dk, _), _ = both_ways(ops.attend, dy[:, :1], q[:, :1], k[:, :1], v[:, :1])
    assert (dq == 0).all() and (dk == 0).all()
    qkv = rng.standard_normal((3, 1, 12)).astype(dtype)
    saved = engine.forward(ops.attention, [qkv])(qkv, n_head=2)[1]
    (dqkv,) = engine.backward(ops.attention, qkv)(dy[:, :1, :4].copy(), saved)
    assert (dqkv[..., :8] == 0).all() and (dqkv[..., 8:] != 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [1, 30])
def test_attention_errs_by_the_rounding_of_its_scores_and_by_no_more(each_engine, factor, seed):
    """A score is rounded to u |s|, so a probability errs by that share, and so do the gradients."""
    q, k, v, dy = queries(seed, factor)
    ours, truth = both_ways(ops.attend, dy, q, k, v)
    largest_score = (abs(q) @ abs(k).swapaxes(-1, -2)).max() / 4
    assert_near(ours, truth, np.finfo("float32").eps * (4 + largest_score))


@pytest.mark.parametrize("seed", range(3))
def test_a_softmax_that_has_made_its_choice_passes_nothing_back(each_engine, seed):
    """The truth is below 1e-100; what ⟨dy, y⟩ leaves there is multiplied by keys and by queries × 10⁵."""
    q, k, v, dy = queries(seed, 1e5)
    (_, dq, dk, _), (_, true_dq, true_dk, _) = both_ways(ops.attend, dy, q, k, v)
    assert abs(true_dq).max() < 1e-30 and abs(true_dk).max() < 1e-30
    assert abs(dq).max() < 1e-30 and abs(dk).max() < 1e-30


def queries(seed, factor):
    """q, k, v and dy in float32, the queries multiplied by a factor."""
    rng = np.random.default_rng(seed)
    q, k, v, dy = (rng.standard_normal((2, 32, 16)).astype("float32") for _ in range(4))
    return q * np.float32(factor), k, v, dy


def test_a_cap_far_below_the_scores_shuts_without_a_warning():
    x = np.array([-1e6, -3.0, 0.0, 3.0, 1e6])
    y, saved = ops.softcap.forward(x, cap=1e-3)
    np.testing.assert_allclose(y, np.sign(x) * 1e-3, rtol=1e-15)
    (dx,) = ops.softcap.backward(np.ones(5), saved)
    np.testing.assert_array_equal(dx, [0, 0, 1, 0, 0])
