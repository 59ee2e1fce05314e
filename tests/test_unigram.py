"""SentencePiece's models: ids are the package's own, texts come back, and what is no model is one line."""

import base64
import functools
import json
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import InputError, tokenizers
from numgpt.data import corpora
from numgpt.tokenizers import Unigram, unigram

sentencepiece = pytest.importorskip(
    "sentencepiece", reason="SentencePiece's models are read by the sentencepiece package"
)

texts = st.text(st.characters(exclude_categories=("Cs",)))
# Words and spaces of the text that was learned, so that pieces of several letters, runs of spaces and bytes
# stand side by side.
words = st.lists(
    st.one_of(texts, st.sampled_from(["the ", " of", "statement", "  ", " ", "\n", "\t", "é", "\0", "日本"])),
    max_size=12,
).map("".join)

THEIRS = {
    "normalization_rule_name": "nmt_nfkc",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": True,
    "byte_fallback": False,
    "bos_id": 1,
    "eos_id": 2,
}


@functools.cache
def text():
    return corpora.python()[1][:60000]


@functools.cache
def trained(**options):
    return unigram.train(text(), 600, specials=["<|end|>"], **options)


def ours():
    return trained()


def with_prefix():
    return trained(add_dummy_prefix=True)


def theirs():
    return trained(**THEIRS)


def theirs_alone(tokenizer):
    """The package's own processor of the same model."""
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)


@pytest.mark.parametrize("make", [ours, with_prefix, theirs])
@given(text=words)
def test_ids_are_those_of_sentencepiece(make, text):
    assert make().encode(text, special="text").tolist() == theirs_alone(make()).encode(text)


@given(text=words.filter(lambda s: "▁" not in s))
def test_every_text_comes_back(text):
    assert ours().decode(ours().encode(text, special="text")) == text
    assert with_prefix().decode(with_prefix().encode(text, special="text")) == text


def test_the_character_that_stands_for_a_space_comes_back_as_one():
    assert ours().decode(ours().encode("a▁b")) == "a b"


@given(data=st.binary().filter(lambda b: "▁".encode() not in b))
def test_every_bytes_come_back(data):
    assert ours().decode_bytes(ours().encode(data, special="text")) == data


@pytest.mark.parametrize(
    "ids", [[1.5], [True], None, "12", [[1, 2], [3, 4]], [[1], [2, 3]], [-1], [10**6], [2**70]]
)
def test_ids_that_are_none_are_refused_in_one_line(ids):
    for decode in (
        ours().decode,
        ours().decode_bytes,
        lambda ids: [ours().decoder()(i) for i in ids or [1.5]],
    ):
        with pytest.raises(InputError, match="^decode: .*expected"):
            decode(ids)


def test_a_byte_without_a_token_is_named():
    with pytest.raises(InputError, match="byte 0xff is not UTF-8 and has no token"):
        theirs().encode(b"a\xff")


@pytest.mark.parametrize("make", [ours, with_prefix, theirs])
@given(data=st.data())
def test_any_ids_decode_as_sentencepiece_decodes_them(make, data):
    """But for control symbols, which it does not show, and bytes: what is not UTF-8 it shows otherwise."""
    tokenizer = make()
    ordinary = [
        i
        for i in range(tokenizer.vocab_size)
        if i not in tokenizer.specials.values() and i not in tokenizer._fallback.values()
    ]
    space = theirs_alone(tokenizer).piece_to_id("▁")
    ids = data.draw(st.lists(st.one_of(st.sampled_from(ordinary), st.just(space), st.just(0)), max_size=8))
    assert tokenizer.decode(ids) == theirs_alone(tokenizer).decode(ids)


@pytest.mark.parametrize("make", [ours, with_prefix, theirs])
@given(data=st.data())
def test_the_streaming_decoder_shows_what_decode_does(make, data):
    ids = data.draw(st.lists(st.integers(0, make().vocab_size - 1), max_size=20))
    decode = make().decoder()
    assert "".join(decode(i) for i in ids) + decode(None, True) == make().decode(ids)


def test_what_cannot_be_encoded_or_decoded_is_one_line():
    with pytest.raises(InputError, match=r"U\+D800 at position 4 is half of a character"):
        ours().encode("ab c\ud800")
    decode = ours().decoder("strict")
    for attempt in (
        lambda: decode(ours().encode(b"\xff")[0]),
        lambda: ours().decode([0.5]),
        lambda: ours().decoder()(-1),
        lambda: ours().decoder("other"),
    ):
        with pytest.raises(InputError, match="^decode: .*expected"):
            attempt()


def test_special_tokens_are_refused_allowed_or_text():
    tokenizer = ours()
    assert tokenizer.specials == {"<|end|>": 1}
    with pytest.raises(InputError, match=r"holds the special token '<\|end\|>' at position 1"):
        tokenizer.encode("a<|end|>b")
    assert 1 in tokenizer.encode("a<|end|>b", special="allow") and 1 not in tokenizer.encode(
        "a<|end|>b", special="text"
    )
    for make in (ours, with_prefix):
        for policy in ("allow", "text"):
            assert make().decode(make().encode("a<|end|> b", special=policy)) == "a<|end|> b"
    assert set(theirs().specials) == {"<s>", "</s>", "<|end|>"}


def test_a_long_text_is_cut_where_no_piece_reaches_over(monkeypatch):
    """Whatever the stretches' length: then rounding of the scores' sum is too small to choose another cut."""
    for make in (ours, functools.partial(trained, allow_whitespace_only_pieces=True)):
        tokenizer, part = make(), text()[:5000] + "    x  \n   y " * 50
        whole = tokenizer.encode(part)
        monkeypatch.setattr(unigram, "LONG", 7)
        n = tokenizer.safe_cut(part)
        assert len(part) - 200 < n < len(part)
        # Of cuts of equal probability, such as three spaces as 2 + 1 or 1 + 2, the last bit of a sum chooses.
        score = theirs_alone(tokenizer).get_score
        assert sum(map(score, map(int, tokenizer.encode(part)))) == pytest.approx(
            sum(map(score, map(int, whole))), rel=1e-6
        )
        joined = np.concatenate([tokenizer.encode(part[:n]), tokenizer.encode(part[n:])])
        assert joined.tolist() == tokenizer.encode(part).tolist() and tokenizer.decode(joined) == part
        monkeypatch.undo()
    assert with_prefix().safe_cut("a " * unigram.LONG) == theirs().safe_cut("a " * unigram.LONG) == 0


@pytest.mark.parametrize("make", [ours, with_prefix, theirs])
def test_a_text_in_parts_gives_the_ids_of_the_whole(make, monkeypatch):
    monkeypatch.setattr(unigram, "LONG", 50)
    part = text()[:3000] + "<|end|>" + text()[:500]
    for size in (1, 7, 1000):
        parts = [part[i : i + size] for i in range(0, len(part), size)]
        ids = np.concatenate(list(make().encode_parts(parts, "allow", 100)))
        assert ids.tolist() == make().encode(part, "allow").tolist() and make().specials["<|end|>"] in ids


@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, 20000), max_size=20))
def test_training_does_not_see_how_a_text_is_cut_into_parts_and_is_repeatable(cuts):
    part = text()[:20000]
    places = [0, *sorted(cuts), len(part)]
    assert unigram.train((part[a:b] for a, b in pairwise(places)), 400) == unigram.train(part, 400)


def test_a_line_without_end_is_learned_from_in_parts():
    tokenizer = unigram.train("one two three four five " * 3000, 270)
    assert tokenizer.vocab_size == 270
    assert [len(p) for p in unigram._lines("x" * 9000)] == [4000, 4000, 1000]
    assert "".join(unigram._lines(["ab " * 3000, "ab " * 3000])) == "ab " * 6000


def test_a_size_that_does_not_fit_is_one_line():
    with pytest.raises(InputError, match="size is 100, expected more than 257"):
        unigram.train(text(), 100)
    with pytest.raises(InputError, match="Vocabulary size too high"):
        unigram.train(text()[:500], 5000)
    assert Unigram.build(text()[:500], 5000).vocab_size < 5000
    with pytest.raises(InputError, match="sentencepiece cannot train on this"):
        unigram.train("", 300)


@pytest.mark.parametrize("make", [ours, theirs])
def test_a_model_is_saved_and_is_itself_again(make, tmp_path):
    make().save(tmp_path / "tokenizer.json")
    again = tokenizers.load(tmp_path / "tokenizer.json")
    assert again == make() and again.vocab_size == make().vocab_size == 600 and hash(again) == hash(make())
    assert ours() != theirs()
    (tmp_path / "spm.model").write_bytes(make().model)
    assert tokenizers.load(tmp_path / "spm.model") == make()
    tokenizers.export(make(), tmp_path / "written.model", "sentencepiece")
    assert (tmp_path / "written.model").read_bytes() == make().model


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_model_is_read_or_refused_in_one_line(data):
    model = bytearray(ours().model)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(model) - 1))
        if data.draw(st.booleans()):
            model[at] = data.draw(st.integers(0, 255))
        else:
            del model[at : at + data.draw(st.integers(1, 2000))]
    try:
        Unigram(bytes(model)).encode("the statement \xff 日")
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "state", [{}, {"model": 5}, {"model": "%"}, {"model": ""}, {"model": base64.b64encode(b"junk").decode()}]
)
def test_a_state_that_holds_no_model_is_refused(state, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"type": "unigram"} | state))
    with pytest.raises(InputError, match="tokenizer.json: is not a tokenizer of numgpt .*expected"):
        tokenizers.load(tmp_path / "tokenizer.json")


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path):
    (tmp_path / "spm.model").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="spm.model: is not a model of sentencepiece"):
        tokenizers.load(tmp_path / "spm.model")


def test_without_the_package_the_extra_is_named(monkeypatch):
    model = ours().model
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match=r"pip install 'numgpt\[sentencepiece\]'"):
        Unigram(model)


def test_a_name_asks_for_a_size_and_a_run_knows_it_again():
    made = tokenizers.build("unigram:600", text())
    assert made.vocab_size == 600 and made.decode(made.encode("the statement")) == "the statement"
    tokenizers.expect_named("unigram:600", made, "a run's")
    with pytest.raises(InputError, match="a run's tokenizer is unigram:600, expected unigram:601"):
        tokenizers.expect_named("unigram:601", made, "a run's")
    with pytest.raises(InputError, match="'unigram:600:gpt2' is unknown"):
        tokenizers.build("unigram:600:gpt2", text())
