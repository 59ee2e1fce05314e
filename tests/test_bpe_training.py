"""Training of byte-pair encoding: specification and twin learn the merges of Hugging Face's trainer."""

import io
import json
import re
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from cut_anywhere import cut, places
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import InputError, engine, tokenizers
from numgpt.data import corpora
from numgpt.tokenizers import bpe_training
from numgpt.tokenizers.bpe_training import BYTES, count_pretokens, learn, learn_merges, train
from numgpt.tokenizers.patterns import PATTERNS, Pattern
from numgpt.tokenizers.spelling import spell

OWN = r"[a-c]+|[^a-c]"  # a pattern that cuts where no named one does
NAMES = [*PATTERNS, OWN]
few = st.text(st.sampled_from("ab "), max_size=60)  # ties everywhere, and runs of one letter
some = st.text(st.sampled_from("abcAB 1\n\t!'s\u00e9\u4e2d\U0001f600"), max_size=80)
# What no Unicode has assigned, each library cuts by its own tables.
every = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=40)
texts = few | some | every
# Special tokens, and bytes that are not UTF-8.
HALVES = [*"ab \n!\u00e9\udcff\udcc3<|>", "<|>", "a b", "\n!"]
halves = st.lists(st.sampled_from(HALVES), max_size=60).map("".join)


def twin():
    pytest.importorskip("numba", reason="Numba is not installed, which the twin needs")
    from numgpt.tokenizers import bpe_training_numba

    return bpe_training_numba.learn


def merges_by(run, pretokens, n, min_frequency=2):
    """What the specification or the twin learns, whatever the engine."""
    ids = np.array([BYTES.index(bytes([b])) for pretoken in pretokens for b in pretoken], np.int32)
    return run(
        ids,
        np.array([len(p) for p in pretokens], np.int64),
        np.array(list(pretokens.values()), np.int64),
        n,
        min_frequency,
        lambda k: None,
    )


def huggingface(parts, n, min_frequency, cut=False):
    """(merges, vocabulary) of Hugging Face's trainer, from pretokens or, with cut, text for its ByteLevel."""
    tk = pytest.importorskip("tokenizers", reason="tokenizers is not installed, whose trainer is the oracle")
    tokenizer = tk.Tokenizer(tk.models.BPE())
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut)
    trainer = tk.trainers.BpeTrainer(
        vocab_size=256 + n,
        min_frequency=min_frequency,
        initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(parts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return [tuple(model["vocab"][half] for half in merge) for merge in model["merges"]], model["vocab"]


@settings(max_examples=200)
@given(
    text=texts.filter(len),
    pattern=st.sampled_from([*PATTERNS, r"\S+|\s+", r"[\s\S]+"]),
    n=st.integers(0, 40),
    min_frequency=st.integers(1, 4),
)
def test_merges_are_those_of_huggingfaces_trainer_ties_included(text, pattern, n, min_frequency):
    tokenizer = train(text, 256 + n, pattern=pattern, min_frequency=min_frequency)
    merges, vocabulary = huggingface(Pattern(pattern).split(text), n, min_frequency)
    assert tokenizer.merges == merges
    assert {spell(t): i for i, t in enumerate(tokenizer.tokens)} == vocabulary


@settings(max_examples=50)
@given(text=texts.filter(len), n=st.integers(0, 30))
def test_merges_are_those_of_huggingface_when_it_cuts_the_text_itself(text, n):
    assert train(text, 256 + n).merges == huggingface([text], n, 2, cut=True)[0]


def test_merges_of_a_whole_corpus_are_those_of_huggingface():
    text = corpora.python()[1]
    merges, _ = huggingface([text], 300, 2, cut=True)
    assert len(merges) == 300 and train(text, 556).merges == merges
    run = twin()
    for pattern in PATTERNS:
        merges, _ = huggingface(Pattern(pattern).split(text), 4000, 2)
        assert len(merges) == 4000 and merges_by(run, count_pretokens(text, Pattern(pattern)), 4000) == merges


@settings(max_examples=300)
@given(
    pretokens=st.dictionaries(
        few.filter(len) | some.filter(len), st.integers(1, 5) | st.integers(2**40, 2**50), max_size=12
    ),
    n=st.integers(0, 60),
    min_frequency=st.integers(1, 6),
)
def test_the_twin_learns_what_the_specification_learns(pretokens, n, min_frequency):
    pretokens = {pretoken.encode(): count for pretoken, count in pretokens.items()} or {b"": 1}
    assert merges_by(twin(), pretokens, n, min_frequency) == merges_by(learn, pretokens, n, min_frequency)


def test_the_twin_learns_the_same_with_places_of_64_bits(monkeypatch):
    run, pretokens = twin(), count_pretokens("a banana, bananas, an anagram: ana", Pattern("gpt2"))
    monkeypatch.setattr(sys.modules[run.__module__], "NEAR", 0)
    assert merges_by(run, pretokens, 20) == merges_by(learn, pretokens, 20)


def test_the_engine_chooses_the_twin_for_long_work_only(monkeypatch):
    run, pretokens, asked = twin(), Counter({b"banana": 3}), []
    monkeypatch.setattr(bpe_training, "learn", lambda *a: asked.append("specification") or learn(*a))
    monkeypatch.setattr(engine, "host_twin", lambda function: lambda *a: asked.append("twin") or run(*a))
    short = learn_merges(pretokens, 3)
    monkeypatch.setattr(bpe_training, "SMALL", 0)
    assert learn_merges(pretokens, 3) == short and asked == ["specification", "twin"]


def test_the_twin_is_found_where_numba_computes(monkeypatch):
    run = twin()
    assert engine.host_twin(learn) is learn
    monkeypatch.setattr(engine.choice, "_engine", "numba")
    assert engine.host_twin(learn) is run


def test_of_pairs_as_frequent_the_least_left_id_is_joined_then_the_least_right():
    tokenizer = train("cd ab ca cd ab ca ca cd ab", 260, pattern=r"\w+|\s")
    assert [spell(t) for t in tokenizer.tokens[256:]] == ["ab", "ca", "cd"]
    assert [spell(t) for t in train("ba cd ba cd", 258, pattern=r"\w+|\s").tokens[256:]] == ["ba", "cd"]


@pytest.mark.parametrize("run", [learn, None], ids=["specification", "twin"])
def test_a_run_of_one_letter_doubles(run):
    # Of 2¹⁶ letters 2ᵏ remain of 2¹⁶⁻ᵏ after each join; the last two make a pair that is there once.
    a = BYTES.index(b"a")
    assert merges_by(run or twin(), Counter({b"a" * 2**16: 1}), 100) == [(a, a)] + [
        (i, i) for i in range(256, 270)
    ]
    # In "aaa" the pair is counted twice, and joined once.
    assert merges_by(run or twin(), Counter({b"aaa": 1, b"b": 9}), 100) == [(a, a)]


@given(text=texts.filter(len), n=st.integers(0, 60))
def test_no_two_merges_make_the_same_token_and_all_are_used(text, n):
    tokenizer = train(text, 256 + n, pattern=r"\S+|\s+", min_frequency=1)
    assert len(set(tokenizer.tokens)) == tokenizer.vocab_size <= 256 + n
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    pairs = sum(len(pretoken.encode()) - 1 for pretoken in set(tokenizer.pattern.split(text)))
    assert tokenizer.vocab_size == 256 + n or (pairs == 0 or len(ids) == len(tokenizer.pattern.split(text)))


@settings(max_examples=50)
@given(text=texts.filter(len), other=texts, pattern=st.sampled_from(list(PATTERNS)), n=st.integers(0, 60))
def test_tiktoken_given_the_tokens_encodes_to_the_same_ids(text, other, pattern, n):
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed, which is the oracle")
    tokenizer = train(text, 256 + n, pattern=pattern)
    ranks = {token: i for i, token in enumerate(tokenizer.tokens)}
    theirs = tiktoken.Encoding("trained", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    for t in (text, other, text + other):
        assert tokenizer.encode(t).tolist() == theirs.encode_ordinary(t)


@settings(max_examples=200)
@given(
    text=texts | halves,
    name=st.sampled_from(NAMES),
    specials=st.lists(st.sampled_from(["<|>", "<", "a b", " ", "ab", "\n!"]), unique=True),
    data=st.data(),
)
def test_pretokens_do_not_depend_on_how_the_text_comes(text, name, specials, data):
    """Against the definition: split at special tokens, the longer of two first, then by the pattern."""
    stretches = (
        re.split("|".join(map(re.escape, sorted(specials, key=len, reverse=True))), text)
        if specials
        else [text]
    )
    pattern = Pattern(name if name in PATTERNS else OWN)
    expected = Counter(
        p.encode("utf-8", "surrogateescape") for stretch in stretches for p in pattern.split(stretch)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_training, "BLOCK", data.draw(st.integers(1, 12)))
        assert count_pretokens(text, pattern, specials) == expected
        assert count_pretokens(iter(cut(text, data.draw(places))), pattern, specials) == expected


@given(text=halves, specials=st.lists(st.sampled_from(["<|>", "<", "a b", " "]), unique=True), data=st.data())
def test_a_merge_never_reaches_over_a_special_token(text, specials, data):
    text = "ab" + text
    tokenizer = train(
        cut(text, data.draw(places)), 300, pattern=r"[\s\S]+", specials=specials, min_frequency=1
    )
    assert tokenizer.specials == {s: tokenizer.vocab_size - len(specials) + i for i, s in enumerate(specials)}
    assert not any(s.encode() in token for s in specials for token in tokenizer.tokens[256:])
    assert tokenizer.decode(tokenizer.encode(text, special="allow"), "surrogateescape") == text


def test_memory_grows_with_distinct_pretokens_and_not_with_the_text(monkeypatch):
    monkeypatch.setattr(bpe_training, "BLOCK", 2**14)
    words = [f" word{i}" for i in range(500)]

    def peak(repeats):
        tracemalloc.start()
        try:
            counts = count_pretokens(("".join(words) for _ in range(repeats)), Pattern("gpt2"))
            return tracemalloc.get_traced_memory()[1], counts[b" word"]
        finally:
            tracemalloc.stop()

    (short, few_words), (long, many_words) = peak(20), peak(100)
    assert (
        many_words == 5 * few_words and long < 1.2 * short
    )  # a list of all pretokens would take five times as much


def test_a_text_that_has_too_few_pairs_gives_a_smaller_tokenizer():
    tokenizer = train("to be, to be", 1000, specials=["<|end|>"])
    assert tokenizer.vocab_size == len(tokenizer.tokens) + 1 < 1000 and tokenizer.specials == {
        "<|end|>": len(tokenizer.tokens)
    }
    assert train("ab", 1000).merges == []  # nothing occurs twice


@pytest.mark.parametrize("small", [0, 2**60], ids=["twin", "specification"])
def test_no_size_that_is_asked_for_is_too_large(small, monkeypatch):
    monkeypatch.setattr(bpe_training, "SMALL", small)
    monkeypatch.setattr(engine, "host_twin", lambda function: twin())
    assert train("to be, to be", 10**15) == train("to be, to be", 1000)
    assert train("to be, to be", 10**15, min_frequency=10**30).merges == []


def test_build_is_train():
    text = corpora.grammar(200)
    assert train(text, 300, pattern="cl100k") == tokenizers.train([text], 300, pattern="cl100k")
    assert tokenizers.build("bpe", text).vocab_size <= 2048


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("", 300), "the text is empty"),
        ((iter(["", ""]), 300), "the text is empty"),
        (("<s><s>", 300, {"specials": ["<s>"]}), "the text is empty"),
        (
            ("text", 255),
            "vocab_size is 255, expected an integer of at least 256 for 256 bytes and 0 specials",
        ),
        (("text", 257, {"specials": ["a", "b"]}), "at least 258"),
        (("text", 300.0), "vocab_size is 300.0"),
        (("text", True), "vocab_size is True"),
        (("text", 300, {"min_frequency": 0}), "min_frequency is 0, expected an integer of at least 1"),
        (("text", 300, {"specials": ["a", "a"]}), "'a' is there twice among the special tokens"),
        (("text", 300, {"specials": [""]}), "'' is no text among"),
        (("text", 300, {"specials": [3]}), r"specials is \[3\], expected a string or an iterable"),
        ((["text", b"bytes"], 300), r"texts is \['text', b'bytes'\], expected a string or an iter"),
        (("half \ud800", 300), "U.D800 at position 1 is half of a character"),
        (("text 1", 300, {"pattern": "[a-z]+"}), "drops ' '"),
        (("text", 300, {"pattern": "("}), "does not compile"),
    ],
)
def test_what_cannot_be_trained_on_is_an_error(arguments, said):
    text, size, options = (*arguments, {})[:3]
    with pytest.raises(InputError, match=said) as caught:
        train(text, size, **options)
    assert "\n" not in str(caught.value)


def test_a_long_stretch_that_drops_characters_is_an_error_too(monkeypatch):
    monkeypatch.setattr(bpe_training, "BLOCK", 4)
    assert count_pretokens("abcabcabcabc", Pattern(OWN)) == {b"abcabcabcabc": 1}
    with pytest.raises(InputError, match="drops ' '"):
        count_pretokens("some long text", Pattern("[a-z]+"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_how_far_it_is(monkeypatch):
    for progress, stream in ((True, Terminal()), (False, Terminal()), (True, io.StringIO())):
        monkeypatch.setattr(sys, "stderr", stream)
        train("to be, to be", 1000, progress=progress)
        shown = progress and stream.isatty()
        assert ("counting: 100%" in stream.getvalue() and "merging" in stream.getvalue()) is shown and bool(
            stream.getvalue()
        ) is shown
