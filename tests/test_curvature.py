"""numgpt curvature prints what numgpt.calculus gives, for both dtypes, with and without a text."""

import re
import shlex

import numpy as np
import pytest

from numgpt import GPT, Config, calculus
from numgpt.__main__ import main
from numgpt.random import generator
from numgpt.tokenizers.characters import Characters

TEXT = "a small text that is long enough for some rows of a few tokens\n" * 3


def saved(folder, dtype="float64", tokenizer=None):
    V = 11 if tokenizer is None else tokenizer.vocab_size
    model = GPT(Config(vocab_size=V, block_size=8, n_layer=1, n_head=2, n_embd=8), 3, dtype, tokenizer)
    model.params.flat += 0.1 * np.random.default_rng(0).standard_normal(model.n_params).astype(dtype)
    model.save(folder)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_figures_are_those_of_calculus(tmp_path, dtype, capsys):
    model = saved(tmp_path / "m", dtype)
    flags = shlex.split("--batch-size 3 --tokens 6 --eigenvalues 2 --steps 60")
    assert main(["curvature", str(tmp_path / "m"), *flags]) == 0
    printed = capsys.readouterr().out
    rows = generator(0, "curvature").integers(0, 11, (3, 7))
    top = calculus.top_eigenvalues(model, rows[:, :-1], rows[:, 1:], 2)
    values = [float(v) for v in re.findall(r"^eigenvalue \d +(\S+) ±", printed, re.MULTILINE)]
    np.testing.assert_allclose(values, top.values, rtol=1e-5)  # six digits are printed
    loss = float(model.astype("float64").loss(rows[:, :-1], rows[:, 1:]))
    noise = calculus.gradient_noise_scale(model, rows[:, :-1], rows[:, 1:])
    assert f"loss              {loss:.6f} nats" in printed
    assert f"noise scale       {noise.scale:.4g} rows" in printed


def test_a_text_is_read_by_the_checkpoints_tokenizer(tmp_path, capsys):
    (tmp_path / "text").write_text(TEXT)
    saved(tmp_path / "m", tokenizer=Characters.build(TEXT))
    flags = ["--data", str(tmp_path / "text"), "--eigenvalues", "0"]
    assert main(["curvature", str(tmp_path / "m"), *flags]) == 0
    printed = capsys.readouterr().out
    assert "8 rows of 8 tokens" in printed
    assert "eigenvalue" not in printed


@pytest.mark.parametrize(
    "args",
    [
        ["--tokens", "9"],
        ["--batch-size", "9" * 20],
        ["--data", "text"],
        ["--eigenvalues", "999", "--steps", "5"],
    ],
    ids=str,
)
def test_what_it_cannot_do_is_one_line(tmp_path, args, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "m")
    (tmp_path / "text").write_text(TEXT)
    assert main(["curvature", "m", *args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected" in error
