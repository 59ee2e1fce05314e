"""Gradients that begin at any named values: exact by the complex step, linear, the loss's own from logits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import GPT, Config, InputError, engine
from numgpt.architecture.parameters import Flat
from numgpt.architecture.patterns import matching
from numgpt.engine import choice
from numgpt.layers.pickers import logits_name
from numgpt.proofs.subjects import SMALL, VARIANTS

every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


def case(changes, seed, dtype="float64"):
    """A model well away from its first values, tokens, targets and a generator."""
    rng = np.random.default_rng(seed)
    model = GPT(Config(**SMALL | changes), seed=0, dtype=dtype)
    model.params.flat[:] += 0.3 * rng.standard_normal(model.n_params)
    tokens, targets = rng.integers(0, model.config.vocab_size, (2, 2, 4))
    return model, tokens, targets, rng


def draw(model, tokens, rng, names):
    """A random gradient for each of names."""
    value = model.record(tokens).value
    return {name: rng.standard_normal(value[name].shape) for name in names}


def filed(model, tokens):
    """Every name of the forward."""
    return list(model.record(tokens).value)


@every_variant
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradients_from_any_values_are_those_of_the_complex_step(changes, seed):
    model, tokens, _, rng = case(changes, seed)
    names = filed(model, tokens)
    names = list(rng.choice(names, rng.integers(1, 4), replace=False))
    dvalues, v, h = draw(model, tokens, rng, names), rng.standard_normal(model.n_params), 1e-30
    moved = model.astype("complex128")
    moved.params.flat[:] += 1j * h * v
    value = moved.record(tokens).value
    terms = [dvalues[name] * (value[name].imag / h) for name in names]
    gradient = model.vjp(tokens, dvalues).flat
    scale = sum(abs(t).sum() for t in terms) + abs(gradient * v).sum()
    assert abs(gradient @ v - sum(t.sum() for t in terms)) <= 1e-13 * scale


@every_variant
def test_from_the_logits_the_gradients_of_the_loss_are_those_of_loss_and_grads(changes):
    model, tokens, targets, _ = case(changes, 1)
    name = logits_name(model.config)
    record = model.record(tokens, targets, keep=[name])  # attention in one piece, as in training
    _, expected = model.loss_and_grads(tokens, targets)
    gradient = model.vjp(tokens, {name: record.grad[name]})
    assert np.array_equal(gradient.flat, expected.flat)
    logits = model(tokens)
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    by_hand = (softmax - np.eye(logits.shape[-1])[targets]) / targets.size
    by_hand = model.vjp(tokens, {name: by_hand}).flat
    assert np.allclose(by_hand, expected.flat, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["reference", "numba"])
def test_gradients_of_several_values_add_up_and_scale(name):
    model, tokens, _, rng = case({}, 3)
    before = engine.current()
    engine.use(name)
    try:
        names = ["h.0.attn.heads", "h.1.mlp.act", "ln_f"]
        a, b = draw(model, tokens, rng, names), draw(model, tokens, rng, names)
        whole = model.vjp(tokens, {n: a[n] + 3 * b[n] for n in names}).flat
        parts = [
            model.vjp(tokens, {n: array}).flat
            for d, k in ((a, 1), (b, 3))
            for n, array in d.items()
            for _ in range(k)
        ]
        assert np.allclose(whole, sum(parts), rtol=1e-12, atol=1e-13)
        out = model.params.like()
        assert model.vjp(tokens, a, out=out) is out
        model.vjp(tokens, {n: 3 * d for n, d in b.items()}, out=out, add=True)
        assert np.allclose(whole, out.flat, rtol=1e-12, atol=1e-13)
        assert np.array_equal(
            2.0**60 * whole, model.vjp(tokens, {n: 2.0**60 * (a[n] + 3 * b[n]) for n in names}).flat
        )
    finally:
        engine.use(before)


def test_nothing_is_run_backwards_that_comes_after_the_last_value(monkeypatch):
    """A gradient that begins in the first block leaves out the backward of all that follows it."""
    model, tokens, _, rng = case({}, 4)
    dvalues = draw(model, tokens, rng, ["h.0.mlp.act"])
    counts = []
    backward = choice.backward
    monkeypatch.setattr(engine, "backward", lambda op, dy: counts.append(op.name) or backward(op, dy))
    gradient = model.vjp(tokens, dvalues)
    assert counts.count("linear") == 3 and "unembedding" not in counts
    assert [name for name, g in gradient.items() if not g.any()] == [
        name for name in gradient if name.startswith(("h.1.", "ln_f", "h.0.mlp.c_proj", "lm_head"))
    ]


@pytest.mark.parametrize("name", ["reference", "numba"])
def test_gradients_that_are_asked_for_are_those_of_all_and_the_others_are_not_there(name):
    model, tokens, _, rng = case({}, 8)
    before = engine.current()
    engine.use(name)
    try:
        dvalues = draw(model, tokens, rng, ["h.1.mlp.act", "lm_head"])
        whole = model.vjp(tokens, dvalues)
        part = model.vjp(tokens, dvalues, grads=["h.*.mlp.c_fc.*", "wte.weight"])
        out = part.like()
        assert model.vjp(tokens, dvalues, grads=["h.*.mlp.c_fc.*", "wte.weight"], out=out) is out
    finally:
        engine.use(before)
    assert list(part) == ["wte.weight"] + [
        f"h.{i}.mlp.c_fc.{p}" for i in range(2) for p in ("weight", "bias")
    ]
    for parameter, gradient in part.items():
        assert np.allclose(gradient, whole[parameter], rtol=1e-12, atol=1e-13), parameter
    assert np.array_equal(out.flat, part.flat)


def test_dropout_masks_are_those_of_training_at_the_same_step():
    model, tokens, targets, _ = case({"dropout": 0.3}, 5)
    record = model.record(tokens, targets, step=7)
    _, expected = model.loss_and_grads(tokens, targets, step=7)
    gradient = model.vjp(tokens, {"lm_head": record.grad["lm_head"]}, step=7)
    assert np.array_equal(gradient.flat, expected.flat)


def test_neither_model_nor_arguments_are_written_to():
    model, tokens, _, rng = case({}, 6, "float32")
    dvalues = draw(model, tokens, rng, ["h.0", "lm_head"])
    before = [a.copy() for a in (model.params.flat, tokens, *dvalues.values())]
    gradient = model.vjp(tokens, dvalues)
    assert gradient.dtype == np.float32
    assert all(map(np.array_equal, before, (model.params.flat, tokens, *dvalues.values())))


MODEL, TOKENS, _, _ = case({}, 0)
LOGITS = np.ones((2, 4, 7))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dvalues": {}}, "^vjp: no value is named, expected a gradient by name, such as 'lm_head'$"),
        ({"dvalues": {"h.9": LOGITS}}, "^vjp: there is no value 'h.9', expected a name such as"),
        ({"dvalues": {"loss": 1.0}}, "^vjp: there is no value 'loss', expected a name such as"),
        (
            {"dvalues": {"lm_head": LOGITS[0]}},
            r"^vjp: the gradient of 'lm_head' has shape \(4, 7\), expected \(2, 4, 7\) as the value$",
        ),
        (
            {"dvalues": {"lm_head": LOGITS * np.nan}},
            "^vjp: the gradient of 'lm_head' holds NaN or infinity, exp",
        ),
        (
            {"dvalues": {"lm_head": LOGITS * 1j}},
            "^vjp: the gradient of 'lm_head' is complex128, expected real",
        ),
        (
            {"dvalues": {"lm_head": "x"}},
            "vjp: dvalues is .*, expected a mapping, each value an array of numbers",
        ),
        (
            {"grads": ["h.*.moe.*"]},
            r"^vjp: grads: no name fits 'h.\*.moe.\*', expected a pattern of names such",
        ),
        ({"grads": []}, "^vjp: grads: there is no pattern, expected at least one"),
        ({"out": MODEL.params}, "^vjp: out holds the parameters, which the gradients would replace"),
        (
            {"out": MODEL.params.astype("float32")},
            "^vjp: out is float32 in the host memory, expected float64",
        ),
        ({"out": Flat({"w": (2,)}, "float64")}, "^vjp: out: wte.weight is missing, expected"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(options, message):
    with pytest.raises(InputError, match=message) as refused:
        MODEL.vjp(TOKENS, **{"dvalues": {"lm_head": LOGITS}} | options)
    assert len(str(refused.value).splitlines()) == 1


def test_patterns_choose_names_in_their_own_order():
    names = ["b.x", "a.x", "a.y", "a.b.x"]
    assert matching("who", ["a.*", "b.x"], names) == ("b.x", "a.x", "a.y", "a.b.x")
    assert matching("who", ["?.[x]"], names) == ("b.x", "a.x")
    with pytest.raises(InputError, match=r"^who: no name fits 'A.\*', expected a pattern of names such as"):
        matching("who", ["a.*", "A.*"], names)
