"""GPT-2's two files: vocab.json, the id of each token, and merges.txt, a pair a line; OpenAI named them
encoder.json and vocab.bpe.
"""

import json

from ..errors import InputError
from .spelling import ALPHABET, unspell
from .vocabulary import assemble, checked_vocabulary, expect_reached, spelled

NAMES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
VERSION = "#version: 0.2"


def is_merges(data, name):
    """Whether bytes begin as merges.txt does. Its first line may be missing; then a file of another name is
    none.
    """
    line = data[:4096].partition(b"\n")[0].removesuffix(b"\r").decode("utf-8", "replace")
    return line.startswith("#version") or (
        name in NAMES.values() and len(line.split(" ")) == 2 and set(line) <= {*ALPHABET, " "}
    )


def read(vocab, merges, pattern="gpt2", specials=None):
    """The BPE of what vocab.json holds and the bytes of merges.txt.

    The files do not say which tokens are special: those are that are no byte and that no merge makes.
    specials adds to them.
    """
    pairs, specials = read_merges(merges), dict(specials or {})
    made = {*ALPHABET, *(left + right for left, right in pairs)}
    for text, i in checked_vocabulary(vocab).items():
        if text not in made and text not in specials:
            specials[text] = i
            if not _stands_for_itself(text):
                raise InputError(
                    f"token {text!r} is made by no merge, expected a merge for it: do the two files belong"
                    " together?"
                )
    return assemble(vocab, pairs, specials, pattern, whole=False)


def read_merges(data):
    """Pairs of texts, a line each, the parts divided by a space. The first line may be a version."""
    try:
        lines = (
            data.decode("utf-8").removesuffix("\n").split("\n")
        )  # not splitlines, to which some letters of the spelling are ends of lines
    except UnicodeDecodeError as error:
        raise InputError(
            f"the merges are not UTF-8 ({error}), expected lines of two tokens divided by a space"
        ) from error
    first = 1 if lines[0].startswith("#version") else 0
    pairs = [tuple(line.removesuffix("\r").split(" ")) for line in lines]
    for n, pair in enumerate(pairs[first:], first + 1):
        if (len(pair) != 2 or not all(pair)) and pair != ("",):
            raise InputError(
                f"line {n} of the merges is {lines[n - 1][:60]!r}, expected two tokens divided by a space"
            )
    return [pair for pair in pairs[first:] if pair != ("",)]


def write(tokenizer):
    """(vocab.json, merges.txt) as bytes; InputError for what they cannot say, so that every reader finds the
    same ids.
    """
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
            "export: a token that is not special is made by no merge, expected one: the files would not say"
            " so; choose the kind huggingface"
        )
    return json.dumps(vocab, ensure_ascii=False).encode(), merges


def _stands_for_itself(text):
    """Whether a token's text is its own spelling, or none: only then may it be a special token's."""
    try:
        return unspell(text) == text.encode()
    except InputError:
        return True
