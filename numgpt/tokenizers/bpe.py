"""Byte-level byte-pair encoding: bytes are joined pair by pair, in the order that training learned."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import checked
from ..errors import InputError
from .joining import joiner
from .patterns import Pattern
from .spelling import spell, unspell
from .tokenizer import Tokenizer, counted, expect_characters, utf8

LONG = 64  # characters of a pretoken from which on its ids are not remembered
REMEMBERED = 2**18  # pretokens whose ids are remembered
FEW = 512  # characters of a text up to which the specification answers sooner than Numba is imported
MOST = 2**22  # ids, unused ones among them: so a huge id that a file makes up does not claim memory
LONGEST_RANKED = 1024  # bytes of a token where there are no merges: each of its cuts in two is looked up

Merges = Iterable[tuple[int, int]]


class BPE(Tokenizer):
    """Byte-pair encoding of the pretokens that a pattern cuts a text into.

    Parameters
    ----------
    tokens
        The bytes of each id, all different; None for the id of a special token.
    merges
        Pairs of ids, in the order in which they are joined. None where that order is the order of the ids, as
        in tiktoken: then any two tokens may be joined whose bytes together are a token.
    pattern
        One of PATTERNS, or a regular expression of the regex package.
    specials
        Text → id of the special tokens; an id is either None in tokens, or above all of them.
    whole
        Whether a pretoken that is a token is taken at once, whatever the merges say, as in tiktoken and with
        Hugging Face's ignore_merges. None: only if there are no merges.

    Raises
    ------
    InputError
        Where two ids have the same bytes, a merge makes no token, or an id stands for nothing.

    Examples
    --------
    >>> from numgpt.tokenizers import BPE
    >>> tokenizer = BPE([b"a", b"b", b"ab"], merges=[(0, 1)])
    >>> tokenizer.encode("abba").tolist()
    [2, 1, 0]

    References
    ----------
    Sennrich et al. 2016; on bytes, Radford et al. 2019.
    """

    kind = "bpe"

    @checked
    def __init__(
        self,
        tokens: Iterable[bytes | None],
        merges: Merges | None = None,
        pattern: str = "gpt2",
        specials: Mapping[str, int] | None = None,
        whole: bool | None = None,
    ) -> None:
        self.tokens = _tokens(tokens)
        self.merges = _merges(merges)
        self.specials = checked_specials(specials or {})
        _expect_settings(pattern, whole)
        self.pattern = Pattern(pattern)
        self.whole = merges is None if whole is None else whole
        self.pieces = _pieces(self.tokens, self.specials)
        self.ids = {token: i for i, token in enumerate(self.tokens) if token is not None}
        self.ranks = _ranks(self.tokens, self.ids, self.merges)
        self.byte_ids = np.array([self.ids.get(bytes([b]), -1) for b in range(256)], np.int64)
        self._forget()

    def _forget(self) -> None:
        self.remembered = _Remembered(self.encode_pretoken)
        self.tables: Any = None  # the twin's, made when it first encodes

    def __getstate__(self) -> dict[str, Any]:
        """All but what was met so far: a copy remembers for itself."""
        return {name: value for name, value in vars(self).items() if name not in ("remembered", "tables")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @classmethod
    @checked
    def from_state(cls, state: Mapping[str, Any]) -> BPE:
        """The tokenizer of a state; InputError names a part that is missing, unknown or of the wrong type."""
        names = {"type", "pattern", "whole", "specials", "tokens", "merges"}
        different = sorted(names ^ state.keys())
        if different:
            problem = "not expected" if different[0] in state else "missing"
            raise InputError(f"tokenizer: {different[0]!r} is {problem}, expected {', '.join(sorted(names))}")
        types = {"tokens": list, "whole": bool, "specials": dict}
        wrong = next((name for name, kind in types.items() if not isinstance(state[name], kind)), None)
        if wrong or not all(isinstance(t, str | None) for t in state["tokens"]):
            raise InputError(
                f"tokenizer: {wrong or 'tokens'} has the wrong type, expected tokens as texts and null, whole"
                " as true or false, specials as {text: id}"
            )
        tokens = [None if t is None else unspell(t) for t in state["tokens"]]
        return cls(tokens, state["merges"], state["pattern"], state["specials"], state["whole"])

    def state(self) -> dict[str, Any]:
        """Kind, pattern, whole, specials, tokens as GPT-2's files spell bytes, and merges as pairs of ids."""
        return {
            "type": self.kind,
            "pattern": self.pattern.name,
            "whole": self.whole,
            "specials": dict(self.specials),
            "tokens": [None if t is None else spell(t) for t in self.tokens],
            "merges": None if self.merges is None else list(self.merges),
        }

    def _summary(self) -> list[str]:
        merges = "ids as ranks" if self.merges is None else counted(len(self.merges), "merge")
        return [merges, f"pattern {_shortened(self.pattern.name)}"]

    @checked
    def encode_ordinary(self, text: str) -> NDArray[Any]:
        """text → (tokens,) integers; InputError for a byte without a token."""
        return (encode if len(text) <= FEW else engine.host_twin(encode))(text, self)

    @checked
    def safe_cut(self, text: str) -> int:
        """The last place where the pattern cuts whatever follows."""
        return self.pattern.safe_cut(text)

    def encode_pretoken(self, pretoken: str) -> list[int]:
        """The ids of one pretoken."""
        data = utf8(pretoken)
        if self.whole and data in self.ids:
            return [self.ids[data]]
        ids = self.byte_ids[np.frombuffer(data, np.uint8)]
        if (ids < 0).any():
            byte = data[int((ids < 0).argmax())]
            raise InputError(
                f"text: byte 0x{byte:02x} of {pretoken[:40]!r} has no token, expected one for every byte: use"
                " another tokenizer"
            )
        return joiner(self.ranks)(ids).tolist()


def encode(text: str, tokenizer: BPE) -> NDArray[Any]:
    """The ids of the pretokens of a text, one after the other: (tokens,) integers."""
    utf8(text)  # names half of a character with its place in the text, not in a pretoken
    ids = map(tokenizer.remembered.__getitem__, tokenizer.pattern.split(text))
    return np.fromiter(chain.from_iterable(ids), np.int64)


class _Remembered(dict[str, list[int]]):
    """Pretoken → ids, encoded when first asked for. Long ones seldom come again, too many are forgotten."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self.encode = encode

    def __missing__(self, pretoken: str) -> list[int]:
        ids = self.encode(pretoken)
        if len(pretoken) < LONG:
            if len(self) >= REMEMBERED:
                self.clear()
            self[pretoken] = ids
        return ids


def _shortened(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 40 else f"{pattern[:40]}…")


def _tokens(tokens: Iterable[bytes | None]) -> list[bytes | None]:
    tokens = list(tokens)
    unexpected = next((t for t in tokens if not isinstance(t, bytes | None)), None)
    if unexpected is not None:
        raise InputError(
            f"tokenizer: {unexpected!r} is no token, expected bytes, or None for the id of a special token"
        )
    return tokens


def _merges(merges: Merges | None) -> list[tuple[int, int]] | None:
    try:
        return None if merges is None else [(_index(left), _index(right)) for left, right in merges]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"tokenizer: the merges are not pairs of ids ({error}), expected a list of pairs"
        ) from error


def checked_specials(specials: Mapping[str, int]) -> dict[str, int]:
    """Special tokens as a dict {text: id}; InputError unless keys are texts and values integers."""
    try:
        checked = {text: _index(i) for text, i in specials.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"tokenizer: the special tokens are not texts with ids ({error}), expected {{text: id}}"
        ) from error
    for text in checked:
        expect_characters(text, "tokenizer: the special token")
    return checked


def _index(i: Any) -> int:
    if isinstance(i, bool):
        raise TypeError(f"{i} is not an id")
    return operator.index(i)


def _expect_settings(pattern: object, whole: object) -> None:
    if not isinstance(pattern, str) or not isinstance(whole, bool | None):
        raise InputError(
            f"tokenizer: pattern is {pattern!r} and whole {whole!r}, expected a text, and true or false"
        )


def _pieces(tokens: list[bytes | None], specials: dict[str, int]) -> list[bytes | None]:
    """The bytes of every id; InputError where two ids have the same bytes, or one has two texts or none."""
    last = max([*specials.values(), len(tokens) - 1])
    if last >= MOST:
        raise InputError(f"tokenizer: the largest id is {last}, expected less than {MOST:,}")
    if last < 0:
        raise InputError("tokenizer: there are no tokens, expected some")
    pieces = tokens + [None] * (last + 1 - len(tokens))
    for text, i in specials.items():
        if not text or i < 0 or pieces[i] is not None:
            raise InputError(
                f"tokenizer: the special token {text!r} has id {i}, expected a text, and an id of its own"
            )
        pieces[i] = text.encode()
    seen: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if pieces[i] is None or token == b"":
            raise InputError(
                f"tokenizer: id {i} stands for nothing, expected a token for each id up to {len(tokens) - 1}"
            )
        if token is not None and seen.setdefault(token, i) != i:
            raise InputError(
                f"tokenizer: ids {seen[token]} and {i} are both {token!r}, expected different tokens"
            )
    return pieces


def _ranks(
    tokens: Sequence[bytes | None], ids: Mapping[bytes, int], merges: list[tuple[int, int]] | None
) -> dict[tuple[int, int], tuple[int, int]]:
    """(left, right) → (rank, id of both)."""
    return _ranks_of_ids(ids) if merges is None else _ranks_of_merges(tokens, ids, merges)


def _ranks_of_ids(ids: Mapping[bytes, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """Without merges: every cut of a token into two tokens, ranked by the token's id."""
    longest = max(ids, key=len, default=b"")
    if len(longest) > LONGEST_RANKED:
        raise InputError(
            f"tokenizer: token {ids[longest]} has {len(longest):,} bytes, expected at most {LONGEST_RANKED:,}"
            " where there are no merges"
        )
    ranks = {}
    for token, i in ids.items():
        for n in range(1, len(token)):
            left, right = ids.get(token[:n]), ids.get(token[n:])
            if left is not None and right is not None:
                ranks[left, right] = (i, i)
    return ranks


def _ranks_of_merges(
    tokens: Sequence[bytes | None], ids: Mapping[bytes, int], merges: list[tuple[int, int]]
) -> dict[tuple[int, int], tuple[int, int]]:
    """The merges by their order; InputError for one that joins no tokens, makes none, or comes twice."""
    known = dict(enumerate(tokens))
    ranks: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(merges):
        first, second = known.get(left), known.get(right)
        if first is None or second is None:
            raise InputError(
                f"tokenizer: merge {rank} joins {left} and {right}, expected ids of tokens below"
                f" {len(tokens)}"
            )
        both = first + second
        if both not in ids or (left, right) in ranks:
            problem = "which is no token" if both not in ids else "as an earlier one does"
            raise InputError(
                f"tokenizer: merge {rank} makes {both!r}, {problem}, expected each pair once, and its token"
            )
        ranks[left, right] = (rank, ids[both])
    return ranks
