"""Twin of bpe.py: all pretokens of a text in one kernel, which remembers those that it met.

Most of a text is words that came before, so most pretokens are answered from that memory by one hash and one
comparison.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.jit import kernel, launch, parallel
from .bpe import LONG
from .joining_numba import MIX, Ranks, queue, room, scan, slots_for, tables
from .patterns_numba import ends
from .tokenizer import utf8

ENTRIES = 2**17  # pretokens that are remembered
SLOTS = 2**18  # places in the table of their hashes: twice as many, so that a search ends soon
STORE = 2**20  # bytes of all of them, and ids of all of them
START, LENGTH, FIRST_ID, IDS = range(4)  # of an entry: its place among the bytes, and among the ids
ENTRIES_USED, BYTES_USED, IDS_USED = range(3)  # of Memory.used


class Vocabulary(NamedTuple):
    """What the kernel needs of a tokenizer."""

    whole: bool  # whether a pretoken that is a token is taken at once
    ranks: Ranks
    byte_ids: NDArray[Any]  # byte → its id, −1 where it has none
    tokens: NDArray[Any]  # the bytes of all tokens, one after the other
    starts: NDArray[Any]  # where each begins, and the end of the last
    slots: NDArray[Any]  # a hash table of their ids, −1 where a slot is empty


class Memory(NamedTuple):
    """Pretokens that were met, with their ids. When one part is full all are forgotten, which costs little:
    what is frequent is soon back.
    """

    entries: NDArray[Any]  # (ENTRIES, START … IDS)
    slots: NDArray[Any]  # a hash table of entries, −1 where a slot is empty
    bytes: NDArray[Any]  # (STORE,)
    ids: NDArray[Any]  # (STORE,)
    used: NDArray[Any]  # how many entries, bytes and ids


def encode(text, tokenizer):
    """The ids of the pretokens of a text, one after the other: (tokens,) integers."""
    data = np.frombuffer(utf8(text), np.uint8)
    places = ends(text, tokenizer.pattern)
    vocabulary, memory = _tables(tokenizer)
    work = room(int(np.diff(places, prepend=0).max(initial=0)), len(vocabulary.ranks.joined))
    out = np.empty(len(data), np.int32)
    done = np.zeros(2, np.int64)
    launch(_encode, 1, data, places, out, done, vocabulary, memory, work)
    count, pretokens = done.tolist()
    if pretokens < len(places):  # a byte of the next one has no token: the specification says so
        start = places[pretokens - 1] if pretokens else 0
        pretoken = data[start : places[pretokens]].tobytes()
        tokenizer.encode_pretoken(pretoken.decode("utf-8", "surrogateescape"))
    return out[:count].astype(np.int64)


def _tables(tokenizer):
    """A tokenizer's Vocabulary, made once, and its Memory."""
    if tokenizer.tables is None:
        tokens = [token or b"" for token in tokenizer.tokens]
        starts = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        joined = np.frombuffer(b"".join(tokens), np.uint8)
        slots = np.full(slots_for(len(tokens)) if tokenizer.whole else 2, -1, np.int32)
        if tokenizer.whole:
            launch(_enter_tokens, 1, joined, starts, slots)
        ranks = tables(tokenizer.ranks)
        vocabulary = Vocabulary(tokenizer.whole, ranks, tokenizer.byte_ids, joined, starts, slots)
        memory = Memory(
            entries=np.empty((ENTRIES, 4), np.int32),
            slots=np.full(SLOTS, -1, np.int32),
            bytes=np.empty(STORE, np.uint8),
            ids=np.empty(STORE, np.int32),
            used=np.zeros(3, np.int64),
        )
        tokenizer.tables = vocabulary, memory
    return tokenizer.tables


@kernel
def _hash(data, start, end):
    h = np.int64(end - start)
    for i in range(start, end):
        h = (h ^ data[i]) * MIX
    return h ^ (h >> 29)  # a table is entered by the low bits, which know nothing of the high ones until here


@kernel
def _same(a, i, b, j, n):
    for k in range(n):
        if a[i + k] != b[j + k]:
            return False
    return True


@parallel
def _enter_tokens(task, tokens, starts, slots):
    mask = len(slots) - 1
    for token in range(len(starts) - 1):
        if starts[token] < starts[token + 1]:  # a special token has no bytes here
            i = _hash(tokens, starts[token], starts[token + 1]) & mask
            while slots[i] >= 0:
                i = (i + 1) & mask
            slots[i] = token


@kernel
def _token(data, start, end, h, tokens, starts, slots):
    """The id of the token data[start:end], whose hash is h, or −1."""
    mask = len(slots) - 1
    i = h & mask
    while slots[i] >= 0:
        place = starts[slots[i]]
        if starts[slots[i] + 1] - place == end - start and _same(data, start, tokens, place, end - start):
            return slots[i]
        i = (i + 1) & mask
    return -1


@kernel
def _remember(data, start, n, out, first, m, slot, h, memory):
    """Enter the pretoken data[start : start + n] with the ids out[first : first + m] into an empty slot."""
    entries, slots, known, ids, used = memory.entries, memory.slots, memory.bytes, memory.ids, memory.used
    full = used[ENTRIES_USED] == len(entries)
    if full or used[BYTES_USED] + n > len(known) or used[IDS_USED] + m > len(ids):
        slots[:] = -1
        used[:] = 0
        slot = h & (len(slots) - 1)
    entry, place, at = used[ENTRIES_USED], used[BYTES_USED], used[IDS_USED]
    slots[slot] = entry
    entries[entry, START], entries[entry, LENGTH] = place, n
    entries[entry, FIRST_ID], entries[entry, IDS] = at, m
    for i in range(n):
        known[place + i] = data[start + i]
    for i in range(m):
        ids[at + i] = out[first + i]
    used[ENTRIES_USED], used[BYTES_USED], used[IDS_USED] = entry + 1, place + n, at + m


@parallel
def _encode(task, data, ends, out, done, vocabulary, memory, work):
    """Fill out with the ids of the pretokens of data, which end at ends.

    done: how many ids, and of how many pretokens; fewer than there are where a byte has no token.
    """
    # A function is handed the arrays that it needs, not the tuple of all, where it is called for many
    # pretokens: passing sixty words on the stack takes longer than looking one up.
    entries, slots, known, known_ids = memory.entries, memory.slots, memory.bytes, memory.ids
    whole, byte_ids = vocabulary.whole, vocabulary.byte_ids
    tokens, starts, token_slots = vocabulary.tokens, vocabulary.starts, vocabulary.slots
    table, joined, scores = vocabulary.ranks.table, vocabulary.ranks.joined, work.scores
    mask = len(slots) - 1
    start = count = 0
    for number in range(len(ends)):
        done[0], done[1] = count, number
        end = ends[number]
        n = end - start
        h = _hash(data, start, end)
        slot = h & mask
        if n < LONG:
            while slots[slot] >= 0 and not (
                entries[slots[slot], LENGTH] == n
                and _same(data, start, known, entries[slots[slot], START], n)
            ):
                slot = (slot + 1) & mask
            if slots[slot] >= 0:
                first, m = entries[slots[slot], FIRST_ID], entries[slots[slot], IDS]
                for i in range(m):
                    out[count + i] = known_ids[first + i]
                start, count = end, count + m
                continue
        token = _token(data, start, end, h, tokens, starts, token_slots) if whole else -1
        if token >= 0:
            out[count] = token
            m = 1
        else:
            for i in range(n):
                out[count + i] = byte_ids[data[start + i]]
                if out[count + i] < 0:
                    return
            # There are never more ids than bytes, so they are joined where they will stay.
            ids = out[count : count + n]
            if n <= work.scanned:
                m = scan(ids, n, table, joined, scores)
            else:
                m = queue(ids, n, vocabulary.ranks, work)
        if n < LONG:  # a long one seldom comes again, and would push many short ones out
            _remember(data, start, n, out, count, m, slot, h, memory)
        start, count = end, count + m
    done[0], done[1] = count, len(ends)
