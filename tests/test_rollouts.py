"""Rollouts: sampled by row and iteration alone, and scored as the update will see them."""

import json

import numpy as np
import pytest

from numgpt import GPT, Config, InputError, engine, tuning
from numgpt.data import BARE, End
from numgpt.layers.policy_losses import policy_logprobs
from numgpt.model import differentiable
from numgpt.model.sampling import choose_each
from numgpt.tokenizers import Bytes, Characters
from numgpt.tuning.ends import Ending
from numgpt.tuning.rollouts import Rollout, rows_of

LETTERS = "\nabcde"
CONFIG = Config(vocab_size=6, block_size=12, n_layer=2, n_head=2, n_embd=8)
NEWLINE = End("\n", None)
PROMPTS = [np.array(ids) for ids in ([1, 2], [3, 4, 5, 1], [2], [5, 5])]


@pytest.fixture(params=["reference", "numba"], autouse=True)
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


def model_of(dtype="float64", **changes):
    config = Config(**(CONFIG.__dict__ | changes))
    model = GPT(config, seed=1, dtype=dtype, tokenizer=Characters(LETTERS))
    model.params.flat[...] += 0.5 * np.random.default_rng(0).standard_normal(model.n_params).astype(dtype)
    return model


def sampled(model, prompts=PROMPTS, **changes):
    return tuning.sample(model, prompts, NEWLINE, **{"group": 3, "max_new_tokens": 6} | changes)


def test_a_response_stands_behind_its_prompt_up_to_its_end():
    rollout = sampled(model_of(), group=50)
    assert rollout.tokens.shape[0] == len(rollout.first) == len(rollout.reward) == 4 * 50
    assert rollout.ended.any()
    assert not rollout.ended.all()
    for n, (row, first, length, ended) in enumerate(zip(*rollout[:4])):
        assert row[:first].tolist() == PROMPTS[n // 50].tolist()
        response = row[first : first + length].tolist()
        assert (response[-1] == 0) == ended
        assert 0 not in response[:-1]
        assert ended or length == 6
        assert not row[first + length :].any()


@pytest.mark.parametrize("changes", [{}, {"positions": "rotary"}, {"window": 4, "n_kv_head": 1}])
def test_a_row_is_drawn_by_seed_iteration_and_its_number_alone(changes):
    model = model_of(**changes)
    whole = sampled(model)
    again = sampled(model)
    assert all(map(np.array_equal, whole, again))
    for n in range(1, 4):
        some = sampled(model, PROMPTS[:n])
        assert [r.tolist() for r in some.responses()] == [r.tolist() for r in whole.responses()[: 3 * n]]
    for other in ({"seed": 1}, {"iteration": 1}):
        assert not np.array_equal(whole.tokens, sampled(model, **other).tokens)


def test_many_prompts_are_read_in_parts_and_drawn_as_at_once(monkeypatch):
    model = model_of()
    whole = sampled(model)
    monkeypatch.setattr(tuning.rollouts, "AT_ONCE", 3)
    assert all(map(np.array_equal, whole, sampled(model)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_responses_come_as_often_as_the_model_says(temperature):
    model = model_of()
    rollout = sampled(model, PROMPTS[:1], group=4000, max_new_tokens=2, temperature=temperature)
    logp = tuning.score(model, rollout, temperature=temperature, batch_size=4000).sum(-1)
    found, often = np.unique(rollout.tokens[:, 2:], axis=0, return_counts=True)
    probability = {tuple(row[2:]): np.exp(p) for row, p in zip(rollout.tokens, logp)}
    expected = 4000 * np.array([probability[tuple(row)] for row in found])
    chi = ((often - expected) ** 2 / expected)[expected > 5]
    assert chi.sum() < len(chi) + 4 * np.sqrt(2 * len(chi))


def test_scoring_is_that_of_each_row_alone_and_of_the_whole_text():
    model = model_of()
    rollout = sampled(model)
    together = tuning.score(model, rollout, batch_size=5)
    for n, row in enumerate(rollout.tokens):
        end = rollout.first[n] + rollout.length[n]
        logits = model(row[None, :end])[0]
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = np.zeros(rollout.tokens.shape[1] - 1)
        for place in range(rollout.first[n], end):
            expected[place - 1] = logp[place - 1, row[place]]
        assert np.allclose(together[n], expected, rtol=0, atol=1e-12)


def test_what_stands_behind_a_response_changes_nothing():
    model = model_of()
    rollout = sampled(model)
    other = rollout.tokens.copy()
    for row, end in zip(other, rollout.first + rollout.length):
        row[end:] = 3
    assert np.array_equal(tuning.score(model, rollout), tuning.score(model, rollout._replace(tokens=other)))


def test_a_scored_row_counts_the_tokens_of_its_response_with_its_end():
    rollout = sampled(model_of())
    scored = rows_of(rollout, slice(None))
    assert np.array_equal(scored.weights.sum(-1), rollout.length)
    assert np.array_equal(scored.weights > 0, scored.targets >= 0)
    for row, response in zip(scored.targets, rollout.responses()):
        assert row[row >= 0].tolist() == response.tolist()


def test_scoring_is_to_the_bit_what_the_forward_of_an_update_computes():
    model = model_of("float32")
    rollout = sampled(model)
    layer, seen = policy_logprobs(), []
    scored = rows_of(rollout, slice(None))
    inputs = scored.inputs, scored.targets
    differentiable.loss_and_grads(model, _kept(layer, seen), inputs, model.params.like())
    width = scored.inputs.shape[1]
    found = tuning.score(model, rollout, batch_size=len(rollout.first))[:, :width]
    assert np.array_equal(seen[0], found)


def _kept(layer, seen):
    """A layer that sums up another one's values and keeps them."""
    from numgpt.layers.layer import Layer
    from numgpt.ops import token_mean

    def forward(r, tokens, targets):
        y = layer.forward(r, tokens, targets)
        seen.append(np.array(y))
        return r("mean", token_mean, y, np.ones_like(y))

    return Layer(forward, lambda r, dloss: layer.backward(r, r.back("mean", dloss)))


def test_a_rollout_is_arrays_that_json_holds():
    rollout = sampled(model_of())
    stored = json.loads(json.dumps(rollout.state()))
    assert all(map(np.array_equal, rollout, Rollout(**{k: np.array(v) for k, v in stored.items()})))


def test_an_end_may_lie_across_tokens_and_within_one():
    byte = Bytes()
    two = Ending(byte, End("\n\n", None))
    assert two.tail == 2
    rows = np.array([[97, 10], [10, 10], [10, 97]])
    assert two.ended(rows).tolist() == [False, True, False]
    assert two.text([97, 98, 10, 10]) == "ab"
    one = Ending(byte, End("\n", None))
    assert one.ended(rows).tolist() == [True, True, False]
    known = Ending(byte, End("", 97))
    assert known.ended(rows).tolist() == [False, False, True]


def test_choosing_in_rows_is_inverting_the_distribution():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((300, 7))
    draws = rng.random(300)
    draws[:3] = 0.0, 1 - 2**-53, 0.5
    probs = np.exp(logits / 0.7)
    bounds = np.cumsum(probs / probs.sum(-1, keepdims=True), -1)
    expected = [min(6, int(np.searchsorted(row, draw, side="right"))) for row, draw in zip(bounds, draws)]
    assert choose_each(logits, draws, 0.7).tolist() == expected
    # What has no probability is never chosen, not even by the last draw.
    logits[:, -1] = -800
    assert choose_each(logits, np.full(300, 1 - 2**-53), 1.0).max() < 6


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        ([], {}, "no prompt"),
        ([np.array([], int)], {}, "prompt 0 has 0 tokens"),
        ([np.arange(8) % 6], {}, "prompt 0 has 8 tokens, expected 1 to 7"),
        (PROMPTS, {"temperature": 0.0}, "temperature"),
    ],
)
def test_what_cannot_be_sampled_is_refused(prompts, changes, message):
    with pytest.raises(InputError, match=message):
        sampled(model_of(), prompts, **changes)
    if not prompts:
        model = GPT(CONFIG, seed=1)
        with pytest.raises(InputError, match="tokenizer"):
            tuning.sample(model, PROMPTS, BARE.end_for(Characters(LETTERS)))
