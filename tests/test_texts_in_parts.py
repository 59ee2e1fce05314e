"""A text in parts, cut anywhere, becomes the tokens of the whole: no cut is taken for sure that is not."""

import time
from unittest import mock

import numpy as np
import pytest
import regex
from cut_anywhere import cut, places
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import InputError
from numgpt.tokenizers import BPE, Bytes, Characters, Tokenizer, patterns
from numgpt.tokenizers.patterns import PATTERNS, Pattern
from numgpt.tokenizers.spelling import ALPHABET, unspell

OWN = r"a+(?=b)|\s+|[\s\S]"  # a pretoken depends on what follows it
SPECIALS = ["<s>", "<s><s>", "s><", "a b", "<|end|>"]

# What patterns tell apart: letters of every case, marks, digits, contractions, spaces and ends of lines of
# every kind, punctuation.
letters = st.sampled_from(
    [
        *"abST'sſtdlévreZ1²٣ \n\r\t\x0b\x1c\x85\xa0\u2028.,/!<>|-字かǅʰ\u0301\u0903🙂",
        *("'s", "'LL", "\r\n", "  ", "\n\n"),
        *SPECIALS,
    ]
)
texts = st.lists(letters, max_size=60).map("".join) | st.text(st.characters(exclude_categories=("Cs",)))


PAIRS = [
    "  ",
    "\n\n",
    "\r\n",
    " a",
    "aa",
    "ab",
    "a'",
    "'s",
    "!!",
    "\n/",
    "!\n",
    "12",
    ".,",
    "\t\n",
    "é",
    "s'",
]
PAIRS += ["a.", "1.", "\na", "a\u0301"]


def bpe(pattern, specials=()):
    """Pairs that reach over many a wrong cut."""
    tokens = [unspell(c) for c in sorted(ALPHABET)]
    merges = []
    for pair in PAIRS:
        left, *rest = [bytes([b]) for b in pair.encode()]
        for right in rest:
            if left + right not in tokens:
                merges.append((tokens.index(left), tokens.index(right)))
                tokens.append(left + right)
            left += right
    return BPE(tokens, merges, pattern, {text: len(tokens) + i for i, text in enumerate(specials)})


TOKENIZERS = {"bytes": Bytes(), "own": bpe(OWN, SPECIALS), **{name: bpe(name, SPECIALS) for name in PATTERNS}}


def expect_whole(tokenizer, parts, special="text", size=1):
    """Raise unless parts become the tokens of the whole."""
    arrays = list(tokenizer.encode_parts(parts, special, size))
    expected = tokenizer.encode(parts[0][:0].join(parts), special)
    assert all(ids.dtype == np.int64 for ids in arrays)
    assert np.concatenate(arrays).tolist() == expected.tolist()


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    text=texts, places=places, special=st.sampled_from(["text", "allow"]), size=st.sampled_from([1, 7, 2**18])
)
@settings(max_examples=300)
def test_a_text_in_parts_becomes_the_tokens_of_the_whole(name, text, places, special, size):
    expect_whole(TOKENIZERS[name], cut(text, places), special, size)
    expect_whole(TOKENIZERS[name], cut(text.encode(), places), special, size)


@given(data=st.binary(max_size=40), places=places)
def test_bytes_that_are_no_text_are_encoded_in_parts_too(data, places):
    expect_whole(TOKENIZERS["gpt2"], cut(data, places))


def test_parts_of_bytes_and_of_text_stay_in_their_order():
    for tokenizer in (Bytes(), TOKENIZERS["gpt2"]):
        for parts in ([b"a\xc3", "e", b"\xa9"], [b"\xf0\x9f", "", b"\x99\x82"], ["a", b"\xff", "b", b"\xc3"]):
            sent = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
            assert tokenizer.decode_bytes(np.concatenate(list(tokenizer.encode_parts(parts)))) == sent


@pytest.mark.parametrize("tokenizer", [Bytes(), Characters("ab"), TOKENIZERS["gpt2"]])
def test_what_is_no_text_is_one_line(tokenizer):
    for text in (None, 5, ["a"], bytearray(b"ab")):
        with pytest.raises(InputError, match="text is .*, expected a string or bytes"):
            tokenizer.encode(text)
        with pytest.raises(InputError, match="expected str or bytes"):
            tokenizer.encoder().add(text)
    with pytest.raises(InputError, match="size is -1, expected at least 1"):
        list(tokenizer.encode_parts(["ab"], size=-1))
    with pytest.raises(InputError, match=r"U\+D800"):
        tokenizer.encode("\ud800")


@given(text=texts.filter(len), places=places)
def test_characters_are_encoded_in_parts(text, places):
    expect_whole(Characters.build(text), cut(text, places))


def expect_sure(pattern, text, more):
    """Raise unless the pretokens before and behind the cut are those of the whole."""
    n = pattern.safe_cut(text)
    assert 0 <= n < max(1, len(text))
    assert pattern.split(text[:n]) + pattern.split(text[n:] + more) == pattern.split(text + more)


@pytest.mark.parametrize("name", PATTERNS)
@given(text=texts, more=texts)
@settings(max_examples=300)
def test_where_a_cut_is_sure_the_pretokens_before_and_behind_are_those_of_the_whole(name, text, more):
    expect_sure(Pattern(name), text, more)


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pair_of_neighbours_that_is_called_a_sure_cut_is_one(name):
    pattern, kinds = Pattern(name), "aSé1²'., /!-\n\r\t\x1c\xa0\u2028字ǅʰ\u0301🙂"
    around = ["", "a", "s", "1", "!", "'", " ", "\n", "\r\n", "/", "\u0301", "!\n", "a'", " \n"]
    cuts = [(a, b) for a in kinds for b in kinds if pattern.safe_cut(a + b)]
    assert len(cuts) > 100
    for a, b in cuts:
        for before in around:
            for more in around:
                parts = pattern.split(before + a) + pattern.split(b + more)
                assert parts == pattern.split(before + a + b + more), (before, a, b, more)


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("gpt2", r"\s\S"),
        ("gpt2", r"\p{L}\p{L}"),
        ("cl100k", r"\S\s"),
        ("o200k", r"[\r\n][^\s]"),
        ("o200k", r"\p{L}[^\s\p{L}\p{N}]"),
    ],
)
def test_a_cut_that_is_not_sure_is_noticed(name, wrong):
    text = "a 's\n!\n/ a's  aa!\n\n a"
    with mock.patch.dict(patterns._SURE, {name: wrong}), pytest.raises(AssertionError):
        for n in range(len(text)):
            expect_sure(Pattern(name), text[:n], text[n:])


def test_chinese_without_spaces_and_numbers_in_rows_are_cut_too():
    for name in PATTERNS:
        for text in ("天地玄黄，宇宙洪荒。", "1,2,3", "天。\n地"):
            assert Pattern(name).safe_cut(text)


def test_special_tokens_are_refused_with_their_place_in_the_whole_text():
    text = "some words " * 9 + "<|end|>" + " and more"
    for size in (1, 10, 2**18):
        for parts in (list(text), [text], [text[:101], text[101:]]):
            with pytest.raises(
                InputError,
                match=r"holds the special token '<\|end\|>' at position 99, expected ordinary text",
            ):
                list(TOKENIZERS["gpt2"].encode_parts(parts, "refuse", size))
    assert (
        np.concatenate(list(TOKENIZERS["gpt2"].encode_parts(["<|en", "d| >"], "refuse", 1))).tolist()
        == TOKENIZERS["gpt2"].encode("<|end| >").tolist()
    )


@pytest.mark.parametrize(
    "tokenizer, text, where",
    [
        (Characters("abc"), "abc" * 9 + "x", "'x' .* at position 27"),
        (bpe("[a-y ]", ["<s>"]), "<s>abc z", "drops 'z' .* at position 7"),
    ],
)
def test_what_cannot_be_encoded_is_named_with_its_place_in_the_whole_text(tokenizer, text, where):
    for attempt in (
        lambda: tokenizer.encode(text, "allow"),
        lambda: list(tokenizer.encode_parts(list(text), "allow", 4)),
    ):
        with pytest.raises(InputError, match=where):
            attempt()


def test_an_unknown_policy_is_an_error():
    with pytest.raises(InputError, match="special is 'maybe', expected one of refuse, allow, text"):
        next(Bytes().encode_parts(["a"], "maybe"))


def test_a_tokenizer_that_says_nothing_of_cuts_is_given_the_whole_text():
    class Words(Tokenizer):
        pieces = [b"a", b"b"]

        def encode_ordinary(self, text):
            seen.append(text)
            return np.zeros(0, np.int64)

    seen = []
    list(Words().encode_parts(["a ", "b"] * 4, size=1))
    assert [s for s in seen if s] == ["a b" + "a b" * 3]


@pytest.mark.parametrize("name", ["gpt2", "own"])
@pytest.mark.parametrize("letter", ["a", " ", "\n", "!", "🙂"])
def test_a_word_without_end_takes_linear_time(name, letter):
    looked = 0
    search = Pattern.safe_cut

    def counted(self, text):
        nonlocal looked
        looked += len(text)
        return search(self, text)

    n, size = 2**17, 2**7
    with (
        mock.patch.object(Pattern, "safe_cut", counted),
        mock.patch.object(Pattern, "split", lambda self, text: []),
    ):
        list(TOKENIZERS[name].encode_parts((letter * size for _ in range(n // size)), "text", size))
    # Each look is at twice as many as the last: n + n/2 + …; at every part it would be n²/(2 size).
    assert looked <= 2 * n


def test_the_named_patterns_are_those_whose_cuts_are_known():
    assert set(patterns._SURE) == set(PATTERNS)
    assert all(regex.compile(source) for source in patterns._SURE.values())
    assert Pattern(OWN).safe_cut("a b c") == 0


def test_a_megabyte_in_small_parts_is_encoded_in_about_the_time_of_the_whole():
    text = "some words, and 12 more.\n" * 2**15
    tokenizer = TOKENIZERS["gpt2"]
    tokenizer.encode(text[:1000])
    times = []
    for work in (
        lambda: tokenizer.encode(text),
        lambda: list(tokenizer.encode_parts(text[i : i + 100] for i in range(0, len(text), 100))),
    ):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    assert times[1] < 5 * times[0] + 1  # measured: 1.1; anything quadratic in 8,000 parts would be hundreds
