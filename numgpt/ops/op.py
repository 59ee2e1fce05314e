"""Op: a pair of functions with the line that gives their shapes, which checks calls and draws tests."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import engine
from ..argument_kinds import as_array, held, kind_of
from ..arguments import AtLeastZero, BelowOne, Count, Place, Positive, Size
from ..errors import InputError
from .describe import describe
from .line import Argument, Shape, bind, read

# What the options of ops may be, whose functions are written without types. By name: one name, one meaning.
OPTIONS = {
    "base": kind_of(Positive),
    "begin": kind_of(Place),
    "beta": kind_of(Positive),
    "cap": kind_of(Positive | None),
    "clip": kind_of(Positive),
    "clip_high": kind_of(Positive | None),
    "count": kind_of(Count | None),
    "dim": kind_of(Size | None),
    "end": kind_of(Place | None),
    "eps": kind_of(AtLeastZero),
    "factor": kind_of(float),
    "first": kind_of(ArrayLike | None),
    "keep": kind_of(ArrayLike | None),
    "label_noise": kind_of(BelowOne),
    "last": kind_of(ArrayLike | None),
    "mask": kind_of(ArrayLike | None),
    "n_active": kind_of(Size),
    "n_head": kind_of(Size),
    "n_kv_head": kind_of(Size | None),
    "p": kind_of(BelowOne),
    "positions": kind_of(ArrayLike | None),
    "renorm": kind_of(bool),
    "scale": kind_of(float | None),
    "scaling": kind_of(Mapping[str, Any] | None),
    "shift_mean": kind_of(bool),
    "slopes": kind_of(ArrayLike | None),
    "smoothing": kind_of(BelowOne),
    "start": kind_of(Place),
    "temperature": kind_of(Positive),
    "widths": kind_of(Sequence[Size] | None),
}


@dataclass(frozen=True, eq=False)
class Op:
    """A pair of functions and its line. Called, it gives the value alone: ops.layernorm(x, weight, bias).

    The line names the axes of each array by a letter each: "...C, C, C? -> ...C" is layernorm's.

        ...     any leading axes, the same for all arrays
        (3HD)   one axis, of size 3·H·D
        (G+2K)  one axis, of size G + 2·K
        <V      integers from 0 to V − 1
        ~V      integers below V, of which the negative ones stand for none
        !       a constant: numbers that have no gradient, such as another model's logits
        :int8   integers of this type, or of uint8, that are no ids: a rounded weight
        ?       may be None
        ()      a scalar

    parameters: the names of the trailing arrays that a model learns, as in its checkpoint.
    sizes: options whose value is the size of an axis, {"n_head": "H"}, or a product of sizes. What is None
    says nothing: of {"n_head": "KG", "n_kv_head": "K"} n_head alone gives K, and G = 1.
    at_least: axes that another bounds from below, {"S": "T"} for S ≥ T; or a number, {"C": 3}: the op takes
    smaller ones, but there is so little left of its gradients that laws would see rounding alone.
    waived: the option that says itself what at_least is to ensure, and where it is given sets it aside.
    distinct: the name of integers that differ from each other along their last axis; so they are drawn.
    weights: the name of a constant that weighs what is added up along its last axis: it is drawn from 0 to 1,
    and 0 in places, but never in all of a row.
    noise: for an op that drops at random, the shape of its mask from its inputs and options.
    expect: of arrays and options; raises InputError for options of a call that do not fit its arrays.
    variants: further options worth checking, by name; a function of (rng, sizes) where they depend on the
    draw.
    saves: the arrays that it holds for its backward but for parameters, by which memory is counted: y is the
    value, another name an array or an option of the run, and axes ("...C", "...:bool", "...:int") an array
    that the op makes; or a function of (arrays, options, y) that gives them.
    """

    line: str
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[..., tuple[Any, ...]]
    parameters: tuple[str, ...] = ()
    sizes: Mapping[str, str] = field(default_factory=dict)
    at_least: Mapping[str, str | int] = field(default_factory=dict)
    waived: str = ""
    distinct: str = ""
    weights: str = ""
    noise: Callable[..., tuple[int, ...]] | None = None
    variants: Mapping[str, Any] = field(default_factory=dict)
    expect: Callable[[Sequence[Any], Mapping[str, Any]], None] | None = None
    saves: str | Callable[[Sequence[Any], Mapping[str, Any], Any], Sequence[Any]] | None = None

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
        if self.constants:
            vars(self.forward)["constants"] = self.constants  # where gradcheck looks for them

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
        if self.expect is not None:
            self.expect(arrays, options)
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
        if argument.stored is not None:
            return stored(f"{self.name}: {argument.name}", array, argument.stored)
        if argument.limit is None and array.dtype.kind in ("biu" if argument.constant else "iu"):
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
        return tuple(map(read, names, self.line.split("->")[0].split(",")))

    @functools.cached_property
    def constants(self) -> frozenset[int]:
        """The places of the arrays that hold numbers and have no gradient."""
        return frozenset(i for i, argument in enumerate(self.arguments) if argument.constant)

    @functools.cached_property
    def options(self) -> tuple[str, ...]:
        """The names of the forward's options."""
        return tuple(inspect.signature(self.forward).parameters)[len(self.arguments) :]

    @functools.cached_property
    def result(self) -> Argument:
        """The value's entry in the line."""
        return read("result", self.line.split("->")[1])

    @functools.cached_property
    def size_options(self) -> tuple[Argument, ...]:
        """The options that give sizes, each as one axis."""
        return tuple(dataclasses.replace(read(n, f"({z})"), text=z) for n, z in self.sizes.items())

    def check(self, arrays: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Raise InputError unless the arrays fit the line and lie in one place."""
        if len(arrays) != len(self.arguments):
            raise InputError(
                f"{self.name}: arrays given: {len(arrays)}, expected {len(self.arguments)}: {self.line}"
            )
        self._check_place(arrays)
        shapes = tuple(None if a is None else a.shape for a in arrays)
        waived = options.get(self.waived) is not None
        bound = _check_shapes(self, shapes, tuple(options.get(o) for o in self.sizes), waived)
        for argument, array in zip(self.arguments, arrays, strict=True):
            if argument.limit and array is not None:
                who = f"{self.name}: {argument.name}"
                check_ids(who, array, bound[argument.limit], negative=argument.below == "~")
            if argument.stored and array is not None and array.dtype != argument.stored:
                raise InputError(
                    f"{self.name}: {argument.name} has dtype {array.dtype}, expected {argument.stored}"
                )

    def bound(self, shapes: Sequence[tuple[int, ...] | None], options: Mapping[str, Any]) -> dict[str, int]:
        """Letter -> size for arrays of these shapes, None for one that is not there; lead axes have none."""
        return dict(_check_shapes(self, tuple(shapes), tuple(options.get(o) for o in self.sizes)))

    def shape_of_result(self, arrays: Sequence[Any], options: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The shape of the value that the line promises for arrays, or None where they do not fit it."""
        shapes = [None if a is None else a.shape for a in arrays]
        try:
            bound = self.bound(shapes, options)
        except InputError:
            return None
        first = next(shape for shape, a in zip(shapes, self.arguments) if shape is not None and a.lead)
        axes = next(a.axes for shape, a in zip(shapes, self.arguments) if shape is first)
        lead = first[: len(first) - len(axes)] if self.result.lead else ()
        return (*lead, *self.result.shape(bound))

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

        sizes: letter -> size; lead: the leading axes. Floats are standard normal, but weights; stored
        integers are any of their type, those of masks 0 and 1.
        """
        arrays: list[NDArray[Any]] = []
        for argument in self.arguments:
            shape = (*(lead if argument.lead else ()), *argument.shape(sizes))
            if argument.stored is not None:
                limits = np.iinfo(argument.stored)
                end = 2 if argument.name.endswith("_mask") else limits.max + 1
                arrays.append(rng.integers(limits.min, end, shape, dtype=argument.stored))
                continue
            if argument.limit is None:
                numbers = rng.standard_normal(shape)
                if argument.name == self.weights:
                    numbers = np.where(rng.random(shape) < 0.3, 0.0, rng.random(shape))
                    numbers[..., :1] += 0.5  # in each row something counts
                arrays.append(numbers.astype(dtype))
                continue
            ids = rng.integers(0, sizes[argument.limit], shape)
            if argument.name == self.distinct:
                order = rng.random((*shape[:-1], sizes[argument.limit])).argsort(-1)
                ids = np.ascontiguousarray(order[..., : shape[-1]])
            if argument.below == "~":
                ids = np.where(rng.random(shape) < 0.3, -1, ids)
                ids.reshape(-1)[:1] = 0  # at least one counts
            arrays.append(ids)
        return arrays, {option.name: option.shape(sizes)[0] for option in self.size_options}

    def fitted(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes at which the op is tried: those that another bounds from below are larger by that one."""
        bounds = {
            a: (sizes[a] + sizes[b]) if isinstance(b, str) else max(sizes[a], b)
            for a, b in self.at_least.items()
        }
        return {**sizes, **bounds}

    def __repr__(self) -> str:
        return f"<op {self.name}: {self.line}>"


def stored(who: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Integers in the type that they are stored in; InputError for what is none, or does not fit it."""
    if array.dtype == dtype:
        return array
    limits = np.iinfo(dtype)
    if array.dtype.kind not in "iu":
        raise InputError(f"{who} has dtype {array.dtype}, expected integers of {dtype}")
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise InputError(f"{who} goes from {array.min()} to {array.max()}, expected integers of {dtype}")
    return array.astype(dtype)


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


def expect_one_each(who: str, positions: Any, x: Any) -> None:
    """Raise InputError unless there is an integer position for each vector of x (..., T, C)."""
    if positions.dtype.kind not in "iu":
        raise InputError(f"{who}: positions has dtype {positions.dtype}, expected integers")
    try:
        fits = np.broadcast_shapes(positions.shape, x.shape[:-1]) == x.shape[:-1]
    except ValueError:
        fits = False
    if not fits or not positions.ndim:
        raise InputError(
            f"{who}: positions has shape {positions.shape}, expected {x.shape[:-1]}, one a vector"
        )


@functools.lru_cache(maxsize=4096)  # a training run asks the same questions at every step
def _check_shapes(
    op: Op, shapes: tuple[Shape | None, ...], sizes: tuple[int | None, ...], waived: bool = False
) -> dict[str, int]:
    """Letter -> size, or InputError where the shapes contradict the line or the axes' bounds."""
    bound = bind(op.name, op.arguments, shapes, zip(op.size_options, sizes))
    for letter, size in bound.items():
        if size == 0:
            raise InputError(f"{op.name}: {letter} is 0, expected 1 or more")
    for larger, smaller in () if waived else op.at_least.items():
        if isinstance(smaller, str) and bound[larger] < bound[smaller]:
            raise InputError(
                f"{op.name}: {smaller} = {bound[smaller]} is more than {larger} = {bound[larger]}, expected"
                f" {smaller} ≤ {larger}"
            )
    return bound
