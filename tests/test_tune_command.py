"""numgpt tune: each way to tune from its files to its report, and runs that were killed and go on."""

import argparse
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from numgpt import GPT, Config, Head, LoRA, Trainer, Training, tuning
from numgpt.__main__ import main
from numgpt.architecture.tunings import TUNINGS
from numgpt.commands import tuning_reports
from numgpt.commands.tune import ACTIONS
from numgpt.data import CHATML, template_from_state
from numgpt.layers.tuning_losses import PAIRS
from numgpt.tokenizers import Bytes
from numgpt.tuning import recipes
from numgpt.tuning.sft import REDUCTIONS

CONFIG = Config(vocab_size=256, block_size=48, n_layer=1, n_head=2, n_embd=8)
QUICK = "--batch-size 4 --eval-interval 4 --save-interval 3 --eval-iters 2 --steps 8 --lr 1e-2"
# Each way to tune, once with all parameters and once with an adapter.
WAYS = {
    "sft": "sft base --data chats.jsonl --template chatml --smoothing 0.1",
    "sft, padded, by response": "sft base --data chats.jsonl --no-pack --reduction sequence",
    "sft, LoRA": "sft base --data chats.jsonl --lora 2 --rslora --lora-targets h.*.attn.*",
    "sft, LoRA and new tokens": "sft base --data chats.jsonl --lora 2 --template chatml",
    "classify": "classify base --data task.csv --text words --label kind --text-weight 0.1",
    "numbers": "classify base --data task.csv --text words --label size --numbers --pool mean --lora 2",
    "reward": "reward base --data pairs.jsonl --pool mean",
    "dpo": "dpo base --data pairs.jsonl --beta 0.5 --chosen-nll 0.1",
    "ipo, LoRA": "dpo base --data pairs.jsonl --loss ipo --lora 2",
    "kto": "kto base --data verdicts.jsonl --beta 0.5 --desirable-weight 1.2",
    "kto, LoRA": "kto base --data verdicts.jsonl --lora 2",
    "dpo, LoRA and new tokens": "dpo base --data pairs.jsonl --lora 2 --template chatml",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model and files of each kind."""
    home = tmp_path_factory.mktemp("home")
    GPT(CONFIG, seed=3, tokenizer=Bytes()).save(home / "base")
    numbers = range(24)
    chats = [{"prompt": f"{n}?", "completion": f"{n + 1}"} for n in numbers]
    pairs = [{"prompt": f"{n}?", "chosen": f"{n + 1}", "rejected": "no"} for n in numbers]
    verdicts = [row | {"label": True} for row in chats[:12]] + pairs[12:]
    for name, rows in (("chats", chats), ("pairs", pairs), ("verdicts", verdicts)):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = [f"{n} things,{'many' if n > 11 else 'few'},{n}" for n in numbers]
    (home / "task.csv").write_text("\n".join(["words,kind,size", *table]))
    return home


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    """The folder, with nothing in it that a test wrote."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def tune(way, *more):
    return main(["tune", *shlex.split(WAYS.get(way, way)), *shlex.split(QUICK), *more])


def content(folder):
    """Every file in a folder, with its bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# From files to a report.


@pytest.mark.parametrize("way", WAYS)
def test_a_run_tells_what_it_trains_and_what_it_reached(here, way, capsys):
    assert tune(way, "--out", "run") == 0
    out, error = capsys.readouterr()
    kind = way.split(",")[0] if way.startswith("sft") else WAYS[way].split()[0]
    assert error.startswith(f"data    {here}")
    assert "8 steps are" in error and "run in run\n" in error
    assert ("of them trained" in error) == ("--lora" in WAYS[way])
    assert "held-out loss" in error.split("step      8")[1]
    measure = {
        "sft": "held-out loss",
        "classify": "held-out ",
        "reward": "held-out accuracy",
        "dpo": "margin",
        "kto": "gain in nats of good responses",
    }
    assert measure[kind] in error
    assert ("talk to it with: numgpt chat run" in error) == (kind in ("sft", "dpo", "kto"))
    assert ("ask it with: numgpt predict run" in error) == (kind in ("classify", "reward"))
    assert (out.count("→") == 2) == (kind in ("sft", "dpo", "kto"))  # two of 24 are held out
    model = GPT.load("run")
    assert model.seed == 1337
    assert any(isinstance(a, LoRA) for a in model.additions) == ("--lora" in WAYS[way])
    assert any(isinstance(a, Head) for a in model.additions) == (kind in ("classify", "reward"))
    if kind != "classify":
        name = "chatml" if "chatml" in WAYS[way] else "plain"
        assert template_from_state(model.template).name == name
        assert model.config.vocab_size == (258 if name == "chatml" else 256)


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_goes_on_to_the_bits_of_one_that_ran_through(here, way, monkeypatch):
    assert tune(way, "--out", "whole") == 0

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
            tune(way, "--out", "part")
    action = WAYS[way].split()[0]
    monkeypatch.chdir("/")  # paths in the recipe are whole
    assert main(["tune", action, "--resume", "--out", str(here / "part")]) == 0
    assert content(here / "part/last") == content(here / "whole/last")
    assert content(here / "part/best") == content(here / "whole/best")
    logs = [(here / run / "log.jsonl").read_text().splitlines() for run in ("part", "whole")]
    losses = [[json.loads(line).get("held_out_loss") for line in log] for log in logs]
    assert losses[0] == losses[1]


def test_a_process_that_is_killed_or_stopped_leaves_a_run_that_goes_on(here):
    words = f"-m numgpt tune {WAYS['dpo']} {QUICK} --engine reference --steps 100000 --out part"
    process = subprocess.Popen([sys.executable, *words.split()], stderr=subprocess.PIPE, text=True)
    log = here / "part/log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and '"step": 4' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert main("tune dpo --resume --out part --steps 8".split()) == 0
    assert tune("dpo", "--out", "whole") == 0
    assert content(here / "part/start") == content(here / "whole/start")


def test_answers_come_at_intervals_above_the_bar(here, capsys):
    assert tune("sft", "--out", "run", "--sample-every", "3", "--sample-tokens", "4") == 0
    out, error = capsys.readouterr()
    before, after = error.split("step      8")
    assert before.count("→") == 4 and after.count("→") == 0
    assert out.count("→") == 2
    assert "(the file: " in out
    assert tune("sft", "--out", "other", "--sample-tokens", "0", "--held-out", "0") == 0
    out, error = capsys.readouterr()
    assert out == "" and "not measured" in error


def test_a_run_whose_time_is_over_is_measured_saved_and_says_how_to_go_on(here, capsys):
    assert tune("sft", "--out", "run", "--steps", "100000", "--time-limit", "0.3s") == 0
    error = capsys.readouterr().err
    steps = json.loads((here / "run/last/state.json").read_text())["updates"]
    assert 0 < steps < 100000
    assert (
        f"stopped at step {steps} of 100000, saved; go on with: numgpt tune sft --resume --out run" in error
    )
    last = json.loads((here / "run/log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == steps and "held_out_loss" in last
    assert main(f"tune sft --resume --out run --steps {steps + 1}".split()) == 0
    assert main(f"tune sft --resume --out run --steps {steps + 1}".split()) == 0
    assert "run: was complete" in capsys.readouterr().err


def test_epochs_say_how_many_steps(here, capsys):
    flags = "--epochs 2 --batch-size 4 --eval-iters 1 --out run"
    assert main(["tune", *WAYS["reward"].split(), *flags.split()]) == 0
    assert "22 pairs to train on, 11 steps are 2 epochs" in capsys.readouterr().err
    training = json.loads((here / "run/last/state.json").read_text())["training"]
    assert (training["steps"], training["warmup"]) == (11, 1)


def test_better_responses_that_become_unlikely_are_warned_of(here, capsys):
    assert tune("dpo base --data pairs.jsonl --beta 5", "--lr", "0.3", "--steps", "30", "--out", "run") == 0
    assert "expected" not in capsys.readouterr().err
    told = {"accuracy": 1.0, "margin": 4.0, "chosen": -9.0, "chosen_fixed": -2.0, "tokens": 5.0}
    for chosen, n in ((-9.0, 2), (-2.9, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "margins", lambda *_: told | {"chosen": chosen})
            objective = type("Pairs", (), {"held_out": None})
            lines = tuning_reports.measured("dpo", None, objective)
        assert len(lines) == n
    assert "log-probability of the better responses -2.9, -2 at first" in lines[0]


def test_what_the_help_says_of_a_choice_is_what_the_objectives_know():
    assert set(ACTIONS) == set(TUNINGS) == set(recipes.BUILDERS)
    parser = argparse.ArgumentParser()
    ACTIONS["sft"].add_flags(parser)
    assert next(a for a in parser._actions if a.dest == "reduction").choices == REDUCTIONS
    parser = argparse.ArgumentParser()
    ACTIONS["dpo"].add_flags(parser)
    assert next(a for a in parser._actions if a.dest == "loss").choices == tuple(PAIRS)


# A vocabulary that grows.


@pytest.mark.parametrize("tied", [True, False])
def test_a_grown_model_computes_what_it_did_for_the_tokens_that_it_knew(tied):
    config = Config(vocab_size=256, block_size=8, n_layer=1, n_head=1, n_embd=4, tied=tied)
    model = GPT(config, seed=1, dtype="float64", tokenizer=Bytes()).extended(LoRA(rank=1))
    larger = tuning.grown(model, CHATML.with_specials(Bytes()))
    ids = [[1, 2, 200]]
    np.testing.assert_array_equal(larger(ids)[..., :256], model(ids))
    assert larger.config.vocab_size == 258 and larger.additions == model.additions
    new = larger.params["wte.weight"][256:]
    assert 0 < np.abs(new).max() < 0.1
    again = tuning.grown(model, CHATML.with_specials(Bytes()))
    np.testing.assert_array_equal(again.params["wte.weight"][256:], new)


def test_rows_to_spare_are_used_before_a_model_grows():
    config = Config(vocab_size=300, block_size=8, n_layer=1, n_head=1, n_embd=4)
    model = GPT(config, tokenizer=Bytes())
    larger = tuning.grown(model, CHATML.with_specials(Bytes()))
    assert larger.config == config and larger.tokenizer.vocab_size == 258
    np.testing.assert_array_equal(larger.params.flat, model.params.flat)


def test_new_tokens_are_learned_beside_an_adapter_and_nothing_else(here):
    assert tune("sft, LoRA and new tokens", "--out", "run") == 0
    before, after = GPT.load("base"), GPT.load("run/last")
    moved = {
        n
        for n in before.params
        if not np.array_equal(before.params[n], after.params[n][: before.params[n].shape[0]])
    }
    assert moved == {"wte.weight"}
    assert tune("sft, LoRA", "--out", "other") == 0
    other = GPT.load("other/last")
    assert all(np.array_equal(before.params[n], other.params[n]) for n in before.params)


def test_an_adapter_of_before_is_multiplied_out_and_preferences_compare_with_it(here, capsys):
    assert tune("sft, LoRA", "--out", "chat", "--lr", "0.1") == 0
    assert tune("dpo chat --data pairs.jsonl --lora 1", "--out", "run", "--steps", "0") == 0
    assert "the adapter of chat is multiplied out" in capsys.readouterr().err
    tuned, begun = GPT.load("chat"), GPT.load("run/last")
    assert [a.rank for a in begun.additions] == [1]
    np.testing.assert_allclose(begun([[5, 6]]), tuned([[5, 6]]), atol=1e-5)


# What cannot be used.


def write(name, *rows):
    return lambda home: (home / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def nothing(home):
    pass


ONE = {"prompt": "1?", "completion": "2"}
PAIR = {"prompt": "1?", "chosen": "2", "rejected": "3"}
LONG = "2" * 99


@pytest.mark.parametrize(
    ("way", "row"),
    [
        ("sft", ONE | {"completion": LONG}),
        ("classify", {"text": LONG, "label": "many"}),
        ("reward", PAIR | {"chosen": LONG}),
        ("dpo", PAIR | {"rejected": LONG}),
        ("kto", ONE | {"completion": LONG, "label": True}),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_is_longer_than_the_context_is_refused_or_cut(here, way, row, capfd):
    short = {"text": "few", "label": "few"} if way == "classify" else row | PAIR | {"completion": "2"}
    write("x.jsonl", row, *[short | {"prompt": f"{n}?"} for n in range(4)])(here)
    command = f"{way} base --data x.jsonl --held-out 0"
    assert tune(command, "--out", "run") == 2
    assert re.search(
        r"or --truncate, which cuts off (their ends|the ends of their responses)\n", capfd.readouterr().err
    )
    assert tune(command, "--truncate", "--out", "run") == 0
    assert re.search(r": 1 of \d+ are longer than", capfd.readouterr().err)


@pytest.mark.parametrize(
    "prepare, args, message",
    [
        (nothing, "sft", "there is no MODEL, expected the model to begin with"),
        (nothing, "sft base", "there is no --data"),
        (nothing, "sft nowhere --data chats.jsonl", "nowhere: does not exist"),
        (nothing, "sft base --data nowhere.jsonl", "nowhere.jsonl: does not exist"),
        (
            write("x.jsonl", {"messages": [{"role": "user", "content": "a"}]}),
            "sft base --data x.jsonl",
            "x.jsonl, line 1",
        ),
        (
            write("x.jsonl", {"messages": [{"role": "king", "content": "a"}]}),
            "sft base --data x.jsonl",
            "'king'",
        ),
        (write("x.jsonl", ONE), "sft base --data x.jsonl", "there are 1 items, expected two or more"),
        (nothing, "sft base --data chats.jsonl --template chatl", "template: 'chatl' is unknown"),
        pytest.param(
            lambda home: (home / "t.jinja").write_text("{% for"),
            "sft base --data chats.jsonl --template t.jinja",
            "does not parse",
            marks=pytest.mark.skipif(find_spec("jinja2") is None, reason="jinja2 is not installed"),
        ),
        (nothing, "sft base --data chats.jsonl --lora 2 --lora-targets h.*.atn", "no name fits 'h.*.atn'"),
        (nothing, "sft base --data chats.jsonl --smoothing 1", "--smoothing is 1.0"),
        (nothing, "sft base --data chats.jsonl --held-out 1", "--held-out is 1.0"),
        (nothing, "sft base --data chats.jsonl --epochs 0", "--epochs is 0.0, expected a number above 0"),
        (nothing, "sft base --data chats.jsonl --epochs 1 --steps 1", "expected one of them"),
        (nothing, "sft base --data chats.jsonl --time-limit soon", "'soon' is not a time"),
        (
            write("x.jsonl", ONE, {"prompt": "1?", "completion": "2" * 99}),
            "sft base --data x.jsonl",
            "or --truncate, which cuts off",
        ),
        (
            write("x.jsonl", PAIR | {"rejected": "2"}, PAIR),
            "dpo base --data x.jsonl",
            "line 1: chosen and rejected are equal",
        ),
        (
            nothing,
            "dpo base --data pairs.jsonl --loss ipo --label-noise 0.1",
            "--label-noise is 0.1, which ipo",
        ),
        (nothing, "dpo base --data pairs.jsonl --beta 0", "--beta is 0.0"),
        (
            write("x.jsonl", ONE | {"label": "good"}),
            "kto base --data x.jsonl",
            "line 1: label is 'good', expected true or false",
        ),
        (nothing, "kto base --data chats.jsonl", "expected prompt, completion and label"),
        (nothing, "kto base --data verdicts.jsonl --batch-size 1", "--batch-size is 1, expected 2 or more"),
        (nothing, "kto base --data verdicts.jsonl --undesirable-weight 0", "--undesirable-weight is 0.0"),
        (
            write("x.jsonl", PAIR, PAIR | {"chosen": "2" * 99, "prompt": "x"}),
            "reward base --data x.jsonl",
            "or --truncate, which cuts off their ends",
        ),
        (nothing, "classify base --data task.csv --text word --label kind", "expected 'word' among them"),
        (
            nothing,
            "classify base --data task.csv --text words --label kind --numbers",
            "expected a finite number",
        ),
        (nothing, "classify base --data task.csv", "expected 'text' among them"),
        (nothing, "sft base --data base/config.json --out base", "is not empty and holds no run"),
        (nothing, "sft --resume --out nowhere", "holds no run to resume"),
    ],
)
def test_bad_input_gets_one_line_and_status_2_and_leaves_nothing(here, capfd, prepare, args, message):
    prepare(here)
    before = content(here)
    out = [] if "--out" in args else ["--out", "run"]
    status = main(["tune", *args.split(), *out])
    printed, error = capfd.readouterr()
    assert status == 2, error
    assert printed == ""
    assert message in error
    assert error.startswith("numgpt: ")
    assert error.count("\n") == 1
    assert content(here) == before
    assert not (here / "run").exists()


def test_a_model_that_has_a_head_or_no_tokenizer_is_no_beginning(here, capfd):
    assert tune("reward", "--out", "judge") == 0
    capfd.readouterr()
    assert tune("sft judge --data chats.jsonl", "--out", "run") == 2
    assert "the model has a head for reward, expected one that writes" in capfd.readouterr().err
    GPT(CONFIG).save("mute")
    assert tune("sft mute --data chats.jsonl", "--out", "run") == 2
    assert "the model has no tokenizer, expected one to read the texts" in capfd.readouterr().err


@pytest.mark.parametrize(
    "args, message",
    [
        (
            "train --resume --out run",
            "expected a run of numgpt train: go on by numgpt tune sft --resume --out run",
        ),
        ("tune dpo --resume --out run", "run: is no run of numgpt tune dpo, expected one: go on by"),
        (
            "tune sft --resume --out run --smoothing 0.2",
            "run: the run has smoothing 0.1, expected 0.2 by the flags",
        ),
        ("tune sft --resume --out run --template plain", "the run has template chatml, expected plain"),
        ("tune sft --resume --out run --seed 4", "the run has seed 1337, expected 4"),
        ("tune sft --resume --out run --dtype float64", "the run's model is float32, expected float64"),
        ("tune sft --resume --out run --data pairs.jsonl", "line 1: has"),
        ("tune sft --resume --out run --data other.jsonl", "expected the same text"),
        ("tune sft base --data chats.jsonl --out run", "run: holds another run"),
        ("eval run", "the run was tuned on examples, expected a text: name one by --data"),
    ],
)
def test_a_run_goes_on_as_itself_alone(here, capfd, args, message):
    assert tune("sft", "--out", "run") == 0
    write("other.jsonl", *([ONE] * 24))(here)
    before = content(here)
    capfd.readouterr()
    assert main(args.split()) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert content(here) == before


@pytest.mark.parametrize(
    "recipe", [{"tune": "sft"}, {"paths": 5}, {"template": {}}, {"smoothing": "x"}, {"x": 1}]
)
def test_a_recipe_of_whatever_entries_is_refused_in_one_line(here, capfd, recipe):
    assert tune("sft", "--out", "run") == 0
    path = here / "run/last/state.json"
    state = json.loads(path.read_text())
    state["recipe"] = recipe if len(recipe) == 1 and "tune" in recipe else state["recipe"] | recipe
    path.write_text(json.dumps(state))
    capfd.readouterr()
    assert main("tune sft --resume --out run --steps 9".split()) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_run_that_is_not_there_begins_where_all_is_said(here, capsys):
    for line in ("holds no run to resume: a new one begins", "resumed at step 8"):
        steps = ["--steps", "9"] if "resumed" in line else []
        assert tune("sft", "--resume", "--out", "run", *steps) == 0
        assert line in capsys.readouterr().err
    assert Training().steps == 2000


def test_info_counts_what_an_adapter_adds(here, capsys):
    assert tune("sft base --data chats.jsonl --lora 2", "--out", "run", "--steps", "0") == 0
    capsys.readouterr()
    assert main(["info", "run"]) == 0
    assert re.search(r"^  LoRA +[1-9][\d,]*$", capsys.readouterr().out, re.MULTILINE)


def test_an_adapter_learns_six_times_as_fast_unless_told(here):
    rates = {}
    for name, more in (("all", []), ("lora", ["--lora", "2"]), ("told", ["--lora", "2", "--lr", "0.001"])):
        words = ["tune", "sft", "base", "--data", "chats.jsonl", "--out", name, "--steps", "0"]
        assert main([*words, *more]) == 0
        rates[name] = json.loads(Path(name, "last/state.json").read_text())["training"]["lr"]
    assert rates["lora"] == pytest.approx(6 * rates["all"]) and rates["told"] == 0.001
