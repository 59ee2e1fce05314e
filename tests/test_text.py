"""Tokenizers, corpora and batches."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError, corpora, data, tokenizers
from numgpt.tokenizers import Bytes, Characters

texts = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.mark.parametrize("name", tokenizers.TOKENIZERS)
@given(text=texts.filter(len))
def test_text_comes_back_and_so_does_the_tokenizer(name, text):
    tokenizer = tokenizers.build(name, text)
    ids = tokenizer.encode(text)
    assert ids.dtype.kind == "i" and 0 <= ids.min() and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == text
    again = tokenizers.from_state(json.loads(json.dumps(tokenizer.state())))
    assert again.vocab_size == tokenizer.vocab_size and np.array_equal(again.encode(text), ids)
    decode = tokenizer.decoder()
    assert "".join(decode(i) for i in ids) + decode(None, True) == text


def test_characters_are_sorted_and_bytes_are_utf8():
    assert Characters.build("hello").characters == "ehlo"
    assert Characters.build("hello").encode("hole").tolist() == [1, 3, 2, 0]
    assert Bytes().encode("é").tolist() == [0xC3, 0xA9]


def test_bytes_that_are_not_utf8_decode_to_the_replacement_character():
    assert Bytes().decode([0xC3]) == "\ufffd"


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(InputError, match=r"character 'z' \(U\+007A\) at position 2 is not in the vocabulary"):
        Characters.build("abc").encode("abz")


@pytest.mark.parametrize("content", ["{", "[]", '{"type": "words"}', '{"type": "chars"}', '{"type": "chars", "characters": "ba"}', '{"type": "bytes", "x": 1}'])
def test_a_tokenizer_file_that_cannot_be_used_is_an_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="tokenizer"):
        tokenizers.load(tmp_path / "tokenizer.json")


def test_the_default_corpus_is_english_and_large_enough():
    name, text = corpora.default()
    assert len(text) > 100_000 and text.count(" the ") > 1000, name


@pytest.mark.parametrize("source", [corpora.docstrings, corpora.grammar])
def test_each_fallback_is_text_by_itself(source):
    text = source()
    assert len(text) > 100_000 and text == source()


def test_without_pydoc_data_the_next_source_is_taken(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data", None)
    name, text = corpora.default()
    assert name == "The standard library's docstrings" and len(text) > 100_000


def paragraphs(n, seed=0):
    draw = np.random.default_rng(seed)
    return [f"paragraph {i} " + "".join(draw.choice(list("abcdef "), 60)) + "end" for i in range(n)]


def test_repeats_are_dropped_whatever_their_white_space_and_headings_stay():
    long = "a paragraph that is longer than forty characters, twice"
    text = "\n\n".join([long, "Heading", "other " + long, long.replace(" ", "\n "), "Heading"])
    assert data.without_repeats(text).split("\n\n") == [long, "Heading", "other " + long, "Heading"]


@given(st.integers(1, 300), st.sampled_from([0.05, 0.1, 0.25, 0.5]), st.sampled_from(["\n\n", "\n", ""]))
def test_the_split_loses_nothing_and_holds_out_about_its_share(n, share, glue):
    text = glue.join(paragraphs(n))
    train, held = data.split_blocks(text, share)
    sort = lambda s: sorted(s.replace("\n", ""))  # noqa: E731
    assert sort(train + held) == sort(text)
    # A block of whole paragraphs, of up to 90 characters each, may have one more or one less than its share of the text.
    block, paragraph = len(text) / max(50, 5 / share), 90 if glue else 0
    if len(text) > 5000 and block > paragraph:
        assert abs(len(held) / len(text) - share) < 0.06 + share * paragraph / block


@pytest.mark.parametrize("share", [0.001, 0.01, 0.02, 0.3])
def test_a_small_share_is_held_out_too(share):
    train, held = data.split_blocks("\n\n".join(paragraphs(6000)), share)
    assert abs(len(held) / len(train + held) - share) < 0.2 * share + 0.0005


def test_nothing_held_out_was_trained_on():
    parts = paragraphs(200)
    text = data.without_repeats("\n\n".join(parts + parts[::3]))
    train, held = data.split_blocks(text, 0.1)
    assert held and not set(train.split("\n\n")) & set(held.split("\n\n"))


def test_the_tail_split_is_nanogpts():
    assert data.split_tail("x" * 1115394, 0.1)[0] == "x" * 1003854


def test_files_and_folders_are_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("b\r\nb")
    (tmp_path / "a.md").write_text("\ufeffa", encoding="utf-8")
    (tmp_path / "image.png").write_bytes(b"\xff")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt").write_text("c")
    assert data.read([tmp_path]) == "a\n\nb\nb\n\nc"
    assert data.read([tmp_path / "b.txt", tmp_path / "a.md"]) == "b\nb\n\na"


def test_many_tokens_are_kept_in_a_mapped_file(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs(300)))
    in_memory = data.prepare([tmp_path / "text.txt"])
    monkeypatch.setattr(data, "LARGE", 1000)
    mapped = data.prepare([tmp_path / "text.txt"], folder=tmp_path / "tokens")
    again = data.prepare([tmp_path / "text.txt"], folder=tmp_path / "tokens")
    assert isinstance(mapped.train, np.memmap) and not mapped.train.flags.writeable
    for corpus in (mapped, again):
        assert np.array_equal(corpus.train, in_memory.train) and np.array_equal(corpus.held_out, in_memory.held_out)
        assert corpus.digest == in_memory.digest
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs(300, seed=1)))
    (tmp_path / "tokens" / "train.bin").write_bytes(b"cut")
    changed = data.prepare([tmp_path / "text.txt"], folder=tmp_path / "tokens")
    assert changed.digest != mapped.digest
    assert changed.tokenizer.decode(changed.train) == data.split_blocks(data.read([tmp_path / "text.txt"]), 0.1)[0]


def test_batches_depend_on_seed_and_step_only():
    tokens = np.arange(1000, dtype=np.uint16)
    x, y = data.batch(tokens, 8, 4, 0, "train", 3, 0)
    assert x.shape == y.shape == (4, 8) and (y == x + 1).all() and x.dtype == np.int64
    data.batch(tokens, 8, 4, 0, "train", 4, 0)
    assert np.array_equal(x, data.batch(tokens, 8, 4, 0, "train", 3, 0)[0])
    for words in [(1, "train", 3, 0), (0, "held-out", 3, 0), (0, "train", 4, 0), (0, "train", 3, 1)]:
        assert not np.array_equal(x, data.batch(tokens, 8, 4, *words)[0])


def test_batches_reach_every_token():
    tokens, seen = np.arange(20), set()
    for step in range(200):
        x, y = data.batch(tokens, 8, 4, 0, "train", step)
        seen |= set(x.ravel()) | set(y.ravel())
    assert seen == set(range(20))
