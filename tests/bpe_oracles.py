"""What tests of byte-pair encoding share: merges, texts that provoke, and the same tokenizers elsewhere."""

import functools
import json
from importlib import metadata

import numpy as np
import pytest
from hypothesis import strategies as st

from numgpt import tokenizers
from numgpt.data import corpora
from numgpt.tokenizers import BPE
from numgpt.tokenizers.patterns import PATTERNS, Pattern
from numgpt.tokenizers.spelling import ALPHABET, spell

BYTES = [bytes([b]) for b in sorted(range(256), key=ALPHABET.__getitem__)]
OWN = r"[A-Za-z']+| ?[0-9]|\s+|[^A-Za-z0-9'\s]{1,5}"
WHOLE = r"[\s\S]+"
NAMES = [*PATTERNS, OWN]
# As Oniguruma, in which {1,3}+ repeats what {1,3} matches, is told the same.
ONIGURUMA = {name: PATTERNS.get(name, name).replace("{1,3}+", "{1,3}") for name in [*NAMES, WHOLE]}

# Where patterns part: spaces of all kinds, line ends, separators that are no space to Unicode; contractions,
# ſ that is an s to (?i), capitals of both cases, modifiers, marks; digits of three kinds, joined emoji, and
# texts of special tokens.
PROVOKING = (
    " \n\r\t\x0b\x1c\x1f\x85\xa0\u2028\u3000'’sSſdDmtTlLvVeErRaZéǄǅǆʰªß日कि\u0301\u093f012²Ⅷ٣_!/.<|>"
    "🙂👩\u200d\ufe0f"
)
# Each library cuts by its own tables what no Unicode has assigned; and ʕ, a letter without case since Unicode
# 17, of which regex has heard, but not tiktoken 0.14 or tokenizers 0.23. Half of a surrogate pair is no text.
texts = st.text(st.sampled_from(PROVOKING), max_size=60) | st.text(
    st.characters(exclude_categories=("Cs", "Cn"), exclude_characters="ʕ"), max_size=30
)
few = st.text(st.sampled_from("ab"), max_size=120) | st.text(st.sampled_from("abc é"), max_size=60)
seeds = st.integers(0, 2**32 - 1)


def merges_at_random(seed, shuffled, letters="ab cé", count=30):
    """(tokens, merges) that join random pairs of the bytes of a few letters.

    shuffled: the merges are in an order that no training gives.
    """
    rng = np.random.default_rng(seed)
    tokens, merges = list(BYTES), []
    ids = [BYTES.index(bytes([b])) for b in sorted(set(letters.encode()))]
    for left, right in rng.integers(0, 2**31, (count, 2)):
        pair = ids[left % len(ids)], ids[right % len(ids)]
        both = tokens[pair[0]] + tokens[pair[1]]
        if pair not in merges and (both not in tokens or shuffled):  # one token may be made of several pairs
            merges.append(pair)
            if both not in tokens:
                ids.append(len(tokens))
                tokens.append(both)
    if shuffled:
        merges = [merges[i] for i in rng.permutation(len(merges))]
    return tokens, merges


def huggingface(tokenizer):
    """Hugging Face's tokenizer of the same merges."""
    tk = pytest.importorskip("tokenizers", reason="tokenizers is not installed, which is the oracle")
    vocab = {spell(t): i for i, t in enumerate(tokenizer.tokens) if t is not None}
    merges = [(spell(tokenizer.tokens[a]), spell(tokenizer.tokens[b])) for a, b in tokenizer.merges]
    theirs = tk.Tokenizer(tk.models.BPE(vocab, merges, ignore_merges=tokenizer.whole))
    split = tk.pre_tokenizers.Split(tk.Regex(ONIGURUMA[tokenizer.pattern.name]), "isolated")
    theirs.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [split, tk.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return lambda text: theirs.encode(text).ids


def tiktoken(tokenizer):
    """tiktoken's encoding of the same tokens."""
    tt = pytest.importorskip("tiktoken", reason="tiktoken is not installed, which is the oracle")
    ranks = {t: i for i, t in enumerate(tokenizer.tokens) if t is not None}
    return tt.Encoding(
        "of the test",
        pat_str=tokenizer.pattern.source,
        mergeable_ranks=ranks,
        special_tokens=tokenizer.specials,
    ).encode_ordinary


@functools.cache
def gpt2_file():
    """The path of GPT-2's tokens in their order. openai-whisper holds a copy; nothing of it is run."""
    try:
        files = metadata.distribution("openai-whisper").files or []
    except metadata.PackageNotFoundError:
        files = []
    path = next((f.locate() for f in files if f.name == "gpt2.tiktoken"), None)
    return path or pytest.skip(
        "openai-whisper is not installed, which holds GPT-2's ranks: pip install --no-deps openai-whisper"
    )


def twin():
    pytest.importorskip("numba", reason="Numba is not installed, which the twin needs")
    from numgpt.tokenizers import bpe_numba

    return bpe_numba


def expect_equal_ids(ours, theirs, text):
    """Raise where two encoders part; say at which token."""
    a, b = list(ours(text)), list(theirs(text))
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    if a != b:
        raise AssertionError(f"ids part at token {n} of {text[:200]!a}: {a[n : n + 5]} and {b[n : n + 5]}")


@functools.cache
def trained(name):
    """A tokenizer whose merges Hugging Face's trainer learned from the default corpus and PROVOKING."""
    tk = pytest.importorskip(
        "tokenizers", reason="tokenizers is not installed, whose trainer gives the merges"
    )
    contractions = "'s 'S 'ſ 'll 'LL 've 'Ve 're 'RE  \n \n\n 12345 👩\u200d🙂"
    text = corpora.python()[1][:200_000] + PROVOKING * 3 + contractions * 3
    theirs = tk.Tokenizer(tk.models.BPE())
    theirs.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tk.trainers.BpeTrainer(vocab_size=900, initial_alphabet=sorted(ALPHABET), show_progress=False)
    theirs.train_from_iterator(Pattern(name).split(text), trainer)
    ids = theirs.get_vocab()
    tokens = [None] * len(ids)
    for token, i in ids.items():
        tokens[i] = tokenizers.spelling.unspell(token)
    merges = [(ids[a], ids[b]) for a, b in json.loads(theirs.to_str())["model"]["merges"]]
    return BPE(tokens, merges, name)


@functools.cache
def encoders(name, whole):
    """A tokenizer of random merges, with two tokens that no merge makes."""
    tokens, merges = merges_at_random(7, False, "aA'sé \n12", 80)
    return BPE([*tokens, "aAsé".encode(), "日".encode()], merges, name, whole=whole)
