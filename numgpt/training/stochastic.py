"""Weights without float32 masters: after each step a number becomes one of the two bf16 numbers beside it."""

from collections.abc import Sequence

import numpy as np

from .. import engine
from ..architecture.parameters import Flat
from ..random import generator

BLOCK = 1 << 20  # numbers at once
ODD, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64 (Steele 2014)
KEPT = 0xFFFF0000  # the bits of float32 that bf16 has


def key_of(seed: int, step: int) -> int:
    """64 bits that depend on the seed and the step alone."""
    return int(generator(seed, "stochastic rounding", step).integers(2**64, dtype=np.uint64))


# What has twins is written without types, as the twins are: their signatures are held to be equal.
def round_stochastically(w, key, begin):  # type: ignore[no-untyped-def]
    """w (N,) in place ← the bf16 number below or above, in size, with a chance that makes w the mean.

        r_i = the upper 16 bits of hash(key + (begin + i) ODD),  uniform in 0 … 2¹⁶ − 1
        w ← the upper 16 bits of (w's bits + r)

    The lower 16 bits of w are the share x 2¹⁶ of the way from one bf16 number to the next; adding r carries
    for x 2¹⁶ of the 2¹⁶ numbers that r may be, so ⟨w⟩ = (1 − x) below + x above = w. An update that is less
    than half a place, which rounding to the nearest would lose each time, arrives as often as it should.

    The hash depends on the key and the place in the whole buffer, which begins at `begin`, and on nothing
    that was drawn before: not on blocks, threads or ranks.
    """
    for i in range(0, len(w), BLOCK):
        part = w[i : i + BLOCK]
        place = np.arange(begin + i, begin + i + len(part), dtype=np.uint64, like=part)
        r = (mixed(place * np.uint64(ODD) + np.uint64(key)) >> np.uint64(48)).astype(np.uint32)
        bits = part.view(np.uint32)
        bits[...] = (bits + r) & np.uint32(KEPT)


def mixed(z):  # type: ignore[no-untyped-def]
    """SplitMix64's hash of 64 bits: a bit of z changes each bit of the result with a chance of one half."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    return z ^ (z >> np.uint64(31))


def round_trained(params: Flat, runs: Sequence[tuple[slice, slice]], seed: int, step: int) -> None:
    """Round, of the Flat of all parameters, the parts that a step has moved, as AdamW's runs says them."""
    key = key_of(seed, step)
    for whole, _ in runs:
        part = params.flat[whole]
        engine.twin(round_stochastically, part)(part, key, whole.start)
