"""What an op holds for its backward, from its line: arrays without memory, whose bytes are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .line import read
from .op import Op
from .scalings import HOST

DTYPES = {"bool": np.dtype(bool), "int": np.dtype(np.int64)}


def blank(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """An array of a shape and a type that takes no memory: it is zero everywhere.

    >>> blank((1000, 1000), "float32").nbytes
    4000000
    """
    return np.broadcast_to(np.zeros((), dtype, like=HOST), tuple(shape))


def saved(op: Op, arrays: Sequence[Any], options: Mapping[str, Any], y: Any) -> list[Any]:
    """The arrays that a run of an op holds for its backward: those of the run, and blank ones of its own.

    y: the value, which has the type of what the op makes. An op without a line holds all that it was given.
    """
    if op.saves is None:
        return [a for a in arrays if a is not None]
    if callable(op.saves):
        return list(op.saves(arrays, options, y))
    named = {**dict(zip((a.name for a in op.arguments), arrays)), **options, "y": y}
    own = [word for word in op.saves.split() if not word.islower() or word.startswith("...")]
    held = [named[word] for word in op.saves.split() if word not in own and named.get(word) is not None]
    shapes = [None if a is None else a.shape for a in arrays]
    bound = op.bound(shapes, options) if own else {}
    for word in own:
        text, _, kind = word.partition(":")
        argument = read(word, text)
        lead = _lead(op, arrays) if argument.lead else ()
        held.append(blank((*lead, *argument.shape(bound)), DTYPES.get(kind, y.dtype)))
    return held


def _lead(op: Op, arrays: Sequence[Any]) -> tuple[int, ...]:
    """The leading axes that the arrays of a run have in common."""
    first, argument = next((x, a) for x, a in zip(arrays, op.arguments) if x is not None and a.lead)
    shape: tuple[int, ...] = first.shape
    return shape[: len(shape) - len(argument.axes)]
