"""Schedules: the learning rate of each step."""

from __future__ import annotations

import math

from ..architecture.config import Training
from ..arguments import Count, checked


def _cosine(x: float, training: Training) -> float:
    """Half a wave, flat at both ends."""
    return 0.5 * (1 + math.cos(math.pi * x))


def _linear(x: float, training: Training) -> float:
    """A line."""
    return 1 - x


def _constant(x: float, training: Training) -> float:
    """No fall."""
    return 1.0


def _stable_then_linear(x: float, training: Training) -> float:
    """No fall until the cooldown, then a line."""
    return 1.0 if 1 - x >= training.cooldown else (1 - x) / training.cooldown


SHAPES = {"cosine": _cosine, "linear": _linear, "constant": _constant, "wsd": _stable_then_linear}


@checked
def learning_rate(step: Count, training: Training) -> float:
    """The learning rate of step 0, 1, …: linear warm-up, then what the schedule says.

        warm-up      lr (step + 1) / (warmup + 1)
        after it     min_lr + (lr − min_lr) f(x)
                     x from 0 at the warm-up's end to 1 at the end, after the last step
                     f = ½ (1 + cos πx)                      cosine
                         1 − x                               linear
                         1                                   constant
                         min(1, (1 − x) / c)                 wsd, warm-up, stable, decay: c the cooldown

    wsd falls in the last share c of those steps alone, so one run can be ended at several lengths, each from
    a checkpoint of before its cooldown.  Source of wsd: Hu et al. 2024.

    Parameters
    ----------
    step : int
        The updates before this one.
    training : Training
        Its lr, min_lr, warmup, steps, schedule and cooldown.

    Examples
    --------
    >>> from numgpt import Training
    >>> training = Training(steps=100, warmup=9, lr=1e-3, schedule="linear")
    >>> learning_rate(0, training), learning_rate(9, training), learning_rate(100, training)
    (0.0001, 0.001, 0.0001)
    """
    if step < training.warmup:
        return training.lr * (step + 1) / (training.warmup + 1)
    steps = max(1, training.steps - training.warmup)
    x = min(step - training.warmup, steps) / steps
    return training.final_lr + (training.lr - training.final_lr) * SHAPES[training.schedule](x, training)
