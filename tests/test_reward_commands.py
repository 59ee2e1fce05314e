"""numgpt tune ppo, grpo and rloo: from prompts and a reward to a report; runs that were killed go on."""

import argparse
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from numgpt import GPT, Config, Head, LoRA, Trainer, tuning
from numgpt.__main__ import main
from numgpt.architecture.tunings import TUNINGS
from numgpt.commands import reinforcement_flags, reinforcement_reports
from numgpt.commands.tune import ACTIONS
from numgpt.data import Conversation, Message, Prompt
from numgpt.tokenizers import Characters
from numgpt.tuning import policy_gradient, recipes

LETTERS = "\n0123456789?abcd"
CONFIG = Config(vocab_size=16, block_size=24, n_layer=1, n_head=2, n_embd=8, dropout=0.1)
QUICK = (
    "--prompts prompts.jsonl --template bare --max-new-tokens 5 --batch-size 3 --iterations 4 --lr 1e-2"
    " --eval-interval 4 --save-interval 2"
)
# Each way to learn from rewards, once with all parameters and once with an adapter.
WAYS = {
    "grpo": "grpo base --reward mine.py:letters --group 3",
    "grpo, two epochs": "grpo base --reward mine.py:letters --group 3 --epochs-per-rollout 2 --minibatches 2",
    "dr_grpo, LoRA": "grpo base --reward mine.py:letters --group 2 --advantage dr_grpo --kl rho_k3 --lora 2",
    "rloo, model": "rloo base --reward judge --group 2 --beta 0.1 --normalise-reward",
    "rloo, LoRA": "rloo base --reward judge --group 2 --lora 2",
    "ppo": "ppo base --reward mine.py:letters --epochs-per-rollout 2 --adaptive-kl 0.1 --whiten-rewards",
    "ppo, LoRA": "ppo base --reward judge --lora 2 --missing-end-reward -1 --epochs-per-rollout 2",
}
MINE = """
def letters(prompt, response, fields):
    return sum(letter in "abcd" for letter in response)


def broken(prompt, response, fields):
    return 1 / 0


def nan(prompt, response, fields):
    return float("nan")


def two(a, b):
    return 0
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, a reward model, a function and prompts."""
    home = tmp_path_factory.mktemp("home")
    GPT(CONFIG, seed=3, tokenizer=Characters(LETTERS)).save(home / "base")
    judge = GPT(CONFIG, seed=4, tokenizer=Characters(LETTERS)).extended(Head(task="reward"))
    judge.params.flat[...] += 0.3 * np.random.default_rng(0).standard_normal(judge.n_params).astype("float32")
    from numgpt.data import BARE

    judge.template = BARE.state()
    judge.save(home / "judge")
    (home / "mine.py").write_text(MINE)
    rows = [{"prompt": f"{n}?", "answer": str(n + 1)} for n in range(24)]
    (home / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
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


def entries(folder):
    """The entries of a log without what the clock says."""
    lines = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in e.items() if k not in ("time", "tokens_per_s")} for e in lines]


# From prompts to a report.


@pytest.mark.parametrize("way", WAYS)
def test_a_run_tells_rewards_divergence_and_answers(here, way, capsys):
    assert tune(way, "--out", "run") == 0
    out, error = capsys.readouterr()
    kind = WAYS[way].split()[0]
    assert error.startswith(f"data    {here / 'prompts.jsonl'}: 22 prompts to train on, 4 iterations of ")
    assert f"reward  {here}/" in error
    assert ("of them trained" in error) == ("--lora" in WAYS[way])
    assert "at first held-out reward " in error
    assert error.count(", KL ") >= 1 and error.count("held-out reward ") >= 3
    assert "   (reward " in error and "loss" not in error
    assert ("no signal" in error) == (kind != "ppo")
    assert ("explained variance" in error) == (kind == "ppo")
    assert out.count("→") == 2 and out.count("(reward ") == 2  # two of 24 prompts are held out
    assert "nats a response; " in error and "talk to it with: numgpt chat run" in error
    log = entries(here / "run")
    begun = [e for e in log if "reward" in e]
    assert len(begun) == 4 and all("clip_fraction" in e for e in log)
    of_all = {"reward", "reward_std", "kl", "entropy", "length", "ended", "distinct"}
    of_kind = {"explained_variance", "value_loss", "beta"} if kind == "ppo" else {"no_signal"}
    assert all(of_all | of_kind <= set(e) for e in begun)
    model = GPT.load("run")
    assert model.config.dropout == 0
    assert any(isinstance(a, LoRA) for a in model.additions) == ("--lora" in WAYS[way])
    assert [a.task for a in model.additions if isinstance(a, Head)] == (["value"] if kind == "ppo" else [])


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_goes_on_to_the_bits_of_one_that_ran_through(here, way, monkeypatch):
    assert tune(way, "--out", "whole") == 0

    class Killed(BaseException):
        pass

    step = Trainer.step
    each = 2 if "epochs" in WAYS[way] else 1
    each *= 2 if "minibatches" in WAYS[way] else 1

    def until_the_last_iteration(self):
        if self.updates == 3 * each + each // 2:
            raise Killed
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", until_the_last_iteration)
        with pytest.raises(Killed):
            tune(way, "--out", "part")
    action = WAYS[way].split()[0]
    monkeypatch.chdir("/")  # paths in the recipe are whole
    assert main(["tune", action, "--resume", "--out", str(here / "part")]) == 0
    assert content(here / "part/last") == content(here / "whole/last")
    assert entries(here / "part") == entries(here / "whole")


def test_a_reward_rises_and_a_picture_shows_it(here, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    way = "grpo base --reward mine.py:letters --beta 0 --group 4"
    assert tune(way, "--iterations", "30", "--lr", "3e-2", "--out", "run") == 0
    log = [e for e in entries(here / "run") if "reward" in e]
    assert log[-1]["reward"] > log[0]["reward"] + 1 and log[-1]["kl"] > 0.5 > abs(log[0]["kl"])
    capsys.readouterr()
    assert main("plot run".split()) == 0
    out, error = capsys.readouterr()
    assert error == "picture: rewards.png\n" and Path("rewards.png").stat().st_size > 10_000
    assert out.splitlines()[0].split("  ")[-1].strip() == "tokens/s" and "first reward" in out
    assert main("plot run --curves -o curves.svg --smooth 3".split()) == 0


def test_answers_come_as_often_as_they_are_asked_for(here, capsys):
    way = "grpo base --reward mine.py:letters --group 2"
    assert tune(way, "--out", "run", "--sample-every", "1", "--eval-interval", "100") == 0
    error = capsys.readouterr().err
    assert error.count("(reward ") == 4 * 3  # three prompts in each of four iterations
    assert error.count(", KL ") == 1  # at the end
    assert tune(way, "--out", "other", "--held-out", "0", "--iterations", "1") == 0
    out, error = capsys.readouterr()
    assert "held-out" not in error and "answers to trained prompts" in error and out.count("→") == 4


def test_a_run_whose_time_is_over_says_how_to_go_on(here, capsys):
    way = "ppo base --reward mine.py:letters --epochs-per-rollout 2"
    assert tune(way, "--iterations", "100000", "--time-limit", "0.3s", "--out", "run") == 0
    error = capsys.readouterr().err
    steps = json.loads((here / "run/last/state.json").read_text())["updates"]
    assert 0 < steps < 100000 and steps % 2 == 0
    assert "the time is over: reward " in error
    assert f"stopped at step {steps} of 200000, saved; go on with: numgpt tune ppo --resume" in error
    more = f"tune ppo --resume --out run --iterations {steps // 2 + 1}".split()
    assert main(more) == 0
    capsys.readouterr()
    assert main(more) == 0
    error = capsys.readouterr().err
    assert "run: was complete" in error and f"--iterations {steps + 2}" in error
    assert "what its responses are worth stands in its log" in error


def test_normalised_rewards_keep_their_shift_and_scale_when_a_run_goes_on(here, capsys):
    assert tune("rloo, model", "--out", "run", "--iterations", "1") == 0
    recipe = json.loads((here / "run/last/state.json").read_text())["recipe"]
    assert recipe["reward_scale"] not in (0.0, 1.0) and recipe["reward_shift"] != 0.0
    assert main("tune rloo --resume --out run --iterations 2".split()) == 0
    again = json.loads((here / "run/last/state.json").read_text())["recipe"]
    assert again == recipe
    log = entries(here / "run")
    assert abs(log[0]["reward"]) < 1 and log[0]["reward_std"] < 3


def test_responses_fit_into_a_short_context_unless_told(here):
    words = "--prompts prompts.jsonl --iterations 0 --template bare --out run"
    assert main(["tune", *WAYS["grpo"].split(), *words.split()]) == 0
    assert json.loads((here / "run/last/state.json").read_text())["recipe"]["max_new_tokens"] == 12


def test_a_critic_is_left_out_where_nothing_asks_it_and_kept_where_something_does(here, capsys):
    assert tune("ppo", "--out", "first") == 0
    for name, kind in (("second", "ppo"), ("third", "grpo")):
        way = f"{kind} first --reward mine.py:letters --group 2"
        assert tune(way, "--iterations", "0", "--out", name) == 0
        heads = [a for a in GPT.load(name).additions if isinstance(a, Head)]
        assert len(heads) == (kind == "ppo")
    first, third = GPT.load("first"), GPT.load("third")
    np.testing.assert_array_equal(first([[1, 2, 3]]), third([[1, 2, 3]]))
    capsys.readouterr()
    assert tune("ppo judge --reward mine.py:letters", "--out", "fourth") == 2
    assert "the model has a head for reward" in capsys.readouterr().err


def test_what_the_help_says_of_a_choice_is_what_the_objectives_know():
    assert set(reinforcement_flags.ADVANTAGES) | {"rloo"} == set(policy_gradient.GROUPS)
    assert set(reinforcement_flags.DIVERGENCES) == set(policy_gradient.KLS)
    assert reinforcement_flags.REDUCTIONS == policy_gradient.REDUCTIONS
    for kind in ("ppo", "grpo", "rloo"):
        parser = argparse.ArgumentParser()
        ACTIONS[kind].add_flags(parser)
        flags = {action.dest for action in parser._actions}
        names = {"clip": "cliprange", "clip_high": "cliprange_high"}
        names |= {"epochs": "epochs_per_rollout", "batches": "minibatches"}
        left = {names.get(name, name) for name in TUNINGS[kind].options} - flags
        assert left == (set() if kind in ("ppo", "grpo") else {"advantage"})
        assert not {"top_k", "top_p"} & flags


# Answers that become alike.


@pytest.mark.parametrize(
    ("first", "latest", "alike"),
    [
        ((0.0, 1.0, 1.0), (2.0, 0.1, 2 / 64), True),  # 64 responses to 8 prompts: two texts
        ((0.0, 1.0, 1.0), (2.0, 0.1, 4 / 64), True),
        ((0.0, 1.0, 1.0), (2.0, 0.1, 8 / 64), False),  # each prompt its own
        ((0.0, 1.0, 1.0), (0.2, 0.1, 2 / 64), False),  # the reward has not risen
        ((0.0, 1.0, 3 / 64), (2.0, 0.1, 2 / 64), False),  # there were few at first
        ((0.0, 1.0, 4 / 64), (2.0, 0.1, 2 / 64), True),
    ],
)
def test_answers_are_alike_where_prompts_share_them(first, latest, alike):
    names = ("reward", "reward_std", "distinct")
    entries = [dict(zip(names, numbers)) for numbers in (first, latest)]
    assert reinforcement_reports.are_alike(*entries, prompts=8, responses=64) is alike
    assert not reinforcement_reports.are_alike({}, entries[1], 8, 64)


def test_a_model_that_says_the_same_to_all_is_told_of_once(here, capsys):
    (here / "only.py").write_text(
        "def a(prompt, response, fields):\n    return response.count('a') - 5 * (response != 'a' * 5)\n"
    )
    way = "grpo base --reward only.py:a --beta 0 --group 8 --held-out 0"
    more = "--iterations 60 --batch-size 8 --lr 0.1 --eval-interval 100 --out run"
    assert tune(way, *more.split()) == 0
    error = capsys.readouterr().err
    assert error.count("numgpt: the reward has risen from ") == 1
    assert "answers to 8 prompts are " in error and "a larger --beta keeps it near" in error


# What cannot be used.


def nothing(home):
    pass


def written(name, text):
    return lambda home: (home / name).write_text(text)


BAD = [
    (nothing, "grpo base --reward mine.py:letters", "there is no --prompts, expected"),
    (nothing, "grpo base --prompts prompts.jsonl", "there is no --reward, expected the model to begin with"),
    (nothing, "grpo --prompts prompts.jsonl --reward mine.py:letters", "there is no MODEL"),
    (nothing, "grpo base --prompts nowhere --reward mine.py:letters", "nowhere: does not exist"),
    (written("x.jsonl", '{"x": 1}\n'), "grpo base --prompts x.jsonl --reward mine.py:letters", "line 1: has"),
    (nothing, "{} --reward mine.py:broken", "mine.py:broken raised ZeroDivisionError: division by zero"),
    (nothing, "{} --reward mine.py:nan", "mine.py:nan gave nan, expected a finite number, for the prompt '"),
    (nothing, "{} --reward mine.py:two", "mine.py:two: takes (a, b), expected a function of (prompt, resp"),
    (nothing, "{} --reward mine.py:none", "there is no none, expected one of"),
    (nothing, "{} --reward nowhere", "nowhere: does not exist"),
    (nothing, "{} --reward base", "the model has no head, expected one for reward"),
    (nothing, "{} --reward mine.py:letters --normalise-reward", "is a function, expected a reward model to"),
    (nothing, "{} --reward mine.py:letters --temperature 0", "--temperature is 0.0, expected"),
    (nothing, "{} --reward mine.py:letters --cliprange 0", "--cliprange is 0.0, expected"),
    (nothing, "{} --reward mine.py:letters --epochs-per-rollout 0", "--epochs-per-rollout"),
    (nothing, "{} --reward mine.py:letters --max-new-tokens 23", "jsonl, line 11: the prompt has 3 t"),
    (nothing, "{} --reward mine.py:letters --max-new-tokens 25", "--max-new-tokens is 25, expected at most"),
    (nothing, "{} --reward mine.py:letters --held-out 1", "--held-out is 1.0"),
    (nothing, "{} --reward mine.py:letters --top-k 3", "--top-k"),
    (nothing, "{} --reward mine.py:letters --out .", "is not empty and holds no run"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize(("prepare", "args", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_gets_one_line_and_status_2_and_leaves_nothing(here, capfd, kind, prepare, args, message):
    prepare(here)
    before = content(here)
    words = args.replace("{}", "grpo base --prompts prompts.jsonl --template bare").replace("grpo", kind)
    out = [] if "--out" in args else ["--out", "run"]
    status = main(["tune", *words.split(), "--batch-size", "4", *out])
    printed, error = capfd.readouterr()
    assert status == 2, error
    assert printed == ""
    assert message in error, error
    assert error.startswith("numgpt: ") and error.count("\n") == 1
    assert {n: c for n, c in content(here).items() if "__pycache__" not in str(n)} == before
    assert not (here / "run").exists()


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_groups_of_one_are_refused(here, capfd, kind):
    assert tune(f"{kind} base --reward mine.py:letters --group 1", "--out", "run") == 2
    error = capfd.readouterr().err
    assert f"tune {kind}: --group is 1, expected 2 or more: a response is compared" in error
    assert error.count("\n") == 1 and not (here / "run").exists()


def test_a_reward_that_fails_within_a_run_loses_nothing(here, capfd, monkeypatch):
    """What was learned so far is saved, and once the function is mended the run goes on to the same bits."""
    flaky = "import os\n\n\ndef letters(prompt, response, fields):\n"
    flaky += "    if os.path.exists('stop'):\n        raise ValueError('stopped')\n"
    (here / "flaky.py").write_text(flaky + "    return sum(letter in 'abcd' for letter in response)\n")
    way = "grpo base --reward flaky.py:letters --group 2 --held-out 0"
    assert tune(way, "--save-interval", "100", "--out", "whole") == 0
    step = Trainer.step

    def stop_at_3(self):
        if self.updates == 3:
            (here / "stop").touch()
        return step(self)

    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at_3)
        assert tune(way, "--save-interval", "100", "--out", "part") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("numgpt: ") and "prompts.jsonl, line " in error
    assert "flaky.py:letters raised ValueError: stopped" in error
    assert "the run is saved at step 3: mend it and go on by numgpt tune grpo --resume --out part" in error
    (here / "stop").unlink()
    assert main("tune grpo --resume --out part".split()) == 0
    assert content(here / "part/last") == content(here / "whole/last")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("tune ppo --resume --out run", "run: is no run of numgpt tune ppo, expected one: go on by"),
        ("tune grpo --resume --out run --group 4", "run: the run has group 2, expected 4 by the flags"),
        ("tune grpo --resume --out run --cliprange 0.3", "run: the run has clip 0.2, expected 0.3"),
        ("tune grpo --resume --out run --reward judge", "run: the run has reward "),
        ("tune grpo --resume --out run --prompts other.jsonl", "expected the same"),
        ("train --resume --out run", "expected a run of numgpt train: go on by numgpt tune grpo --resume"),
    ],
)
def test_a_run_goes_on_as_itself_alone(here, capfd, args, message):
    assert tune("grpo base --reward mine.py:letters --group 2", "--out", "run") == 0
    (here / "other.jsonl").write_text("".join(f'{{"prompt": "{n}"}}\n' for n in range(24)))
    before = content(here / "run")
    capfd.readouterr()
    assert main(args.split()) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1
    assert content(here / "run") == before


@pytest.mark.parametrize(
    "entry", [{"reward": 5}, {"group": "x"}, {"epochs": 0}, {"reward_scale": 0}, {"x": 1}]
)
def test_a_recipe_of_whatever_entries_is_refused_in_one_line(here, capfd, entry):
    assert tune("grpo base --reward judge --group 2", "--out", "run", "--iterations", "1") == 0
    path = here / "run/last/state.json"
    state = json.loads(path.read_text())
    state["recipe"] |= entry
    path.write_text(json.dumps(state))
    capfd.readouterr()
    assert main("tune grpo --resume --out run --iterations 9".split()) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_equal_prompts_stay_on_one_side():
    recipe = {"paths": [], "held_out": 0.3}
    asked = [Prompt(Conversation([Message("user", str(n % 5))]), {"n": n}) for n in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "read_prompts", lambda paths: asked)
        train, held_out = recipes._prompts_of(recipe, 3)
    assert len(train) + len(held_out) == 40 and held_out
    assert not {p.text for p in train} & {p.text for p in held_out}
    assert isinstance(tuning.Reward, type)
