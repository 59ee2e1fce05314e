"""The command line as a person types it: commands that work, and one line for input that cannot be used."""

import contextlib
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import numgpt
from numgpt.__main__ import main

TINY = shlex.split(
    "--preset=gpt-nano --n-layer=1 --n-head=1 --n-embd=8 --block-size=8 --batch-size=2 --eval-iters=1"
)


def run(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "numgpt", *map(str, args)], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text and a run."""
    home = tmp_path_factory.mktemp("home")
    (home / "text.txt").write_text("".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 4000)))
    settings = [*TINY, "--tokenizer=chars", "--steps=12", "--eval-interval=4", "--sample-tokens=20"]
    done = run("train", "--data", home / "text.txt", *settings, "--out", home / "run")
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_training_shows_the_text_the_model_the_falling_loss_a_sample_and_the_folder(tmp_path):
    settings = [
        "--batch-size=8",
        "--eval-iters=4",
        "--steps=40",
        "--eval-interval=20",
        "--lr=3e-2",
        "--warmup=0",
    ]
    done = run("train", *TINY, *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "text    Jane Austen's six novels" in done.stderr
    assert "parameters, float32, seed 1337; run in runs/1" in done.stderr
    losses = [
        float(line.split("held-out loss ")[1].split()[0])
        for line in done.stderr.splitlines()
        if line.startswith("step ") and " of " not in line  # a slow machine says how far it is in between
    ]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2]
    assert "checkpoint: runs/1/last (and runs/1/best)" in done.stderr
    assert len(done.stdout) > 200
    assert (tmp_path / "runs/1/last/model.safetensors").exists()
    assert run("train", *TINY, "--steps=1", "--sample-tokens=0", cwd=tmp_path).returncode == 0
    assert (tmp_path / "runs/2").exists()


def test_a_resumed_run_takes_its_settings_from_its_folder(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    done = run("train", "--resume", "--out", tmp_path / "run", "--steps=15", "--sample-tokens=0")
    assert done.returncode == 0
    assert "resumed at step 12" in done.stderr
    entries = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == list(range(1, 16))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(home, tmp_path, number):
    settings = [*TINY, "--steps=100000", "--eval-interval=100000", "--save-interval=100000"]
    flags = ["--data", home / "text.txt", *settings, "--out", tmp_path / "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "numgpt", "train", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run/log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and '"loss"' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"go on with: numgpt train --resume --out {tmp_path / 'run'}" in error
    steps = json.loads((tmp_path / "run/last/state.json").read_text())["updates"]
    assert f"stopped at step {steps} of 100000" in error
    assert steps == json.loads(log.read_text().splitlines()[-1])["step"] > 0


def test_sample_continues_a_prompt_in_one_or_several_texts(here, capsys):
    one_text = shlex.split("sample run --prompt abc --max-new-tokens 10 --seed 1")
    assert main(one_text) == 0
    one = capsys.readouterr().out
    assert one.startswith("abc")
    assert len(one) == 14
    assert main([*one_text, "--num-samples", "2", "--top-k", "5"]) == 0
    assert capsys.readouterr().out.count("--- sample") == 2
    assert main(["sample", "run", "--greedy", "--stop", "a", "--stop", "\\n", "--max-new-tokens", "5"]) == 0
    assert "a" not in capsys.readouterr().out


def test_eval_prints_numbers_and_their_protocol(here, capsys):
    assert main(["eval", "run", "--data", "text.txt", "--stride", "3"]) == 0
    out = capsys.readouterr().out
    assert "context 8, stride 3" in out
    assert "3,999 tokens (3,999 bytes) after the first" in out
    loss, perplexity, bits = (float(line.split()[n]) for line, n in zip(out.splitlines()[1:4], (1, 1, 3)))
    assert perplexity == pytest.approx(np.exp(loss), rel=1e-3)
    assert bits == pytest.approx(loss / np.log(2), rel=1e-3)
    assert main(["eval", "run"]) == 0
    assert "the held-out part of" in capsys.readouterr().out


def test_check_prints_a_table_and_exits_with_1_when_a_law_fails(capsys, monkeypatch):
    assert main(["check", "gelu"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["name", "law", "residual", "limit", "verdict"]
    assert "0 failed" in out
    gelu = numgpt.ops.gelu
    wrong = numgpt.ops.Op(
        gelu.line, gelu.forward, lambda dy, saved: (gelu.backward(dy, saved)[0] * (1 + 1e-9),)
    )
    monkeypatch.setitem(numgpt.ops.ALL, "gelu", wrong)
    assert main(["check", "gelu"]) == 1
    assert "FAILS argument 0" in capsys.readouterr().out


def test_info_prints_parameters_bytes_and_flops(here, capsys):
    assert main(["info", "gpt2", "--tokens", "512", "--batch-size", "2"]) == 0
    out = capsys.readouterr().out
    assert "124,439,808" in out
    assert "batch 2 × 512 tokens" in out
    assert "activations" in out
    assert "forward and backward" in out
    assert main(["info", "run"]) == 0
    assert main(["info", "gpt2", "--n-layer", "1", "--no-bias"]) == 0


def damaged(change):
    def make(home):
        shutil.copytree(home / "run/last", home / "damaged", dirs_exist_ok=True)
        change(home / "damaged")

    return make


def state(**changes):
    return lambda folder: (folder / "state.json").write_text(
        json.dumps(json.loads((folder / "state.json").read_text()) | changes)
    )


def write(name, content):
    return lambda home: (home / name).write_bytes(content)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


NOTHING = lambda home: None


@pytest.mark.parametrize(
    ("prepare", "args", "message"),
    [
        (NOTHING, "train --data nowhere.txt", "nowhere.txt: does not exist, expected a text file"),
        (write("empty.txt", b" \n"), "train --data empty.txt", "empty.txt: is empty, expected text"),
        (
            write("short.txt", b"abc"),
            "train --data short.txt",
            "tokens, expected at least block_size + 1 = 65: give more text",
        ),
        (
            write("latin.txt", b"caf\xe9 au lait"),
            "train --data latin.txt",
            "latin.txt: is not UTF-8 (byte 0xe9 at 3), expected UTF-8",
        ),
        (
            lambda home: (home / "void").mkdir(exist_ok=True),
            "train --data void",
            "void: holds no text, expected files that end in .txt or .md",
        ),
        (NOTHING, "train --preset gpt9", "preset: 'gpt9' is unknown (did you mean gpt1 or "),
        (NOTHING, "train --preset gpt-mcro", "preset: 'gpt-mcro' is unknown (did you mean gpt-micro"),
        (NOTHING, "train --engine gpu", "engine: 'gpu' is unknown, expected one of reference"),
        (NOTHING, "train --n-head 5", "n_embd 128 is not divisible by n_head 5"),
        (NOTHING, "train --n-layer two", "argument --n-layer: 'two' is not an integer"),
        (NOTHING, "train --dropout 1", "dropout is 1.0, expected at least 0 and less than 1"),
        (NOTHING, "train --steps -1", "steps is -1, expected 0 or more"),
        (NOTHING, "train --held-out 0.9", "--held-out is 0.9"),
        (NOTHING, "train --data text.txt --tokenizer chars --vocab-size 3", "--vocab-size is 3, expected 10"),
        (
            NOTHING,
            "train --out run --data text.txt",
            "run: holds another run, expected a new folder: continue that run with --resume",
        ),
        (NOTHING, "train --out . --data text.txt", ".: is not empty and holds no run"),
        (
            NOTHING,
            "train --out run --resume --n-layer 3",
            "the run's model has n_layer 1, expected 3 by the flags",
        ),
        (NOTHING, "train --out run --resume --dtype float64", "the run's model is float32, expected float64"),
        (
            write("other.txt", b"abcdefgh \n" * 400),
            "train --out run --resume --data other.txt",
            "expected the same text",
        ),
        (NOTHING, "train --out text.txt/run --data text.txt --steps 0", "is a file or lies below one"),
        (NOTHING, "train --nonsense", "unrecognized arguments: --nonsense"),
        (NOTHING, "sample nowhere", "nowhere: does not exist, expected a checkpoint's folder"),
        (NOTHING, "sample run --prompt xyz", "character 'x' (U+0078) at position 0 is not in the vocabulary"),
        (NOTHING, "sample run --prompt=", "argument --prompt: is empty, expected TEXT"),
        (NOTHING, "check laynorm", "nothing is called laynorm (did you mean layernorm"),
        (NOTHING, "sample run --min-p 2", "--min-p is 2.0, expected a finite number from 0 to 1"),
        (NOTHING, "sample run --top-p 2", "--top-p is 2.0"),
        (NOTHING, "eval", "there is no run under runs/"),
        (damaged(cut), "sample damaged", "model.safetensors: is damaged"),
        (
            damaged(lambda f: (f / "config.json").write_text("{}")),
            "sample damaged",
            "config.json: is not numgpt's",
        ),
        (NOTHING, "eval run --data nowhere.txt", "nowhere.txt: does not exist"),
        (
            write("digits.txt", b"abc123"),
            "eval run --data digits.txt",
            "character '1' (U+0031) at position 3",
        ),
        (NOTHING, "eval run --data text.txt --stride 9", "stride is 9, expected 1 to block_size 8"),
        (
            damaged(lambda f: (f / "state.json").write_text("[]")),
            "eval damaged",
            "state.json: has no updates",
        ),
        (damaged(state(updates=-3)), "eval damaged", "state.json: has updates -3"),
        (damaged(state(training=[])), "eval damaged", "state.json: has training []"),
        (damaged(state(recipe={"x": 1})), "eval damaged", "cannot be followed"),
        (damaged(state(recipe={"held_out": 1e-310})), "eval damaged", "held_out is 1e-310"),
        (damaged(state(recipe={"paths": ["a\0b"]})), "eval damaged", "paths is ['a\\x00b'], expected a path"),
        (
            damaged(state(recipe={"paths": ["\ud800"]})),
            "eval damaged",
            "paths is ['\\ud800'], expected a path",
        ),
        (damaged(state(recipe={"paths": ["/dev/zero"]})), "eval damaged", "/dev/zero: is a device"),
        (
            NOTHING,
            "train --steps 99999999999999999999",
            "steps is 99999999999999999999, expected 0 or more, up to",
        ),
        (NOTHING, f"train --warmup {10**400}", "warmup is 1000"),
        (
            NOTHING,
            "train --n-embd 16777216 --n-inner 16777216 --n-head 1 --n-layer 4096 --dtype float64",
            "numbers do not fit in memory",
        ),
        (
            damaged(lambda f: (f / "tokenizer.json").write_text('{"type": "chars", "characters": 5}')),
            "sample damaged",
            "characters is 5, expected a string",
        ),
        (
            damaged(lambda f: (f / "config.json").write_text("[" * 100000)),
            "sample damaged",
            "config.json: is not JSON",
        ),
        (NOTHING, "sample .", ".: holds no checkpoint"),
        (NOTHING, "sample /", "/: holds no checkpoint"),
        (NOTHING, "train --lr inf", "lr is inf, expected a finite number"),
        (NOTHING, "train --lr 1e-5 --min-lr 1e-4", "--min-lr is 0.0001, expected 0 to lr 1e-05"),
        (
            NOTHING,
            "train --batch-size 100000000000000000000",
            "--batch-size is 100000000000000000000, expected 1 to",
        ),
        (NOTHING, "info gpt2 --n-embd 99999999999 --n-head 7", "--n-embd is 99999999999, expected 1 to"),
        (NOTHING, "train --out run --resume --seed 5", "the run's model has seed 1337, expected 5"),
        (NOTHING, "sample run --temperature nan", "temperature is nan"),
        (NOTHING, "check nonsense", "nothing is called nonsense"),
        (NOTHING, "info gpt9", "preset: 'gpt9' is unknown"),
        (NOTHING, "info gpt2 --tokens 2000", "--tokens is 2000, expected 1 to block_size 1024"),
        (NOTHING, "fly", "invalid choice: 'fly'"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(here, capfd, prepare, args, message):
    prepare(here)
    status = main(args.split())
    out, error = capfd.readouterr()
    assert status == 2
    assert out == ""
    assert message in error
    assert error.startswith("numgpt: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("args", [[], ["tokenizer"], ["tune"]])
def test_a_command_alone_prints_its_help(capsys, args):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: numgpt")
    assert "--help lists its flags" in out


@pytest.fixture
def stdin(monkeypatch):
    """A function that puts a file descriptor in the place of standard input, and closes it at the end."""
    with contextlib.ExitStack() as files:

        def put(number):
            monkeypatch.setattr(sys, "stdin", files.enter_context(os.fdopen(number)))

        yield put


def piped(data):
    """A pipe from which data come; it stays open where they are None."""
    read, write = os.pipe()
    if data is not None:
        os.write(write, data)
        os.close(write)
    return read


@pytest.mark.parametrize("flags", [[], ["--prompt", "-"]])
@pytest.mark.parametrize("data", [b"abc\n", b"abc", b"a\r\nb\n", b"\xef\xbb\xbfabc"])
def test_a_prompt_is_read_from_a_pipe_without_its_last_line_break(here, stdin, capsys, data, flags):
    stdin(piped(data))
    assert main(["sample", "run", "--max-new-tokens", "4", *flags]) == 0
    out = capsys.readouterr().out
    prompt = data.decode("utf-8-sig").replace("\r", "").removesuffix("\n")
    assert out.startswith(prompt)
    assert len(out) == len(prompt) + 4 + 1


def test_a_prompt_is_read_from_a_file_and_one_that_is_given_comes_first(here, tmp_path, stdin, capsys):
    (tmp_path / "prompt").write_text("abc\n")
    for flags, begin in (([], "abc"), (["--prompt", "hgf"], "hgf")):
        stdin(os.open(tmp_path / "prompt", os.O_RDONLY))
        assert main(["sample", "run", "--max-new-tokens", "4", *flags]) == 0
        assert capsys.readouterr().out.startswith(begin)


def test_nobody_waits_for_a_terminal_a_device_an_empty_pipe_or_one_that_is_silent(
    here, stdin, capsys, monkeypatch
):
    monkeypatch.setattr("numgpt.commands.sample.PATIENCE", 0.1)
    ends = pty.openpty()
    for number in (os.dup(ends[1]), os.open("/dev/null", os.O_RDONLY), piped(b""), piped(None)):
        stdin(number)
        assert main(["sample", "run", "--max-new-tokens", "4", "--seed", "1"]) == 0
        out, error = capsys.readouterr()
        assert len(out) == 4 + 1
    assert "nothing came on standard input in 0.1 s: not read; --prompt - waits for it" in error


def test_where_a_pipe_cannot_be_asked_a_file_is_read_and_a_pipe_when_asked_for(
    here, tmp_path, stdin, capsys, monkeypatch
):
    """On Windows select knows sockets only."""

    def select(*_):
        raise OSError(10038, "not a socket")

    monkeypatch.setattr("select.select", select)
    (tmp_path / "prompt").write_text("abc")
    cases = ((os.open(tmp_path / "prompt", os.O_RDONLY), [], "abc"), (piped(b"abc"), ["--prompt=-"], "abc"))
    for number, flags, begin in (*cases, (piped(b"abc"), [], "")):
        stdin(number)
        assert main(["sample", "run", "--max-new-tokens", "4", *flags]) == 0
        out, error = capsys.readouterr()
        assert out.startswith(begin)
        assert len(out) == len(begin) + 4 + 1
    assert "not known here: not read; --prompt - waits for it" in error


def test_a_terminal_is_told_what_is_waited_for(here, stdin, capsys):
    keyboard, screen = pty.openpty()
    stdin(screen)
    os.write(keyboard, b"abc\n\x04")
    assert main(["sample", "run", "--max-new-tokens", "4", "--prompt", "-"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("abc")
    assert "type the prompt, and end it with Ctrl-D" in error


@pytest.mark.parametrize(
    ("data", "flags", "message"),
    [
        (b"a\xff", [], "byte 1 on standard input is not UTF-8"),
        (b"", ["--prompt", "-"], "the prompt is empty"),
        (b"xyz", [], "character 'x' (U+0078) at position 0 is not in the vocabulary"),
    ],
)
def test_a_prompt_that_cannot_be_read_gets_one_line(here, stdin, capsys, data, flags, message):
    stdin(piped(data))
    assert main(["sample", "run", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_run_with_its_name(here, tmp_path, capfd):
    settings = [*TINY, "--steps=50", "--lr=1e30", "--warmup=0", "--clip=0"]
    status = main(["train", "--data", "text.txt", *settings, "--out", str(tmp_path / "run")])
    error = capfd.readouterr().err
    assert status == 1
    assert "is not finite" in error
    assert "lower --lr" in error
    assert "Traceback" not in error
    assert "Warning" not in error


@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_nobody_reads_ends_quietly(here, buffered):
    env = os.environ if buffered else os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "numgpt", "info", "gpt2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_a_full_device_gets_one_line(here):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "numgpt", "info", "gpt2"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_a_text_with_an_odd_name_can_be_resumed_and_evaluated(here, tmp_path):
    name = os.fsdecode(b"na\xffme.txt")
    shutil.copy("text.txt", name)
    to_run = ["--out", str(tmp_path / "run"), "--sample-tokens=0"]
    assert main(["train", "--data", name, *TINY, "--steps=1", *to_run]) == 0
    assert main(["train", "--resume", "--steps=2", *to_run]) == 0
    assert main(["eval", str(tmp_path / "run")]) == 0
    os.remove(name)


def test_a_command_runs_from_inside_a_checkpoint(here, monkeypatch, capsys):
    monkeypatch.chdir("run/last")
    assert main(["sample", ".", "--max-new-tokens", "3"]) == 0
    assert main(["eval", "."]) == 0


def test_the_public_package_is_light_to_import():
    heavy = ("numba", "safetensors", "tqdm", "regex", "torch")
    code = f"import sys, numgpt; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
