"""The training loop: the same bits after any interruption, a log, the best model, a name for what fails."""

import dataclasses
import datetime
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from shares import slow

from numgpt import GPT, Config, InputError, Layer, Training
from numgpt.data import corpus as data
from numgpt.layers import transformer
from numgpt.training import distribution
from numgpt.training import progress as progress_module
from numgpt.training.progress import Progress
from numgpt.training.trainer import NotFinite, Trainer

CONFIG = {"block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8, "bias": False}
TRAINING = Training(
    steps=24, batch_size=2, accumulate=2, warmup=4, eval_interval=6, eval_iters=2, save_interval=5, seed=3
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 4000)))
    return path


def trainer(text, out=None, training=TRAINING, dropout=0.2, dtype="float32"):
    corpus = data.prepare([text])
    config = Config(vocab_size=corpus.tokenizer.vocab_size, dropout=dropout, **CONFIG)
    return Trainer(GPT(config, training.seed, dtype, corpus.tokenizer), corpus, training, out)


def bits(run):
    """The bytes of all that a run goes on from, and of its best model."""
    last = ("model.safetensors", "optimizer.safetensors", "state.json")
    files = [run / "last" / name for name in last] + [run / "best" / "model.safetensors"]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def log(run):
    """The entries of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_log_that_is_no_file_is_refused(text, tmp_path):
    run = tmp_path / "run"
    trainer(text, run, Training(steps=1, eval_iters=1)).run()
    for place in (lambda p: os.mkfifo(p), lambda p: p.symlink_to("/dev/zero"), lambda p: p.mkdir()):
        (run / "log.jsonl").unlink()
        place(run / "log.jsonl")
        again = Trainer(GPT.load(run / "last"), trainer(text).corpus, Training(steps=2, eval_iters=1), run)
        again.resume()
        with pytest.raises(InputError, match="is a (pipe|device|folder), expected a file"):
            again.run()


def test_each_line_of_the_log_has_its_time(text, tmp_path):
    begun = datetime.datetime.now(datetime.UTC)
    trainer(text, tmp_path / "run").run()
    times = [datetime.datetime.fromisoformat(entry["time"]) for entry in log(tmp_path / "run")]
    assert begun - datetime.timedelta(seconds=1) < times[0]
    assert times == sorted(times) and times[-1] <= datetime.datetime.now(datetime.UTC)


def test_batches_are_drawn_one_by_one_however_many_a_step_has(text, monkeypatch):
    run = trainer(text, training=Training(accumulate=2_000_000, batch_size=2, eval_iters=1))
    draw, draws = run.objective.batch, []

    def drawn(step, n):
        draws.append(n)
        batch = draw(step, n)
        assert batch.of == 2_000_000 * 2 * 8
        return dataclasses.replace(batch, layer=Layer(interrupted, interrupted))

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.objective, "batch", drawn)
    with pytest.raises(KeyboardInterrupt):
        run.step()
    assert draws == [0]


def test_weights_far_beyond_their_start_are_warned_of_once(text, tmp_path):
    run = trainer(text, tmp_path / "run", Training(steps=3, eval_interval=1, eval_iters=1), dropout=0.0)
    run.evaluate()
    run.model.params["wte.weight"][0, 0] = 2e4
    with pytest.warns(UserWarning, match=r"the largest weight is 2e\+04, and was 1 at the start") as warned:
        run.run()
    assert len(warned) == 1
    longer = dataclasses.replace(run.training, steps=4)
    again = Trainer(GPT.load(tmp_path / "run" / "last"), run.corpus, longer, run.out)
    again.resume()
    lines = (run.out / "log.jsonl").read_text().splitlines()
    start = json.dumps({"step": 0, "held_out_loss": 2.0, "largest_weight": 1.0})
    (run.out / "log.jsonl").write_text("\n".join([start, *lines[1:]]) + "\n")
    with pytest.warns(UserWarning, match="and was 1 at the start"):
        again.run()


def test_three_rises_of_the_held_out_loss_are_said_once(text, tmp_path, capfd, monkeypatch):
    run = trainer(text, tmp_path / "run", Training(steps=6, eval_interval=1, eval_iters=1))
    losses = iter([4.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5])
    monkeypatch.setattr(distribution, "held_out_loss", lambda *_: next(losses))
    with Progress(6) as progress:
        run.run(progress)
    lines = [line for line in capfd.readouterr().err.splitlines() if "overfitting" in line]
    assert lines == [f"overfitting since step 1; best is kept in {tmp_path / 'run' / 'best'}"]
    assert [e["step"] for e in log(tmp_path / "run") if "overfitting_since" in e] == [4]


def test_where_there_is_no_terminal_a_line_comes_every_half_minute(text, capfd, monkeypatch):
    seconds = iter(range(0, 10_000, 12))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(seconds)))
    run = trainer(text, training=Training(steps=10, eval_interval=100, eval_iters=1))
    with Progress(10) as progress:
        run.run(progress)
    lines = [line for line in capfd.readouterr().err.splitlines() if "elapsed" in line]
    assert [line.split()[1] for line in lines] == ["3", "6", "9"]
    assert re.fullmatch(
        r"step      3 of 10  loss \d\.\d{4}, [\d,]+ tok/s, 00:36 elapsed, 01:24 left", lines[0]
    ), lines[0]


def test_a_terminal_that_is_0_columns_wide_has_a_bar():
    main, other = pty.openpty()
    code = "from numgpt.training.progress import Progress\nwith Progress(5) as p: p.bar.update()"
    with open(other, "w") as terminal:
        subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True)
        time.sleep(0.1)
        assert b"/5 [" in os.read(main, 10_000)
    os.close(main)


class StopAt:
    """Asks the trainer to stop once it has done so many steps, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def update(self, trainer, entry):
        if entry.get("loss") and entry["step"] == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("stops", [(1,), (6, 7, 13), (5, 23)])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(text, tmp_path, stops):
    trainer(text, tmp_path / "through").run()
    for stop in (*stops, None):
        run = trainer(text, tmp_path / "stopped")
        if (tmp_path / "stopped").exists():
            run.model = GPT.load(tmp_path / "stopped" / "last")
            run = Trainer(run.model, run.corpus, TRAINING, tmp_path / "stopped")
            run.resume()
        run.run(StopAt(stop))
        assert run.stopped == (stop is not None)
        assert run.updates == (stop or TRAINING.steps)
    assert bits(tmp_path / "through") == bits(tmp_path / "stopped")
    through, stopped = (
        [
            {k: v for k, v in entry.items() if k not in ("tokens_per_s", "time")}
            for entry in log(tmp_path / run)
        ]
        for run in ("through", "stopped")
    )
    assert through == stopped


def test_a_run_that_was_stopped_goes_on_by_another_run(text, tmp_path):
    trainer(text, tmp_path / "through").run()
    run = trainer(text, tmp_path / "stopped")
    for stop in (1, 7, None):
        run.run(StopAt(stop))
        assert (run.stopped, run.updates) == (stop is not None, stop or TRAINING.steps)
    assert bits(tmp_path / "through") == bits(tmp_path / "stopped")


@pytest.mark.parametrize("moves_first", [False, True], ids=["before it", "after it"])
def test_a_run_that_was_interrupted_within_an_update_goes_on_from_its_last_checkpoint(
    text, tmp_path, monkeypatch, moves_first
):
    trainer(text, tmp_path / "through").run()
    run = trainer(text, tmp_path / "run")
    run.run(StopAt(7))
    move = run.optimizer.step

    def interrupted(*args):
        if moves_first:
            move(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.optimizer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    for work in (run.run, run.step, lambda: run.save("last")):
        with pytest.raises(
            InputError, match="was interrupted within update 8, expected parameters of one step"
        ):
            work()
    run.model.params.flat[:] = GPT.load(tmp_path / "run" / "last").params.flat
    run.resume()
    run.run()
    assert bits(tmp_path / "through") == bits(tmp_path / "run")


def test_the_log_has_one_line_a_step_and_one_a_measurement(text, tmp_path):
    trainer(text, tmp_path / "run").run()
    entries = log(tmp_path / "run")
    steps = [e for e in entries if "loss" in e]
    assert [e["step"] for e in steps] == list(range(1, 25))
    assert all({"loss", "norm", "lr", "tokens_per_s"} <= set(e) for e in steps)
    assert [e["step"] for e in entries if "held_out_loss" in e] == [0, 6, 12, 18, 24]
    best = GPT.load(tmp_path / "run" / "best")
    run = trainer(text)
    run.model = best
    assert run.evaluate()["held_out_loss"] == min(e["held_out_loss"] for e in entries if "held_out_loss" in e)


def test_training_learns_text_with_a_pattern(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefgh" * 400)
    run = trainer(
        tmp_path / "text.txt",
        training=Training(
            steps=150, batch_size=4, lr=3e-2, min_lr=3e-3, warmup=10, eval_interval=50, eval_iters=2
        ),
        dropout=0.0,
    )
    run.run()
    assert run.best < 0.5  # the pattern is certain but for the first token of a window


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (
            lambda m: m.params["h.0.mlp.c_fc.weight"][0].fill(3e38),
            "step 1: the value h.0.mlp.c_fc is the first that is not finite",
        ),
        (
            lambda m: m.params["wte.weight"].__setitem__((0, 0), np.nan),
            "step 1: the parameter wte.weight is not finite",
        ),
    ],
)
def test_what_is_not_finite_is_named(text, corrupt, message):
    run = trainer(text, dropout=0.0)
    corrupt(run.model)
    with pytest.raises(NotFinite, match=message):
        run.step()


def test_a_gradient_that_is_not_finite_is_named(text):
    run = trainer(text, dropout=0.0)
    draw = run.objective.batch

    def forward(r, *inputs):
        r.edit_grad["h.0.attn"] = lambda g: g * np.inf
        return transformer.loss_forward(r, *inputs)

    layer = Layer(forward, transformer.loss_backward)
    run.objective.batch = lambda *at: dataclasses.replace(draw(*at), layer=layer)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(NotFinite, match=r"the gradient of h.0.attn is the first that is not finite"),
    ):
        run.step()


def test_text_that_is_too_short_is_an_error(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefghij")
    with pytest.raises(InputError, match=r"the held-out part has [01] tokens, expected at least block_size"):
        trainer(tmp_path / "text.txt")


def test_another_text_does_not_resume_a_run(text, tmp_path):
    trainer(text, tmp_path / "run", Training(steps=1, eval_iters=1)).run()
    text.write_text(text.read_text()[::-1])
    with pytest.raises(InputError, match="differs from it; expected the same text"):
        trainer(text, tmp_path / "run").resume()


def test_a_run_without_a_folder_keeps_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    trainer(text).run()
    assert set(tmp_path.rglob("*")) == before


def test_a_run_says_what_it_is_and_where_it_stands(text, tmp_path):
    run = trainer(text, tmp_path / "run")
    run.step()
    run.evaluate()
    assert repr(run) == (
        f"<Trainer of {run.model.n_params:,} parameters on {run.corpus.source}: step 1 of 24, best held-out"
        f" loss {run.best:.4f}, in {tmp_path / 'run'}>"
    )


def test_a_run_without_a_folder_has_nothing_to_resume_from(text):
    with pytest.raises(InputError, match="no folder to resume from, expected one: give out"):
        trainer(text).resume()


# Begins with a scale of fp16 that is too large, and doubles it soon: steps are left out all along the way.
EAGER = (
    "import sys; from numgpt.training import loss_scale; from numgpt.__main__ import main;"
    " loss_scale.FIRST, loss_scale.CLEAN = 2.0**26, 3; sys.exit(main())"
)
FP16 = ("--precision=fp16", "--emulate-precision")
STOCHASTIC = ("--precision=bf16", "--emulate-precision", "--no-masters")


def command(text, out, *flags):
    begin = ["-c", EAGER] if FP16[0] in flags else ["-m", "numgpt"]
    shape = [f"--{k.replace('_', '-')}={v}" for k, v in CONFIG.items() if k != "bias"]
    flags = [
        *shape,
        "--tokenizer=chars",
        "--steps=60",
        "--batch-size=2",
        "--dropout=0.1",
        "--eval-interval=7",
        "--eval-iters=1",
        "--save-interval=3",
        "--sample-tokens=0",
        *flags,
    ]
    return [
        sys.executable,
        *begin,
        "train",
        "--data",
        str(text),
        "--out",
        str(out),
        "--resume",
        *flags,
    ]


def kill_storm(text, tmp_path, kills, seed, flags):
    """Kill the same run again and again, let it end, and compare with one that ran through.

    Each time it is killed a random while after it has gone further than before by a random number of steps. A
    run that ends before its kill counts for nothing: the storm begins anew with more steps.
    """
    draw, steps, killed = np.random.default_rng(seed), 60 * kills, tmp_path / "killed"
    reached = []
    while len(reached) < kills:
        further = written(killed) + draw.integers(1, 12)
        with (
            open(tmp_path / "stderr", "w+") as said,
            subprocess.Popen(
                command(text, killed, f"--steps={steps}", *flags), stdout=subprocess.DEVNULL, stderr=said
            ) as process,
        ):
            while process.poll() is None and written(killed) < further:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.01))
            process.kill()
            if process.wait() != -signal.SIGKILL:
                assert process.returncode == 0, (tmp_path / "stderr").read_text()
                shutil.rmtree(killed)
                reached, steps = [], 2 * steps
                continue
        state = killed / "last" / "state.json"
        reached.append(json.loads(state.read_text())["updates"] if state.exists() else 0)
    assert len({*reached}) > kills // 2, reached  # most of the runs went on from a checkpoint, and further
    for out in ("killed", "through"):
        last = subprocess.run(
            command(text, tmp_path / out, f"--steps={steps}", *flags), capture_output=True, text=True
        )
        assert last.returncode == 0, last.stderr
    assert bits(tmp_path / "through") == bits(tmp_path / "killed")
    entries = log(tmp_path / "killed")
    assert [e["step"] for e in entries if "loss" in e] == list(range(1, steps + 1))
    assert timeless(entries) == timeless(log(tmp_path / "through"))
    assert any("skipped" in e for e in entries) == (flags == FP16)
    assert {p.name for p in killed.iterdir()} == {"last", "best", "log.jsonl"}


def written(run):
    """How many lines a run's log has."""
    path = run / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def timeless(entries):
    """Entries of a log without what a clock says."""
    return [{k: v for k, v in e.items() if k not in ("time", "tokens_per_s")} for e in entries]


STORMS = [
    (6, 2, ()),
    (4, 3, FP16),
    slow(4, 4, STOCHASTIC),
    slow(20, 0, ()),
    slow(20, 5, FP16),
    slow(100, 1, ()),
]


@pytest.mark.parametrize("kills, seed, flags", STORMS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(text, tmp_path, kills, seed, flags):
    kill_storm(text, tmp_path, kills, seed, flags)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(text, tmp_path):
    trainer(text, tmp_path / "run", Training(steps=1, eval_iters=1)).run()
    shutil.rmtree(tmp_path / "run" / "last")
    done = subprocess.run(command(text, tmp_path / "run"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_that_diverged_is_not_saved_and_says_so(text, tmp_path):
    run = trainer(text, tmp_path / "run", Training(steps=3, lr=1e39, warmup=0, eval_iters=1, save_interval=1))
    with pytest.raises(NotFinite, match=r"step 1: .* is not finite|step 2: "):
        run.run()
    assert np.isfinite(GPT.load(tmp_path / "run" / "last").params.flat).all()
    assert all(np.isfinite(v) for entry in log(tmp_path / "run") for k, v in entry.items() if k != "time")
