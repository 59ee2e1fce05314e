"""Fused twins run only what they know: for every field of Config, a model off its default in that field alone
agrees with the reference engine, and its fused kernels are seen to run, or not to run.
"""

import dataclasses
import importlib.util

import cuda_on_cpu
import cupy_stand_in
import numpy as np
import pytest

from numgpt import GPT, Config, engine
from numgpt.architecture.fields import setting
from numgpt.engine import cuda
from numgpt.layers.known import ANY, beyond
from numgpt.layers.visibility import Visibility
from numgpt.model.generate import logits_stream

cupy = cupy_stand_in.cupy  # a fixture
with_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")
with_gcc = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
T = 12  # tokens, no more than any block_size below
# The default but for its sizes, which are small, and even enough for the twin that decodes.
BASE = {"vocab_size": 19, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 32}
TOKENS, TARGETS = np.random.default_rng(0).integers(0, 19, (2, 2, T))

# Of numbers and what may be None: a value off BASE, which each twin can take.
VALUES = {
    "vocab_size": 23,
    "block_size": 18,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 64,
    "n_inner": 96,
    "dropout": 0.3,
    "layer_norm_epsilon": 0.01,
    "rotary_base": 100.0,
    "rotary_dim": 4,
    "rotary_scaling": {"kind": "linear", "factor": 2},
    "n_kv_head": 1,
    "head_dim": 32,
    "window": 5,
    "biases": "qkv mlp",
    "softcap": 2.0,
    "attn_scale": 0.3,
    "alibi_scale": 0.5,
    "embed_scale": 3.0,
    "residual_scale": 0.5,
    "logit_scale": 0.5,
    "final_softcap": 2.0,
    "n_expert": 3,
    "n_expert_active": 1,
    "shared_inner": 24,
    "layers": ({"window": 5},),
}
# A field → what a model has that reads it.
READ_BY = {
    **{name: {"positions": "rotary"} for name in ("rotary_base", "rotary_dim", "rotary_scaling")},
    **{name: {"n_expert": 3} for name in ("n_expert_active", "router", "shared_inner")},
    "alibi_scale": {"positions": "alibi"},
}


MISSING = "no value in VALUES"


def values_of(field):
    """Values of a field off its default: all other choices, the other truth value, or what VALUES has."""
    if field.metadata["choices"]:
        return [choice for choice in field.metadata["choices"] if choice != field.default]
    if isinstance(field.default, bool):
        return [not field.default]
    return [VALUES.get(field.name, MISSING)]


ROWS = [(name, value) for name, field in FIELDS.items() for value in values_of(field)]
every_field = pytest.mark.parametrize(("name", "value"), ROWS, ids=[f"{n}={v}" for n, v in ROWS])
# Fields that came late and of which the blocks take all values.
BLOCK_KNOWS = (
    *("n_kv_head", "head_dim", "window", "biases", "attn_scale", "layers", "rotary_base", "rotary_dim"),
    *("rotary_scaling", "embed_scale", "logit_scale", "final_softcap"),
)
# What the twins take, of fields with values that they decline; a choice that is added is declined until then.
BLOCK_TAKES = {
    "activation": {"gelu", "gelu_tanh", "swiglu"},
    "norm": {"layernorm", "rmsnorm"},
    "norm_position": {"pre", "parallel", "parallel2"},
    "positions": {"learned", "sinusoidal", "rotary", "none"},
    "embed_norm": {True},
    **{name: [VALUES[name]] for name in BLOCK_KNOWS},
}
FEED_FORWARD_TAKES = {"activation": {"gelu", "gelu_tanh"}, "bias": {True}}


def is_taken(takes, name, value):
    """Whether a twin takes a value; of fields that came late, only what its table has."""
    return value in takes.get(name, () if FIELDS[name].metadata["late"] else (value,))


def changed(name, value):
    """BASE with another value of one field."""
    assert value != MISSING, f"{name} is a new field of Config: give VALUES a value off its default"
    return Config(**BASE | READ_BY.get(name, {}) | {name: value})


def model_of(config):
    """A model in float64 whose parameters are all random: with a norm's weight of 1, much would not show."""
    model = GPT(config, 0, "float64")
    flat = model.params.flat
    flat += engine.beside(0.3 * np.random.default_rng(1).standard_normal(flat.shape), flat)
    return model


def trained(config, step=0, seen=None):
    """(loss, gradients) of a step on the engine in use, in the host's memory."""
    loss, grads = model_of(config).loss_and_grads(TOKENS, TARGETS, step=step, visibility=seen)
    return np.array(engine.home(loss)), engine.home(grads.flat)


def decoded(config):
    """The logits of the last tokens, each given the cache of those before."""
    stream = logits_stream(model_of(config), TOKENS[:, : T - 3])
    logits = [next(stream)]
    for t in range(T - 3, T):
        logits.append(stream.send(TOKENS[:, t]))
    return logits


def assert_agree(found, expected):
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(engine.home(f), e, rtol=0, atol=1e-12 * abs(e).max())


def on_reference(function, *args, **options):
    before = engine.current()
    engine.use("reference")
    try:
        return function(*args, **options)
    finally:
        engine.use(before)


@pytest.fixture
def launched(monkeypatch):
    """The names of the fused blocks' kernels that were launched, on the numba engine and however few rows."""
    from numgpt.layers import batch_decoding_numba, decoding_numba, transformer_numba

    names = []

    def watch(module):
        launch = module.launch

        def watched(kernel, *args):
            names.append(kernel.__name__.rpartition(".")[2])
            launch(kernel, *args)

        monkeypatch.setattr(module, "launch", watched)

    before = engine.current()
    engine.use("numba")
    monkeypatch.setattr(transformer_numba, "SMALLEST", 0)
    watch(transformer_numba)
    watch(decoding_numba)
    watch(batch_decoding_numba)
    yield names
    engine.use(before)


def test_every_field_has_a_value_off_its_default():
    for name, value in ROWS:
        assert getattr(changed(name, value), name) not in (
            getattr(Config(**BASE), name),
            FIELDS[name].default,
        )


@with_numba
@every_field
@pytest.mark.parametrize("step", [None, 0])
def test_a_fused_block_agrees_with_the_reference_or_declines(launched, name, value, step):
    config = changed(name, value)
    assert_agree(trained(config, step), on_reference(trained, config, step))
    drops = step is not None and config.dropout > 0
    is_fused = is_taken(BLOCK_TAKES, name, value) and not drops
    kernels = ["block_forward"] * config.n_layer + ["block_backward"] * config.n_layer
    assert launched == (kernels if is_fused else [])


SEEN = {
    "packed": Visibility.packed([[5, 4, 3], [1, 11]]),
    "padded": Visibility.padded([12, 7], T),
    "a prefix": Visibility.prefix([4, 9], T),
    "positions alone": Visibility(positions=np.arange(T)[::-1]),
}


@with_numba
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("form", [{}, {"positions": "rotary"}, {"positions": "rotary", "window": 4}], ids=str)
def test_a_fused_block_sees_what_the_batch_says(launched, form, seen):
    config = Config(**BASE | form)
    assert_agree(trained(config, seen=SEEN[seen]), on_reference(trained, config, seen=SEEN[seen]))
    assert launched == ["block_forward", "block_backward"]


@with_numba
@every_field
def test_fused_decoding_agrees_with_the_reference_or_declines(launched, name, value):
    config = changed(name, value)
    assert_agree(decoded(config), on_reference(decoded, config))
    kernels = ["block_of_rows"] * config.n_layer + ["block"] * 3 * config.n_layer
    assert launched == (kernels if is_taken(BLOCK_TAKES, name, value) else [])


MANY = np.random.default_rng(1).integers(0, 19, (11, T))
LENGTHS = np.arange(11) % 5 + 3


@pytest.fixture
def set_threads():
    """jit.set_threads; afterwards there are as many as before."""
    from numgpt.engine import jit

    before = jit.threads()
    yield jit.set_threads
    jit.set_threads(before)


def decoded_in_rows(config, lengths):
    """As decoded, of many rows, of one length or of several."""
    stream = logits_stream(model_of(config), MANY[:, : T - 3], lengths=lengths)
    logits = [next(stream)]
    for t in range(T - 3, T):
        logits.append(stream.send(MANY[:, t]))
    return logits


@with_numba
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["alike", "padded"])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"positions": "rotary", "n_kv_head": 1, "window": 4},
        {"positions": "rotary", "norm_position": "parallel", "bias": False},
    ],
    ids=str,
)
def test_many_rows_are_decoded_in_one_piece_whatever_their_lengths(launched, set_threads, form, lengths):
    config = Config(**BASE | {"n_embd": 36} | form)
    found = decoded_in_rows(config, lengths)
    assert launched == ["block_of_rows"] * 4
    assert_agree(found, on_reference(decoded_in_rows, config, lengths))
    set_threads(1)
    for one, other in zip(decoded_in_rows(config, lengths), found, strict=True):
        np.testing.assert_array_equal(one, other)


@with_numba
def test_many_rows_are_left_to_the_ops_where_a_block_is_larger_than_a_cache(launched, monkeypatch):
    from numgpt.layers import batch_decoding_numba

    monkeypatch.setattr(batch_decoding_numba, "MOST_BYTES", 1 << 10)
    config = Config(**BASE)
    assert_agree(decoded_in_rows(config, None), on_reference(decoded_in_rows, config, None))
    assert launched == []


@pytest.fixture
def launched_on_gpu(cupy, monkeypatch):
    """The names of the kernels that were launched over the stand-in for CuPy."""
    names, kernel = [], cuda.kernel

    def watched(source, name, dtype):
        names.append(name)
        return kernel(source, name, dtype)

    monkeypatch.setattr(cuda, "kernel", watched)
    return names


@with_gcc
@every_field
@pytest.mark.parametrize("step", [None, 0])
def test_a_fused_feed_forward_agrees_with_the_reference_or_declines(launched_on_gpu, name, value, step):
    config = changed(name, value)
    found = trained(config, step)
    assert_agree(found, on_reference(trained, config, step))
    drops = step is not None and config.dropout > 0
    is_fused = is_taken(FEED_FORWARD_TAKES, name, value) and not drops
    for kernel in ("bias_gelu", "bias_gelu_gradient"):
        assert launched_on_gpu.count(kernel) == (config.n_layer if is_fused else 0)


@dataclasses.dataclass(frozen=True)
class Wider(Config):
    """A Config with a field that no twin has heard of, and that changes nothing in the reference."""

    reach: int | None = setting(None, "how far a position sees")


@with_numba
def test_a_fused_block_declines_a_field_that_it_does_not_know(launched):
    for config, kernels in (
        (Wider(**BASE), ["block_forward", "block_backward", "block_of_rows", *["block"] * 3]),
        (Wider(**BASE, reach=5), []),
    ):
        launched.clear()
        trained(config)
        decoded(config)
        assert launched == kernels


@with_gcc
def test_a_fused_feed_forward_declines_a_field_that_it_does_not_know(launched_on_gpu):
    for config, is_fused in ((Wider(**BASE), True), (Wider(**BASE, reach=5), False)):
        launched_on_gpu.clear()
        trained(config)
        assert ("bias_gelu" in launched_on_gpu) == is_fused


def test_the_first_field_beyond_is_named():
    config = Wider(**BASE, activation="relu", reach=5)
    known = dict.fromkeys(BASE, ANY)
    assert beyond(config, known) == "activation"
    assert beyond(config, known | {"activation": ("gelu_tanh", "gelu")}) == "activation"
    assert beyond(config, known | {"activation": ("relu",)}) == "reach"
    assert beyond(config, known | {"activation": ANY, "reach": (None, 5)}) is None
    assert beyond(Config(), {}) is None


def tables():
    """The fields that each twin knows."""
    from numgpt.layers import transformer_cupy

    yield transformer_cupy.KNOWN
    if importlib.util.find_spec("numba"):
        from numgpt.layers import block_numba

        yield block_numba.KNOWN


def test_what_a_twin_knows_are_fields_of_config_and_their_choices():
    for known in tables():
        for name, values in known.items():
            choices = FIELDS[name].metadata["choices"] or (False, True)
            assert values == ANY or set(values) <= set(choices), name
