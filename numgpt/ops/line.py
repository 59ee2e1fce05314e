"""The line of an op: how it is read, and how the sizes of its letters follow from shapes and options."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InputError

_PRODUCT = r"\d*[A-Z]+"
_AXIS = rf"[A-Z]|\({_PRODUCT}(?:\+{_PRODUCT})*\)"
_KIND = r"(?P<below>[<~])(?P<limit>[A-Z])|(?P<constant>!)|:(?P<stored>u?int8)"
_ARGUMENT = re.compile(rf"(?P<lead>\.\.\.)?(?P<axes>(?:{_AXIS})*)(?:{_KIND})?(?P<optional>\?)?")
Shape = tuple[int, ...]
Axis = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Argument:
    """One array of an op line: its axes, and for integers the size that they stay below.

    lead: whether any axes may come first. axes: each a sum of products (factor, letters): of (KGD+2KD) it is
    ((1, "KGD"), (2, "KD")). below, limit: "<" or "~", and the letter of the size. constant: whether they are
    numbers that have no gradient. stored: the type of integers that are no ids, such as a rounded weight's.
    """

    name: str
    text: str
    lead: bool
    axes: tuple[Axis, ...]
    below: str | None
    limit: str | None
    constant: bool
    optional: bool
    stored: str | None = None

    @property
    def has_gradient(self) -> bool:
        """Whether the backward gives a gradient for it."""
        return self.is_float and not self.constant

    @property
    def is_float(self) -> bool:
        """Whether it holds floats: neither ids nor stored integers."""
        return self.limit is None and self.stored is None

    def shape(self, sizes: Mapping[str, int]) -> Shape:
        """The axes' sizes, where the letters have these."""
        return tuple(
            sum(factor * math.prod(sizes[a] for a in letters) for factor, letters in axis)
            for axis in self.axes
        )


def read(name: str, text: str) -> Argument:
    """Read one entry of an op line."""
    text = text.strip()
    is_scalar = text.startswith("()")
    m = _ARGUMENT.fullmatch(text.removeprefix("()"))
    assert m and not (is_scalar and (m["lead"] or m["axes"])), f"op line: cannot read {text!r}"
    axes = tuple(
        tuple((int(re.sub(r"\D", "", product) or 1), re.sub(r"\d", "", product)) for product in products)
        for products in (re.findall(_PRODUCT, axis) for axis in re.findall(_AXIS, m["axes"]))
    )
    for letters in (letters for axis in axes for _, letters in axis):
        assert len(set(letters)) == len(letters), f"op line: {letters} has a letter twice in {text!r}"
    flags = bool(m["constant"]), bool(m["optional"])
    return Argument(name, text, bool(m["lead"]), axes, m["below"], m["limit"], *flags, m["stored"])


def bind(
    who: str,
    arguments: Iterable[Argument],
    shapes: Iterable[Shape | None],
    options: Iterable[tuple[Argument, int | None]],
) -> dict[str, int]:
    """Letter -> size, or InputError where the shapes contradict the line, or the options the shapes.

    An option of None says nothing. What has one unknown letter gives it. Where all that is left has more,
    nothing determines them, and in the first of them all unknown letters but the first are 1.
    """
    bound: dict[str, int] = {}
    given = [_Equation(who, option, None, option.axes[0], n) for option, n in options if n is not None]
    waiting = _solved(given, bound)
    lead: Shape | None = None
    for argument, shape in zip(arguments, shapes, strict=True):
        if shape is None:
            if not argument.optional:
                raise InputError(f"{who}: {argument.name} is missing, expected an array ({argument.text})")
            continue
        first = len(shape) - len(argument.axes)
        if first < 0 or (first > 0 and not argument.lead):
            raise InputError(_misfit(who, argument, shape, bound))
        axes = zip(argument.axes, shape[first:])
        waiting = _solved([*waiting, *(_Equation(who, argument, shape, *axis) for axis in axes)], bound)
        if argument.lead:
            if lead is not None and shape[:first] != lead:
                raise InputError(
                    f"{who}: {argument.name} has leading axes {shape[:first]}, expected {lead} as in the"
                    " arrays before it"
                )
            lead = shape[:first]
    while waiting:
        bound.update(dict.fromkeys(waiting[0].unknown(bound)[1:], 1))
        waiting = _solved(waiting, bound)
    return bound


class _Equation(NamedTuple):
    """What one axis says of the letters, or one option: a sum of products that is size."""

    who: str
    argument: Argument
    shape: Shape | None  # of the array; None of an option
    axis: Axis
    size: int

    def unknown(self, bound: Mapping[str, int]) -> list[str]:
        """Its letters without a size."""
        return [a for a in dict.fromkeys("".join(letters for _, letters in self.axis)) if a not in bound]

    def solve(self, bound: dict[str, int]) -> bool:
        """Bind the one letter that is unknown, or hold the size to the line; False where more are unknown."""
        unknown = self.unknown(bound)
        if len(unknown) > 1:
            return False
        rest, slope = self.size, 0
        for factor, letters in self.axis:
            known = factor * math.prod(bound[a] for a in letters if a in bound)
            if unknown and unknown[0] in letters:
                slope += known
            else:
                rest -= known
        fits = slope > 0 and rest >= 0 and rest % slope == 0 if unknown else rest == 0
        if not fits:
            raise InputError(_misfit(self.who, self.argument, self.shape or self.size, bound))
        if unknown:
            bound[unknown[0]] = rest // slope
        return True


def _solved(equations: list[_Equation], bound: dict[str, int]) -> list[_Equation]:
    """Bind every letter that follows; what is left: equations of two unknown letters or more."""
    while True:
        left = [equation for equation in equations if not equation.solve(bound)]
        if len(left) == len(equations):
            return left
        equations = left


def _misfit(who: str, argument: Argument, given: Shape | int, bound: Mapping[str, int]) -> str:
    """What does not fit, a shape or an option; what was expected: its axes, and the sizes bound by then."""
    letters = {a for axis in argument.axes for _, product in axis for a in product}
    known = ", ".join(f"{a} = {bound[a]}" for a in sorted(letters & bound.keys()))
    what = f"is {given}" if isinstance(given, int) else f"has shape {given}"
    expected = f"({argument.text})" if not isinstance(given, int) else argument.text
    return f"{who}: {argument.name} {what}, expected {expected}" + (f" with {known}" if known else "")
