"""What a policy learns from: PPO's surrogate, estimators of a divergence, whitening, and where that leads."""

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


# By enumeration: every token that may come, with its probability, so that a mean is exact.

V = 5
every_seed = pytest.mark.parametrize("seed", range(3))
every_temperature = pytest.mark.parametrize("tau", [1.0, 0.6])


def tables(seed):
    """Logits of a policy, of a fixed model, and of the policy some steps ago."""
    policy, fixed, noise = np.random.default_rng(seed).standard_normal((3, V))
    return 1.5 * policy, 1.5 * fixed, 1.5 * policy + 0.4 * noise


def of_tokens(logits, tau=1.0):
    """(ln p of each token, the function that takes gradients of these to that of the logits)."""
    logp, saved = ops.token_logprobs.forward(np.tile(logits, (V, 1)), np.arange(V), temperature=tau)
    return logp, lambda dlogp: ops.token_logprobs.backward(dlogp, saved)[0].sum(0)


def as_loss(op, logits, sampler, *constants, tau=1.0):
    """(mean value, mean gradient) of an op as a loss, over the tokens of a sampler of log-probabilities."""
    logp, through = of_tokens(logits, tau)
    y, saved = op.forward(logp, *constants)
    return (np.exp(sampler) * y).sum(), through(op.backward(np.exp(sampler), saved)[0])


def divergences(policy, fixed, tau):
    """(KL(p‖q), its gradient, that of KL(q‖p)), by ops that read whole distributions."""
    y, saved = ops.reverse_kl.forward(policy, fixed, temperature=tau)
    other = ops.forward_kl.forward(policy, fixed, temperature=tau)[1]
    return (
        y,
        ops.reverse_kl.backward(np.ones(()), saved)[0],
        ops.forward_kl.backward(np.ones(()), other)[0],
    )


@every_seed
@every_temperature
def test_each_estimator_has_the_value_and_the_gradient_that_its_docstring_says(seed, tau):
    policy, fixed, before = tables(seed)
    p, q, old = (of_tokens(z, tau)[0] for z in (policy, fixed, before))
    kl, to_fixed, from_fixed = divergences(policy, fixed, tau)
    value, grad = as_loss(ops.k1, policy, p, q, tau=tau)
    assert abs(value - kl) < 1e-14 and abs(grad).max() < 1e-15
    value, grad = as_loss(ops.k2, policy, p, q, tau=tau)
    assert abs(value - kl) > 1e-2 and abs(grad - to_fixed).max() < 1e-14
    value, grad = as_loss(ops.k3, policy, p, q, tau=tau)
    assert abs(value - kl) < 1e-14 and abs(grad - from_fixed).max() < 1e-14
    for sampler in (p, old):
        value, grad = as_loss(ops.k3, policy, sampler, q, sampler, tau=tau)
        assert abs(value - kl) < 1e-14 and abs(grad - to_fixed).max() < 1e-14
    assert abs(to_fixed - from_fixed).max() > 1e-2


@every_seed
def test_samples_of_an_older_policy_give_the_gradient_of_this_one_where_nothing_is_clipped(seed):
    policy, _, before = tables(seed)
    p, old = of_tokens(policy)[0], of_tokens(before)[0]
    advantages = np.random.default_rng(seed).standard_normal(V)
    logp, through = of_tokens(policy)
    y, saved = ops.ppo.forward(logp, old, advantages, clip=1e3)
    grad = through(ops.ppo.backward(np.exp(old), saved)[0])
    assert np.allclose(grad, through(-np.exp(p) * advantages), rtol=1e-12, atol=1e-15)
    assert np.isclose((np.exp(old) * y).sum(), -(np.exp(p) * advantages).sum(), rtol=1e-13)


# Texts of two tokens: a table (1 + V, V), whose row 0 is of the first token, and 1 + a of the one behind a.

FIRST, SECOND = (grid.reshape(-1) for grid in np.meshgrid(np.arange(V), np.arange(V), indexing="ij"))
TEXTS, PLACES = np.stack([FIRST, SECOND], 1), np.stack([0 * FIRST, 1 + FIRST], 1)


def of_texts(table, through=None):
    """(V², 2) log-probabilities of the tokens of all texts; or the table's gradient through theirs."""
    logp, saved = ops.token_logprobs.forward(table[PLACES], TEXTS)
    if through is None:
        return logp
    gradient = np.zeros_like(table)
    np.add.at(gradient, PLACES, ops.token_logprobs.backward(through, saved)[0])
    return gradient


def kl_of_texts(table, fixed):
    """The divergence, of a complex table too: no sum is taken by an op."""
    sums = []
    for t in (table, fixed):
        rows = t - np.log(np.exp(t).sum(-1, keepdims=True))
        sums.append(rows[PLACES, TEXTS].sum(1))
    return (np.exp(sums[0]) * (sums[0] - sums[1])).sum()


@every_seed
def test_the_divergence_of_texts_has_the_gradient_of_k1_in_the_reward_to_go_and_of_k2_of_sums(seed):
    table, fixed = 1.2 * np.random.default_rng(seed).standard_normal((2, 1 + V, V))
    steps = 1e-30j * np.eye(table.size).reshape(-1, *table.shape)
    kl = np.array([kl_of_texts(table + step, fixed).imag / 1e-30 for step in steps]).reshape(table.shape)
    logp, logq = of_texts(table), of_texts(fixed)
    chance = np.exp(logp.sum(1, keepdims=True))
    d = ops.k1(logp, logq)
    to_go = d[:, ::-1].cumsum(1)[:, ::-1]
    _, saved = ops.k2.forward(logp.sum(1), logq.sum(1))
    dsum = ops.k2.backward(chance[:, 0], saved)[0][:, None]
    right = {"to go": chance * to_go, "whole": chance * d.sum(1, keepdims=True), "k2": dsum * np.ones((1, 2))}
    for through in right.values():
        assert abs(of_texts(table, through) - kl).max() < 1e-13
    _, by_token = ops.k3.forward(logp, logq)
    wrong = {
        "the token's own reward": chance * d,
        "the reward of before": chance * d.cumsum(1),
        "k3 of tokens": ops.k3.backward(chance * np.ones((1, 2)), by_token)[0],
    }
    for through in wrong.values():
        assert abs(of_texts(table, through) - kl).max() > 1e-2
    nothing = chance * np.ones((1, 2))  # k1 as a loss
    assert abs(of_texts(table, nothing)).max() < 1e-15


# A bandit: where learning ends is known, p ∝ q exp(r/β).

BETA = 0.5
REWARDS = np.array([1.0, 0.0, 0.3, 0.9, 0.5])
_, FIXED, _ = tables(0)


def learned(step, tau=1.0, tau_of_loss=None, steps=1500):
    """p after exact steps: each the mean over all tokens of what step(logp, logq) gives for ln p."""
    logits, logq = np.zeros(V), of_tokens(FIXED)[0]
    for _ in range(steps):
        p = np.exp(of_tokens(logits, tau)[0])
        logp, through = of_tokens(logits, tau if tau_of_loss is None else tau_of_loss)
        logits = logits - 2.0 * through(p * step(logp, logq))
    return np.exp(of_tokens(logits, tau)[0])


def in_the_reward(logp, logq, sign=1.0):
    """PPO's gradient at ρ = 1, of the reward less β k1, and less its mean."""
    rewards = REWARDS - sign * BETA * ops.k1(logp, logq)
    advantages = rewards - (np.exp(logp) * rewards).sum()
    return ops.ppo.backward(np.ones(V), ops.ppo.forward(logp, logp, advantages)[1])[0]


def beside_the_reward(op, weighted=False):
    """PPO's gradient of the reward alone, and β times an estimator's as a loss."""

    def step(logp, logq):
        of_reward = ops.ppo.backward(np.ones(V), ops.ppo.forward(logp, logp, REWARDS)[1])[0]
        _, saved = op.forward(logp, logq, *([logp] if weighted else []))
        return of_reward + BETA * op.backward(np.ones(V), saved)[0]

    return step


OPTIMUM = np.exp(of_tokens(FIXED)[0] + REWARDS / BETA)
OPTIMUM /= OPTIMUM.sum()


@pytest.mark.parametrize("tau", [1.0, 0.7])
@pytest.mark.parametrize(
    "step",
    [in_the_reward, beside_the_reward(ops.k2), beside_the_reward(ops.k3, weighted=True)],
    ids=["k1 in the reward", "k2", "weighted k3"],
)
def test_a_bandit_learns_the_policy_that_is_known_to_be_best(step, tau):
    assert abs(learned(step, tau) - OPTIMUM).max() < 1e-12


MISTAKES = {
    "the sign of the divergence": lambda: learned(lambda *logps: in_the_reward(*logps, sign=-1.0)),
    "a missing temperature": lambda: learned(in_the_reward, tau=0.7, tau_of_loss=1.0),
    "k1 as a loss": lambda: learned(beside_the_reward(ops.k1)),
    "k3 without its ratio": lambda: learned(beside_the_reward(ops.k3)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_leads_a_bandit_elsewhere(mistake):
    assert abs(MISTAKES[mistake]() - OPTIMUM).max() > 0.02
