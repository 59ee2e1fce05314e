"""Every public writer × every place that cannot be written: one line says what is there and what to do."""

import contextlib
import os
import pathlib
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from numgpt import GPT, Config, InputError, tokenizers
from numgpt.interchange import llama2c, llmc
from numgpt.storage import atomic
from numgpt.tokenizers import Bytes

CONFIG = Config(vocab_size=257, block_size=5, n_layer=1, n_head=2, n_embd=6)
MODEL = GPT(CONFIG, tokenizer=Bytes())
LLAMA = GPT(replace(CONFIG, norm="rmsnorm", positions="rotary", activation="swiglu", bias=False, n_embd=8))
IDS = np.arange(5)
FILES = {
    "write_file": lambda path: atomic.write_file(path, b"bytes"),
    "write_json": lambda path: atomic.write_json(path, {}),
    "Tokenizer.save": lambda path: Bytes().save(path),
    "export to huggingface": lambda path: tokenizers.export(Bytes(), path, "huggingface"),
    "export to tiktoken": lambda path: tokenizers.export(Bytes(), path, "tiktoken"),
    "export to numgpt": lambda path: tokenizers.export(Bytes(), path, "numgpt"),
    "llama2c.save": lambda path: llama2c.save(path, LLAMA),
    "GPT.save for llama2.c": lambda path: LLAMA.save(path, "llama2.c-v2"),
    "llmc.save_model": lambda path: llmc.save_model(path, MODEL),
    "llmc.save_state": lambda path: llmc.save_state(path, MODEL, IDS, IDS),
    "llmc.save_tokens": lambda path: llmc.save_tokens(path, IDS),
    "llmc.save_tokenizer": lambda path: llmc.save_tokenizer(path, [b"a"], 0),
}
FOLDERS = {  # which make the folders above them
    "GPT.save": lambda path: MODEL.save(path),
    "GPT.save for transformers": lambda path: MODEL.save(path, "hf"),
    "llmc.save_all": lambda path: llmc.save_all(path, MODEL, 1, 2),
    "export to gpt2": lambda path: tokenizers.export(Bytes(), path, "gpt2"),
}
WRITERS = FILES | FOLDERS
PLACES = ["a folder", "a missing folder", "below a file", "empty", "a null", "too long"]


def place(kind, tmp_path):
    """A name at which nothing can be written, but for a folder by those that write one."""
    (tmp_path / "folder" / "tokenizer.json").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    below = {"a folder": "folder", "a missing folder": "missing/name", "below a file": "file/name"}
    below |= {"a null": "a\0b", "too long": "n" * 300}
    return "" if kind == "empty" else f"{tmp_path}/{below[kind]}"


def expect_refused(write, path, words=None):
    with pytest.raises(InputError, match=words) as caught:
        write(path)
    message = str(caught.value)
    assert "\n" not in message and "expected" in message and ".numgpt-" not in message, message


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", WRITERS)
def test_a_place_where_nothing_can_be_written_is_refused_in_one_line(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = place(kind, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    if kind == "a missing folder" and name in FOLDERS:
        WRITERS[name](path)
        assert os.listdir(path)
        return
    if kind == "a folder" and name == "export to gpt2":
        WRITERS[name](path)
        assert {"vocab.json", "merges.txt"} < set(os.listdir(path))
        return
    expect_refused(WRITERS[name], path)
    assert sorted(tmp_path.rglob("*")) == before


@contextlib.contextmanager
def anybody():
    """Work as a user whom permissions bind: root may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions on this system")
@pytest.mark.parametrize("mode", [0o555, 0])
@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_may_not_be_written_is_refused_in_one_line(name, mode, tmp_path):
    WRITERS[name](tmp_path / "once")  # so that all is imported
    with tempfile.TemporaryDirectory() as outer:  # everybody may come so far, and not into tmp_path
        os.chmod(outer, 0o755)
        folder = pathlib.Path(outer, "locked")
        folder.mkdir()
        folder.chmod(mode)
        with anybody():
            expect_refused(WRITERS[name], str(folder / "name"), "permissions")
        folder.chmod(0o755)
        assert not os.listdir(folder)


def test_a_full_disk_is_no_fault_of_the_name(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        atomic.write_file(tmp_path / "file", b"bytes")
    assert not isinstance(caught.value, InputError) and not os.listdir(tmp_path)
