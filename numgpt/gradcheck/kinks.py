"""Points without a derivative: the slopes from the left and from the right, and whether they disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .pair import Array
from .witness import Arrays, Witness, step_size, values_along

STEPS, SHRINK = 20, 4  # how often the step is made smaller, and by how much
LEAST = 1e-4  # of the largest slope: what roundings feign is less
NOISE = 16  # roundings of a value, as a forward of many terms makes them
NEAR = (4, 7, 11, 16, 23, 40)  # roundings that a point is moved by, to see how steady the values are
CHUNK = 64  # elements that are looked at before the next are decided on
NAMED = 3  # elements in a message
NONE = "no derivative at"


@dataclass(frozen=True)
class Sides:
    """The slopes of each output beside a point along one element, and where the two disagree."""

    left: Array
    right: Array
    apart: Array

    def between(self, dy: Array, slope: Array) -> tuple[float, float]:
        """(least, most) of ⟨dy, J v⟩ over all conventions: each slope from left to right.

        slope: J v, of the outputs that have one.
        """
        ends = [dy * np.where(self.apart, side, slope) for side in (self.left, self.right)]
        return float(np.minimum(*ends).sum()), float(np.maximum(*ends).sum())


Kinks = dict[int, Sides]


def sides(witness: Witness, points: Arrays, i: int, j: int) -> Sides | None:
    """The Sides of element j (flat) of argument i, None where no output has a kink there.

        J(h) = |f(x + h) − 2 f(x) + f(x − h)| / h

    is the distance of the two slopes. It falls with h where f is smooth, and stays at a kink, down to steps
    that the rounding of f hides. A kink beside x lets it fall as soon as the step is too short to reach it.
    """
    eps = float(np.finfo(witness.dtype).eps)
    direction = np.zeros(points[i].shape)
    direction.reshape(-1)[j] = 1.0
    directions = [direction if k == i else None for k in range(len(points))]
    value = values_along(witness.forward, points, directions, witness.options, witness.dtype)
    start = eps**0.2 * (step_size(np.asarray(points[i]), direction) or 1.0)
    place = abs(float(points[i].reshape(-1)[j]))
    with np.errstate(all="ignore"):
        model = _sides(value, start, eps, place, 0.0)
        if model is None:
            return None
        # What looks like a kink may be what the function's own arithmetic makes of roundings: by how much its
        # values jump between points that are some roundings apart tells.
        centre = value(0.0)
        near = [n * eps * max(start / eps**0.2, place) for n in NEAR]
        jumps = [abs(value(h) - 2 * centre + value(-h)) for h in near]
        return _sides(value, start, eps, place, 8 * np.max(jumps, 0))


def _sides(
    value: Callable[[float], Array], start: float, eps: float, place: float, jitter: Array | float
) -> Sides | None:
    """The same for t → f(x + t e_j), from the first step on.

    place: |x_j|. jitter: by how much the values jump for no reason.
    """
    centre = value(0.0)
    jumps: list[Array] = []
    # once may be chance, but float32 has not room for more
    is_single = eps > 1e-10
    left = right = level = np.zeros_like(centre)
    apart = stayed = np.zeros(centre.shape, bool)
    for k in range(STEPS):
        h = start / SHRINK**k
        ahead, behind = value(h), value(-h)
        jump = abs(ahead - 2 * centre + behind) / h
        rounding = NOISE * eps * (abs(ahead) + abs(behind) + place * abs(ahead - behind) / h)
        noise = np.maximum(rounding, jitter) / h
        jumps.append(jump)
        if k >= 2:
            # between a half of it, for what bends beside it, and four times, which roundings exceed
            stays = (jump > 0.5 * jumps[k - 2]) & (jump < 4 * jumps[k - 2]) & (noise <= 0.05 * jump)
            stays &= jump > LEAST * np.max([abs(ahead - centre), abs(centre - behind)], initial=0.0) / h
            falls = ~stays & (noise <= 0.05 * level) & (jump < 0.5 * level)
            apart = (apart | (stays & (stayed | is_single))) & ~falls
            stayed = stays
            level = np.where(stays, jump, np.where(falls, 0.0, level))
            left = np.where(stays, (centre - behind) / h, left)
            right = np.where(stays, (ahead - centre) / h, right)
        is_known = noise <= 0.05 * np.maximum(jump, level)
        if not is_known.any():
            break
    return Sides(left, right, apart) if apart.any() else None


def search(witness: Witness, points: Arrays, i: int, order: Iterable[int], rest: Iterable[int]) -> Kinks:
    """Flat index → Sides of the elements of argument i that are at a kink.

    order: the likeliest first. After each CHUNK of them it goes on only if half of these were at one: so many
    elements have no other reason. rest: more elements, which are looked at where one of the others is.
    """
    found: Kinks = {}

    def look(elements: Iterable[int]) -> None:
        for j in elements:
            there = sides(witness, points, i, j)
            if there is not None:
                found[j] = there

    likely = list(order)
    for start in range(0, len(likely), CHUNK):
        chunk = likely[start : start + CHUNK]
        look(chunk)
        if 2 * sum(j in found for j in chunk) < len(chunk):
            break
    if found:
        look(rest)
    return found


def sentence(title: str, places: Sequence[tuple[int, ...]]) -> str:
    """That there is no derivative, where, and what to do."""
    names = [f"{title}[{', '.join(map(str, place))}]" if place else title for place in places[:NAMED]]
    more = len(places) - len(names)
    where = ", ".join(names) + (f" and {more:,} more" if more else "")
    points = "the points" if len(places) > 1 else "the point"
    return f"{NONE} {where}: left and right disagree; move {points}"
