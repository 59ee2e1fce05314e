"""A pair: forward(*arrays, **options) → (y, saved), backward(dy, saved) → one gradient per array."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import InputError

T = TypeVar("T")
Array = NDArray[Any]
Forward = Callable[..., tuple[Any, Any]]
Backward = Callable[[Any, Any], Any]


class GradientError(AssertionError):
    """A pair breaks a law."""


class Pair(NamedTuple):
    """A forward and its backward; check(*pair, *arrays) takes it apart.

    Parameters
    ----------
    forward : callable
        forward(*arrays, **options) → (y, saved).
    backward : callable
        backward(dy, saved) → one gradient per array, None where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt.gradcheck import Pair, check
    >>> square = Pair(lambda x: (x * x, x), lambda dy, x: (2 * x * dy,))
    >>> all(finding.holds for finding in check(*square, np.arange(3.0)))
    True
    """

    forward: Forward
    backward: Backward


def expect_taken(who: str, forward: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise InputError for an option that the forward has no name for."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    taken = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in options:
        if name not in taken:
            raise InputError(
                f"{who}: options has {name!r}, expected names that the forward takes: {', '.join(taken)}"
            )


def run(forward: Forward, arrays: Sequence[Any], options: dict[str, Any]) -> tuple[Any, Any]:
    """(y, saved) of a forward, y in its own memory: a layer may use a buffer again.

    InputError where it returned something else.
    """
    returned = forward(*arrays, **options)
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        raise InputError(
            f"gradcheck: the forward returned {describe(returned)}, expected a pair (y, saved): return y,"
            " None where the backward needs nothing"
        )
    y, saved = returned
    if hasattr(y, "detach"):
        raise InputError(
            f"gradcheck: the forward's value is {describe(y)}, expected an array: from_torch makes a pair of"
            " a function of tensors"
        )
    try:
        np.asarray(y)
    except ValueError:  # NumPy has no arrays of rows of unequal length
        raise InputError(
            f"gradcheck: the forward's value is {describe(y)} of unequal shapes, expected one array: return"
            " one output, or flatten and concatenate them"
        ) from None
    return y.copy() if isinstance(y, np.ndarray) else y, saved


def plain(arrays: Sequence[Any]) -> list[Any]:
    """The arrays as NumPy's; a tensor gives its numbers. InputError for dtypes that NumPy lacks."""
    return [None if array is None else _plain(i, array) for i, array in enumerate(arrays)]


def _plain(i: int, array: Any) -> Array:
    if hasattr(array, "detach"):  # a tensor, which may want a gradient, or lie on a GPU
        array = array.detach().cpu()
        array = array if str(array.layout) == "torch.strided" else array.to_dense()
    if str(getattr(array, "dtype", "")).endswith("bfloat16"):
        raise InputError(
            f"gradcheck: argument {i} is bfloat16, which NumPy does not have, expected float32 or float64:"
            " convert it, as in x.float() or x.astype('float32')"
        )
    try:
        return np.asarray(array)
    except ValueError:
        raise InputError(
            f"gradcheck: argument {i} is {describe(array)} of unequal lengths, expected an array"
        ) from None


def describe(value: Any) -> str:
    """What somebody gave instead of one array: "a tuple of 2", "an array of shape (2, 3)"."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    name = type(value).__name__
    if value is None:
        return "None"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def constants(forward: Any) -> frozenset[int]:
    """The places of arrays that hold floats and are not differentiated by: the forward has them as constants.

    An Op whose line has constants tells its forward, and whoever wraps a forward passes them on.
    """
    return frozenset(getattr(forward, "constants", ()))


def gradients(grads: Any, arrays: Sequence[Any], without: frozenset[int] = frozenset()) -> list[Array | None]:
    """What a backward returned, one an array, in its own memory; GradientError where it does not fit.

    without: the places of constants, which have no gradient.
    """
    if grads is None and any(map(is_float, arrays)):
        raise GradientError(
            "backward returned None, expected one gradient per array: it is not written yet, or a return is"
            " missing"
        )
    grads = grads if isinstance(grads, tuple | list) else (grads,)
    if len(grads) != len(arrays):
        raise GradientError(
            f"backward returned {len(grads)} gradients, expected {len(arrays)}: one per array, None where"
            " there is none"
        )
    for i, (grad, array) in enumerate(zip(grads, arrays)):
        differentiated = is_float(array) and i not in without
        if (grad is not None) != differentiated:
            actual = "None" if grad is None else "an array"
            expected = "an array" if differentiated else "None"
            missing = ": it is missing" if grad is None else ""
            raise GradientError(f"gradient {i} is {actual}, expected {expected}{missing}")
        if differentiated and np.shape(grad) != array.shape:
            raise GradientError(
                f"gradient {i} has shape {np.shape(grad)}, expected {array.shape}, that of the array"
            )
        if differentiated and np.asarray(grad).dtype.kind != "f":
            raise GradientError(
                f"gradient {i} has dtype {np.asarray(grad).dtype}, expected real floats, as the array has"
            )
    return [None if grad is None else np.array(grad) for grad in grads]


def quiet(generator: Callable[..., Iterator[T]]) -> Callable[..., Iterator[T]]:
    """The generator function, in which what underflows is 0 whatever the caller's NumPy raises.

    np.errstate around it would hold in the caller too, between two items.
    """

    @functools.wraps(generator)
    def wrapped(*args: Any, **options: Any) -> Iterator[T]:
        items = generator(*args, **options)
        while True:
            with np.errstate(under="ignore"):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    return wrapped


def is_float(array: Any) -> TypeGuard[Array]:
    """Whether an argument is differentiated by: integers and None are not."""
    return array is not None and np.asarray(array).dtype.kind == "f"


def as_dtype(arrays: Iterable[Any], dtype: DTypeLike) -> list[Array | None]:
    """Copies of the arrays, floats in the dtype, integers and None as they are."""

    def copied(array: Any) -> Array | None:
        if array is None:
            return None
        return np.array(array, dtype) if is_float(array) else np.array(array)

    return [copied(array) for array in arrays]


def argument_names(forward: Any, count: int) -> list[str | None]:
    """The names of the forward's first count arguments, None where it has none (*args, a builtin)."""
    names = getattr(forward, "argument_names", None)
    if names is None:
        try:
            parameters = list(inspect.signature(forward).parameters.values())
        except (TypeError, ValueError):  # a builtin
            parameters = []
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names[:count], *[None] * (count - len(names))]


def title(index: int, name: str | None) -> str:
    """What a report calls an argument: its name, or its number where it has none."""
    return name or f"argument {index}"
