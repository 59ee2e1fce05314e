"""Twin of joining.py: short runs of ids by looking at all pairs, long ones by a queue in O(n log n).

The queue is a heap of ranks, each with a list of places. A heap of the places themselves would be slow: a
megabyte without a cut has millions of them, and every step down such a heap leaves the cache.
"""

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.jit import kernel, launch, parallel

SCANNED = 40  # ids up to which all pairs are looked at for each join; beyond, the queue is faster
NO_RANK = 2**31 - 1  # the rank of a pair that is not joined: greater than any other
LOW_HALF = 2**32 - 1  # the place in a key of the queue, 2³² rank + place
MIX = 0x1E3779B97F4A7C15  # an odd number whose bits look random: it spreads keys over a hash table
BLOCK = 15  # places in a block of a list: with the number of the next block they fill a line of the cache
FIRST, LAST, FILLED = range(3)  # of a list: its first and last block, and how many places the last one holds
ID, NEXT, BEFORE, RANK = range(4)  # of a node: its id, its neighbours' places, the rank of the pair it begins


class Ranks(NamedTuple):
    """Which pairs are joined, for kernels."""

    table: NDArray[Any]  # a hash table (key, rank, key, …); a key is two ids, −1 where a slot is empty
    joined: NDArray[Any]  # rank → the id of both


class Work(NamedTuple):
    """Room to join one run of ids, made outside: what a kernel allocates, it counts by atomic operations."""

    scanned: int  # ids up to which all pairs are looked at
    scores: NDArray[Any]  # the rank of the pair at each place, for scan; the rest is for queue
    nodes: NDArray[Any]  # (places, ID … RANK): a doubly linked list of what is not joined yet
    blocks: NDArray[Any]  # (blocks, BLOCK places and the number of the next block): what lists are made of
    lists: NDArray[Any]  # (ranks, FIRST … FILLED): the places of each rank; FIRST is −1 where there are none
    turn: NDArray[Any]  # the places of the rank whose turn it is, from left to right
    spare: NDArray[Any]  # room to sort them
    heap: NDArray[Any]  # a binary heap of keys 2³² rank + place


def join(ids, ranks, scanned=SCANNED):
    """What joining.join gives.  ids (T,) → ids."""
    out, count, table = np.array(ids, np.int32), np.zeros(1, np.int64), tables(ranks)
    launch(_join_one, 1, out, count, table, room(len(out), len(table.joined), scanned))
    return out[: count[0]].astype(np.int64)


def joiner(ranks):
    """What joining.joiner gives; the tables of the ranks are made once."""
    table = tables(ranks)

    def join(ids):
        out, count = np.array(ids, np.int32), np.zeros(1, np.int64)
        launch(_join_one, 1, out, count, table, room(len(out), len(table.joined)))
        return out[: count[0]].astype(np.int64)

    return join


def room(longest, ranks, scanned=SCANNED):
    """Work for runs of up to `longest` ids, and so many ranks."""
    # Short runs need no queue. Up to n pairs are queued at the start, and two more for each of up to n joins.
    n, ranks = (longest, ranks) if longest > scanned else (0, 0)
    blocks = 3 * n // BLOCK + min(3 * n, ranks) + 1  # full ones, and one begun for each list
    return Work(
        scanned=scanned,
        scores=np.empty(min(longest, scanned) + 1, np.int64),
        nodes=np.empty((n, 4), np.int32),
        blocks=np.empty((blocks, BLOCK + 1), np.int32),
        lists=np.full((ranks, 3), -1, np.int32),
        turn=np.empty(3 * n, np.int32),
        spare=np.empty(3 * n, np.int32),
        heap=np.empty(3 * n, np.int64),
    )


def tables(ranks):
    """Ranks for kernels, of (left, right) → (rank, id of both)."""
    keys = np.fromiter(chain.from_iterable(ranks), np.int64, 2 * len(ranks))
    values = np.fromiter(chain.from_iterable(ranks.values()), np.int64, 2 * len(ranks))
    table = np.full(2 * slots_for(len(ranks)), -1, np.int64)
    joined = np.full(int(values[::2].max(initial=-1)) + 1, -1, np.int32)
    joined[values[::2]] = values[1::2]
    launch(_enter_pairs, 1, keys[::2] << 32 | keys[1::2], values[::2].copy(), table)
    return Ranks(table, joined)


def slots_for(count):
    """A power of two, at least twice count: half of a hash table stays empty, so that a search ends soon."""
    return 1 << max(2 * count, 1).bit_length()


@parallel
def _enter_pairs(task, keys, ranks, table):
    mask = len(table) // 2 - 1
    for j in range(len(keys)):
        i = ((keys[j] * MIX) >> 32) & mask
        while table[2 * i] != -1:
            i = (i + 1) & mask
        table[2 * i], table[2 * i + 1] = keys[j], ranks[j]


@parallel
def _join_one(task, ids, count, ranks, work):
    n = len(ids)
    if n <= work.scanned:
        count[0] = scan(ids, n, ranks.table, ranks.joined, work.scores)
    else:
        count[0] = queue(ids, n, ranks, work)


@kernel
def _find(table, left, right):
    """The rank of a pair of ids, NO_RANK where it is not joined."""
    mask, key = len(table) // 2 - 1, np.int64(left) << 32 | np.int64(right)
    i = (
        (key * MIX) >> 32
    ) & mask  # the high bits: multiplication carries upwards, so they are the mixed ones
    while table[2 * i] != key:
        if table[2 * i] == -1:
            return np.int64(NO_RANK)
        i = (i + 1) & mask
    return table[2 * i + 1]


@kernel
def scan(ids, n, table, joined, scores):
    """Join ids[:n] in place by looking at all pairs for each join; returns how many are left."""
    for i in range(n - 1):
        scores[i] = _find(table, ids[i], ids[i + 1])
    while n > 1:
        best, place = np.int64(NO_RANK), -1
        for i in range(n - 1):
            if scores[i] < best:  # not ≤: of pairs of one rank the leftmost
                best, place = scores[i], i
        if place < 0:
            break
        ids[place] = joined[best]
        n -= 1
        for i in range(place + 1, n):
            ids[i], scores[i] = ids[i + 1], scores[i + 1]
        # Only the two pairs that the new id is part of have another rank now.
        if place + 1 < n:
            scores[place] = _find(table, ids[place], ids[place + 1])
        if place > 0:
            scores[place - 1] = _find(table, ids[place - 1], ids[place])
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
def _enter(rank, place, current, heap, size, used, lists, blocks):
    """Queue the pair at a place. Returns the new size of the heap, and how many blocks are used."""
    if rank <= current:
        # The list of this rank has had its turn, or has it now: the pair must come before all that is left.
        _push(heap, size, rank << 32 | place)
        return size + 1, used
    if lists[rank, FIRST] < 0:
        lists[rank, FIRST] = lists[rank, LAST] = used
        lists[rank, FILLED] = 0
        _push(heap, size, rank << 32)  # one key for the whole list
        size, used = size + 1, used + 1
    elif lists[rank, FILLED] == BLOCK:
        blocks[lists[rank, LAST], BLOCK] = used
        lists[rank, LAST], lists[rank, FILLED] = used, 0
        used += 1
    blocks[lists[rank, LAST], lists[rank, FILLED]] = place
    lists[rank, FILLED] += 1
    return size, used


@kernel
def queue(ids, n, ranks, work):
    """Join ids[:n] in place in O(n log n); returns how many are left.

    Pairs are listed by rank, and the queue has one key for a list. When a rank's turn comes its list is
    sorted and taken from left to right. A pair that gets this rank or a lower one from then on goes into the
    queue by itself. So the least key is always next, which is the specification's order.

    Entries stay where they are when a pair changes: one whose rank is no longer the pair's is passed over.
    """
    # What runs for every pair gets the arrays that it needs: handing on the whole Work costs a third more.
    table, joined, nodes, turn, spare = ranks.table, ranks.joined, work.nodes, work.turn, work.spare
    heap, lists, blocks = work.heap, work.lists, work.blocks
    current = np.int64(-1)  # the rank whose turn it is
    size = used = 0  # keys in the queue; blocks in use
    taken = length = 0  # places of this turn that are done; all of them
    for i in range(n):
        rank = _find(table, ids[i], ids[i + 1]) if i + 1 < n else np.int64(NO_RANK)
        nodes[i, ID], nodes[i, NEXT], nodes[i, BEFORE], nodes[i, RANK] = ids[i], i + 1, i - 1, rank
        if rank != NO_RANK:
            size, used = _enter(rank, i, current, heap, size, used, lists, blocks)
    while taken < length or size:
        # What is left of the turn and the queue are both in order: the lesser head of the two is next.
        if taken < length and (size == 0 or (current << 32 | turn[taken]) < heap[0]):
            rank, place = current, np.int64(turn[taken])
            taken += 1
        else:
            key = _pop(heap, size)
            size -= 1
            rank, place = key >> 32, key & LOW_HALF
            if rank > current:  # the key of a list
                current, taken, length = rank, 0, _gather(rank, lists, blocks, nodes, turn, spare)
                continue
        if nodes[place, RANK] != rank:
            continue
        gone = np.int64(nodes[place, NEXT])
        right, left = np.int64(nodes[gone, NEXT]), np.int64(nodes[place, BEFORE])
        nodes[place, ID], nodes[place, NEXT] = joined[rank], right
        nodes[place, RANK] = nodes[gone, RANK] = NO_RANK
        if right < n:
            nodes[right, BEFORE] = place
            new = _find(table, nodes[place, ID], nodes[right, ID])
            nodes[place, RANK] = new
            if new != NO_RANK:
                size, used = _enter(new, place, current, heap, size, used, lists, blocks)
        if left >= 0:
            new = _find(table, nodes[left, ID], nodes[place, ID])
            nodes[left, RANK] = new
            if new != NO_RANK:
                size, used = _enter(new, left, current, heap, size, used, lists, blocks)
    count = place = 0
    while place < n:
        ids[count] = nodes[place, ID]
        count, place = count + 1, np.int64(nodes[place, NEXT])
    return count


@kernel
def _gather(rank, lists, blocks, nodes, turn, spare):
    """Empty a list into turn, sorted, without places whose pair has changed; returns how many."""
    length, block = 0, lists[rank, FIRST]
    while True:
        filled = lists[rank, FILLED] if block == lists[rank, LAST] else BLOCK
        for i in range(filled):
            # No branch, so that the processor fetches many nodes at a time, long before they are joined.
            place = blocks[block, i]
            turn[length] = place
            length += nodes[place, RANK] == rank
        if block == lists[rank, LAST]:
            break
        block = blocks[block, BLOCK]
    lists[rank, FIRST] = -1
    _sort(turn, length, spare)
    return length


@kernel
def _sort(turn, length, spare):
    """Sort turn[:length]. A list is made of a few ascending runs: they are merged, two at a time."""
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


@kernel
def _ascent(a, start, end):
    """The end of the ascending run at start."""
    i = start + 1
    while i < end and a[i - 1] <= a[i]:
        i += 1
    return min(i, end)
