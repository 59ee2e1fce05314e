"""Tokenizers, corpora and batches."""

import hashlib
import json
import os
import re
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from cut_anywhere import cut, places
from hypothesis import given
from hypothesis import strategies as st

from numgpt import GPT, Config, InputError, tokenizers
from numgpt.__main__ import main
from numgpt.commands import runs
from numgpt.data import corpora, split, text
from numgpt.data import corpus as data
from numgpt.tokenizers import Bytes, Characters

texts = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.mark.parametrize("name", ["chars", "bytes", "bpe:260"])
@given(text=texts.filter(len))
def test_text_comes_back_and_so_does_the_tokenizer(name, text):
    tokenizer = tokenizers.build(name, text)
    ids = tokenizer.encode(text)
    assert ids.dtype.kind == "i" and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
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


@pytest.mark.parametrize("name", ["bytes", "bpe:260"])
def test_half_of_a_character_is_named_with_its_place_in_the_whole_text(name):
    tokenizer = tokenizers.build(name, "text")
    for attempt in (
        lambda: tokenizer.encode("ab c\ud800"),
        lambda: list(tokenizer.encode_parts(["ab ", "c", "\ud800"], size=1)),
    ):
        with pytest.raises(InputError, match=r"U\+D800 at position 4 is half of a character"):
            attempt()


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(InputError, match=r"character 'z' \(U\+007A\) at position 2 is not in the vocabulary"):
        Characters.build("abc").encode("abz")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"type": "words"}',
        '{"type": "chars"}',
        '{"type": "chars", "characters": "ba"}',
        '{"type": "bytes", "x": 1}',
    ],
)
def test_a_tokenizer_file_that_cannot_be_used_is_an_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="tokenizer"):
        tokenizers.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", corpora.NAMES)
def test_the_corpora_are_english_and_large_enough(name):
    source, text = corpora.named(name)
    assert len(text) > 100_000 and text.count(" the ") > 1000, source


def test_the_default_text_is_the_shipped_one_or_where_it_is_missing_pythons(monkeypatch):
    recipe = data.prepare(tokenizer=Bytes()).recipe
    assert recipe["paths"] == ["numgpt:austen"], "a run remembers which text was the default"
    monkeypatch.setattr(corpora, "austen", lambda: "")
    assert text.Text().paths == ["numgpt:python"]
    with pytest.raises(InputError, match="numgpt:austen: is missing where numgpt is installed"):
        text.Text(["numgpt:austen"])


def test_a_run_from_when_pythons_text_was_the_default_goes_on_with_it():
    model = GPT(Config(vocab_size=256, block_size=4, n_layer=1, n_head=1, n_embd=4), tokenizer=Bytes())
    corpus = runs.corpus({"paths": None}, model)
    assert corpus.recipe["paths"] == ["numgpt:python"] and corpus.source == corpora.python()[0]


def test_a_corpus_by_name_may_stand_among_files(tmp_path):
    (tmp_path / "a.txt").write_text("begin")
    both = text.Text([tmp_path / "a.txt", "numgpt:python"])
    assert "".join(both) == f"begin\n\n{corpora.python()[1]}"
    assert both.source == f"{tmp_path / 'a.txt'}, Python's language reference" and both.size > 100_000


@pytest.mark.parametrize(
    "path, message",
    [
        (
            "numgpt:ostin",
            r"^numgpt:ostin: is no text of numgpt's \(did you.*expected numgpt:austen or numgpt:python$",
        ),
        ("austen", "austen: does not exist, expected a text; numgpt's own of this name is numgpt:austen"),
    ],
)
def test_a_name_that_no_corpus_has_is_an_error_with_those_there_are(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        text.Text([path])


def test_austens_novels_are_paragraphs_of_ascii_and_the_same_on_every_machine():
    text = corpora.austen()
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    assert digest in (Path(corpora.__file__).parent / "texts" / "NOTICE").read_text("utf-8")
    paragraphs = text.removesuffix("\n").split("\n\n")
    assert len(paragraphs) > 9000 and not any("\n" in p or p != " ".join(p.split()) for p in paragraphs)
    assert paragraphs[0].startswith("The family of Dashwood had long been settled in Sussex.")
    assert not re.search(r"[^A-Za-z0-9 .,;:'\"!?()&-]", "".join(paragraphs)), "markup is left"


@pytest.mark.parametrize("content, expected", [(b"", "is damaged"), (b"\xfd7zXZ", "is damaged"), (None, "")])
def test_a_shipped_text_that_is_damaged_is_an_error_and_one_that_is_missing_is_none(
    tmp_path, monkeypatch, content, expected
):
    monkeypatch.setattr(corpora, "files", lambda package: tmp_path)
    (tmp_path / "texts").mkdir()
    if content is None:
        assert corpora.austen() == expected
        return
    (tmp_path / "texts" / "austen.txt.xz").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        corpora.austen()


@pytest.mark.parametrize("source", [corpora.docstrings, corpora.grammar])
def test_each_fallback_is_text_by_itself(source):
    text = source()
    assert len(text) > 100_000 and text == source()


def test_without_pydoc_data_the_next_source_is_taken(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data", None)
    name, text = corpora.python()
    assert name == "The standard library's docstrings" and len(text) > 100_000


@pytest.mark.parametrize("name", ["words", "bpe:many", "bpe:-300", "chars:3", "nowhere/tokenizer.json", ""])
def test_a_name_that_no_tokenizer_has_is_an_error_that_lists_those_there_are(name):
    with pytest.raises(InputError, match="is unknown, expected chars, bytes, bpe:2048, bpe:2048:cl100k"):
        tokenizers.build(name, "text")


def test_a_name_says_size_and_pattern_and_a_path_is_loaded(tmp_path):
    text = "the cat and the dog and the cow"
    tokenizer = tokenizers.build("bpe:260", [text[:9], text[9:]])
    assert (tokenizer.vocab_size, tokenizer.pattern.name) == (260, "gpt2")
    assert tokenizers.build("bpe:260:cl100k", text).pattern.name == "cl100k"
    assert tokenizers.build("bpe:258:(?:a|[^:])", text).pattern.name == "(?:a|[^:])"
    tokenizer.save(tmp_path / "tok.json")
    assert tokenizers.build(str(tmp_path / "tok.json"), "another text") == tokenizer
    assert tokenizers.build("chars", ["ab", "ca"]) == Characters("abc")


@pytest.mark.parametrize(
    "name, other",
    [
        ("chars", "bytes"),
        ("bpe:260", "bpe:261"),
        ("bpe:260", "bpe:260:cl100k"),
        ("bytes", "bpe:256"),
        ("bpe:260", "{file}"),
    ],
)
def test_a_tokenizer_is_known_by_its_name_and_not_by_another(tmp_path, name, other):
    text = "the cat and the dog and the cow"
    tokenizers.build("bpe:259", text).save(tmp_path / "tok.json")
    tokenizer, other = tokenizers.build(name, text), other.format(file=tmp_path / "tok.json")
    tokenizers.expect_named(name, tokenizer, "the run's")
    tokenizers.expect_named(other, tokenizers.build(other, text), "the run's")
    with pytest.raises(
        InputError, match=f"the run's tokenizer is .*, expected {re.escape(other)}: leave --tokenizer out"
    ):
        tokenizers.expect_named(other, tokenizer, "the run's")


def paragraphs(n, seed=0):
    draw = np.random.default_rng(seed)
    return [f"paragraph {i} " + "".join(draw.choice(list("abcdef "), 60)) + "end" for i in range(n)]


def test_repeats_are_dropped_whatever_their_white_space_and_headings_stay():
    long = "a paragraph that is longer than forty characters, twice"
    text = "\n\n".join([long, "Heading", "other " + long, long.replace(" ", "\n "), "Heading"])
    assert split.without_repeats(text).split("\n\n") == [long, "Heading", "other " + long, "Heading"]


@given(st.integers(1, 300), st.sampled_from([0.05, 0.1, 0.25, 0.5]), st.sampled_from(["\n\n", "\n", ""]))
def test_the_split_loses_nothing_and_holds_out_about_its_share(n, share, glue):
    text = glue.join(paragraphs(n))
    train, held = split.split_blocks(text, share)
    sort = lambda s: sorted(s.replace("\n", ""))
    assert sort(train + held) == sort(text)
    # A block of whole paragraphs, of up to 90 characters each, may have one more or one less than its share
    # of the text.
    block, paragraph = len(text) / max(50, 5 / share), 90 if glue else 0
    if len(text) > 5000 and block > paragraph:
        assert abs(len(held) / len(text) - share) < 0.06 + share * paragraph / block


@pytest.mark.parametrize("share", [0.001, 0.01, 0.02, 0.3])
def test_a_small_share_is_held_out_too(share):
    train, held = split.split_blocks("\n\n".join(paragraphs(6000)), share)
    assert abs(len(held) / len(train + held) - share) < 0.2 * share + 0.0005


def test_nothing_held_out_was_trained_on():
    parts = paragraphs(200)
    text = split.without_repeats("\n\n".join(parts + parts[::3]))
    train, held = split.split_blocks(text, 0.1)
    assert held and not set(train.split("\n\n")) & set(held.split("\n\n"))


def test_the_tail_split_is_nanogpts():
    assert split.split_tail("x" * 1115394, 0.1)[0] == "x" * 1003854


# Few letters, many kinds of white space, among them all that ends lines: blank lines of every make, and
# paragraphs that come twice.
LONGER = "one paragraph that is longer than forty characters"
pieces = st.sampled_from(
    [
        "a",
        "b c",
        "\n",
        "\n\n",
        "\n \n",
        " ",
        "\t",
        "\x0b",
        "\x1c",
        "\u2028",
        "é",
        "🙂",
        LONGER,
        LONGER.replace(" ", "\n"),
        "\n\n" + LONGER + "\n\n",
    ]
)
spaced = st.lists(pieces, max_size=40).map("".join)


class InParts:
    """A text as Split takes it, cut into given parts."""

    def __init__(self, parts):
        self._parts = parts

    def parts(self, doing=None):
        return iter(self._parts)


@given(text=spaced, places=places)
def test_paragraphs_in_parts_are_those_of_the_whole(text, places):
    found = [""]
    for together in split.paragraphs(cut(text, places)):
        found[-1] += together[0]
        found += together[1:]
    assert found == re.split(r"\n\s*\n", text)


@given(
    text=spaced | st.lists(pieces, min_size=60, max_size=200).map("".join),
    places=places,
    held=st.sampled_from([0.1, 0.25, 0.5]),
    kind=st.sampled_from(split.SPLITS),
    dedup=st.booleans(),
    blocks=st.sampled_from([3, 20, 50]),
)
def test_a_text_in_parts_is_dealt_as_the_whole_is(text, places, held, kind, dedup, blocks):
    with mock.patch.object(split, "BLOCKS", blocks):
        whole = split.without_repeats(text) if dedup else text
        expected = split.split_blocks(whole, held) if kind == "blocks" else split.split_tail(whole, held)
        dealt = split.Split(InParts(cut(text, places)), held, kind, dedup)
        for _ in range(2):
            assert tuple(map("".join, zip(("", ""), *dealt))) == expected
        assert dealt.size == len(whole)


def test_a_repeat_that_is_not_seen_is_noticed_by_the_law_above():
    text = "\n\n".join([LONGER, "b", LONGER])
    with mock.patch.object(split, "repeats", lambda parts: np.zeros(3, bool)):
        train, held = map("".join, zip(*split.Split(InParts([text]), 0.1)))
    assert train + held != "".join(split.split_blocks(split.without_repeats(text), 0.1))


@pytest.mark.parametrize(
    "run", ["\n" * 2**20, " " * 2**20, "\n" + " " * 2**20 + "\n", "\n \n" * 2**18, "a" * 2**20, "a\n" * 2**19]
)
def test_a_long_run_of_anything_takes_linear_time(run):
    text = "a" + run + "b"
    start = time.perf_counter()
    sizes = [
        sum(map(len, together))
        for together in split.paragraphs(text[i : i + 2**12] for i in range(0, len(text), 2**12))
    ]
    # Some hundredths of a second; once more through all that is held with each of the 257 parts would be some
    # hundred times as much.
    assert time.perf_counter() - start < 5 and sum(sizes) <= len(text)


def test_files_and_folders_are_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("b\r\nb")
    (tmp_path / "a.md").write_text("\ufeffa", encoding="utf-8")
    (tmp_path / "image.png").write_bytes(b"\xff")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt").write_text("c")
    with pytest.warns(UserWarning, match="3 texts are read, left out: 1 .png, 1 hidden folder"):
        assert text.read([tmp_path]) == "a\n\nb\nb\n\nc"
    assert text.read([tmp_path / "b.txt", tmp_path / "a.md"]) == "b\nb\n\na"


def test_endings_count_in_capitals_too_and_what_is_left_out_is_counted(tmp_path):
    for name in ("B.TXT", "a.Md", "x.png", "y.png", "Makefile", ".notes.txt", ".DS_Store", ".git/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with pytest.warns(
        UserWarning, match="2 texts are read, left out: 2 .png, 1 hidden folder, 1 hidden"
    ) as caught:
        assert text.read([tmp_path]) == "B.TXT\n\na.Md"
    (message,) = (str(warning.message) for warning in caught)
    for part in ("1 hidden folder", "1 hidden text", "1 without an ending", ".txt and .md files"):
        assert part in message
    for name in ("B.TXT", "a.Md"):
        (tmp_path / name).unlink()
    with pytest.raises(
        InputError, match=r"holds no text \(2 .png, .*\), expected files that end in .txt or .md"
    ):
        text.Text([tmp_path])


def test_a_folder_of_texts_alone_is_read_without_a_word(tmp_path, recwarn):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert text.read([tmp_path]) == "a"
    assert list(recwarn) == []


def test_linked_folders_are_read_once_and_a_loop_of_links_ends(tmp_path):
    (tmp_path / "elsewhere/inner").mkdir(parents=True)
    (tmp_path / "elsewhere/inner/c.txt").write_text("c")
    (tmp_path / "texts/z").mkdir(parents=True)
    (tmp_path / "texts/z/b.txt").write_text("b")
    for link, target in {
        "texts/y": "elsewhere",
        "texts/x": "elsewhere/inner",  # after y or before, it is read once
        "texts/a": "texts/z",  # what is read anyway keeps its place
        "texts/z/up": "texts",
        "elsewhere/inner/down": "elsewhere",
        "texts/itself": "texts/itself",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.warns(UserWarning, match="2 texts are read, left out: 1 link to nothing"):
        listing = text.Text([tmp_path / "texts"])
    assert "".join(listing) == "c\n\nb"
    (tmp_path / "texts/itself").unlink()
    (tmp_path / "texts/gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="gone.txt: does not exist"):
        text.Text([tmp_path / "texts"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("a")
    with pytest.warns(UserWarning, match="1 text is read, left out: 1 pipe or device"):
        assert text.read([tmp_path]) == "a"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be", "utf-32"])
@pytest.mark.parametrize(
    "content",
    [
        "To be, or not to be.",
        "Быть или не быть, вот в чём вопрос: достойно ли " * 4,
        "Τὸ εἶναι ἢ μή " * 20,
        "né",
    ],
)
def test_wide_characters_without_a_mark_are_no_text(tmp_path, encoding, content):
    """They are UTF-8 full of zeros, on which a model would learn to write every second character."""
    (tmp_path / "text.txt").write_bytes(content.encode(encoding))
    kind = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    with pytest.raises(
        InputError, match=rf"(looks like|is) {kind} .*expected UTF-8.*iconv -f {kind} |is not UTF-8"
    ):
        text.read([tmp_path / "text.txt"])


@pytest.mark.parametrize(
    "content", ["one\0two\0three\0" * 99, "abc\0" * 99, "a\0", "\n".join("abcde" * 99), "a" * 9999 + "\0"]
)
def test_a_text_with_zeros_of_its_own_is_read(tmp_path, content):
    (tmp_path / "text.txt").write_text(content)
    assert text.read([tmp_path / "text.txt"]) == content


def test_repeats_that_are_left_out_are_counted(tmp_path, capsys):
    parts = paragraphs(60)
    (tmp_path / "text.txt").write_text("\n\n".join(parts + parts[:3]))
    assert data.prepare(tmp_path / "text.txt").repeats == 3
    assert data.prepare(tmp_path / "text.txt", dedup=False).repeats == 0
    options = (
        "--n-layer 1 --n-head 1 --n-embd 4 --block-size 4 --steps 0 --eval-iters 1 --sample-tokens 0".split()
    )
    assert (
        main(["train", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), *options]) == 0
    )
    assert "3 repeated paragraphs left out, vocabulary" in capsys.readouterr().err


@given(
    content=st.lists(
        st.sampled_from(["a", "é", "🙂", "\r", "\n", "\r\n", "\ufeff", "\x1a"]), max_size=30
    ).map("".join),
    size=st.integers(1, 5),
)
def test_a_file_in_parts_is_the_file(tmp_path_factory, content, size):
    path = tmp_path_factory.getbasetemp() / "parts.txt"
    path.write_bytes(content.encode())
    expected = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    with mock.patch.object(text, "PART", size):
        found = text.Text([path, path])
        if expected.strip():
            assert "".join(found) == "".join(found) == f"{expected}\n\n{expected}"
        else:
            with pytest.raises(InputError, match="parts.txt: is empty"):
                "".join(found)


@pytest.mark.parametrize("size", [1, 3, 2**20])
@pytest.mark.parametrize(
    "content, byte, at",
    [
        (b"caf\xe9 au", "0xe9", 3),
        (b"\xef\xbb\xbfab\xff", "0xff", 5),
        ("🙂".encode()[:3], "0xf0", 0),
        (b"aa\xe2\x82A", "0xe2", 2),
    ],
)
def test_what_is_not_utf8_is_named_with_its_place_in_the_file(tmp_path, monkeypatch, size, content, byte, at):
    (tmp_path / "text.txt").write_bytes(content)
    monkeypatch.setattr(text, "PART", size)
    with pytest.raises(InputError, match=rf"text.txt: is not UTF-8 \(byte {byte} at {at}\), expected UTF-8"):
        text.read([tmp_path / "text.txt"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read_once_and_gone_through_often(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a text from a pipe",))
    writer.start()
    found = text.Text([tmp_path / "pipe"])
    writer.join()
    assert "".join(found) == "".join(found) == "a text from a pipe" and found.size == 18


def test_a_file_that_changes_between_two_passes_is_an_error(tmp_path):
    (tmp_path / "text.txt").write_text("as it was")
    found = text.Text([tmp_path / "text.txt"])
    assert "".join(found) == "as it was"
    (tmp_path / "text.txt").write_text("as it is now")
    with pytest.raises(InputError, match="text.txt: has changed while it was read"):
        "".join(found)


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


@pytest.mark.parametrize("paths", [[], ()])
def test_no_files_are_no_wish_for_the_default_text(paths):
    """As from a glob that matches nothing."""
    with pytest.raises(InputError, match="paths are empty, expected files or folders"):
        data.prepare(paths)
