"""Runs and commands on the cupy engine without a GPU, over a stand-in; what it lacks is said in one line."""

import os
import re
import sys

import cupy_stand_in
import numpy as np
import pytest
from cupy_stand_in import cupy  # noqa: F401 (a fixture)
from test_cupy import same_bits, specification, there  # noqa: F401 (a fixture)

from numgpt import GPT, Config, InputError, Training, engine
from numgpt.__main__ import main
from numgpt.data import corpus as data
from numgpt.proofs.subjects import SMALL
from numgpt.training.trainer import NotFinite, Trainer

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
    out = str(tmp_path / "run")
    shape = ["--n-layer=1", "--n-head=2", "--n-embd=8", "--block-size=8", "--batch-size=2", "--eval-iters=1"]
    shape += ["--tokenizer=chars"]
    train = ["train", "--engine=cupy", "--data", str(tmp_path / "text.txt"), "--out", out]
    assert main([*train, "--steps=3", "--sample-tokens=5", *shape]) == 0
    assert main([*train, "--steps=5", "--sample-tokens=0", "--resume"]) == 0
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
