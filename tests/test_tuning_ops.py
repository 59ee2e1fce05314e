"""What tuning's ops mean: identities between them, and what masks hide."""

import numpy as np
import pytest

from numgpt import InputError, ops

RNG = np.random.default_rng(0)
LOGITS, FIXED = RNG.standard_normal((2, 3, 4, 7))
TARGETS = np.array([[1, 6, -1, 0], [-1, -1, 2, 2], [3, 4, 5, -1]])
COUNTS = (TARGETS >= 0).astype(float)


def test_minus_the_mean_of_token_logprobs_is_the_cross_entropy():
    logp, saved = ops.token_logprobs.forward(LOGITS, TARGETS)
    loss, kept = ops.cross_entropy.forward(LOGITS, TARGETS)
    assert abs(ops.token_mean(logp, COUNTS) + loss) < 1e-15
    share = -COUNTS / COUNTS.sum()
    grad = ops.token_logprobs.backward(share, saved)[0]
    assert abs(grad - ops.cross_entropy.backward(1.0, kept)[0]).max() < 1e-16


@pytest.mark.parametrize("options", [{}, {"temperature": 0.3}, {"smoothing": 0.2}])
def test_a_target_that_does_not_count_gives_0_and_gets_no_gradient(options):
    logp, saved = ops.token_logprobs.forward(LOGITS, TARGETS, **options)
    grad = ops.token_logprobs.backward(np.ones_like(logp), saved)[0]
    assert (logp[TARGETS < 0] == 0).all() and (logp[TARGETS >= 0] < 0).all()
    assert (grad[TARGETS < 0] == 0).all() and abs(grad.sum(-1)).max() < 1e-15


def test_a_temperature_divides_logits():
    for op, arrays in ((ops.token_logprobs, (TARGETS,)), (ops.token_entropy, ()), (ops.reverse_kl, (FIXED,))):
        warmed = [a / 0.7 if a is FIXED else a for a in arrays]
        assert np.allclose(op(LOGITS, *arrays, temperature=0.7), op(LOGITS / 0.7, *warmed), rtol=1e-13)


def test_entropy_and_both_divergences_are_sums_of_log_probabilities():
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (LOGITS, FIXED))
    assert np.allclose(ops.token_entropy(LOGITS), -(p * np.log(p)).sum(-1), rtol=1e-13)
    assert np.allclose(ops.reverse_kl(LOGITS, FIXED), (p * np.log(p / q)).sum(-1), rtol=1e-13)
    assert np.allclose(ops.forward_kl(LOGITS, FIXED), (q * np.log(q / p)).sum(-1), rtol=1e-13)
    assert np.array_equal(ops.forward_kl(LOGITS, FIXED), ops.reverse_kl(FIXED, LOGITS))
    assert abs(ops.reverse_kl(LOGITS, LOGITS + 3.0)).max() < 1e-14  # a shift is no difference
    assert abs(ops.token_entropy(np.zeros((2, 8))) - np.log(8)).max() < 1e-15


def test_distillation_from_one_token_is_the_cross_entropy_with_it():
    sure = np.full((3, 7), -np.inf)
    sure[[0, 1, 2], [4, 0, 6]] = 0.0
    expected = -ops.token_logprobs(LOGITS[:, 0], np.array([4, 0, 6]))
    assert np.allclose(ops.forward_kl(LOGITS[:, 0], sure), expected, rtol=1e-13)


def test_a_token_that_cannot_come_costs_nothing_and_gets_no_gradient():
    logits = LOGITS.copy()
    logits[..., 0] = -np.inf
    arrays = {"token_logprobs": (TARGETS.clip(1),), "token_entropy": (), "reverse_kl": (FIXED,)}
    fewer = {"token_logprobs": (TARGETS.clip(1) - 1,), "token_entropy": ()}
    for name, more in arrays.items():
        op = ops.ALL[name]
        y, saved = op.forward(logits, *more)
        grad = op.backward(np.ones_like(y), saved)[0]
        assert np.isfinite(y).all() and np.isfinite(grad).all() and (grad[..., 0] == 0).all()
        if name in fewer:
            assert np.allclose(y, op(logits[..., 1:], *fewer[name]), rtol=1e-13)


def test_the_gradient_of_a_warm_divergence_falls_with_the_square_of_its_temperature():
    """Hinton's reason for the factor τ²: for large τ it is (l − f − their means)/V."""
    tau = 1e4
    y, saved = ops.forward_kl.forward(LOGITS, FIXED, temperature=tau)
    grad = tau**2 * ops.forward_kl.backward(np.ones_like(y), saved)[0]
    gap = LOGITS - FIXED
    assert np.allclose(grad, (gap - gap.mean(-1, keepdims=True)) / 7, atol=1e-3)


MEANS = [ops.token_mean, ops.sequence_mean, ops.sequence_sum]


@pytest.mark.parametrize("op", MEANS, ids=lambda op: op.name)
@pytest.mark.parametrize("hidden", [np.nan, np.inf, -np.inf, 1e300])
def test_what_a_weight_of_0_hides_changes_nothing(op, hidden):
    weights = np.array([[1.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    x = RNG.standard_normal((2, 3))
    seen = np.where(weights == 0, hidden, x)
    (y, saved), (expected, kept) = op.forward(seen, weights), op.forward(x, weights)
    assert np.array_equal(y, expected)
    dy = np.ones_like(y)
    assert np.array_equal(op.backward(dy, saved)[0], op.backward(dy, kept)[0])
    assert (op.backward(dy, saved)[0][weights == 0] == 0).all()


def test_tokens_weigh_alike_by_token_and_by_the_length_of_their_text_by_sequence():
    """Responses of 3, 2 and 1 tokens: 1/6 each, or 1/9, 1/6, 1/3."""
    weights = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
    x = np.ones((3, 3))
    for op, shares in ((ops.token_mean, [1 / 6] * 3), (ops.sequence_mean, [1 / 9, 1 / 6, 1 / 3])):
        y, saved = op.forward(x, weights)
        grad = op.backward(1.0, saved)[0]
        assert abs(y - 1) < 1e-15 and np.allclose(grad[:, 0], shares, rtol=1e-15)


@pytest.mark.parametrize(
    "op, count", [(ops.token_mean, 6), (ops.sequence_mean, 3)], ids=["token", "sequence"]
)
def test_parts_with_the_count_of_the_whole_add_up_to_its_mean(op, count):
    weights = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], float)
    x = RNG.standard_normal((3, 3))
    parts = sum(op(x[i : i + 1], weights[i : i + 1], count=count) for i in range(3))
    assert abs(parts - op(x, weights)) < 1e-15


def test_nothing_that_counts_has_no_mean():
    x, none = np.ones((2, 3)), np.zeros((2, 3))
    with pytest.raises(
        InputError, match="^token_mean: no weight counts, expected at least one that is not 0"
    ):
        ops.token_mean(x, none)
    with pytest.raises(InputError, match="^token_mean: count is 0, expected at least one token that counts"):
        ops.token_mean(x, none, count=0)
    one = np.array([[1, 0, 0], [0, 0, 0]])
    with pytest.raises(
        InputError, match="^sequence_mean: a row has no weight, expected at least one in each"
    ):
        ops.sequence_mean(x, one)
    assert ops.sequence_sum(x, one).tolist() == [1, 0]
