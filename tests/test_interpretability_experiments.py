"""Ablation, neurons, probes and steering, each held to runs by hand; and what cannot be used, in one line."""

import copy

import numpy as np
import pytest
from interpretability_models import CONFIGS, FAMILIES, a_model, logits_with, put

import numgpt
from numgpt import InputError, interpretability
from numgpt.interpretability import (
    ablation,
    activation_patching,
    attribution_patching,
    causal_tracing,
    direct_logit_attribution,
    integrated_gradients,
    log_probability,
    logit_difference,
    path_patching,
    ridge_probe,
    steered,
    steering_vector,
    strongest_activations,
    surprise,
)
from numgpt.interpretability.probes import ridge

IDS = [[1, 2, 3, 4], [5, 2, 9, 0], [7, 7, 1, 8]]
TARGETS = [[2, 3, 4, -1], [2, 9, 0, 1], [7, 1, 8, -1]]


# Ablation.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_is_zero_changes_the_loss_as_an_edit_does(family):
    model = a_model(family)
    found = ablation(model, IDS, surprise(model, TARGETS))
    losses = [float(model.loss(*row)) for row in zip(IDS, TARGETS)]
    assert abs(found.metric - np.mean(losses)) <= 1e-12 and found.axes == ("layer", "head")
    for layer, head in ((0, 3), (2, 1)):
        edit = {f"h.{layer}.attn.heads": put((..., slice(2 * head, 2 * head + 2)), 0)}
        without = [float(model.record(*row, edit=edit).value["loss"]) for row in zip(IDS, TARGETS)]
        assert abs(found.effect[layer, head] - np.mean(np.subtract(without, losses))) <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_means_and_other_texts_stand_in_for_a_part(family):
    model = a_model(family)
    metric = log_probability(model, [3, 4, 5])
    before = metric.value(model(IDS)[:, -1])
    values = model.record(IDS).value
    found = ablation(model, IDS, metric, "mlp", "mean")
    edit = {"h.1.mlp": put(..., values["h.1.mlp"].mean((0, 1)))}
    expected = metric.value(logits_with(model, IDS, edit)) - before
    assert abs(found.effect[1] - expected.mean()) <= 1e-12
    keys = ablation(model, IDS, metric, "k", "mean").effect
    name = "h.1.attn.heads.k"
    edit = {name: put((slice(None), 1), values[name][:, 1].mean((0, 1)))}
    assert abs(keys[1, 1] - (metric.value(logits_with(model, IDS, edit)) - before).mean()) <= 1e-12
    other = ablation(model, IDS, metric, "mlp", "resample", references=[[0, 8, 8, 2]])
    edit = {"h.1.mlp": put(..., model.record([[0, 8, 8, 2]]).value["h.1.mlp"])}
    expected = metric.value(logits_with(model, IDS, edit)) - before
    assert abs(other.effect[1] - expected.mean()) <= 1e-12
    own = ablation(model, IDS, metric, "mlp", "resample").effect[1]
    ways = ([1, 2, 0], [2, 0, 1])  # no text stands in for itself
    edits = [{"h.1.mlp": put(..., values["h.1.mlp"][way])} for way in ways]
    each = [(metric.value(logits_with(model, IDS, edit)) - before).mean() for edit in edits]
    assert min(abs(own - value) for value in each) <= 1e-12


def test_a_pattern_of_names_is_ablated_name_by_name():
    model = a_model("gpt2")
    metric = log_probability(model, 3)
    found = ablation(model, IDS, metric, "h.*.mlp.act")
    assert found.axes == ("name",) and found.names == tuple(f"h.{n}.mlp.act" for n in range(3))
    edited = logits_with(model, IDS, {"h.2.mlp.act": lambda a: 0 * a})
    expected = (metric.value(edited) - metric.value(model(IDS)[:, -1])).mean()
    assert abs(found.effect[2] - expected) <= 1e-12


# Neurons.


@pytest.mark.parametrize("family", FAMILIES)
def test_the_strongest_activations_are_those_of_a_sorted_whole(family):
    model = a_model(family)
    ids = np.random.default_rng(0).integers(0, 11, 150)
    found = strongest_activations(model, ids, 1, [0, 5, 17], k=4, context=3)
    rows = [ids[begin : begin + 8] for begin in range(0, 150, 8)]
    values = np.concatenate([model.record([row]).value["h.1.mlp.act"][0] for row in rows])[:, [0, 5, 17]]
    order = np.argsort(-values, axis=0)[:4].T
    assert (found.row * 8 + found.position == order).all() and found.tokens == 150
    assert abs(found.value - np.take_along_axis(values.T, order, 1)).max() <= 1e-12
    assert abs(found.mean - values.mean(0)).max() <= 1e-12
    assert abs(found.share - (values > 0).mean(0)).max() <= 1e-12
    for place, context in zip(order.ravel(), found.context.reshape(-1, 3)):
        before = ids[max(place // 8 * 8, place - 2) : place + 1]
        assert context.tolist() == [-1] * (3 - len(before)) + before.tolist()
    batches = (np.array(part) for part in (rows[:2], rows[2:18], [rows[18]]))
    again = strongest_activations(model, batches, 1, [0, 5, 17], k=4, context=3)
    assert (again.row == found.row).all() and abs(again.value - found.value).max() <= 1e-12


# Probes.


def test_ridge_solves_its_normal_equations():
    rng = np.random.default_rng(0)
    for shape in ((30, 5), (4, 9)):
        x, y = rng.standard_normal(shape), rng.standard_normal((shape[0], 2))
        weight, bias = ridge(x, y, 0.3)
        centred, goal = x - x.mean(0), y - y.mean(0)
        penalty = 0.3 * (centred**2).sum() / shape[1] * np.eye(shape[1])
        expected = np.linalg.solve(centred.T @ centred + penalty, centred.T @ goal)
        assert abs(weight - expected).max() <= 1e-12
        assert abs(bias - (y.mean(0) - x.mean(0) @ expected)).max() <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_probe_finds_what_is_there_and_its_control_does_not(family):
    model = a_model(family)
    ids = np.random.default_rng(0).integers(0, 11, (400, 4))
    direction = np.random.default_rng(1).standard_normal(8)
    values = model.record(ids).value
    numbers = ridge_probe(model, ids, values["h.1"][:, -1] @ direction, "h.1", l2=0.0)["h.1"]
    assert numbers.kind == "numbers" and 1 - numbers.score <= 1e-12
    assert numbers.control < 0.1 and abs(numbers.chance) < 0.1
    assert abs(numbers.weight[:, 0] - direction).max() <= 1e-10
    projected = values["h.1"] @ direction
    classes = (projected > np.median(projected, axis=0)).astype(int)
    found = ridge_probe(model, ids, classes, ["h.1", "h.2"], at=None)
    assert list(found) == ["h.1", "h.2"] and found["h.1"].classes == (0, 1)
    assert found["h.1"].score > 0.85 and found["h.1"].control < found["h.1"].chance + 0.05
    early = ridge_probe(model, ids, np.array(["a", "b"])[classes[:, -1]], "wte", at=0)["wte"]
    assert early.classes == ("a", "b") and early.score < 0.8, (
        "the first token says nothing of the last stream"
    )


# Steering.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_steered_model_runs_learns_and_writes_as_one_that_is_edited(family):
    model = a_model(family)
    steering = steering_vector(model, [[1, 2], [3, 4, 5]], [[6, 7]], 1)
    ends = [model.record([ids]).value["h.1"][0, -1] for ids in ([1, 2], [3, 4, 5], [6, 7])]
    assert abs(steering.vector - ((ends[0] + ends[1]) / 2 - ends[2])).max() <= 1e-12
    other = steered(model, steering, scale=1.5)
    edit = {"h.1.out": lambda x: x + 1.5 * steering.vector}
    record = model.record(IDS, TARGETS, edit=edit)
    assert abs(other(IDS) - record.value["lm_head"]).max() <= 1e-12
    _, grads = other.loss_and_grads(IDS, TARGETS)
    assert abs(grads["wte.weight"] - record.grad["wte.weight"]).max() <= 1e-12
    written = other.generate([1, 2, 3], 4, temperature=0).tolist()
    for n in range(3, 7):
        edited = model.record([written[:n]], edit=edit).value["lm_head"]
        assert written[n] == edited[0, -1].argmax()
    assert copy.deepcopy(other)([1, 2]).tolist() == other([1, 2]).tolist()
    with pytest.raises(InputError, match="^save: other ops are served at h.1.out"):
        other.save("anywhere")


# One line each.


def with_tokenizer(tokenizer="bpe:280"):
    built = numgpt.tokenizers.build(tokenizer, "the cat sat on the mat. " * 20)
    config = numgpt.Config(**vars(CONFIGS["gpt2"]) | {"vocab_size": built.vocab_size, "block_size": 16})
    return numgpt.GPT(config, tokenizer=built)


def calls():
    """(message, what is called) of what cannot be used."""
    model, text = a_model("gpt2"), with_tokenizer()
    pair, metric = ([1, 2, 3], [1, 4, 3]), logit_difference(model, 1, 2)
    return [
        ("clean has 3 tokens and corrupted 2, expected as many: they part at token 1, 2 beside 3; give align",
         lambda: activation_patching(model, [1, 2, 3], [1, 3], metric)),
        ("clean: prompt 0 has 2 tokens, prompt 1 has 3, expected as many",
         lambda: attribution_patching(model, [[1, 2], [1, 2, 3]], [[1, 2], [1, 2]], metric)),
        ("2 clean prompts and 1 corrupted ones, expected pairs",
         lambda: activation_patching(model, [[1, 2], [1, 3]], [1, 2], metric)),
        ("the metric is .* on the clean prompt and .* on the corrupted one, expected a difference",
         lambda: activation_patching(model, pair[0], pair[0], metric)),
        ("at is 'head', expected one of resid_pre",
         lambda: activation_patching(model, *pair, metric, "head")),
        ("at is empty, expected one or more", lambda: attribution_patching(model, *pair, metric, [])),
        (r"answer 'the cat' is \d tokens \('the', ' cat'\), expected one: choose another",
         lambda: logit_difference(text, "the cat", " mat")),
        ("an answer is 11, expected a text of one token, or an id below 11",
         lambda: log_probability(model, 11)),
        ("the model has no tokenizer, expected one for a text", lambda: log_probability(model, "x")),
        ("2 answers and 3 wrong ones, expected as many", lambda: logit_difference(model, [1, 2], [1, 2, 3])),
        ("the metric has 3 answers, expected one, or one for each of the 1 prompts",
         lambda: integrated_gradients(model, [1, 2], log_probability(model, [1, 2, 3]))),
        ("the metric looks at position 5, expected -3 to 2",
         lambda: activation_patching(model, *pair, log_probability(model, 1, at=5))),
        ("targets .1, 2., expected .1, 3. as the prompts",
         lambda: ablation(model, pair[0], surprise(model, [1, 2]))),
        ("a row has no target that counts", lambda: surprise(model, [-1, -1])),
        ("no name fits 'h.9.mlp', expected a pattern of names such as",
         lambda: ablation(model, IDS, metric, "h.9.mlp")),
        ("there is one text, expected two or more to resample",
         lambda: ablation(model, IDS[0], metric, how="resample")),
        ("references have 2 tokens, expected 4 as the prompts",
         lambda: ablation(model, IDS, metric, how="resample", references=[[1, 2]])),
        ("receiver is 'v', expected 'logits' or", lambda: path_patching(model, *pair, metric, "v")),
        ("head is 7, expected 0 to 3, those of layer 1",
         lambda: path_patching(model, *pair, metric, (1, 7, "q"))),
        ("the receiver is in layer 0, expected a later",
         lambda: path_patching(model, *pair, metric, (0, 1, "q"))),
        ("subject is .2, 9., expected 0 ≤ begin < end ≤ 3", lambda: causal_tracing(model, pair[0], (2, 9))),
        ("at is 'heads', expected some of resid_post, mlp, attn",
         lambda: causal_tracing(model, pair[0], (0, 1), at="heads")),
        ("baseline has 1 rows of 2 tokens, expected 'mean', 'zero', or as many tokens as the prompt, 4",
         lambda: integrated_gradients(model, IDS, metric, baseline=[1, 2])),
        ("an answer is 1.5, expected a text of one token", lambda: direct_logit_attribution(model, IDS, 1.5)),
        ("layer is 3, expected 0 to 2", lambda: strongest_activations(model, [1, 2], 3)),
        ("neurons has 99, expected some of 0 to 31", lambda: strongest_activations(model, [1, 2], 0, [99])),
        ("labels are int64 of shape .2,., expected numbers or classes .3,.",
         lambda: ridge_probe(model, IDS, [1, 2], "wte")),
        ("all labels are 1, expected two classes", lambda: ridge_probe(model, IDS, [1, 1, 1], "wte")),
        ("no name fits 'h.7'", lambda: ridge_probe(model, IDS, [1, 0, 1], "h.7")),
        ("vector is float64 of shape .3,., expected finite numbers .8,.",
         lambda: steered(model, np.ones(3), 1)),
        ("layer is None, expected the layer after which", lambda: steered(model, np.ones(8))),
        ("layer is 3, expected 0 to 2", lambda: steering_vector(model, [1], [2], 3)),
        ("the model has no blocks", lambda: interpretability.attention_maps(
            numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=0, n_head=1, n_embd=4)), [1])),
    ]  # fmt: skip


@pytest.mark.parametrize("n", range(len(calls())))
def test_what_cannot_be_used_is_refused_in_one_line(n):
    message, call = calls()[n]
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_a_metric_of_ones_own_has_a_value_and_a_gradient():
    class Entropy:
        at = -1

        def value(self, logits):
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            return -(np.exp(logp) * logp).sum(-1)

        def gradient(self, logits):
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            return -np.exp(logp) * (logp + self.value(logits)[:, None])

    model = a_model("gpt2")
    found = integrated_gradients(model, IDS, Entropy(), steps=256)
    assert abs(found.missing).max() <= 1e-12
    Entropy.gradient = lambda self, logits: logits[0]
    with pytest.raises(
        InputError, match=r"metric: its gradient is float64 of shape \(11,\), expected floats"
    ):
        integrated_gradients(model, IDS, Entropy())
    Entropy.value = lambda self, logits: logits.sum()
    with pytest.raises(
        InputError, match=r"metric: its value is float64 of shape \(\), expected floats \(3,\)"
    ):
        integrated_gradients(model, IDS, Entropy())


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("family", FAMILIES)
def test_experiments_give_the_same_on_each_engine(family):
    """Held to edits by hand on the same engine, whose sums have another order in rows of another number."""
    model = a_model(family)
    metric = log_probability(model, [3, 4, 5])
    found = ablation(model, IDS, metric)
    edit = {"h.1.attn.heads": put((..., slice(4, 6)), 0)}
    expected = metric.value(logits_with(model, IDS, edit)) - metric.value(model(IDS)[:, -1])
    assert abs(found.effect[1, 2] - expected.mean()) <= 1e-12
    assert abs(integrated_gradients(model, IDS, metric, steps=256).missing).max() <= 1e-10
    small = a_model(family, dtype="float32")
    assert abs(ablation(small, IDS, metric).effect - found.effect).max() <= 1e-4


# What a reader tries who knows none of it.


def small(**settings):
    return numgpt.GPT(
        numgpt.Config(vocab_size=9, block_size=8, n_layer=2, n_head=2, n_embd=8, **settings),
        seed=0,
        dtype="float64",
    )


@pytest.mark.parametrize("settings", [{}, {"embed_norm": True}, {"embed_scale": 3.0}])
def test_ablation_of_an_embedding_is_that_of_an_edited_record(settings):
    model, ids = small(**settings), np.array([[0, 1, 2, 3], [4, 5, 6, 1]])
    model.params.flat[:] *= 5
    metric = interpretability.logit_difference(model, 1, 3)
    for name in {"wte", "wpe", *(["ln_emb"] if "embed_norm" in settings else [])}:
        logits = model.record(ids, edit={name: lambda x: 0 * x}).value["lm_head"][:, -1]
        found = interpretability.ablation(model, ids, metric, name)
        assert abs(found.effect[0]) > 1e-3
        assert found.effect[0] == pytest.approx(
            (logits[:, 1] - logits[:, 3]).mean() - found.metric, abs=1e-12
        )


class NaNs:
    at = -1

    def value(self, logits):
        return np.full(len(logits), np.nan)

    def gradient(self, logits):
        return np.zeros_like(logits)


class AtText(NaNs):
    at = "x"


def test_what_cannot_be_measured_is_said():
    model, pair = small(), ([0, 1, 2], [0, 4, 2])
    metric = interpretability.logit_difference(model, 1, 3)
    scores = {"how": "mean", "references": [[0, 1]]}
    wrong = {
        "at is 'wte.weight'": lambda: interpretability.ablation(model, pair[0], metric, "wte.weight"),
        "metric is nan": lambda: interpretability.ablation(model, pair[0], NaNs()),
        "nan on the clean": lambda: interpretability.path_patching(model, *pair, NaNs()),
        "position 'x'": lambda: interpretability.ablation(model, pair[0], AtText()),
        "the mean of h.0.attn.heads.probs": lambda: interpretability.ablation(
            model, pair[0], metric, "h.*.attn.heads.probs", **scores
        ),
        "neurons has 1": lambda: interpretability.strongest_activations(model, pair[0], 0, [10**30]),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()
    model.params.flat[:] = np.nan
    with pytest.raises(InputError, match="holds NaN"):
        _ = interpretability.qk_circuit(model, 0, 0).eigenvalues
