"""numgpt diff names what is planted in folders, files of llm.c and modules of PyTorch."""

import numpy as np
import pytest
from test_divergence import BOTH, SIZE, model_of

from numgpt import GPT, Config
from numgpt.__main__ import main
from numgpt.interchange import llmc

PLANTED_IN_FOLDERS = {
    "GELU in its erf form in B": lambda m: GPT(Config(**SIZE, activation="gelu"), params=m.params),
    "epsilon is 1e-05 in A, 1e-06 in B": lambda m: GPT(
        Config(**SIZE, layer_norm_epsilon=1e-6), params=m.params
    ),
    "a matrix of its own in B": lambda m: untied(m),
    "padded from 19 tokens to 24 in B": lambda m: padded(m),
    "h.1.attn.c_proj.weight: transposed": lambda m: changed(m, "h.1.attn.c_proj.weight", lambda w: w.T),
    "the order is k, v, q": lambda m: reordered(m),
}


def changed(model, name, change):
    other = model.astype("float32")
    other.params[name] = change(model.params[name])
    return other


def untied(model):
    other = GPT(Config(**SIZE, tied=False))
    for name, value in model.params.items():
        other.params[name] = value
    other.params["lm_head.weight"] = model.params["wte.weight"][::-1]
    return other


def padded(model):
    other = GPT(Config(**SIZE | {"vocab_size": 24}))
    for name, value in model.params.items():
        other.params[name][: len(value)] = value
    return other


def reordered(model):
    other = model.astype("float32")
    for i in range(2):
        for part in ("weight", "bias"):
            q, k, v = np.split(model.params[f"h.{i}.attn.c_attn.{part}"], 3, -1)
            other.params[f"h.{i}.attn.c_attn.{part}"] = np.concatenate([k, v, q], -1)
    return other


@BOTH
@pytest.mark.parametrize("said", PLANTED_IN_FOLDERS)
def test_the_command_names_what_is_planted_in_a_folder(said, dtype, tmp_path, capsys):
    model = model_of()
    model.save(tmp_path / "a")
    PLANTED_IN_FOLDERS[said](model).save(tmp_path / "b", "hf")
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--dtype", dtype]) == 1
    printed = capsys.readouterr().out
    assert said in printed and "with that changed in A, everything agrees" in printed, printed


def test_the_command_says_where_nothing_differs(tmp_path, capsys):
    model_of().save(tmp_path / "a")
    model_of().save(tmp_path / "b", "hf")
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--all"]) == 0
    printed = capsys.readouterr().out
    assert "28 of 28 parameters agree" in printed and "value      h.1.mlp.act" in printed


def test_a_debug_state_of_llmc_is_compared_with_the_model_it_is_of(tmp_path, capsys):
    model = model_of()
    llmc.save_all(tmp_path, model, 2, 8)
    files = [str(tmp_path / name) for name in ("model.bin", "debug_state.bin")]
    assert main(["diff", *files]) == 0
    assert "2 of 2 values agree, 28 of 28 gradients agree" in capsys.readouterr().out
    tokens, targets = np.random.default_rng(0).integers(0, 19, (2, 2, 8))
    llmc.save_state(
        files[1],
        changed(
            changed(model, "h.0.attn.c_proj.weight", np.transpose), "h.1.attn.c_proj.weight", np.transpose
        ),
        tokens,
        targets,
    )
    assert main(["diff", *files]) == 1
    assert "likely cause: h.0.attn.c_proj.weight and 1 more such: transposed" in capsys.readouterr().out
    assert main(["diff", *files[::-1]]) == 1
    assert "likely cause: h.0.attn.c_proj.weight and 1 more such: transposed" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["nothing", "two states", "text", "long", "folder"])
def test_what_cannot_be_compared_is_one_line(bad, tmp_path, capsys):
    model_of().save(tmp_path / "a")
    llmc.save_all(tmp_path / "c", model_of(), 2, 8)
    (tmp_path / "text").write_text("some text")
    (tmp_path / "empty").mkdir()
    a, state = str(tmp_path / "a"), str(tmp_path / "c" / "debug_state.bin")
    args = {
        "nothing": [a, str(tmp_path / "x")],
        "two states": [state, state],
        "text": [a, str(tmp_path / "text")],
        "long": [a, a, "--tokens", "9"],
        "folder": [a, str(tmp_path / "empty")],
    }
    assert main(["diff", *args[bad]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected" in error


MY_MODEL = """
import torch, torch_gpt
from numgpt import GPT

def right():
    return torch_gpt.GPT().load(GPT.load("a").params)

def wrong():
    return torch_gpt.GPT(activation=torch.nn.GELU()).load(GPT.load("a").params)

def broken():
    return 1 / 0

number = 7
"""


def test_the_command_takes_a_pytorch_module_from_a_file(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model_of().save("a")
    (tmp_path / "my_model.py").write_text(MY_MODEL)
    assert main(["diff", "a", "my_model.py:right"]) == 0
    assert main(["diff", "a", "my_model:wrong"]) == 1
    assert "GELU in its tanh form in A, GELU in its erf form in B" in capsys.readouterr().out
    (tmp_path / "names.json").write_text('{"wte": "nowhere"}')
    (tmp_path / "bad.py").write_text("1 / 0")
    for args in (
        ["my_model.py:broken"],
        ["my_model.py:number"],
        ["my_model.py:absent"],
        ["bad.py:x"],
        ["none.py:x"],
        ["my_model.py:right", "--names", "names.json"],
    ):
        assert main(["diff", "a", *args]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "expected" in error, error
