"""Rounded weights: what integers stand for, how they are chosen, and that a model with them is a model."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import GPT, AdamW, Config, Head, InputError, LoRA, Quantized, Trainer, Training, calculus
from numgpt.architecture.parameters import shapes
from numgpt.model.generate import logits_stream
from numgpt.ops.quantised import matrix_of_nibbles, nibbles, packed_nibbles
from numgpt.quantization import error_in, gptq, matrix_of, nearest4, nearest8
from numgpt.quantization.calibration import hessians
from numgpt.quantization.gptq import _factor, damped_hessian
from numgpt.tuning import optimizer_of, trained_names

SMALL = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}
LLAMA = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "tied": False, "bias": False}
FAMILIES = {
    "GPT-2": {},
    "LLaMA": LLAMA | {"n_kv_head": 1},
    "experts": {"n_expert": 3, "n_expert_active": 2},
    "shared expert": LLAMA | {"n_expert": 3, "n_expert_active": 2, "shared_inner": 8},
    "parallel, untied": {"norm_position": "parallel", "tied": False},
}
TOKENS, TARGETS = np.random.default_rng(0).integers(0, 11, (2, 3, 8))
WAYS = {
    "int8": {"bits": 8},
    "int4": {"bits": 4, "group": 8},
    "int4, absmax, asymmetric": {"bits": 4, "group": 4, "clip": "absmax", "asymmetric": True},
    "int4, GPTQ, embedding kept": {"bits": 4, "group": 8, "keep_embedding": True, "calibration": TOKENS},
}
every_family = pytest.mark.parametrize("changes", FAMILIES.values(), ids=list(FAMILIES))
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


def a_model(changes=None, dtype="float64"):
    """A model whose weights differ enough for each to matter."""
    model = GPT(Config(**SMALL | (changes or {})), seed=0, dtype="float64")
    model.params.flat[...] += 0.2 * np.random.default_rng(1).standard_normal(model.params.flat.size)
    return model.astype(dtype)


# What integers stand for.


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 7), columns=st.integers(1, 5))
def test_two_integers_of_4_bits_share_a_byte_and_come_back(seed, rows, columns):
    rng = np.random.default_rng(seed)
    integers = rng.integers(0, 16, (3, 2 * rows, columns), dtype=np.uint8)
    stored = packed_nibbles(integers)
    assert stored.dtype == np.uint8 and stored.shape == (3, rows, columns)
    assert np.array_equal(nibbles(stored), integers)
    assert np.array_equal(stored & 15, integers[:, 0::2]) and np.array_equal(stored >> 4, integers[:, 1::2])
    assert np.array_equal(packed_nibbles(nibbles(stored)), stored)


def test_the_middle_of_4_bits_is_8_where_no_zero_is_stored():
    q = np.array([[0x80], [0xF1]], np.uint8)  # rows 0, 8 and 1, 15
    scale, zero = np.array([[2.0], [3.0]]), np.array([[8.0], [8.0]])
    assert matrix_of_nibbles(q, scale).T.tolist() == [[-16, 0, -21, 21]]
    assert np.array_equal(matrix_of_nibbles(q, scale), matrix_of_nibbles(q, scale, zero))


@every_family
@every_way
def test_a_quantized_model_computes_what_the_floats_do_that_its_integers_stand_for(changes, way):
    small = a_model(changes).quantize(**way)
    floats = small.dequantized()
    assert (
        not floats.additions
        and not floats.params.integers
        and list(floats.params) == list(shapes(small.config))
    )
    np.testing.assert_allclose(small(TOKENS), floats(TOKENS), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(small.loss(TOKENS, TARGETS), floats.loss(TOKENS, TARGETS), rtol=1e-12)
    assert abs(small(TOKENS) - a_model(changes)(TOKENS)).max() > 1e-6  # and it is rounded


@every_family
@every_way
def test_its_gradients_are_those_of_the_complex_step(changes, way):
    """By all that is a number: norms, biases, positions, and scales and zeros."""
    small = a_model(changes).quantize(**way)
    _, grads = small.loss_and_grads(TOKENS, TARGETS)
    assert list(grads) == list(small.params.shapes)
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(grads.flat.size)
        along = float(calculus.jvp(small, TOKENS, direction, targets=TARGETS))
        np.testing.assert_allclose(grads.flat @ direction, along, rtol=1e-11, atol=1e-13)


@every_family
def test_gradients_of_what_is_no_scale_are_those_of_the_floats(changes):
    small = a_model(changes).quantize(bits=4, group=8)
    floats = small.dequantized()
    _, grads = small.loss_and_grads(TOKENS, TARGETS)
    _, expected = floats.loss_and_grads(TOKENS, TARGETS)
    kept = [name for name in grads if name in expected]
    assert len(kept) > 3
    for name in kept:
        np.testing.assert_allclose(grads[name], expected[name], rtol=1e-10, atol=1e-13)


@every_family
@every_way
def test_engines_agree_on_it(changes, way, each_engine):
    small = a_model(changes).quantize(**way)
    numgpt.use("reference")
    expected, grads = small(TOKENS), small.loss_and_grads(TOKENS, TARGETS)[1].flat
    numgpt.use(each_engine)
    np.testing.assert_allclose(small(TOKENS), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(small.loss_and_grads(TOKENS, TARGETS)[1].flat, grads, rtol=1e-10, atol=1e-13)


@every_family
@every_way
def test_decoding_gives_the_logits_of_the_whole(changes, way):
    small = a_model(changes).quantize(**way)
    stream = logits_stream(small, TOKENS[:, :3])
    found = [next(stream), *(stream.send(TOKENS[:, t]) for t in range(3, 8))]
    np.testing.assert_allclose(np.stack(found, 1), small(TOKENS)[:, 2:], rtol=1e-11, atol=1e-12)
    assert small.generate([[1, 2], [3]], 4, seed=1)[1].shape == (5,)


# How they are chosen.


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-30, 1.0, 1e20]))
def test_8_bits_are_at_most_half_a_step_away(seed, scale):
    weight = scale * np.random.default_rng(seed).standard_normal((9, 5))
    weight[:, 2] = 0
    rounded = nearest8(weight)
    assert rounded.weight_q.dtype == np.int8 and abs(rounded.weight_q.astype(int)).max() <= 127
    assert (abs(matrix_of(rounded) - weight) <= 0.5 * rounded.weight_scale * (1 + 1e-12)).all()
    rows = nearest8(weight.T, axis=-1)
    assert np.array_equal(rows.weight_q.T, rounded.weight_q) and np.array_equal(rows[1], rounded[1])


@pytest.mark.parametrize("asymmetric", [False, True])
@given(seed=st.integers(0, 2**32 - 1))
def test_4_bits_are_at_most_half_a_step_away_and_clipping_only_comes_nearer(asymmetric, seed):
    weight = np.random.default_rng(seed).standard_t(3, (16, 5))
    whole, clipped = (nearest4(weight, 8, clip, asymmetric) for clip in ("absmax", "mse"))
    step = np.repeat(whole.weight_scale, 8, axis=0)
    assert (abs(matrix_of(whole) - weight) <= 0.5 * step * (1 + 1e-12)).all()
    errors = [((matrix_of(r) - weight) ** 2).reshape(2, 8, 5).sum(1) for r in (whole, clipped)]
    assert (errors[1] <= errors[0] * (1 + 1e-12)).all()
    assert (whole.weight_zero is None) != asymmetric


def test_a_clipped_grid_and_one_with_a_zero_are_nearer_on_the_whole():
    weight = np.random.default_rng(0).standard_t(3, (64, 50)) + 0.5
    error = {
        (clip, zero): error_in(weight, matrix_of(nearest4(weight, 16, clip, zero))).sum()
        for clip in ("absmax", "mse")
        for zero in (False, True)
    }
    assert error["mse", False] < 0.9 * error["absmax", False]
    assert error["mse", True] < error["absmax", True] < error["absmax", False]


@pytest.mark.parametrize("asymmetric", [False, True])
def test_groups_of_zeros_and_of_one_number_are_exact(asymmetric):
    weight = np.zeros((8, 2), np.float32)
    weight[4:, 1] = 0.7
    rounded = nearest4(weight, 4, "mse", asymmetric)
    np.testing.assert_allclose(matrix_of(rounded), weight, rtol=1e-6)
    assert rounded.weight_scale.dtype == np.float32


def correlated(seed, inputs=16, rows=60):
    """(inputs of a layer that depend on each other, its weights)"""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs)) + rng.standard_normal(
        inputs
    )
    return x, rng.standard_normal((inputs, 7))


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("clip", ["mse", "absmax"])
@given(seed=st.integers(0, 2**32 - 1))
def test_gptq_is_no_farther_than_rounding_to_nearest_in_its_own_metric(clip, asymmetric, seed):
    x, weight = correlated(seed)
    metric = damped_hessian(2 * x.T @ x)
    ways = gptq(weight, 2 * x.T @ x, 8, clip, asymmetric), nearest4(weight, 8, clip, asymmetric)
    own, nearest = (error_in(weight, matrix_of(rounded), metric) for rounded in ways)
    assert (own <= nearest * (1 + 1e-12)).all()


def test_gptq_takes_away_a_third_of_the_error_of_a_layers_outputs():
    ratios = []
    for seed in range(20):
        x, weight = correlated(seed)
        found = gptq(weight, 2 * x.T @ x, 8), nearest4(weight, 8)
        own, nearest = (((x @ (weight - matrix_of(r))) ** 2).sum() for r in found)
        ratios.append(own / nearest)
    assert np.median(ratios) < 2 / 3, ratios


def test_gptq_of_inputs_that_do_not_depend_on_each_other_rounds_to_nearest():
    _, weight = correlated(3)
    for a, b in zip(gptq(weight, np.eye(16), 8)[:2], nearest4(weight, 8)[:2]):
        assert np.array_equal(a, b)


def test_what_gptq_moves_by_leaves_no_slope():
    """After one error the inputs to come are where the metric is least: He is 0 there."""
    x, _ = correlated(5)
    metric = damped_hessian(2 * x.T @ x)
    U = _factor(metric)
    for i in range(15):
        error = U[i, i:] / U[i, i]  # of input i, 1, and of what comes after it
        slope = metric[i:, i:] @ error
        assert abs(slope[1:]).max() < 1e-9 * abs(slope[0])
        wrong = np.concatenate([error[:1], -error[1:]])
        assert abs((metric[i:, i:] @ wrong)[1:]).max() > 1e-3 * abs(slope[0])


def test_a_hessian_is_twice_the_square_of_what_a_matrix_reads():
    model = a_model()
    found = hessians(model, TOKENS, ["h.0.attn.c_attn", "h.1.mlp.c_proj"])
    record = model.record(TOKENS, TARGETS)
    for name, read in (("h.0.attn.c_attn", "h.0.ln_1"), ("h.1.mlp.c_proj", "h.1.mlp.act")):
        rows = record.value[read].reshape(-1, record.value[read].shape[-1])
        np.testing.assert_allclose(found[name], 2 * rows.T @ rows, rtol=1e-12)


def test_an_experts_hessian_is_of_the_rows_that_are_sent_to_it():
    model = a_model(FAMILIES["experts"])
    found = hessians(model, TOKENS, ["h.0.mlp.c_fc"])["h.0.mlp.c_fc"]
    rows = model.record(TOKENS, TARGETS).value["h.0.mlp.dispatch"].reshape(-1, 16)
    assert found.shape == (3, 16, 16)
    np.testing.assert_allclose(found.sum(0), 2 * rows.T @ rows, rtol=1e-12)
    assert not np.allclose(found[0], found[1])


def test_an_input_that_is_always_0_and_a_text_of_one_token_do_no_harm():
    weight = np.random.default_rng(0).standard_normal((8, 3))
    for hessian in (np.zeros((8, 8)), np.diag([1.0] + [0.0] * 7)):
        assert np.isfinite(matrix_of(gptq(weight, hessian, 4))).all()
    assert np.isfinite(a_model().quantize(4, 8, calibration=[[1]])(TOKENS)).all()
    with pytest.raises(InputError, match="gptq: the Hessian holds NaN"):
        gptq(weight, np.full((8, 8), np.nan), 4)


# A model with them is a model.


@every_family
@every_way
def test_it_is_saved_and_loaded_to_the_bit(changes, way, tmp_path):
    small = a_model(changes, "float32").quantize(**way)
    small.save(tmp_path / "small")
    again = GPT.load(tmp_path / "small")
    assert again.additions == small.additions and list(again.params) == list(small.params)
    assert again.params.flat.tobytes() == small.params.flat.tobytes()
    for name, array in small.params.integers.items():
        assert array.dtype == again.params[name].dtype and array.tobytes() == again.params[name].tobytes()
    assert np.array_equal(again(TOKENS), small(TOKENS))
    double = GPT.load(tmp_path / "small", dtype="float64")
    np.testing.assert_allclose(double(TOKENS), small(TOKENS), atol=1e-4)


def test_a_file_holds_what_the_page_says(tmp_path):
    from safetensors.numpy import load_file

    a_model(dtype="float32").quantize(bits=4, group=8, asymmetric=True).save(tmp_path / "small")
    held = load_file(tmp_path / "small" / "model.safetensors")
    stored = {
        name: (str(a.dtype), a.shape) for name, a in held.items() if name.startswith(("wte", "h.0.mlp.c_fc"))
    }
    assert stored == {
        "wte.weight_q": ("int8", (11, 16)),
        "wte.weight_scale": ("float32", (11,)),
        "h.0.mlp.c_fc.weight_q": ("uint8", (8, 64)),
        "h.0.mlp.c_fc.weight_scale": ("float32", (2, 64)),
        "h.0.mlp.c_fc.weight_zero": ("float32", (2, 64)),
        "h.0.mlp.c_fc.bias": ("float32", (64,)),
    }
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["additions"] == [
        {"kind": "quantized", "bits": 4, "group": 8, "asymmetric": True, "keep_embedding": False}
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "h.0.attn.c_attn.weight_zero|weight_scale has shape|asymmetric is True"),
        ({"group": 4}, "weight_scale has shape"),
        ({"group": 6}, "group is 6, expected a divisor"),
        ({"group": -2}, "group is -2, expected an even number"),
        ({"asymmetric": False}, "weight_zero is not expected"),
        ({"keep_embedding": True}, "wte.weight.* is (missing|not expected)"),
        ({"bits": "4"}, "bits is '4'"),
        ({"levels": 3}, "unknown field levels"),
    ],
)
def test_a_config_that_does_not_fit_its_file_is_refused(change, message, tmp_path):
    a_model(dtype="float32").quantize(bits=4, group=8, asymmetric=True).save(tmp_path / "small")
    path = tmp_path / "small" / "config.json"
    config = json.loads(path.read_text())
    config["additions"][0] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=message) as refused:
        GPT.load(tmp_path / "small")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("wte.weight_q", np.zeros((11, 16), np.uint8), "wte.weight_q has dtype U8, expected I8"),
        ("wte.weight_q", np.zeros((11, 8), np.int8), "wte.weight_q has shape"),
        ("wte.weight_scale", np.full(11, np.nan, np.float32), "wte.weight_scale holds NaN"),
        ("wte.weight_scale", np.ones(11, np.float64), "wte.weight_scale has dtype F64, expected F32"),
    ],
)
def test_a_file_with_other_arrays_is_refused(name, array, message, tmp_path):
    from safetensors.numpy import load_file, save_file

    a_model(dtype="float32").quantize().save(tmp_path / "small")
    path = tmp_path / "small" / "model.safetensors"
    save_file(load_file(path) | {name: array}, path)
    with pytest.raises(InputError, match=message):
        GPT.load(tmp_path / "small")


def test_copies_and_other_precisions_have_integers_of_their_own():
    small = a_model().quantize()
    before = small(TOKENS)
    for other in (copy.deepcopy(small), small.astype("float64"), small.extended(Head(task="reward"))):
        assert np.array_equal(other(TOKENS), before)
        other.params["h.0.attn.c_attn.weight_q"][...] = 0
        assert np.array_equal(small(TOKENS), before)
    assert small.to("reference") is small
    np.testing.assert_allclose(small.astype("longdouble")(TOKENS), before, rtol=1e-12, atol=1e-13)
    assert small.params.nbytes == small.params.flat.nbytes + sum(
        q.nbytes for q in small.params.integers.values()
    )
    assert "integers" in repr(small.params) and "weight_q" in repr(small.params)


def test_what_a_head_reads_is_a_quantized_trunk():
    """Which has no logits: the rounded unembedding is not asked for."""
    small = a_model().quantize().extended(Head(labels=("a", "b")))
    scored = small.dequantized()
    np.testing.assert_allclose(
        numgpt.tuning.predictions(small, [[1, 2, 3]]),
        numgpt.tuning.predictions(scored, [[1, 2, 3]]),
        rtol=1e-10,
    )


def test_a_kept_record_and_its_trace_show_it():
    small = a_model().quantize(bits=4, group=8)
    trace = small.record(TOKENS, TARGETS).trace()
    assert trace.steps["h.0.attn.c_attn"].op == "quantised4_linear"
    assert trace.steps["lm_head"].op == "quantised_unembedding"


# Adapters learn beside it, and nothing else.


@every_family
@every_way
def test_an_adapter_changes_nothing_at_first_and_has_exact_gradients(changes, way):
    small = a_model(changes).quantize(**way)
    adapted = small.extended(LoRA(rank=2, by_part=True))
    assert np.array_equal(adapted(TOKENS), small(TOKENS))
    rng = np.random.default_rng(0)
    for name in adapted.params:
        if name.endswith("lora_b"):
            adapted.params[name][...] = rng.standard_normal(adapted.params[name].shape)
    direction = rng.standard_normal(adapted.params.flat.size)
    _, grads = adapted.loss_and_grads(TOKENS, TARGETS)
    along = float(calculus.jvp(adapted, TOKENS, direction, targets=TARGETS))
    np.testing.assert_allclose(grads.flat @ direction, along, rtol=1e-11)
    merged = adapted.dequantized().merged()
    np.testing.assert_allclose(adapted(TOKENS), merged(TOKENS), rtol=1e-10, atol=1e-11)


def test_training_adapters_lowers_the_loss_and_moves_no_bit_of_the_base():
    adapted = a_model(dtype="float32").quantize(bits=4, group=8).extended(LoRA(rank=4))
    names = trained_names(adapted)
    assert names and all(name.endswith(("lora_a", "lora_b")) for name in names)
    optimizer = optimizer_of(adapted, Training(), names)
    held = {name: array.tobytes() for name, array in adapted.params.items() if name not in names}
    first = float(adapted.loss(TOKENS, TARGETS))
    for _ in range(60):
        _, grads = adapted.loss_and_grads(TOKENS, TARGETS, grads=names)
        optimizer.step(grads, 1e-2)
    assert float(adapted.loss(TOKENS, TARGETS)) < 0.7 * first
    assert all(adapted.params[name].tobytes() == bits for name, bits in held.items())


def test_the_model_that_a_loss_compares_with_keeps_its_integers():
    adapted = a_model().quantize().extended(LoRA(rank=2))
    adapted.params["h.0.attn.c_attn.lora_b"][...] = 1.0
    fixed = numgpt.tuning.frozen(adapted)
    logits = GPT(fixed.config, params=a_model().quantize().params, additions=(Quantized(),))(TOKENS)
    from numgpt.layers.transformer import gpt
    from numgpt.model import differentiable

    np.testing.assert_allclose(differentiable.value(fixed, gpt, (TOKENS,)), logits, rtol=1e-12, atol=1e-13)


# What it is not.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.quantize(bits=5), "bits is 5, expected 8 or 4"),
        (lambda m: m.quantize(bits=4), "group is 64, expected a divisor of the 16 inputs .*: 16 divides all"),
        (lambda m: m.quantize(bits=4, group=3), "group is 3, expected an even number"),
        (lambda m: m.quantize(clip="max"), "clip is 'max', expected one of mse, absmax"),
        (lambda m: m.quantize(asymmetric=True), "asymmetric is True, expected False with 8 bits"),
        (lambda m: m.quantize(calibration=TOKENS), "calibration is given with 8 bits, expected 4"),
        (lambda m: m.quantize(4, 8, calibration=[[99]]), "has 99 at"),
        (lambda m: m.quantize().quantize(), "quantized already, expected floats: model.dequantized"),
        (lambda m: m.extended(LoRA(rank=2)).quantize(), "has an adapter, expected none"),
        (lambda m: m.quantize().extended(LoRA(rank=2)).merged(), "merged: the model is quantized"),
        (lambda m: GPT(m.config, additions=(Quantized(),)), "expected params with them"),
        (lambda m: GPT(m.config, params=m.quantize().params), "wte.weight_scale|wte.weight"),
        (lambda m: GPT(m.config, params=m.params, additions=(Quantized(),)), "wte.weight"),
        (lambda m: m.quantize().save("nowhere", layout="hf"), "the model is quantized, .* expected floats"),
        (lambda m: m.quantize().loss_and_grads(TOKENS, TARGETS, grads=["wte.weight_q"]), "no name fits"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as refused:
        call(a_model())
    assert "\n" not in str(refused.value)


def test_a_run_that_would_move_its_scales_alone_is_refused():
    corpus = numgpt.prepare(paths=["README.md"], tokenizer="bytes")
    model = GPT(Config(**SMALL | {"vocab_size": 256}), tokenizer=corpus.tokenizer).quantize()
    with pytest.raises(InputError, match="the model is quantized, whose matrices cannot be trained"):
        Trainer(model, corpus, Training(steps=1))
    names = ["ln_f.*"]
    Trainer(model, corpus, Training(steps=1), optimizer=AdamW(model, names=names))


def test_a_matrix_that_is_rounded_says_so_where_floats_are_asked_for():
    small = a_model().quantize()
    with pytest.raises(KeyError, match="there is no 'wte.weight', which is rounded, expected floats"):
        small.params["wte.weight"]
    assert "wte.weight" not in small.params and small.params.get("wte.weight") is None


def test_groups_that_no_size_divides_are_told_to_use_8_bits():
    model = GPT(Config(**SMALL | {"n_embd": 6, "n_inner": 9}))
    with pytest.raises(InputError, match="use 8 bits"):
        model.quantize(bits=4, group=2)
    assert np.isfinite(model.quantize()(TOKENS)).all()
