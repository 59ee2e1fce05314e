"""Tokenizers in files of GGUF: byte pairs of bytes, which llama.cpp calls gpt2, and scored pairs, its llama.

What would give other ids than llama.cpp's is left out, and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..storage.atomic import StrPath
from ..tokenizers import BPE, ScoredPairs, Tokenizer, huggingface_file
from ..tokenizers.files import as_bpe
from ..tokenizers.patterns import PATTERNS
from ..tokenizers.scored_pairs import BEGIN, BYTES, END, FIRST, HEAD, TOKEN

PREFIX = "tokenizer.ggml."
NONE = {f"{PREFIX}model": "no_vocab"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # token_type
SPACE = "▁"  # how a space is spelled there
LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# tokenizer.ggml.pre → the pattern that cuts a text, and whether a pretoken that is a token stays whole.
PRE = {
    "gpt-2": (PATTERNS["gpt2"], False),
    "llama-bpe": (rf"{LETTERS}\p{{N}}{{1,3}}{REST}", True),
    "qwen2": (rf"{LETTERS}\p{{N}}{REST}", False),
    "gpt-4o": (PATTERNS["o200k"], False),
}


def read(
    path: StrPath, said: Mapping[str, Any], vocab_size: int
) -> tuple[Tokenizer | None, InputError | None]:
    """The tokenizer of a file, or None, with the error if there is one that numgpt does not read."""
    kind = said.get(f"{PREFIX}model", "no_vocab")
    own = {name.removeprefix(PREFIX): value for name, value in said.items() if name.startswith(PREFIX)}
    try:
        if kind in ("no_vocab", "none"):
            return None, None
        if kind not in ("gpt2", "llama"):
            raise InputError(f"is {str(kind)[:80]!r}, expected gpt2 or llama")
        tokens = own.get("tokens")
        if not isinstance(tokens, list) or len(tokens) > vocab_size:
            raise InputError(f"has no list of tokens, or more than the model's {vocab_size:,}, expected one")
        tokenizer = _byte_pairs(own, tokens) if kind == "gpt2" else _scored(own, tokens)
    except InputError as error:
        return None, InputError(f"{path}: its tokenizer {str(error).removeprefix('tokenizer: ')}")
    return tokenizer, None


def _types(own: Mapping[str, Any], n: int) -> Sequence[int]:
    types = own.get("token_type", np.full(n, NORMAL))
    if not isinstance(types, np.ndarray) or len(types) != n:
        raise InputError("has no token_type for each token, expected one")
    return [int(kind) for kind in types]


def _used(tokens: list[str], types: Sequence[int]) -> tuple[list[str], Sequence[int]]:
    """Tokens and their types without those at the end that only fill the model's vocabulary."""
    n = len(tokens)
    while n and types[n - 1] == UNUSED:
        n -= 1
    return tokens[:n], types[:n]


def _byte_pairs(own: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    """Byte pairs, through what Hugging Face's tokenizer.json would hold of them."""
    types = _types(own, len(tokens))
    pre = own.get("pre", "default")
    if pre not in PRE:
        raise InputError(f"cuts texts as {str(pre)[:80]!r}, expected one of {', '.join(PRE)}")
    tokens, types = _used(tokens, types)
    pattern, whole = PRE[pre]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": i, "content": tokens[i], **flags, "special": True}
        for i, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return huggingface_file.read(
        {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": None,
            "decoder": level,
            "model": {
                "type": "BPE",
                "ignore_merges": whole,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": own.get("merges", []),
            },
        }
    )


def _scored(own: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    """Scored pairs, through the file of llama2.c: the two join the same pairs."""
    types, scores = _types(own, len(tokens)), own.get("scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise InputError("has no score for each token, expected one")
    if own.get("add_space_prefix", True) is not True:
        raise InputError("puts no space before a text, expected one")
    tokens, types = _used(tokens, types)
    first = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    if types[: len(first)] != first or any(kind != NORMAL for kind in types[len(first) :]):
        raise InputError("has other kinds of tokens, expected <unk>, <s>, </s>, 256 bytes and normal ones")
    names = FIRST + [token.replace(SPACE, " ").encode() for token in tokens[len(FIRST) :]]
    expected = [name.decode().strip() for name in FIRST]
    if tokens[: len(FIRST)] != expected:
        raise InputError("begins with other tokens, expected <unk>, <s>, </s> and 256 bytes")
    rows = [TOKEN.pack(float(score), len(name)) + name for score, name in zip(scores, names)]
    return ScoredPairs(HEAD.pack(max(map(len, names))) + b"".join(rows))


def written(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, Any]:
    """The keys of a tokenizer; InputError where llama.cpp has none that gives its ids."""
    if tokenizer is None:
        return NONE
    own = _written_scored(tokenizer) if isinstance(tokenizer, ScoredPairs) else _written_pairs(tokenizer)
    missing = vocab_size - len(own["tokens"])
    own["tokens"] += [f"[PAD{i}]" for i in range(len(own["tokens"]), vocab_size)]
    own["token_type"] += [UNUSED] * missing
    if "scores" in own:
        own["scores"] += [-1000.0] * missing
    return {f"{PREFIX}{name}": value for name, value in own.items()}


def _written_pairs(tokenizer: Tokenizer) -> dict[str, Any]:
    bpe = as_bpe(tokenizer)
    pre = next((name for name, row in PRE.items() if row == (_source(bpe), bpe.whole)), None)
    if pre is None:
        raise InputError(
            f"save: the tokenizer cuts texts by {bpe.pattern.name[:40]!r}, expected a pattern of"
            f" {', '.join(PRE)}, which a file of GGUF can name"
        )
    file = huggingface_file.write(bpe)
    tokens = sorted(file["model"]["vocab"], key=file["model"]["vocab"].__getitem__)
    types = [NORMAL] * len(tokens)
    for i in bpe.specials.values():
        types[i] = CONTROL
    own: dict[str, Any] = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types}
    if file["model"]["merges"]:
        own["merges"] = list(file["model"]["merges"])
    if bpe.end_of_text is not None:
        own["bos_token_id"] = own["eos_token_id"] = bpe.end_of_text
    return own | {"add_bos_token": False}


def _source(bpe: BPE) -> str:
    return PATTERNS.get(bpe.pattern.name, bpe.pattern.name)


def _written_scored(tokenizer: ScoredPairs) -> dict[str, Any]:
    names, scores, place = [], [], HEAD.size
    while place < len(tokenizer.file):
        score, n = TOKEN.unpack_from(tokenizer.file, place)
        place += TOKEN.size + n
        names.append(tokenizer.file[place - n : place])
        scores.append(score)
    try:
        tokens = [name.decode().strip("\n") for name in names[: len(FIRST)]]
        tokens += [name.decode() for name in names[len(FIRST) :]]
    except UnicodeDecodeError:
        raise InputError("save: the tokenizer has a token that is not UTF-8, expected text") from None
    if any(SPACE in token for token in tokens):
        raise InputError(f"save: the tokenizer has a token with {SPACE}, expected none: there it is a space")
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - BYTES - 256)
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [token.replace(" ", SPACE) for token in tokens],
        "scores": scores,
        "token_type": types,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "unknown_token_id": 0,
        "add_bos_token": True,
    }
