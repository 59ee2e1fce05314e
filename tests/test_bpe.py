"""Byte-pair encoding: ids are tiktoken's and Hugging Face's, every byte comes back.

Special tokens are refused, allowed or text, as was asked for.
"""

import copy
import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bpe_oracles import (
    BYTES,
    NAMES,
    WHOLE,
    encoders,
    expect_equal_ids,
    few,
    gpt2_file,
    huggingface,
    merges_at_random,
    seeds,
    texts,
    tiktoken,
    trained,
    twin,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shares import drawn

from numgpt import InputError, tokenizers
from numgpt.data import corpora
from numgpt.tokenizers import BPE, bpe, joining
from numgpt.tokenizers.patterns import PATTERNS, Pattern
from numgpt.tokenizers.spelling import spell


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300)
@given(text=texts)
@example(text="it's IT'S it'ſ 'Sa 'll'LL'Ll'vE'rE 'l")
@example(text="a \n b\r\n\r\n  c \n \t ")
@example(text="1234 ٣٣٣٣ Ⅷ²² 👩\u200d👩 x/ /\n!\n/\r\n")
def test_ids_are_those_of_tiktoken_and_huggingface(name, text):
    tokenizer = trained(name)
    for theirs in (huggingface, tiktoken):
        expect_equal_ids(tokenizer.encode, oracle(theirs, name), text)


@functools.cache
def oracle(theirs, name):
    return theirs(trained(name))


@settings(max_examples=200)
@given(seed=seeds, shuffled=st.booleans(), whole=st.booleans(), text=few)
def test_ids_of_any_merges_are_those_of_huggingface(seed, shuffled, whole, text):
    tokenizer = BPE(*merges_at_random(seed, shuffled), WHOLE, whole=whole)
    expect_equal_ids(tokenizer.encode, huggingface(tokenizer), text)


@settings(max_examples=200)
@given(seed=seeds, text=few)
def test_ids_of_any_ranks_are_those_of_tiktoken(seed, text):
    tokens, _ = merges_at_random(seed, False)
    rng = np.random.default_rng(seed)
    tokenizer = BPE([tokens[i] for i in rng.permutation(len(tokens))], None, WHOLE)
    expect_equal_ids(tokenizer.encode, tiktoken(tokenizer), text)


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_have_the_ids_of_tiktoken_and_huggingface(name):
    root = Path(__file__).parents[1]
    files = [root / "README.md", *sorted((root / "numgpt").rglob("*.py"))[:40]]
    text = corpora.python()[1] + "".join(path.read_text("utf-8") for path in files)
    tokenizer = trained(name)
    ids = tokenizer.encode(text)
    for theirs in (huggingface, tiktoken):
        expect_equal_ids(lambda _: ids.tolist(), oracle(theirs, name), text)
    assert twin().encode(text, tokenizer).tolist() == ids.tolist()


@settings(max_examples=300)
@given(text=texts)
def test_ids_of_gpt2s_real_ranks_are_tiktokens(text):
    tokenizer, theirs = gpt2_tokenizer()
    expect_equal_ids(tokenizer.encode, theirs, text)
    assert twin().encode(text, tokenizer).tolist() == theirs(text)


def test_a_corpus_with_gpt2s_real_ranks_has_tiktokens_ids():
    tokenizer, theirs = gpt2_tokenizer()
    expect_equal_ids(tokenizer.encode, theirs, corpora.python()[1])


@functools.cache
def gpt2_tokenizer():
    tokenizer = tokenizers.load(gpt2_file())
    return tokenizer, tiktoken(tokenizer)


def test_ids_that_part_are_seen():
    with pytest.raises(AssertionError, match="part at token 1 of 'abc'"):
        expect_equal_ids(lambda text: [1, 2, 3], lambda text: [1, 4, 3], "abc")
    with pytest.raises(AssertionError, match="part at token 2"):
        expect_equal_ids(lambda text: [1, 2, 3], lambda text: [1, 2], "abc")


@pytest.mark.parametrize(
    "name, right, wrong, text",
    [
        ("gpt2", r"|\s+(?!\S)", "", "a  b"),
        ("gpt2", r" ?\p{N}+", r" ?\p{Nd}+| ?[\p{Nl}\p{No}]+", " Ⅷ1"),
        ("cl100k", "(?i:", "(?:", "it'Sa"),
        ("cl100k", r"|\s++$", "", "a\n\n  "),
        ("o200k", r"[\r\n/]*", r"[\r\n]*", "!\n/"),
        ("o200k", "(?i:'s", "(?:'s", "a'S"),
    ],
)
def test_a_pattern_that_differs_is_caught(name, right, wrong, text):
    source = PATTERNS[name].replace(right, wrong)
    pretokens = [*Pattern(name).split(text), *Pattern(source).split(text)]
    # Every pretoken is a token, so that ids tell them apart.
    tokens = BYTES + [p.encode() for p in sorted(set(pretokens)) if len(p.encode()) > 1]
    theirs = tiktoken(BPE(tokens, None, name))
    expect_equal_ids(BPE(tokens, None, name).encode, theirs, text)
    with pytest.raises(AssertionError, match="ids part"):
        expect_equal_ids(BPE(tokens, None, source).encode, theirs, text)


def rightmost(ids, ranks):
    ids = list(ids)
    while True:
        known = [(ranks[pair], -i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
        if not known:
            return np.array(ids)
        (_, joined), i = min(known)
        ids[-i : -i + 2] = [joined]


def from_left_to_right(ids, ranks):
    out = []
    for i in ids:
        out.append(i)
        while len(out) > 1 and (out[-2], out[-1]) in ranks:
            out[-2:] = [ranks[out[-2], out[-1]][1]]
    return np.array(out)


@pytest.mark.parametrize("wrong", [rightmost, from_left_to_right])
def test_joining_in_another_order_is_caught(monkeypatch, wrong):
    a, b = BYTES.index(b"a"), BYTES.index(b"b")
    tokenizer = BPE([*BYTES, b"bb", b"ab"], [(b, b), (a, b)], WHOLE)
    theirs = huggingface(tokenizer)
    expect_equal_ids(tokenizer.encode, theirs, "abbb")
    monkeypatch.setattr(joining, "join", wrong)
    tokenizer.remembered.clear()
    with pytest.raises(AssertionError, match="ids part"):
        expect_equal_ids(tokenizer.encode, theirs, "abbb")


SPECIALS = {"<|end|>": 300, "<|end|><|of|>": 301, "|><|": 302, "<|": 303}


def with_specials():
    tokens, merges = merges_at_random(3, False, "<|end>", 20)
    return BPE(tokens, merges, "gpt2", SPECIALS)


def huggingface_with_specials(tokenizer):
    tk = pytest.importorskip("tokenizers", reason="tokenizers is not installed, which is the oracle")
    vocab = {spell(t): i for i, t in enumerate(tokenizer.tokens)} | tokenizer.specials
    merges = [(spell(tokenizer.tokens[a]), spell(tokenizer.tokens[b])) for a, b in tokenizer.merges]
    theirs = tk.Tokenizer(tk.models.BPE(vocab, merges))
    theirs.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.add_special_tokens(list(tokenizer.specials))
    return lambda text: theirs.encode(text).ids


marked = st.lists(st.sampled_from([*SPECIALS, "<", "|", ">", "end", " ", "a\n"]), max_size=12).map("".join)


@given(text=marked)
@example(text="<|end|><|of|>")
@example(text="<<|end|>|><|><|of|>")
def test_special_tokens_that_overlap_are_found_as_huggingface_finds_them(text):
    """The leftmost, and of those that begin at one place the longest."""
    tokenizer = with_specials()
    expect_equal_ids(
        lambda t: tokenizer.encode(t, special="allow"), huggingface_with_specials(tokenizer), text
    )


@given(text=marked)
def test_special_tokens_none_of_which_begins_another_are_found_as_tiktoken_finds_them(text):
    """Of two that begin at one place tiktoken takes either, so it is no oracle there."""
    tt = pytest.importorskip("tiktoken", reason="tiktoken is not installed, which is the oracle")
    specials = {"<|end|>": 300, "|><|": 302, "end|>": 303}
    tokenizer = BPE(BYTES, None, "gpt2", specials)
    ranks = {t: i for i, t in enumerate(BYTES)}
    theirs = tt.Encoding(
        "of the test", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens=specials
    )
    expect_equal_ids(
        lambda t: tokenizer.encode(t, special="allow"),
        lambda t: theirs.encode(t, allowed_special="all"),
        text,
    )
    expect_equal_ids(
        lambda t: tokenizer.encode(t, special="text"), lambda t: theirs.encode(t, disallowed_special=()), text
    )
    if any(s in text for s in specials):
        with pytest.raises(InputError, match="holds the special token .* at position"):
            tokenizer.encode(text)
    else:
        assert tokenizer.encode(text).tolist() == theirs.encode(text)


@given(text=marked, special=st.sampled_from(["allow", "text"]))
def test_a_text_with_special_tokens_comes_back(text, special):
    tokenizer = with_specials()
    ids = tokenizer.encode(text, special)
    assert tokenizer.decode(ids) == text
    assert special == "allow" or not set(ids.tolist()) & set(SPECIALS.values())


def test_an_unknown_policy_is_refused():
    with pytest.raises(InputError, match="special is 'all', expected one of refuse, allow, text"):
        with_specials().encode("a", special="all")


# Parts of characters, half of a surrogate pair, and what begins no character.
FRAGMENTS = [b"\xf0\x9f", b"\x99\x82", b"\xe2\x82", b"\xac", b"a ", b"\xed\xa0\x80", b"\xff"]
fragments = st.lists(st.sampled_from(FRAGMENTS)).map(b"".join)


@drawn(few=60, many=200, data=st.binary(max_size=60) | fragments, name=st.sampled_from(NAMES))
def test_any_bytes_come_back(data, name):
    tokenizer = encoders(name, False)
    ids = tokenizer.encode(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")
    assert np.array_equal(tokenizer.encode(tokenizer.decode(ids, "surrogateescape")), ids)
    assert twin().encode(data.decode("utf-8", "surrogateescape"), tokenizer).tolist() == ids.tolist()


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace", "surrogateescape", "strict"])
@settings(max_examples=100)
@given(data=texts.map(str.encode) | st.binary(max_size=20), seed=seeds)
def test_what_streams_is_whole_characters_and_joined_is_the_text(errors, data, seed):
    # Tokens that end inside characters: random pairs of the bytes of é, 日 and 🙂.
    tokens, merges = merges_at_random(seed, False, "é日🙂", 40)
    tokenizer = BPE(tokens, merges, WHOLE)
    ids = tokenizer.encode(data).tolist()
    decode = tokenizer.decoder(errors)
    try:
        parts = [decode(i) for i in ids] + [decode(None, True)]
    except InputError as error:
        assert errors == "strict" and "is not UTF-8" in str(error)
        with pytest.raises(InputError, match="is not UTF-8"):
            tokenizer.decode(ids, errors)
        return
    assert "".join(parts) == tokenizer.decode(ids, errors)
    sent, shown = b"", ""
    for i, part in zip(ids, parts):
        sent, shown = sent + tokenizer.decode_bytes([i]), shown + part
        # What is shown is what stays right whatever follows: before a character that is not complete nothing
        # of it is shown.
        if errors != "strict":
            assert (sent + b"\xff").decode("utf-8", errors).startswith(shown)


@pytest.mark.parametrize(
    "make",
    [lambda t: t.decode, lambda t: t.decode_bytes, lambda t: lambda ids: [t.decoder()(i) for i in ids]],
)
@pytest.mark.parametrize(
    "ids", [[256], [-1], [0, 2**70], [1.0], ["a"], [[1], [2, 3]], [[1, 2], [3, 4]], [{}], [True], [0, 10**6]]
)
def test_ids_that_are_none_are_refused_in_one_line(make, ids):
    with pytest.raises(InputError, match="^decode: .*expected") as caught:
        make(BPE(BYTES))(ids)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("merges", [None, [(97, 98)]])
def test_a_state_that_is_changed_leaves_its_tokenizer_as_it_was(merges):
    tokenizer = BPE([*map(bytes, zip(range(256))), b"ab"], merges, specials={"<s>": 257})
    state = tokenizer.state()
    (state["merges"] or []).clear()
    state["specials"]["b"] = 5
    state["tokens"][0] = "?"
    for other in (tokenizer, BPE.from_state(tokenizer.state())):
        assert other.encode("ab<s>", "allow").tolist() == [256, 257]


def test_no_text_has_no_ids_and_back():
    for name in NAMES:
        tokenizer = encoders(name, True)
        for run in (tokenizer.encode, lambda t: twin().encode(t, tokenizer)):
            ids = run("")
            assert ids.shape == (0,) and ids.dtype == np.int64
        assert tokenizer.encode(b"").shape == (0,)
        assert tokenizer.decode([]) == "" == tokenizer.decode(ids) and tokenizer.decode_bytes([]) == b""


@pytest.mark.parametrize("long", [0, 2000])
def test_half_of_a_character_is_named_with_its_place(long):
    tokenizer = encoders("gpt2", False)
    for run in (bpe.encode, twin().encode):
        with pytest.raises(InputError, match=rf"U\+D800 at position {long + 5} is half of a character"):
            run("a b c"[:5] + "x" * long + "\ud800b", tokenizer)


@pytest.mark.parametrize("whole", [False, True])
def test_a_byte_without_a_token_is_named(whole):
    tokens = [b"a", b"b", b" ", b"z!"]
    tokenizer = BPE(tokens, [] if not whole else None)
    for run in (bpe.encode, twin().encode):
        assert run("ab a", tokenizer).tolist() == [0, 1, 2, 0]
        with pytest.raises(InputError, match="byte 0x63 of ' ac' has no token"):
            run("ab ac d", tokenizer)
        with pytest.raises(InputError, match="byte 0x63 of 'c' has no token"):
            run("c", tokenizer)


def test_an_unknown_policy_of_what_is_not_utf8_is_refused():
    tokenizer = BPE(BYTES)
    for run in (tokenizer.decoder, lambda errors: tokenizer.decode([1], errors)):
        with pytest.raises(
            InputError, match="errors is 'xmlcharrefreplace', expected one of replace, strict"
        ):
            run("xmlcharrefreplace")


def test_a_copy_encodes_alike_and_carries_nothing_that_was_met():
    tokenizer = BPE([*BYTES, b"th"], [(BYTES.index(b"t"), BYTES.index(b"h"))])
    ids = tokenizer.encode("the other thing").tolist()
    for other in (copy.copy(tokenizer), copy.deepcopy(tokenizer)):
        assert other == tokenizer and not other.remembered and tokenizer.remembered
        assert other.encode("the other thing").tolist() == ids


@given(
    seed=seeds,
    shuffled=st.booleans(),
    text=st.text(st.sampled_from("aab") | st.sampled_from("abc"), max_size=120),
)
def test_a_queue_joins_as_looking_at_all_pairs_does(seed, shuffled, text):
    tokens, merges = merges_at_random(seed, shuffled, "abc", 60)
    ranks = BPE(tokens, merges).ranks
    ids = [BYTES.index(c.encode()) for c in text]
    assert joining.join_queued(ids, ranks).tolist() == joining.join(ids, ranks).tolist()


def test_a_long_word_is_no_long_wait_for_the_reference_engine():
    """Looking at all pairs for each join would take hours."""
    tokens, merges = merges_at_random(0, False, "ab", 60)
    rng = np.random.default_rng(0)
    for text in ("a" * 100_000, bytes(rng.choice([97, 98], 100_000).astype(np.uint8)).decode()):
        tokenizer = BPE(tokens, merges, WHOLE)
        assert tokenizer.decode(tokenizer.encode(text)) == text
