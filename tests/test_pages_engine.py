"""The page's engine computes what Python computes: values, gradients, edits, and what it refuses by name.

All in float64. A number may differ by the rounding of sums in another order and by an ulp of exp and log,
which each browser computes in its own way: 1e-12 of the largest number of its array leaves room for that.
"""

import dataclasses

import numpy as np
import pytest
from browser import browser  # noqa: F401
from engine_in_browser import Engine, engine, packed  # noqa: F401

from numgpt import GPT, Config

ROUNDING = 1e-12

MODELS = {
    "GPT-2": Config(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8),
    "untied, no bias, erf, narrow": Config(
        vocab_size=9,
        block_size=7,
        n_layer=2,
        n_head=3,
        n_embd=12,
        n_inner=10,
        bias=False,
        tied=False,
        activation="gelu",
        layer_norm_epsilon=1e-3,
    ),
    "GPT-1": Config(
        vocab_size=13, block_size=5, n_layer=3, n_head=1, n_embd=6, norm_position="post", activation="relu"
    ),
}


def drawn(seed):
    """A Config that nobody chose. Of a vector of two channels a norm leaves rounding alone: 4 or more."""
    rng = np.random.default_rng(seed)
    H = int(rng.integers(1, 4))
    config = Config(
        vocab_size=int(rng.integers(2, 20)),
        block_size=int(rng.integers(2, 9)),
        n_layer=int(rng.integers(1, 4)),
        n_head=H,
        n_embd=H * int(rng.integers(4, 7)),
        n_inner=[None, 5, 17][rng.integers(3)],
        bias=bool(rng.integers(2)),
        biases=[None, None, "qkv norm", "out", ""][rng.integers(5)],
        tied=bool(rng.integers(2)),
        activation=["gelu_tanh", "gelu", "relu"][rng.integers(3)],
        norm_position=["pre", "post"][rng.integers(2)],
        layer_norm_epsilon=float(rng.choice([1e-12, 1e-5, 1e-1])),
    )
    if seed % 4:
        return config
    return dataclasses.replace(config, n_layer=0, n_inner=None, activation="gelu_tanh", biases=None)


def model_of(config, seed=0):
    """A model whose numbers are as large as those of a trained one."""
    model = GPT(config, seed=seed, dtype="float64")
    model.params.flat[...] += np.random.default_rng(seed).standard_normal(model.n_params) / 3
    return model


def batch_of(config, seed=0, shape=None):
    """Tokens and targets, of which one does not count where there are several."""
    rng = np.random.default_rng(seed)
    shape = (config.block_size - 1,) if shape is None else shape
    tokens, targets = rng.integers(0, config.vocab_size, (2, *shape))
    if targets.size > 1:
        targets.flat[-1] = -1
    return tokens, targets


def largest(array):
    """The largest size of a number, NaN left out."""
    return np.nan_to_num(abs(array), nan=0.0).max(initial=0.0)


def expect_same(theirs, ours, cancelled=0.0):
    """Raise AssertionError, with the name, unless arrays have the same names, shapes and numbers.

    cancelled: what is left of numbers that cancel, beside the largest of all arrays.
    """
    assert set(theirs) == set(ours)
    left = cancelled * max(map(largest, ours.values()))
    for name, array in ours.items():
        found = theirs[name]
        assert found.shape == array.shape, name
        assert (np.isnan(found) == np.isnan(array)).all(), name
        apart = largest(found - array)
        assert apart <= ROUNDING * largest(array) + left, f"{name}: {apart:.2e} apart"


def expect_pythons(engine, model, tokens, targets, edit=None, cancelled=0.0, **given):
    """Raise AssertionError unless the engine's run and Python's have the same values and gradients."""
    trace = model.record(tokens, targets, edit=edit).trace()
    found = engine.run(model, tokens, targets, **given)
    expect_same(found["value"], trace.value)
    expect_same(found["grad"], trace.grad, cancelled)
    return trace, found


@pytest.mark.parametrize("name", MODELS)
def test_every_value_and_gradient_is_pythons(engine, name):
    config = MODELS[name]
    trace, found = expect_pythons(engine, model_of(config), *batch_of(config))
    assert [n for n in found["value"] if n not in trace.parameters] == list(trace.steps)
    assert found["loss"] == pytest.approx(float(trace.value["loss"]), rel=ROUNDING)


@pytest.mark.parametrize("seed", range(8))
def test_a_model_that_nobody_chose_is_pythons(engine, seed):
    config = drawn(seed)
    T = config.block_size
    shape = [(T,), (2, T), (3, 1), (2, 1, T)][seed % 4]
    expect_pythons(engine, model_of(config, seed), *batch_of(config, seed, shape))


@pytest.mark.parametrize("name", MODELS)
def test_one_token_and_one_word_are_pythons(engine, name):
    one_token = MODELS[name]
    expect_pythons(engine, model_of(one_token), *batch_of(one_token, shape=(1,)))
    one_word = dataclasses.replace(one_token, vocab_size=1)
    expect_pythons(engine, model_of(one_word), [0, 0, 0], [0, 0, 0])


def test_a_shared_parameters_gradient_is_told_by_place(engine):
    config = MODELS["GPT-2"]
    trace, found = expect_pythons(engine, model_of(config), *batch_of(config))
    expect_same(found["parts"]["wte.weight"], trace.parts["wte.weight"])


def test_without_targets_there_are_values_alone(engine):
    config = MODELS["GPT-2"]
    model, (tokens, _) = model_of(config), batch_of(config)
    found = engine.run(model, tokens)
    expect_same(found["value"], model.record(tokens).trace().value)
    assert found["grad"] == {} and found["loss"] is None


@pytest.mark.parametrize("name", ["wte.weight", "h.0.attn.c_attn.weight", "h.1.ln_2.bias"])
def test_what_is_no_number_is_so_where_python_has_it(engine, name):
    model = model_of(MODELS["GPT-2"])
    model.params[name].flat[3] = np.nan
    expect_pythons(engine, model, *batch_of(model.config))


@pytest.mark.parametrize("large", [1e30, -1e160])
def test_a_vector_whose_squares_overflow_is_normalised_as_in_python(engine, large):
    model = model_of(MODELS["untied, no bias, erf, narrow"])
    model.params["wte.weight"][...] *= large
    expect_pythons(engine, model, *batch_of(model.config))


@pytest.mark.parametrize("name", MODELS)
def test_differences_of_the_engines_own_loss_are_its_gradients(engine, name):
    """Central differences with h = 6e-6, whose error is h² and ε/h: some 1e-10 of the loss."""
    config = MODELS[name]
    model, (tokens, targets) = model_of(config), batch_of(config)
    grads = engine.run(model, tokens, targets)["grad"]
    rng, h = np.random.default_rng(0), 6e-6
    for parameter in model.params:
        offsets = [int(n) for n in rng.integers(0, model.params[parameter].size, 2)]
        moves = [(n, step) for n in offsets for step in (h, -h)]
        losses = np.reshape(engine.losses(model, tokens, targets, parameter, moves), (2, 2))
        differences = (losses[:, 0] - losses[:, 1]) / (2 * h)
        assert abs(differences - grads[parameter].flat[offsets]).max() <= 1e-7, parameter


@pytest.mark.parametrize("name", MODELS)
def test_ablation_is_pythons_edit(engine, name):
    """Where keys or values are all alike, the gradients of scores cancel to some ulps."""
    model = model_of(MODELS[name])
    batch = batch_of(model.config)
    names = [[value] for value in model.record(*batch).trace().steps if value != "loss"]
    for ablated in (*names, ["h.0.attn", "h.1.mlp.act"]):
        edit = {value: lambda a: 0 * a for value in ablated}
        expect_pythons(engine, model, *batch, edit=edit, cancelled=1e-15, ablate=ablated)


@pytest.mark.parametrize("value", ["wpe", "h.0.attn.heads.probs", "h.0", "h.1.mlp.c_fc", "lm_head"])
def test_a_patch_is_pythons_edit(engine, value):
    """Another run's value whole, some entries of it, and a pair that mixes entries."""
    model = model_of(MODELS["GPT-2"])
    batch = batch_of(model.config)
    other = model.record(batch_of(model.config, seed=1)[0]).value[value]
    expect_pythons(engine, model, *batch, edit={value: lambda a: other}, patch={value: packed(other)})

    chosen = np.random.default_rng(0).random(other.shape) < 0.3
    pair = (lambda a: np.where(chosen, other, a), lambda dy: np.where(chosen, 0, dy))
    some = {"offsets": np.flatnonzero(chosen).tolist(), "values": packed(other[chosen])}
    expect_pythons(engine, model, *batch, edit={value: pair}, patch={value: some})

    backwards = (lambda a: a.ravel()[::-1].reshape(a.shape) * 2,) * 2
    doubled = {"alone": "(a) => a.map((x) => 2 * x)"}
    found = engine.run(model, batch[0], patch={value: doubled})
    expect_same(found["value"], model.record(batch[0], edit={value: lambda a: 2 * a}).trace().value)

    turned = {"pair": ["(a) => a.reverse().map((x) => 2 * x)"] * 2}
    expect_pythons(engine, model, *batch, edit={value: backwards}, patch={value: turned})


KNOWN = {"vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_inner", "bias", "biases", "tied"}
KNOWN |= {"dropout", "layer_norm_epsilon"}
UNKNOWN = {
    "activation": "swiglu",
    "norm": "rmsnorm",
    "positions": "rotary",
    "rotary_dim": 2,
    "rotary_scaling": {"kind": "linear", "factor": 4.0},
    "n_kv_head": 1,
    "head_dim": 6,
    "window": 2,
    "softcap": 30.0,
    "embed_norm": True,
    "qk_norm": "head",
    "sink": True,
    "attn_scale": 0.5,
    "embed_scale": 2.0,
    "residual_scale": 0.5,
    "logit_scale": 0.5,
    "final_softcap": 30.0,
    "layers": [{"window": 2}, {}],
    "n_expert": 4,
    "shared_inner": 5,
}
WITHOUT_EFFECT = {
    "norm_position": "both are known",
    "rotary_base": "learned positions do not turn",
    "alibi_scale": "learned positions have no slopes",
    "n_expert_active": "there are no experts",
    "router": "there are no experts",
}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Config)])
def test_a_field_is_known_or_refused_by_name(engine, field):
    if field in KNOWN or field in WITHOUT_EFFECT:
        return
    reason = engine.supports({**vars(MODELS["GPT-2"]), field: UNKNOWN[field]})
    assert reason.startswith(f'engine.field {{"field":"{field}"')


def test_a_field_of_another_time_is_refused_by_name(engine):
    config = vars(MODELS["GPT-2"])
    assert engine.supports(config) is None
    assert engine.supports({**config, "experts": None}) is None
    assert '"field":"biases"' in engine.supports({**config, "biases": "qkv head"})
    assert '"field":"experts"' in engine.supports({**config, "experts": 8})
    del (shorter := dict(config))["tied"]
    assert engine.supports(shorter) == 'engine.absent {"field":"tied"}'


@pytest.mark.parametrize(
    "refused, given",
    [
        ("engine.long", {"tokens": [0] * 9}),
        ("engine.id", {"tokens": [0, 11]}),
        ("engine.id", {"tokens": [0, -1]}),
        ("engine.id", {"tokens": [0, 0.5]}),
        ("engine.empty", {"tokens": []}),
        ("engine.empty", {"tokens": [[0, 1], [2]]}),
        ("engine.unequal", {"tokens": [0, 1], "targets": [1]}),
        ("engine.no_target", {"tokens": [0], "targets": [-1]}),
        ("engine.name", {"ablate": ["h.7.mlp"]}),
        ("engine.name", {"ablate": ["wte.weight"]}),
        ("engine.shape", {"patch": {"h.0": packed(np.zeros(99))}}),
        ("engine.shape", {"patch": {"h.0": {"offsets": [0, 1], "values": packed(np.zeros(1))}}}),
        ("engine.patch", {"patch": {"h.0": {"some": 0}}}),
        ("engine.function", {"patch": {"h.0": {"alone": "(a) => a"}}, "targets": [1, 2, 3]}),
        ("engine.parameter", {"params": {}}),
        ("engine.parameter", {"params": {"wte.weight": packed(np.zeros(3))}}),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_reason(engine, refused, given):
    asked = {"tokens": [0, 1, 2], **given}
    assert engine.refusal(model_of(MODELS["GPT-2"]), **asked).startswith(refused)


PLANTED = [
    ("g.data[i] - mean - xhat", "g.data[i] - xhat"),
    ("P.data[n] * (number - mean[Math.floor(n / T)])", "P.data[n] * number"),
    ("before ? before.map((number, n) => number + gradient[n]) : gradient", "gradient"),
    ("s + 2 * near * s", "s + near * s"),
]


@pytest.mark.parametrize("planted", PLANTED)
def test_a_wrong_engine_is_told_from_pythons(browser, planted):
    wrong = Engine(browser, planted)
    with pytest.raises(AssertionError, match="apart"):
        expect_pythons(wrong, model_of(MODELS["GPT-2"]), *batch_of(MODELS["GPT-2"]))
