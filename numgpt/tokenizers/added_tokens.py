"""Added tokens of a tokenizer.json: texts that are tokens wherever they stand, whatever else is cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from .entries import short

MOST_ADDED, LONGEST_ADDED = (
    5000,
    200,
)  # added tokens, and characters of one, that are compared with each other


def read(tokens: Any, vocab: Mapping[str, int]) -> dict[str, int]:
    """Added tokens {text: id}.

    InputError for one that is not taken exactly where its text is, or has another id than their library gives
    it.
    """
    tokens = tokens if tokens is not None else []
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise InputError("its added_tokens are no list of objects, expected one")
    added: dict[str, int] = {}
    normalized: dict[bool, list[str]] = {True: [], False: []}
    for token in tokens:
        text, i = token.get("content"), token.get("id")
        if not isinstance(text, str) or not text or type(i) is not int or text in added:
            raise InputError(
                f"its added token {short(text, 80)} has id {short(i, 40)}, expected a text and its id, each"
                " text once"
            )
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag, False) is not False:
                raise InputError(
                    f"its added token {text!r} has {flag} {short(token[flag], 40)}, expected false: the"
                    " other is not supported"
                )
        for flag in ("special", "normalized"):
            if not isinstance(token.get(flag, False), bool):
                raise InputError(
                    f"its added token {text!r} has {flag} {short(token[flag], 40)}, expected true or false"
                )
        # The library numbers one that the vocabulary lacks by itself, and does not look at the id.
        given = vocab.get(text, max([len(vocab), *(n + 1 for n in added.values())]))
        if i != given:
            raise InputError(
                f"its added token {text!r} has id {i}, expected {given}, which Hugging Face's tokenizers give"
                " it: put it into the vocabulary"
            )
        added[text] = i
        normalized[token.get("normalized", False)].append(text)
    expect_apart(normalized[True], normalized[False], "normalized")
    return added


def expect_apart(later: list[str], first: list[str], difference: str) -> None:
    """Raise InputError where tokens of two kinds could overlap in a text.

    Their library looks for the tokens of the first kind first, numgpt for all at once.
    """
    if not later or not first:
        return
    if len(later) + len(first) > MOST_ADDED or max(map(len, later + first)) > LONGEST_ADDED:
        raise InputError(
            f"its added tokens are {difference} and not, and too many or too long to compare, expected all of"
            " one kind"
        )
    for others, tokens, kind in ((later, first, ""), (first, later, "not ")):
        heads = {other[:n] for other in others for n in range(1, len(other) + 1)}
        wholes = set(others)
        for text in tokens:
            shared = _overlap(text, wholes, heads)
            if shared:
                raise InputError(
                    f"its added token {text!r} shares {shared!r} with another that is {kind}{difference},"
                    " expected both of one kind"
                )


def _overlap(text: str, others: set[str], heads: set[str]) -> str | None:
    """What a token shares with others: one that stands in it, or an end of it that is the head of one."""
    size = len(text)
    parts = (text[n:m] for n in range(size) for m in range(n + 1, size + 1))
    inside = next((part for part in parts if part in others), None)
    return inside or next((text[n:] for n in range(size) if text[n:] in heads), None)
