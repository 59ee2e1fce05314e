"""Pictures of runs that learn from rewards: lines are the numbers of the log, panels are of what it has."""

import importlib
import json

import numpy as np
import pytest

from numgpt import InputError, plots
from numgpt.__main__ import main

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
matplotlib.use("Agg")
importlib.import_module("matplotlib.pyplot")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    matplotlib.pyplot.close("all")


def entries(iterations, each, *names):
    """The log of a run: what an iteration says stands at its first step, what is clipped at each."""
    found = []
    for step in range(1, iterations * each + 1):
        entry = {"step": step, "loss": 0.0, "norm": 1.0, "lr": 1e-3, "tokens": 4, "tokens_per_s": 8}
        entry["clip_fraction"] = float(RNG.random()) if (step - 1) % each else 0.0
        if (step - 1) % each == 0:
            entry |= {name: float(RNG.standard_normal()) for name in ("reward", "kl", "entropy", *names)}
        found.append(entry)
    return found


GROUPS, CRITIC = entries(6, 1, "no_signal"), entries(5, 4, "explained_variance")


def line(figure, gid):
    (found,) = (line for ax in figure.axes for line in ax.lines if line.get_gid() == gid)
    return np.array(found.get_data(), float)


def titles(figure):
    return [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes if ax.axison]


@pytest.mark.parametrize("log", [GROUPS, CRITIC], ids=["groups", "critic"])
def test_lines_are_the_numbers_of_iterations(log):
    figure = plots.rewards(plots.Run("r", log))
    begun = [e for e in log if "reward" in e]
    for name in ("reward", "kl", "entropy"):
        expected = [[e["step"] for e in begun], [e[name] for e in begun]]
        np.testing.assert_array_equal(line(figure, f"{name} 0"), expected)
    each = len(log) // len(begun)
    clipped = np.array([e["clip_fraction"] for e in log]).reshape(-1, each).mean(1)
    np.testing.assert_allclose(line(figure, "clip_fraction 0")[1], clipped, rtol=1e-12)


def test_panels_are_there_where_a_run_has_their_numbers():
    both = titles(plots.rewards([plots.Run("a", GROUPS), plots.Run("b", CRITIC)]))
    assert "groups without signal" in both and "what the critic knew" in both
    alone = titles(plots.rewards(plots.Run("a", GROUPS)))
    assert alone == [title for title in both if title != "what the critic knew"]
    assert "length of responses" not in both


def test_runs_may_be_drawn_over_tokens_and_smoothed():
    run = plots.Run("r", CRITIC)
    figure = plots.rewards({"mine": run}, x="tokens", smooth=2)
    x, y = line(figure, "reward 0")
    steps = run.rewards["step"]
    np.testing.assert_array_equal(x, 4 * steps)
    np.testing.assert_allclose(y[1:], (run.rewards["reward"][1:] + run.rewards["reward"][:-1]) / 2)


def test_what_a_killed_run_logged_twice_counts_once():
    again = [e | {"reward": 9.0} if "reward" in e else e for e in CRITIC[8:]]
    run = plots.Run("r", [*CRITIC[:18], *again])
    assert run.rewards["step"].tolist() == [1, 5, 9, 13, 17]
    assert run.rewards["reward"].tolist()[2:] == [9.0] * 3
    killed = plots.Run("r", [*CRITIC[:18], *CRITIC[8:10]])
    assert killed.rewards["step"].tolist() == [1, 5, 9]


def test_a_run_without_rewards_is_refused():
    losses = plots.Run("r", [{"step": 1, "loss": 2.0}])
    with pytest.raises(
        InputError, match="^r: its log has no rewards, expected those of numgpt tune grpo or p"
    ):
        plots.rewards([plots.Run("a", GROUPS), losses])
    assert not losses.has_rewards and plots.Run("a", GROUPS).has_rewards
    known = plots.Run("a", [{"step": 1, "reward": None}])
    assert not known.has_rewards


def test_a_table_has_rewards_where_all_runs_have_some():
    run = plots.Run("a", GROUPS)
    table = plots.table(run)
    assert table.head[-4:] == ("first reward", "last reward", "last KL", "tokens/s")
    assert table.rows[0][-4:-1] == tuple(
        f"{value:.4f}" for value in (GROUPS[0]["reward"], GROUPS[-1]["reward"], GROUPS[-1]["kl"])
    )
    assert "best held-out" in plots.table([run, plots.Run("b", [{"step": 1, "loss": 2.0}])]).head


def test_the_command_draws_rewards_unless_it_is_asked_for_something_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, log in (("a", GROUPS), ("b", CRITIC), ("c", [{"step": 1, "loss": 2.0}])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log))
    assert main("plot a b".split()) == 0
    assert capsys.readouterr().err == "picture: rewards.png\n"
    assert main("plot a b --rewards -o x.svg --x tokens --smooth 2 --log-x".split()) == 0
    assert "reward 1" in (tmp_path / "x.svg").read_text()
    assert main("plot a c".split()) == 0
    assert capsys.readouterr().err.endswith("picture: loss.png\n")
    assert main("plot c --rewards".split()) == 2
    assert "c: its log has no rewards" in capsys.readouterr().err
    assert main("plot a --rewards -o a".split()) == 2
    assert capsys.readouterr().err.count("\n") == 1
