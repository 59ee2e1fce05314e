"""What tuning's ops mean: identities between them, and what masks hide."""

import numpy as np
import pytest

from numgpt import InputError, engine, ops
from numgpt.ops.cost import cost

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


CHOSEN, REJECTED, FIXED_CHOSEN, FIXED_REJECTED = RNG.standard_normal((4, 6))
PAIRS = (CHOSEN, REJECTED, FIXED_CHOSEN, FIXED_REJECTED)


def test_at_the_reference_itself_every_margin_is_0():
    """What a run shows at its first step, if the two models see the same texts in the same way."""
    same = (CHOSEN, REJECTED, CHOSEN, REJECTED)
    assert abs(ops.dpo(*same) - np.log(2)).max() < 1e-16
    assert abs(ops.dpo(*same, label_noise=0.3) - np.log(2)).max() < 1e-15
    assert np.array_equal(ops.ipo(*same, beta=0.5), np.ones(6))
    assert abs(ops.kto(CHOSEN, CHOSEN, np.ones(6)) - 0.5).max() == 0


def test_dpo_is_bradley_terry_on_rewards_that_are_gains_over_the_reference():
    rewards = 0.3 * (CHOSEN - FIXED_CHOSEN), 0.3 * (REJECTED - FIXED_REJECTED)
    assert np.allclose(ops.dpo(*PAIRS, beta=0.3), ops.bradley_terry(*rewards), rtol=1e-14)


def test_a_step_down_the_gradient_prefers_the_chosen_one():
    for op, arrays in ((ops.bradley_terry, PAIRS[:2]), (ops.dpo, PAIRS)):
        y, saved = op.forward(*arrays)
        grads = op.backward(np.ones_like(y), saved)
        assert (grads[0] < 0).all() and (grads[1] > 0).all() and np.array_equal(grads[0], -grads[1])
        assert (op(arrays[0] + 1, *arrays[1:]) < y).all() and (
            op(arrays[0], arrays[1] + 1, *arrays[2:]) > y
        ).all()
        exchanged = [arrays[i ^ 1] for i in range(len(arrays))]
        assert (abs(op(*exchanged) - y) > 1e-3).all()


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_dpo_with_noisy_labels_rests_where_it_is_as_sure_as_they_are(noise):
    h = np.log((1 - noise) / noise) / 0.5
    y, saved = ops.dpo.forward(
        np.array([h]), np.zeros(1), np.zeros(1), np.zeros(1), beta=0.5, label_noise=noise
    )
    assert abs(ops.dpo.backward(np.ones(1), saved)[0]).max() < 1e-16


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_of_preferences_keep_their_digits_where_a_sigmoid_is_0_or_1(dtype):
    far = np.array([-800, -89, -17, 0, 17, 89, 800], dtype)
    y, saved = ops.bradley_terry.forward(far, np.zeros_like(far))
    grad = ops.bradley_terry.backward(np.ones_like(y), saved)[0]
    wide = far.astype("longdouble")
    exact = np.log1p(np.exp(-abs(wide))) + np.where(wide < 0, -wide, 0)
    least = np.finfo(dtype).tiny
    assert (abs(y - exact) <= 2 * np.finfo(dtype).eps * exact + least).all()
    assert (abs(grad + 1 / (1 + np.exp(wide))) <= 2 * np.finfo(dtype).eps / (1 + np.exp(wide)) + least).all()


def test_kto_moves_good_texts_up_and_bad_ones_down_from_where_texts_are_on_average():
    good = np.array([True, False, True, False, True, False])
    y, saved = ops.kto.forward(CHOSEN, FIXED_CHOSEN, good, np.array(0.2), beta=0.5)
    grad = ops.kto.backward(np.ones_like(y), saved)[0]
    assert ((grad < 0) == good).all() and ((y > 0) & (y < 1)).all()
    balanced = ops.kto(CHOSEN, CHOSEN - 0.4, good, 0.2, beta=0.5)  # a gain of z0
    assert abs(balanced - 0.5).max() < 1e-15


def test_a_value_that_went_too_far_to_the_right_side_waits():
    old, returns = np.zeros(4), np.array([1.0, 1.0, -1.0, 1.0])
    value = np.array([0.1, 0.5, 0.5, -0.5])
    y, saved = ops.clipped_value.forward(value, old, returns, clip=0.2)
    grad = ops.clipped_value.backward(np.ones(4), saved)[0]
    assert np.allclose(y, [0.405, 0.32, 1.125, 1.125]) and np.allclose(grad, [-0.9, 0, 1.5, -1.5])


def test_pooled_vectors_do_not_depend_on_padding():
    x, lengths = RNG.standard_normal((3, 5, 2)), np.array([5, 2, 1])
    weights = np.arange(5) < lengths[:, None]
    padded = np.where(weights[..., None], x, np.nan)
    for op, more in ((ops.last_token, lengths - 1), (ops.mean_pool, weights)):
        y, saved = op.forward(padded, more)
        grad = op.backward(np.ones_like(y), saved)[0]
        assert (grad[~weights] == 0).all() and np.allclose(grad.sum(1), 1)
        for n, length in enumerate(lengths):
            alone = op(x[n, :length], more[n, ...] if more.ndim == 1 else more[n, :length])
            assert np.allclose(y[n], alone, rtol=1e-15)
    with pytest.raises(InputError, match="^mean_pool: a row has no weight, expected at least one in each"):
        ops.mean_pool(x, np.zeros((3, 5)))
    with pytest.raises(InputError, match=r"^last_token: places has 5 at \(0,\), expected 0 to 4"):
        ops.last_token(x, lengths)


def lora_arrays(N, dtype="float64"):
    rng = np.random.default_rng(1)
    shapes = (N, 40), (40, 70), (70,), (40, 8), (8, 70)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("N", [1, 3, 200])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_adapter_that_begins_gives_the_base_to_the_bit_and_learns_by_its_second_half(
    N, dtype, each_engine
):
    x, weight, bias, lora_a, lora_b = lora_arrays(N, dtype)
    arrays = x, weight, bias, lora_a, np.zeros_like(lora_b)
    with engine.session(dtype):
        y, saved = engine.forward(ops.lora_linear, arrays)(*arrays, factor=2.0)
        base, _ = engine.forward(ops.linear, arrays[:3])(*arrays[:3])
        _, _, _, dlora_a, dlora_b = engine.backward(ops.lora_linear, y)(y, saved)
    assert np.array_equal(y, base) and not dlora_a.any() and dlora_b.all()


def test_an_adapter_merged_gives_the_same_function():
    x, weight, bias, lora_a, lora_b = lora_arrays(30)
    merged = ops.linear(x, weight + 0.5 * (lora_a @ lora_b), bias)
    y = ops.lora_linear(x, weight, bias, lora_a, lora_b, factor=0.5)
    assert abs(y - merged).max() <= 1e-12 * abs(merged).max()


def test_a_frozen_base_gets_no_gradient_and_the_adapter_the_same(each_engine):
    arrays = lora_arrays(200)
    with engine.session("float64"):
        y, saved = engine.forward(ops.lora_linear, arrays)(*arrays)
        backward = engine.backward(ops.lora_linear, y)
        dx, dweight, dbias, dlora_a, dlora_b = backward(y, saved, wanted=(False, False, True, True))
        whole = backward(y, saved)
    assert dweight is None and dbias is None and dx.shape == arrays[0].shape
    for grad, expected in zip((dx, dlora_a, dlora_b), (whole[0], *whole[3:])):
        assert np.array_equal(grad, expected)


@pytest.mark.parametrize("G", [1, 3])
def test_gradients_of_an_adapter_go_where_they_are_wanted(G):
    pytest.importorskip("numba")
    from numgpt.ops import lora_numba

    arrays = lora_arrays(200)
    arrays[3] = np.concatenate([arrays[3]] * G, axis=1)
    with engine.session("float64"):
        y, saved = lora_numba.lora_linear_forward(*arrays)
        expected = lora_numba.lora_linear_backward(y, saved)
        places = [np.ones_like(a) for a in arrays[1:]]
        into = tuple((place, True) for place in places)
        grads = lora_numba.lora_linear_backward(y, saved, into=into)
    for grad, place, alone in zip(grads[1:], places, expected[1:]):
        assert grad is place and abs(place - 1 - alone).max() <= 1e-12 * abs(alone).max()


@pytest.mark.parametrize(("G", "widths"), [(2, None), (3, (40, 15, 15)), (3, (1, 68, 1)), (70, None)])
def test_an_adapter_of_maps_side_by_side_is_one_of_each(G, widths, each_engine):
    x, weight, bias, _, lora_b = lora_arrays(30)
    lora_a = np.random.default_rng(2).standard_normal((40, 8 * G))
    y = ops.lora_linear(x, weight, bias, lora_a, lora_b, factor=0.5, widths=widths)
    ends = np.cumsum(widths or [(g + 1) * 70 // G - g * 70 // G for g in range(G)])
    for g, (begin, end) in enumerate(zip([0, *ends], ends)):
        arrays = weight[:, begin:end], bias[begin:end], lora_a[:, 8 * g : 8 * g + 8], lora_b[:, begin:end]
        alone = ops.lora_linear(x, *arrays, factor=0.5)
        assert abs(y[:, begin:end] - alone).max() <= 1e-12 * abs(alone).max()


@pytest.mark.parametrize("widths", [(70,), (35, 36), (20, 20, 30)])
def test_widths_that_are_not_those_of_the_maps_are_refused(widths):
    x, weight, bias, _, lora_b = lora_arrays(3)
    with pytest.raises(InputError, match=r"lora_linear: widths is .*, expected 2 of them .* 70 together"):
        ops.lora_linear(x, weight, bias, np.zeros((40, 16)), lora_b, widths=widths)


def test_an_adapters_products_are_counted():
    arrays = lora_arrays(200)
    y = ops.lora_linear(*arrays)
    assert cost(ops.lora_linear, arrays, {}, y).flops == 2 * 200 * (40 * 70 + 40 * 8 + 8 * 70)
    assert cost(ops.reverse_kl, [LOGITS, FIXED], {}, ops.reverse_kl(LOGITS, FIXED)).flops == 0
