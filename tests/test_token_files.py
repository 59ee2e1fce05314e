"""A corpus is made in little memory, the same as ever, and files of tokens are trusted only as written."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError
from numgpt.data import corpus as data
from numgpt.data import split, text, token_files
from numgpt.tokenizers import Bytes, Characters, Tokenizer

LONG = "a paragraph that is longer than forty characters, and which comes twice"
TEXTS = {
    "paragraphs": "\n\n".join(
        [
            LONG,
            "Heading",
            "Heading",
            "été 🙂 " + LONG,
            *(f"paragraph {i} of a text that goes on and on, as texts do" for i in range(80)),
            LONG.replace(" ", "\n"),
        ]
    ),
    "lines": "".join(f"line {i}\r\n" for i in range(70)),
    "one": "abcdefghij" * 40,
    "spaces": "\n \n\n" + "x\n" * 3 + "\t\n\x0b\n   y" + "\n\u2028\n" * 30 + "z \n",
}
# Of version 0.1, which read texts as a whole and whose runs must resume: the SHA-256 of the tokens, as 8-byte
# integers, and the digest of the corpus.
PINNED = [
    ("paragraphs", {}, "d07bc4d76b733de7", "2cd6dee760db4953",
     "6b003e8d37f3f2633efbd5d60f0ba2330e500dfdf59a42a6b5a7c8456c62a4d1"),
    ("paragraphs", {"tokenizer": "bytes", "dedup": False}, "0954cfe63d38038d", "46bdf64ad8782ee6",
     "edacc8d5a29e12bb022b0331a6b3072ee0bb671382604fd391d51999c645e115"),
    ("paragraphs", {"split": "tail", "held_out": 0.3}, "0373b45cee87c972", "9f1dc68e423a794f",
     "a504ba09ab5a66e083cb0ff03058d892e558bcd6012b31a6218c5955ff037cb4"),
    ("paragraphs", {"dedup": False, "held_out": 0.25}, "2c62945400ae1936", "cef5f83baf10135b",
     "31e2a09497576549d5aa6ffcdfb00a7df0a719d1175eb04bf9dec0771e47ba01"),
    ("lines", {}, "7c900d497d03ed05", "52a8c9d38192e615",
     "4335639cefcebe8ee7bcbb7eeb8316f0df49198735b4b63ca51cf1c929beb9eb"),
    ("lines", {"tokenizer": "bytes", "dedup": False}, "ede27edbe96e81d4", "3dd0615ae8b1a253",
     "50a56dcff8a7634a4bed710871e63b58f2ed6c587f5a4f7663a65013db9705ca"),
    ("lines", {"split": "tail", "held_out": 0.3}, "2468849e934d7cc9", "9e4916cfb09eb7b2",
     "b7a4e9a8dd1fea8f35ecf5ccb0289dec9ea80d229f785548128f7c3e4d6c2a13"),
    ("lines", {"dedup": False, "held_out": 0.25}, "2162e6fdb1faa895", "0b21ae08c3a8fd17",
     "5c6676a9568d80d87bfe0d9393a98bc11ea713ba8c020e973cfd53c718a54e3b"),
    ("one", {}, "1c96ac1f7c92c5c0", "a12a1bf5606ac480",
     "c2c26308972b02b7754e5747963671f99371236333cd16047654a5dbb53d89b9"),
    ("one", {"tokenizer": "bytes", "dedup": False}, "8cfa2638ebc52fbd", "763144b0f63cc980",
     "017cb6863981ad4d269c206fac80950ea8acdbb016ccb66de2ed2fa6d9124041"),
    ("one", {"split": "tail", "held_out": 0.3}, "8bc3eeed2dd67948", "0de1cd687e8e542a",
     "1cf8748b5de6f2117b5ddf449a9ea23c26a6dcf40d5245267a0b8e641b537999"),
    ("one", {"dedup": False, "held_out": 0.25}, "fe2241660c49bfb8", "d07e74a831bb7a9f",
     "fed69c694085ad87bee2eac19ed80da26e2c70b55c1cc89eae262754d982e7a0"),
    ("spaces", {}, "c340ca13f7ce45e3", "7c9fa136d4413fa6",
     "f67240482d21f20bfe44cac30f5abc6c5110c759d16047665b78e18cd32e7cb7"),
    ("spaces", {"tokenizer": "bytes", "dedup": False}, "e7f32dcad9393899", "e430d334baaa3c5d",
     "ae5fd5646951a13560e9a4962f7344fcaea7f8abc9f4840613f9e9673dcf7342"),
    ("spaces", {"split": "tail", "held_out": 0.3}, "4418625d98a18c7c", "90b4e326f6971c49",
     "d8da7c4662afaccc5ae3c74c55ba91019b6b1583e345cb4a6ccf35573d31a9a0"),
    ("spaces", {"dedup": False, "held_out": 0.25}, "9ec5796b6709b4a6", "7f7e91dc4d5e65be",
     "de8e117141e0bdcd3ee12fd001594714d1834882120eb419a3c027908758feee"),
]  # fmt: skip


@pytest.mark.parametrize("name, settings, train, held_out, digest", PINNED)
@pytest.mark.parametrize("part", [3, 2**20])
@pytest.mark.parametrize("large", [100, 2**24])
def test_runs_from_when_texts_were_read_as_a_whole_find_their_corpus(
    tmp_path, monkeypatch, name, settings, train, held_out, digest, part, large
):
    (tmp_path / "text.txt").write_bytes(TEXTS[name].encode())
    monkeypatch.setattr(text, "PART", part)
    monkeypatch.setattr(data, "LARGE", large)
    for folder in (None, tmp_path / "tokens"):
        corpus = data.prepare([tmp_path / "text.txt"], folder=folder, **settings)
        assert corpus.digest == digest
        assert [
            hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]
            for ids in (corpus.train, corpus.held_out)
        ] == [train, held_out]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"paragraph {i} of a text that goes on and on, as texts do" for i in range(300))
    )
    return tmp_path / "text.txt"


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(data, "LARGE", 1000)


def whole(path, held_out=0.1):
    """The parts of a text by the specification."""
    return split.split_blocks(split.without_repeats(text.read([path])), held_out)


def expect_corpus(corpus, path):
    """Raise unless a corpus holds the tokens of a text."""
    assert tuple(map(corpus.tokenizer.decode, (corpus.train, corpus.held_out))) == whole(path)


def test_a_small_text_stays_in_memory_and_a_large_one_lies_in_mapped_files(path, tmp_path, monkeypatch):
    small = data.prepare([path], folder=tmp_path / "tokens")
    assert not isinstance(small.train, np.memmap) and not (tmp_path / "tokens").exists()
    monkeypatch.setattr(data, "LARGE", 1000)
    for folder in (None, tmp_path / "tokens"):
        mapped = data.prepare([path], folder=folder)
        assert isinstance(mapped.train, np.memmap)
        assert not mapped.train.flags.writeable
        assert mapped.train.dtype == np.uint16
        assert np.array_equal(mapped.train, small.train)
        assert np.array_equal(mapped.held_out, small.held_out)
        assert mapped.digest == small.digest
        expect_corpus(mapped, path)


def test_tokens_are_made_once_and_found_again_by_another_run(path, tmp_path, large, monkeypatch):
    first = data.prepare([path], folder=tmp_path / "shared")
    other = data.prepare([path], tokenizer="bytes", folder=tmp_path / "shared")
    monkeypatch.setattr(Characters, "encode_ordinary", None)
    again = data.prepare([path], folder=tmp_path / "shared")
    assert np.array_equal(again.train, first.train)
    assert again.digest == first.digest != other.digest
    names = {p.name for p in (tmp_path / "shared").iterdir() if not p.name.startswith(".")}
    assert names == {first.digest[:32], other.digest[:32]}


def damage(name, change):
    def do(place):
        (place / name).write_bytes(change((place / name).read_bytes()))

    return do


DAMAGED = {
    "one token of another id": damage("train.bin", lambda b: b[:10] + bytes([b[10] ^ 1]) + b[11:]),
    "one id out of the vocabulary": damage("held_out.bin", lambda b: b"\xff\xff" + b[2:]),
    "cut short": damage("train.bin", lambda b: b[:-2]),
    "empty": damage("train.bin", lambda b: b""),
    "too long": damage("held_out.bin", lambda b: b + b"\0\0"),
    "another's digest": damage("tokens.json", lambda b: b.replace(b'"digest": "', b'"digest": "0')),
    "a damaged stamp": damage("tokens.json", lambda b: b[:20]),
    "a stamp that lists": damage("tokens.json", lambda b: b"[]"),
    "another dtype": damage("tokens.json", lambda b: b.replace(b"u2", b"u4")),
    "no stamp": lambda place: (place / "tokens.json").unlink(),
    "no tokens": lambda place: (place / "train.bin").unlink(),
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_tokens_that_are_not_as_they_were_written_are_made_anew(path, tmp_path, large, change):
    first = data.prepare([path], folder=tmp_path / "tokens")
    place = tmp_path / "tokens" / first.digest[:32]
    before = (place / "tokens.json").read_bytes()
    change(place)
    assert token_files.find(tmp_path / "tokens", first.digest, first.tokenizer.vocab_size) is None
    expect_corpus(data.prepare([path], folder=tmp_path / "tokens"), path)
    assert (place / "tokens.json").read_bytes() == before


def test_a_failure_while_tokens_are_written_leaves_nothing_half_there(path, tmp_path, large):
    def fail(self, text, final=False):
        if final:
            raise OSError(28, "No space left on device")
        return np.zeros(9, np.int64)

    with (
        mock.patch("numgpt.tokenizers.tokenizer.Encoder.add", fail),
        pytest.raises(OSError, match="No space left"),
    ):
        data.prepare([path], folder=tmp_path / "tokens")
    assert [p.name for p in (tmp_path / "tokens").iterdir()] == [".lock"]
    expect_corpus(data.prepare([path], folder=tmp_path / "tokens"), path)


def test_what_a_killed_run_left_is_cleared_away(path, tmp_path, large):
    corpus = data.prepare([path])
    left = tmp_path / "tokens" / f".{corpus.digest[:32]}.numgpt-new"
    left.mkdir(parents=True)
    (left / "train.bin").write_bytes(b"half")
    expect_corpus(data.prepare([path], folder=tmp_path / "tokens"), path)
    assert not left.exists()


def test_two_runs_at_once_share_what_one_of_them_makes(path, tmp_path, large):
    corpora, encoded = [], []
    encode = Characters.encode_ordinary

    def run():
        corpora.append(data.prepare([path], folder=tmp_path / "tokens"))

    def slow(self, text):
        encoded.append(len(text))
        return encode(self, text)

    with mock.patch.object(Characters, "encode_ordinary", slow):
        runs = [threading.Thread(target=run) for _ in range(3)]
        for thread in runs:
            thread.start()
        for thread in runs:
            thread.join()
    for corpus in corpora:
        expect_corpus(corpus, path)
    assert len(corpora) == 3
    assert sum(encoded) == sum(map(len, whole(path)))


def test_ids_that_the_vocabulary_lacks_are_an_error_and_not_written(path, tmp_path, large):
    class Wrong(Bytes):
        pieces = Bytes.pieces[:100]

    for folder in (tmp_path / "tokens", None):
        with pytest.raises(InputError, match="the tokenizer gave ids of 10 to 120, expected 0 to 99"):
            data.prepare([path], tokenizer=Wrong(), folder=folder)


def test_a_large_vocabulary_takes_four_bytes_a_token(path, tmp_path, large):
    class Wide(Bytes):
        pieces = [*(bytes([0, i % 256, i // 256]) for i in range(2**16)), *Bytes.pieces]

        def encode_ordinary(self, text):
            return super().encode_ordinary(text) + 2**16

    for folder in (tmp_path / "tokens", None):
        corpus = data.prepare([path], tokenizer=Wide(), folder=folder)
        assert corpus.train.dtype == np.uint32
        expect_corpus(corpus, path)


def test_a_part_without_tokens_is_an_empty_array(tmp_path, large):
    (tmp_path / "text.txt").write_text("x" * 3000 + "\n\nx" * 60)
    corpus = data.prepare([tmp_path / "text.txt"], held_out=0.02, split="blocks", folder=tmp_path / "tokens")
    assert len(corpus.train) + len(corpus.held_out) > 3000
    for rows in ([], [(np.zeros(0, np.int64), np.arange(3))]):
        for collect in (token_files.in_memory, token_files.temporary):
            first, second = collect(rows, 2, 5)
            assert len(first) == 0 and second.tolist() == list(range(3))[: 3 * len(rows)]


@given(
    held_out=st.sampled_from([0.1, 0.3]),
    kind=st.sampled_from(split.SPLITS),
    dedup=st.booleans(),
    content=st.lists(st.sampled_from(["ab", " ", "\n", "\n\n", "é", LONG]), max_size=200).map("".join),
)
def test_a_corpus_is_that_of_the_specification(tmp_path_factory, held_out, kind, dedup, content):
    path = tmp_path_factory.getbasetemp() / "spec.txt"
    path.write_text("a" + content)
    with mock.patch.object(text, "PART", 7):
        corpus = data.prepare([path], held_out=held_out, split=kind, dedup=dedup)
    whole = text.read([path])
    whole = split.without_repeats(whole) if dedup else whole
    expected = (split.split_blocks if kind == "blocks" else split.split_tail)(whole, held_out)
    assert corpus.tokenizer == Characters.build("a" + content)
    assert tuple(map(corpus.tokenizer.decode, (corpus.train, corpus.held_out))) == expected


@pytest.mark.parametrize(
    "content, settings", [("a <s> b\n\n" * 300, {}), ("a <s> b\n\n" * 300, {"dedup": False})]
)
def test_special_tokens_in_a_corpus_are_refused_allowed_or_text(tmp_path, content, settings):
    (tmp_path / "text.txt").write_text(content)
    tokenizer = Special()
    with pytest.raises(InputError, match="holds the special token '<s>' at position 2"):
        data.prepare([tmp_path / "text.txt"], tokenizer=tokenizer, **settings)
    allowed, as_text = (
        data.prepare([tmp_path / "text.txt"], tokenizer=tokenizer, special=s, **settings)
        for s in ("allow", "text")
    )
    assert 256 in allowed.train and 256 not in as_text.train
    assert allowed.recipe["special"] == "allow" and allowed.digest != as_text.digest
    assert allowed.tokenizer.decode(allowed.train) == as_text.tokenizer.decode(as_text.train)
    ids = data.encode([tmp_path / "text.txt"], tokenizer, "allow")[1]
    assert ids.tolist() == tokenizer.encode(content, "allow").tolist()
    assert tokenizer.count_bytes(ids) == len(content.encode())


def test_refusing_special_tokens_is_the_default_and_no_part_of_the_digest():
    plain = data.prepare("numgpt:python")
    assert "special" not in plain.recipe
    assert data.prepare("numgpt:python", special="refuse").digest == plain.digest


class Special(Bytes):
    """Bytes and one special token."""

    pieces = [*Bytes.pieces, b"<s>"]
    specials = {"<s>": 256}


def test_bytes_are_counted_without_being_made():
    tokenizer = Special()
    ids = np.random.default_rng(0).integers(0, 257, 3 * 2**20, dtype=np.uint16)
    assert tokenizer.count_bytes(ids) == len(tokenizer.decode_bytes(ids))
    for wrong in ([300], [-1], [0, 257]):
        with pytest.raises(InputError, match=f"{wrong[-1]} is no token's id"):
            tokenizer.count_bytes(np.array(wrong))

    class Holes(Tokenizer):
        pieces = [b"ab", None, b"c"]

    assert Holes().count_bytes(np.array([0, 2, 2])) == 4
    with pytest.raises(InputError, match="1 is no token's id"):
        Holes().count_bytes(np.array([0, 1]))


# A subprocess, since the peak is that of a process's life.
PEAK = """
import json, resource, sys, tqdm, regex, hashlib, tempfile
from numgpt.data import corpus as data
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
corpus = data.prepare([sys.argv[1]], tokenizer=sys.argv[2], folder=sys.argv[3])
print(json.dumps([peak() - before, len(corpus.train) + len(corpus.held_out)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="resource is a module of POSIX")
@pytest.mark.parametrize("tokenizer", ["chars", "bytes"])
@pytest.mark.parametrize("glue", ["\n\n", "\n", " "])
def test_a_large_text_is_prepared_in_little_memory(tmp_path, tokenizer, glue):
    draw, size = np.random.default_rng(0), 0
    words = np.array(["".join(draw.choice(list("etaoinshrdlu"), n)) for n in draw.integers(1, 9, 2000)])
    with open(tmp_path / "text.txt", "w") as file:
        while size < 100_000_000:
            size += file.write(glue.join(" ".join(row) for row in draw.choice(words, (1000, 50))) + glue)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "text.txt", tokenizer, tmp_path / "tokens"],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, tokens = json.loads(done.stdout)
    # In memory at a time: a part of 1 MiB, its text in a few forms and its ids, of 8 bytes each; and
    # 16 + 8 + 1 bytes for each paragraph of some 225, with as much again to sort them. Read as a whole, each
    # form of the text alone would have 100 MB.
    assert peak < 80e6 and tokens > 0.99 * size
