"""How rotary positions are slowed for texts longer than those of training: kinds of scaling and numbers.

SCALINGS, at the end, is the table of them. Each is a function of the frequencies f_i = base^(−2i/R), of the
R/2 pairs, that gives others, and a size that cos and sin are multiplied by. Its signature says which numbers
the kind needs: ops and settings are held to it alike.
"""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..argument_kinds import WRONG, Kind, Range, kind_of
from ..arguments import Positive
from ..errors import InputError, did_you_mean

Factor = Annotated[float, Range("of 1 or more", lambda x: x >= 1)]
Length = Annotated[int, Range("from 1 to 2⁵³", lambda x: 1 <= x <= 2**53)]  # of the texts of training
Frequencies = NDArray[np.float64]
Scaled = tuple[Frequencies, float]
HOST: NDArray[np.float64] = np.empty(0)  # tables of angles are made in the host's memory, in float64


class Rotary(NamedTuple):
    """What is scaled: the frequencies of R features for a base, and n, how many positions the text has."""

    R: int
    base: float
    n: int

    def frequencies(self, base: float | None = None) -> Frequencies:
        """f_i = base^(−2i/R) for i = 0 … R/2 − 1, in radians a position."""
        exponents = np.arange(0, self.R, 2, like=HOST) / self.R
        return 1.0 / (self.base if base is None else base) ** exponents


def linear(rotary: Rotary, *, factor: Factor) -> Scaled:
    """Positions closer together.

    f' = f / factor        so that position t turns by as much as t / factor did

    Source: Chen et al. 2023.
    """
    return rotary.frequencies() / factor, 1.0


def dynamic(rotary: Rotary, *, factor: Factor, length: Length) -> Scaled:
    """A larger base for a longer text, and none other up to the length of training.

    base' = base (factor n/length − (factor − 1))^(R/(R − 2))        for n > length, else base

    With the exponent the slowest pair, i = R/2 − 1, is slowed by the bracket: its f is base^(−(R−2)/R). The
    fastest, f = 1, stays. Source: bloc97 and emozilla 2023. All angles change with n.
    """
    n = max(rotary.n, length)
    if rotary.R <= 2 or n == length:  # a single pair has f = 1 for every base
        return rotary.frequencies(), 1.0
    stretch = factor * n / length - (factor - 1)
    return rotary.frequencies(rotary.base * stretch ** (rotary.R / (rotary.R - 2))), 1.0


def llama3(rotary: Rotary, *, factor: Factor, low: Positive, high: Positive, length: Length) -> Scaled:
    """Slow pairs scaled, fast ones not, and a blend between.

        turns = length f/2π        of a pair over a text of training
        s = (turns − low)/(high − low), cut to 0 … 1
        f' = s f + (1 − s) f/factor

    Source: Llama 3.1, Meta 2024.
    """
    f = rotary.frequencies()
    share = np.clip((length * f / (2 * math.pi) - low) / (high - low), 0, 1)
    return (1 - share) * f / factor + share * f, 1.0


def yarn(
    rotary: Rotary,
    *,
    factor: Factor,
    length: Length,
    fast: Positive = 32.0,
    slow: Positive = 1.0,
    size: Positive | None = None,
    truncate: bool = True,
) -> Scaled:
    """Slow pairs scaled, fast ones not, a blend by their number between, and larger scores.

        i(β) = R ln(length/2πβ)/(2 ln base)        the pair that turns β times over a text of training
        s = (i − i(fast))/(i(slow) − i(fast)), cut to 0 … 1
        f' = s f/factor + (1 − s) f
        size = 0.1 ln factor + 1        of cos and sin alike, so a score of q and k grows by its square

    truncate: both ends are rounded outwards to whole pairs. Source: Peng et al. 2023.
    """

    def pair(turns: float) -> float:
        return rotary.R * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(rotary.base))

    first, last = pair(fast), pair(slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary.R - 1)
    last = last + 0.001 if first == last else last  # as elsewhere: a step then, and no division by 0
    share = np.clip((np.arange(rotary.R // 2, like=HOST) - first) / (last - first), 0, 1)
    f = rotary.frequencies()
    if size is None:
        size = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return f / factor * share + f * (1 - share), size


def longrope(
    rotary: Rotary,
    *,
    short: tuple[Positive, ...],
    long: tuple[Positive, ...],
    length: Length,
    size: Positive = 1.0,
) -> Scaled:
    """A factor for each pair, found by search: one set up to the length of training, another beyond.

    f'_i = f_i / short_i for n ≤ length, else f_i / long_i

    Source: Ding et al. 2024. All angles change where n passes the length.
    """
    factors = np.array(long if rotary.n > length else short, np.float64, like=HOST)
    return 1.0 / (factors * (1.0 / rotary.frequencies())), size


SCALINGS: dict[str, Callable[..., Scaled]] = {
    "linear": linear,
    "dynamic": dynamic,
    "llama3": llama3,
    "yarn": yarn,
    "longrope": longrope,
}
BY_LENGTH = ("dynamic", "longrope")  # the kinds whose angles change with the length of the text


def depends_on_length(scaling: Mapping[str, Any] | None) -> bool:
    """Whether angles depend on how long a text is: then keys that were turned for a shorter one are stale."""
    return scaling is not None and scaling["kind"] in BY_LENGTH


def checked_scaling(
    scaling: Mapping[str, Any] | None, R: int, who: str = "rotary: scaling"
) -> dict[str, Any] | None:
    """A scaling with numbers as its function takes them, those at their default left out.

    InputError for any other, which calls it who. R: how many features of a head are turned.
    """
    if scaling is None:
        return None
    if not isinstance(scaling, Mapping):
        raise InputError(f"{who} is {scaling!r}, expected a mapping such as {{'kind': 'linear', …}}")
    kind = scaling.get("kind")
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise InputError(f"{who} has kind {kind!r}, expected one of {', '.join(SCALINGS)}")
    who = f"{who} of kind {kind}"
    numbers = _numbers(SCALINGS[kind])
    for name in scaling:
        if name != "kind" and name not in numbers:
            raise InputError(
                f"{who} has {name!r}{did_you_mean(str(name), numbers)}, expected {', '.join(numbers)}"
            )
    checked = {"kind": kind}
    for name, number in numbers.items():
        value = number.kind.convert(scaling.get(name, number.default))
        if value is WRONG:
            given = f"has {name} {scaling[name]!r}" if name in scaling else f"has no {name}"
            raise InputError(f"{who} {given}, expected {number.kind.words}")
        if value != number.default:
            checked[name] = value
    _expect_together(who, checked, R)
    return checked


class _Number(NamedTuple):
    """A number of a scaling: what it takes, and its default."""

    kind: Kind
    default: Any


@functools.cache
def _numbers(function: Callable[..., Scaled]) -> dict[str, _Number]:
    """The numbers that a scaling's function takes, by name."""
    hints = typing.get_type_hints(function, include_extras=True)
    _, *parameters = inspect.signature(function).parameters.values()
    numbers = {}
    for parameter in parameters:
        kind = kind_of(hints[parameter.name])
        assert kind is not None, f"{function.__name__}: {parameter.name} may be anything"
        numbers[parameter.name] = _Number(kind, parameter.default)
    return numbers


def _expect_together(who: str, scaling: Mapping[str, Any], R: int) -> None:
    """Raise InputError for numbers that do not go together."""
    kind = scaling["kind"]
    if kind == "llama3" and scaling["low"] >= scaling["high"]:
        raise InputError(f"{who} has low {scaling['low']}, expected less than its high {scaling['high']}")
    for name in ("short", "long") if kind == "longrope" else ():
        if len(scaling[name]) != R // 2:
            raise InputError(
                f"{who} has {len(scaling[name])} numbers in {name}, expected {R // 2}, one for each pair of"
                f" the {R} turned channels"
            )
