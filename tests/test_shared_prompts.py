"""Two responses in one row, around their prompt: each token is as likely as it is in a row of its own."""

import numpy as np
import pytest

from numgpt import GPT, Config, engine
from numgpt.layers.policy_losses import policy, policy_logprobs
from numgpt.model import differentiable
from numgpt.tuning import shared_prompts
from numgpt.tuning.rollouts import Rollout, rows_of

CONFIG = Config(vocab_size=6, block_size=12, n_layer=2, n_head=2, n_embd=8)
PROMPTS = [np.array(ids) for ids in ([1, 2, 4], [3, 4, 5, 1, 1], [2, 3], [5, 5, 2, 2])]
FORMS = [
    {},
    {"positions": "rotary", "n_kv_head": 1, "norm": "rmsnorm", "activation": "swiglu"},
    {"positions": "sinusoidal", "norm_position": "parallel"},
    {"positions": "none", "softcap": 2.0},
    {"sink": True, "n_expert": 3, "positions": "rotary"},
]


@pytest.fixture(params=["reference", "numba"], autouse=True)
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


def model_of(dtype="float64", **changes):
    config = Config(**(CONFIG.__dict__ | changes))
    model = GPT(config, seed=1, dtype=dtype)
    model.params.flat[...] += 0.5 * np.random.default_rng(0).standard_normal(model.n_params).astype(dtype)
    return model


def rollout_of(prompts=PROMPTS, group=4, longest=5):
    """Responses of any tokens, of 1 to `longest`."""
    rng = np.random.default_rng(2)
    first = np.repeat([len(prompt) for prompt in prompts], group)
    length = rng.permutation(np.arange(len(first)) % longest + 1)
    tokens = np.zeros((len(first), int((first + length).max())), np.int64)
    for n, row in enumerate(tokens):
        row[: first[n]] = prompts[n // group]
        row[first[n] : first[n] + length[n]] = rng.integers(0, 6, length[n])
    return Rollout(tokens, first, length, np.ones(len(first), bool), np.zeros(len(first)))


def logp_of(model, scored):
    tokens, targets, places, visibility = scored.read()
    return differentiable.value(model, policy_logprobs(0.7), (tokens, targets, places), visibility=visibility)


def loss_and_grads(model, scored):
    """Those of GRPO's loss, of some advantages."""
    tokens, targets, places, visibility = scored.read()
    rng = np.random.default_rng(4)
    old, advantages, fixed = rng.standard_normal((3, *targets.shape)) - [[[2]], [[0]], [[2]]]
    grads = model.params.like()
    inputs = tokens, targets, scored.weights, old, advantages, fixed, None, places
    layer = policy(0.7, beta=0.3)
    loss = differentiable.loss_and_grads(model, layer, inputs, grads, visibility=visibility)
    return np.append(grads.flat, loss)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_shared_row_is_two_rows(form):
    model = model_of(**form)
    rollout = rollout_of()
    assert shared_prompts.shareable(model.config)
    alone, pairs = rows_of(rollout, slice(None)), rows_of(rollout, slice(None), share=True)
    assert pairs.shared is not None
    assert pairs.shared.tokens.size < 0.85 * alone.inputs.size
    expected = logp_of(model, alone)
    assert (expected[alone.targets >= 0] < 0).all()
    np.testing.assert_allclose(logp_of(model, pairs), expected, rtol=0, atol=1e-12 * abs(expected).max())
    expected = loss_and_grads(model, alone)
    found = loss_and_grads(model, pairs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * abs(expected).max())


def test_a_response_sees_nothing_of_the_other():
    """Another first half of each pair changes no bit of the second, and the other way round."""
    model = model_of("float32")
    rollout = rollout_of()
    before = logp_of(model, rows_of(rollout, slice(None), share=True))
    for half in (0, 1):
        tokens = rollout.tokens.copy()
        for row, first, length in zip(tokens[half::2], rollout.first[half::2], rollout.length[half::2]):
            row[first : first + length] = 5 - row[first : first + length]
        after = logp_of(model, rows_of(rollout._replace(tokens=tokens), slice(None), share=True))
        assert np.array_equal(after[1 - half :: 2], before[1 - half :: 2])
        assert not np.array_equal(after[half::2], before[half::2])


def test_tokens_behind_a_response_change_nothing():
    model = model_of("float32")
    rollout = rollout_of()
    tokens = rollout.tokens.copy()
    for row, end in zip(tokens, rollout.first + rollout.length):
        row[end:] = 3
    found, other = (
        rows_of(each, slice(None), share=True) for each in (rollout, rollout._replace(tokens=tokens))
    )
    assert np.array_equal(found.shared.tokens, other.shared.tokens)
    assert np.array_equal(logp_of(model, found), logp_of(model, other))


@pytest.mark.parametrize("form", [{"window": 4}, {"positions": "alibi"}, {"layers": ({"window": 3}, {})}])
def test_a_model_that_counts_places_gets_rows_of_their_own(form):
    assert not shared_prompts.shareable(Config(**(CONFIG.__dict__ | form)))


def test_long_responses_to_short_prompts_stay_alone():
    """A row of both would be nearly as long as two, and attention's work grows with the square."""
    short = rollout_of([np.array([1])] * 2, group=2, longest=30)
    short = short._replace(length=np.full(4, short.tokens.shape[1] - 1))
    assert rows_of(short, slice(None), share=True).shared is None
