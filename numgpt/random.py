"""Random generators that depend on what they are for, never on the order of the calls."""

from __future__ import annotations

import hashlib
import operator
from typing import Any, SupportsIndex

import numpy as np

Word = str | SupportsIndex | tuple[Any, ...]


def generator(seed: SupportsIndex, *words: Word) -> np.random.Generator:
    """A generator of its own for (seed, words), such as generator(0, "dropout", step, "h.0.mlp.dropout").

    Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): its whole
    state is a 128-bit key and a counter. The key is a hash of the words, so a draw can be made again without
    replaying what came before it: a resumed run has no generator to restore.
    """
    key = hashlib.blake2b(repr(_plain((seed, *words))).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _plain(word: Word) -> object:
    """The word with integers of every type as Python's, so that NumPy's 3 and 3 are one seed."""
    if isinstance(word, tuple):
        return tuple(map(_plain, word))
    return word if isinstance(word, str) else operator.index(word)
