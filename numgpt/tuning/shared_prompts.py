"""Two responses to a prompt in one row, which reads the prompt once: one stands before it, the other behind.

    a₃ a₂ a₁ | p₁ p₂ p₃ p₄ | b₁ b₂ b₃        each sees the prompt, and of its own response what came before it

The one before the prompt stands backwards, so that what a token sees lies side by side, as attention wants
it; its positions count as if it stood behind. So a token has the log-probability that it has in a row of its
own, but for rounding, and of a prompt as long as its responses a third less is computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..layers.visibility import Visibility

Integers = NDArray[np.int64]

# Positions that are read off what a token is said to stand at; the distance of two places is another one.
BY_NUMBER = ("learned", "sinusoidal", "rotary", "none")
WORTH = 0.85  # of the positions of rows of their own: with more, longer rows cost attention what is saved


class Shared(NamedTuple):
    """Pairs of rows, M = N / 2.

    tokens: integers (M, S). visibility: where they stand and what they see. places (N, T): for each place of
    the N rows the one in M S that takes its part; 0 where no response's token is predicted.
    """

    tokens: Integers
    visibility: Visibility
    places: Integers


def shareable(config: Config) -> bool:
    """Whether a model sees in such rows what it sees in others.

    A window would be counted in places, and so would ALiBi's distances.
    """
    kinds = config.scopes().values()
    return all(kind.window is None and kind.positions in BY_NUMBER for kind in kinds)


def shared(tokens: Integers, first: Integers, length: Integers, targets: Integers) -> Shared | None:
    """Rows (N, T + 1) of a rollout in pairs, whose prompts are alike; None where that saves little.

    first, length (N): of the responses. targets (N, T): negative where no response's token is predicted.
    """
    N, T = targets.shape
    size, a, b = first[::2], length[::2] - 1, length[1::2] - 1  # the last token predicts nothing
    before = int(a.max())
    S = before + int((size + b).max())
    if len(size) * S > WORTH * N * T:
        return None
    place = np.arange(S)
    column = np.where(place < before, size[:, None] - 1 + before - place, place - before)  # in the own row
    end = np.where(place < before, (size + a)[:, None], (size + b)[:, None])
    here = column < end
    column = np.where(here, column, 0)
    of_a, of_b = (np.take_along_axis(tokens[rows::2], column, 1) for rows in (0, 1))
    ids = np.where(here, np.where(place < before, of_a, of_b), 0)
    begins = np.where(here & (place >= before), before, place)
    ends = np.where(here & (place < before), (before + size - 1)[:, None], place)
    return Shared(ids, Visibility(column, begins, ends), _places(size, before, S, targets))


def _places(size: Integers, before: int, S: int, targets: Integers) -> Integers:
    """For each place of the rows (N, T) the one that takes its part."""
    t = np.arange(targets.shape[1])
    behind = np.broadcast_to(before + t, targets[1::2].shape)
    ahead: Any = np.where(t < size[:, None], before + t, before + size[:, None] - 1 - t)
    both = np.stack([ahead, behind], 1) + (S * np.arange(len(size)))[:, None, None]
    return np.where(targets >= 0, both.reshape(targets.shape), 0)
