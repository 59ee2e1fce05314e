"""Sampling: which id is chosen from the logits of a position."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Array = NDArray[Any]
FIRST_SORTED = 256  # ids that are sorted at first where no top_k says how many


def penalised(logits: Array, present: NDArray[np.bool_], penalty: float) -> Array:
    """Logits whose ids that are present already have become less likely.

        z ← z / penalty  where z ≥ 0,  z · penalty  where z < 0

    A penalty above 1 lowers both; 1 changes nothing. logits, present (B, V) → (B, V). Source: Keskar et al.
    2019, with the case z < 0 of those who used it after them: divided, such a logit would rise. What
    overflows is the largest number of its sign.

    >>> penalised(np.array([2.0, -2.0, 2.0]), np.array([True, True, False]), 2.0).tolist()
    [1.0, -4.0, 2.0]
    """
    logits = logits.real
    limits = np.finfo(logits.dtype)
    penalty = min(max(penalty, float(limits.tiny)), float(limits.max))  # as a number of the logits' dtype
    with np.errstate(over="ignore", under="ignore"):
        lowered = np.where(logits < 0, logits * penalty, logits / penalty)
    lowered = np.clip(lowered, limits.min, limits.max)  # what overflows is still a number
    return np.where(present & np.isfinite(logits), lowered, logits)


def choose(
    logits: Array,
    draw: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float = 0.0,
) -> int:
    """The id that a number in [0, 1) picks from the probabilities, sorted from the largest to the smallest.

        p = softmax(logits / temperature), sorted; equal ones by id
        the top_k first, of these the fewest whose sum reaches top_p, without those below min_p times the
        largest, scaled to sum 1
        the first id at which the running sum exceeds draw

    Sorted, so that engines which agree on the logits pick the same id.

    Parameters
    ----------
    logits : array (V,)
    draw : float
        At least 0 and less than 1.
    temperature : float
        Below 1 sharpens, above 1 flattens the distribution; 0 picks the largest.
    top_k : int, optional
        Choose from the top_k most likely ids.
    top_p : float, optional
        Choose from the fewest ids whose probabilities reach this sum (Holtzman et al. 2019).
    min_p : float
        Choose from ids at least this share as likely as the likeliest (Nguyen et al. 2024).

    Returns
    -------
    int

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.log([0.1, 0.6, 0.3])
    >>> choose(logits, 0.5), choose(logits, 0.7), choose(logits, 0.95)
    (1, 2, 0)
    """
    logits = logits.real
    if not np.isfinite(logits).all():
        raise InputError("generate: the logits are not finite, expected numbers: is the checkpoint whole?")
    if temperature == 0:
        return int(np.argmax(logits))
    logits = logits.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):  # a temperature near 0: −∞, probability 0
        probs = np.exp((logits - logits.max()) / temperature)
    # A few ids have nearly all of the probability: sort n of them, and more only if draw lies beyond.
    n = min(len(logits), top_k or FIRST_SORTED)
    while True:
        order = largest(logits, n)
        sums = np.cumsum(probs[order])
        whole = n in (top_k, len(logits))  # nothing that could be chosen is left out
        total = sums[-1] if whole else probs.sum()
        last = n - 1
        if top_p is not None:
            reached = int(np.searchsorted(sums, top_p * total))
            whole = whole or reached < n
            last = min(reached, n - 1)
            total = sums[last]
        if min_p > 0:  # the largest of probs is 1
            likely = int((probs[order] >= min_p).sum())
            whole = whole or likely < n
            last = min(last, likely - 1)
            total = sums[last]
        place = int(np.searchsorted(sums, draw * total, side="right"))
        if whole or (top_p is None and min_p == 0 and place < n):
            return int(order[min(place, last)])
        n = min(len(logits), 8 * n)


def choose_each(logits: Array, draws: Array, temperature: float = 1.0) -> NDArray[np.int64]:
    """The ids that numbers in [0, 1) pick in rows of logits, from p = softmax(logits / temperature) as it is.

        the first id at which the running sum of p, in the order of the ids, exceeds the row's draw

    For many rows of few ids at once; nothing is left out or sorted, so the probability of what is chosen is
    the model's own. logits (B, V), draws (B,) → (B,)

    >>> choose_each(np.log([[0.1, 0.6, 0.3]] * 3), np.array([0.05, 0.5, 0.95])).tolist()
    [0, 1, 2]
    """
    logits = logits.real.astype(np.float64)
    if not np.isfinite(logits).all():
        raise InputError("generate: the logits are not finite, expected numbers: is the checkpoint whole?")
    with np.errstate(over="ignore", under="ignore"):
        sums = np.cumsum(np.exp((logits - logits.max(-1, keepdims=True)) / temperature), axis=-1)
    # A draw next to 1 times the sum may round to the sum itself.
    places = (sums <= draws[:, None] * sums[:, -1:]).sum(-1)
    return np.minimum(places, (sums < sums[:, -1:]).sum(-1))


def largest(x: Array, n: int) -> Array:
    """The places of the n largest entries, from the largest down; equal ones by place.  x (V,) → (n,)"""
    if n >= len(x):
        places = np.arange(len(x))
    else:
        least = np.partition(x, len(x) - n)[len(x) - n]
        places = np.flatnonzero(x >= least)
    return places[np.argsort(-x[places], kind="stable")][:n]
