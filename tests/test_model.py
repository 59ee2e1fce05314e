"""The layers and the whole model under the laws, and the public face of a GPT."""

import dataclasses

import numpy as np
import pytest
import shares
from hypothesis import assume, example
from hypothesis import strategies as st

import numgpt
from numgpt import GPT, Config, InputError, gradcheck
from numgpt.architecture.by_layer import IN_LAYERS
from numgpt.gradcheck.finding import TRANSPOSE
from numgpt.layers.pickers import logits_name
from numgpt.ops.norms import NORMS
from numgpt.ops.positions import POSITIONS
from numgpt.proofs.subjects import SMALL, VARIANTS, block_layers, layer_subject, model_subject, subjects

sizes = st.fixed_dictionaries(
    {
        "n_head": st.integers(1, 3),
        "vocab_size": st.integers(1, 9),
        "n_layer": st.integers(0, 3),
        "n_inner": st.none() | st.integers(1, 7),
    }
)
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


def hold(subject):
    """Hold a model to the laws; AssertionError with the finding that breaks one.

    At a target of probability p the loss has the gradient p − 1. The rounding of p, ε, is ε/(1 − p) of that
    difference, and every gradient of the model is linear in it. So the transpose is held to 1e-13 of the
    terms before the difference is taken. Those are the terms that the law compares over 1 − p, in the mean of
    the targets that count.
    """
    _, (record, _) = subject.forward(*subject.arrays)
    logits, targets = record.value[logits_name(record.config)], subject.arrays[1]
    others = np.exp(logits - logits.max(-1, keepdims=True))
    total = others.sum(-1)
    np.put_along_axis(others, np.maximum(targets, 0)[..., None], 0, -1)
    left = (others.sum(-1) / total)[targets >= 0].mean()
    for finding in subject.findings():
        residual = finding.residual * left if finding.law == TRANSPOSE else finding.residual
        assert residual <= finding.limit, f"{finding}. {finding.detail}"


def without_layers(values):
    """Settings without what layers alone read, which a model that has none refuses."""
    by_layer = {f.name for f in dataclasses.fields(Config) if f.metadata.get("by_layer")}
    added = values.get("positions") in set(POSITIONS) - set(IN_LAYERS)
    kept = {"n_head", "norm", "layer_norm_epsilon"} | ({"positions"} if added else set())
    refused = by_layer - kept | {"layers", "residual_scale"}
    return {name: value for name, value in values.items() if name not in refused}


@every_variant
@shares.drawn(
    few=4,
    many=15,
    drawn=sizes,
    width=st.integers(1, 4),
    shape=st.sampled_from([(5,), (1, 1), (2, 4), (3, 1)]),
    seed=st.integers(0, 2**32 - 1),
)
@example(
    drawn={"n_head": 3, "vocab_size": 3, "n_layer": 0, "n_inner": None}, width=4, shape=(1, 1), seed=553
)  # p is 1 − 2e-5 without biases, so its gradients have five digits fewer
def test_every_model_variant_keeps_the_laws(changes, drawn, width, shape, seed):
    # At two channels the three terms of LayerNorm's dx cancel to eps of themselves, so its last digits are
    # rounding: the op alone is held to the law there, whole models are not.
    assume(drawn["n_head"] * width != 2)
    # Other norms say themselves from how many channels on there is more than rounding.
    assume(drawn["n_head"] * width >= NORMS[changes.get("norm", "layernorm")].at_least.get("C", 1))
    if drawn["n_layer"] == 0:
        changes, drawn = (without_layers(values) for values in (changes, drawn))
    config = Config(
        **SMALL
        | drawn
        | {"n_embd": drawn["n_head"] * width}
        | {k: v for k, v in changes.items() if k not in ("n_head", "n_inner")}
    )
    hold(model_subject("model", config, seed, shape))


@every_variant
@pytest.mark.parametrize("layer", ["attention", "ffn", "block"])
@shares.drawn(
    few=4,
    many=15,
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(5,), (1, 1), (2, 4), (3, 1)]),
)
def test_every_layer_keeps_the_laws(changes, layer, seed, shape):
    config = Config(**SMALL | changes)
    (scoped,) = (scoped for scoped in block_layers(config) if scoped.name == layer)
    subject = layer_subject(layer, scoped, config, seed, shape)
    gradcheck.check(subject.forward, subject.backward, *subject.arrays)


def test_the_check_of_the_command_line_sees_every_op_layer_and_variant():
    names = [s.name for s in subjects()]
    assert len(set(names)) == len(names)
    assert all(any(n == op or n.startswith(f"{op} (") for n in names) for op in numgpt.ops.ALL)
    assert all(f"model {v}" in names and f"block of {v}" in names for v in VARIANTS)


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "wte.weight", "h.1.ln_2.bias", "wpe.weight"])
def test_a_planted_error_of_1e_9_in_one_parameter_of_the_model_is_rejected(name):
    subject = model_subject("model", Config(**SMALL), 0)
    names = list(numgpt.architecture.parameters.shapes(Config(**SMALL)))

    def planted(dy, saved):
        grads = list(subject.backward(dy, saved))
        grads[2 + names.index(name)] = grads[2 + names.index(name)] * (1 + 1e-9)
        return grads

    law = gradcheck.findings(subject.forward, planted, *subject.arrays, laws=TRANSPOSE)
    assert [finding.holds for finding in law] == [False]


@pytest.fixture
def model():
    return GPT(Config(**SMALL), seed=0, dtype="float64")


TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, 2, 5))


def test_a_model_maps_tokens_to_logits(model):
    assert model(TOKENS).shape == (2, 5, 7)
    assert model(TOKENS[0]).shape == (5, 7)
    assert model(TOKENS.tolist()).shape == (2, 5, 7)


@pytest.mark.parametrize("dtype", ["float32", "float64", "longdouble", "complex128"])
def test_logits_loss_and_gradients_have_the_models_dtype(dtype):
    model = GPT(Config(**SMALL), dtype=dtype)
    loss, grads = model.loss_and_grads(TOKENS, TARGETS)
    assert model(TOKENS).dtype == loss.dtype == grads.flat.dtype == np.dtype(dtype)


def test_all_dtypes_start_at_the_same_point(model):
    for dtype in ("float32", "longdouble", "complex128"):
        assert np.array_equal(GPT(model.config, 0, dtype).params.flat, model.params.flat.astype(dtype))


def test_gradients_are_views_of_one_flat_buffer_and_new_at_each_call(model):
    _, grads = model.loss_and_grads(TOKENS, TARGETS)
    _, again = model.loss_and_grads(TOKENS, TARGETS)
    assert list(grads) == list(model.params)
    assert all(np.shares_memory(g, grads.flat) for g in grads.values())
    assert sum(g.size for g in grads.values()) == grads.flat.size
    assert not np.shares_memory(grads.flat, again.flat) and np.array_equal(grads.flat, again.flat)


def test_parameters_are_writable_views(model):
    before = model(TOKENS)
    model.params["wte.weight"] += 1.0
    model.params["ln_f.bias"] = np.full(6, 2.0)
    model.params["h.0.ln_1.weight"][0] = 3.0
    assert model.params.flat.max() == 3.0
    assert not np.array_equal(model(TOKENS), before)
    with pytest.raises(InputError, match=r"ln_f.bias was given shape \(3,\), expected \(6,\)"):
        model.params["ln_f.bias"] = np.zeros(3)


def test_a_parameter_that_nothing_used_has_gradient_zero(model):
    _, grads = model.loss_and_grads(TOKENS[:, :2], TARGETS[:, :2], out=model.params.astype("float64"))
    assert (grads["wpe.weight"][2:] == 0).all() and (grads["wpe.weight"][:2] != 0).any()


def test_dropout_acts_only_when_a_step_is_given():
    model = GPT(Config(**SMALL | {"dropout": 0.5}), dtype="float64")
    plain = GPT(Config(**SMALL), dtype="float64")
    assert np.array_equal(model(TOKENS), plain(TOKENS))
    assert model.loss_and_grads(TOKENS, TARGETS)[0] == plain.loss_and_grads(TOKENS, TARGETS)[0]
    first, second = (model.loss_and_grads(TOKENS, TARGETS, step=s)[0] for s in (0, 1))
    assert first != second
    assert model.loss_and_grads(TOKENS, TARGETS, step=0)[0] == first


def test_one_batch_is_learnt_to_a_loss_below_a_hundredth():
    model = GPT(Config(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=32))
    tokens, targets = np.random.default_rng(0).integers(0, 11, (2, 4, 8))
    optimizer = numgpt.AdamW(model, weight_decay=0.0)
    for _ in range(150):
        loss, grads = model.loss_and_grads(tokens, targets)
        optimizer.step(grads, lr=3e-3)
    assert loss < 0.01


def test_float32_gradients_err_by_rounding_only(model):
    """Against float64, relative to the largest entry: some hundred roundings of 6e-8 in a row."""
    loss, grads = model.loss_and_grads(TOKENS, TARGETS)
    loss32, grads32 = model.astype("float32").loss_and_grads(TOKENS, TARGETS)
    assert abs(loss32 - loss) < 1e-6
    assert abs(grads32.flat - grads.flat).max() < 1e-5 * abs(grads.flat).max()


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([[0, 7]], "tokens has 7 at (0, 1), expected 0 to 6"),
        ([[-1]], "tokens has -1 at (0, 0), expected 0 to 6"),
        ([[0.0, 1.0]], "tokens has dtype float64, expected integers"),
        ([["a"]], "tokens has dtype <U1, expected integers"),
        ([[True]], "tokens has dtype bool, expected integers"),
        ([[0] * 6], "tokens: 6 positions, expected at most block_size 5"),
        (np.zeros((2, 0), int), "tokens: have shape (2, 0), expected (B, T) with at least one token"),
        (3, "tokens: have shape (), expected (B, T)"),
        ([[1, 2], [3]], "tokens: rows differ in length"),
    ],
)
def test_tokens_that_cannot_be_used_are_named(model, tokens, message):
    with pytest.raises(InputError) as error:
        model(tokens)
    assert message in str(error.value)


def test_targets_that_cannot_be_used_are_named(model):
    with pytest.raises(InputError, match=r"targets: have shape \(2, 4\), expected \(2, 5\) as the tokens"):
        model.loss_and_grads(TOKENS, TARGETS[:, :4])
    with pytest.raises(InputError, match="targets has 7 at"):
        model.loss_and_grads(TOKENS, TARGETS * 0 + 7)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"n_head": 4},
            "n_embd 6 is not divisible by n_head 4, expected a multiple of it: choose n_head such as 2, 3, 6",
        ),
        ({"n_embd": 0}, "n_embd is 0, expected 1 to 16,777,216"),
        ({"dropout": 1.0}, "dropout is 1.0, expected at least 0 and less than 1"),
        (
            {"activation": "swish"},
            "activation is 'swish', expected one of gelu, gelu_tanh,",
        ),
        ({"n_layer": 1.5}, "n_layer is 1.5, expected an integer"),
        ({"bias": 1}, "bias is 1, expected True or False"),
        ({"dropout": float("nan")}, "dropout is nan, expected a finite number"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon is inf, expected a finite number"),
        ({"n_embd": 10**13}, "n_embd is 10000000000000, expected 1 to"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(changes, message):
    with pytest.raises(InputError) as error:
        Config(**SMALL | changes)
    assert message in str(error.value)


def test_numpys_numbers_are_as_good_as_pythons_and_leak_no_dtype(model):
    config = Config(
        **{k: np.int64(v) for k, v in SMALL.items()},
        layer_norm_epsilon=np.float64(1e-5),
        dropout=np.float64(0.1),
    )
    twin = GPT(config, seed=np.int64(0))
    assert np.array_equal(twin.params.flat, GPT(config, seed=0).params.flat)
    loss, grads = twin.loss_and_grads(TOKENS, TARGETS, step=np.int64(1), count=(TARGETS >= 0).sum())
    assert loss.dtype == grads.flat.dtype == twin(TOKENS).dtype == np.float32
    assert loss == twin.loss_and_grads(TOKENS, TARGETS, step=1)[0]
    assert np.array_equal(
        model.generate(TOKENS.astype(np.uint64), 9, seed=np.int32(3)), model.generate(TOKENS, 9, seed=3)
    )


def test_an_unknown_dtype_engine_or_preset_is_named():
    with pytest.raises(InputError, match="dtype int8 is unknown, expected one of float32"):
        GPT(Config(**SMALL), dtype="int8")
    with pytest.raises(InputError, match="engine: 'tpu' is unknown, expected one of reference"):
        numgpt.use("tpu")
    with pytest.raises(InputError, match="preset: 'gpt5' is unknown .*expected one of gpt-nano"):
        numgpt.preset("gpt5")
