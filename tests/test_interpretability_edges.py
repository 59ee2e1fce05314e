"""Where an experiment could say something wrong without an error: ties, early names, sums that are served."""

import numpy as np
import pytest
from interpretability_models import FAMILIES, a_model

import numgpt
from numgpt import Config, InputError
from numgpt import interpretability as inside

LATE = [1, 2, 3, 4, 5, 6, 1], [1, 2, 3, 4, 5, 7, 1]  # they part at their last but one token


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", ["resid_pre", "attn", "mlp", "heads"])
def test_what_brings_nothing_back_is_0_however_rows_are_rounded(family, at, dtype, each_engine):
    model = a_model(family, dtype=dtype)
    share = inside.activation_patching(model, *LATE, inside.logit_difference(model, 3, 1), at).share
    assert not share[:, :5].any() and share[:, 5].any()


def test_a_mean_over_texts_of_another_length_is_refused_where_positions_have_none():
    model = a_model("gpt2")
    metric = inside.logit_difference(model, 3, 1)
    given = {"at": "h.*.attn.heads.scores", "how": "mean", "references": [1, 2, 3, 4]}
    with pytest.raises(InputError, match=r"scores has shape \(4, 4, 4\), the prompts' value \(4, 3, 3\)"):
        inside.ablation(model, [0, 1, 2], metric, **given)


def test_a_steered_model_has_no_exact_sum_of_its_own_parts():
    model = a_model("gpt2")
    steered = inside.steered(model, np.arange(8.0), 1)
    with pytest.raises(InputError, match=r"another sum is served at h\.1\.out"):
        inside.direct_logit_attribution(steered, [1, 2, 3], 3, 1)


def test_a_stream_behind_a_norm_is_not_steered():
    model = numgpt.GPT(
        Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8, norm_position="post")
    )
    for call in (
        lambda: inside.steered(model, np.ones(8), 0),
        lambda: inside.steering_vector(model, [0, 1], [0, 2], 0),
    ):
        with pytest.raises(InputError, match="norm_position post"):
            call()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_of_equal_activations_the_first_that_were_read_are_named(k):
    model = a_model("gpt2")
    ids = np.tile([1, 2, 3, 4, 5, 6, 7, 8], 9)  # nine windows that are alike
    found = inside.strongest_activations(model, ids, 0, k=k)
    np.testing.assert_array_equal(found.row, np.broadcast_to(np.arange(k), found.row.shape))


def test_windows_are_as_long_as_learned_positions_reach():
    model = numgpt.GPT(Config(vocab_size=5, block_size=512, n_layer=1, n_head=1, n_embd=4))
    seen = []
    inside.strongest_activations(
        model, np.zeros(1024, int), 0, k=1, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (2, 2)


def test_a_list_of_texts_is_no_corpus():
    with pytest.raises(InputError, match="list of texts, expected one text"):
        inside.strongest_activations(a_model("gpt2"), ["ab", "cd"], 0)


def test_an_answer_is_not_compared_with_itself():
    with pytest.raises(InputError, match="the same token, 3, expected two"):
        inside.logit_difference(a_model("gpt2"), 3, 3)


def test_one_token_has_no_previous_one():
    with pytest.raises(InputError, match="head_scores: the prompt has 1 token, expected 2 or more"):
        inside.head_scores(a_model("gpt2"), [3])


def test_a_pattern_of_everything_is_of_the_models_own_names():
    model, ids = numgpt.GPT.load("numgpt:tiny"), [1, 2, 3]
    found = inside.ablation(model, ids, inside.log_probability(model, [4]), at="*")
    assert found.names[-1] == "lm_head" and "read" not in found.names


def test_the_class_of_a_metric_is_none():
    model = numgpt.GPT.load("numgpt:tiny")
    with pytest.raises(InputError, match="metric is of type type, expected a Metric"):
        inside.ablation(model, [1, 2, 3], inside.AnswerMetric)
