"""A run's folder: it belongs to one process, nothing in it gets lost, and what is read is of one state."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from numgpt import GPT, AdamW, Config, InputError, Trainer, Training
from numgpt.__main__ import main
from numgpt.commands import runs
from numgpt.data import corpus as data
from numgpt.data.text import Text
from numgpt.interchange import checkpoint
from numgpt.proofs.subjects import SMALL
from numgpt.storage import locks
from numgpt.storage.atomic import OLD, beside
from numgpt.tokenizers import Characters

TINY = "--preset=gpt-nano --n-layer=1 --n-head=1 --n-embd=8 --block-size=8 --batch-size=2 --eval-iters=1"
TINY += " --tokenizer=chars"
TRAINING = Training(steps=4, batch_size=2, warmup=0, eval_interval=2, eval_iters=1, save_interval=2)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 2000)))
    return path


def trainer(text, out, model=None, training=TRAINING):
    corpus = data.prepare([text])
    config = Config(
        vocab_size=corpus.tokenizer.vocab_size, block_size=8, n_layer=1, n_head=1, n_embd=8, bias=False
    )
    return Trainer(model or GPT(config, tokenizer=corpus.tokenizer), corpus, training, out)


def resumed(text, out, training=TRAINING):
    run = trainer(text, out, GPT.load(out / "last"), training)
    run.resume()
    return run


def content(folder):
    """Every file in a folder, with its bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


HOLD = """
import sys, time
from numgpt.storage import locks
with locks.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    """Starts a process that holds a folder."""
    processes = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_run_that_another_process_trains_is_refused_by_its_number_until_that_has_ended(
    text, tmp_path, holder, capfd
):
    out = tmp_path / "run"
    train = f"train --data {text} {TINY} --steps 2 --sample-tokens 0 --out {out}".split()
    resume = f"train --resume --steps 3 --sample-tokens 0 --out {out}".split()
    process = holder(out)
    assert main(train) == 2
    error = capfd.readouterr().err
    assert f"{out}: is in use by process {process.pid}, expected nobody else" in error
    assert error.count("\n") == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(train) == 0

    process = holder(out)
    before = content(out)
    assert main(resume) == 2
    assert f"is in use by process {process.pid}" in capfd.readouterr().err
    for work in (trainer(text, out).run, lambda: resumed(text, out)):
        with pytest.raises(InputError, match=f"is in use by process {process.pid}"):
            work()
    assert content(out) == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(resume) == 0
    assert {p.name for p in out.iterdir()} == {"last", "best", "log.jsonl"}


def test_a_thread_that_holds_a_folder_may_hold_it_again_and_another_may_not(tmp_path):
    refused = []

    def other():
        with pytest.raises(locks.InUse, match=f"process {os.getpid()}"), locks.held(tmp_path / "run"):
            raise AssertionError
        refused.append(True)

    with locks.held(tmp_path / "run"), locks.held(tmp_path / "." / "run"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused
    with locks.held(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists(), "a folder that was made to be held stays though it is empty"


def test_what_a_lock_holds_is_quoted_only_if_it_is_a_process(tmp_path):
    for text in (b"", b"\x1b[2J 5\n", b"1 " + b"a" * 400, b"99999999999999 x\n"):
        with locks.held(tmp_path):
            (tmp_path / locks.NAME).write_bytes(text)
            handle = os.open(tmp_path / locks.NAME, os.O_RDONLY)
            assert locks._holder(handle) == "another process"
            os.close(handle)
    os.mkfifo(tmp_path / locks.NAME)
    with pytest.raises(InputError, match="is no file"), locks.held(tmp_path):
        raise AssertionError


def test_two_runs_that_begin_at_once_get_two_folders(text, tmp_path, monkeypatch, capfd):
    """Both ask for the next number before one of them has made its folder."""
    monkeypatch.chdir(tmp_path)
    answers, new = [runs.RUNS / "1"], runs.new
    monkeypatch.setattr(runs, "new", lambda: answers.pop() if answers else new())
    train = f"train --data {text} {TINY} --steps 1 --sample-tokens 0".split()
    statuses = []
    with locks.held("runs/1"):
        thread = threading.Thread(target=lambda: statuses.append(main(train)))
        thread.start()
        thread.join()
    assert statuses == [0], capfd.readouterr().err
    assert checkpoint.is_run("runs/2/last") and not os.path.exists("runs/1")


def test_a_trainer_writes_over_no_run_but_its_own(text, tmp_path):
    out = tmp_path / "run"
    trainer(text, out).run()
    before = content(out)
    for work in (
        trainer(text, out).run,
        lambda: trainer(text, out).save("last"),
        trainer(text, out).evaluate,
    ):
        with pytest.raises(InputError, match="holds a run at step 4, from which this one does not go on"):
            work()
    assert content(out) == before

    late, early = (resumed(text, out, Training(**vars(TRAINING) | {"steps": n})) for n in (8, 6))
    early.run()
    before = content(out)
    with pytest.raises(InputError, match="holds a run at step 6, from which this one does not go on"):
        late.run()
    assert content(out) == before


class EachStep:
    """Listens to a run, and does something to it after each step."""

    def __init__(self, work):
        self.work = work

    def update(self, trainer, entry):
        if "loss" in entry:
            self.work(trainer)


def test_a_checkpoint_of_ones_own_name_is_no_affair_of_the_run(text, tmp_path):
    trainer(text, tmp_path / "through").run()
    run = trainer(text, tmp_path / "run")
    run.run(EachStep(lambda run: run.save(f"step-{run.updates}")))
    through, own = content(tmp_path / "through"), content(tmp_path / "run")
    checkpoints = [path for path in through if path.name != "log.jsonl"]
    assert [own[path] for path in checkpoints] == [through[path] for path in checkpoints]
    assert {path.parts[0] for path in own} == {"best", "last", "log.jsonl"} | {
        f"step-{n}" for n in range(1, 5)
    }

    kept = tmp_path / "run" / "step-3"
    assert GPT.load(kept).params.flat.tobytes() != run.model.params.flat.tobytes()
    shutil.copytree(kept, tmp_path / "branch" / "last")
    branch = resumed(text, tmp_path / "branch")
    assert branch.updates == 3
    branch.run()
    assert branch.model.params.flat.tobytes() == run.model.params.flat.tobytes()


NO_NAMES = ["../evil", "a/b", "/evil", "", ".", "..", ".hidden", "a.", "a\n", "ä", "x" * 101, "a\\b", "c:x"]
NOT_ONES_OWN = ["log.jsonl", "tokens", "Last", "BEST"]


@pytest.mark.parametrize("out", ["run", None], ids=["in a folder", "in none"])
def test_a_checkpoint_has_a_name_that_leaves_the_run_its_own(text, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    run = trainer(text, out)
    for names, message in ((NO_NAMES, "expected one of up to 100"), (NOT_ONES_OWN, "the run uses the name")):
        for name in names:
            with pytest.raises(InputError, match=message):
                run.save(name)
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


def test_a_run_stays_in_its_folder_wherever_the_process_goes(text, tmp_path, monkeypatch):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = trainer(text, "run")
    run.run(EachStep(lambda _: os.chdir(tmp_path / "there")))
    assert checkpoint.read_state(tmp_path / "here" / "run" / "last")["updates"] == TRAINING.steps
    assert not any((tmp_path / "there").iterdir())
    assert run.out == tmp_path / "here" / "run"


@pytest.mark.filterwarnings("default:.*goes on with clip:UserWarning")
def test_a_run_that_goes_on_with_other_settings_names_them(text, tmp_path, capfd):
    out = tmp_path / "run"
    trainer(text, out).run()
    resumed(text, out, dataclasses.replace(TRAINING, steps=9))  # without a warning
    other = dataclasses.replace(TRAINING, steps=9, lr=0.01, min_lr=0.001, seed=4)
    message = "goes on with lr 0.01 (was 0.001), min_lr 0.001 (was None), seed 4 (was 1337)"
    with pytest.warns(UserWarning, match=re.escape(message)):
        resumed(text, out, other)
    assert main(f"train --resume --out {out} --steps 5 --clip 2 --sample-tokens 0".split()) == 0
    assert f"numgpt: {out}: goes on with clip 2.0 (was 1.0)\n" in capfd.readouterr().err


def test_a_model_is_trained_on_tokens_of_its_own_alone(text):
    corpus = data.prepare([text])
    shape = {"block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 8}
    V = corpus.tokenizer.vocab_size
    other = Characters("0123456789ABCDEF"[:V])
    with pytest.raises(
        InputError, match=r"the model's tokenizer is not that of .*text.txt, expected one for"
    ):
        Trainer(GPT(Config(vocab_size=V, **shape), tokenizer=other), corpus, TRAINING)
    with pytest.raises(
        InputError, match=f"has {V} tokens, expected at most the model's vocab_size of {V - 1}"
    ):
        Trainer(GPT(Config(vocab_size=V - 1, **shape)), corpus, TRAINING)
    same = Characters(corpus.tokenizer.characters)
    for model in (GPT(Config(vocab_size=64, **shape)), GPT(Config(vocab_size=V, **shape), tokenizer=same)):
        Trainer(model, corpus, TRAINING)


def test_moments_go_on_with_the_model_that_they_were_saved_with_and_no_other(text, tmp_path):
    out = tmp_path / "run"
    trainer(text, out).run()
    other = GPT.load(out / "last")
    other.params.flat[-1] += 1
    run = trainer(text, out, other)
    with pytest.raises(InputError, match="is not that of the model that would go on from here"):
        run.resume()
    assert run.updates == 0 and not run.optimizer.m.flat.any()


def a_state(number):
    """State n of a checkpoint: whatever is read of it says which it is."""
    model = GPT(Config(**SMALL), seed=number, tokenizer=Characters("abcdef" + "g" * (number % 2)))
    model.params.flat[:] = number
    optimizer = AdamW(model)
    optimizer.m.flat[:] = number
    optimizer.steps = number
    whole = {"best": float(number), "held_out": None, "source": str(number), "recipe": {}, "digest": ""}
    return model, optimizer, whole | {"training": {}}


def swaps(place, folders):
    """Replaces the folder at a place by one after the other, and stops after each thing that it does."""
    old = beside(place, OLD)
    for folder in folders:
        place.rename(old)
        yield
        folder.rename(place)
        yield
        for path in sorted(old.iterdir(), reverse=True):
            path.unlink()
            yield
        old.rmdir()
        yield


def read_all(place):
    """The numbers of the states that each part of what is read of a checkpoint comes from."""
    arguments = checkpoint.load(place)
    numbers = {arguments["seed"], *arguments["params"].flat.tolist()}
    parity = {arguments["tokenizer"].vocab_size - 6}
    return numbers, parity


def read_run(place):
    model = GPT(Config(**SMALL))
    optimizer = AdamW(model)
    state = checkpoint.load_state(place, optimizer)
    return {state["updates"], state["best"], *optimizer.m.flat.tolist()}, {state["updates"] % 2}


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    for number in range(6):
        checkpoint.save(folder / str(number), *a_state(number))
    return folder


@pytest.mark.parametrize("read", [read_all, read_run])
@pytest.mark.parametrize("name", ["", "best", "last"])
def test_what_is_read_is_of_one_state_whatever_a_save_does_meanwhile(
    states, tmp_path, name, read, monkeypatch
):
    """Before each look of the reader at the disk, a run that saves does some steps of it, as drawn."""
    work = iter(())
    draw = np.random.default_rng(0)

    def and_meanwhile(look):
        def looks(*args, **options):
            for _ in range(draw.integers(0, 4)):
                next(work, None)
            return look(*args, **options)

        return looks

    for owner, look in (
        (pathlib.Path, "is_file"),
        (pathlib.Path, "exists"),
        (checkpoint, "read_json"),
        (checkpoint, "tensors"),
        (checkpoint, "load_tokenizer"),
        (time, "sleep"),
    ):
        monkeypatch.setattr(owner, look, and_meanwhile(getattr(owner, look)))
    for n in range(25):
        run = tmp_path / str(n)
        shutil.copytree(states, run / "states")
        place = run / name if name else run / "model"
        (run / "states" / "0").rename(place)
        work = swaps(place, [run / "states" / str(number) for number in range(1, 6)])
        numbers, parity = read(run if name else place)
        assert len(numbers) == 1 and parity == {next(iter(numbers)) % 2}, numbers


def test_the_newest_run_is_the_newest_also_while_it_is_saved(states, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        shutil.copytree(states / "1", f"runs/{number}/last")
    os.rename("runs/2/last", beside("runs/2/last", OLD))  # between the two renames of a save
    assert runs.newest() == runs.RUNS / "2"
    assert checkpoint.is_run("runs/2/last")
    assert checkpoint.read_state("runs/2")["updates"] == 1


@pytest.mark.slow
def test_a_run_that_saves_every_step_can_be_sampled_and_evaluated(text, tmp_path):
    train = f"train --data {text} {TINY} --steps 100000 --save-interval 1 --eval-interval 1"
    process = subprocess.Popen(
        [sys.executable, "-m", "numgpt", *train.split(), "--out", tmp_path / "run"], stderr=subprocess.DEVNULL
    )
    try:
        while not checkpoint.is_run(tmp_path / "run" / "last"):
            time.sleep(0.05)
        for _ in range(300):
            assert main(["sample", str(tmp_path / "run"), "--max-new-tokens", "1"]) == 0
            assert main(["eval", str(tmp_path / "run")]) == 0
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def a_run(folder):
    checkpoint.save(folder / "run" / "last", *a_state(1))
    checkpoint.save(folder / "run" / "best", a_state(1)[0])


def without_tokenizer(number):
    model = a_state(number)[0]
    model.tokenizer = None
    return model


DESTINATIONS = {
    "a run's last": "run/last",
    "a run's best": "run/best",
    "a run": "run",
    "a link to a run's last": "link",
    "a model with a tokenizer": "model",
    "transformers' model": "theirs",
}


@pytest.mark.parametrize("layout", ["numgpt", "hf"])
@pytest.mark.parametrize("model", [lambda: a_state(2)[0], lambda: without_tokenizer(2)], ids=["", "bare"])
@pytest.mark.parametrize("destination", DESTINATIONS.values(), ids=list(DESTINATIONS))
def test_a_save_removes_no_file_that_it_does_not_write_again(tmp_path, destination, model, layout):
    a_run(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "run" / "last")
    a_state(1)[0].save(tmp_path / "model")
    a_state(1)[0].save(tmp_path / "theirs", "hf")
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    before = content(tmp_path)
    try:
        model().save(tmp_path / destination, layout)
    except InputError:
        assert content(tmp_path) == before
        return
    assert destination in ("model", "theirs"), "a run's folder was a destination"
    assert set(content(tmp_path)) == set(before)


def test_convert_leaves_a_run_alone(tmp_path, capfd):
    a_run(tmp_path)
    before = content(tmp_path)
    for destination in ("last", "best", "."):
        place = tmp_path / "run" / destination
        assert main(["convert", str(tmp_path / "run"), str(place), "--dtype", "float64"]) == 2
        error = capfd.readouterr().err
        assert re.search(
            r"belongs to a run, which alone may write there|is not just a checkpoint|would be written over",
            error,
        )
        assert error.count("\n") == 1
    assert content(tmp_path) == before
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "run" / "copy")]) == 0


WRONG = (None, True, -1, 2.5, "x", [], {}, [[1]], {"a": None})
MANY = pytest.param(WRONG, marks=pytest.mark.slow, id="many")


def fields_of(state):
    """Where a state has values: (name,) of each entry, (name, name) of those inside an entry."""
    inner = [(name, field) for name in ("recipe", "training") for field in state[name]]
    return [(name,) for name in state] + inner


@pytest.mark.parametrize("values", [pytest.param(([[1]],), id="one"), MANY])
def test_a_state_of_whatever_types_is_taken_or_refused_in_one_line(text, tmp_path, capfd, values):
    out = tmp_path / "run"
    trainer(text, out).run()
    path = out / "last" / "state.json"
    whole = path.read_text()
    for place in fields_of(json.loads(whole)):
        for value in values:
            state = json.loads(whole)
            owner = state[place[0]] if len(place) == 2 else state
            owner[place[-1]] = None if place[-1] in ("held_out", "best") and len(values) == 1 else value
            path.write_text(json.dumps(state))
            for command in (["train", "--resume", "--out", str(out)], ["eval", str(out)]):
                status, error = main([*command, "--engine", "reference"]), capfd.readouterr().err
                assert status in (0, 2), (place, value)
                assert status == 0 or error.count("\n") == 1, (place, value, error)


def test_a_complete_run_says_so_and_writes_no_text(text, tmp_path, capfd):
    out = tmp_path / "run"
    trainer(text, out).run()
    before = content(out)
    assert main(["train", "--resume", "--out", str(out)]) == 0
    printed, error = capfd.readouterr()
    assert printed == "" and f"{out}: was complete: step 4 of 4" in error
    assert content(out) == before


def test_a_pipe_that_nobody_writes_to_is_said_to_be_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    threading.Timer(1.5, (tmp_path / "pipe").write_text, ["abc"]).start()
    with pytest.warns(UserWarning, match="is a pipe, and is read until whoever writes to it has ended"):
        text = Text([tmp_path / "pipe"])
    assert "".join(text) == "abc"


def test_tokens_go_to_no_device(text, monkeypatch):
    monkeypatch.setattr(data, "LARGE", 10)
    with pytest.raises(InputError, match="/dev/null: is a file or lies below one, expected a folder"):
        data.prepare([text], folder="/dev/null")


def test_a_run_that_is_not_there_is_resumed_by_nobody_and_begun_where_a_text_is_named(
    text, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    trainer(text, tmp_path / "run").run()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    advice = {"typo": "check the name", "empty": "check the name", "run/last": "give its run's folder, run"}
    for out, what_to_do in advice.items():
        assert main(["train", "--resume", "--out", out]) == 2
        error = capfd.readouterr().err
        assert f"{out}: holds no run to resume, expected a run's folder" in error
        assert what_to_do in error and error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
    again = f"train --resume --data {text} {TINY} --steps 2 --sample-tokens 0 --out job".split()
    for said in ("job holds no run to resume: a new one begins\n", "job: was complete: step 2 of 2"):
        assert main(again) == 0
        assert said in capfd.readouterr().err
