"""What this processor can do at most: multiplications and additions a second, and bytes read a second.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52 (2009): work of
F operations on B bytes takes at least max(F / peak, B / bandwidth) seconds.
"""

import time
from typing import NamedTuple

import numpy as np

from .jit import SUMS, kernel, launch, parallel, threads

CHUNK = 1 << 18  # numbers that a task reads
# Bytes of sums that a task has: 12 registers of 256 bits or 8 of 512, so many that none waits for the
# addition before it, and so few that all stay in registers. Which are there is found out: the faster counts.
FEW, MANY = 384, 512
REPEATS = 100_000


class Roofline(NamedTuple):
    """The two limits, on the threads that kernels use.

    flops: a second, of fused multiplications and additions in registers, each two. bandwidth: bytes a second
    that a pass over memory reads.
    """

    flops: float
    bandwidth: float

    def seconds(self, flops: float, moved: float) -> float:
        """The least time that this many operations and bytes take."""
        return max(flops / self.flops, moved / self.bandwidth)


@kernel
def _multiply_add_row(row, size, repeats, factor, term):
    for _ in range(repeats):
        for i in range(size):
            row[i] = row[i] * factor + term


# The compiler has to know the size, so that it keeps the row in registers: where an argument is None, Numba
# leaves its branch out.


@parallel
def _multiply_add(task, repeats, factor, term, many, double, sums):
    """sums[task] ← sums[task] factor + term, again and again, on the first FEW bytes, or MANY."""
    row = sums[task]
    if many is None:
        if double is None:
            _multiply_add_row(row, FEW // 4, repeats, factor, term)
        else:
            _multiply_add_row(row, FEW // 8, repeats, factor, term)
    elif double is None:
        _multiply_add_row(row, MANY // 4, repeats, factor, term)
    else:
        _multiply_add_row(row, MANY // 8, repeats, factor, term)


@kernel(fastmath=SUMS)
def _sum(x):
    s = x.dtype.type(0)
    for i in range(len(x)):
        s += x[i]
    return s


@parallel
def _chunk_sums(chunk, x, sums):
    sums[chunk] = _sum(x[chunk * CHUNK : (chunk + 1) * CHUNK])


def read(x, sums):
    """Read x on all threads: sums ← those of its chunks of CHUNK numbers."""
    launch(_chunk_sums, -(-len(x) // CHUNK), x, sums)


def measured(dtype="float32", rounds=5):
    """The Roofline of this machine for a dtype: the best of some rounds."""
    number, flops = np.dtype(dtype).type, 0.0
    double = True if number is np.float64 else None
    for many, size in ((None, FEW), (True, MANY)):
        sums = np.ones((threads(), MANY), dtype)
        given = REPEATS, number(0.5), number(0.25), many, double, sums
        done = 2 * REPEATS * len(sums) * size // sums.itemsize
        flops = max(flops, done / _best(rounds, launch, _multiply_add, len(sums), *given))
    x = np.ones(64 << 20 >> 2, np.float32)  # 64 MiB: more than caches hold
    chunks = np.empty(-(-len(x) // CHUNK), np.float32)
    return Roofline(flops, x.nbytes / _best(rounds, read, x, chunks))


def _best(rounds, function, *args):
    """The least of the seconds that a call takes, after one that compiles."""
    function(*args)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function(*args)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
