"""What a pair has to keep before its gradients are judged: it writes to nothing, and is repeatable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pair import (
    Array,
    Backward,
    Forward,
    GradientError,
    argument_names,
    constants,
    gradients,
    is_float,
    run,
    title,
)

PURE, REPEATABLE = "pure", "repeatable"
FEW = 16  # numbers: of a smaller pair more runs are made, for its draws may fall alike by chance
ROOM = 1e3  # eps of the largest: what no draw at random stays within, and an order of summation does
ADVICE = (
    "draw once, and pass what was drawn as an option (keep=mask), or seed the generator inside; of a module"
    " of PyTorch, module.eval()"
)


@dataclass(frozen=True)
class Run:
    """A pair run once, and its arguments that it wrote to."""

    y: Any
    saved: Any
    dy: Any
    grads: list[Any]
    wrote: tuple[str, ...]  # "the forward wrote to x"


def first_run(
    forward: Forward,
    backward: Backward,
    arrays: Sequence[Any],
    options: dict[str, Any],
    upstream: Callable[[Any], Any],
) -> Run:
    """Run a pair, and watch what it writes to; upstream: y → dy."""
    titles = map(title, range(len(arrays)), argument_names(forward, len(arrays)))
    named = {**options, **dict(zip(titles, arrays))}
    watched = {name: array for name, array in named.items() if isinstance(array, np.ndarray)}
    before = {name: array.copy() for name, array in watched.items()}

    def written(half: str) -> list[str]:
        names = [name for name, array in watched.items() if before[name].tobytes() != array.tobytes()]
        for name in names:
            before[name] = watched[name].copy()
        return [f"the {half} wrote to {name}" for name in names]

    y, saved = run(forward, arrays, options)
    wrote = written("forward")
    dy = upstream(y)
    watched["dy"] = np.asarray(dy)
    before["dy"] = watched["dy"].copy()
    grads = gradients(backward(dy, saved), arrays, constants(forward))
    return Run(y, saved, dy, grads, (*wrote, *written("backward")))


def what_wrote(first: Run) -> str:
    """What the pair wrote to and what to do, "" for nothing."""
    if not first.wrote:
        return ""
    return f"{' and '.join(first.wrote)}: what the caller owns changes under his hands; write to a copy"


def what_differs(
    forward: Forward,
    backward: Backward,
    arrays: Sequence[Any],
    options: dict[str, Any],
    first: Run,
    to_the_bit: bool = True,
) -> list[str]:
    """What comes out otherwise when the pair is run again, with what to do; [] for nothing.

    to_the_bit: or else beyond what another order of summation may do. The backward runs again with new saved
    values, and with the same ones too; where it raises on these they are good for one use, which only laws to
    the bit forbid.
    """
    differ = _bits_differ if to_the_bit else _differ_beyond_rounding
    size = max(np.size(first.y), *(np.size(a) for a in arrays if is_float(a)), 1)
    for _ in range(max(1, FEW // size)):
        y, saved = run(forward, arrays, options)
        share = _share(differ(np.asarray(first.y), np.asarray(y)))
        if share:
            return [f"the forward gives another value each time ({share}), as if it drew at random: {ADVICE}"]
    names = [title(i, n) for i, n in enumerate(argument_names(forward, len(arrays)))]
    for kept in (saved, first.saved):
        try:
            again = gradients(backward(first.dy, kept), arrays, constants(forward))
        except Exception:  # whatever the user's code raises
            if to_the_bit or kept is saved:
                raise
            break
        shares = {
            name: _share(differ(grad, other))
            for name, grad, other in zip(names, first.grads, again)
            if grad is not None and other is not None
        }
        differences = [f"{name} ({share})" for name, share in shares.items() if share]
        if differences:
            return [
                f"the backward gives another gradient each time for {' and '.join(differences)}: it draws at"
                " random, remembers, or writes to what the forward saved"
            ]
    return []


def require(
    forward: Forward, backward: Backward, arrays: Sequence[Any], options: dict[str, Any], first: Run
) -> None:
    """Raise GradientError for a pair that writes to its arguments, or gives something else each time."""
    writes = what_wrote(first)
    if writes:
        raise GradientError(f"{PURE}: {writes}. There is no verdict on its gradients before that")
    for difference in what_differs(forward, backward, arrays, options, first, to_the_bit=False):
        raise GradientError(f"{REPEATABLE}: {difference}. There is no verdict on its gradients before that")


def _share(differ: Iterable[Any]) -> str:
    """How many elements differ, "" for none."""
    mask = np.asarray(differ)
    count = int(mask.sum())
    return f"{count:,} of {mask.size:,} element{'s' * (mask.size != 1)}" if count else ""


def _bits_differ(one: Array, other: Array) -> Array:
    if one.shape != other.shape or one.dtype != other.dtype:
        return np.ones(one.shape, bool)
    same = (one == other) & (np.signbit(one) == np.signbit(other))
    return ~(same | (np.isnan(one) & np.isnan(other)))


def _differ_beyond_rounding(one: Array, other: Array) -> Array:
    if one.shape != other.shape:
        return np.ones(one.shape, bool)
    eps = float(np.finfo(one.dtype).eps)
    with np.errstate(invalid="ignore"):
        apart = abs(one.astype(np.float64) - other.astype(np.float64))
    limit = ROOM * eps * abs(one[np.isfinite(one)]).max(initial=0.0)
    is_same = (one == other) | (np.isnan(one) & np.isnan(other))
    return ~(is_same | (apart <= limit))
