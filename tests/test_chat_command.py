"""numgpt chat: what was learned is answered, in a pipe and in a terminal, as far as the context reaches."""

import json
import os
import pty
import subprocess
import sys

import pytest

from numgpt import GPT, Config, InputError
from numgpt.__main__ import main
from numgpt.commands.chat import Chat
from numgpt.data import BARE, CHATML, PLAIN, Conversation, Message
from numgpt.model.replies import Reply, tokens_before
from numgpt.tokenizers import Bytes

LESSONS = {"1": "one", "2": "two", "12": "twelve", "": "silence"}
GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model that has learned to answer numbers, and one that knows no template."""
    home = tmp_path_factory.mktemp("home")
    config = Config(vocab_size=256, block_size=96, n_layer=1, n_head=2, n_embd=16)
    GPT(config, seed=3, tokenizer=Bytes()).save(home / "base")
    rows = [{"prompt": a, "completion": b} for a, b in LESSONS.items() if a]
    (home / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"tune sft {home}/base --data {home}/chats.jsonl --template chatml --held-out 0 --no-pack"
    words += f" --batch-size 3 --steps 160 --lr 2e-2 --sample-tokens 0 --out {home}/tuned"
    assert main(words.split()) == 0
    return home


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def said(monkeypatch, capsys):
    """A function that pipes bytes into numgpt chat; the status, what it answered, and what else it said."""

    def run(data, *flags):
        read, write = os.pipe()
        os.write(write, data)
        os.close(write)
        with os.fdopen(read) as stdin, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            status = main(["chat", *flags])
        return status, *capsys.readouterr()

    return run


def test_a_line_has_an_answer_and_reset_begins_anew(here, said):
    status, out, error = said(b"1\n/reset\n\n2\r\n/reset\n12\n/quit\n1\n", "tuned", "--temperature", "0")
    assert (status, error) == (0, "")
    assert out == "one\n\ntwo\ntwelve\n"
    assert said(b"", "tuned") == (0, "", "")
    assert said(b"\xef\xbb\xbf1", "tuned", "--temperature", "0") == (0, "one\n", "")


def test_an_answer_comes_before_the_next_line_is_there(here):
    command = [sys.executable, "-m", "numgpt", "chat", "tuned", "--temperature", "0", "--engine", "reference"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line, answer in (("1", "one"), ("/reset\n2", "two")):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{answer}\n"
    process.communicate()
    assert process.returncode == 0


def test_a_model_without_a_template_gets_plain_which_is_said_once(here, said):
    status, out, error = said(b"1\n2\n", "base", "--max-new-tokens", "3")
    assert status == 0
    assert error.count("it gets the template plain") == 1
    assert out.count("\n") >= 2
    assert "template" not in said(b"1\n", "base", "--template", "bare", "--max-new-tokens", "3")[2]


def test_an_answer_that_does_not_end_is_cut_and_that_is_said(here, said):
    status, out, error = said(b"12\n", "tuned", "--temperature", "0", "--max-new-tokens", "3")
    assert (status, out) == (0, "twe\n")
    assert "the answer is cut after 3 tokens" in error


def chat_of(model, **changes):
    given = {"template": PLAIN, "system": None, "max_new_tokens": 8, "sampling": GREEDY}
    return Chat(model, **given | changes)


def test_what_was_said_is_remembered_until_the_context_is_full(home, capsys):
    chat = chat_of(GPT.load(home / "base"), system="be brief")
    for n in range(9):
        "".join(chat.answer(f"{n}?"))
        conversation = chat._conversation([])
        assert conversation.messages[0] == Message("system", "be brief")
        assert conversation.messages[-2] == Message("user", f"{n}?")
        assert len(tokens_before(chat.model, PLAIN, conversation)) <= 96 + len("Assistant:\n")
    error = capsys.readouterr().err
    assert "the context of 96 tokens is full: the oldest exchange is forgotten" in error
    assert 0 < len(chat.exchanges) < 9
    chat.reset()
    assert chat.exchanges == []
    with pytest.raises(
        InputError, match="the conversation has 122 tokens, expected fewer than block_size 96"
    ):
        "".join(chat.answer("x" * 87))
    assert chat.exchanges == []


def test_of_an_answer_that_is_stopped_what_has_come_is_remembered(home):
    chat = chat_of(GPT.load(home / "tuned"), template=CHATML)
    pieces = chat.answer("12")
    first = next(pieces) + next(pieces)
    pieces.close()
    assert chat.exchanges == [(Message("user", "12"), Message("assistant", first))]
    bad = chat_of(GPT.load(home / "tuned"), template=CHATML, sampling={"top_k": 0})
    with pytest.raises(InputError, match="top_k is 0"):
        next(bad.answer("12"))
    assert bad.exchanges == []


def test_a_reply_ends_by_its_template_and_says_whether_it_was_cut(home):
    model = GPT.load(home / "tuned")
    conversation = Conversation([Message("user", "2")])
    reply = Reply(model, CHATML, conversation, 20, **GREEDY)
    assert ("".join(reply), reply.text, reply.is_cut) == ("two", "two", False)
    exact = Reply(model, CHATML, conversation, 4, **GREEDY)  # its end is the fourth token
    assert ("".join(exact), exact.is_cut) == ("two", False)
    short = Reply(model, CHATML, conversation, 2, **GREEDY)
    assert ("".join(short), short.is_cut) == ("tw", True)
    with pytest.raises(InputError, match="the conversation has no token"):
        Reply(model, BARE, Conversation([Message("user", "")]))
    with pytest.raises(InputError, match="the model has no tokenizer"):
        Reply(GPT(model.config), CHATML, conversation)


@pytest.mark.parametrize(
    "data, flags, message",
    [
        (b"1\n", ["nowhere"], "nowhere: does not exist"),
        (b"1\n", ["base", "--template", "chatml"], "the tokenizer has no special token '<|im_start|>'"),
        (b"1\n", ["tuned", "--template", "nonsense"], "template: 'nonsense' is unknown"),
        (b"1\n", ["tuned", "--system", "x" * 200], "expected fewer than block_size 96"),
        (b"1\n", ["tuned", "--top-k", "0"], "--top-k is 0"),
        (b"1\n", ["tuned", "--temperature", "-1"], "--temperature is -1.0"),
        (b"1\n", [], "there is no run under runs/"),
        (b"\xff\n", ["tuned"], "byte 0 of line 1 is not UTF-8, expected text"),
        (b"x" * (2**20 + 2), ["tuned"], "line 1 has more than 1,048,576 bytes, expected a message"),
        (b"x" * 200 + b"\n", ["tuned"], "expected fewer than block_size 96"),
    ],
)
def test_what_cannot_be_answered_gets_one_line(here, said, monkeypatch, data, flags, message):
    if len(data) > 2**16:  # more than a pipe holds
        path = here / "long"
        path.write_bytes(data)
        monkeypatch.setattr(
            os, "pipe", lambda: (os.open(path, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY))
        )
    status, out, error = said(data, *flags)
    assert status == 2
    assert out == ""
    assert message in error
    assert error.splitlines()[-1].startswith("numgpt: ")
    assert error.count("\n") == 1


def test_a_person_is_told_what_goes_wrong_and_asked_again(home):
    """A terminal of its own: prompts, an answer, a message that is too long, and Ctrl-D."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "numgpt", "chat", "tuned", "--temperature", "0", "--engine", "reference"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=home, close_fds=True)
    os.close(theirs)
    seen = ""

    def until(text):
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 4096).decode()
        before, _, seen = seen.partition(text)
        return before

    until("> ")
    for line, answer in (("1", "one"), ("x" * 200, "expected fewer than block_size 96"), ("/reset", "")):
        os.write(ours, f"{line}\n".encode())
        assert answer in until("\n> ")
    os.write(ours, b"\x04")
    assert process.wait(60) == 0
    os.close(ours)
