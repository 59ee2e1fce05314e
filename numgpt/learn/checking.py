"""check: a student's function in a notebook or a program, judged where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import checked
from ..errors import InputError, did_you_mean
from .exercises import NAMES
from .judging import judge
from .telling import told
from .variation import exercise as find
from .verdict import Report


@dataclass(frozen=True, repr=False)
class Answer(Report):
    """A report that prints as a student reads it."""

    def __repr__(self) -> str:
        return told(self)


@checked
def check(function: Callable[..., Any], exercise: str = "", student: str = "") -> Answer:
    """Say what is wrong with the function of an exercise; the answer prints as a student reads it.

    The function runs in this process, without a limit of time: `numgpt learn check FILE` has both.

    Parameters
    ----------
    function : callable
        What was to be filled, such as layernorm_backward(dy, saved).
    exercise : str
        Which exercise it is; unless given, that whose function has this name.
    student : str
        Whose variant it is.

    Returns
    -------
    Answer
        answer.right, answer.codes, and answer.gradients with what was found in each.

    Examples
    --------
    >>> import numgpt
    >>> def softmax_backward(dy, saved):
    ...     x, p = saved
    ...     return p * dy
    >>> numgpt.learn.check(softmax_backward).codes
    ('SM_SUM_TERM_MISSING',)
    """
    with np.errstate(all="ignore"):  # whatever the caller's NumPy raises
        report = judge(find(exercise or _name_of(function), student), function)
    return Answer(**vars(report))


def _name_of(function: Callable[..., Any]) -> str:
    """The exercise whose function has this name."""
    fills = {find(name).fill: name for name in NAMES}
    name = getattr(function, "__name__", "")
    if name not in fills:
        meant = did_you_mean(name, fills)
        raise InputError(
            f"learn.check: no exercise has a function {name}{meant}, expected one of {', '.join(fills)}, or"
            " exercise="
        )
    return fills[name]
