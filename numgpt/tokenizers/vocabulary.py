"""A BPE as text, for files: tokens spelled as GPT-2 spells bytes, with ids, and merges as pairs of tokens.

Special tokens stand as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InputError
from .bpe import BPE
from .entries import short
from .joining import join
from .spelling import spell, unspell
from .tiktoken_file import recover_merges
from .tokenizer import expect_characters


def checked_vocabulary(vocab: Any) -> dict[str, int]:
    """The vocabulary of a file; InputError unless it is {text: id}, each with an id of its own."""
    if not isinstance(vocab, dict) or not vocab:
        raise InputError("the vocabulary is not a JSON object with tokens, expected {token: id}")
    for text in vocab:
        expect_characters(text, "token")
    wrong = next((text for text, i in vocab.items() if type(i) is not int or i < 0), None)
    if wrong is not None:
        raise InputError(f"token {wrong!r} has id {vocab[wrong]!r}, expected an integer from 0")
    if len(set(vocab.values())) < len(vocab):
        seen: dict[int, str] = {}
        one, other = next((seen[i], text) for text, i in vocab.items() if seen.setdefault(i, text) != text)
        raise InputError(f"tokens {one!r} and {other!r} both have id {vocab[one]}, expected one each")
    return vocab


def expect_no_holes(ids: Iterable[int], last: int | None = None) -> None:
    """Raise InputError unless each id from 0 to the last is there. last: the largest, unless it is given."""
    taken = set(ids)
    last = max(taken, default=-1) if last is None else last
    hole = next((i for i in range(last) if i not in taken), None)
    if hole is not None:
        raise InputError(f"no token has id {hole}, expected one for each up to {last}")


def read_pairs(merges: Any) -> list[tuple[str, str]]:
    """The merges of a tokenizer.json as pairs of texts."""
    if not isinstance(merges, list):
        raise InputError("its model has no list of merges, expected one")
    pairs = []
    for n, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_list = isinstance(parts, list) and len(parts) == 2
        if not is_list or not all(isinstance(part, str) and part for part in parts):
            raise InputError(
                f"merge {n} is {short(merge, 80)}, expected two tokens, as a pair or divided by a space"
            )
        pairs.append((parts[0], parts[1]))
    return pairs


def assemble(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    specials: Mapping[str, int],
    pattern: str,
    whole: bool,
) -> BPE:
    """The BPE of a vocabulary {text: id}, merges as pairs of texts, and special tokens {text: id}.

    The special tokens may be in the vocabulary too.
    """
    both = checked_vocabulary({**vocab, **specials})
    ordinary = {text: i for text, i in both.items() if text not in specials}
    last = max(ordinary.values(), default=-1)
    # Looked for before the list is made: a last id that a file makes up would claim all memory.
    expect_no_holes(both.values(), last)
    tokens: list[bytes | None] = [None] * (last + 1)
    for text, i in ordinary.items():
        tokens[i] = unspell(text)
    for n, pair in enumerate(merges):
        unknown = next((part for part in pair if part not in ordinary), None)
        if unknown is not None:
            ending = " that is not special" if unknown in specials else ""
            raise InputError(f"merge {n} joins {unknown!r}, expected a token of the vocabulary{ending}")
    pairs = [(ordinary[left], ordinary[right]) for left, right in merges]
    return BPE(tokens, pairs, pattern, specials, whole)


def spelled(tokenizer: BPE) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary {text: id}, merges as pairs of texts) of a BPE.

    InputError where a special token is spelled as an ordinary one is.
    """
    texts = {i: spell(token) for i, token in enumerate(tokenizer.tokens) if token is not None}
    vocab = {text: i for i, text in texts.items()}
    both = next((text for text in tokenizer.specials if text in vocab), None)
    if both is not None:
        raise InputError(
            f"export: the special token {both!r} is spelled as token {vocab[both]} is, expected another text:"
            " choose the kind numgpt"
        )
    merges = recover_merges(tokenizer) if tokenizer.merges is None else tokenizer.merges
    vocab |= tokenizer.specials
    in_order = dict(sorted(vocab.items(), key=lambda item: item[1]))
    return in_order, [(texts[left], texts[right]) for left, right in merges]


def expect_reached(tokenizer: BPE) -> None:
    """Raise InputError where a token is taken whole that merges do not reach: the files cannot say so."""
    if not tokenizer.whole or tokenizer.merges is None:  # without merges, recover_merges has looked
        return
    for token, i in tokenizer.ids.items():
        ids = [tokenizer.ids.get(token[n : n + 1], -1) for n in range(len(token))]
        if join(ids, tokenizer.ranks).tolist() != [i]:
            raise InputError(
                f"export: token {i}, {token!r}, is not what merges make of its bytes, expected that: choose"
                " the kind huggingface, which can say so"
            )
