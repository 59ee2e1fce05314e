"""Twin of training: a pair's places are a list, its count is kept, and a heap holds pairs by their counts."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.jit import kernel, launch, parallel

STEP = 64  # merges between two progress updates
NEAR = 2**31 // 3  # symbols from which on 32 bits are too few for a place, or a pair's number
PAIRS, HEAPED, MERGES = range(
    3
)  # of state: how many pairs there are, how many of them in the heap, and merges


class Symbols(NamedTuple):
    """The words, symbol by symbol. A place is an index into these arrays; −1 stands for none."""

    id: NDArray[Any]
    left: NDArray[
        Any
    ]  # the places of its neighbours in the word: when two are joined, the right one drops out
    right: NDArray[Any]
    word: NDArray[Any]
    weights: NDArray[Any]  # (words,): how often each occurs
    number: NDArray[Any]  # of the pair that begins here
    after: NDArray[Any]  # the places after and before this one in the list of that pair's places
    before: NDArray[Any]


class Pairs(NamedTuple):
    """The pairs of symbols, by number. A pair that comes up for the first time gets the next one."""

    left: NDArray[Any]
    right: NDArray[Any]
    first: NDArray[Any]  # the first place in the list of its places
    count: NDArray[Any]  # how often it occurs


class Heap(NamedTuple):
    """A binary heap of pairs: the one to join next is at the top, if its count is still what it was."""

    pair: NDArray[Any]
    known: NDArray[Any]  # the pair's count when it was last looked at


@kernel
def precedes(p, n, q, m, pairs):
    """Whether pair p, counted n times, is joined before pair q, counted m times."""
    if n != m:
        return n > m
    return pairs.left[p] < pairs.left[q] or (
        pairs.left[p] == pairs.left[q] and pairs.right[p] < pairs.right[q]
    )


@kernel
def rise(i, heap, pairs):
    """Put what stands at place i of the heap where it belongs, towards the top."""
    p, n = heap.pair[i], heap.known[i]
    while i > 0:
        above = (i - 1) // 2
        if not precedes(p, n, heap.pair[above], heap.known[above], pairs):
            break
        heap.pair[i], heap.known[i] = heap.pair[above], heap.known[above]
        i = above
    heap.pair[i], heap.known[i] = p, n


@kernel
def sink(i, size, heap, pairs):
    """Put what stands at place i of the heap where it belongs, towards the bottom."""
    pair, known = heap.pair, heap.known
    p, n = pair[i], known[i]
    while 2 * i + 1 < size:
        below = 2 * i + 1
        if below + 1 < size and precedes(pair[below + 1], known[below + 1], pair[below], known[below], pairs):
            below += 1
        if not precedes(pair[below], known[below], p, n, pairs):
            break
        pair[i], known[i] = pair[below], known[below]
        i = below
    pair[i], known[i] = p, n


@kernel
def list_place(i, p, symbols, pairs):
    """Enter place i, where pair p stands, at the head of the pair's list."""
    head = pairs.first[p]
    symbols.number[i], symbols.after[i], symbols.before[i] = p, head, -1
    if head >= 0:
        symbols.before[head] = i
    pairs.first[p] = i
    pairs.count[p] += symbols.weights[symbols.word[i]]


@kernel
def strike_place(i, symbols, pairs):
    """Strike place i from the list of the pair that stands there."""
    after, before = symbols.after, symbols.before
    p = symbols.number[i]
    if before[i] >= 0:
        after[before[i]] = after[i]
    else:
        pairs.first[p] = after[i]
    if after[i] >= 0:
        before[after[i]] = before[i]
    symbols.number[i] = -1
    pairs.count[p] -= symbols.weights[symbols.word[i]]


@kernel
def pair_of(a, b, new, pairs, partner, state):
    """The number of the pair a, b, one of which is new; the next one where it is met for the first time."""
    side, other = (0, b) if a == new else (1, a)
    if partner[side, other] < 0:
        p = state[PAIRS]
        partner[side, other] = p
        pairs.left[p], pairs.right[p], pairs.first[p] = a, b, -1
        state[PAIRS] += 1
    return partner[side, other]


@kernel
def join(i, new, symbols, pairs, partner, state):
    """Make the symbols at place i and behind it one, new, and list the pairs it makes with its neighbours."""
    j, h = symbols.right[i], symbols.left[i]
    k = symbols.right[j]
    strike_place(i, symbols, pairs)
    symbols.id[i], symbols.right[i] = new, k
    if k >= 0:
        strike_place(j, symbols, pairs)
        symbols.left[k] = i
        list_place(i, pair_of(new, symbols.id[k], new, pairs, partner, state), symbols, pairs)
    if h >= 0:
        strike_place(h, symbols, pairs)
        list_place(h, pair_of(symbols.id[h], new, new, pairs, partner, state), symbols, pairs)


@kernel
def push(first, heap, pairs, state, least):
    """Put the pairs from number first on into the heap.

    Those below the least count are left out: no pair's count grows after the merge that made it.
    """
    for p in range(first, state[PAIRS]):
        if pairs.count[p] >= least:
            i = state[HEAPED]
            heap.pair[i], heap.known[i] = p, pairs.count[p]
            state[HEAPED] += 1
            rise(i, heap, pairs)


@parallel
def advance(task, until, symbols, pairs, heap, partner, merges, state, least):
    """Join pairs until so many merges are made, or none is left."""
    count = pairs.count
    while state[MERGES] < until and state[HEAPED] > 0:
        p = heap.pair[0]
        if heap.known[0] != count[p] and count[p] >= least:
            # It has lost places since. Counts only fall, so putting the top right is enough.
            heap.known[0] = count[p]
            sink(0, state[HEAPED], heap, pairs)
            continue
        due = count[p] >= least
        state[HEAPED] -= 1
        last = state[HEAPED]
        heap.pair[0], heap.known[0] = heap.pair[last], heap.known[last]
        sink(0, last, heap, pairs)
        if not due:
            continue
        a, b, new, first = pairs.left[p], pairs.right[p], 256 + state[MERGES], state[PAIRS]
        while pairs.first[p] >= 0:
            i = pairs.first[p]
            while a == b and symbols.left[i] >= 0 and symbols.id[symbols.left[i]] == a:
                i = symbols.left[i]  # a run is joined from its left end
            while i >= 0 and symbols.number[i] == p:
                join(i, new, symbols, pairs, partner, state)
                i = symbols.right[i]
        for q in range(first, state[PAIRS]):  # partner speaks of the newest symbol alone
            partner[0, pairs.right[q]] = partner[1, pairs.left[q]] = -1
        push(first, heap, pairs, state, least)
        merges[state[MERGES], 0], merges[state[MERGES], 1] = a, b
        state[MERGES] += 1


def learn(ids, lengths, weights, n, min_frequency, tell):
    """Twin of bpe_training.learn, in time O(S log S) for S symbols and memory O(S + n)."""
    # A join makes at most two pairs that were not there, so there are never more than 3 S of them.
    most, kind = 3 * len(ids), np.int32 if len(ids) < NEAR else np.int64
    numbers = np.full((7, len(ids)), -1, kind)
    symbols = Symbols(*numbers[:4], weights, *numbers[4:])
    pairs = Pairs(*np.empty((3, most), kind), np.zeros(most, np.int64))
    heap = Heap(np.empty(most, kind), np.empty(most, np.int64))
    partner = np.full((2, 256 + n), -1, kind)  # symbol → the newest symbol's pair with it behind, and before
    merges = np.empty((n, 2), kind)
    state = np.array([_begin(ids, lengths, symbols, pairs), 0, 0])
    _fill(heap, pairs, state, min_frequency)
    done = 0
    while done < n:
        until = min(done + STEP, n)
        launch(advance, 1, until, symbols, pairs, heap, partner, merges, state, min_frequency)
        before, done = done, int(state[MERGES])
        tell(done - before)
        if done < until:
            break
    return [tuple(pair) for pair in merges[:done].tolist()]


def _begin(ids, lengths, symbols, pairs):
    """Fill in the words and their pairs, each with its places in order; returns how many pairs there are."""
    number, after, before = symbols.number, symbols.after, symbols.before
    symbols.id[:] = ids
    symbols.word[:] = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.flatnonzero(symbols.word[1:] == symbols.word[:-1])  # places where a pair begins
    symbols.right[begins] = begins + 1
    symbols.left[begins + 1] = begins
    keys = ids[begins].astype(np.int64) * 256 + ids[begins + 1]
    keys, number[begins] = np.unique(keys, return_inverse=True)
    pairs.left[: len(keys)], pairs.right[: len(keys)] = np.divmod(keys, 256)
    np.add.at(pairs.count, number[begins], symbols.weights[symbols.word[begins]])
    begins = begins[np.argsort(number[begins], kind="stable")]
    same = number[begins[1:]] == number[begins[:-1]]  # neighbours in this order that begin the same pair
    after[begins[:-1][same]] = begins[1:][same]
    before[begins[1:][same]] = begins[:-1][same]
    firsts = begins[np.concatenate([[True], ~same])[: len(begins)]]
    pairs.first[number[firsts]] = firsts
    return len(keys)


def _fill(heap, pairs, state, least):
    """Fill the heap with the pairs of at least so many places: what is sorted is a heap."""
    due = np.flatnonzero(pairs.count[: state[PAIRS]] >= least)
    due = due[np.lexsort((pairs.right[due], pairs.left[due], -pairs.count[due]))]
    heap.pair[: len(due)], heap.known[: len(due)] = due, pairs.count[due]
    state[HEAPED] = len(due)
