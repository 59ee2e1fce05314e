"""What does not fit in memory is refused before it is allocated, by what the system and its container say."""

import numpy as np
import pytest

from numgpt import GPT, AdamW, Config, InputError, Trainer, Training, engine, prepare
from numgpt.architecture.parameters import Flat
from numgpt.engine import memory

MEMINFO = "MemTotal: 24000000 kB\nMemAvailable: 8000000 kB\nSwapFree: 1000000 kB\nHugePages_Total: 0\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A folder in the place of the system's files."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "cgroup")
    (tmp_path / "cgroup" / "memory").mkdir(parents=True)
    return tmp_path


def test_free_memory_is_what_the_machine_has_left_with_its_swap(system):
    (system / "meminfo").write_text(MEMINFO)
    assert memory.free() == 1024 * 9_000_000


@pytest.mark.parametrize(
    "folder, limit, used",
    [
        ("cgroup", "memory.max", "memory.current"),
        ("cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_a_container_has_less_and_its_cached_files_are_free(system, folder, limit, used):
    (system / "meminfo").write_text(MEMINFO)
    (system / folder / limit).write_text("5000\n")
    (system / folder / used).write_text("4500\n")
    (system / folder / "memory.stat").write_text("anon 4100\ninactive_file 300\nactive_file 100\n")
    assert memory.free() == 900


@pytest.mark.parametrize("limit", ["max\n", "", "9223372036854771712\n"])
def test_a_container_without_a_limit_has_what_the_machine_has(system, limit):
    (system / "meminfo").write_text(MEMINFO)
    (system / "cgroup" / "memory.max").write_text(limit)
    (system / "cgroup" / "memory.current").write_text("4500\n")
    assert memory.free() == 1024 * 9_000_000


@pytest.mark.parametrize("text", [None, "", "MemAvailable: much kB\n", "\0\0"])
def test_a_system_that_does_not_say_refuses_nothing(system, text):
    if text is not None:
        (system / "meminfo").write_text(text)
    assert memory.free() is None
    engine.expect_room("anything", 10**18)


def test_this_system_has_room_for_a_small_model():
    engine.expect_room("a small model", memory.SMALL + 1)


@pytest.fixture
def little(monkeypatch):
    """Room for some bytes, and nothing too small to be looked at."""
    monkeypatch.setattr(memory, "free", lambda: 10_000)
    monkeypatch.setattr(memory, "SMALL", 0)


def config(**changes):
    return Config(**{"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4} | changes)


def test_a_model_is_refused_before_it_is_allocated(little, monkeypatch, tmp_path):
    model = GPT(config())  # of 288 numbers
    message = r"parameters: [\d,]+ numbers do not fit in memory \(\d.0 GB are needed, 0.0 GB are free\)"
    GPT(config(n_embd=8)).save(tmp_path / "model")
    monkeypatch.setattr(np, "zeros", lambda *_, **__: pytest.fail("it was allocated"))
    monkeypatch.setattr(memory, "free", lambda: 288 * 4 - 1)
    for refused in (
        lambda: GPT(config()),
        lambda: GPT.load(tmp_path / "model"),
        lambda: AdamW(model),
        lambda: model.loss_and_grads([0], [1]),
        lambda: Flat({"a": (10**9,)}, "float64"),
    ):
        with pytest.raises(InputError, match=message):
            refused()


def test_training_is_refused_with_its_gradients_and_moments(little, monkeypatch, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("she sells sea shells by the sea shore. " * 40)
    corpus = prepare(text, split="tail")
    model = GPT(config(vocab_size=corpus.tokenizer.vocab_size), tokenizer=corpus.tokenizer)
    monkeypatch.setattr(memory, "free", lambda: 3 * model.params.flat.nbytes - 1)
    with pytest.raises(InputError, match="training: gradients and moments do not fit in memory"):
        Trainer(model, corpus, Training(steps=1))
