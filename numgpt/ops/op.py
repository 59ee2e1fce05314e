"""Op: a pair of functions with the line that gives their shapes, which checks calls and draws tests."""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import engine
from ..argument_kinds import as_array, held, kind_of
from ..arguments import AtLeastZero, BelowOne, Count, Size
from ..errors import InputError
from .describe import describe

_AXIS = r"[A-Z]|\(\d*[A-Z]+\)"
_ARGUMENT = re.compile(
    rf"(?P<lead>\.\.\.)?(?P<axes>(?:{_AXIS})*)(?:(?P<below>[<~])(?P<limit>[A-Z]))?(?P<optional>\?)?"
)
# What the options of ops may be, whose functions are written without types. By name: one name, one meaning.
OPTIONS = {
    "count": kind_of(Count | None),
    "eps": kind_of(AtLeastZero),
    "keep": kind_of(ArrayLike | None),
    "mask": kind_of(ArrayLike | None),
    "n_head": kind_of(Size),
    "p": kind_of(BelowOne),
    "scale": kind_of(float | None),
    "start": kind_of(Count),
}


@dataclass(frozen=True)
class Argument:
    """One array of an op line: its axes, and for integers the size that they stay below.

    lead: whether any axes may come first. axes: (factor, letters) of each axis, (3, ("H", "D")) for (3HD).
    below, limit: "<" or "~", and the letter of the size.
    """

    name: str
    text: str
    lead: bool
    axes: tuple[tuple[int, tuple[str, ...]], ...]
    below: str | None
    limit: str | None
    optional: bool


@dataclass(frozen=True, eq=False)
class Op:
    """A pair of functions and its line. Called, it gives the value alone: ops.layernorm(x, weight, bias).

    The line names the axes of each array by a letter each: "...C, C, C? -> ...C" is layernorm's.

        ...     any leading axes, the same for all arrays
        (3HD)   one axis, of size 3·H·D
        <V      integers from 0 to V − 1
        ~V      integers below V, of which the negative ones stand for none
        ?       may be None
        ()      a scalar

    parameters: the names of the trailing arrays that a model learns, as in its checkpoint.
    sizes: options whose value is the size of an axis, {"n_head": "H"}.
    at_least: axes that another bounds from below, {"S": "T"} for S ≥ T.
    noise: for an op that drops at random, the shape of its mask from its inputs and options.
    variants: further options worth checking, by name; a function of (rng, sizes) where they depend on the
    draw.
    """

    line: str
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[..., tuple[Any, ...]]
    parameters: tuple[str, ...] = ()
    sizes: Mapping[str, str] = field(default_factory=dict)
    at_least: Mapping[str, str] = field(default_factory=dict)
    noise: Callable[..., tuple[int, ...]] | None = None
    variants: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Have help(op), and IPython's op?, show what they would of a function."""
        signature = inspect.signature(self.forward)
        shown = {
            "__name__": self.name,
            "__module__": self.forward.__module__,
            "__signature__": signature,
            "__doc__": describe(self, signature),
        }
        vars(self).update(shown)  # the dataclass is frozen

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        """An op of a module is copied and pickled by its name, as functions are: a copy is the op itself."""
        module = sys.modules.get(self.forward.__module__)
        return self.name if getattr(module, self.name, None) is self else super().__reduce_ex__(protocol)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value, without what the backward needs, computed by the engine in use.

        Takes what forward takes: arrays, or lists of numbers. Raises InputError where their shapes do not
        fit the op's line.
        """
        try:
            options = dict(inspect.signature(self).bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        arrays = [self._array(argument, options.pop(argument.name, None)) for argument in self.arguments]
        options = {name: held(self.name, name, OPTIONS.get(name), value) for name, value in options.items()}
        masks = {name: value for name, value in options.items() if isinstance(value, np.ndarray)}
        moved = engine.here(*arrays, *masks.values())  # together, so that all of them lie in one place
        arrays = list(moved[: len(arrays)])
        options |= zip(masks, moved[len(arrays) :])
        self.check(arrays, options)
        self._check_masks(arrays, options)
        if self.noise is not None and any(a is not None and 0 in a.shape for a in arrays):
            raise InputError(f"{self.name}: an array has no element, expected at least one along each axis")
        dtype = next((a.dtype for a in arrays if a is not None and a.dtype.kind in "fc"), np.dtype(float))
        with engine.session(dtype):
            value, _ = engine.forward(self, arrays)(*arrays, **options)
        return value

    def _array(self, argument: Argument, given: ArrayLike | None) -> Any:
        """What the caller gave as a contiguous array, integers as floats unless they are ids."""
        if given is None or engine.on_gpu(given):
            return given
        array = as_array(f"{self.name}: {argument.name}", given, f"({argument.text})")
        array = np.asarray(array, order="C")
        if argument.limit is None and array.dtype.kind in "iu":
            array = array.astype(float)
        if argument.limit is None and array.dtype.kind not in "fc":
            raise InputError(f"{self.name}: {argument.name} has dtype {array.dtype}, expected numbers")
        return array

    @functools.cached_property
    def name(self) -> str:
        """The op's name: its forward's without the ending."""
        return self.forward.__name__.removesuffix("_forward")

    @functools.cached_property
    def arguments(self) -> tuple[Argument, ...]:
        """The arrays of the line, in the forward's order."""
        names = list(inspect.signature(self.forward).parameters)
        return tuple(map(_argument, names, self.line.split("->")[0].split(",")))

    @functools.cached_property
    def result(self) -> Argument:
        """The value's entry in the line."""
        return _argument("result", self.line.split("->")[1])

    def check(self, arrays: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Raise InputError unless the arrays fit the line and lie in one place."""
        self._check_place(arrays)
        shapes = tuple(None if a is None else a.shape for a in arrays)
        bound = _check_shapes(self, shapes, tuple(options.get(o) for o in self.sizes))
        for argument, array in zip(self.arguments, arrays, strict=True):
            if argument.limit and array is not None:
                who = f"{self.name}: {argument.name}"
                check_ids(who, array, bound[argument.limit], negative=argument.below == "~")

    def _check_masks(self, arrays: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Raise InputError unless the masks of a call fit what they act on, whose shape is noise's."""
        masks = {n: options[n] for n in ("mask", "keep") if options.get(n) is not None}
        if not masks or self.noise is None:
            return
        shape = self.noise(*arrays, **{n: v for n, v in options.items() if n in self.sizes})
        for name, mask in masks.items():
            if name == "mask" and mask.dtype.kind != "b":
                raise InputError(
                    f"{self.name}: mask has dtype {mask.dtype}, expected booleans: mask.astype(bool)"
                )
            try:
                fits = np.broadcast_shapes(mask.shape, shape) == shape
            except ValueError:
                fits = False
            if not fits:
                raise InputError(
                    f"{self.name}: {name} has shape {mask.shape}, expected {shape}, or one that"
                    " is broadcast to it"
                )

    def _check_place(self, arrays: Sequence[Any]) -> None:
        """Raise InputError where some arrays lie on the GPU and some in the host's memory."""
        present = {a.name: engine.on_gpu(x) for a, x in zip(self.arguments, arrays) if x is not None}
        if len(set(present.values())) > 1:
            places = ", ".join(
                f"{name} {'on the GPU' if there else 'in the host memory'}" for name, there in present.items()
            )
            raise InputError(
                f"{self.name}: {places}, expected all in one place: move what stays behind, a"
                " model by model.to"
            )

    def draw(
        self,
        rng: np.random.Generator,
        sizes: Mapping[str, int],
        lead: tuple[int, ...] = (),
        dtype: DTypeLike = "float64",
    ) -> tuple[list[NDArray[Any]], dict[str, int]]:
        """Random arrays that fit the line, and the options that the sizes give.

        sizes: letter -> size; lead: the leading axes. Floats are standard normal.
        """
        arrays: list[NDArray[Any]] = []
        for argument in self.arguments:
            axes = [factor * math.prod(sizes[a] for a in letters) for factor, letters in argument.axes]
            shape = (*(lead if argument.lead else ()), *axes)
            if argument.limit is None:
                arrays.append(rng.standard_normal(shape).astype(dtype))
                continue
            ids = rng.integers(0, sizes[argument.limit], shape)
            if argument.below == "~":
                ids = np.where(rng.random(shape) < 0.3, -1, ids)
                ids.reshape(-1)[:1] = 0  # at least one counts
            arrays.append(ids)
        return arrays, {option: sizes[letter] for option, letter in self.sizes.items()}

    def __repr__(self) -> str:
        return f"<op {self.name}: {self.line}>"


def check_ids(who: str, ids: Any, size: int, negative: bool = False) -> None:
    """Raise InputError unless ids are integers from 0 (or below, if negative) to size − 1."""
    if ids.dtype.kind not in "iu":
        raise InputError(f"{who} has dtype {ids.dtype}, expected integers: convert with .astype(int)")
    if engine.on_gpu(ids) and engine.is_checked(ids, size, negative):
        return
    wrong = ids >= size if negative else (ids >= size) | (ids < 0)
    if wrong.any():
        ids = engine.home(ids)
        place = tuple(map(int, np.argwhere(engine.home(wrong))[0]))
        expected = "at most" if negative else "0 to"
        raise InputError(f"{who} has {ids[place]} at {place}, expected {expected} {size - 1}")


def _argument(name: str, text: str) -> Argument:
    """Read one entry of an op line."""
    text = text.strip()
    if text == "()":
        return Argument(name, text, False, (), None, None, False)
    m = _ARGUMENT.fullmatch(text)
    assert m, f"op line: cannot read {text!r}"
    axes = []
    for part in re.findall(_AXIS, m["axes"]):
        factor = re.sub(r"\D", "", part)
        axes.append((int(factor or 1), tuple(re.findall("[A-Z]", part))))
    return Argument(name, text, bool(m["lead"]), tuple(axes), m["below"], m["limit"], bool(m["optional"]))


Shape = tuple[int, ...]


@functools.lru_cache(maxsize=4096)  # a training run asks the same questions at every step
def _check_shapes(op: Op, shapes: tuple[Shape | None, ...], sizes: tuple[int | None, ...]) -> dict[str, int]:
    """Letter -> size, or InputError where the shapes contradict the line or the axes' bounds."""
    bound = _bind(op, shapes, sizes)
    for letter, size in bound.items():
        if size == 0:
            raise InputError(f"{op.name}: {letter} is 0, expected 1 or more")
    for larger, smaller in op.at_least.items():
        if bound[larger] < bound[smaller]:
            raise InputError(
                f"{op.name}: {smaller} = {bound[smaller]} is more than {larger} = {bound[larger]}, expected"
                f" {smaller} ≤ {larger}"
            )
    return bound


def _bind(op: Op, shapes: tuple[Shape | None, ...], sizes: tuple[int | None, ...]) -> dict[str, int]:
    """Letter -> size, or InputError where the shapes contradict the line."""
    bound = {letter: size for letter, size in zip(op.sizes.values(), sizes) if size is not None}
    lead: Shape | None = None
    for argument, shape in zip(op.arguments, shapes, strict=True):
        if shape is None:
            if not argument.optional:
                raise InputError(
                    f"{op.name}: {argument.name} is missing, expected an array ({argument.text})"
                )
            continue
        if not _match(argument, shape, bound):
            raise InputError(_misfit(op, argument, shape, bound))
        if argument.lead:
            own = shape[: len(shape) - len(argument.axes)]
            if lead is not None and own != lead:
                raise InputError(
                    f"{op.name}: {argument.name} has leading axes {own}, expected {lead} as in the arrays"
                    " before it"
                )
            lead = own
    return bound


def _match(argument: Argument, shape: Shape, bound: dict[str, int]) -> bool:
    """Whether a shape fits one argument of a line; binds the letters that no array before it had."""
    n_lead = len(shape) - len(argument.axes)
    if n_lead < 0 or (n_lead > 0 and not argument.lead):
        return False
    for (factor, letters), size in zip(argument.axes, shape[n_lead:]):
        known = factor * math.prod(bound.get(a, 1) for a in letters)
        unknown = [a for a in letters if a not in bound]
        if not unknown:
            if size != known:
                return False
            continue
        if known == 0 or size % known:
            return False
        bound[unknown[0]] = size // known
        bound.update(dict.fromkeys(unknown[1:], 1))
    return True


def _misfit(op: Op, argument: Argument, shape: Shape, bound: dict[str, int]) -> str:
    """What a shape that does not fit is, and what was expected: its axes, and the sizes bound by then."""
    letters = {a for _, axis in argument.axes for a in axis}
    known = ", ".join(f"{a} = {bound[a]}" for a in sorted(letters & bound.keys()))
    expected = f"({argument.text}) with {known}" if known else f"({argument.text})"
    return f"{op.name}: {argument.name} has shape {shape}, expected {expected}"
