"""What holds whatever the numbers: sums vanish, nothing comes from the future, each row is by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import GPT, Config, InputError, ops
from numgpt.ops.activations import ACTIVATIONS
from numgpt.ops.attention import attend_forward
from numgpt.proofs.subjects import SMALL, VARIANTS

EPS = np.finfo(np.float64).eps
seeds = st.integers(0, 2**32 - 1)
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


def model_and_batch(changes, seed=0, shape=(3, 5)):
    config = Config(**SMALL | changes)
    model = GPT(config, seed, "float64")
    rng = np.random.default_rng(seed)
    # Biases and norms away from 0 and 1.
    model.params.flat += 0.3 * rng.standard_normal(model.params.flat.shape)
    return model, *rng.integers(0, config.vocab_size, (2, *shape))


def assert_sums_to_zero(gradient, axis=-1):
    """Up to rounding: each of the n terms errs by a few eps of the largest."""
    n = gradient.shape[axis]
    assert (abs(gradient.sum(axis)) <= 8 * n * EPS * abs(gradient).max(axis)).all()


@given(seed=seeds)
def test_gradients_of_the_logits_sum_to_zero_over_the_vocabulary(seed):
    rng = np.random.default_rng(seed)
    _, saved = ops.cross_entropy.forward(rng.standard_normal((4, 6)), rng.integers(0, 6, 4))
    assert_sums_to_zero(ops.cross_entropy.backward(1.0, saved)[0])


@given(seed=seeds)
def test_gradients_of_layernorms_input_sum_to_zero_over_the_channels(seed):
    rng = np.random.default_rng(seed)
    _, saved = ops.layernorm.forward(rng.standard_normal((4, 9)), rng.standard_normal(9))
    dx = ops.layernorm.backward(rng.standard_normal((4, 9)), saved)[0]
    assert (abs(dx.sum(-1)) <= 64 * EPS * abs(dx).max()).all()


@given(seed=seeds, eps=st.sampled_from([1e-5, 0.3]), size=st.sampled_from([1.0, 1e-3, 1e3]))
def test_all_that_rmsnorm_sends_along_its_input_is_what_eps_leaves(seed, eps, size):
    """Σ dx x = eps r² Σ g x̂: for eps = 0 the length of x would not matter."""
    rng = np.random.default_rng(seed)
    x, w, dy = size * rng.standard_normal((4, 9)), rng.standard_normal(9), rng.standard_normal((4, 9))
    dx, _ = ops.rmsnorm.backward(dy, ops.rmsnorm.forward(x, w, eps=eps)[1])
    r2 = 1 / ((x * x).mean(-1) + eps)
    expected = eps * r2 * (dy * w * x).sum(-1) * r2**0.5
    assert (abs((dx * x).sum(-1) - expected) <= 64 * EPS * abs(dy * w * x).sum(-1) * r2**0.5).all()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e9])
def test_rmsnorm_of_a_vector_of_mean_0_is_layernorm(size):
    rng = np.random.default_rng(0)
    half, w = size * rng.standard_normal((4, 5)), rng.standard_normal(10)
    x = np.concatenate([half, -half], axis=-1)
    np.testing.assert_allclose(ops.rmsnorm(x, w), ops.layernorm(x, w), rtol=1e-14)
    np.testing.assert_allclose(ops.rmsnorm(x), ops.rmsnorm(x, np.ones(10)), rtol=0)


GATED = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "reglu": "relu"}


def test_every_gated_activation_has_one_that_acts_on_its_gate():
    gated = [name for name, row in ACTIVATIONS.items() if row.gated and name != "swiglu_clamped"]
    assert gated == list(GATED) and not any(ACTIVATIONS[act].gated for act in GATED.values())


def test_a_clamped_gate_is_that_of_clamped_halves():
    x = 6 * np.random.default_rng(0).standard_normal((50, 8))
    g, u = np.minimum(x[:, :4], 7), np.clip(x[:, 4:], -7, 7)
    np.testing.assert_allclose(ops.swiglu_clamped(x), (u + 1) * g / (1 + np.exp(-1.702 * g)), rtol=1e-13)
    (dx,) = ops.swiglu_clamped.backward(np.ones((50, 4)), ops.swiglu_clamped.forward(x)[1])
    held = np.concatenate([x[:, :4] > 7, abs(x[:, 4:]) > 7], axis=1)
    assert (dx[held] == 0).all() and (dx[~held] != 0).all() and held.sum() > 20


def test_a_sink_takes_its_share_and_one_far_below_takes_none():
    rng = np.random.default_rng(0)
    qkv, scores = rng.standard_normal((2, 5, 16)), rng.standard_normal((2, 4, 5, 5))
    sink = rng.standard_normal(4)
    share = sink[:, None] - np.logaddexp.reduce(np.where(np.tri(5, dtype=bool), scores, -np.inf), axis=-1)
    total = ops.sink_probs(scores, sink).sum(-1)
    np.testing.assert_allclose(total, 1 / (1 + np.exp(share)), rtol=1e-14)
    none = np.full(4, -1e30)
    assert np.array_equal(ops.sink_probs(scores, none), ops.attention_probs(scores))
    found = ops.sink_attention(qkv, none, n_head=4, n_kv_head=2)
    assert np.array_equal(found, ops.attention(qkv, n_head=4, n_kv_head=2))
    assert not np.allclose(ops.sink_attention(qkv, sink, n_head=4, n_kv_head=2), found)


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_the_norm_of_a_part_is_that_of_each_vector_in_it_and_leaves_the_rest(name):
    x, w = np.random.default_rng(0).standard_normal((3, 20)), np.random.default_rng(1).standard_normal(4)
    found = getattr(ops, f"part_{name}")(x, w, begin=4, end=12)
    expected = getattr(ops, name)(x.reshape(3, 5, 4), w).reshape(3, 20)
    assert np.array_equal(found[:, 4:12], expected[:, 4:12])
    assert np.array_equal(found[:, :4], x[:, :4]) and np.array_equal(found[:, 12:], x[:, 12:])
    with pytest.raises(InputError, match="channels 4 to 13 of 20, expected a part .* a multiple of W = 4"):
        getattr(ops, f"part_{name}")(x, w, begin=4, end=13)


@given(seed=seeds, lead=st.sampled_from([(), (2,), (2, 3)]))
@pytest.mark.parametrize("name", GATED)
def test_a_gate_lets_through_of_its_value_what_its_activation_says(name, seed, lead):
    """The first half is the gate: in the other order a model of shared files computes something else."""
    rng = np.random.default_rng(seed)
    (gate, value, dy), op, act = rng.standard_normal((3, *lead, 5)), ops.ALL[name], ops.ALL[GATED[name]]
    y, saved = op.forward(np.concatenate([gate, value], axis=-1))
    opened, kept = act.forward(gate)
    assert np.array_equal(y, opened * value)
    (dx,) = op.backward(dy, saved)
    assert np.array_equal(dx[..., :5], act.backward(dy * value, kept)[0])
    assert np.array_equal(dx[..., 5:], dy * opened)


@given(seed=seeds, T=st.integers(1, 6))
def test_gradients_of_the_scores_sum_to_zero_over_the_keys(seed, T):
    """Moving all keys along a direction c moves every score of a query alike.

    So Σ_s dk_s · c = 0 where q · c is the same for all queries.
    """
    rng = np.random.default_rng(seed)
    q, k, v, dy = rng.standard_normal((4, T, 3))
    q[:, 0] = 1.0  # every query has component 1 along the first axis, so Σ_s dk_s0 = Σ_ts dscores_ts · scale
    _, saved = attend_forward(q, k, v)
    dk = ops.attend.backward(dy, saved)[1]
    assert abs(dk[:, 0].sum()) <= 64 * EPS * (abs(dk[:, 0]).sum() + 1)


@every_variant
def test_nothing_after_a_position_has_a_gradient_from_its_loss(changes):
    model, tokens, targets = model_and_batch(changes)
    for t in range(tokens.shape[1]):
        only = np.where(np.arange(tokens.shape[1]) == t, targets, -1)
        record = model.record(tokens, only, step=0 if model.config.dropout else None)
        for name, grad in record.grad.items():
            if name in record.value and grad.ndim >= 3:
                of_heads = ".heads." in name and not name.endswith(".mix")  # (B, H, T, …)
                after = grad[:, :, t + 1 :] if of_heads else grad[:, t + 1 :]
                assert (after == 0).all(), f"{name} after {t}"


@every_variant
def test_nothing_after_a_position_changes_its_logits(changes):
    model, tokens, _ = model_and_batch(changes)
    before = model(tokens)
    for t in range(1, tokens.shape[1]):
        changed = tokens.copy()
        changed[:, t:] = (changed[:, t:] + 1) % model.config.vocab_size
        assert np.allclose(model(changed)[:, :t], before[:, :t], rtol=0, atol=1e-13)


def test_the_tied_embeddings_gradient_is_the_sum_of_both_uses():
    model, tokens, targets = model_and_batch({})
    config = Config(**SMALL | {"tied": False})
    untied = GPT(config, 0, "float64")
    for name, value in model.params.items():
        untied.params[name] = value
    untied.params["lm_head.weight"] = model.params["wte.weight"]
    loss, tied = model.loss_and_grads(tokens, targets)
    same_loss, parts = untied.loss_and_grads(tokens, targets)
    assert loss == same_loss
    both = parts["wte.weight"] + parts["lm_head.weight"]
    assert np.allclose(tied["wte.weight"], both, rtol=1e-14, atol=1e-17)
    assert abs(parts["wte.weight"]).max() > 1e-3 and abs(parts["lm_head.weight"]).max() > 1e-3


@every_variant
def test_padding_and_company_change_no_ones_logits(changes):
    model, tokens, _ = model_and_batch(changes)
    together = model(tokens)
    for row, logits in zip(tokens, together):
        assert np.allclose(model(row[None])[0], logits, rtol=0, atol=1e-13)
        short = model(np.concatenate([row[:3], [0, 0]])[None])[0]
        assert np.allclose(short[:3], logits[:3], rtol=0, atol=1e-13)


@given(seed=seeds, parts=st.integers(2, 4))
def test_accumulated_parts_of_unequal_counts_are_the_whole_batch(seed, parts):
    model, tokens, targets = model_and_batch({}, seed, (parts, 4))
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random(targets.shape) < 0.5, -1, targets)
    targets[0, 0] = 1
    whole_loss, whole = model.loss_and_grads(tokens, targets)
    count, grads, loss = int((targets >= 0).sum()), model.params.like(), 0.0
    for n in range(parts):
        part, _ = model.loss_and_grads(
            tokens[n : n + 1], targets[n : n + 1], count=count, out=grads, add=n > 0
        )
        loss += part
    assert abs(loss - whole_loss) <= 1e-14 * abs(whole_loss)
    assert np.allclose(grads.flat, whole.flat, rtol=1e-11, atol=1e-15)


@given(seed=seeds)
def test_targets_that_do_not_count_have_no_gradient(seed):
    rng = np.random.default_rng(seed)
    logits, targets = rng.standard_normal((6, 5)), np.array([0, -1, 3, -100, 4, -1])
    loss, saved = ops.cross_entropy.forward(logits, targets)
    alone, saved_alone = ops.cross_entropy.forward(logits[targets >= 0], targets[targets >= 0])
    dlogits = ops.cross_entropy.backward(1.0, saved)[0]
    assert (dlogits[targets < 0] == 0).all()
    assert np.array_equal(dlogits[targets >= 0], ops.cross_entropy.backward(1.0, saved_alone)[0])
    assert loss == pytest.approx(alone, rel=1e-15)
