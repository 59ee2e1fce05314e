"""AdamW, clipping and schedules."""

import copy
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import GPT, AdamW, Config, InputError, Training, engine, learning_rate
from numgpt.proofs.subjects import SMALL
from numgpt.training.optim import global_norm


@pytest.fixture
def model():
    return GPT(Config(**SMALL), dtype="float64")


def gradients(model, seed=0):
    grads = model.params.like()
    grads.flat[:] = np.random.default_rng(seed).standard_normal(grads.flat.shape)
    return grads


def test_the_first_step_moves_every_parameter_by_the_learning_rate(model):
    """m̂/√v̂ is the gradient's sign at t = 1, whatever its size."""
    before, grads = model.params.flat.copy(), gradients(model)
    AdamW(model, weight_decay=0.0, clip=0).step(grads, lr=1e-2)
    assert np.allclose(model.params.flat, before - 1e-2 * np.sign(grads.flat), atol=1e-2 * 1e-4)


def test_decay_acts_on_matrices_only(model):
    model.params.flat[:] = 1.0
    AdamW(model, weight_decay=0.5).step(model.params.like(), lr=0.1)
    for value in model.params.values():
        assert np.allclose(value, 1 - 0.1 * 0.5 if value.ndim > 1 else 1.0)


def test_steps_are_those_of_the_equations(model):
    optimizer = AdamW(model, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, clip=0.7)
    w, m, v = model.params["h.0.mlp.c_fc.weight"].copy(), 0.0, 0.0
    for t in range(1, 5):
        grads = gradients(model, t)
        norm = math.sqrt((grads.flat**2).sum())
        g = grads["h.0.mlp.c_fc.weight"] * min(1, 0.7 / norm)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        w = w - 0.01 * 0.1 * w - 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
        assert optimizer.step(grads, lr=0.01) == pytest.approx(norm, rel=1e-14)
        assert np.allclose(model.params["h.0.mlp.c_fc.weight"], w, rtol=1e-13)


def test_the_learning_rate_never_rises_above_the_highest():
    assert Training(lr=1e-6).final_lr == pytest.approx(1e-7)
    with pytest.raises(InputError, match=r"min_lr is 0.1, expected 0 to lr 0.01"):
        Training(lr=0.01, min_lr=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (1, 1)}, r"betas is \(1, 1\), expected \(a finite number from 0 to below 1, "),
        ({"betas": (0.9,)}, r"betas is \(0.9,\)"),
        ({"betas": (0.9, math.nan)}, "betas is"),
        ({"eps": 0}, "eps is 0, expected a finite number more than 0"),
        ({"clip": -1.0}, "clip is -1.0, expected a finite number of 0 or more, or None"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
    ],
)
def test_settings_that_would_ascend_or_divide_by_zero_are_errors(model, options, message):
    with pytest.raises(InputError, match=f"AdamW: {message}"):
        AdamW(model, **options)


@pytest.mark.parametrize("lr", [math.inf, math.nan, -1, "x", None, True, np.array([0.01]), 10**400])
def test_a_learning_rate_that_is_none_is_an_error(model, lr):
    before = model.params.flat.copy()
    with pytest.raises(InputError, match=r"AdamW.step: lr is .*, expected a finite number of 0 or more"):
        AdamW(model).step(gradients(model), lr)
    assert np.array_equal(model.params.flat, before)


@pytest.mark.parametrize("lr", [np.float64(0.25), np.float32(0.25), np.array(0.25), np.float16(0.25)])
def test_a_learning_rate_of_numpy_gives_the_bits_of_a_float(lr):
    first, second = (GPT(Config(**SMALL)) for _ in range(2))
    grads = first.params.like()
    grads.flat[:] = np.random.default_rng(0).standard_normal(grads.flat.size)
    AdamW(first).step(grads, 0.25)
    AdamW(second).step(grads, lr)
    assert np.array_equal(first.params.flat, second.params.flat)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("as_dict", [False, True])
def test_a_gradient_that_is_not_finite_is_named_and_updates_nothing(model, bad, as_dict):
    optimizer, grads, before = AdamW(model), gradients(model), model.params.flat.copy()
    grads["h.0.mlp.c_fc.bias"][3] = bad
    with pytest.raises(
        InputError, match=r"the gradient of h.0.mlp.c_fc.bias is not finite, .* nothing was updated"
    ):
        optimizer.step(dict(grads) if as_dict else grads, lr=0.1)
    with pytest.raises(InputError, match="the norm of the gradients is nan"):
        optimizer.step(gradients(model), lr=0.1, norm=math.nan)
    assert np.array_equal(model.params.flat, before)
    assert optimizer.steps == 0
    assert not optimizer.m.flat.any()


def test_a_gradient_whose_square_overflows_is_refused_and_clipping_takes_it():
    """v would be ∞ for ever, and the parameter would stand still without a word."""
    model = GPT(Config(**SMALL), dtype="float32")
    grads, before = gradients(model), model.params.flat.copy()
    grads.flat[:] = 1e20
    with pytest.raises(InputError, match="whose square overflows float32, .* nothing was updated"):
        AdamW(model, clip=None).step(grads, lr=0.1)
    assert np.array_equal(model.params.flat, before)
    optimizer = AdamW(model)
    optimizer.step(grads, lr=0.1)
    assert np.isfinite(optimizer.v.flat).all() and (model.params.flat != before).all()


@pytest.mark.parametrize("as_dict", [False, True])
def test_gradients_of_another_float_are_taken_and_complex_ones_refused(model, as_dict):
    twin = GPT(model.config, dtype="float64")
    AdamW(model).step(gradients(model), lr=0.1)
    wide = gradients(twin).astype("longdouble")
    AdamW(twin).step(dict(wide) if as_dict else wide, lr=0.1)
    assert np.array_equal(model.params.flat, twin.params.flat)
    numbers = gradients(model).astype("complex128")
    with pytest.raises(InputError, match="the gradients are complex128, expected real numbers"):
        AdamW(model).step(dict(numbers) if as_dict else numbers, lr=0.1)


def test_a_gradient_of_another_shape_is_an_error(model):
    grads = dict(gradients(model)) | {"wte.weight": 1.0}
    with pytest.raises(InputError, match=r"the gradient of wte.weight has shape \(\), expected"):
        AdamW(model).step(grads, lr=0.1)


def test_gradients_are_not_written_to_and_any_mapping_will_do(model):
    grads, twin = gradients(model), GPT(model.config, dtype="float64")
    before = grads.flat.copy()
    AdamW(model, clip=0.1).step(grads, lr=0.1)
    AdamW(twin, clip=0.1).step({n: g.copy() for n, g in grads.items()}, lr=0.1)
    assert np.array_equal(grads.flat, before)
    assert np.array_equal(model.params.flat, twin.params.flat)
    with pytest.raises(InputError, match=r"names differ from the parameters' at h.0.attn"):
        AdamW(model).step({n: g for n, g in grads.items() if "h.0.attn.c_attn.bias" not in n}, lr=0.1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 200_000))
def test_the_norm_is_accurate_for_float32_buffers_of_any_length(seed, n):
    flat = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    exact = (
        math.sqrt(math.fsum(float(x) ** 2 for x in flat[:: max(1, n // 1000)]))
        if n <= 1000
        else float(np.sqrt((flat.astype(np.longdouble) ** 2).sum()))
    )
    assert global_norm(flat) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_falls_to_its_end(schedule):
    t = Training(steps=50, warmup=10, lr=1.0, min_lr=0.1, schedule=schedule)
    rates = [learning_rate(i, t) for i in range(51)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1.0
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[50] == pytest.approx(1.0 if schedule == "constant" else 0.1)
    if schedule != "constant":
        assert rates[30] == pytest.approx(0.55)  # half-way is the mean of both ends, for cosine too


def test_wsd_stays_until_its_cooldown_and_falls_in_a_line():
    t = Training(steps=110, warmup=10, lr=1.0, min_lr=0.0, schedule="wsd", cooldown=0.25)
    rates = [learning_rate(i, t) for i in range(111)]
    assert rates[9] < 1
    assert set(rates[10:86]) == {1.0}
    np.testing.assert_allclose(np.diff(rates[85:]), -1 / 25, rtol=1e-12)
    assert rates[110] == 0
    assert learning_rate(105, Training(steps=110, warmup=10, lr=1.0, schedule="wsd", cooldown=0.0)) == 1


def test_a_repr_says_where_it_is_and_what_decays(model):
    optimizer = AdamW(model, clip=None)
    optimizer.step(gradients(model), lr=0.1)
    first, second = repr(optimizer).splitlines()
    assert first == "AdamW: step 1, betas (0.9, 0.99), eps 1e-08, weight_decay 0.1, clip None"
    assert second == f"  {model.n_params:,} parameters, {model.params.decayed.size:,} of them decayed"


def test_the_order_of_the_gradients_names_changes_no_bit(model):
    grads = gradients(model)
    names = dict(reversed(grads.shapes.items()))
    turned = type(grads)(names, grads.dtype)
    for name in names:
        turned[name][...] = grads[name]
    other = model.astype("float64")
    AdamW(model).step(grads, 0.1, norm=1.0)
    AdamW(other).step(turned, 0.1, norm=1.0)
    assert np.array_equal(model.params.flat, other.params.flat)


def test_a_step_on_read_only_parameters_is_refused_and_changes_nothing(model):
    optimizer, grads = AdamW(model), gradients(model)
    model.params.flat.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        optimizer.step(grads, 0.1)
    assert optimizer.steps == 0 and not optimizer.m.flat.any() and not optimizer.v.flat.any()


@pytest.mark.parametrize("norm", [-1.0, np.float32(-1), "a", True, 1j, np.ones(2)])
def test_a_norm_that_is_none_is_refused(norm):
    model = GPT(Config(**SMALL))
    before = model.params.flat.copy()
    _, grads = model.loss_and_grads([[0, 1]], [[1, 2]])
    with pytest.raises(InputError, match=r"^AdamW.step: norm is .*, expected a number of 0 or more"):
        AdamW(model).step(grads, 0.1, norm=norm)
    assert np.array_equal(model.params.flat, before)


def test_a_learning_rate_is_of_a_step_from_0_on():
    with pytest.raises(InputError, match="learning_rate: step is -5, expected an integer of 0 or more"):
        learning_rate(-5, Training())
    assert learning_rate(10**400, Training()) == learning_rate(10**9, Training()) == Training().final_lr


def test_a_copy_of_an_optimizer_has_moments_of_its_own():
    model = GPT(Config(**SMALL))
    _, grads = model.loss_and_grads([[0, 1]], [[1, 2]])
    optimizer = AdamW(model)
    optimizer.step(grads, 0.1)
    other, before = copy.copy(optimizer), (optimizer.m.flat.copy(), optimizer.v.flat.copy())
    assert other.params is optimizer.params
    other.step(grads, 0.1)
    assert (other.steps, optimizer.steps) == (2, 1)
    assert all(np.array_equal(a.flat, b) for a, b in zip((optimizer.m, optimizer.v), before))


# A part of the parameters.

PARTS = [["h.0.mlp.c_fc.weight"], ["wte.weight", "h.*.ln_1.bias"], ["h.*.attn.c_proj.*", "h.1.mlp.c_fc.bias"]]


@pytest.mark.parametrize("names", PARTS, ids=" ".join)
@pytest.mark.parametrize("engine_name", ["reference", "numba"])
def test_what_trains_moves_as_with_all_and_what_does_not_stays(model, names, engine_name):
    """Without clipping, what one parameter does depends on no other."""
    twin, before = GPT(model.config, dtype="float64"), model.params.flat.copy()
    twin_before = GPT(model.config, dtype="float64").params
    whole, part = AdamW(twin, clip=None), AdamW(model, clip=None, names=names)
    engine.use(engine_name)
    try:
        for seed in range(3):
            whole.step(gradients(model, seed), lr=0.01)
            part.step(gradients(model, seed), lr=0.01)
    finally:
        engine.use("reference")
    assert np.array_equal(before, twin_before.flat)
    assert set(part.m) == set(part.v) < set(model.params)
    for name, value in model.params.items():
        expected = twin.params if name in part.m else twin_before
        assert np.array_equal(value, expected[name]), name
        if name in part.m:
            assert np.array_equal(part.m[name], whole.m[name])
            assert np.array_equal(part.v[name], whole.v[name])
            assert not np.array_equal(value, twin_before[name])


def test_the_clip_counts_what_trains_and_nothing_else(model):
    grads = gradients(model)
    optimizer = AdamW(model, clip=0.5, names=["h.0.mlp.c_fc.*"])
    norm = math.sqrt(sum((grads[f"h.0.mlp.c_fc.{p}"] ** 2).sum() for p in ("weight", "bias")))
    grads["wte.weight"] *= 1e6
    grads["wpe.weight"][0, 0] = np.nan
    assert optimizer.norm(grads) == pytest.approx(norm, rel=1e-14)
    assert optimizer.step(grads, lr=0.1) == pytest.approx(norm, rel=1e-14)
    assert np.allclose(optimizer.m["h.0.mlp.c_fc.bias"], 0.1 * 0.5 / norm * grads["h.0.mlp.c_fc.bias"])


def test_gradients_of_what_trains_are_enough_in_any_mapping(model):
    names, grads = PARTS[2], gradients(model)
    models = [GPT(model.config, dtype="float64") for _ in range(4)]
    optimizers = [AdamW(m, names=names) for m in models]
    own = {name: grads[name] for name in optimizers[0].m}
    flat = optimizers[0].m.like()
    for name in flat:
        flat[name] = grads[name]
    for optimizer, mapping in zip(optimizers, (grads, dict(grads), own, flat)):
        optimizer.step(mapping, lr=0.1)
    assert all(np.array_equal(m.params.flat, models[0].params.flat) for m in models)
    with pytest.raises(InputError, match="names differ from the parameters' at h.0.attn.c_proj.bias"):
        optimizers[0].step({n: g for n, g in own.items() if n != "h.0.attn.c_proj.bias"}, lr=0.1)
    with pytest.raises(InputError, match="names differ from the parameters' at h.9"):
        optimizers[0].step(own | {"h.9": np.ones(2)}, lr=0.1)


def test_a_part_says_what_it_is_and_a_pattern_that_fits_nothing_is_refused(model):
    shown = repr(AdamW(model, names=["h.0.ln_1.*"]))
    assert shown.endswith(f"12 of {model.n_params:,} parameters, 0 of them decayed")
    with pytest.raises(InputError, match=r"^AdamW: names: no name .* 'h.0.ln_3.\*', expected"):
        AdamW(model, names=["h.0.ln_3.*"])
