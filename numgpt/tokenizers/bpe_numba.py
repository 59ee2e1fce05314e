"""Twin of bpe.py: all pieces of a text in one kernel, which remembers the pieces that it met.

A short piece is joined by looking at all its pairs again and again; a long one in O(n log n) by taking pairs from a queue, which
is a heap of ranks, each with a list of places, because the millions of places of a long piece would make a heap of places slow.
"""

from itertools import chain

import numpy as np

from ..jit import kernel, serial
from .bpe import LONG, utf8
from .patterns_numba import ends

SCANNED = 40  # ids of a piece up to which all pairs are looked at each time
NONE = 2**63 - 1  # stands for no pair: its rank is greater than any
LOW = 2**32 - 1
MIX = 0x1E3779B97F4A7C15  # odd, its bits look random: what spreads keys over a hash table
ENTRIES, SLOTS, STORE = 2**17, 2**18, 2**20  # pieces remembered, places in the table of their hashes, bytes and ids of them in all


def encode(text, tokenizer):
    """The ids of the pieces of a text, one after the other: (tokens,) integers."""
    data = np.frombuffer(utf8(text), np.uint8)
    places = ends(text, tokenizer.pattern)
    out = np.empty(len(data), np.int32)
    tables = _tables(tokenizer)
    count = _encode(data, places, out, SCANNED, tokenizer.whole, *tables)
    if count < 0:  # a byte has no token: the specification says so
        start, end = (int(places[-count - 2]) if count < -1 else 0), int(places[-count - 1])
        tokenizer.encode_piece(data[start:end].tobytes().decode("utf-8", "surrogateescape"))
    return out[:count].astype(np.int64)


def join(ids, ranks, scanned=SCANNED):
    """Join neighbours until no pair of them is in ranks: always the pair of least rank, of equals the leftmost. ids (T,) → ids."""
    out = np.array(ids, np.int32)
    return out[: _join_one(out, scanned, *_pairs(ranks))].astype(np.int64)


def _tables(tokenizer):
    """What the kernel needs of a tokenizer, made once: pairs, tokens, and an empty memory."""
    if tokenizer.fast is None:
        tokens = [token or b"" for token in tokenizer.tokens]
        starts = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        joined = np.frombuffer(b"".join(tokens), np.uint8)
        slots = np.full(_room(len(tokens)) if tokenizer.whole else 2, -1, np.int32)
        if tokenizer.whole:
            _enter_tokens(joined, starts, slots)
        memory = np.empty((ENTRIES, 4), np.int32), np.full(SLOTS, -1, np.int32), np.empty(STORE, np.uint8), np.empty(STORE, np.int32), np.zeros(3, np.int64)
        tokenizer.fast = *_pairs(tokenizer.ranks), tokenizer.byte_ids, joined, starts, slots, *memory
    return tokenizer.fast


def _pairs(ranks):
    """ranks as a hash table (key, rank and id, key, …), a key being two ids, −1 where there is none; and the number of ranks."""
    keys = np.fromiter(chain.from_iterable(ranks), np.int64, 2 * len(ranks))
    values = np.fromiter(chain.from_iterable(ranks.values()), np.int64, 2 * len(ranks))
    pairs = np.full(2 * _room(len(ranks)), -1, np.int64)
    _enter_pairs(keys[::2] << 32 | keys[1::2], values[::2] << 32 | values[1::2], pairs)
    return pairs, int(values[::2].max(initial=-1)) + 1


def _room(count):
    """A power of two, at least twice count: half of a hash table stays empty, so that a search ends soon."""
    return 1 << max(2 * count, 1).bit_length()


@serial
def _enter_pairs(keys, values, pairs):
    mask = len(pairs) // 2 - 1
    for j in range(len(keys)):
        i = ((keys[j] * MIX) >> 32) & mask
        while pairs[2 * i] != -1:
            i = (i + 1) & mask
        pairs[2 * i], pairs[2 * i + 1] = keys[j], values[j]


@kernel
def _find(pairs, left, right):
    """2³² rank + id of a pair of ids, NONE where it is not joined."""
    mask, key = len(pairs) // 2 - 1, np.int64(left) << 32 | np.int64(right)
    i = ((key * MIX) >> 32) & mask
    while pairs[2 * i] != key:
        if pairs[2 * i] == -1:
            return NONE
        i = (i + 1) & mask
    return pairs[2 * i + 1]


@kernel
def _scan(ids, n, values, pairs):
    """Join ids[:n] in place by looking at all pairs for each join; returns how many are left. values: room for n."""
    for i in range(n - 1):
        values[i] = _find(pairs, ids[i], ids[i + 1])
    while n > 1:
        best, place = NONE, -1
        for i in range(n - 1):
            if values[i] < best:
                best, place = values[i], i
        if place < 0:
            break
        ids[place] = best & LOW
        n -= 1
        for i in range(place + 1, n):
            ids[i], values[i] = ids[i + 1], values[i + 1]
        if place + 1 < n:
            values[place] = _find(pairs, ids[place], ids[place + 1])
        if place > 0:
            values[place - 1] = _find(pairs, ids[place - 1], ids[place])
    return n


@kernel
def _push(heap, size, key):
    """Put key into a binary heap of size keys, least first."""
    i = size
    while i > 0 and heap[(i - 1) >> 1] > key:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    heap[i] = key


@kernel
def _sink(heap, size, key, largest):
    """Put key in the place of the first of a heap of size keys; largest: of a heap with its largest first, else least first."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and (heap[child + 1] < heap[child]) != largest:
            child += 1
        if (heap[child] >= key) != largest:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = key


@kernel
def _file(value, place, current, queue, size, used, first, last, entries):
    """Queue the pair at a place: in the list of its rank, or by itself where its rank's turn is over. Returns size, used."""
    rank = value >> 32
    if rank <= current:
        _push(queue, size, rank << 32 | place)
        return size + 1, used
    entries[used, 0], entries[used, 1] = place, -1
    if first[rank] < 0:
        first[rank] = used
        _push(queue, size, rank << 32)
        size += 1
    else:
        entries[last[rank], 1] = used
    last[rank] = used
    return size, used + 1


@kernel
def _queue(ids, n, values, pairs, first, last):
    """Join ids[:n] in place in O(n log n); returns how many are left. first, last: room for all ranks, −1 in first, left so.

    The queue's keys are 2³² rank + place. Pairs are listed by rank, and the queue has one key for a list. When a rank's turn
    comes its list is sorted, mostly it is already, and taken from left to right; what has this rank or a lower one from then on
    goes into the queue by itself. So the least key is always next, which is the specification's order. Entries are not taken
    out where a pair changes: one whose rank is no longer the pair's is passed over.
    """
    after, before = np.arange(1, n + 1).astype(np.int32), np.arange(-1, n - 1).astype(np.int32)
    entries, turn, queue = np.empty((3 * n, 2), np.int32), np.empty(3 * n, np.int32), np.empty(3 * n, np.int64)
    current = np.int64(-1)
    size = used = taken = length = 0
    for i in range(n - 1):
        values[i] = _find(pairs, ids[i], ids[i + 1])
        if values[i] != NONE:
            size, used = _file(values[i], i, current, queue, size, used, first, last, entries)
    values[n - 1] = NONE
    while taken < length or size:
        if taken < length and (size == 0 or (current << 32 | turn[taken]) < queue[0]):
            rank, place = current, np.int64(turn[taken])
            taken += 1
        else:
            rank, place = queue[0] >> 32, queue[0] & LOW
            size -= 1
            _sink(queue, size, queue[size], False)
            if rank > current:  # a list's turn
                current, length, taken = rank, 0, 0
                entry, ordered = first[rank], True
                while entry >= 0:
                    turn[length] = entries[entry, 0]
                    ordered &= length == 0 or turn[length - 1] < turn[length]
                    entry, length = entries[entry, 1], length + 1
                first[rank] = -1
                if not ordered:
                    _sort(turn, length)
                continue
        if values[place] >> 32 != rank:
            continue
        gone = after[place]
        right, left = after[gone], before[place]
        ids[place], after[place], values[gone], values[place] = values[place] & LOW, right, NONE, NONE
        if right < n:
            before[right] = place
            values[place] = _find(pairs, ids[place], ids[right])
            if values[place] != NONE:
                size, used = _file(values[place], place, current, queue, size, used, first, last, entries)
        if left >= 0:
            values[left] = _find(pairs, ids[left], ids[place])
            if values[left] != NONE:
                size, used = _file(values[left], left, current, queue, size, used, first, last, entries)
    count = place = 0
    while place < n:
        ids[count] = ids[place]
        count, place = count + 1, after[place]
    return count


@kernel
def _sort(a, n):
    """Sort a[:n], by heap."""
    for size in range(1, n):
        i, key = size, a[size]
        while i > 0 and a[(i - 1) >> 1] < key:
            a[i] = a[(i - 1) >> 1]
            i = (i - 1) >> 1
        a[i] = key
    for size in range(n - 1, 0, -1):
        key = a[size]
        a[size] = a[0]
        _sink(a, size, key, True)


@serial
def _join_one(ids, scanned, pairs, ranks):
    values, n = np.empty(len(ids) + 1, np.int64), len(ids)
    if n <= scanned:
        return _scan(ids, n, values, pairs)
    return _queue(ids, n, values, pairs, np.full(ranks, -1, np.int32), np.empty(ranks, np.int32))


@kernel
def _hash(data, start, end):
    h = np.int64(end - start)
    for i in range(start, end):
        h = (h ^ data[i]) * MIX
    return h ^ (h >> 29)


@kernel
def _same(a, i, b, j, n):
    for k in range(n):
        if a[i + k] != b[j + k]:
            return False
    return True


@serial
def _enter_tokens(joined, starts, slots):
    mask = len(slots) - 1
    for token in range(len(starts) - 1):
        if starts[token] < starts[token + 1]:
            i = _hash(joined, starts[token], starts[token + 1]) & mask
            while slots[i] >= 0:
                i = (i + 1) & mask
            slots[i] = token


@kernel
def _token(data, start, end, h, joined, starts, slots):
    """The id of the token data[start:end], or −1."""
    mask = len(slots) - 1
    i = h & mask
    while slots[i] >= 0:
        place = starts[slots[i]]
        if starts[slots[i] + 1] - place == end - start and _same(data, start, joined, place, end - start):
            return slots[i]
        i = (i + 1) & mask
    return -1


@serial
def _encode(data, ends, out, scanned, whole, pairs, ranks, byte_ids, joined, starts, slots, entries, table, pieces, known, used):
    """Fill out with the ids of the pieces of data that end at ends; returns how many, or −1 − the number of a piece that has no ids.

    entries (a piece's start and length in pieces, and of its ids in known), found by their hash through table; used: how many
    entries, bytes of pieces and ids there are. All are forgotten when there is no more room.
    """
    longest = start = 0
    for end in ends:
        longest, start = max(longest, end - start), end
    values = np.empty(longest + 1, np.int64)
    many = longest > scanned
    first, last = np.full(ranks if many else 0, -1, np.int32), np.empty(ranks if many else 0, np.int32)
    mask = len(table) - 1
    start = count = 0
    for number in range(len(ends)):
        end = ends[number]
        n = end - start
        h = _hash(data, start, end)
        slot = h & mask
        if n < LONG:
            while table[slot] >= 0:
                entry = entries[table[slot]]
                if entry[1] == n and _same(data, start, pieces, entry[0], n):
                    break
                slot = (slot + 1) & mask
            if table[slot] >= 0:
                entry = entries[table[slot]]
                for i in range(entry[3]):
                    out[count + i] = known[entry[2] + i]
                start, count = end, count + entry[3]
                continue
        token = _token(data, start, end, h, joined, starts, slots) if whole else -1
        if token >= 0:
            out[count] = token
            m = 1
        else:
            for i in range(n):
                out[count + i] = byte_ids[data[start + i]]
                if out[count + i] < 0:
                    return -1 - number
            ids = out[count : count + n]
            m = _scan(ids, n, values, pairs) if n <= scanned else _queue(ids, n, values, pairs, first, last)
        if n < LONG:
            if used[0] == len(entries) - 1 or used[1] + n > len(pieces) or used[2] + m > len(known):
                table[:], used[:] = -1, 0
                slot = h & mask
            table[slot] = used[0]
            entry = entries[used[0]]
            entry[0], entry[1], entry[2], entry[3] = used[1], n, used[2], m
            pieces[used[1] : used[1] + n] = data[start:end]
            known[used[2] : used[2] + m] = out[count : count + m]
            used[0], used[1], used[2] = used[0] + 1, used[1] + n, used[2] + m
        start, count = end, count + m
    return count
