"""numgpt tokenizer as a person types it."""

import importlib.util
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import GPT, Config, tokenizers
from numgpt.__main__ import main
from numgpt.data import corpora
from numgpt.tokenizers import BPE, Bytes, Characters
from numgpt.tokenizers.files import FORMATS
from numgpt.tokenizers.show import columns_of, lines, visible, wants_color
from numgpt.tokenizers.spelling import ALPHABET, unspell

END = "<|endoftext|>"
TOKENS = [unspell(c) for c in sorted(ALPHABET)]
H, E, L, SPACE = (TOKENS.index(c) for c in (b"h", b"e", b"l", b" "))
SMALL = BPE([*TOKENS, b"he", b"ll"], [(H, E), (L, L)], specials={END: 258})
HAS_SENTENCEPIECE = importlib.util.find_spec("sentencepiece") is not None


class Stdin(io.TextIOWrapper):
    def __init__(self, data):
        super().__init__(io.BytesIO(data), encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a tokenizer, a checkpoint, a run and some files; the working directory."""
    monkeypatch.chdir(tmp_path)
    SMALL.save("tok.json")
    config = Config(vocab_size=SMALL.vocab_size, block_size=2, n_layer=1, n_head=1, n_embd=2)
    GPT(config, tokenizer=SMALL).save("checkpoint")
    GPT(config, tokenizer=SMALL).save("run/last")
    GPT(config).save("silent")
    (tmp_path / "text.txt").write_bytes(b"hello\r\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "floats.npy").write_bytes(b"")
    np.save("floats.npy", np.ones(2))
    (tmp_path / "text.model").write_bytes(b"hello")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    return tmp_path


def said(capfd, *args):
    assert main(["tokenizer", *args]) == 0
    return capfd.readouterr().out


def test_alone_it_prints_its_help(capfd):
    out = said(capfd)
    assert re.findall(r"^    (\w+)  ", out, re.MULTILINE) == ["train", "encode", "decode", "show"]
    assert "example: numgpt tokenizer" in out


@pytest.mark.parametrize("action", ["train", "encode", "decode", "show"])
def test_every_action_has_help_with_an_example(action, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["tokenizer", action, "--help"])
    assert stop.value.code == 0
    assert f"example: numgpt tokenizer {action} " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tok.json", "checkpoint", "run", "run/last", "checkpoint/tokenizer.json"])
def test_a_tokenizer_is_named_by_its_file_a_checkpoint_or_a_run(here, capfd, name):
    assert said(capfd, "encode", name, "hell") == "256 257\n"


def test_a_text_is_an_argument_a_file_or_what_comes_in(here, capfd, monkeypatch):
    for args, data in (
        (["hello\r\n"], b""),
        (["--file", "text.txt"], b""),
        (["--file", "-"], b"hello\r\n"),
        ([], b"hello\r\n"),
    ):
        monkeypatch.setattr(sys, "stdin", Stdin(data))
        assert said(capfd, "encode", "bytes", *args) == "104 101 108 108 111 13 10\n"
    assert said(capfd, "encode", "bytes", "--count", "ab") == "2 bytes, 2 tokens, 1.00 bytes per token\n"
    assert (
        said(capfd, "encode", "bytes", "--", "-x")
        == said(capfd, "encode", "bytes", "--special", "text", "--", "-x")
        == "45 120\n"
    )
    assert said(capfd, "encode", "chars", "ba") == "1 0\n"


@given(data=st.binary(max_size=50))
def test_what_is_encoded_decodes_to_the_same_bytes(data):
    run = lambda args, given: subprocess_free(["tokenizer", *args], given)
    ids = run(["encode", "bytes", "--bytes"], data)
    assert (
        run(["decode", "bytes", "--bytes"], ids)
        == run(["decode", "bytes", "--errors", "surrogateescape"], ids)
        == data
    )
    assert run(["decode", "bytes"], ids).decode() == data.decode("utf-8", "replace")


def subprocess_free(args, given):
    """The bytes that a command writes to stdout, given those of stdin."""
    before, out = (sys.stdin, sys.stdout), io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    sys.stdin, sys.stdout = Stdin(given), out
    try:
        assert main(args) == 0
    finally:
        sys.stdin, sys.stdout = before
    out.flush()
    return out.buffer.getvalue()


def test_ids_are_read_as_people_write_them(here, capfd, monkeypatch):
    for args in (
        ["104", "105"],
        ["[104,", "105]"],
        ["104,105"],
        ["--errors", "strict", "104", "105"],
        ["104", "105", "--errors=strict"],
    ):
        assert said(capfd, "decode", "bytes", *args) == "hi"
    monkeypatch.setattr(sys, "stdin", Stdin(b" 104\n105\n"))
    assert said(capfd, "decode", "bytes") == "hi"


@pytest.mark.parametrize("name", ["ids.npy", "ids.bin"])
def test_ids_in_a_file_come_back(here, capfd, name):
    assert f"{name}: 2 tokens as uint16" in said(capfd, "encode", "tok.json", "hell", "--out", name)
    assert said(capfd, "decode", "tok.json", "--file", name) == "hell"
    assert np.array_equal(np.load(name) if name.endswith("npy") else np.fromfile(name, "<u2"), [256, 257])


def test_special_tokens_are_refused_allowed_or_text(here, capfd):
    assert main(["tokenizer", "encode", "tok.json", END]) == 2
    assert "--special allow" in capfd.readouterr().err
    assert said(capfd, "encode", "tok.json", END, "--special", "allow") == "258\n"
    assert len(said(capfd, "encode", "tok.json", "--special", "text", END).split()) == len(END)


def test_show_puts_ids_below_tokens(here, capfd):
    out = said(capfd, "show", "tok.json", f"hell o\n{END}日", "--special", "allow", "--width", "30")
    assert out.splitlines() == [
        "[he] [ll] [·] [o] [⏎]",
        f"256  257  {SPACE} {TOKENS.index(b'o'):<3} {TOKENS.index(bytes([10]))}",
        f"«{END}» [\\xe6] [\\x97]",
        f"258             {TOKENS.index(bytes([0xE6])):<6} {TOKENS.index(bytes([0x97]))}",
        "[\\xa5]",
        f"{TOKENS.index(bytes([0xA5]))}",
        "21 characters, 23 bytes, 9 tokens, 2.56 bytes per token",
    ]
    assert said(capfd, "show", "bytes", "") == "0 characters, 0 bytes, 0 tokens\n"


def test_show_colours_tokens_in_turn_and_special_ones_apart(here, capfd):
    out = said(capfd, "show", "tok.json", "--color", "always", f"hell{END}", "--special", "allow")
    assert out.splitlines()[0] == f"\033[30;46mhe\033[0m  \033[30;43mll\033[0m  \033[1;37;41m{END}\033[0m"
    assert "\033" not in said(capfd, "show", "tok.json", "hell")  # no terminal


@pytest.mark.parametrize(
    ("tty", "env", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_asked_of_the_terminal_and_its_owner(monkeypatch, tty, env, expected):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    stream.isatty = lambda: tty
    assert wants_color("auto", stream) == expected
    assert wants_color("always", stream)
    assert not wants_color("never", stream)


@given(st.text(st.characters(exclude_categories=("Cs", "Cn"))))
def test_what_is_shown_is_printable_and_ids_stand_below_their_tokens(text):
    for tokenizer in (Bytes(), Characters.build(text) if text else Bytes()):
        ids = tokenizer.encode(text).tolist()
        rows = list(lines(tokenizer, ids, width=40))
        assert all(c.isprintable() or c == "\u200d" for row in rows for c in row)
        assert all(columns_of(row) <= 40 for row in rows)
        assert [int(n) for row in rows[1::2] for n in row.split()] == ids
        for tokens, numbers in zip(rows[::2], rows[1::2]):
            # Before each number stand as many columns as before its token, which a bracket opens where a cell
            # begins.
            starts = [n for n, c in enumerate(numbers) if c != " " and (n == 0 or numbers[n - 1] == " ")]
            opens = {columns_of(tokens[:n]) for n, c in enumerate(tokens) if c == "["}
            assert set(starts) <= opens


def test_white_space_controls_marks_and_halves_are_visible():
    assert visible(b" \n\t\r\x00\x1b\x7f") == "·⏎⇥␍␀␛␡"
    assert visible("é".encode()[:1]) == "\\xc3"
    assert visible("\u0301".encode()) == "◌\u0301"
    assert visible("\u200b".encode()) == "◌\\u200b"[1:]
    assert columns_of("日本") == 4
    assert columns_of("e\u0301") == 1


def test_a_vocabulary_is_trained_and_used(here, capfd):
    (here / "corpus.txt").write_text(corpora.python()[1][:20000], "utf-8")
    flags = f"--vocab-size 400 --pattern cl100k --special-token {END} --special-token <pad>".split()
    out = said(capfd, "train", "corpus.txt", *flags, "--out", "new.json")
    assert "new.json: 400 tokens, 20," in out
    assert "of corpus.txt" in out
    made = tokenizers.load(here / "new.json")
    assert isinstance(made, BPE)
    assert made.specials == {END: 398, "<pad>": 399}
    assert made.pattern.name == "cl100k"
    assert made == tokenizers.train(
        corpora.python()[1][:20000], 400, pattern="cl100k", specials=[END, "<pad>"]
    )
    for kind, out in (("huggingface", "hf.json"), ("gpt2", "gpt2"), ("tiktoken", "t.tiktoken")):
        said(capfd, "train", "corpus.txt", "--vocab-size", "400", "--out", out, "--format", kind)
        pattern = ["--pattern", "gpt2"] if kind == "tiktoken" else []
        ids = said(capfd, "encode", out, "the statement", *pattern).split()
        assert said(capfd, "decode", out, *ids, *pattern) == "the statement"
    flags = ["--special-token", f"{END}=999", "--special", "allow"]
    assert said(capfd, "encode", "t.tiktoken", f"a{END}", *flags).split()[1:] == ["999"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--format gpt2 --pattern cl100k", "pattern is not GPT-2's"),
        (r"--format huggingface --pattern \w+|\W+", r"holds \w"),
        ("--format huggingface --special-token a", "'a' is spelled as token"),
    ],
)
def test_what_a_format_cannot_say_is_said_before_the_work(here, capfd, monkeypatch, args, message):
    monkeypatch.setattr(tokenizers, "train", None)
    assert main(["tokenizer", "train", "text.txt", "--out", "new", *args.split()]) == 2
    out, error = capfd.readouterr()
    assert message in error
    assert error.count("\n") == 1
    assert not out
    assert not os.path.exists("new")


def test_a_unigram_model_is_trained_and_used(here, capfd):
    pytest.importorskip("sentencepiece", reason="trains unigram models")
    (here / "corpus.txt").write_text(corpora.python()[1][:20000], "utf-8")
    flags = ["--kind", "unigram", "--vocab-size", "400", "--special-token", END]
    out = said(capfd, "train", "corpus.txt", *flags, "--out", "uni.json")
    assert out.startswith("uni.json: 400 tokens, ")
    ids = said(capfd, "encode", "uni.json", "the statement").split()
    assert len(ids) < 13
    assert said(capfd, "decode", "uni.json", *ids) == "the statement"
    model = tokenizers.load(here / "uni.json").model
    (here / "uni.model").write_bytes(model)
    assert said(capfd, "encode", "uni.model", "the statement").split() == ids


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        ("fly", b"", "invalid choice: 'fly'"),
        ("show", b"", "the following arguments are required: TOKENIZER"),
        ("show bytes a b", b"", "unrecognized arguments: b"),
        ("show bytes --nonsense a", b"", "unrecognized arguments: --nonsense"),
        ("show nowhere a", b"", "nowhere: does not exist, expected a tokenizer's file or folder"),
        ("show text.txt a", b"", "text.txt"),
        ("show silent a", b"", "silent: is a checkpoint without tokenizer.json"),
        ("show chars", b"", "chars has a vocabulary only where there is a text"),
        (
            "show text.model a",
            b"",
            (
                "text.model: is not a model of sentencepiece"
                if HAS_SENTENCEPIECE
                else "pip install 'numgpt[sentencepiece]'"
            ),
        ),
        ("show bytes a --width 0", b"", "argument --width: is 0, expected 1 or more"),
        ("show bytes a --color pink", b"", "argument --color: invalid choice: 'pink'"),
        ("encode bytes a --file text.txt", b"", "got both a text and --file"),
        ("encode bytes --file nowhere.txt", b"", "nowhere.txt: does not exist, expected a file"),
        ("encode bytes --file /dev/zero", b"", "/dev/zero: is a device, expected a file"),
        ("encode bytes --file checkpoint", b"", "checkpoint: is a folder, expected a file"),
        (
            "encode bytes --file latin.txt",
            b"",
            (
                "latin.txt: is not UTF-8 (byte 0xe9 at 3), expected UTF-8 text: convert it, or take the bytes"
                " as they are with --bytes"
            ),
        ),
        ("encode bytes", b"a\xff", "stdin: is not UTF-8 (byte 0xff at 1)"),
        ("encode bytes a --out ids.txt", b"", "--out is ids.txt, expected a name that ends in .npy or .bin"),
        ("encode bytes a --out nowhere/ids.bin", b"", "nowhere/ids.bin: its folder does not exist"),
        (
            "encode tok.json a --special-token <|end|>",
            b"",
            "--special-token is '<|end|>', expected a text and its id",
        ),
        ("encode tok.json a --special-token <|end|>=7", b"", "tok.json: holds its own specials"),
        ("encode bytes a --special maybe", b"", "argument --special: invalid choice: 'maybe'"),
        ("decode bytes 1 x", b"", "decode: 'x' is not an id, expected integers such as 15496 995"),
        ("decode bytes 1.5", b"", "'1.5' is not an id"),
        (f"decode bytes {'9' * 40}", b"", "is not an id"),
        ("decode bytes 256", b"", "256 is no token's id, expected one of the vocabulary of 256"),
        ("decode bytes -1", b"", "-1 is no token's id"),
        ("decode bytes", b"1 2 \xff", "is not an id"),
        ("decode bytes 255 --errors strict", b"", "byte 0xff at 0 is not UTF-8"),
        ("decode bytes 1 --file text.txt", b"", "got both ids and --file"),
        ("decode bytes --file text.txt", b"", "text.txt: 'hello' is not an id"),
        ("decode bytes --file floats.npy", b"", "floats.npy: holds no integers"),
        ("decode bytes --file odd.bin", b"", "odd.bin: has 3 bytes, expected a multiple of 2"),
        ("decode chars 1", b"", "chars has a vocabulary only where there is a text"),
        ("train text.txt", b"", "the following arguments are required: --out"),
        ("train text.txt --out checkpoint", b"", "checkpoint: is a folder, expected a file to write"),
        ("train text.txt --out nowhere/tok.json", b"", "nowhere/tok.json: its folder does not exist"),
        (
            "train text.txt --out tok.json --format gpt2",
            b"",
            "tok.json: is a file, expected a folder for vocab.json and merges.txt",
        ),
        ("train nowhere.txt --out new.json", b"", "nowhere.txt: does not exist"),
        ("train text.txt --out new.json --pattern (", b"", "pattern: '(' does not compile"),
        (
            "train text.txt --out new.json --vocab-size 0",
            b"",
            "argument --vocab-size: is 0, expected 1 or more",
        ),
        (
            "train text.txt --out new.json --kind unigram --format gpt2",
            b"",
            "--format gpt2 is for --kind bpe only, expected numgpt or sentencepiece",
        ),
        (
            "train text.txt --out new.json --kind unigram --pattern gpt2",
            b"",
            "--pattern is for --kind bpe only",
        ),
    ],
)
def test_bad_input_gets_one_line_and_status_2(here, capfd, monkeypatch, args, given, message):
    monkeypatch.setattr(sys, "stdin", Stdin(given))
    status = main(["tokenizer", *args.split()])
    out, error = capfd.readouterr()
    assert status == 2
    assert out == ""
    assert message in error
    assert error.startswith("numgpt: ")
    assert error.count("\n") == 1
    assert not (here / "new.json").exists()


def test_without_stdin_one_line_says_so(here, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["tokenizer", "encode", "bytes"]) == 2
    assert "stdin: is closed" in capfd.readouterr().err


@pytest.mark.parametrize("args", [["show", "bytes"], ["encode", "bytes"], ["decode", "bytes", "--bytes"]])
def test_output_that_nobody_reads_ends_quietly(args):
    process = subprocess.Popen(
        [sys.executable, "-m", "numgpt", "tokenizer", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    process.stdout.close()
    process.stdin.write(b"97 " * 100000)
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_train_offers_every_kind_that_is_learned_to_a_size_and_every_format_of_one(capfd):
    with pytest.raises(SystemExit):
        main(["tokenizer", "train", "--help"])
    out = "".join(capfd.readouterr().out.split())  # lines break at hyphens too
    learned = {kind: row for kind, row in tokenizers.KINDS.items() if row.learn and row.size}
    for kind, row in learned.items():
        assert row.what and "".join(f"{kind}: {row.what}".split()) in out
        for form in row.formats:
            assert "".join(f"{form}: {FORMATS[form].writes}".split()) in out


def test_a_unigram_is_written_as_sentencepieces_model(here, capfd):
    pytest.importorskip("sentencepiece", reason="trains a unigram model")
    (here / "corpus.txt").write_text(corpora.python()[1][:20000], encoding="utf-8")
    flags = ["--vocab-size", "400", "--kind", "unigram", "--format", "sentencepiece", "--out", "u.model"]
    said(capfd, "train", "corpus.txt", *flags)
    assert tokenizers.load(here / "u.model").vocab_size == 400
