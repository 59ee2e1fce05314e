"""A coefficient that is not what it should be, named: 7 times too large where C is 7 is a sum for a mean."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

CLOSE = 1e-7  # relative: a factor that is one of the names below
AT_ONCE = 3  # names in one factor


class Ratio(NamedTuple):
    """What a factor is: its kind in codes, the words for it, and how many names it takes."""

    kind: str
    says: str
    names: int = 1


def named(got: float, want: float, numbers: Mapping[str, float]) -> Ratio | None:
    """What a coefficient is beside the one that is wanted; None for a factor without a name."""
    if want == 0:
        return None if abs(got) < CLOSE else Ratio("EXTRA", "does not belong there")
    factor = got / want
    if abs(factor) < CLOSE:
        return Ratio("MISSING", "is missing")
    for value, kind, says, names in _every(tuple(numbers.items())):
        if math.isclose(factor, value, rel_tol=CLOSE):
            return Ratio(kind, says, names)
        if math.isclose(factor, -value, rel_tol=CLOSE):
            sign = "has the wrong sign"
            return Ratio(
                "SIGN" if kind == "ONCE" else f"MINUS_{kind}",
                sign if kind == "ONCE" else f"{sign}, and {says}",
                names + 1,
            )
    return None


@functools.lru_cache(maxsize=8)  # thousands, asked for at each coefficient of each explanation
def _every(numbers: tuple[tuple[str, float], ...]) -> tuple[tuple[float, str, str, int], ...]:
    """The factors that have a name."""
    return tuple(_factors(dict(numbers)))


def _factors(numbers: Mapping[str, float]) -> Iterator[tuple[float, str, str, int]]:
    """(value, kind, words, how many names it takes) of every factor that has a name, the simplest first."""
    yield 1.0, "ONCE", "", 0
    sizes = {name: value for name, value in numbers.items() if value > 1}
    powers = [(1.0, ""), (-1.0, ""), (0.5, "√"), (-0.5, "√")]
    singles = [(n, p, f"{root}{n}") for n in numbers for p, root in powers]
    for n, size in sizes.items():
        bessel = size / (size - 1)
        yield bessel, f"BESSEL_{_word(n)}", f"is divided by {n} − 1 where {n} is right", 1
    for count in range(1, AT_ONCE + 1):
        for chosen in itertools.combinations(singles, count):
            if len({n for n, _, _ in chosen}) == count:
                value = math.prod(numbers[n] ** p for n, p, _ in chosen)
                above = [text for _, p, text in chosen if p > 0]
                below = [text for _, p, text in chosen if p < 0]
                yield value, _kind(above, below), _says(above, below, numbers), count
        if count == 1:
            yield 2.0, "TWICE", "is 2 times what is needed", 1
            yield 0.5, "HALF", "is half of what is needed", 1
            yield 3.0, "THRICE", "is 3 times what is needed", 1
            yield 1 / 3, "THIRD", "is a third of what is needed: a factor of 3 is lost", 1
            for n, value in numbers.items():
                yield value**2, f"TIMES_{_word(n)}_SQUARED", f"has the factor {n}² too much", 2
                yield value**-2, f"OVER_{_word(n)}_SQUARED", f"has the factor 1/{n}² too much", 2


def _kind(above: list[str], below: list[str]) -> str:
    """The kind, in codes: TIMES_B_OVER_ROOT_D."""
    parts = [f"TIMES_{'_'.join(map(_word, above))}"] if above else []
    parts += [f"OVER_{'_'.join(map(_word, below))}"] if below else []
    return "_".join(parts)


def _says(above: list[str], below: list[str], numbers: Mapping[str, float]) -> str:
    """The words for a factor too much, with its value."""
    times, over = "·".join(above), "·".join(below)
    divided = f"({over})" if len(below) > 1 else over
    if above and below:
        return f"has the factor {times}/{divided} too much: one stands where the other belongs"
    value = f" = {numbers[times or over]:g}" if (times or over) in numbers else ""
    is_size = all(numbers.get(name, 0.0) > 1 and numbers[name] % 1 == 0 for name in above + below)
    if above:
        why = ": a division is missing, or a sum stands for a mean" if is_size else ": a division is missing"
        return f"has the factor {times}{value} too much{why}"
    why = ": a mean stands for a sum, or a division is too much" if is_size else ": a factor is missing"
    return f"has the factor 1/{divided} too much{why}"


def _word(name: str) -> str:
    """A number's name as codes have it."""
    return "".join(
        c for c in name.upper().replace("√", "ROOT_").replace("Π", "PI") if c.isalnum() or c == "_"
    )
