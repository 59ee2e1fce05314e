"""Twin of bpe.py: all pieces of a text in one kernel, which remembers the pieces that it met.

A short piece is joined by looking at all its pairs again and again; a long one in O(n log n) by taking pairs
from a queue, which is a heap of ranks, each with a list of places, because the millions of places of a long
piece would make a heap of places slow.
"""

from itertools import chain

import numpy as np

from ..engine.jit import kernel, launch, parallel
from .bpe import LONG
from .patterns_numba import ends
from .tokenizer import utf8

SCANNED = 40  # ids of a piece up to which all pairs are looked at each time
NONE = 2**31 - 1  # stands for no pair: greater than any rank
LOW = 2**32 - 1
MIX = 0x1E3779B97F4A7C15  # odd, its bits look random: what spreads keys over a hash table
ENTRIES, SLOTS, STORE = (
    2**17,
    2**18,
    2**20,
)  # pieces remembered, places in the table of their hashes, bytes and ids of them in all


def encode(text, tokenizer):
    """The ids of the pieces of a text, one after the other: (tokens,) integers."""
    data = np.frombuffer(utf8(text), np.uint8)
    places = ends(text, tokenizer.pattern)
    out = np.empty(len(data), np.int32)
    pairs, made, *tables = _tables(tokenizer)
    longest = int(np.diff(places, prepend=0).max(initial=0))
    done = np.zeros(2, np.int64)
    launch(
        _encode,
        1,
        data,
        places,
        out,
        done,
        tokenizer.whole,
        pairs,
        made,
        *tables,
        *_work(longest, len(made), SCANNED),
    )
    count, pieces = done.tolist()
    if pieces < len(places):  # a byte of the next piece has no token: the specification says so
        start = places[pieces - 1] if pieces else 0
        tokenizer.encode_piece(data[start : places[pieces]].tobytes().decode("utf-8", "surrogateescape"))
    return out[:count].astype(np.int64)


def join(ids, ranks, scanned=SCANNED):
    """Join neighbours until no pair of them is in ranks: always the pair of least rank, of equals the
    leftmost. ids (T,) → ids.
    """
    out, left, (pairs, made) = np.array(ids, np.int32), np.zeros(1, np.int64), _pairs(ranks)
    launch(_join_one, 1, out, left, pairs, made, *_work(len(out), len(made), scanned))
    return out[: left[0]].astype(np.int64)


def _work(longest, ranks, scanned):
    """Room for joining pieces of up to so many ids: scanned, and values, nodes, blocks, turn, spare, queue,
    lists for _scan and _queue.

    Made here, because what a kernel itself makes is counted, by an atomic operation wherever it is handed on.
    """
    n, ranks = (longest, ranks) if longest > scanned else (0, 0)
    nodes, blocks, lists = (
        np.empty((n, 4), np.int32),
        np.empty((3 * n // BLOCK + min(3 * n, ranks) + 1, BLOCK + 1), np.int32),
        np.full((ranks, 3), -1, np.int32),
    )
    return (
        scanned,
        np.empty(min(longest, scanned) + 1, np.int64),
        nodes,
        blocks,
        np.empty(3 * n, np.int32),
        np.empty(3 * n, np.int32),
        np.empty(3 * n, np.int64),
        lists,
    )


def _tables(tokenizer):
    """What the kernel needs of a tokenizer, made once: pairs, tokens, and an empty memory."""
    if tokenizer.fast is None:
        tokens = [token or b"" for token in tokenizer.tokens]
        starts = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        joined = np.frombuffer(b"".join(tokens), np.uint8)
        slots = np.full(_room(len(tokens)) if tokenizer.whole else 2, -1, np.int32)
        if tokenizer.whole:
            launch(_enter_tokens, 1, joined, starts, slots)
        memory = (
            np.empty((ENTRIES, 4), np.int32),
            np.full(SLOTS, -1, np.int32),
            np.empty(STORE, np.uint8),
            np.empty(STORE, np.int32),
            np.zeros(3, np.int64),
        )
        tokenizer.fast = *_pairs(tokenizer.ranks), tokenizer.byte_ids, joined, starts, slots, *memory
    return tokenizer.fast


def _pairs(ranks):
    """ranks as a hash table (key, rank, key, …), a key being two ids, −1 where there is none; and of each
    rank the id of both.
    """
    keys = np.fromiter(chain.from_iterable(ranks), np.int64, 2 * len(ranks))
    values = np.fromiter(chain.from_iterable(ranks.values()), np.int64, 2 * len(ranks))
    pairs, made = (
        np.full(2 * _room(len(ranks)), -1, np.int64),
        np.full(int(values[::2].max(initial=-1)) + 1, -1, np.int32),
    )
    made[values[::2]] = values[1::2]
    launch(_enter_pairs, 1, keys[::2] << 32 | keys[1::2], values[::2].copy(), pairs)
    return pairs, made


def _room(count):
    """A power of two, at least twice count: half of a hash table stays empty, so that a search ends soon."""
    return 1 << max(2 * count, 1).bit_length()


@parallel
def _enter_pairs(task, keys, ranks, pairs):
    mask = len(pairs) // 2 - 1
    for j in range(len(keys)):
        i = ((keys[j] * MIX) >> 32) & mask
        while pairs[2 * i] != -1:
            i = (i + 1) & mask
        pairs[2 * i], pairs[2 * i + 1] = keys[j], ranks[j]


@kernel
def _find(pairs, left, right):
    """The rank of a pair of ids, NONE where it is not joined."""
    mask, key = len(pairs) // 2 - 1, np.int64(left) << 32 | np.int64(right)
    i = ((key * MIX) >> 32) & mask
    while pairs[2 * i] != key:
        if pairs[2 * i] == -1:
            return np.int64(NONE)
        i = (i + 1) & mask
    return pairs[2 * i + 1]


@kernel
def _scan(ids, n, pairs, made, ranks):
    """Join ids[:n] in place by looking at all pairs for each join; returns how many are left. ranks: room for
    n.
    """
    for i in range(n - 1):
        ranks[i] = _find(pairs, ids[i], ids[i + 1])
    while n > 1:
        best, place = np.int64(NONE), -1
        for i in range(n - 1):
            if ranks[i] < best:
                best, place = ranks[i], i
        if place < 0:
            break
        ids[place] = made[best]
        n -= 1
        for i in range(place + 1, n):
            ids[i], ranks[i] = ids[i + 1], ranks[i + 1]
        if place + 1 < n:
            ranks[place] = _find(pairs, ids[place], ids[place + 1])
        if place > 0:
            ranks[place - 1] = _find(pairs, ids[place - 1], ids[place])
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
def _pop(heap, size):
    """Take the least from a binary heap of size keys."""
    least, key, i, child = heap[0], heap[size - 1], 0, 1
    while child < size - 1:
        if child + 1 < size - 1 and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i, child = child, 2 * child + 1
    heap[i] = key
    return least


@kernel
def _file(rank, place, current, queue, size, used, lists, blocks):
    """Queue the pair at a place: in the list of its rank, or by itself where its rank's turn is over. Returns
    size, used.
    """
    if rank <= current:
        _push(queue, size, rank << 32 | place)
        return size + 1, used
    if lists[rank, FIRST] < 0:
        lists[rank, FIRST] = lists[rank, LAST] = used
        lists[rank, FILLED] = 0
        _push(queue, size, rank << 32)
        size, used = size + 1, used + 1
    elif lists[rank, FILLED] == BLOCK:
        blocks[lists[rank, LAST], BLOCK] = used
        lists[rank, LAST], lists[rank, FILLED] = used, 0
        used += 1
    blocks[lists[rank, LAST], lists[rank, FILLED]] = place
    lists[rank, FILLED] += 1
    return size, used


BLOCK = 15  # places in a block of a list, which with the number of the next fill a line of the cache
FIRST, LAST, FILLED = range(3)  # of a list: its first and last block, and how many places the last holds
ID, NEXT, BEFORE, RANK = range(
    4
)  # of a node: its id, the places of its neighbours, the rank of the pair that begins with it


@kernel
def _queue(ids, n, pairs, made, nodes, blocks, turn, spare, queue, lists):
    """Join ids[:n] in place in O(n log n); returns how many are left.

    The queue's keys are 2³² rank + place. Pairs are listed by rank, and the queue has one key for a list.
    When a rank's turn comes its list is sorted and taken from left to right; what has this rank or a lower
    one from then on goes into the queue by itself. So the least key is always next, which is the
    specification's order. Entries are not taken out where a pair
    changes: one whose rank is no longer the pair's is passed over.

    lists: of each rank, FIRST −1 and left so. blocks: of lists. turn: the places whose turn it is. spare:
    room to sort them.
    """
    current = np.int64(-1)
    size = used = taken = length = 0
    for i in range(n):
        rank = _find(pairs, ids[i], ids[i + 1]) if i + 1 < n else np.int64(NONE)
        nodes[i, ID], nodes[i, NEXT], nodes[i, BEFORE], nodes[i, RANK] = ids[i], i + 1, i - 1, rank
        if rank != NONE:
            size, used = _file(rank, i, current, queue, size, used, lists, blocks)
    while taken < length or size:
        if taken < length and (size == 0 or (current << 32 | turn[taken]) < queue[0]):
            rank, place = current, np.int64(turn[taken])
            taken += 1
        else:
            key = _pop(queue, size)
            size -= 1
            rank, place = key >> 32, key & LOW
            if rank > current:
                current, taken, length = rank, 0, _gather(rank, lists, blocks, nodes, turn, spare)
                continue
        if nodes[place, RANK] != rank:
            continue
        gone = np.int64(nodes[place, NEXT])
        right, left = np.int64(nodes[gone, NEXT]), np.int64(nodes[place, BEFORE])
        nodes[place, ID], nodes[place, NEXT], nodes[place, RANK], nodes[gone, RANK] = (
            made[rank],
            right,
            NONE,
            NONE,
        )
        if right < n:
            nodes[right, BEFORE] = place
            new = _find(pairs, nodes[place, ID], nodes[right, ID])
            nodes[place, RANK] = new
            if new != NONE:
                size, used = _file(new, place, current, queue, size, used, lists, blocks)
        if left >= 0:
            new = _find(pairs, nodes[left, ID], nodes[place, ID])
            nodes[left, RANK] = new
            if new != NONE:
                size, used = _file(new, left, current, queue, size, used, lists, blocks)
    count = place = 0
    while place < n:
        ids[count] = nodes[place, ID]
        count, place = count + 1, np.int64(nodes[place, NEXT])
    return count


@kernel
def _gather(rank, lists, blocks, nodes, turn, spare):
    """Empty a list into turn, sorted, without places whose pair has changed; returns how many.

    A list is some ascending runs: they are merged, two at a time. Nodes are looked at in a loop without
    branches, so that the processor fetches many at a time, long before they are joined.
    """
    length, block = 0, lists[rank, FIRST]
    while True:
        filled = lists[rank, FILLED] if block == lists[rank, LAST] else BLOCK
        for i in range(filled):
            place = blocks[block, i]
            turn[length] = place
            length += nodes[place, RANK] == rank
        if block == lists[rank, LAST]:
            break
        block = blocks[block, BLOCK]
    lists[rank, FIRST] = -1
    runs = 1
    for i in range(1, length):
        runs += turn[i - 1] > turn[i]
    while runs > 1:
        runs = start = 0
        while start < length:
            middle = _ascent(turn, start, length)
            end = _ascent(turn, middle, length)
            a, b = start, middle
            for i in range(start, end):
                if b == end or (a < middle and turn[a] <= turn[b]):
                    spare[i] = turn[a]
                    a += 1
                else:
                    spare[i] = turn[b]
                    b += 1
            start, runs = end, runs + 1
        for i in range(length):
            turn[i] = spare[i]
    return length


@kernel
def _ascent(a, start, end):
    """The end of the ascending run at start."""
    i = start + 1
    while i < end and a[i - 1] <= a[i]:
        i += 1
    return min(i, end)


@parallel
def _join_one(task, ids, left, pairs, made, scanned, values, nodes, blocks, turn, spare, queue, lists):
    n = len(ids)
    left[0] = (
        _scan(ids, n, pairs, made, values)
        if n <= scanned
        else _queue(ids, n, pairs, made, nodes, blocks, turn, spare, queue, lists)
    )


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


@parallel
def _enter_tokens(task, joined, starts, slots):
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


@parallel
def _encode(
    task,
    data,
    ends,
    out,
    done,
    whole,
    pairs,
    made,
    byte_ids,
    joined,
    starts,
    slots,
    memory,
    table,
    pieces,
    known,
    used,
    scanned,
    values,
    nodes,
    blocks,
    turn,
    spare,
    queue,
    lists,
):
    """Fill out with the ids of the pieces of data that end at ends. done: how many ids, and of how many
    pieces; fewer than there are where a byte has no token.

    memory holds a piece's start and length in pieces, and of its ids in known, and is found by the piece's
    hash through table;
    used: how many pieces, bytes and ids there are. All are forgotten when there is no more room.
    """
    mask = len(table) - 1
    start = count = 0
    for number in range(len(ends)):
        done[0], done[1] = count, number
        end = ends[number]
        n = end - start
        h = _hash(data, start, end)
        slot = h & mask
        if n < LONG:
            while table[slot] >= 0 and not (
                memory[table[slot], 1] == n and _same(data, start, pieces, memory[table[slot], 0], n)
            ):
                slot = (slot + 1) & mask
            if table[slot] >= 0:
                where, m = memory[table[slot], 2], memory[table[slot], 3]
                for i in range(m):
                    out[count + i] = known[where + i]
                start, count = end, count + m
                continue
        token = _token(data, start, end, h, joined, starts, slots) if whole else -1
        if token >= 0:
            out[count] = token
            m = 1
        else:
            for i in range(n):
                out[count + i] = byte_ids[data[start + i]]
                if out[count + i] < 0:
                    return
            ids = out[count : count + n]
            m = (
                _scan(ids, n, pairs, made, values)
                if n <= scanned
                else _queue(ids, n, pairs, made, nodes, blocks, turn, spare, queue, lists)
            )
        if n < LONG:
            if used[0] == len(memory) or used[1] + n > len(pieces) or used[2] + m > len(known):
                table[:] = -1
                used[:] = 0
                slot = h & mask
            table[slot] = used[0]
            memory[used[0], 0], memory[used[0], 1], memory[used[0], 2], memory[used[0], 3] = (
                used[1],
                n,
                used[2],
                m,
            )
            for i in range(n):
                pieces[used[1] + i] = data[start + i]
            for i in range(m):
                known[used[2] + i] = out[count + i]
            used[0], used[1], used[2] = used[0] + 1, used[1] + n, used[2] + m
        start, count = end, count + m
    done[0], done[1] = count, len(ends)
