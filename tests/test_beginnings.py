"""What numgpt train begins with, and how long it lasts: a model's weights, a teacher, a limit of time."""

import json
import shlex

import numpy as np
import pytest

from numgpt import GPT, Config, Head, LoRA, Trainer, Training, prepare
from numgpt.__main__ import main
from numgpt.tokenizers import Bytes

CONFIG = Config(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=8)
QUICK = "--data text.txt --batch-size 2 --eval-iters 1 --eval-interval 4 --save-interval 3 --sample-tokens 0"
SMALL = "--preset gpt-nano --n-layer 1 --n-head 1 --n-embd 4 --block-size 8"
TAUGHT = f"{SMALL} --teacher base --teacher-share 0.7 --teacher-temperature 3"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a text and a model."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "text.txt").write_text("".join(rng.choice(list("abcdefgh \n"), 3000)))
    GPT(CONFIG, seed=3, tokenizer=Bytes()).extended(LoRA(rank=1)).save("base")
    return tmp_path


def train(flags, out="run", steps=8):
    return main(["train", *shlex.split(f"{QUICK} {flags} --steps {steps} --out {out}")])


def content(folder, without=()):
    """Every file in a folder, with its bytes."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in without)
    return {p.relative_to(folder): p.read_bytes() for p in files}


def test_a_run_begins_with_the_weights_of_a_model(here, capsys):
    assert train("--init-from base --dropout 0.1", steps=0) == 0
    base, begun = GPT.load("base").merged(), GPT.load("run")
    np.testing.assert_array_equal(base.params.flat, begun.params.flat)
    assert begun.config.dropout == 0.1 and begun.tokenizer == Bytes() and begun.additions == ()
    assert (begun.seed, base.seed) == (1337, 3)
    assert json.loads((here / "run/last/state.json").read_text())["training"]["lr"] == 3e-4
    assert train("--init-from base --lr 1e-2", "other", 2) == 0
    assert json.loads((here / "other/last/state.json").read_text())["training"]["lr"] == 1e-2
    assert main("eval run".split()) == 0  # the recipe has more in it than the text


@pytest.mark.parametrize("flags", ["--init-from base", TAUGHT], ids=["weights", "teacher"])
def test_a_killed_run_goes_on_to_the_bits_of_one_that_ran_through(here, flags, monkeypatch, capsys):
    assert train(flags, "whole") == 0

    class Killed(BaseException):
        pass

    step = Trainer.step

    def until_5(self):
        if self.updates == 5:
            raise Killed
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", until_5)
        with pytest.raises(Killed):
            train(flags, "part")
    again = flags.replace(SMALL, "")  # who says the same once more is understood
    assert main(["train", "--resume", "--out", "part", "--sample-tokens", "0", *again.split()]) == 0
    for place in ("last", "best"):  # a state says by which name its text was given
        parts = [content(here / run / place, ["state.json"]) for run in ("part", "whole")]
        assert parts[0] == parts[1]
    assert main("eval part".split()) == 0
    assert ("share 0.7 of the loss, temperature 3" in capsys.readouterr().err) == ("teacher" in flags)


def test_a_teacher_teaches(here):
    """A student with a teacher comes closer to it than one without."""
    for flags, out in ((TAUGHT, "with"), (f"{SMALL} --tokenizer bytes", "without")):
        assert train(f"{flags} --lr 3e-2 --warmup 0", out, 60) == 0
    ids = np.random.default_rng(1).integers(97, 104, (8, 8))

    def logp(model):
        z = model(ids).astype(float)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    taught = logp(GPT.load("base"))
    apart = [(np.exp(taught) * (taught - logp(GPT.load(run)))).sum(-1).mean() for run in ("with", "without")]
    assert apart[0] < 0.7 * apart[1]


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--init-from nowhere", "nowhere: does not exist"),
        ("--init-from mute", "--init-from mute: the model has no tokenizer"),
        ("--init-from judge", "--init-from judge: the model has a head for a task"),
        ("--init-from base --preset gpt-nano", "the model has its own shape, expected no --preset"),
        ("--init-from base --n-layer 2", "the model has n_layer 1, expected 2 by the flags"),
        ("--init-from base --tokenizer chars", "the model's tokenizer is bytes, expected chars"),
        ("--teacher nowhere", "nowhere: does not exist"),
        ("--teacher mute", "/mute: it has no tokenizer"),
        ("--teacher base --tokenizer chars", "the teacher's tokenizer is bytes, expected chars"),
        ("--teacher base --block-size 32", "teacher: knows 16 positions, expected 32 as the model"),
        ("--teacher base --vocab-size 300", "--vocab-size is 300, expected 256, the teacher's"),
        (f"{SMALL} --teacher base --teacher-share 1", "--teacher-share is 1.0"),
        (f"{SMALL} --teacher base --teacher-temperature 0", "--teacher-temperature is 0.0"),
        ("--teacher-share 0.5", "--teacher-share is given without --teacher, expected both"),
        ("--preset moe-nano --block-size 8 --teacher base", "the model has experts, whose routers"),
        ("--time-limit 0s", "'0s' is not a time, expected one such as 90s, 10m or 1.5h"),
    ],
)
def test_a_beginning_that_cannot_be_gets_one_line_and_leaves_nothing(here, capfd, flags, message):
    GPT(CONFIG).save("mute")
    GPT(CONFIG, tokenizer=Bytes()).extended(Head(task="reward")).save("judge")
    before = content(here)
    assert train(flags) == 2
    out, error = capfd.readouterr()
    assert message in error
    assert (out, error.count("\n")) == ("", 1)
    assert content(here) == before


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--teacher other", "the run has "),
        ("--teacher-temperature 2", "the run has 3.0 of --teacher-temperature, expected 2.0"),
        ("--init-from base", "the run has none of --init-from"),
    ],
)
def test_a_run_goes_on_with_its_own_teacher(here, capfd, flags, message):
    assert train(TAUGHT) == 0
    capfd.readouterr()
    assert main(["train", "--resume", "--out", "run", *flags.split()]) == 2
    assert message in capfd.readouterr().err
    model = GPT.load("base")
    model.params.flat[0] += 1
    model.save("base")
    assert main("train --resume --out run --steps 9".split()) == 2
    assert "has changed since the run began, expected it as it was" in capfd.readouterr().err


def test_a_teacher_of_whatever_entries_is_refused_in_one_line(here, capfd):
    assert train(TAUGHT) == 0
    path = here / "run/last/state.json"
    state = json.loads(path.read_text())
    for entry in (5, {}, state["recipe"]["teacher"] | {"share": "x"}):
        path.write_text(json.dumps(state | {"recipe": state["recipe"] | {"teacher": entry}}))
        capfd.readouterr()
        assert main("train --resume --out run --steps 9".split()) == 2
        assert capfd.readouterr().err.count("\n") == 1


def test_a_run_whose_time_is_over_is_measured_saved_and_says_how_to_go_on(here, capsys):
    assert train(f"{SMALL} --tokenizer bytes --eval-interval 100000 --time-limit 0.2s", steps=100000) == 0
    error = capsys.readouterr().err
    steps = json.loads((here / "run/last/state.json").read_text())["updates"]
    assert f"stopped at step {steps} of 100000, saved; go on with: numgpt train --resume --out run" in error
    assert "the time is over: held-out loss" in error
    last = json.loads((here / "run/log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == steps and "held_out_loss" in last


def test_a_time_limit_ends_one_run_of_a_trainer_and_no_other(here):
    corpus = prepare("text.txt", tokenizer="bytes")
    training = Training(steps=30, batch_size=1, eval_iters=1, eval_interval=100, warmup=0)
    trainer = Trainer(GPT(CONFIG, tokenizer=corpus.tokenizer), corpus, training)
    trainer.run(time_limit=1e-9)
    assert (trainer.updates, trainer.out_of_time, trainer.stopped) == (1, True, False)
    trainer.run()
    assert (trainer.updates, trainer.out_of_time) == (30, False)
