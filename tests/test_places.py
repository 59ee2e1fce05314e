"""No command writes over what it reads: it is refused before anything is written."""

import os
import sys

import pytest

from numgpt import GPT, Config, llmc
from numgpt.__main__ import main
from numgpt.tokenizers import BPE, Bytes

WORDS = "hello world, the cat sat. " * 20
TINY = "--preset=gpt-nano --n-layer=1 --n-head=1 --n-embd=8 --block-size=8 --batch-size=2 --steps=1"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with texts, arrays, tokenizers and models; the working directory."""
    monkeypatch.chdir(tmp_path)
    for folder in ("texts/deep", "elsewhere", "out", "run"):
        os.makedirs(folder)
    for name in ("book.txt", "data.bin", "texts/a.txt", "texts/deep/b.MD", "elsewhere/c.txt"):
        (tmp_path / name).write_text(WORDS)
    os.symlink("book.txt", "link.bin")
    os.symlink("../elsewhere", "texts/link")
    BPE([*Bytes.pieces], []).save("tok.npy")
    model = GPT(Config(vocab_size=256, block_size=16, n_layer=1, n_head=1, n_embd=4), tokenizer=Bytes())
    model.save("model")
    model.save("run/best")
    (tmp_path / "run" / "log.jsonl").write_text(WORDS)
    llmc.save_all("files", model, 1, 4)
    return tmp_path


def content(folder):
    """The bytes and the times of all files in a folder."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        "tokenizer train book.txt --out book.txt",
        "tokenizer train tok.npy ./out/../book.txt --out book.txt",
        "tokenizer train link.bin --out book.txt",
        "tokenizer train book.txt --out link.bin",
        "tokenizer train texts --out texts/a.txt",
        "tokenizer train texts --out texts/deep/new.md",
        "tokenizer train texts --out elsewhere/c.txt",
        "tokenizer train texts --format gpt2 --out texts",
        "tokenizer train texts --format gpt2 --out texts/deep",
        "tokenizer encode bytes --file data.bin --out data.bin",
        "tokenizer encode bytes --out data.bin",
        "tokenizer encode bytes --file - --out data.bin",
        "tokenizer encode bytes --file book.txt --out link.bin",
        "tokenizer encode tok.npy hello --out tok.npy",
        "convert model model --dtype float64",
        "convert model ./out/../model",
        "export files files/model.bin --llmc",
        f"train --data run/log.jsonl --out run {TINY}",
        f"train --data book.txt --tokenizer run/best --out run {TINY}",
        f"train --data book.txt --tokenizer run/best/tokenizer.json --out run {TINY}",
    ],
)
def test_what_is_read_is_not_written_over(here, capfd, monkeypatch, words):
    before = content(here)
    with open("data.bin") as given:
        monkeypatch.setattr(sys, "stdin", given)
        assert main(words.split()) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "expected another place: choose another" in error
    assert content(here) == before


@pytest.mark.parametrize(
    "words",
    [
        "tokenizer train texts --out -",
        "tokenizer train texts --format gpt2 --out -",
        "tokenizer encode bytes hello --out -",
        "convert model -",
        "export model - --llmc",
        "plot run --out -",
        f"train --data texts --out - --sample-tokens=0 {TINY}",
    ],
)
def test_a_dash_is_no_name_of_a_file(here, capfd, words):
    before = content(here)
    assert main(words.split()) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "expected" in error
    assert content(here) == before and not (here / "-").exists()


def test_a_page_is_printed_where_its_place_is_a_dash(here, capfd):
    words = ["explore", "model", "--prompt", "ab"]
    assert main([*words, "--out", "-"]) == 0
    printed = capfd.readouterr().out
    assert main([*words, "--out", "page.html"]) == 0
    assert printed == (here / "page.html").read_text("utf-8") + "\n" and not (here / "-").exists()
    assert main([*words, "--out", "-", "--open"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        "tokenizer train . --vocab-size 257 --out tok.json",
        "tokenizer train texts --vocab-size 257 --out texts/tok.json",
        "tokenizer train texts --vocab-size 257 --format gpt2 --out out",
        "tokenizer encode bytes --file book.txt --out book.npy",
        "tokenizer encode tok.npy hello --out hello.npy",
        "convert model model/inside",
        "export model/files model --llmc",
        f"train --data texts --out texts/new --sample-tokens=0 {TINY}",
    ],
)
@pytest.mark.filterwarnings("ignore:.*are read, left out")
def test_a_place_beside_what_is_read_is_written_to(here, capfd, words):
    before = content(here)
    assert main(words.split()) == 0, capfd.readouterr().err
    assert before.items() < content(here).items()
