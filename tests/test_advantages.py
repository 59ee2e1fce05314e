"""Advantages: identities between them, what padding hides, groups without signal, and what is refused."""

import re

import numpy as np
import pytest

from numgpt import InputError, tuning

RNG = np.random.default_rng(0)
REWARDS = RNG.standard_normal((5, 8))
# Rewards that are alike within each group, but no mean of three of them need be what they are.
ALIKE = np.repeat(np.array([[0.1], [-0.7], [1e9 / 3], [0.0]]), 3, axis=1)
GROUPED = {
    "rloo": tuning.rloo,
    "grpo": tuning.grpo,
    "dr_grpo": tuning.dr_grpo,
    "reinforce_pp": lambda rewards: tuning.reinforce_pp(rewards, baseline=True),
}
every_group = pytest.mark.parametrize("advantages", GROUPED.values(), ids=list(GROUPED))


# Of groups.


def test_rloo_compares_each_with_the_others():
    others = np.array([[np.delete(row, i).mean() for i in range(8)] for row in REWARDS])
    assert np.allclose(tuning.rloo(REWARDS), REWARDS - others, rtol=0, atol=1e-15)
    assert np.allclose(tuning.rloo(REWARDS), 8 / 7 * tuning.dr_grpo(REWARDS), rtol=1e-15)


@pytest.mark.parametrize("ddof, eps, alone, half", [(1, 1e-4, 2.47, 0.94), (0, 0, 2.65, 1.00)])
def test_grpo_lifts_the_winner_of_a_hard_prompt_and_by_how_much(ddof, eps, alone, half):
    rewards = np.zeros((2, 8))
    rewards[0, 0] = rewards[1, :4] = 1
    found = tuning.grpo(rewards, eps, ddof)
    assert found[0, 0].round(2) == alone and found[1, 0].round(2) == half
    deviation = rewards.std(1, keepdims=True, ddof=ddof)
    assert np.allclose(found, tuning.dr_grpo(rewards) / (deviation + eps), rtol=1e-14)


def test_an_easy_and_a_hard_prompt_teach_as_much_as_one_another_and_by_rloo_less_than_those_between():
    """Variances: p (1 − p) without a division, about 1 with it."""
    rewards = (np.arange(8) < np.array([[1], [4], [7]])).astype(float)
    hard, half, easy = (tuning.dr_grpo(rewards) ** 2).mean(1)
    assert np.isclose(hard, easy) and np.isclose(hard, 7 / 64) and half == 1 / 4
    assert np.allclose((tuning.grpo(rewards, ddof=0) ** 2).mean(1), 1, atol=1e-3)


@every_group
def test_a_group_without_signal_teaches_exactly_nothing(advantages):
    beside = np.concatenate([ALIKE, [[1.0, 0.0, 0.2]]])
    for rewards in (ALIKE, beside, ALIKE[:1], ALIKE.astype("float32"), np.ones((2, 2), bool)):
        found = advantages(rewards)
        assert found.dtype == np.float64 and (found[: len(ALIKE)] == 0).all()
    assert advantages(beside)[-1].all()
    assert (tuning.grpo(ALIKE, eps=0) == 0).all() and (tuning.reinforce_pp(ALIKE[:1]) == 0).all()


@every_group
def test_advantages_of_a_group_add_up_to_nothing_and_a_shift_of_its_rewards_changes_none(advantages):
    found = advantages(REWARDS)
    assert abs(found.sum(1)).max() < 1e-13
    assert np.allclose(advantages(REWARDS + np.arange(5)[:, None]), found, rtol=1e-13, atol=1e-14)
    order = RNG.permutation(8)
    assert np.allclose(advantages(REWARDS[:, order]), found[:, order], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1e200])
def test_grpo_knows_no_unit(size):
    assert np.allclose(tuning.grpo(size * REWARDS, eps=0), tuning.grpo(REWARDS, eps=0), rtol=1e-13)


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_pp_has_one_deviation_for_the_batch(baseline):
    found = tuning.reinforce_pp(REWARDS, baseline)
    given = REWARDS - REWARDS.mean(1, keepdims=True) if baseline else REWARDS
    assert np.allclose(found, (given - given.mean()) / np.sqrt(given.var() + 1e-8), rtol=1e-13)
    assert abs(found.mean()) < 1e-15 and abs(found.std() - 1) < 1e-7


def test_reinforce_pp_without_baseline_raises_all_of_an_easy_prompt_and_takes_groups_of_one():
    found = tuning.reinforce_pp([[1, 1], [0, 0]])
    assert np.allclose(found, [[1, 1], [-1, -1]])
    assert np.allclose(tuning.reinforce_pp([[1], [0]]), [[1], [-1]])


# Of tokens.

T = 7
LENGTHS, BEGINS = np.array([7, 4, 1, 0]), np.array([0, 2, 6, 3])
WEIGHTS = (np.arange(T) >= BEGINS[:, None]) & (np.arange(T) < (BEGINS + LENGTHS)[:, None])
ENDED = np.array([True, False, True, False])
R, V = RNG.standard_normal((2, 4, T))


def by_hand(rewards, values, ended, gamma, lam):
    """Advantages of one row without padding, by their definition: a sum of δ."""
    after = [*values[1:], 0.0 if ended else values[-1]]
    delta = [r + gamma * later - v for r, later, v in zip(rewards, after, values)]
    n = len(delta)
    return [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, n)) for t in range(n)]


def lambda_return(rewards, values, ended, gamma, lam):
    """(1 − λ) Σ_k λ^{k−1} (the return of k steps, and V behind them); the last one has what is left of λ."""
    n, found = len(rewards), []
    after = [*values[1:], 0.0 if ended else values[-1]]
    for t in range(n):
        total = 0.0
        for k in range(1, n - t + 1):
            steps = sum(gamma**i * rewards[t + i] for i in range(k)) + gamma**k * after[t + k - 1]
            total += (1 if k == n - t else 1 - lam) * lam ** (k - 1) * steps
        found.append(total)
    return found


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0), (0.0, 0.5)])
def test_gae_is_the_sum_of_its_surprises_and_with_values_the_lambda_return(gamma, lam):
    advantages, returns = tuning.gae(R, V, WEIGHTS, ENDED, gamma=gamma, lam=lam)
    for row, (begin, length) in enumerate(zip(BEGINS, LENGTHS)):
        if length == 0:
            continue
        at = slice(begin, begin + length)
        given = R[row, at], V[row, at], ENDED[row], gamma, lam
        assert np.allclose(advantages[row, at], by_hand(*given), rtol=1e-13, atol=1e-14)
        assert np.allclose(returns[row, at], lambda_return(*given), rtol=1e-13, atol=1e-14)
    assert (advantages[~WEIGHTS] == 0).all() and (returns[~WEIGHTS] == 0).all()


def test_with_lambda_1_a_token_is_compared_with_all_that_came():
    advantages, returns = tuning.gae(R[:1], V[:1], WEIGHTS[:1], [True], lam=1.0)
    rest = R[0, ::-1].cumsum()[::-1]
    assert np.allclose(returns[0], rest, rtol=1e-13) and np.allclose(advantages[0], rest - V[0], rtol=1e-13)


def test_behind_a_text_that_was_cut_off_its_last_value_is_what_may_come():
    ended, cut = (tuning.gae(R[:1], V[:1], WEIGHTS[:1], [e], gamma=0.9, lam=0.5)[0] for e in (True, False))
    assert np.allclose(cut - ended, 0.9 * V[0, -1] * 0.45 ** np.arange(T)[::-1], rtol=1e-12)


@pytest.mark.parametrize("hidden", [np.nan, np.inf, -1e300, 7.0])
def test_what_a_weight_of_0_hides_is_in_no_advantage(hidden):
    rewards, values = (np.where(WEIGHTS, x, hidden) for x in (R, V))
    found, expected = tuning.gae(rewards, values, WEIGHTS, ENDED), tuning.gae(R, V, WEIGHTS, ENDED)
    assert np.array_equal(found, expected) and not np.isnan(found).any()
    alone = tuning.gae(*(x[1:2, 2:6] for x in (R, V, WEIGHTS)), ENDED[1:2])
    assert np.array_equal(alone, np.array(expected)[:, 1:2, 2:6])


# How far.


@pytest.mark.parametrize(
    "kl, factor", [(6.0, 1), (6.6, 1.01), (12.0, 1.02), (600.0, 1.02), (3.0, 0.98), (0.0, 0.98), (-1.0, 0.98)]
)
def test_the_weight_of_a_divergence_follows_it_and_no_faster_than_by_a_fifth_a_horizon(kl, factor):
    assert abs(tuning.adaptive_beta(0.15, kl, 6.0, 10_000, 1000) - 0.15 * factor) < 1e-16


# What is refused.

WRONG = {
    "rloo: rewards has shape (3,), expected (prompts, G), a group a row": lambda: tuning.rloo([1, 0, 1]),
    "dr_grpo: groups have 1, expected 2 or more responses: a response alone has none to be compared with": (
        lambda: tuning.dr_grpo([[1], [0]])
    ),
    "reinforce_pp: groups have 1, expected 2 or more": lambda: tuning.reinforce_pp([[1], [0]], True),
    "reinforce_pp: groups have 0, expected 1 or more": lambda: tuning.reinforce_pp(np.zeros((2, 0))),
    "grpo: there is no group, expected one or more": lambda: tuning.grpo(np.zeros((0, 4))),
    "grpo: rewards has nan at (1, 0), expected finite numbers": lambda: tuning.grpo([[1, 0], [np.nan, 1]]),
    "grpo: rewards has inf at (0, 1), expected": lambda: tuning.grpo([[1, np.inf], [0, 1]]),
    "grpo: rewards has dtype complex128, expected real": lambda: tuning.grpo([[1j, 2], [0, 1]]),
    "grpo: ddof is 2, expected 0 or 1": lambda: tuning.grpo(REWARDS, ddof=2),
    "grpo: rewards is [['a', 'b']], expected": lambda: tuning.grpo([["a", "b"]]),
    "gae: rewards has shape (4, 3), expected (4, 7)": lambda: tuning.gae(R[:, :3], V, WEIGHTS, ENDED),
    "gae: values has nan at (0, 2), expected finite": (
        lambda: tuning.gae(R, np.where(np.arange(T) == 2, np.nan, V), WEIGHTS, ENDED)
    ),
    "gae: ended has shape (3,), expected (4,), one a row": lambda: tuning.gae(R, V, WEIGHTS, ENDED[:3]),
    "gae: weights has 0.5, expected 0 and 1 alone": lambda: tuning.gae(R, V, 0.5 * WEIGHTS, ENDED),
    "gae: weights has a 0 between two 1 in row 1, expected them side by side": (
        lambda: tuning.gae(R, V, WEIGHTS & (np.arange(T) != 3) | (WEIGHTS[:, :1]), ENDED)
    ),
    "gae: weights has shape (4,), expected (N, T)": lambda: tuning.gae(R, V, ENDED, ENDED),
    "adaptive_beta: n is 500, expected less than 500, 5 times horizon": (
        lambda: tuning.adaptive_beta(0.1, 5.0, 6.0, 100, 500)
    ),
    "adaptive_beta: kl is nan, expected a finite number": (
        lambda: tuning.adaptive_beta(0.1, np.nan, 6.0, 100, 5)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_has_no_advantage_is_refused_in_a_line(message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}") as error:
        WRONG[message]()
    assert "\n" not in str(error.value)
