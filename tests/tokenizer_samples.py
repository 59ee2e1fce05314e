"""What tests of tokenizers' files share: tokenizers drawn by a seed, and files as others write them."""

import base64
import json
import struct
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from numgpt.tokenizers import BPE, ScoredPairs, huggingface_file
from numgpt.tokenizers.patterns import Pattern

TEXT = (
    "The cat's hat, the other cat  sat\n\n on 12345 mats; they're naïve: 日本語 😀😀 "
    "`def f(x):\r\n    return x`" + " there then" * 3
)
SPECIALS = ("<|endoftext|>", "<|end|>", "[PAD]")


def learned(seed, merges=60, pattern="gpt2", specials=(), shuffle=True):
    """A BPE whose merges are pairs of neighbours in TEXT, as training gives them, but drawn by the seed."""
    draw = np.random.default_rng(seed)
    tokens = [bytes([b]) for b in (draw.permutation(256).tolist() if shuffle else range(256))]
    ids, pairs = {t: i for i, t in enumerate(tokens)}, []
    words = [[ids[bytes([b])] for b in pretoken.encode()] for pretoken in Pattern(pattern).split(TEXT)]
    for _ in range(merges):
        known = sorted({pair for word in words for pair in pairwise(word)})
        if not known:
            break
        pair = known[draw.integers(len(known))]
        both = tokens[pair[0]] + tokens[pair[1]]
        if both in ids:  # by other parts: tiktoken's vocabularies have each token once
            words = [word for word in words if pair not in pairwise(word)]
            continue
        ids[both] = len(tokens)
        tokens.append(both)
        pairs.append(pair)
        words = [replaced(word, pair, ids[both]) for word in words]
    return BPE(tokens, pairs, pattern, {text: len(tokens) + n for n, text in enumerate(specials)})


def scored_file(pieces, longest=None):
    """A tokenizer.bin of llama2.c: what it begins with, then pieces, each (bytes, score)."""
    first = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % b for b in range(256))]
    tokens = [*((name, 0.0) for name in first), *pieces]
    longest = max(len(name) for name, _ in tokens) if longest is None else longest
    return struct.pack("<I", longest) + b"".join(struct.pack("<fi", s, len(n)) + n for n, s in tokens)


def scored(text, size=80):
    """A tokenizer of llama2.c: a text's characters, and what is frequent in it, some with equal scores."""
    characters = sorted({*text, " "} - set("\n\x01"))
    counts = Counter(text[i : i + n] for n in range(2, 6) for i in range(len(text) - n))
    frequent = [part for part, _ in counts.most_common(size) if "<" not in part and "\n" not in part]
    pieces = [(c.encode(), -1e9) for c in characters]
    return ScoredPairs(
        scored_file([*pieces, *((p.encode(), -float(n // 3)) for n, p in enumerate(frequent))])
    )


def replaced(word, pair, both):
    """A word with a pair joined, from the left."""
    new = []
    for i in word:
        if new and (new[-1], i) == pair:
            new[-1] = both
        else:
            new.append(i)
    return new


BYTE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split(source, behavior="Isolated", invert=False):
    """The pre-tokenizer of a tokenizer.json that cuts by a regular expression."""
    cut = {"type": "Split", "pattern": {"Regex": source}, "behavior": behavior, "invert": invert}
    return {"type": "Sequence", "pretokenizers": [cut, BYTE | {"use_regex": False}]}


def cut_by_huggingface(source, text):
    """The pretokens that Hugging Face's library cuts a text into by a regular expression of one's own."""
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    return [
        pretoken
        for pretoken, _ in library.pre_tokenizers.Split(library.Regex(source), "isolated").pre_tokenize_str(
            text
        )
    ]


def content(**changes):
    """A tokenizer.json with changed entries; those of its model by model__ and their names."""
    whole = json.loads(json.dumps(huggingface_file.write(learned(2, 20, specials=SPECIALS[:1]))))
    for name, value in changes.items():
        part = whole["model"] if name.startswith("model__") else whole
        part[name.removeprefix("model__")] = value
    return whole


def token(text, i, **flags):
    """An added token of a tokenizer.json."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": text, "special": True} | off | flags


def lines(*entries):
    """The lines of a .tiktoken."""
    return b"".join(base64.b64encode(t) + b" %d\n" % i for t, i in entries)
