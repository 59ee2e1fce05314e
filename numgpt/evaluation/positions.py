"""Loss by position: how much a model learns from what it has read of the same text (the in-context curve)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..argument_kinds import as_array
from ..arguments import Ids, Size, checked
from ..errors import InputError
from ..model.gpt import GPT
from .likelihoods import Asked, surprises
from .statistics import Estimate, difference, estimate

EARLY, LATE = 50, 500  # of Olsson et al. 2022
OF_64 = 10, 50  # of windows that are shorter than LATE, of which 64 tokens are one


@dataclass(frozen=True, eq=False)
class Positions:
    """The losses of a text's tokens by their place in a window.

    losses: nats (N, T), of N windows of T tokens that are predicted; position t has t tokens before it.
    """

    losses: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean loss at each position, (T,): of position 1 stands at 0."""
        mean: NDArray[np.float64] = self.losses.mean(0)
        return mean

    @property
    def error(self) -> NDArray[np.float64]:
        """The standard error of each mean, (T,), over windows."""
        error: NDArray[np.float64] = self.losses.std(0, ddof=1) / np.sqrt(len(self.losses))
        return error

    @property
    def places(self) -> tuple[int, int]:
        """The positions that score compares: 50 and 500, or as far into a window as 10 and 50 into 64."""
        T = self.losses.shape[1]
        if T >= LATE:
            return EARLY, LATE
        early, late = (max(1, round(place * T / 64)) for place in OF_64)
        return early, late

    @checked
    def between(self, first: Size, last: Size) -> Estimate:
        """The mean loss at positions first to last, with its error over windows."""
        T = self.losses.shape[1]
        if not first <= last <= T:
            raise InputError(f"between: positions {first} to {last}, expected some from 1 to {T}, in order")
        return estimate(self.losses[:, first - 1 : last].mean(1))

    @checked
    def score(self, early: int | None = None, late: int | None = None) -> Estimate:
        """The in-context score: loss at the late position minus loss at the early one, paired by window.

        Below 0 the model predicts the better the more it has read. Source: Olsson et al. 2022.
        """
        T = self.losses.shape[1]
        first, last = self.places
        first, last = first if early is None else early, last if late is None else late
        if not 1 <= first < last <= T:
            raise InputError(f"score: positions {first} and {last}, expected two from 1 to {T}, in order")
        return difference(self.losses[:, last - 1], self.losses[:, first - 1])


@checked
def loss_by_position(
    model: GPT,
    ids: Ids,
    *,
    windows: Size = 256,
    batch_size: Size = 32,
    progress: Callable[[int], object] | None = None,
) -> Positions:
    """The losses of a text in windows that do not overlap, by position.

    Parameters
    ----------
    model : GPT
    ids : integers (N,)
        The text's tokens.
    windows : int
        How many at most, spread over the text; each has block_size + 1 tokens, of which all but the first are
        predicted.
    batch_size : int
    progress : callable, optional
        Called with the number of windows that each batch held.

    Raises
    ------
    InputError
        For a text of fewer than two windows.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.evaluation import loss_by_position
    >>> model = numgpt.GPT.load("numgpt:tiny")
    >>> text = numgpt.data.corpora.austen()[:20000]
    >>> found = loss_by_position(model, model.tokenizer.encode(text))
    >>> found.losses.shape, found.places, found.between(1, 1).value > found.between(33, 64).value
    ((256, 64), (10, 50), True)
    """
    T = model.config.block_size
    tokens = as_array("eval: ids", ids, "integers (N,)")
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise InputError(f"eval: ids are {tokens.dtype} of shape {tokens.shape}, expected integers (N,)")
    there = len(tokens) // (T + 1)
    if there < 2:
        raise InputError(
            f"eval: the text has {len(tokens):,} tokens, expected {2 * (T + 1):,} or more: two windows of"
            " block_size + 1, for an error needs two"
        )
    n = min(windows, there)
    begins = [(i * there // n) * (T + 1) for i in range(n)]
    parts = [np.asarray(tokens[begin : begin + T + 1]).astype(np.int64) for begin in begins]
    asked = [Asked(model.check_tokens(part[:-1]), model.check_tokens(part[1:])) for part in parts]
    return Positions(np.stack([-logp for logp, _ in surprises(model, asked, batch_size, progress)]))


def doubling(T: int) -> list[tuple[int, int]]:
    """Ranges of positions 1, 2–3, 4–7, … up to T: (first, last)."""
    ranges: list[tuple[int, Any]] = []
    first = 1
    while first <= T:
        ranges.append((first, min(2 * first - 1, T)))
        first *= 2
    return ranges
