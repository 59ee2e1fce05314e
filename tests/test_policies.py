"""What a policy learns from: PPO's surrogate, estimators of a divergence, whitening."""

import numpy as np
import pytest

from numgpt import InputError, ops

RNG = np.random.default_rng(0)


def both(op, *arrays, **options):
    """The value of an op, and the gradient of its sum with respect to the first array."""
    y, saved = op.forward(*arrays, **options)
    return y, op.backward(np.ones_like(y), saved)[0]


# PPO's surrogate.


def test_before_the_first_step_the_surrogate_is_minus_the_advantage_and_its_gradient_that_of_the_policy():
    logp, advantages = RNG.standard_normal((2, 3, 5))
    y, grad = both(ops.ppo, logp, logp, advantages)
    assert np.array_equal(y, -advantages) and np.array_equal(grad, -advantages)


@pytest.mark.parametrize(
    "ratio, advantage, seen, is_held",
    [
        (1.1, 2.0, 1.1, False),
        (1.3, 2.0, 1.2, True),
        (0.5, 2.0, 0.5, False),  # to the wrong side: never held
        (0.9, -2.0, 0.9, False),
        (0.5, -2.0, 0.8, True),
        (1.3, -2.0, 1.3, False),
        (1.3, 0.0, 1.3, False),
    ],
)
def test_a_token_waits_that_has_moved_far_enough_to_the_side_that_pays(ratio, advantage, seen, is_held):
    y, grad = both(ops.ppo, np.log([ratio]), np.zeros(1), np.array([advantage]))
    assert abs(y + seen * advantage) < 1e-15
    assert abs(grad + (0 if is_held else ratio * advantage)) < 1e-15


def test_a_higher_clip_lets_tokens_rise_further_and_fall_no_further():
    """DAPO's: a rare token may become likelier by more than by a fifth."""
    logp, advantages = np.log([1.25, 1.29, 0.7]), np.array([1.0, 1.0, -1.0])
    narrow = both(ops.ppo, logp, np.zeros(3), advantages)[1]
    wide = both(ops.ppo, logp, np.zeros(3), advantages, clip_high=0.28)[1]
    assert (narrow == 0).all() and np.allclose(wide, [-1.25, 0, 0])
    assert np.array_equal(narrow, both(ops.ppo, logp, np.zeros(3), advantages, clip_high=0.2)[1])


@pytest.mark.parametrize("bad", [{"clip": 0}, {"clip": -0.1}, {"clip_high": 0.0}, {"clip": "wide"}])
def test_a_clip_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match=f"^ppo: {next(iter(bad))} is "):
        ops.ppo(*RNG.standard_normal((3, 2)), **bad)


# Estimators of a divergence: as they are defined, and at the ends of numbers.


def test_estimators_are_what_they_are_called():
    logp, fixed, old = RNG.standard_normal((3, 40))
    d = logp - fixed
    assert np.array_equal(ops.k1(logp, fixed), d)
    assert np.allclose(ops.k2(logp, fixed), d**2 / 2, rtol=1e-15)
    k3 = np.exp(-d) - 1 + d
    assert np.allclose(ops.k3(logp, fixed), k3, rtol=1e-12)
    assert np.allclose(ops.k3(logp, fixed, old), np.exp(logp - old) * k3, rtol=1e-12)
    assert np.array_equal(ops.k3(logp, fixed, logp), ops.k3(logp, fixed))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_k3_is_near_half_a_square_and_keeps_its_digits(dtype):
    """expm1(−d) + d cancels to the square of what it is made of, and exp(−d) − 1 + d would to nothing."""
    d = np.array([1e-3, -1e-3, 1e-5, -1e-5], dtype)
    assert np.allclose(ops.k3(d, np.zeros_like(d)), d**2 / 2 - d**3 / 6 + d**4 / 24, rtol=1e-10, atol=1e-20)
    assert np.allclose(both(ops.k3, d, np.zeros_like(d))[1], d - d**2 / 2 + d**3 / 6, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype, far", [("float32", 80.0), ("float64", 700.0)])
def test_a_ratio_of_0_and_a_divergence_beyond_all_numbers_are_a_number_together(dtype, far):
    """exp(logp − old) is 0 and exp(fixed − logp) infinite; their product is exp(fixed − old)."""
    logp, fixed, old = (np.array([x], dtype) for x in (-4 * far, -far / 8, -far / 16))
    assert np.allclose(ops.k3(logp, fixed, old), np.exp(fixed - old), rtol=1e-6)


def test_what_is_beyond_all_numbers_is_infinite_and_warns_nobody():
    far, zero = np.array([-800.0, 800.0]), np.zeros(2)
    with np.errstate(all="raise", under="ignore"):
        assert ops.k3(far, zero).tolist() == [np.inf, 799.0]
        assert ops.ppo(far, zero, np.array([-1.0, -1.0])).tolist() == [0.8, np.inf]
        assert ops.ppo(far, zero, np.array([1.0, 1.0])).tolist() == [0.0, -1.2]
        assert ops.ppo(far, zero, zero).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_number_stays_none(place):
    arrays = [np.zeros(2), np.ones(2), np.ones(2)]
    arrays[place][1] = np.nan
    for op in (ops.ppo, ops.k3):
        y, grad = both(op, *arrays)
        assert np.isnan(y[1]) and np.isnan(grad[1]) and np.isfinite([y[0], grad[0]]).all()


# Whitening.

COUNTS = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], float)
X = 2 + RNG.standard_normal(COUNTS.shape)


def test_what_counts_has_mean_0_and_variance_1_and_padding_is_in_neither():
    """Padded zeros would have turned a mean of 2 and a deviation of 1 into 1 and 1.3."""
    y = ops.whiten(X, COUNTS)[COUNTS > 0]
    assert abs(y.mean()) < 1e-15 and abs(y.std() - 1) < 1e-7
    alone = ops.whiten(X[COUNTS > 0], np.ones(12))
    assert np.allclose(y, alone, rtol=1e-13)
    filled = np.where(COUNTS > 0, X, 0)
    assert abs(ops.whiten(filled, np.ones((3, 6)))[COUNTS > 0] - y).max() > 0.3


def test_rewards_keep_their_mean():
    y = ops.whiten(X, COUNTS, shift_mean=False)
    assert np.allclose(y[COUNTS > 0], ops.whiten(X, COUNTS)[COUNTS > 0] + X[COUNTS > 0].mean(), rtol=1e-13)
    assert (y[COUNTS == 0] == 0).all()


@pytest.mark.parametrize("options", [{}, {"shift_mean": False}])
@pytest.mark.parametrize("hidden", [np.nan, np.inf, -np.inf, 1e300])
def test_what_a_weight_of_0_hides_whitens_nothing(options, hidden):
    y, grad = both(ops.whiten, np.where(COUNTS > 0, X, hidden), COUNTS, **options)
    expected = both(ops.whiten, X, COUNTS, **options)
    assert np.array_equal(y, expected[0]) and np.array_equal(grad, expected[1])
    assert (y[COUNTS == 0] == 0).all() and (grad[COUNTS == 0] == 0).all()


@pytest.mark.parametrize("size", [1e-100, 1e-3, 1e30, 1e200, 1e307])
def test_numbers_of_any_size_are_whitened(size):
    y, saved = ops.whiten.forward(size * X, COUNTS, eps=0.0)
    assert np.allclose(y, ops.whiten(X, COUNTS, eps=0.0), rtol=1e-12, atol=1e-14)
    dy = RNG.standard_normal(X.shape)
    grad = ops.whiten.backward(dy, saved)[0]
    expected = ops.whiten.backward(dy, ops.whiten.forward(X, COUNTS, eps=0.0)[1])[0]
    assert np.allclose(size * grad, expected, rtol=1e-11, atol=1e-13)


def test_one_number_alone_is_0_and_none_is_refused():
    assert ops.whiten(X[:1, :1], np.ones((1, 1))).tolist() == [[0.0]]
    with pytest.raises(InputError, match="^whiten: no weight counts, expected at least one that is not 0"):
        ops.whiten(X, 0 * COUNTS)
