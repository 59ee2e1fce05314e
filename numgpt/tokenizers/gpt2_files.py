"""GPT-2's two files: vocab.json, the id of each token, and merges.txt, a pair a line.

OpenAI named them encoder.json and vocab.bpe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from .bpe import BPE
from .spelling import ALPHABET, unspell
from .vocabulary import assemble, checked_vocabulary, expect_reached, spelled

NAMES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
VERSION = "#version: 0.2"


def is_merges(data: bytes, name: str) -> bool:
    """Whether bytes begin as merges.txt does; in a file of that name the heading may be missing."""
    line = data[:4096].partition(b"\n")[0].removesuffix(b"\r").decode("utf-8", "replace")
    is_pair = len(line.split(" ")) == 2 and set(line) <= {*ALPHABET, " "}
    return line.startswith("#version") or (name in NAMES.values() and is_pair)


def read(vocab: Any, merges: bytes, pattern: str = "gpt2", specials: Mapping[str, int] | None = None) -> BPE:
    """The BPE of what vocab.json holds and the bytes of merges.txt.

    The files do not say which tokens are special. Those are that are no byte and that no merge makes;
    specials adds to them.
    """
    pairs = read_merges(merges)
    special = dict(specials or {})
    known = {*ALPHABET, *(left + right for left, right in pairs)}
    for text, i in checked_vocabulary(vocab).items():
        if text not in known and text not in special:
            special[text] = i
            if not _stands_for_itself(text):
                raise InputError(
                    f"token {text!r} is made by no merge, expected a merge for it: do the two files belong"
                    " together?"
                )
    return assemble(vocab, pairs, special, pattern, whole=False)


def read_merges(data: bytes) -> list[tuple[str, str]]:
    """Pairs of texts, a line each, the parts divided by a space. The first line may be a version."""
    try:
        # Not splitlines, which takes some letters of the spelling for ends of lines.
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the merges are not UTF-8 ({error}), expected lines of two tokens divided by a space"
        ) from error
    pairs = []
    heading = lines[0].startswith("#version")
    for n, line in enumerate(lines[heading:], 1 + heading):
        parts = line.removesuffix("\r").split(" ")
        if parts == [""]:
            continue
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"line {n} of the merges is {line[:60]!r}, expected two tokens divided by a space"
            )
        pairs.append((parts[0], parts[1]))
    return pairs


def write(tokenizer: BPE) -> tuple[bytes, bytes]:
    """(vocab.json, merges.txt) as bytes; InputError for what they cannot say to every reader."""
    if tokenizer.pattern.name != "gpt2":
        raise InputError(
            "export: the pattern is not GPT-2's, expected it for files that do not say theirs: choose the"
            " kind huggingface"
        )
    vocab, pairs = spelled(tokenizer)
    expect_reached(tokenizer)
    lines = "".join(f"{left} {right}\n" for left, right in pairs)
    if lines.startswith("#version") or "\n#version" in lines:
        raise InputError(
            "export: a merge begins with #version, expected another, which is not taken for a heading: choose"
            " the kind huggingface"
        )
    merges = f"{VERSION}\n{lines}".encode()
    if read(vocab, merges).specials != tokenizer.specials:
        raise InputError(
            "export: a token that is not special is made by no merge, expected one, as the files would not"
            " say so: choose the kind huggingface"
        )
    return json.dumps(vocab, ensure_ascii=False).encode(), merges


def _stands_for_itself(text: str) -> bool:
    """Whether a token's text is its own spelling, or none: only then may it be a special token's."""
    try:
        return unspell(text) == text.encode()
    except InputError:
        return True
