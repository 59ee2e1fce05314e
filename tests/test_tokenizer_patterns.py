"""Patterns of one's own that would take time without end are stopped, and named; others are not."""

import json
import time

import pytest
from tokenizer_samples import content, split

from numgpt import InputError, tokenizers
from numgpt.__main__ import main
from numgpt.tokenizers import BPE, Bytes, patterns, two_libraries
from numgpt.tokenizers.patterns import PATTERNS, Pattern

# Each takes twice the time, or nearly, for every character more.
ENDLESS = [
    (r"(a|aa)+b|[\s\S]", "a"),
    (r"(?:a|aa)+b|[\s\S]", "a"),
    (r"(\p{L}|\p{L}\p{L})+!|[\s\S]", "é"),
    (r"(?:\p{L}|.)*\n|[\s\S]", "q"),
    (r"(\s|\s\s)*x|[\s\S]", " "),
    (r"(?(DEFINE)(?P<x>a(?&x)?))(?&x)+b|[\s\S]", "a"),
]
WAYS = {
    "split": lambda source, text: Pattern(source).split(text),
    "matches": lambda source, text: list(Pattern(source).matches(text)),
    "encode": lambda source, text: BPE(Bytes.pieces, [], source).encode(text),
    "train": lambda source, text: tokenizers.train(text, 300, pattern=source),
}


@pytest.fixture
def little_patience(monkeypatch):
    """A tenth of a second is enough to see that a pattern is stopped."""
    monkeypatch.setattr(patterns, "PATIENCE", 0.1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source, letter", ENDLESS)
def test_a_pattern_that_takes_time_without_end_is_stopped_and_named(little_patience, way, source, letter):
    with pytest.raises(InputError, match=r"pattern: .* takes more than 0\.1 s for 60 characters") as caught:
        WAYS[way](source, letter * 60)
    assert repr(source) in str(caught.value)


def test_a_file_with_such_a_pattern_loads_and_its_text_is_one_line(little_patience, tmp_path, capsys):
    source = r"(a|aa)+b|[\s\S]"
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content(pre_tokenizer=split(source))), encoding="utf-8")
    for action in ("encode", "show"):
        assert main(["tokenizer", action, str(path), "a" * 60]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and repr(source) in err and "expected time in proportion" in err
    (tmp_path / "text.txt").write_text("a" * 60, encoding="utf-8")
    command = ["tokenizer", "train", str(tmp_path / "text.txt"), "--pattern", source, "--vocab-size", "300"]
    assert main([*command, "--out", str(tmp_path / "new.json")]) == 2
    assert "takes more than 0.1 s" in capsys.readouterr().err and not (tmp_path / "new.json").exists()


def test_memory_that_runs_out_is_the_patterns_fault(monkeypatch):
    class Greedy:
        groups, flags = 0, 0

        def findall(self, text, timeout):
            raise MemoryError

    pattern = Pattern(r"[\s\S]")
    pattern._compiled = Greedy()
    with pytest.raises(InputError, match="takes more than all memory for 3 characters"):
        pattern.split("abc")


@pytest.mark.parametrize("source", [r"\S+|\s+", r"(\p{L}+)|([^\p{L}]+)"])
def test_time_grows_with_the_text(monkeypatch, source):
    monkeypatch.setattr(patterns, "PATIENCE", 0.0)
    assert "".join(Pattern(source).split("word and word " * 20_000)) == "word and word " * 20_000


@pytest.mark.parametrize("name", PATTERNS)
def test_published_patterns_are_not_stopped(monkeypatch, name):
    monkeypatch.setattr(patterns, "PATIENCE", -1.0)
    monkeypatch.setattr(patterns, "PATIENCE_A_CHARACTER", 0.0)
    for source in (name, PATTERNS[name]):
        assert "".join(Pattern(source).split("it's\n " * 1000)) == "it's\n " * 1000


def test_a_pattern_is_measured_before_it_is_looked_through():
    start = time.process_time()
    for source in ("[" * 2**18, "(?i:" * 2**16):
        with pytest.raises(InputError, match="characters, expected at most"):
            two_libraries.name_of(source)
    assert time.process_time() - start < 5
