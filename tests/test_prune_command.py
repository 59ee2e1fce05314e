"""numgpt prune: what it writes, what it prints, what it refuses, and that training goes on from it."""

import json
import re

import numpy as np
import pytest

from numgpt import GPT, Config, LoRA, Pruned
from numgpt.__main__ import main
from numgpt.commands import prune
from numgpt.tokenizers import Bytes

TEXT = "she sells sea shells by the sea shore, the shells she sells are sea shells I am sure. "


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder to work in, with a text and a model that reads it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 40)
    shape = {"vocab_size": 256, "block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 16}
    model = GPT(Config(**shape), seed=1, tokenizer=Bytes())
    model.params.flat[:] *= 4  # so that blocks count
    model.save("base")
    return GPT.load("base")


def printed(capsys, line):
    """What a command that works prints."""
    assert main(line.split()) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "fisher"])
def test_weights_are_masked_and_the_report_says_where(base, capsys, criterion):
    data = "" if criterion == "magnitude" else " --data text.txt --batches 2"
    out = printed(capsys, f"prune base out --sparsity 0.5 --criterion {criterion}{data}")
    model = GPT.load("out")
    assert model.additions == (Pruned(),)
    share = np.mean([(mask == 0).mean() for mask in model.params.integers.values()])
    assert share == 0.5 and len(re.findall(r"^h\.\d\.\S+ +\d+×\d+ +50\.0%$", out, re.M)) == 8
    assert f"in all        50.0% of attention and feed-forward, by {criterion}" in out
    assert re.search(
        r"^pruned: 3,072 of 6,144 weights in 8 matrices are masked$", printed(capsys, "info out"), re.M
    )
    losses = re.search(r"^loss +(\S+) → (\S+) nats a token, of \S+ \((\S+)\)$", out, re.M)
    assert (losses is not None) == bool(data)
    if losses:
        before, after, change = map(float, losses.groups())
        assert before != after and abs(after - before - change) < 2e-4


def test_what_a_criterion_learns_from_is_not_what_the_loss_is_measured_on(base):
    text = np.arange(1000)
    learned, measured = prune.spread(text[:900], 16, 128), prune.spread(text[900:], 16, 1024)
    assert not {*learned.ravel()} & {*measured.ravel()}
    assert learned.shape == (56, 17) and measured.shape == (6, 17) and len({*learned[:, 0]}) == 56
    assert (np.diff(learned[:, 0]) >= 16).all() and measured[-1, -1] == 999
    model = GPT.load("base")
    rows = np.random.default_rng(0).integers(0, 5, (21, 17))
    expected = float(model.loss(rows[:, :-1], rows[:, 1:]))
    assert abs(prune._loss(model, rows) - expected) < 1e-5


def test_a_report_as_json_has_the_same_numbers(base, capsys):
    line = "prune base out --sparsity 0.5 --structured neurons --criterion fisher --data text.txt --batches 2"
    report = json.loads(printed(capsys, f"{line} --json"))
    model = GPT.load("out")
    assert report["parameters"] == [base.n_params, model.n_params]
    widths = [[64, c.ffn_width] for c in model.config.scopes().values()]
    assert report["neurons"] == widths and sum(after for _, after in widths) == 64
    rows = {m["name"]: m for m in report["matrices"]}
    assert rows["h.1.mlp.c_fc"]["after"] == [16, widths[1][1]] and rows["h.1.attn.c_attn"]["sparsity"] == 0
    assert abs(rows["h.0.mlp.c_proj"]["sparsity"] - (1 - widths[0][1] / 64)) < 1e-12
    assert len(report["milliseconds"]) == 2 and report["tokens"] > 0


def test_heads_are_taken_out_and_both_times_are_printed(base, capsys):
    out = printed(capsys, "prune base out --sparsity 0.5 --structured heads")
    assert GPT.load("out").config.n_head == 1
    assert "heads         2 → 1, 2 → 1  (layer by layer)" in out
    assert re.search(r"^a forward +\S+ ms → \S+ ms, \S+ × as fast \(medians of 9 pairs\)$", out, re.M)
    assert "h.0.mlp" not in out  # which stays as it is


def test_training_goes_on_and_zeros_stay_zero(base, capsys):
    printed(capsys, "prune base sparse --pattern 2:4")
    flags = "--data text.txt --steps 6 --eval-interval 3 --eval-iters 1 --lr 0.01 --warmup 0 --split tail"
    printed(capsys, f"train --init-from sparse --out run {flags}")
    printed(capsys, "train --resume --out run --steps 8")
    begun, ended = GPT.load("sparse"), GPT.load("run/last")
    for name in begun.params.integers:
        weight = name.removesuffix("_mask")
        np.testing.assert_array_equal(ended.params[name], begun.params[name])
        assert not ended.params[weight][begun.params[name] == 0].any()
        assert (ended.params[weight] != begun.params[weight]).any()


def test_tuning_goes_on_and_zeros_stay_zero(base, capsys):
    printed(capsys, "prune base sparse --sparsity 0.5")
    with open("rows.jsonl", "w") as file:
        file.writelines(
            json.dumps({"prompt": "she sells", "completion": " sea shells"}) + "\n" for _ in range(12)
        )
    printed(
        capsys,
        "tune sft sparse --data rows.jsonl --template plain --out tuned --steps 3 --eval-iters 1",
    )
    begun, ended = GPT.load("sparse"), GPT.load("tuned/last")
    name = "h.0.mlp.c_fc.weight"
    gone = begun.params[f"{name}_mask"] == 0
    assert not ended.params[name][gone].any() and (ended.params[name] != begun.params[name])[~gone].any()


REFUSED = {
    "--sparsity 1": "--sparsity is 1, expected more than 0 and less than 1",
    "--sparsity 1.2": "--sparsity is 1.2",
    "--sparsity -0.5": "--sparsity is -0.5",
    "--sparsity 1e-12": "--sparsity is 1e-12, which masks none",
    "--sparsity 0.99999": "--sparsity is 0.99999, which leaves none",
    "": "sparsity is missing",
    "--pattern 3:7": "expected 7 to divide the 16 inputs of h.0.attn.c_attn",
    "--pattern two": "--pattern is 'two'",
    "--sparsity 0.5 --batches 2": "--batches is given, and --criterion magnitude learns from no text",
    "--sparsity 0.5 --criterion fisher": "--criterion fisher needs a text, expected --data FILE",
    "--sparsity 0.9 --structured heads": "none of the 2 heads of h.0, expected one at least: at most 0.5",
    "--sparsity 0.5 --structured rows": "invalid choice: 'rows'",
    "--sparsity 0.5 --data short.txt": "--data has 9 tokens, expected at least 650",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_pruned_is_said_in_one_line_and_nothing_is_written(base, tmp_path, capsys, flags):
    (tmp_path / "short.txt").write_text("she sells")
    before = sorted(tmp_path.iterdir())
    assert main(["prune", "base", "out", *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert REFUSED[flags] in err and err.count("\n") == 1 and out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_models_of_other_forms_are_refused_and_nothing_is_written(base, tmp_path, capsys):
    base.quantize().save("rounded")
    base.extended(LoRA(rank=1)).save("adapted")
    for name, reason in {"rounded": "the model is quantized", "adapted": "the model has an adapter"}.items():
        assert main(["prune", name, "out", "--sparsity", "0.5"]) == 2
        err = capsys.readouterr().err
        assert reason in err and err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert main(["prune", "base", "base", "--sparsity", "0.5"]) == 2
    np.testing.assert_array_equal(GPT.load("base").params.flat, base.params.flat)
