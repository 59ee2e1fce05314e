"""The cupy engine without a GPU: over a stand-in that refuses what CuPy refuses, the specification gives the
bits that it gives in NumPy.
"""

from string import ascii_uppercase

import cupy_stand_in
import numpy as np
import pytest
from cupy_stand_in import cupy, waits  # noqa: F401 (a fixture)

from numgpt import GPT, AdamW, Config, InputError, Record, calculus, engine, ops
from numgpt.layers import transformer_cupy
from numgpt.model.generate import logits_stream
from numgpt.proofs.subjects import SMALL, VARIANTS, op_subjects

TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, 2, 5))
TARGETS[0, 0] = -1
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


@pytest.fixture
def specification(cupy):
    """The specification runs, also on arrays of the GPU: no twin stands between it and the bits of NumPy."""
    engine.use("reference")
    return cupy


def there(x):
    return cupy_stand_in.asarray(x) if isinstance(x, np.ndarray | np.generic) else x


def same_bits(found, expected):
    found = engine.home(found)
    assert found.dtype == expected.dtype and np.shape(found) == np.shape(expected)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
def test_every_op_gives_on_the_gpus_arrays_the_bits_that_it_gives_on_numpys(specification, op, dtype):
    rng = np.random.default_rng(0)
    for sizes in (None, dict.fromkeys(ascii_uppercase, 1)):
        for subject in op_subjects(op, 0, sizes):
            arrays = [a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in subject.arrays]
            expected, kept = op.forward(*arrays, **subject.options)
            dy = (rng.standard_normal(np.shape(expected)) * 1.0).astype(dtype)
            moved, options = [there(a) for a in arrays], {k: there(v) for k, v in subject.options.items()}
            op.check(moved, options)
            y, saved = op.forward(*moved, **options)
            assert engine.on_gpu(y)
            same_bits(y, expected)
            for found, grad in zip(op.backward(there(dy), saved), op.backward(dy[()], kept), strict=True):
                assert (found is None) == (grad is None)
                if grad is not None:
                    assert engine.on_gpu(found)
                    same_bits(found, grad)


@every_variant
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_steps_give_the_bits_of_numpy_on_the_specification(specification, changes, dtype):
    model = GPT(Config(**SMALL | changes), 0, dtype)
    device = model.to("cupy")
    ours, theirs = AdamW(device, clip=0.1), AdamW(model, clip=0.1)
    for step in range(3):
        loss, grads = device.loss_and_grads(TOKENS, TARGETS, step=step)
        expected, wanted = model.loss_and_grads(TOKENS, TARGETS, step=step)
        same_bits(loss, expected)
        same_bits(grads.flat, wanted.flat)
        assert float(ours.step(grads, 1e-2)) == theirs.step(wanted, 1e-2)
        same_bits(device.params.flat, model.params.flat)


@pytest.mark.parametrize(
    "changes", [{}, {"dropout": 0.3}, {"activation": "gelu"}], ids=["GPT-2", "dropout", "gelu"]
)
@pytest.mark.parametrize("name", ["reference", "cupy"])
def test_a_training_step_never_waits_for_the_gpu(cupy, changes, name):
    engine.use(name)
    model = GPT(Config(**SMALL | changes)).to("cupy")
    optimizer = AdamW(model)
    waits.clear()
    for step in range(2):
        _, grads = model.loss_and_grads(TOKENS, TARGETS, step=step)
        optimizer.step(grads, 1e-3, optimizer.norm(grads))
    assert waits == []


def test_a_step_that_looks_at_its_loss_is_found_out(cupy):
    loss = GPT(Config(**SMALL)).to("cupy").loss(TOKENS, TARGETS)
    waits.clear()
    float(loss)
    assert waits == ["__float__"]
    assert loss > 0 and waits[1:] == ["__bool__"]


def test_twins_are_chosen_by_where_an_array_lies(cupy, monkeypatch):
    monkeypatch.setattr(engine.choice, "_twin", lambda f: "numba")
    monkeypatch.setattr(engine.choice, "_gpu_twin", lambda f: "cupy")
    x = np.ones(3, "float32")
    for name, host, gpu in (
        ("cupy", ops.gelu.forward, "cupy"),
        ("reference", ops.gelu.forward, ops.gelu.forward),
    ):
        engine.use(name)
        assert engine.forward(ops.gelu, (x,)) is host and engine.forward(ops.gelu, (there(x),)) is gpu
        assert engine.forward(ops.gelu, (there(x.astype("complex128")),)) is ops.gelu.forward
    monkeypatch.setattr(engine.choice, "_engine", "numba")
    assert engine.forward(ops.gelu, (x,)) == "numba" and engine.forward(ops.gelu, (there(x),)) == "cupy"


def test_a_model_moves_to_the_gpu_and_back_and_stays_what_it_was(cupy):
    engine.use("reference")
    model = GPT(Config(**SMALL), 3)
    device = model.to("cupy")
    assert engine.on_gpu(device.params.flat) and all(engine.on_gpu(a) for a in device.params.values())
    assert device.to("cupy") is device and model.to("numba") is model and engine.current() == "reference"
    same_bits(device.to("reference").params.flat, model.params.flat)
    same_bits(device.astype("complex128").params.flat, model.params.flat.astype("complex128"))
    device.params["wte.weight"] = np.ones((7, 6), "float32")  # an array of the host is copied over
    assert (device.to("numba").params["wte.weight"] == 1).all() and not (
        model.params["wte.weight"] == 1
    ).any()
    for wrong, message in (
        (lambda: model.astype("longdouble").to("cupy"), "has no place on the GPU"),
        (lambda: device.astype("longdouble"), "the GPU has no"),
        (lambda: model.to("gpu"), "'gpu' is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()


def test_a_new_model_starts_at_the_same_weights_and_one_in_long_double_stays_at_home(cupy):
    device = GPT(Config(**SMALL), 1)
    same_bits(device.params.flat, GPT(Config(**SMALL), 1).to("reference").params.flat)
    assert engine.on_gpu(device.params.flat) and isinstance(
        GPT(Config(**SMALL), 1, "longdouble").params.flat, np.ndarray
    )
    engine.use("reference")
    same_bits(device.params.flat, GPT(Config(**SMALL), 1).params.flat)


@every_variant
def test_decoding_with_a_cache_gives_the_bits_and_the_text_of_numpy(specification, changes):
    model = GPT(Config(**SMALL | changes), 1)
    device = model.to("cupy")
    assert np.array_equal(
        device.generate(TOKENS[:, :2], 12, seed=1), model.generate(TOKENS[:, :2], 12, seed=1)
    )
    steps, wanted = logits_stream(device, TOKENS[:, :2]), logits_stream(model, TOKENS[:, :2])
    found, expected = next(steps), next(wanted)
    for _ in range(8):
        same_bits(found, expected)
        ids = expected.argmax(-1)
        found, expected = steps.send(ids), wanted.send(ids)


@pytest.mark.parametrize(
    "change", [lambda m: m.quantize(), lambda m: m.pruned(0.5)], ids=["8 bits", "pruned"]
)
def test_rounded_and_masked_models_decode_as_in_numpy(specification, change):
    model = change(GPT(Config(**SMALL), 1))
    device = model.to("cupy")
    assert np.array_equal(device.generate(TOKENS[:, :2], 6, seed=1), model.generate(TOKENS[:, :2], 6, seed=1))


def test_the_feed_forward_in_one_piece_is_for_plain_matrices_alone(cupy):
    """Records that decode let twins see rounded matrices; this twin knows none."""
    config = Config(**SMALL | {"bias": True})
    x = there(np.zeros((1, 2, config.n_embd), "float32"))
    for model, suits in ((GPT(config, 1), True), (GPT(config, 1).quantize(), False)):
        record = Record(model.to("cupy").params, config)
        assert transformer_cupy.suits(record / "h.0" / "mlp", x) == suits


def test_ids_out_of_range_are_refused_before_they_wrap_around(cupy):
    model, bad = GPT(Config(**SMALL)), TOKENS + 7
    weight = there(np.arange(14.0).reshape(7, 2))
    assert ops.embedding.forward(there(np.array([8])), weight)[0].get().tolist() == [
        [2, 3]
    ]  # what CuPy does with row 8 of 7
    for call in (model, lambda t: model.loss(TOKENS, t), lambda t: model.generate(t, 1)):
        with pytest.raises(InputError, match=r"has \d+ at \(0, 0\), expected"):
            call(bad)
    with pytest.raises(InputError, match=r"embedding: ids has 8 at \(0,\), expected 0 to 6"):
        ops.embedding.check((there(np.array([8])), weight), {})
    with pytest.raises(InputError, match="tokens: lie on the GPU, expected them in the host's memory"):
        model(there(TOKENS))


def test_arrays_in_two_places_are_named(cupy):
    with pytest.raises(
        InputError, match="linear: x on the GPU, weight in the host memory, expected all in one place"
    ):
        ops.linear.check((there(np.ones((2, 3))), np.ones((3, 2)), None), {})
    with pytest.raises(
        InputError,
        match="edit: 'h.0.mlp.act' returned an array in the host's memory, expected one on the GPU",
    ):
        GPT(Config(**SMALL)).record(TOKENS, edit={"h.0.mlp.act": lambda a: np.zeros(a.shape)})


def test_what_is_kept_edited_and_differentiated_is_that_of_numpy(specification):
    model = GPT(Config(**SMALL), 1, "float64")
    device, options = (
        model.to("cupy"),
        {"edit": {"h.0.mlp.act": lambda a: 0.5 * a * a}, "edit_grad": {"h.0.attn.heads": lambda g: g / 2}},
    )
    found, expected = device.record(TOKENS, TARGETS, **options), model.record(TOKENS, TARGETS, **options)
    for ours, theirs in ((found.value, expected.value), (found.grad, expected.grad)):
        assert list(ours) == list(theirs)
        for name in theirs:
            same_bits(ours[name], np.asarray(theirs[name]))
    assert found.saved_bytes() == expected.saved_bytes() > 0
    v = np.random.default_rng(1).standard_normal(model.n_params)
    for name in ("hvp", "gauss_newton", "empirical_fisher"):
        same_bits(
            getattr(calculus, name)(device, TOKENS, TARGETS, v).flat,
            getattr(calculus, name)(model, TOKENS, TARGETS, v).flat,
        )
    same_bits(calculus.jvp(device, TOKENS, v), calculus.jvp(model, TOKENS, v))
