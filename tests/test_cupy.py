"""The cupy engine without a GPU: over a stand-in that refuses what CuPy refuses, the specification gives the
bits that it gives in NumPy.
"""

import os
import re
import sys

import cupy_stand_in
import numpy as np
import pytest
from cupy_stand_in import cupy, waits  # noqa: F401 (a fixture)

from numgpt import GPT, AdamW, Config, InputError, Training, calculus, engine, ops
from numgpt.__main__ import main
from numgpt.data import corpus as data
from numgpt.model.generate import logits_stream
from numgpt.proofs.subjects import SMALL, VARIANTS, op_subjects
from numgpt.training.trainer import NotFinite, Trainer

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
    for sizes in (None, dict.fromkeys("CDHIOPSTV", 1)):
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


TRAINING = Training(
    steps=14, batch_size=2, accumulate=2, warmup=4, eval_interval=6, eval_iters=2, save_interval=5, seed=3
)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 4000)))
    return data.prepare([path])


def trainer(corpus, out, place, training=TRAINING):
    config = Config(
        vocab_size=corpus.tokenizer.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.2
    )
    return Trainer(GPT(config, 3, tokenizer=corpus.tokenizer).to(place), corpus, training, out)


def test_a_run_has_the_bits_and_the_log_of_numpy_and_looks_at_its_losses_now_and_then(
    specification, corpus, tmp_path
):
    for place in ("reference", "cupy"):
        trainer(corpus, tmp_path / place, place).run()
    for name in (
        "last/model.safetensors",
        "last/optimizer.safetensors",
        "last/state.json",
        "best/model.safetensors",
    ):
        assert (tmp_path / "reference" / name).read_bytes() == (tmp_path / "cupy" / name).read_bytes()
    logs = [
        re.sub(r', "tokens_per_s": \d+|, "time": "[^"]*"', "", (tmp_path / place / "log.jsonl").read_text())
        for place in ("reference", "cupy")
    ]
    assert logs[0] == logs[1] and '"step": 14' in logs[0]


def test_a_run_goes_on_from_either_side(specification, corpus, tmp_path):
    trainer(corpus, tmp_path / "through", "reference").run()
    trainer(corpus, tmp_path / "run", "cupy", Training(**vars(TRAINING) | {"steps": 5})).run()
    found = GPT.load(tmp_path / "run/last")
    assert isinstance(found.params.flat, np.ndarray)
    engine.use("cupy")
    assert engine.on_gpu(GPT.load(tmp_path / "run/last").params.flat)
    engine.use("reference")
    for place, steps in (("cupy", 9), ("reference", 14)):
        run = Trainer(
            GPT.load(tmp_path / "run/last").to(place),
            corpus,
            Training(**vars(TRAINING) | {"steps": steps}),
            tmp_path / "run",
        )
        run.resume()
        run.training = TRAINING if steps == 14 else run.training
        run.run()
        assert run.updates == steps


def test_what_is_not_finite_is_named_and_never_saved(cupy, corpus, tmp_path):
    run = trainer(corpus, tmp_path / "run", "cupy")
    run.save("last")
    before = (tmp_path / "run/last/model.safetensors").read_bytes()
    run.updates = 1
    run.model.params["h.0.mlp.c_fc.weight"][0].fill(3e38)
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            NotFinite,
            match=r"step 2: the loss is nan and .*, by step 5 the parameter wte.weight is not finite",
        ),
    ):
        run.run()
    with pytest.raises(NotFinite):
        run.save("last")
    assert (tmp_path / "run/last/model.safetensors").read_bytes() == before


def test_the_commands_run_on_the_engine_with_no_other_change(cupy, corpus, tmp_path, capsys):
    out, shape = (
        str(tmp_path / "run"),
        ["--n-layer=1", "--n-head=2", "--n-embd=8", "--block-size=8", "--batch-size=2", "--eval-iters=1"],
    )
    assert (
        main(
            [
                "train",
                "--engine=cupy",
                "--data",
                str(tmp_path / "text.txt"),
                "--out",
                out,
                "--steps=3",
                "--sample-tokens=5",
                *shape,
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "train",
                "--engine=cupy",
                "--data",
                str(tmp_path / "text.txt"),
                "--out",
                out,
                "--steps=5",
                "--sample-tokens=0",
                "--resume",
            ]
        )
        == 0
    )
    capsys.readouterr()
    printed = []
    for name in ("cupy", "reference"):
        assert (
            main(["sample", out, "--engine", name, "--max-new-tokens=20"])
            == main(["eval", out, "--engine", name])
            == 0
        )
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    for command in (
        ["check", "layernorm"],
        ["check", "GPT-1 untied"],
        ["check", "put in place", "several", "edited"],
        ["curvature", out, "--batch-size=2"],
    ):
        assert main([*command, "--engine=cupy"]) == 0
    for to in ("hf", "numgpt"):
        assert main(["convert", out, str(tmp_path / to), "--to", to, "--engine=cupy"]) == 0
    same_bits(
        GPT.load(tmp_path / "hf").params["wte.weight"], GPT.load(out).to("reference").params["wte.weight"]
    )
    assert (
        main(
            [
                "export",
                str(tmp_path / "llmc"),
                "gpt2",
                "--llmc",
                "--engine=cupy",
                "--n-layer=1",
                "--n-embd=8",
                "--n-head=2",
                "--vocab-size=30",
                "--block-size=8",
            ]
        )
        == 0
    )


def test_verify_holds_what_the_engine_computes_against_pytorch(cupy, capsys):
    pytest.importorskip("torch")
    assert main(["verify", "layernorm", "model GPT-2", "--engine=cupy"]) == 0


def fails(capsys, argv):
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    "module, message",
    [
        (
            None,
            (
                "CuPy is not installed, expected it for the cupy engine: pip install numgpt[gpu] for CUDA 12,"
                " or numgpt[gpu13] for CUDA 13"
            ),
        ),
        (cupy_stand_in.module(driver=0), "there is no NVIDIA driver"),
        (cupy_stand_in.module(devices=0), "the driver finds no GPU"),
        (
            cupy_stand_in.module(
                error=cupy_stand_in.CUDARuntimeError(
                    100, "cudaErrorNoDevice: no CUDA-capable device is detected"
                )
            ),
            "the driver finds no GPU",
        ),
        (
            cupy_stand_in.module(
                error=cupy_stand_in.CUDARuntimeError(35, "cudaErrorInsufficientDriver: too old")
            ),
            "the NVIDIA driver is too old for this CuPy",
        ),
        (
            cupy_stand_in.module(
                error=cupy_stand_in.CUDARuntimeError(3, "cudaErrorInitializationError:\n x")
            ),
            "CUDA does not start",
        ),
    ],
    ids=["no CuPy", "no driver", "no device", "none found", "old driver", "other"],
)
def test_an_engine_that_cannot_run_says_what_is_missing_in_one_line(monkeypatch, capsys, module, message):
    monkeypatch.setitem(sys.modules, "cupy", module)
    before = engine.current()
    assert message in fails(capsys, ["info", "--engine=cupy"])
    assert engine.current() == before
    with pytest.raises(InputError, match="engine: "):
        GPT(Config(**SMALL)).to("cupy")


def test_a_gpu_that_is_full_says_what_was_asked_for_and_what_is_free(cupy, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise cupy_stand_in.OutOfMemoryError(
            "Out of memory allocating 5,000 bytes (allocated so far: 0 bytes)."
        )

    arguments = ["check", "gelu", "--engine=cupy"]
    monkeypatch.setattr(engine, "here", full)
    assert (
        "on the GPU: Out of memory allocating 5,000 bytes (allocated so far: 0 bytes); 1,024 of 4,000 bytes"
        " are free" in fails_on_the_way(capsys, arguments)
    )
    monkeypatch.setattr(cupy, "asarray", full)
    with pytest.raises(
        InputError,
        match=(
            r"bytes do not fit on the GPU \(on the GPU: Out of memory allocating 5,000 bytes .*; 1,024 of"
            r" 4,000 bytes are free\)"
        ),
    ):
        GPT(Config(**SMALL))


def test_tf32_is_off_unless_a_flag_asks_for_it(cupy, capsys):
    assert os.environ["CUPY_TF32"] == "0"
    assert main(["info", "--engine=cupy", "--tf32"]) == 0 and os.environ["CUPY_TF32"] == "1"
    assert main(["info", "--engine=cupy"]) == 0 and os.environ["CUPY_TF32"] == "0"
    capsys.readouterr()
    assert "--tf32 needs --engine cupy" in fails(capsys, ["info", "--engine=reference", "--tf32"])


def fails_on_the_way(capsys, argv):
    """What a command that has begun to print says when it fails."""
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_an_array_of_the_gpu_that_is_given_to_numpy_is_one_line(cupy, monkeypatch, capsys):
    monkeypatch.setattr(engine, "here", lambda *arrays: np.asarray(there(arrays[0])))
    assert "got an array on the GPU where one in the host's memory is needed" in fails_on_the_way(
        capsys, ["check", "gelu", "--engine=cupy"]
    )
    monkeypatch.setattr(engine, "here", lambda *arrays: len(3))
    with pytest.raises(TypeError, match="has no len"):
        main(["check", "gelu", "--engine=cupy"])
