"""Laws of the table of tokenizers: every row keeps them, and what the table lacks is named with its place."""

import importlib
import importlib.util
import json
import pkgutil

import numpy as np
import pytest
from tokenizer_samples import scored

from numgpt import InputError, tokenizers
from numgpt.data import corpora
from numgpt.data import corpus as data
from numgpt.tokenizers import BPE, KINDS, Bytes, Tokenizer
from numgpt.tokenizers.files import FORMATS
from numgpt.tokenizers.kinds import Kind

PACKAGE = "numgpt/tokenizers"
SIZE = 600


def text():
    """A text from which every kind can learn SIZE tokens."""
    return corpora.python()[1][:60_000]


def name_of(kind):
    """A name that asks for a tokenizer of this kind."""
    return f"{kind}:{SIZE}" if KINDS[kind].size else kind


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    if request.param == "unigram":
        pytest.importorskip("sentencepiece", reason="trains unigram models")
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind):
    return made(kind)


def made(kind):
    """A tokenizer of a kind: learned, or read from a file where that is the only way."""
    if KINDS[kind].learn:
        return tokenizers.build(name_of(kind), text())
    if kind == "scored":
        return scored(text()[:5000])
    pairs = tokenizers.huggingface_file.write(made("bpe"))
    digits = {"type": "Digits", "individual_digits": True}
    cut = {"type": "Sequence", "pretokenizers": [digits, pairs["pre_tokenizer"]]}
    return tokenizers.huggingface_file.read(pairs | {"pre_tokenizer": cut})


def expect_listed(classes, kinds, exported):
    """Raise for a class that the table or the face lacks, and for a row under another name than its kind."""
    rows = {row.tokenizer for row in kinds.values()}
    for cls in classes:
        if cls not in rows:
            raise AssertionError(f"{cls.__name__} has no row in KINDS of {PACKAGE}/kinds.py")
        if cls.__name__ not in exported:
            raise AssertionError(f"{cls.__name__} is not in __all__ of {PACKAGE}/__init__.py")
    for name, row in kinds.items():
        if name != row.tokenizer.kind:
            raise AssertionError(
                f"{PACKAGE}/kinds.py calls {row.tokenizer.__name__} {name!r}, its own kind is"
                f" {row.tokenizer.kind!r}"
            )
        unknown = set(row.formats) - set(FORMATS)
        if unknown:
            raise AssertionError(f"{unknown.pop()!r} of {name} is not in FORMATS of {PACKAGE}/files.py")


def subclasses(cls):
    """All classes below a class."""
    return {below for child in cls.__subclasses__() for below in {child, *subclasses(child)}}


def test_every_tokenizer_of_the_package_is_in_the_table_and_in_the_face():
    for module in pkgutil.iter_modules(tokenizers.__path__, "numgpt.tokenizers."):
        if not module.name.endswith("_numba"):
            importlib.import_module(module.name)
    own = {cls for cls in subclasses(Tokenizer) if cls.__module__.startswith("numgpt.")}
    expect_listed(own, KINDS, tokenizers.__all__)
    assert own == {row.tokenizer for row in KINDS.values()}


class Reversed(Bytes):
    """A tokenizer that somebody forgot to list."""

    kind = "reversed"


ROW = Kind(Reversed, lambda texts, name, progress: Reversed())


@pytest.mark.parametrize(
    "kinds, exported, place",
    [
        (KINDS, ["Reversed"], "Reversed has no row in KINDS of numgpt/tokenizers/kinds.py"),
        ({"reversed": ROW}, [], "Reversed is not in __all__ of numgpt/tokenizers/__init__.py"),
        ({"backwards": ROW}, ["Reversed"], "calls Reversed 'backwards', its own kind is 'reversed'"),
        (
            {"reversed": ROW._replace(formats=("onnx",))},
            ["Reversed"],
            "'onnx' of reversed is not in FORMATS of numgpt/tokenizers/files.py",
        ),
    ],
)
def test_a_place_that_is_forgotten_is_named(kinds, exported, place):
    with pytest.raises(AssertionError, match=place.replace(".", r"\.")):
        expect_listed({Reversed}, kinds, exported)


def test_a_built_tokenizer_is_what_its_row_says(kind, tokenizer):
    row = KINDS[kind]
    assert type(tokenizer) is row.tokenizer and tokenizer.state()["type"] == kind
    assert tokenizer.vocab_size == (row.size and SIZE) or not row.size
    assert hasattr(tokenizer, "pattern") == bool(row.pattern)


def test_text_comes_back_whole_in_parts_and_as_it_streams(tokenizer):
    part = text()[:5000]
    ids = tokenizer.encode(part)
    assert ids.dtype == np.int64 and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == part and tokenizer.decode_bytes(ids) == part.encode()
    assert tokenizer.count_bytes(ids) == len(part.encode())
    in_parts = tokenizer.encode_parts((part[i : i + 7] for i in range(0, len(part), 7)), size=100)
    assert np.concatenate(list(in_parts)).tolist() == ids.tolist()
    decode = tokenizer.decoder()
    assert "".join(map(decode, ids.tolist())) + decode(None, True) == part


def test_a_state_makes_the_tokenizer_again_and_a_file_too(tokenizer, tmp_path):
    again = tokenizers.from_state(json.loads(json.dumps(tokenizer.state())))
    assert again == tokenizer and hash(again) == hash(tokenizer) and type(again) is type(tokenizer)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert tokenizers.load(tmp_path / "tokenizer.json") == tokenizers.load(tmp_path) == tokenizer
    assert again.encode(text()[:1000]).tolist() == tokenizer.encode(text()[:1000]).tolist()


def test_a_name_is_known_again_and_another_is_refused(kind, tokenizer):
    learned = {name for name, row in KINDS.items() if row.learn}
    if kind in learned:
        tokenizers.expect_named(name_of(kind), tokenizer, "the run's")
    for other in learned - {kind}:
        with pytest.raises(InputError, match=f"the run's tokenizer is {kind}.*, expected {other}"):
            tokenizers.expect_named(other, tokenizer, "the run's")


def test_the_error_for_an_unknown_name_lists_every_kind_that_is_learned(kind):
    name = "nonsense" if KINDS[kind].learn else kind
    listed = "" if KINDS[kind].learn is None else rf".*\b{kind}\b"
    with pytest.raises(InputError, match=f"'{name}' is unknown, expected {listed}"):
        tokenizers.build(name, "text")


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_gives_the_same_ids_or_is_refused_with_those_that_can_be(kind, tokenizer, form, tmp_path):
    path = tmp_path / {"sentencepiece": "x.model", "tiktoken": "x.tiktoken"}.get(form, "x")
    if form in KINDS[kind].formats:
        again = tokenizers.load(path, **tokenizers.export(tokenizer, path, form))
        assert again.encode(text()).tolist() == tokenizer.encode(text()).tolist()
    else:
        with pytest.raises(InputError, match=f"the tokenizer is '{kind}', expected .* choose .*numgpt"):
            tokenizers.export(tokenizer, path, form)
        assert not path.exists()


def test_every_format_is_some_kinds(kind):
    assert set(FORMATS) == {form for row in KINDS.values() for form in row.formats}


def test_repr_is_a_line_that_names_class_size_and_what_is_special(tokenizer):
    line = repr(tokenizer)
    assert "\n" not in line and len(line) < 150
    assert line.startswith(f"<{type(tokenizer).__name__}: {tokenizer.vocab_size:,} tokens")
    assert all(repr(special) in line for special in tokenizer.specials)


def test_repr_of_byte_pairs_names_merges_pattern_and_the_first_special_tokens():
    specials = {f"<{i}>": 257 + i for i in range(5)}
    tokenizer = BPE([*Bytes.pieces, b"ab"], [(97, 98)], "cl100k", specials)
    assert repr(tokenizer) == (
        "<BPE: 262 tokens, 1 merge, pattern 'cl100k', special '<0>', '<1>', '<2>' and 2 more>"
    )
    assert repr(BPE(Bytes.pieces, None, "x" * 50 + "|[^x]")) == (
        f"<BPE: 256 tokens, ids as ranks, pattern '{'x' * 40}…'>"
    )


def test_a_corpus_is_made_with_every_kind_also_where_only_the_end_has_a_character(kind, tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(f"{text()} ∞", "utf-8")
    corpus = data.prepare(path, tokenizer=name_of(kind) if KINDS[kind].learn else tokenizer, split="tail")
    assert corpus.tokenizer.decode(corpus.held_out).endswith(" ∞")


@pytest.mark.parametrize(
    ("characters", "what"), [("hello", "not a sorted set"), ("aa", "not a sorted set"), ("", "missing")]
)
def test_characters_that_are_no_vocabulary_are_told_how_one_is_made(characters, what):
    with pytest.raises(
        InputError, match=rf"^tokenizer: the characters are {what}, .* Characters.build makes them"
    ):
        tokenizers.Characters(characters)
