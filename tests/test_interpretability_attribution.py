"""Sums that are exact: direct logit attribution, integrated gradients; and the lens beside shorter models."""

import dataclasses

import numpy as np
import pytest
from interpretability_models import CONFIGS, FAMILIES, LLAMA, SIZES, a_model, logits_with

import numgpt
from numgpt import InputError
from numgpt.interpretability import (
    direct_logit_attribution,
    gradient_times_input,
    integrated_gradients,
    log_probability,
    logit_difference,
    logit_lens,
    surprise,
)

IDS = [[1, 2, 3, 4], [5, 2, 9, 0]]
SHAPES = {
    **CONFIGS,
    "gemma": numgpt.Config(**SIZES, **LLAMA, norm_position="both", embed_scale=2.0),
    "olmo": numgpt.Config(**SIZES, **LLAMA, norm_position="out"),
    "gptj": numgpt.Config(**SIZES, norm_position="parallel", tied=False, biases="mlp norm head"),
    "granite": numgpt.Config(**SIZES, **LLAMA, residual_scale=0.5, logit_scale=1.5),
    "bloom": numgpt.Config(**SIZES, positions="alibi", embed_norm=True),
    "olmo 1": numgpt.Config(**SIZES, norm="standardise", bias=False),
}
WITH_HEADS = [name for name in SHAPES if name not in ("gemma", "olmo")]


def logits_of(model, at=-1):
    """z_3 − z_7 of the first row, z_4 − z_1 of the second."""
    logits = model(IDS)[:, at]
    return np.array([logits[0, 3] - logits[0, 7], logits[1, 4] - logits[1, 1]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at", [-1, 1])
def test_the_parts_of_a_logit_add_up_to_it(shape, at):
    model = a_model(SHAPES[shape])
    found = direct_logit_attribution(model, IDS, [3, 4], [7, 1], at=at)
    assert abs(found.logits - logits_of(model, at)).max() <= 1e-12
    assert abs(found.missing).max() <= 1e-12 * abs(found.value).sum(0).max()
    one = direct_logit_attribution(model, IDS, 3, at=at)
    assert abs(one.logits - model(IDS)[:, at, 3]).max() <= 1e-12
    assert abs(one.missing).max() <= 1e-12 * abs(one.value).sum(0).max()


@pytest.mark.parametrize("shape", WITH_HEADS)
def test_heads_and_the_bias_add_up_to_their_layer(shape):
    model = a_model(SHAPES[shape])
    whole = direct_logit_attribution(model, IDS, [3, 4], [7, 1])
    found = direct_logit_attribution(model, IDS, [3, 4], [7, 1], by_head=True)
    assert abs(found.missing).max() <= 1e-12 * abs(found.value).sum(0).max()
    for layer in range(3):
        parts = [n for n, name in enumerate(found.names) if name.startswith(f"h.{layer}.attn.")]
        assert len(parts) == 4 + (f"h.{layer}.attn.c_proj.bias" in model.params)
        expected = whole.value[whole.names.index(f"h.{layer}.attn")]
        assert abs(found.value[parts].sum(0) - expected).max() <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_gives_what_the_norm_with_its_scale_held_makes_of_it(family):
    """And not what the norm makes of the part alone, whose scale would be its own: that sum is another."""
    model = a_model(family)
    values = model.record(IDS).value
    names = ["h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp", "h.2.attn", "h.2.mlp"]
    found = direct_logit_attribution(model, IDS, [3, 4], [7, 1])
    u = model.params["wte.weight" if model.config.tied else "lm_head.weight"]
    direction = np.stack([u[3] - u[7], u[4] - u[1]])
    x, gain = values["h.2"][:, -1], model.params["ln_f.weight"]
    x = x if family == "llama" else x - x.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).mean(-1, keepdims=True) + model.config.layer_norm_epsilon)
    alone = np.zeros(2)
    for name in names:
        c = values[name][:, -1]
        c = c if family == "llama" else c - c.mean(-1, keepdims=True)
        expected = (c / scale * gain * direction).sum(-1)
        assert abs(found.value[found.names.index(name)] - expected).max() <= 1e-12
        alone += (c / np.sqrt((c**2).mean(-1, keepdims=True) + 1e-5) * gain * direction).sum(-1)
    held = sum(found.value[found.names.index(name)] for name in names)
    assert abs(alone - held).min() > 1e-3


@pytest.mark.parametrize(
    ("settings", "by_head", "message"),
    [
        ({"norm_position": "post"}, False, "normalises each sum of a block, norm_position post"),
        ({"final_softcap": 30.0}, False, "the logits are capped at 30.0"),
        ({"norm_position": "both"}, True, "a norm stands between the heads and the stream"),
    ],
)
def test_what_is_no_sum_is_refused(settings, by_head, message):
    model = a_model(dataclasses.replace(CONFIGS["gpt2"], **settings))
    with pytest.raises(InputError, match=f"^direct_logit_attribution: .*{message}"):
        direct_logit_attribution(model, IDS, 3, 1, by_head=by_head)


def test_an_adapter_is_a_part_of_its_matrix_by_head_too():
    model = a_model("gpt2").extended(numgpt.LoRA(rank=2, targets=("h.*.attn.c_proj",)))
    lora_b = model.params["h.0.attn.c_proj.lora_b"]
    lora_b[...] = np.random.default_rng(0).standard_normal(lora_b.shape)  # all alike a norm would take away
    found = direct_logit_attribution(model, IDS, 3, 1)
    assert abs(found.missing).max() <= 1e-12 * abs(found.value).sum(0).max()
    by_head = direct_logit_attribution(model, IDS, 3, 1, by_head=True)
    assert abs(by_head.missing).max() <= 1e-12 * abs(by_head.value).sum(0).max()
    base = direct_logit_attribution(a_model("gpt2"), IDS, 3, 1, by_head=True)
    assert abs(by_head.value - base.value).max() > 1e-6


# Tokens.


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_times_input_is_what_a_scaled_embedding_does_at_first(family):
    model, wide = a_model(family), a_model(family, dtype="complex128")
    metric = log_probability(model, 3)
    found = gradient_times_input(model, IDS, metric)
    for t in range(4):
        factor = np.ones((4, 1), complex)
        factor[t] += 1e-30j
        derivative = metric.value(logits_with(wide, IDS, {"wte": lambda e, f=factor: e * f})).imag / 1e-30
        assert abs(found.score[:, t] - derivative).max() <= 1e-12 * abs(found.score).max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("baseline", ["mean", [[9, 5, 6, 10]]])
def test_integrated_gradients_are_complete(family, baseline):
    model = a_model(family)
    metric = logit_difference(model, [3, 4], [7, 1])
    found = integrated_gradients(model, IDS, metric, baseline=baseline, steps=512)
    assert abs(found.value - logits_of(model)).max() <= 1e-12
    assert abs(found.missing).max() <= 1e-12 * abs(found.score).sum(-1).max()
    if baseline != "mean":
        assert abs(found.baseline - metric.value(model(2 * baseline)[:, -1])).max() <= 1e-12
    rough = integrated_gradients(model, IDS, metric, baseline=baseline, steps=1)
    assert abs(rough.missing).min() > 1e-4, "what a single gradient lacks is said"


def test_a_tokens_integrated_gradient_is_the_integral_along_the_line():
    """By another rule, the midpoint's, whose error falls as the square of its step."""
    model, wide = a_model("gpt2"), a_model("gpt2", dtype="complex128")
    metric, table = log_probability(model, 3), model.params["wte.weight"]
    found = integrated_gradients(model, IDS, metric, steps=128).score
    base = table.mean(0)
    way = table[IDS] - base
    errors = []
    for n in (20, 40):
        total = np.zeros((2, 4))
        for alpha in (np.arange(n) + 0.5) / n:
            for t in range(4):
                step = np.where(np.arange(4)[:, None] == t, 1e-30j * way, 0)
                logits = logits_with(wide, IDS, {"wte": lambda e, a=alpha, s=step: base + a * way + s})
                total[:, t] += metric.value(logits).imag / 1e-30 / n
        errors.append(abs(total - found).max())
    assert 3 < errors[0] / errors[1] < 5 and errors[1] < 0.01 * abs(found).max()


def test_a_loss_is_a_metric_too():
    model = a_model("gpt2")
    targets = [[2, 3, -1, 0], [2, 9, 0, 1]]
    metric = surprise(model, targets)
    logits = model(IDS)
    for row in range(2):
        assert abs(metric.value(logits)[row] - model.loss(IDS[row], targets[row])) <= 1e-12
    dlogits = np.random.default_rng(0).standard_normal(logits.shape)
    derivative = metric.value(logits + 1e-30j * dlogits).imag / 1e-30
    assert abs(derivative - (metric.gradient(logits) * dlogits).sum((1, 2))).max() <= 1e-12
    found = integrated_gradients(model, IDS, metric, steps=256)
    assert abs(found.missing).max() <= 1e-12


# The lens.


@pytest.mark.parametrize("shape", ["gpt2", "llama", "granite", "bloom"])
def test_the_lens_of_a_layer_is_the_model_with_that_many_layers(shape):
    model = a_model(SHAPES[shape])
    lens = logit_lens(model, IDS[0], 3, k=2)
    logps = []
    for layers in range(1, 4):
        config = dataclasses.replace(model.config, n_layer=layers)
        shorter = numgpt.GPT(config, dtype="float64")
        for name, array in shorter.params.items():
            array[...] = model.params[name]
        logits = shorter([IDS[0]])[0]
        logps.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    logps = np.array(logps)
    assert abs(lens.log_prob[1:] - logps[..., 3]).max() <= 1e-12
    assert (lens.rank[1:] == (logps > logps[..., 3:4]).sum(-1)).all()
    kl = (np.exp(logps[-1]) * (logps[-1] - logps)).sum(-1)
    assert abs(lens.kl[1:] - kl).max() <= 1e-12 and (lens.kl[-1] == 0).all() and (lens.kl > -1e-15).all()
    assert (lens.top[1:] == np.argsort(-logps, axis=-1)[..., :2]).all()


def test_without_an_answer_the_lens_asks_for_the_models_own():
    model = a_model("gpt2")
    lens = logit_lens(model, IDS[0])
    assert (lens.answers == model([IDS[0]])[0].argmax(-1)).all() and (lens.rank[-1] == 0).all()
    other = logit_lens(model, IDS[0], [1, 2, 3, 4])
    assert other.answers.tolist() == [1, 2, 3, 4]
    with pytest.raises(InputError, match="3 answers, expected one, or one for each of 4 tokens"):
        logit_lens(model, IDS[0], [1, 2, 3])
