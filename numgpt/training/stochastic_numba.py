"""Twin of stochastic rounding: one pass over the numbers."""

import numpy as np

from ..engine.jit import kernel, launch, parallel
from .stochastic import FIRST, KEPT, ODD, SECOND

CHUNK = 65536  # numbers a task
# As numbers of 64 bits without a sign: beside a plain one Numba would compute in floats.
ODD, FIRST, SECOND = np.uint64(ODD), np.uint64(FIRST), np.uint64(SECOND)
S27, S30, S31, S48 = (np.uint64(n) for n in (27, 30, 31, 48))
KEPT = np.uint32(KEPT)


@kernel
def mixed(z):
    """Twin of stochastic.mixed."""
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@parallel
def chunk_rounded(chunk, bits, key, begin):
    """The numbers of a chunk, as bits, rounded in place."""
    first = chunk * CHUNK
    part = bits[first : first + CHUNK]
    start = begin + np.uint64(first)
    for i in range(len(part)):
        r = np.uint32(mixed((start + np.uint64(i)) * ODD + key) >> S48)
        part[i] = np.uint32(np.uint32(part[i] + r) & KEPT)


def round_stochastically(w, key, begin):
    """Twin of stochastic.round_stochastically."""
    launch(chunk_rounded, -(-len(w) // CHUNK), w.view(np.uint32), np.uint64(key), np.uint64(begin))
