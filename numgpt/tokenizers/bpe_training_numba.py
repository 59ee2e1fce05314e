"""Twin of training: a pair's places are a list, its count is kept, and a heap holds pairs by their counts.

The kernels share these arrays. Named tuples of them were tried: training took a third longer, or more.

    place (7, S)    a symbol; the places to its left and right in the word; its word; the pair that begins
                    here; the places after and before this one in that pair's list. −1 stands for none.
    pair (3, 3 S)   left and right symbol, and the first place in the pair's list
    count (3 S,)    how often the pair occurs
    heap, known     the pairs in the heap, and their counts when last looked at
    partner (2, V)  symbol → the newest symbol's pair with it behind, and with it before
    state (3,)      how many pairs there are, how many of them in the heap, and merges
"""

import numpy as np

from ..engine.jit import kernel, launch, parallel

STEP = 64  # merges between two progress updates
NEAR = 2**31 // 3  # symbols from which on 32 bits are too few for a place, or a pair's number


@kernel
def precedes(p, n, q, m, pair):
    """Whether pair p, counted n times, is joined before pair q, counted m times."""
    if n != m:
        return n > m
    return pair[0, p] < pair[0, q] or (pair[0, p] == pair[0, q] and pair[1, p] < pair[1, q])


@kernel
def rise(i, heap, known, pair):
    """Put what stands at place i of the heap where it belongs, towards the top."""
    p, n = heap[i], known[i]
    while i > 0:
        above = (i - 1) // 2
        if not precedes(p, n, heap[above], known[above], pair):
            break
        heap[i], known[i] = heap[above], known[above]
        i = above
    heap[i], known[i] = p, n


@kernel
def sink(i, size, heap, known, pair):
    """Put what stands at place i of the heap where it belongs, towards the bottom."""
    p, n = heap[i], known[i]
    while 2 * i + 1 < size:
        below = 2 * i + 1
        if below + 1 < size and precedes(heap[below + 1], known[below + 1], heap[below], known[below], pair):
            below += 1
        if not precedes(heap[below], known[below], p, n, pair):
            break
        heap[i], known[i] = heap[below], known[below]
        i = below
    heap[i], known[i] = p, n


@kernel
def list_place(i, p, weight, place, pair, count):
    """Enter place i, where pair p stands, at the head of the pair's list."""
    number, after, before = place[4], place[5], place[6]
    number[i], after[i], before[i] = p, pair[2, p], -1
    if pair[2, p] >= 0:
        before[pair[2, p]] = i
    pair[2, p] = i
    count[p] += weight[place[3, i]]


@kernel
def strike_place(i, weight, place, pair, count):
    """Strike place i from the list of the pair that stands there."""
    number, after, before = place[4], place[5], place[6]
    p = number[i]
    if before[i] >= 0:
        after[before[i]] = after[i]
    else:
        pair[2, p] = after[i]
    if after[i] >= 0:
        before[after[i]] = before[i]
    number[i] = -1
    count[p] -= weight[place[3, i]]


@kernel
def pair_of(a, b, new, pair, partner, state):
    """The number of the pair a, b, one of which is new; the next one where it is met for the first time."""
    side, other = (0, b) if a == new else (1, a)
    if partner[side, other] < 0:
        p = state[0]
        partner[side, other] = p
        pair[0, p], pair[1, p], pair[2, p] = a, b, -1
        state[0] += 1
    return partner[side, other]


@kernel
def join(i, new, weight, place, pair, count, partner, state):
    """Make the symbols at place i and behind it one, new, and list the pairs it makes with its neighbours."""
    symbol, left, right = place[0], place[1], place[2]
    j, h = right[i], left[i]
    k = right[j]
    strike_place(i, weight, place, pair, count)
    symbol[i], right[i] = new, k
    if k >= 0:
        strike_place(j, weight, place, pair, count)
        left[k] = i
        list_place(i, pair_of(new, symbol[k], new, pair, partner, state), weight, place, pair, count)
    if h >= 0:
        strike_place(h, weight, place, pair, count)
        list_place(h, pair_of(symbol[h], new, new, pair, partner, state), weight, place, pair, count)


@kernel
def push(first, heap, known, pair, count, state, least):
    """Put the pairs from number first on into the heap.

    Those below the least count are left out: no pair's count grows after the merge that made it.
    """
    for p in range(first, state[0]):
        if count[p] >= least:
            heap[state[1]], known[state[1]] = p, count[p]
            state[1] += 1
            rise(state[1] - 1, heap, known, pair)


@parallel
def advance(task, until, weight, place, pair, count, heap, known, partner, merges, state, least):
    """Join pairs until so many merges are made, or none is left."""
    symbol, left, right, number = place[0], place[1], place[2], place[4]
    while state[2] < until and state[1] > 0:
        p = heap[0]
        if known[0] != count[p] and count[p] >= least:
            # It has lost places since. Counts only fall, so putting the top right is enough.
            known[0] = count[p]
            sink(0, state[1], heap, known, pair)
            continue
        due = count[p] >= least
        state[1] -= 1
        heap[0], known[0] = heap[state[1]], known[state[1]]
        sink(0, state[1], heap, known, pair)
        if not due:
            continue
        a, b, new, first = pair[0, p], pair[1, p], 256 + state[2], state[0]
        while pair[2, p] >= 0:
            i = pair[2, p]
            while a == b and left[i] >= 0 and symbol[left[i]] == a:
                i = left[i]  # a run is joined from its left end
            while i >= 0 and number[i] == p:
                join(i, new, weight, place, pair, count, partner, state)
                i = right[i]
        for q in range(first, state[0]):  # partner speaks of the newest symbol alone
            partner[0, pair[1, q]] = partner[1, pair[0, q]] = -1
        push(first, heap, known, pair, count, state, least)
        merges[state[2], 0], merges[state[2], 1] = a, b
        state[2] += 1


def learn(ids, lengths, weights, n, min_frequency, tell):
    """Twin of bpe_training.learn, in time O(S log S) for S symbols and memory O(S + n)."""
    # A join makes at most two pairs that were not there, so there are never more than 3 S of them.
    kind = np.int32 if len(ids) < NEAR else np.int64
    most = 3 * len(ids)
    place = np.full((7, len(ids)), -1, kind)
    pair, count = np.empty((3, most), kind), np.zeros(most, np.int64)
    heap, known = np.empty(most, kind), np.empty(most, np.int64)
    partner = np.full((2, 256 + n), -1, kind)
    merges = np.empty((n, 2), kind)
    pairs = _begin(ids, lengths, weights, place, pair, count)
    due = np.flatnonzero(count[:pairs] >= min_frequency)
    due = due[np.lexsort((pair[1, due], pair[0, due], -count[due]))]  # what is sorted is a heap
    heap[: len(due)], known[: len(due)] = due, count[due]
    state = np.array([pairs, len(due), 0])
    arrays = (weights, place, pair, count, heap, known, partner, merges, state)
    done = 0
    while done < n:
        until = min(done + STEP, n)
        launch(advance, 1, until, *arrays, min_frequency)
        before, done = done, int(state[2])
        tell(done - before)
        if done < until:
            break
    return [tuple(merge) for merge in merges[:done].tolist()]


def _begin(ids, lengths, weights, place, pair, count):
    """Fill in the words and their pairs, each with its places in order; returns how many pairs there are."""
    symbol, left, right, word, number, after, before = place
    symbol[:] = ids
    word[:] = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.flatnonzero(word[1:] == word[:-1])  # places where a pair begins
    right[begins] = begins + 1
    left[begins + 1] = begins
    keys, number[begins] = np.unique(
        ids[begins].astype(np.int64) * 256 + ids[begins + 1], return_inverse=True
    )
    pair[0, : len(keys)], pair[1, : len(keys)] = np.divmod(keys, 256)
    np.add.at(count, number[begins], weights[word[begins]])
    begins = begins[np.argsort(number[begins], kind="stable")]
    same = number[begins[1:]] == number[begins[:-1]]  # neighbours in this order that begin the same pair
    after[begins[:-1][same]] = begins[1:][same]
    before[begins[1:][same]] = begins[:-1][same]
    firsts = begins[np.concatenate([[True], ~same])[: len(begins)]]
    pair[2, number[firsts]] = firsts
    return len(keys)
