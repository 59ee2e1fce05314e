"""Models that ship: they load by name wherever a model may stand, are small, and can be made again."""

import hashlib
import importlib.util
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from numgpt import GPT, InputError, engine, parity, tokenizers
from numgpt.__main__ import main
from numgpt.commands import runs
from numgpt.commands import train as training
from numgpt.commands.table import parser
from numgpt.storage import shipped

NAMES = ("numgpt:austen", "numgpt:tiny")
BYTES = {"numgpt:austen": 4_000_000, "numgpt:tiny": 70_000}
REPLAYED = 100  # steps


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder without runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def origin(name):
    """origin.json of a model: the command that trained it, and what ran it."""
    return json.loads((Path(shipped.located(name)) / "origin.json").read_text("utf-8"))


def test_the_names_that_help_and_pages_show_are_those_of_the_models_that_are_there():
    assert shipped.models() == sorted(NAMES)
    assert shipped.MODEL in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_stored_in_float16_with_its_tokenizer_and_its_hash(name):
    model = GPT.load(name)
    assert model.params.dtype == "float32" and model.tokenizer == tokenizers.load(name)
    assert all(np.array_equal(p, p.astype("float16")) for p in model.params.values())
    data = (Path(shipped.located(name)) / "model.safetensors").read_bytes()
    assert len(data) <= BYTES[name]
    assert hashlib.sha256(data).hexdigest() == origin(name)["sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_writes_words(name):
    model = GPT.load(name)
    ids = model.tokenizer.encode("\n\nShe was ")[None]
    text = model.tokenizer.decode(model.generate(ids, max_new_tokens=40, temperature=0)[0])
    common = {"the", "and", "of", "to", "a", "in", "her", "she", "was"}
    assert sum(word in common for word in text.split()) > 3, text


def test_commands_take_the_names(elsewhere, capfd):
    tiny = "numgpt:tiny"
    for command in (
        f"sample {tiny} --max-new-tokens 5",
        f"info {tiny}",
        f"convert {tiny} copy --dtype float16",
        f"convert {tiny} theirs --to hf",
        f"diff {tiny} copy",
        f"diff {tiny} numgpt:tiny --configs",
        f"tokenizer show {tiny} text",
        f"curvature {tiny} --tokens 4 --batch-size 2 --steps 2 --eigenvalues 1",
    ):
        assert main(shlex.split(command)) == 0, (command, capfd.readouterr())
    capfd.readouterr()
    (elsewhere / "text.txt").write_text("She was not at home. " * 20)
    assert main(["eval", tiny, "--data", "text.txt"]) == 0
    assert "bits per byte" in capfd.readouterr().out
    copy = elsewhere / "copy" / "model.safetensors"
    assert copy.read_bytes() == (Path(shipped.located(tiny)) / "model.safetensors").read_bytes()
    assert parity.first_divergence(tiny, "theirs").first is None


def test_a_run_can_begin_with_the_tokenizer_of_a_model_that_ships(elsewhere, capfd):
    flags = "--preset gpt-nano --steps 1 --eval-iters 1 --sample-tokens 0 --tokenizer numgpt:austen --out run"
    (elsewhere / "text.txt").write_text("She was not at home.\n\n" * 400)
    assert main(["train", "--data", "text.txt", "--no-dedup", *flags.split()]) == 0
    assert GPT.load("run").tokenizer == tokenizers.load("numgpt:austen")


def test_where_there_is_no_run_the_shipped_model_writes_and_a_line_says_so(elsewhere, capfd):
    assert main(["sample", "--max-new-tokens", "20"]) == 0
    out, error = capfd.readouterr()
    assert len(out) > 20
    assert [line for line in error.splitlines() if "numgpt:austen writes, which ships" in line]


def test_evaluating_a_model_that_ships_reads_what_its_training_held_out(elsewhere, capfd, monkeypatch):
    monkeypatch.setattr("numgpt.evaluation.score.surprises", lambda model, ids, *rest: pytest.fail("read"))
    held_out = runs.corpus({"paths": ["numgpt:austen"]}, GPT.load("numgpt:tiny")).held_out

    class Enough(Exception):
        pass

    def stopped(model, ids, *rest):
        assert np.array_equal(ids, held_out)
        raise Enough

    monkeypatch.setattr("numgpt.evaluation.score.surprises", stopped)
    with pytest.raises(Enough):
        main(["eval", "numgpt:tiny"])


@pytest.mark.parametrize("command", ["sample", "eval", "info", "curvature", "export --llmc files"])
def test_a_name_that_no_model_has_is_one_line_with_those_there_are(elsewhere, capfd, command):
    assert main([*command.split(), "numgpt:ostin"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "numgpt:ostin: is no model of numgpt's" in error
    assert "expected numgpt:austen or numgpt:tiny" in error


def test_a_name_without_what_it_begins_with_is_told_it(elsewhere, capfd):
    assert main(["sample", "tiny"]) == 2
    assert "tiny: does not exist" in (error := capfd.readouterr().err)
    assert "numgpt's own of this name is numgpt:tiny" in error


def test_a_numgpt_without_its_models_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "MODELS", tmp_path)
    with pytest.raises(InputError, match="numgpt:austen: is no .* expected a numgpt .* with its data files"):
        GPT.load("numgpt:austen")


@pytest.fixture
def fast_engine():
    """The engine that a command takes, where tests run on the reference otherwise."""
    before = engine.current()
    engine.use("numba" if importlib.util.find_spec("numba") else "reference")
    yield engine.current()
    engine.use(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_first_steps_of_a_models_training_give_the_losses_of_its_log(
    name, tmp_path, monkeypatch, fast_engine
):
    made = origin(name)
    lines = (Path(shipped.located(name)) / "log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    logged = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    args = parser().parse_args(shlex.split(made["command"])[1:])
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    machine = importlib.import_module("ship_model").machine()
    trainer = training.begin(args, tmp_path / "run")
    losses = [trainer.step()["loss"] for _ in range(REPLAYED)]
    expected = [logged[step] for step in range(1, REPLAYED + 1)]
    if fast_engine == "numba" and machine == made["machine"]:
        assert losses == expected
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-3)
