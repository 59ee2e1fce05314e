"""Ranks that are threads of one process: laws of parallel layers run on them without MPI."""

import queue
import threading

import numpy as np

from numgpt.parallel.ranks import tree_sum

PATIENCE = 20  # seconds after which a rank that waits for the others gives up


class Shared:
    """What the threads of one group share."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size)
        self.slots = [None] * size
        self.boxes = {}
        self.lock = threading.Lock()
        self.groups = {}


class ThreadRanks:
    """One thread's view of its group, as numgpt.parallel.ranks.Ranks says."""

    def __init__(self, shared, rank):
        self.shared, self.rank, self.size = shared, rank, shared.size

    def _all(self, thing):
        """What every rank gave, in their order."""
        self.shared.slots[self.rank] = thing
        self.shared.barrier.wait(PATIENCE)
        things = list(self.shared.slots)
        self.shared.barrier.wait(PATIENCE)
        return things

    def all_reduce(self, array, how="sum"):
        parts = self._all(np.array(array))
        return tree_sum(parts) if how == "sum" else np.maximum.reduce(parts)

    def all_gather(self, array, axis=0):
        return np.concatenate(self._all(np.array(array)), axis)

    def reduce_scatter(self, array, lengths, axis=0):
        ends = np.cumsum(lengths)
        whole = tree_sum(self._all(np.array(array)))
        assert whole.shape[axis] == ends[-1] and len(lengths) == self.size, (whole.shape, lengths)
        return np.split(whole, ends[:-1], axis)[self.rank].copy()

    def all_to_all(self, parts):
        assert len(parts) == self.size
        return [given[self.rank] for given in self._all([np.array(part) for part in parts])]

    def broadcast(self, array, root=0):
        return self._all(None if array is None else np.array(array))[root].copy()

    def _box(self, source, to, tag):
        with self.shared.lock:
            return self.shared.boxes.setdefault((source, to, tag), queue.Queue())

    def send(self, array, to, tag):
        self._box(self.rank, to, tag).put(np.array(array))

    def receive(self, source, tag):
        return self._box(source, self.rank, tag).get(timeout=PATIENCE)

    def gather_texts(self, text):
        return self._all(str(text))

    def barrier(self):
        self.shared.barrier.wait(PATIENCE)

    def split(self, group):
        members = [rank for rank, other in enumerate(self._all(group)) if other == group]
        calls = self.shared.groups
        with self.shared.lock:
            number = self.shared.groups.setdefault(("calls", self.rank), 0)
            calls["calls", self.rank] = number + 1
            shared = calls.setdefault((number, tuple(members)), Shared(len(members)))
        return type(self)(shared, members.index(self.rank))

    def window(self, n, dtype):
        return self._all(np.zeros(n, dtype))


class Apart(ThreadRanks):
    """Ranks that have no memory in common, as those of several hosts."""

    def window(self, n, dtype):
        return None


def on_ranks(size, work, kind=ThreadRanks):
    """work(ranks) on each of so many threads; what they returned, in order. The first error is raised."""
    shared = Shared(size)
    results, errors = [None] * size, []

    def run(rank):
        try:
            results[rank] = work(kind(shared, rank))
        except BaseException as error:
            errors.append(error)
            shared.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if first or errors:
        raise (first or errors)[0]
    return results
