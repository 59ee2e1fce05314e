"""Points without a derivative: the slopes from the left and from the right, and whether they disagree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .pair import Array
from .steps import SMALLEST, step_size
from .witness import Arrays, Witness, values_along

STEPS, MOST = 20, 50  # how often the step is made smaller, to a quarter
LEAST = 1e-4  # of the largest slope: what roundings feign is less
IN_ROW, STEADY = 3, 0.03  # steps over which a kink's jump is the same, but for so much of it
NOISE = 16  # roundings of a value, as a forward of many terms makes them
NEAR = (4, 7, 11, 16, 23, 40)  # roundings that a point is moved by, to see how steady the values are
CHUNK = 64  # elements that are looked at before the next are decided on
NAMED = 3  # elements in a message
NONE = "no derivative at"


@dataclass(frozen=True)
class Sides:
    """The slopes of each output beside a point along one element, and where the two disagree.

    error: how far the two slopes may be off.
    """

    left: Array
    right: Array
    apart: Array
    error: Array

    def between(self, dy: Array, slope: Array, error: Array) -> tuple[float, float, float]:
        """(least, most) of ⟨dy, J v⟩ over all conventions, and how far these may be off.

        A convention is a slope from left to right for each output. slope, error: J v of the outputs that have
        one, and how far it may be off.
        """
        ends = [dy * np.where(self.apart, side, slope) for side in (self.left, self.right)]
        off = abs(dy) * np.where(self.apart, self.error, error)
        return float(np.minimum(*ends).sum()), float(np.maximum(*ends).sum()), float(off.sum())


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
    left = right = level = np.zeros_like(centre)
    error = np.full(centre.shape, np.inf)
    apart = np.zeros(centre.shape, bool)
    for h in _shrinking(start, eps * place):
        ahead, behind = value(h), value(-h)
        slopes = (centre - behind) / h, (ahead - centre) / h
        jump = abs(ahead - 2 * centre + behind) / h
        rounding = NOISE * eps * (abs(ahead) + abs(behind) + place * abs(ahead - behind) / h)
        noise = np.maximum(rounding, jitter) / h
        jumps.append(jump)
        if len(jumps) > IN_ROW:
            before = np.array(jumps[-IN_ROW - 1 : -1])
            off = np.max(abs(before - jump), 0)
            stays = (off <= STEADY * jump + noise) & (noise <= STEADY * jump)
            stays &= jump > LEAST * np.max(np.abs(slopes), initial=0.0)
            falls = ~stays & (noise <= 0.05 * level) & (jump < 0.5 * level)
            apart = (apart | stays) & ~falls
            level = np.where(stays, jump, np.where(falls, 0.0, level))
            better = stays & (abs(jumps[-2] - jump) + noise < error)
            error = np.where(better, abs(jumps[-2] - jump) + noise, np.where(apart, error, np.inf))
            left, right = (np.where(better, *pair) for pair in zip(slopes, (left, right)))
        is_known = noise <= 0.05 * np.maximum(jump, level)
        if not is_known.any():
            break
    return Sides(left, right, apart, error) if apart.any() else None


def _shrinking(start: float, last: float) -> list[float]:
    """STEPS steps, or more, but not MOST: down to the last, the spacing of floats at the point."""
    start = min(start, math.ldexp(last, 2 * MOST)) if last else start
    least = min(math.ldexp(start, -2 * STEPS), last or start)
    count = int(np.ceil((np.log(start) - np.log(max(least, SMALLEST))) / np.log(4)))
    return [math.ldexp(start, -2 * k) for k in range(max(STEPS, count + 1))]


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
