"""The steps of central differences: which are tried, what each says, and which of two is believed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pair import Array

SHRINK = 64  # from one step to the next
SMALLER, LARGER = 40, 12  # how many, at most
SMALLEST = 1e-290  # a size whose steps are still numbers
LOST = 1e4  # roundings of the largest element: a sum with it has few digits of such a step
CONTRADICTS = 4  # times what one step's own quotients are apart: so far from another step's is no chance


@dataclass(frozen=True)
class Steps:
    """Which steps h are tried along some directions.

    first: with which it begins, eps^(1/5) of the arrays' size. smaller: those that are tried where the first
    is too large; of these the first `count` in any case, the others where nothing is known yet. larger: those
    that are tried where the values hide the first. blur: the rounding of the points, in units of the
    directions. lost: what sums over the arrays may lose.
    """

    first: Any
    smaller: list[Any]
    count: int
    larger: Array
    blur: float
    lost: float

    @classmethod
    def of(cls, moving: Sequence[tuple[Array, Array]], dtype: np.dtype[Any]) -> Steps:
        """For the arrays that move, and their directions.

        Smaller steps end at the spacing of floats at the element that moves. Where that is 0, or where
        several move, it is the spacing at the smallest of the arrays' elements, or its square.
        """
        eps = float(np.finfo(dtype).eps)
        reach = max(float(abs(v).max(initial=0.0)) for _, v in moving) or 1.0
        size = max(max(step_size(a, v) for a, v in moving) or 1.0, SMALLEST)
        sizes = [abs(np.asarray(a, np.float64)) for a, _ in moving]
        place = own_size(moving)
        is_exact = place is not None and reach == 1
        rounding = eps * max(float(s.max(initial=0.0)) for s in sizes) / reach
        least = place or min(size, *(float(s.min(where=s > 0, initial=np.inf)) for s in sizes))

        def exact(h: float) -> Any:
            """h, such that x ± h, x ± h/2 and x ± h/4 are floats; 0 where it is lost."""
            if not (place and is_exact):
                return h
            unit = np.spacing(dtype.type(place + h))
            quarter = np.floor(dtype.type(h) / 4 / unit) * unit
            return 4 * quarter if dtype == np.longdouble else 4 * float(quarter)

        first = eps**0.2 * size / reach
        smaller = _down(first, eps * least / reach)
        count = len(smaller)
        if not place:
            smaller += _down((smaller or [first])[-1], eps**2 * least / reach)
        steps = [h for h in map(exact, smaller) if h > 0]
        larger = _up(first, eps**0.2 / reach)
        return cls(
            exact(first) or first, steps, count, larger, 0.0 if is_exact else rounding, LOST * rounding
        )


def _down(first: float, last: float) -> list[float]:
    """Steps that shrink by SHRINK down to the last, or by more where that is far."""
    last = max(last, SMALLEST)
    if not last < first < np.inf:  # the points may not be finite
        return []
    count = int(np.ceil((np.log(first) - np.log(last)) / np.log(SHRINK)))
    if count <= SMALLER:
        return [first / SHRINK**k for k in range(1, count + 1)]
    return [float(h) for h in np.geomspace(first, last, SMALLER + 1)[1:]]


def _up(first: float, last: float) -> Array:
    """Steps that grow by SHRINK up to the last, or by more where that is far."""
    if not first < last:
        return np.zeros(0)
    count = int(np.ceil((np.log(last) - np.log(first)) / np.log(SHRINK)))
    return np.geomspace(first, last, min(LARGER, count) + 1)[1:]


@dataclass(frozen=True)
class Quotient:
    """What one triple of steps h, h/2, h/4 says of the derivative of each output.

    slope: the derivative. error: how far it may be off, infinite where that is unknown. floor: what the
    rounding of the value at x has in that, at least. spread: how far the three quotients are apart, and what
    else speaks of noise. moves: whether the value moves at all with the step, or is 0, which hides nothing.
    is_blurred: whether sums inside the function may lose the step, as 1e12 + h loses it.
    """

    slope: Array
    error: Array
    floor: Array
    spread: Array
    moves: Array
    is_blurred: Array

    @classmethod
    def at(
        cls, value: Callable[[float], Array], centre: Array, h: float, eps: float, steps: Steps
    ) -> Quotient:
        """From the values at 0, the centre, and at ±h, ±h/2, ±h/4."""
        quotients, bends = [], []
        rounding, moves = np.zeros_like(centre), np.zeros(centre.shape, bool)
        for t in (h, h / 2, h / 4):
            ahead, behind = value(t), value(-t)
            quotients.append((ahead - behind) / (2 * t))
            bends.append(ahead - 2 * centre + behind)
            rounded = abs(ahead) + abs(behind) + 2 * (abs(ahead - centre) + abs(behind - centre))
            blur = steps.blur * abs(quotients[-1]) / t
            rounding = eps * rounded / t + blur
            moves = moves | (ahead != centre) | (behind != centre) | (centre == 0)
        wide, half, narrow = quotients
        fine = (4 * narrow - half) / 3
        # the bend of a smooth function falls to a quarter of its half; h² and h⁴ cancel here, noise does not
        has_kink = 4 * abs(bends[2]) > 0.75 * abs(bends[0])
        noise = np.where(has_kink, 0.0, abs(bends[0] - 20 * bends[1] + 64 * bends[2]) / (16 * h))
        error = abs(fine - (4 * half - wide) / 3) + rounding + noise
        error = error + np.where(has_kink, abs(bends[2]) / (h / 2), 0.0)
        # A step beyond all that the function does near x moves the value as much as half of it.
        grows = (abs(half) > 1.2 * abs(wide)) & (abs(narrow) > 1.2 * abs(half))
        grows &= np.sign(narrow) == np.sign(wide)
        grows &= abs(narrow - wide) > 8 * rounding
        spread = np.max([abs(wide - half), abs(half - narrow)], 0) + noise + rounding
        error = np.where(np.isfinite(error) & ~grows, error, np.inf)
        floor = 8 * eps * abs(centre) / h + blur
        return cls(fine, error, floor, spread, moves, np.full(centre.shape, h < steps.lost))

    def or_smaller(self, other: Quotient) -> Quotient:
        """Whichever is better of this and of a smaller step's; that is believed where it contradicts.

        But not where the value does not move any more, or sums inside it may not: then neither is believed.
        """
        apart = abs(other.slope - self.slope)
        is_known = np.isfinite(self.error)
        agrees = (apart <= self.error + other.error) & (is_known | other.moves | ~self.moves)
        contradicts = (
            (apart > self.error + CONTRADICTS * other.spread) & np.isfinite(other.error) & other.moves
        )
        in_doubt = contradicts & is_known & other.is_blurred
        best = self._or(other, (agrees & (other.error < self.error)) | (contradicts & ~in_doubt))
        return dataclasses.replace(best, error=np.where(in_doubt, apart + other.error, best.error))

    def or_larger(self, other: Quotient) -> Quotient:
        """Whichever is better of this and of a larger step's, if they agree."""
        agrees = abs(other.slope - self.slope) <= self.error + other.error
        return self._or(other, agrees & (other.error < self.error))

    def _or(self, other: Quotient, better: Array) -> Quotient:
        pairs = {f.name: (getattr(other, f.name), getattr(self, f.name)) for f in dataclasses.fields(self)}
        chosen = {name: np.where(better, *pair) for name, pair in pairs.items()}
        return Quotient(**chosen | {"moves": self.moves | other.moves})


def step_size(array: Array, direction: Array) -> float:
    """What a step is measured by: the root mean square, or the one element that moves where that is more."""
    if np.count_nonzero(direction) == 1:
        return max(rms(array), float(abs(array[direction != 0]).max(initial=0.0)))
    return rms(array)


def own_sizes(array: Array) -> Array:
    """The size of each element, for one that is 0 the size of the array, 1 where all are: none moves far."""
    size = abs(array)
    return np.where(size > 0, size, rms(array) or 1.0)


def own_size(moving: Sequence[tuple[Array, Array]]) -> float | None:
    """The size of the one element that moves, None where several do."""
    sizes = [abs(a[v != 0]) for a, v in moving]
    return float(sizes[0][0]) if len(sizes) == 1 and sizes[0].size == 1 else None


def rms(array: Array) -> float:
    """The root of the mean square, 0 for an empty array; squares do not underflow."""
    largest = float(abs(np.asarray(array, np.float64)).max(initial=0.0))
    if not 0 < largest < np.inf:
        return largest
    return largest * float(np.sqrt(((np.asarray(array, np.float64) / largest) ** 2).mean()))
