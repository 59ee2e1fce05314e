"""The feed-forward's twin on a GPU, over the stand-in: the bits of the ops in fewer passes, and the laws.

It runs only where nobody looks inside.
"""

import cuda_on_cpu
import numpy as np
import pytest
from cupy_stand_in import asarray, cupy, waits  # noqa: F401 (a fixture)

from numgpt import GPT, Config, InputError, engine, gradcheck, ops
from numgpt.engine import cuda
from numgpt.layers.record import Record
from numgpt.layers.transformer import ffn
from numgpt.model.generate import logits_stream
from numgpt.ops import activations_cupy
from numgpt.ops.tiles_cupy import TILE
from numgpt.proofs.subjects import SMALL, model_subject

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
each = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_form = pytest.mark.parametrize("op", [ops.gelu, ops.gelu_tanh], ids=lambda op: op.name)
SOURCE = activations_cupy.ACTIVATIONS_SOURCE
B, T = 2, 70  # rows of three tiles
CONFIG = SMALL | {"block_size": T}
TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, B, T))


def assert_bias_gelu(op, dtype, N, F, add=False):
    """The bits of h + bias and of the op's twins.

    The bias's gradient is right within the rounding of its sum in float64 and of its own dtype.
    """
    rng = np.random.default_rng(0)
    h, da, bias, held = (rng.standard_normal(shape).astype(dtype) for shape in ((N, F), (N, F), F, F))
    x = asarray(h + bias)
    wanted = engine.forward(op, (x,))(x)[0], engine.backward(op, x)(asarray(da), (x,))[0]
    dh = engine.home(wanted[1])
    exact = dh.astype("longdouble").sum(0) + add * held
    for name in cuda_on_cpu.ORDERS:
        with cuda_on_cpu.order(name):
            place, dbias, dplace = asarray(h), asarray(held), asarray(da)
            a = activations_cupy.bias_gelu(place, asarray(bias), op is ops.gelu_tanh)
            back = activations_cupy.bias_gelu_backward(dplace, place, op is ops.gelu_tanh, dbias, add)
        for found, expected in ((place, x), (a, wanted[0]), (back, wanted[1])):
            assert found.get().tobytes() == expected.get().tobytes()
        assert back is dplace
        steps = (min(N, TILE) + -(-N // TILE) + 1) * np.finfo(float).eps
        own = (1 + add) * np.finfo(dtype).eps
        added = add * (abs(held) + abs(exact - held))
        assert (abs(dbias.get() - exact) <= steps * abs(dh).sum(0) + own * (abs(exact) + added)).all()


@each
@each_form
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("N, F", [(1, 1), (63, 37), (64, 256), (129, 300)])
def test_a_bias_and_gelu_in_one_pass_have_the_bits_of_two(cupy, op, dtype, N, F, add):
    assert_bias_gelu(op, dtype, N, F, add)


@pytest.mark.parametrize("before, after", [
    ("    h[i] = x;\n", ""),
    ("h[i] + bias[c]", "h[i] + bias[0]"),
    ("blockIdx.y * (long long)blockDim.x + threadIdx.x, i", "threadIdx.x, i"),
    ("tanh_form ? gate(x)", "!tanh_form ? gate(x)"),
    ("tanh_form ? slope_tanh", "!tanh_form ? slope_tanh"),
    ("        da[i] = d;\n", ""),
    ("first + tile < N ? first + tile : N", "N"),
    ("n < last", "n < last - 1"),
    ("sum += d;", "sum += (real)1.001 * d;"),
])  # fmt: skip
def test_a_mistake_in_these_kernels_is_found(cupy, monkeypatch, before, after):
    assert SOURCE.count(before) == 1
    monkeypatch.setattr(activations_cupy, "ACTIVATIONS_SOURCE", SOURCE.replace(before, after))
    with pytest.raises(AssertionError):
        assert_bias_gelu(ops.gelu_tanh, "float32", 129, 300)
        assert_bias_gelu(ops.gelu, "float32", 129, 300)


@pytest.fixture
def launched(cupy, monkeypatch):
    """The names of the kernels that were launched."""
    names, kernel = [], cuda.kernel
    monkeypatch.setattr(
        cuda, "kernel", lambda source, name, dtype: names.append(name) or kernel(source, name, dtype)
    )
    return names


def is_fused(launched):
    """Whether the feed-forwards since the last question ran as one piece: all of them both ways, or none."""
    names, parts = set(launched), {"bias_gelu", "bias_gelu_gradient"}
    launched.clear()
    assert names & parts in (set(), parts) and bool(names & parts) != bool(names & {"gelu", "gelu_tanh"})
    return bool(names & parts)


@each
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_step_has_the_bits_of_the_ops_but_for_the_gradient_of_the_first_bias(
    launched, dtype, activation, norm_position
):
    """And that one differs by how a sum of B T rows rounds."""
    model = GPT(Config(**CONFIG, activation=activation, norm_position=norm_position), 0, dtype)
    loss, grads = model.loss_and_grads(TOKENS, TARGETS)
    assert is_fused(launched)
    # What lies in the feed-forward alone: attention runs in one piece on both sides.
    kept = model.record(TOKENS, TARGETS, keep=["loss", "h.*.mlp.*", "*.weight", "*.bias"])
    assert not is_fused(launched)
    assert engine.home(loss).tobytes() == engine.home(kept.value["loss"]).tobytes()
    for name in grads:
        found, expected = engine.home(grads[name]), engine.home(kept.grad[name])
        if name.endswith("mlp.c_fc.bias"):
            rows = abs(engine.home(kept.grad[name.removesuffix(".bias")])).reshape(-1, found.size)
            assert (abs(found - expected) <= len(rows) * np.finfo(dtype).eps * rows.sum(0)).all()
        else:
            assert found.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_models_keep_the_laws_with_it(launched, activation, norm_position):
    config = Config(**SMALL, activation=activation, norm_position=norm_position)
    subject = model_subject("as trained", config, 0, keep=False)
    gradcheck.check(subject.forward, subject.backward, *subject.arrays)
    assert is_fused(launched)


def test_a_gradient_of_the_bias_wrong_by_one_part_in_1e9_is_rejected_and_named(launched, monkeypatch):
    """Which one it is, is asked with one parameter complex and the others not: then the ops run."""
    monkeypatch.setattr(
        activations_cupy, "ACTIVATIONS_SOURCE", SOURCE.replace("sum += d;", "sum += 1.000000001 * d;")
    )
    subject = model_subject("as trained", Config(**SMALL | {"n_layer": 1}), 0, keep=False)
    with pytest.raises(gradcheck.GradientError, match="transpose"):
        gradcheck.check(subject.forward, subject.backward, *subject.arrays)
    assert {"bias_gelu", "gelu_tanh"} <= set(launched)


def test_it_is_used_only_where_nothing_inside_is_kept_edited_or_dropped(launched):
    def trained(changes, **options):
        model = GPT(Config(**CONFIG | changes))
        model.loss_and_grads(TOKENS, TARGETS, **options)

    for changes, step, fused in (
        ({}, 0, True),
        ({"dropout": 0.3}, None, True),
        ({"dropout": 0.3}, 0, False),
        ({"bias": False}, 0, False),
    ):
        trained(changes, step=step)
        assert is_fused(launched) == fused, changes
    trained({"activation": "relu"})
    assert not {"bias_gelu", "gelu", "gelu_tanh"} & set(launched)
    launched.clear()
    params = GPT(Config(**CONFIG | {"n_layer": 1})).params
    x = asarray(np.random.default_rng(0).standard_normal((3, CONFIG["n_embd"])).astype("float32"))
    looks = (
        {"edit": {"h.0.mlp.act": lambda a: 0 * a}},
        {"edit_grad": {"h.0.mlp.c_fc": lambda d: d}},
        {"keep": True},
    )
    for options, fused in (({}, True), *((look, False) for look in looks)):
        r = Record(params, Config(**CONFIG), grads=params.like(), **options) / "h.0"
        r("mlp", ffn, x)
        r.back("mlp", x)
        assert is_fused(launched) == fused, options
    engine.use("reference")
    Record(params, Config(**CONFIG))("h.0.mlp", ffn, x)
    assert launched == []


def test_nobody_has_to_want_the_gradients_of_parameters_and_nothing_given_is_written_to(launched):
    params = GPT(Config(**CONFIG), 0, "float64").params
    x, dy = (asarray(a) for a in np.random.default_rng(0).standard_normal((2, 3, 4, CONFIG["n_embd"])))
    before = x.get().tobytes(), dy.get().tobytes(), params.flat.get().tobytes()
    found = []
    for options in ({"grads": params.like()}, {}, {"keep": True}):
        r = Record(params, Config(**CONFIG), **options) / "h.0"
        found.append((r("mlp", ffn, x).get().tobytes(), r.back("mlp", dy).get().tobytes()))
    assert len(set(found)) == 1
    assert before == (x.get().tobytes(), dy.get().tobytes(), params.flat.get().tobytes())


def test_parameters_that_do_not_fit_are_refused_before_a_kernel_reads_beside_them(cupy):
    x, rng = asarray(np.ones((3, 4))), np.random.default_rng(0)
    right = {"c_fc.weight": (4, 5), "c_fc.bias": (5,), "c_proj.weight": (5, 4), "c_proj.bias": (4,)}
    for name, shape in (
        ("c_fc.bias", (4,)),
        ("c_fc.weight", (3, 5)),
        ("c_proj.weight", (4, 4)),
        ("c_proj.bias", (5,)),
    ):
        params = {f"mlp.{n}": asarray(rng.standard_normal(s)) for n, s in (right | {name: shape}).items()}
        with pytest.raises(InputError, match="linear: .* has shape"):
            Record(params, Config(**SMALL))("mlp", ffn, x)


def test_decoding_with_it_gives_the_logits_of_the_specification_and_never_waits(launched):
    model, prompt = GPT(Config(**CONFIG), 1, "float64"), TOKENS[:, :3]
    twins = logits_stream(model, prompt)
    found, ids = next(twins), prompt
    for _ in range(4):
        engine.use("reference")
        expected = engine.home(model(ids))[:, -1]
        engine.use("cupy")
        np.testing.assert_allclose(engine.home(found), expected, rtol=0, atol=1e-12)
        new = expected.argmax(-1)
        ids = np.concatenate([ids, new[:, None]], axis=1)
        waits.clear()
        found = twins.send(new)
        assert waits == []
    assert set(launched) >= {"bias_gelu"} and not {"gelu_tanh"} & set(launched)
