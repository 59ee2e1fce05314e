"""Byte-level byte-pair encoding: a text's bytes, joined pair by pair in the order in which training learned
the pairs.
"""

import heapq
import operator
from itertools import chain, pairwise

import numpy as np

from .. import engine
from ..errors import InputError
from .patterns import Pattern
from .spelling import spell, unspell
from .tokenizer import Tokenizer, utf8

LONG = 64  # characters of a piece from which on it is not remembered
REMEMBERED = 2**18  # pieces
SHORT = 64  # ids of a piece up to which all pairs are looked at for each join
FEW = 512  # characters of a text up to which the specification answers sooner than Numba is imported
MOST = 2**22  # ids, those that stand for nothing among them: an id that a file makes up asks for no memory
LONGEST_RANKED = 1024  # bytes of a token without merges, all of whose halves are looked up


class BPE(Tokenizer):
    """Byte-pair encoding of the pieces that a pattern cuts a text into.

    tokens: the bytes of each id, all different; None for an id that is special. merges: pairs of ids in the
    order in which they are joined; None where that order is the order of the ids, as in tiktoken: then any
    two tokens may be joined whose bytes together are a token. pattern: one of patterns.PATTERNS, or a regular
    expression. specials: text → id, in the places of None or above all tokens. whole: whether a piece that is
    a token is taken at once, whatever the merges say, as tiktoken does and Hugging Face's ignore_merges;
    None: if there are no merges.

    Source: Sennrich et al. 2016; on bytes, Radford et al. 2019.
    """

    def __init__(self, tokens, merges=None, pattern="gpt2", specials=None, whole=None):
        self.tokens, self.merges, self.specials = (
            _tokens(tokens),
            _merges(merges),
            checked_specials(specials or {}),
        )
        if (
            not isinstance(pattern, str)
            or any(0xD800 <= ord(c) < 0xE000 for c in pattern)
            or not isinstance(whole, bool | None)
        ):
            raise InputError(
                f"tokenizer: pattern is {pattern!r} and whole {whole!r}, expected a text, and true or false"
            )
        self.pattern, self.whole = Pattern(pattern), merges is None if whole is None else whole
        self.pieces = _pieces(self.tokens, self.specials)
        self.ids = {token: i for i, token in enumerate(self.tokens) if token is not None}
        self.ranks = _ranks(self.tokens, self.ids, self.merges)
        self.byte_ids = np.array([self.ids.get(bytes([b]), -1) for b in range(256)], np.int64)
        self._forget()

    def _forget(self):
        self.remembered, self.fast = _Remembered(self.encode_piece), None  # fast: the tables of the twin

    def __getstate__(self):
        """Without what was met so far: a copy remembers for itself."""
        return {name: value for name, value in vars(self).items() if name not in ("remembered", "fast")}

    def __setstate__(self, state):
        vars(self).update(state)
        self._forget()

    @classmethod
    def from_state(cls, state):
        """The tokenizer of a state; InputError where a part of it is missing, unknown or of another kind."""
        names = {"type", "pattern", "whole", "specials", "tokens", "merges"}
        odd = sorted(names ^ state.keys())
        if odd:
            raise InputError(
                f"tokenizer: {odd[0]!r} is {'not expected' if odd[0] in state else 'missing'}, expected"
                f" {', '.join(sorted(names))}"
            )
        odd = next(
            (
                name
                for name, kind in (("tokens", list), ("whole", bool), ("specials", dict))
                if not isinstance(state[name], kind)
            ),
            None,
        )
        if odd or not all(isinstance(t, str | None) for t in state["tokens"]):
            raise InputError(
                f"tokenizer: {odd or 'tokens'} are of another kind, expected tokens as texts and null, whole"
                " as true or false, specials as {text: id}"
            )
        tokens = [None if t is None else unspell(t) for t in state["tokens"]]
        return cls(tokens, state["merges"], state["pattern"], state["specials"], state["whole"])

    def state(self):
        """The kind, tokens spelled as GPT-2's files spell bytes, merges as pairs of ids, pattern, specials,
        whole.
        """
        tokens = [None if t is None else spell(t) for t in self.tokens]
        merges = None if self.merges is None else list(self.merges)
        return {
            "type": "bpe",
            "pattern": self.pattern.name,
            "whole": self.whole,
            "specials": dict(self.specials),
            "tokens": tokens,
            "merges": merges,
        }

    def encode_ordinary(self, text):
        """text → (tokens,) integers."""
        return (encode if len(text) <= FEW else engine.host_twin(encode))(text, self)

    def safe_cut(self, text):
        """Where the pattern cuts for sure."""
        return self.pattern.safe_cut(text)

    def encode_piece(self, piece):
        """The ids of one piece, as a list."""
        data = utf8(piece)
        if self.whole and data in self.ids:
            return [self.ids[data]]
        ids = self.byte_ids[np.frombuffer(data, np.uint8)]
        if (ids < 0).any():
            raise InputError(
                f"text: byte 0x{data[int((ids < 0).argmax())]:02x} of {piece[:40]!r} has no token, expected"
                " one for every byte: use another tokenizer"
            )
        return (join if len(ids) <= SHORT else join_queued)(ids, self.ranks).tolist()


def encode(text, tokenizer):
    """The ids of the pieces of a text, one after the other: (tokens,) integers."""
    utf8(text)  # a half of a character is named with its place in the text, not in a piece
    return np.fromiter(
        chain.from_iterable(map(tokenizer.remembered.__getitem__, tokenizer.pattern.split(text))), np.int64
    )


class _Remembered(dict):
    """Piece → ids, made when first asked for. Long pieces are seldom met again, and too many are forgotten."""

    def __init__(self, make):
        self.make = make

    def __missing__(self, piece):
        ids = self.make(piece)
        if len(piece) < LONG:
            if len(self) >= REMEMBERED:
                self.clear()
            self[piece] = ids
        return ids


def join(ids, ranks):
    """Join neighbours until no pair of them is in ranks: always the pair of least rank, of equals the
    leftmost.

    ids (T,) → ids.  ranks: (left, right) → (rank, id of both).
    """
    ids = list(ids)
    while True:
        known = [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
        if not known:
            return np.array(ids, np.int64)
        (_, joined), i = min(known)
        ids[i : i + 2] = [joined]


def join_queued(ids, ranks):
    """What join gives, in O(n log n) for long pieces: pairs wait in a queue by rank and place, and one that
    is no more there is passed over.

    ids (T,) → ids.  ranks as of join.
    """
    ids, n = [int(i) for i in ids], len(ids)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))

    def known(i):
        """(rank, id of both) of the pair that begins at i, None where it is not joined; the id of what was
        joined to its left is None.
        """
        return ranks.get((ids[i], ids[after[i]])) if after[i] < n else None

    queue = [(pair[0], i) for i in range(n) if (pair := known(i))]
    heapq.heapify(queue)
    while queue:
        rank, i = heapq.heappop(queue)
        pair, gone = known(i), after[i]
        if not pair or pair[0] != rank:
            continue
        ids[i], ids[gone], after[i] = pair[1], None, after[gone]
        if after[i] < n:
            before[after[i]] = i
        for place in (before[i], i):
            if place >= 0 and (pair := known(place)):
                heapq.heappush(queue, (pair[0], place))
    return np.array([i for i in ids if i is not None], np.int64)


def _tokens(tokens):
    """A list of bytes and None."""
    tokens = list(tokens)
    odd = next((t for t in tokens if not isinstance(t, bytes | None)), None)
    if odd is not None:
        raise InputError(f"tokenizer: {odd!r} is no token, expected bytes, or None for an id that is special")
    return tokens


def _merges(merges):
    """A list of pairs of integers, or None."""
    try:
        pairs = None if merges is None else [(_index(left), _index(right)) for left, right in merges]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"tokenizer: the merges are no list of pairs of ids ({error}), expected one"
        ) from error
    return pairs


def checked_specials(specials):
    """Special tokens as a dict of texts and integers; InputError where they are none."""
    try:
        found = {text: _index(i) for text, i in specials.items()}
        for text in found:
            text.encode()
    except (AttributeError, TypeError, UnicodeError) as error:
        raise InputError(
            f"tokenizer: the special tokens are no texts with ids ({error}), expected them as {{text: id}}"
        ) from error
    return found


def _index(i):
    if isinstance(i, bool):
        raise TypeError(f"{i} is no id")
    return operator.index(i)


def _pieces(tokens, specials):
    """The bytes of every id; InputError where two ids are one token, one is two, or one is none."""
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
    seen = {}
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


def _ranks(tokens, ids, merges):
    """(left, right) → (rank, id of both)."""
    if merges is None:
        long = max(ids, key=len, default=b"")
        if len(long) > LONGEST_RANKED:
            raise InputError(
                f"tokenizer: token {ids[long]} has {len(long):,} bytes, expected at most {LONGEST_RANKED:,}"
                " where there are no merges"
            )
        halves = (((ids.get(t[:n]), ids.get(t[n:])), i) for t, i in ids.items() for n in range(1, len(t)))
        return {pair: (i, i) for pair, i in halves if None not in pair}
    ranks = {}
    for rank, (left, right) in enumerate(merges):
        if (
            not (0 <= left < len(tokens) and 0 <= right < len(tokens))
            or tokens[left] is None
            or tokens[right] is None
        ):
            raise InputError(
                f"tokenizer: merge {rank} joins {left} and {right}, expected ids of tokens below"
                f" {len(tokens)}"
            )
        both = tokens[left] + tokens[right]
        if both not in ids or (left, right) in ranks:
            raise InputError(
                f"tokenizer: merge {rank} makes {both!r},"
                f" {'which is no token' if both not in ids else 'as an earlier one does'}, expected each pair"
                " once, and its token"
            )
        ranks[left, right] = (rank, ids[both])
    return ranks
