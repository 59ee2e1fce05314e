"""What is printed reaches files whole, and a run does not depend on somebody who reads of it."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from numgpt import GPT, Config, tokenizers

TINY = (
    "--preset=gpt-nano --n-layer=1 --n-head=1 --n-embd=8 --block-size=8 --batch-size=2 --eval-iters=1".split()
)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONIOENCODING": "latin-1"}
TEXT = "naïve 日本 😀\n"


def command(*args):
    return [sys.executable, "-m", "numgpt", *map(str, args)]


@pytest.fixture
def train(tmp_path):
    """The command line of a run in a folder, with some more flags."""
    text = tmp_path / "text.txt"
    text.write_text("".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 4000)))

    def words(*more):
        return command("train", "--data", text, *TINY, "--out", tmp_path / "run", *more)

    return words


def steps(folder):
    """The steps in a run's log, and the one of its last checkpoint."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    saved = json.loads((folder / "last" / "state.json").read_text())["updates"]
    return [entry["step"] for entry in entries if "loss" in entry], saved


def nobody():
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_terminal():
    """A terminal whose window is closed."""
    window, terminal = pty.openpty()
    os.close(window)
    return terminal


def full():
    """A disk without space."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("messages", [nobody, full, closed_terminal])
def test_a_run_goes_on_whatever_becomes_of_its_messages(train, tmp_path, messages):
    stderr, stdout = messages(), nobody()
    done = subprocess.run(
        train("--steps=6", "--eval-interval=2", "--sample-tokens=9"), stderr=stderr, stdout=stdout
    )
    os.close(stderr)
    os.close(stdout)
    assert done.returncode == 0
    assert steps(tmp_path / "run") == ([1, 2, 3, 4, 5, 6], 6)


@pytest.mark.parametrize("messages", [nobody, full, closed_terminal])
def test_the_status_of_an_error_does_not_depend_on_its_reader(messages):
    stderr = messages()
    assert subprocess.run(command("info", "nothing"), stderr=stderr).returncode == 2
    os.close(stderr)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_hangup_finishes_the_step_and_saves_however_often_it_comes_and_nohup_trains_on(
    train, tmp_path, ignored
):
    words = train("--steps=100000", "--eval-interval=100000", "--save-interval=100000")
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGHUP, handler)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and '"loss"' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    before = log.stat().st_size
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
    if ignored:
        while log.stat().st_size < before + 1000 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        process.terminate()
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "go on with: numgpt train --resume" in error
    logged, saved = steps(tmp_path / "run")
    assert logged == list(range(1, saved + 1))


@pytest.fixture
def spoken(tmp_path):
    """A checkpoint that knows a text's characters."""
    tokenizer = tokenizers.build("chars", TEXT)
    config = Config(vocab_size=tokenizer.vocab_size, block_size=4, n_layer=1, n_head=1, n_embd=2)
    GPT(config, tokenizer=tokenizer).save(tmp_path / "model")
    return tmp_path / "model"


def test_the_name_of_a_file_that_is_not_utf8_is_printed_as_its_bytes(tmp_path):
    name = os.fsdecode(b"na\xefve.bin")
    done = subprocess.run(
        command("tokenizer", "encode", "bytes", TEXT, "--out", name),
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.startswith(b"na\xefve.bin: ")


@pytest.mark.parametrize("locale", [ASCII, LATIN])
def test_files_and_pipes_get_utf8_whatever_the_locale(spoken, locale):
    def printed(*args, given=b""):
        env = os.environ | locale
        return subprocess.run(command(*args), input=given, stdout=subprocess.PIPE, env=env, check=True).stdout

    ids = tokenizers.load(spoken / "tokenizer.json").encode(TEXT)
    assert printed("tokenizer", "decode", spoken, *ids) == TEXT.encode()
    assert printed("sample", spoken, "--max-new-tokens=0", given=TEXT.encode()) == TEXT.encode()


def test_a_terminal_shows_a_question_mark_for_what_it_cannot_show(spoken):
    window, terminal = pty.openpty()
    ids = tokenizers.load(spoken / "tokenizer.json").encode(TEXT)
    words = command("tokenizer", "decode", spoken, *ids)
    subprocess.run(words, stdout=terminal, env=os.environ | ASCII, check=True)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # at the end
        while part := os.read(window, 1000):
            shown += part
    os.close(window)
    assert shown.decode() == "na?ve ?? ?\r\n"
