"""Edits of a value are differentiated rightly where they can be, else refused for the true reason."""

import numpy as np
import pytest

from numgpt import GPT, Config, InputError
from numgpt.layers.slope import slope

TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, 2, 5))
SIZE = {"vocab_size": 7, "block_size": 5, "n_layer": 2, "n_head": 2, "n_embd": 6}
FIRST = np.arange(7) == 6  # a token that is no target


def model_of(dtype, **changes):
    model = GPT(Config(**SIZE | changes), seed=0, dtype=dtype)
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.n_params).astype(dtype)
    return model


def filled(a):
    a[..., 6] = -np.inf
    return a


# The name of a value, an edit of it, and its derivative, written by hand.
RIGHT = {
    "twice the loss": ("loss", lambda a: 2 * a, lambda a: 2.0),
    "the loss by itself": ("loss", lambda a: np.log(a), lambda a: 1 / a),
    "a token forbidden": ("lm_head", lambda a: np.where(FIRST, -np.inf, a), lambda a: 1.0 - FIRST),
    "a token forbidden by a sum": (
        "lm_head",
        lambda a: a + np.where(FIRST, -np.inf, 0),
        lambda a: 1.0 - FIRST,
    ),
    "a token forbidden in place": ("lm_head", filled, lambda a: 1.0 - FIRST),
    "far away": ("h.0.mlp", lambda a: a + 1e12, lambda a: 1.0),
    "very small": ("h.0.mlp", lambda a: a * 1e-12, lambda a: 1e-12),
    "steep": (
        "h.0.mlp",
        lambda a: np.tanh(1e3 * a),
        lambda a: 1e3 * (1 - np.tanh(1e3 * a)) * (1 + np.tanh(1e3 * a)),
    ),
    "bounded": ("h.0.mlp", lambda a: np.clip(a, -0.2, 0.2), lambda a: abs(a) < 0.2),
    "a step": ("h.0.mlp", lambda a: np.where(a > 0.1, 1.0, 0.0), lambda a: 0.0),
    "a patch": ("h.0.mlp", lambda a: np.linspace(-1, 1, a.size).reshape(a.shape), lambda a: 0.0),
    "NaN": ("h.0.mlp", lambda a: a * np.nan, lambda a: np.nan),
    "NaN in a channel": ("h.0.mlp", lambda a: np.where(np.arange(6) == 1, np.nan, a), lambda a: np.nan),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", RIGHT)
def test_an_edit_has_the_gradient_of_the_pair_that_says_its_derivative(case, dtype):
    model, (name, function, derivative) = model_of(dtype), RIGHT[case]
    value = model.record(TOKENS, TARGETS).value[name]
    by = np.asarray(derivative(np.asarray(value, np.float64)), dtype)
    pair = (function, lambda dy: dy * by)
    edited = model.record(TOKENS, TARGETS, edit={name: function})
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    by_hand = model.record(TOKENS, TARGETS, edit={name: pair})
    for n, grad in by_hand.grad.items():
        np.testing.assert_allclose(edited.grad[n], grad, rtol=tolerance, atol=tolerance * 1e-3)


def single(a):
    """Twice a value, as a library does it that has float32 alone."""
    if a.dtype != np.float32:
        raise RuntimeError("expected scalar type Float\nbut found Double")
    return 2 * a


DRAWN = np.random.default_rng(1)
WRONG = {
    "noise": (lambda a: a + DRAWN.standard_normal(a.shape), "gives other numbers each time it is called"),
    "dropout": (lambda a: a * (DRAWN.random(a.shape) < 0.5), "gives other numbers each time it is called"),
    "a kink": (
        lambda a: np.where(a > 0.1, a, 0.0) + np.maximum(a - a.real, 0),
        r"has a kink at \[0, 0, 0\] and 59 more",
    ),
    "a mean": (lambda a: a - a.mean(-1, keepdims=True), r"mixes entries: that at \[0, 0, 0\] and 59 more"),
    "one entry": (
        lambda a: np.concatenate([a[..., :5], a[..., :1]], -1),
        r"mixes entries: that at \[0, 0, 5\]",
    ),
    "abs": (abs, "does not let complex numbers through"),
    "a cast": (lambda a: a.astype("float32"), "does not let complex numbers through"),
    "far away and cast": (lambda a: a.real + 1e12, "does not let complex numbers through"),
    "floor": (np.floor, "does not take complex numbers .TypeError: ufunc 'floor' not supported"),
    "a library in float32 alone": (
        single,
        "does not take float64, in which it is differentiated .RuntimeError",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_edit_that_cannot_be_differentiated_is_refused_for_the_true_reason(case):
    function, reason = WRONG[case]
    with pytest.raises(InputError, match=f"edit: 'h.0.mlp' {reason}") as error:
        model_of("float32").record(TOKENS, TARGETS, edit={"h.0.mlp": function})
    assert "\n" not in str(error.value)


def test_a_kink_is_refused_where_a_value_is_on_it_and_nowhere_else():
    """A rectifier behind a rectifier: the zeros that the first one made are its kink."""
    model, rectified = model_of("float64", activation="relu"), lambda a: np.maximum(a, 0)
    with pytest.raises(
        InputError, match="has a kink at .* the value is 0: its slope is 0 on the left and 1 on"
    ):
        model.record(TOKENS, TARGETS, edit={"h.0.mlp.act": rectified})
    edited = model.record(TOKENS, TARGETS, edit={"h.0.mlp.c_fc": rectified})
    for name, grad in model.record(TOKENS, TARGETS).grad.items():
        if name != "h.0.mlp.c_fc":
            assert np.array_equal(edited.grad[name], grad)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e6, 1e100])
@pytest.mark.parametrize("spread", [0, 6])
def test_a_slope_is_known_at_values_of_every_size(size, spread):
    """Also where one value is a million times as large as the others, as residual streams have it."""
    rng = np.random.default_rng(0)
    a = size * rng.standard_normal((3, 40)) * 10.0 ** rng.uniform(-spread, 0, (3, 40))
    for function, derivative in (
        (lambda x: 3 * x + 1, lambda x: 3 + 0 * x),
        (lambda x: np.where(x > 0, x, 0 * x), lambda x: 1.0 * (x > 0)),
        (lambda x: np.tanh(x / size), lambda x: 1 / np.cosh(x / size) ** 2 / size),
        (lambda x: np.clip(x, -size / 3, size / 3), lambda x: 1.0 * (abs(x) < size / 3)),
    ):
        np.testing.assert_allclose(slope("it", function, a), derivative(a), rtol=1e-12)
    for function in (abs, lambda x: x.real, lambda x: x * np.sign(x)):
        with pytest.raises(InputError, match="complex numbers through"):
            slope("it", lambda x, function=function: function(x) * (1 / size), a)


@pytest.mark.parametrize("result", [None, "text", [[1], [2, 3]], {}], ids=str)
@pytest.mark.parametrize("name", ["h.0.mlp", "loss"])
def test_an_edit_that_returns_no_numbers_is_one_line(name, result):
    with pytest.raises(InputError, match=f"edit: '{name}' returned") as error:
        model_of("float32").record(TOKENS, TARGETS, edit={name: lambda a: result})
    assert "\n" not in str(error.value)


def in_place(dy):
    dy *= 2
    return dy


@pytest.mark.parametrize("kind", ["edit_grad", "transpose"])
def test_a_function_of_a_gradient_may_work_in_place(kind):
    """What it writes to may be shared: the sum of two branches passes the same gradient to both."""
    model = GPT(Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=4), dtype="float64")

    def gradients(name, function):
        edits = (
            {"edit_grad": {name: function}} if kind == "edit_grad" else {"edit": {name: (np.copy, function)}}
        )
        record = model.record([0, 1, 2], [1, 2, 3], **edits)
        return np.concatenate([g.ravel() for g in record.grads.values()])

    for name in model.record([0, 1, 2], [1, 2, 3]).value:
        if name == "loss":
            continue
        assert np.array_equal(gradients(name, in_place), gradients(name, lambda dy: dy * 2)), name
