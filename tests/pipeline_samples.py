"""What tests of a Pipeline share: steps of a tokenizer.json by name, models for them, files and texts."""

import json

import numpy as np
import pytest
from tokenizer_samples import BYTE, token

from numgpt.tokenizers import pretokenizers
from numgpt.tokenizers.spelling import ALPHABET

MARK = "▁"


def sequence(name, *steps):
    """A Sequence of normalizers, pretokenizers or decoders."""
    return {"type": "Sequence", name: list(steps)}


def split(behavior, pattern, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def replace(old, new, kind="String"):
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def metaspace(scheme, is_split=True):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": is_split}


def strip(left, right):
    return {"type": "Strip", "strip_left": left, "strip_right": right}


PREPEND = {"type": "Prepend", "prepend": MARK}
NORMALIZERS = {
    "none": None,
    "empty": sequence("normalizers"),
    **{form: {"type": form} for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")},
    "strip": strip(True, True),
    "strip left": strip(True, False),
    "prepend": PREPEND,
    "replace": replace(" ", MARK),
    "replace by nothing": replace("ab", ""),
    "replace an expression": replace(r"\s+|b+", "$1 ", "Regex"),
    "LLaMA's": sequence("normalizers", PREPEND, replace(" ", MARK)),
    "several": sequence("normalizers", {"type": "NFKC"}, {"type": "Lowercase"}, strip(False, True)),
}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}
CUT_BY_LLAMA3 = split("Isolated", {"Regex": LLAMA3})
BYTES_ONLY = BYTE | {"use_regex": False}
PRETOKENIZERS = {
    "none": None,
    "bytes": BYTE,
    "bytes alone": BYTES_ONLY,
    "a space first": BYTE | {"add_prefix_space": True},
    "a space first, uncut": BYTE | {"add_prefix_space": True, "use_regex": False},
    "LLaMA 3's": sequence("pretokenizers", CUT_BY_LLAMA3, BYTES_ONLY),
    "digits": DIGITS,
    "numbers": {"type": "Digits", "individual_digits": False},
    "digits and bytes": sequence("pretokenizers", DIGITS, BYTE),
    "bytes and digits": sequence("pretokenizers", BYTE, DIGITS),
    **{f"metaspace {scheme}": metaspace(scheme) for scheme in ("always", "never")},
    "metaspace uncut": metaspace("always", False),
    "cut, then metaspace": sequence("pretokenizers", split("Removed", {"String": "a"}), metaspace("always")),
    **{
        f"{behavior} {invert} {next(iter(pattern))}": split(behavior, pattern, invert)
        for behavior in pretokenizers.BEHAVIORS
        for invert in (False, True)
        for pattern in ({"Regex": r"\s|\p{N}b?"}, {"String": " "})
    },
    "cuts in cuts": sequence(
        "pretokenizers",
        split("MergedWithNext", {"String": "b"}),
        split("Contiguous", {"Regex": r"\s|1"}),
        BYTES_ONLY,
    ),
}
FIRST = {"metaspace first": metaspace("first"), "metaspace first uncut": metaspace("first", False)}
LETTERS = "ab éÉ1²٣\n▁🙂Ġ日ﬁ\u0301"
END = "<|end|>"


def model(seed=1, letters=LETTERS, merges=40, **flags):
    """A model of random merges: the characters of byte level, the letters, 256 bytes, <unk> and END."""
    draw = np.random.default_rng(seed)
    names = [f"<0x{b:02X}>" for b in range(256)]
    vocab = dict.fromkeys(["<unk>", END, *names, *ALPHABET, *letters])
    some = list(dict.fromkeys([*"abĠÃ©▁1", *letters]))
    pairs = []
    for _ in range(merges):
        left, right = (some[i] for i in draw.integers(0, len(some), 2))
        if (left, right) not in pairs and len(left + right) < 6:
            pairs.append((left, right))
            some += [] if left + right in vocab else [left + right]
            vocab[left + right] = None
    off = {"unk_token": None, "byte_fallback": False, "fuse_unk": False, "ignore_merges": False}
    vocab = {text: i for i, text in enumerate(vocab)}
    return {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in pairs]} | off | flags


def without(model, *texts):
    """A model that lacks tokens of its vocabulary, which no merge may name."""
    kept = [text for text in model["vocab"] if text not in texts]
    merges = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= set(kept)]
    return model | {"vocab": {text: i for i, text in enumerate(kept)}, "merges": merges}


FALLS_BACK = model(byte_fallback=True, unk_token="<unk>")
MODELS = {
    "bytes for the rest": FALLS_BACK,
    "whole": model(2, ignore_merges=True, byte_fallback=True),
    "unknown": model(3, unk_token="<unk>"),
    "unknown, fused": model(4, unk_token="<unk>", fuse_unk=True),
    "some bytes": without(model(5, unk_token="<unk>", byte_fallback=True), "<0xC3>", "b"),
    "some bytes, fused": without(model(6, unk_token="<unk>", fuse_unk=True, byte_fallback=True), "<0xC3>"),
}
DECODERS = {
    "none": None,
    "bytes": BYTE,
    "metaspace": metaspace("always"),
    "metaspace never": metaspace("never"),
    "LLaMA's": sequence(
        "decoders",
        replace(MARK, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ),
    "two stripped": sequence(
        "decoders", {"type": "Fuse"}, {"type": "Strip", "content": "a", "start": 2, "stop": 0}
    ),
    "replaced": sequence("decoders", replace("ab", "<>"), metaspace("always"), {"type": "ByteFallback"}),
    "fused": {"type": "Fuse"},
    "empty": sequence("decoders"),
}


def file(normalizer=None, pre_tokenizer=None, model=FALLS_BACK, decoder=None, added=(END,)):
    """A tokenizer.json; the added tokens are special."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token(text, model["vocab"][text]) for text in added],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def library_of(content):
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed, which is the oracle")
    return library.Tokenizer.from_str(json.dumps(content))


# All of Unicode 9: later characters have other normal forms, or classes, in one library or the other.
TEXTS = [
    "",
    " ",
    "  a  b",
    "a b\n ab1b  1b 12 a",
    f"{END} ab{END}{END}b {END}",
    "É e\u0301 ﬁ ① ٣² Σσ ΑΣ İ ẞ K 각 \u1100\u1161",
    "\xa0\u3000a\x1c\u2003b\t\r\n",
    f"▁a▁ ▁▁b {MARK}{END} a🙂日本z",
    "it's  IT'S 1234 the\n\n end ",
    "aab\tabb bb\x85",
]


def places(node, path=()):
    """The paths to all entries of JSON, of long lists and objects the first three."""
    items = []
    if isinstance(node, dict | list):
        items = [*(node.items() if isinstance(node, dict) else enumerate(node))]
    for name, part in items if len(items) <= 30 else items[:3]:
        yield (*path, name)
        yield from places(part, (*path, name))
