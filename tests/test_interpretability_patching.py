"""Patching: what a site brings back, its estimate, paths and causal tracing, each held to runs by hand."""

import numpy as np
import pytest
from interpretability_models import FAMILIES, SIZES, a_model, logits_with, put

import numgpt
from numgpt import InputError
from numgpt.interpretability import (
    activation_patching,
    aligned,
    attribution_patching,
    causal_tracing,
    log_probability,
    logit_difference,
    path_patching,
    probability,
    rank_correlation,
    runs,
    sites,
)
from numgpt.interpretability.metrics import value_of
from numgpt.random import generator

CLEAN, CORRUPTED = [[1, 2, 3, 4, 5], [1, 7, 3, 2, 2]], [[1, 6, 3, 9, 5], [8, 7, 3, 0, 2]]
KINDS = list(sites.SITES)


def difference(model):
    return logit_difference(model, [3, 4], [1, 2])


def by_hand(model, at, layer, position, head, source=CLEAN, order=(0, 1)):
    """The share that one patch brings back, each pair run by itself; order: whose clean text each gets."""
    kind = sites.SITES[at]
    where = kind.where(sites.layer_config(model.config, layer), position, head)
    name = kind.name(layer)
    found = []
    for n in range(2):
        metric = logit_difference(model, [3, 4][n], [1, 2][n])
        value = model.record([source[order[n]]]).value[name][0]
        rows = [model([CLEAN[n]])[:, -1], model([CORRUPTED[n]])[:, -1]]
        rows.append(logits_with(model, [CORRUPTED[n]], {name: put((0, *where), value[where])}))
        found.append([metric.value(row)[0] for row in rows])
    clean, corrupted, patched = np.mean(found, axis=0)
    return (patched - corrupted) / (clean - corrupted)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", KINDS)
def test_a_patch_is_an_edit_of_the_record(family, at):
    model = a_model(family)
    found = activation_patching(model, CLEAN, CORRUPTED, difference(model), at)
    rng = np.random.default_rng(1)
    for _ in range(3):
        place = [int(rng.integers(size)) for size in found.share.shape]
        head = place[2] if len(place) == 3 else None
        expected = by_hand(model, at, place[0], place[1], head)
        assert abs(found.share[tuple(place)] - expected) <= 1e-12


@pytest.mark.parametrize("at", KINDS)
def test_a_patch_from_the_other_pairs_text_would_show(at):
    model = a_model("gpt2")
    share = activation_patching(model, CLEAN, CORRUPTED, difference(model), at).share
    head = 1 if share.ndim == 3 else None
    place = (1, 3) if head is None else (1, 3, head)
    assert abs(share[place] - by_hand(model, at, 1, 3, head)) <= 1e-12
    assert abs(share[place] - by_hand(model, at, 1, 3, head, order=(1, 0))) > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", KINDS)
def test_a_patch_with_the_runs_own_activation_changes_nothing_to_the_bit(family, at):
    model, ids = a_model(family), np.array(CORRUPTED)
    names = [sites.SITES[at].name(layer) for layer in range(3)]
    base = runs.run(model, ids, -1, [*names, *runs.streams(model)])
    for layer, name in enumerate(names):
        for head in range(2):
            where = sites.SITES[at].where(sites.layer_config(model.config, layer), slice(None), head)
            own = base.value[name][(slice(None), *where)]
            found = runs.patched(model, base, [[runs.Patch(name, where, own)]], difference(model))
            assert (found.metric[0] == value_of(difference(model), base.logits)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layers_whole_stream_gives_the_clean_metric(family):
    model = a_model(family)
    for at in ("resid_pre", "resid_mid", "resid_post"):
        share = activation_patching(model, CLEAN, CORRUPTED, difference(model), at, positions=False).share
        if at == "resid_mid":
            assert share.shape == (3,)
        assert abs(share - 1).max() <= 1e-12
    one = activation_patching(model, CLEAN, CORRUPTED, difference(model), "attn", positions=False).share
    assert abs(one - 1).min() > 1e-3, "attention alone is not all"


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_in_a_batch_are_what_they_are_one_by_one(family, monkeypatch):
    model, seen = a_model(family), []
    together = activation_patching(
        model, CLEAN, CORRUPTED, difference(model), "heads", progress=lambda *n: seen.append(n)
    )
    assert seen == [(20, 60), (40, 60), (60, 60)]
    monkeypatch.setattr(runs, "AT_ONCE", 1)
    alone = activation_patching(model, CLEAN, CORRUPTED, difference(model), "heads")
    assert abs(together.share - alone.share).max() <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_is_patching_to_first_order(family):
    """Two tokens whose embeddings are a step apart: the error falls as the square of the step."""
    direction = np.random.default_rng(2).standard_normal(8)
    errors = {}
    for step in (1e-3, 1e-4):
        model = a_model(family)
        model.params["wte.weight"][6] = model.params["wte.weight"][2] + step * direction
        pair = [1, 2, 3, 4, 5], [1, 6, 3, 4, 5]
        estimates = attribution_patching(model, *pair, logit_difference(model, 3, 1), KINDS)
        for at in KINDS:
            patched = activation_patching(model, *pair, logit_difference(model, 3, 1), at)
            error = patched.metric - estimates[at].metric
            errors.setdefault(at, []).append(abs(error).max())
            half = patched.metric - (patched.corrupted + (estimates[at].metric - patched.corrupted) / 2)
            errors.setdefault(f"half of {at}", []).append(abs(half).max())
    for at in KINDS:
        assert 80 < errors[at][0] / errors[at][1] < 125
        assert errors[f"half of {at}"][0] / errors[f"half of {at}"][1] < 20, "a wrong gradient would show"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [logit_difference, log_probability, probability])
def test_gradients_of_a_metric_are_those_of_the_complex_step(family, kind):
    model = a_model(family)
    metric = kind(model, 3, 1) if kind is logit_difference else kind(model, 3)
    names = ["wte", "h.0.attn.heads", "h.1.attn.heads.v", "h.1", "h.2.mlp.act"]
    found = runs.run_with_gradients(model, np.array(CLEAN), metric, names)
    wide = a_model(family, dtype="complex128")
    for name in names:
        direction = np.random.default_rng(3).standard_normal(found.value[name].shape)
        logits = logits_with(wide, CLEAN, {name: lambda value, d=direction: value + 1e-30j * d})
        derivative = metric.value(logits).imag / 1e-30
        expected = (direction * found.grad[name]).reshape(2, -1).sum(-1)
        assert abs(derivative - expected).max() <= 1e-12 * abs(expected).max()


def test_prompts_of_different_length_are_aligned_token_by_token():
    assert aligned([1, 2, 3], [1, 2, 3]).tolist() == [0, 1, 2]
    assert aligned([1, 2, 5, 3], [1, 4, 3]).tolist() == [0, 2, 3]
    assert aligned([1, 3], [1, 4, 5, 3]).tolist() == [0, -1, -1, 1]
    model = a_model("gpt2")
    pair = [1, 2, 3, 4], [1, 6, 7, 3, 4]
    metric = logit_difference(model, 3, 1)
    with pytest.raises(InputError, match="part at token 1, 2 beside 6; give align=True"):
        activation_patching(model, *pair, metric)
    found = activation_patching(model, *pair, metric, align=True)
    assert np.isnan(found.share[:, 1]).all() and not np.isnan(found.share[:, [0, 2, 3, 4]]).any()
    right, wrong = model.record([pair[0]]).value["h.0"][0], model.record([pair[1]]).value["h.0"][0]
    logits = logits_with(model, [pair[1]], {"h.0": put((0, 2), right[1])})
    expected = (metric.value(logits)[0] - found.corrupted) / (found.clean - found.corrupted)
    assert abs(found.share[1, 2] - expected) <= 1e-12
    whole = activation_patching(model, *pair, metric, align=True, positions=False)
    edited = np.concatenate([right[:1], wrong[1:2], right[1:]])
    logits = logits_with(model, [pair[1]], {"h.0": put(0, edited)})
    expected = (metric.value(logits)[0] - found.corrupted) / (found.clean - found.corrupted)
    assert abs(whole.share[1] - expected) <= 1e-12
    values = activation_patching(model, *pair, metric, "v", align=True)
    estimates = attribution_patching(model, *pair, metric, "v", align=True)["v"]
    assert (np.isnan(values.share) == np.isnan(estimates.share)).all()


def test_rank_correlation_is_the_one_of_ranks_with_ties():
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 4, (2, 30)).astype(float)
    assert abs(rank_correlation(a, b) - stats.spearmanr(a, b)[0]) <= 1e-12
    assert rank_correlation([1, 2, np.nan, 3], [3, 2, 9, 1]) == -1
    with pytest.raises(InputError, match="no two different numbers"):
        rank_correlation([1.0, 1.0], [1.0, 2.0])


# Paths.


@pytest.mark.parametrize("family", FAMILIES)
def test_the_direct_path_to_the_logits_is_the_heads_own_output_at_the_end(family):
    model, pair = a_model(family), (CLEAN[0], CORRUPTED[0])
    metric = logit_difference(model, 3, 1)
    found = path_patching(model, *pair, metric)
    high, low = (model.record([ids]) for ids in pair)
    for layer in range(3):
        for head in range(4):
            part = slice(2 * head, 2 * head + 2)
            weight = model.params[f"h.{layer}.attn.c_proj.weight"][part]
            name = f"h.{layer}.attn.heads"
            written = (high.value[name] - low.value[name])[..., part] @ weight
            logits = logits_with(model, [pair[1]], {"h.2": lambda x, w=written: x + w})
            expected = (metric.value(logits)[0] - found.corrupted) / (found.clean - found.corrupted)
            assert abs(found.share[layer, head] - expected) <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reads", ["q", "k", "v"])
@pytest.mark.parametrize("through", [False, True], ids=["direct", "through feed-forwards"])
def test_a_path_to_a_head_is_two_runs_by_hand(family, reads, through):
    model, pair = a_model(family), (CLEAN[0], CORRUPTED[0])
    metric = logit_difference(model, 3, 1)
    found = path_patching(model, *pair, metric, (2, 1, reads), through_mlps=through)
    assert np.isnan(found.share[2]).all()
    high, low = (model.record([ids]) for ids in pair)
    edits = {"h.0.attn.heads": put((..., slice(4, 6)), high.value["h.0.attn.heads"][..., 4:6])}
    edits["h.1.attn.heads"] = put(..., low.value["h.1.attn.heads"])
    if not through:
        edits |= {f"h.{n}.mlp": put(..., low.value[f"h.{n}.mlp"]) for n in range(2)}
    name = f"h.2.attn.heads.{reads}"
    read = model.record([pair[1]], edit=edits).value[name][:, 1]
    logits = logits_with(model, [pair[1]], {name: put((slice(None), 1), read)})
    expected = (metric.value(logits)[0] - found.corrupted) / (found.clean - found.corrupted)
    assert abs(found.share[0, 2] - expected) <= 1e-12


# Causal tracing.


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_tracing_is_noise_and_one_restored_state_by_hand(family):
    model, ids = a_model(family), [1, 2, 3, 4, 5]
    found = causal_tracing(model, ids, (1, 3), window=2, draws=3, sigmas=1.5, seed=7)
    assert found.answer == int(model([ids])[0, -1].argmax())
    clean, metric = model.record([ids]), probability(model, found.answer)
    assert abs(found.clean - metric.value(model([ids])[:, -1])[0]) <= 1e-12
    drawn = 1.5 * model.params["wte.weight"].std() * generator(7, "causal tracing").standard_normal((3, 2, 8))

    def noisy(n, **edits):
        def add(value):
            value[0, 1:3] += drawn[n]
            return value

        logits = logits_with(model, [ids], {"wte": add} | edits)
        return metric.value(logits)[0]

    low = np.array([noisy(n) for n in range(3)])
    assert abs(found.noised - low.mean()) <= 1e-12
    for kind, layer, names in (("resid_post", 1, ["h.1"]), ("mlp", 1, ["h.0.mlp", "h.1.mlp"])):
        for t in range(5):
            edits = {name: put((0, t), clean.value[name][0, t]) for name in names}
            expected = np.mean([noisy(n, **edits) - low[n] for n in range(3)])
            assert abs(found.effect[kind][layer, t] - expected) <= 1e-12
    stream = found.effect["resid_post"]
    assert abs(stream[:, 0]).max() <= 1e-12, "nothing before the subject was changed"
    assert abs(stream[2, 4] - found.total_effect) <= 1e-12, "the last state is the answer's"


def test_a_subject_is_found_in_the_text():
    tokenizer = numgpt.tokenizers.build("bpe:280", "the cat sat on the mat. the cat ran. " * 20)
    config = numgpt.Config(**SIZES | {"vocab_size": tokenizer.vocab_size, "block_size": 64})
    model = numgpt.GPT(config, tokenizer=tokenizer)
    text = "on the mat the cat"
    found = causal_tracing(model, text, "mat", draws=2, at="attn")
    begin, end = found.subject
    assert "mat" in tokenizer.decode(found.ids[begin:end]) and "mat" not in tokenizer.decode(
        found.ids[: end - 1]
    )
    with pytest.raises(InputError, match="has no 'dog', expected a subject that stands in it"):
        causal_tracing(model, text, "dog")
