"""What somebody calls an implementation of a layer, as a pair: a pair, an op, a module, a function."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .adapters import from_jax, from_module, from_torch
from .pair import Pair, argument_names, as_dtype, describe


def implementations(mine: Any, theirs: Any, points: list[Any]) -> tuple[list[Pair], list[Any]]:
    """Both as pairs of the same arrays: the points, and the parameters of the one that is a module."""
    modules = [given for given in (theirs, mine) if _is_module(given)]
    inputs = len(points)
    if modules:
        inputs, points = _with_parameters(modules[0], points)
    sides = (("mine", mine), ("theirs", theirs))
    return [_pair(who, given, inputs, points) for who, given in sides], points


def names(pairs: Sequence[Pair], count: int) -> list[str | None]:
    """The arguments' names: mine, theirs where mine has none."""
    both = zip(*(argument_names(pair.forward, count) for pair in pairs))
    return [mine or theirs for mine, theirs in both]


def _with_parameters(module: Any, points: list[Any]) -> tuple[int, list[Any]]:
    """(how many of the points are inputs, the points with the module's parameters behind them)."""
    _, _, *arrays = from_module(module, *points)
    parameters = [np.shape(p) for p in arrays[len(points) :]]
    inputs = len(points) - len(parameters)
    try:
        inspect.signature(module.forward).bind(*points)
    except TypeError:
        if inputs > 0 and [np.shape(a) for a in points[inputs:]] == parameters:
            return inputs, points
    return len(points), arrays


def _pair(who: str, given: Any, inputs: int, points: list[Any]) -> Pair:
    if isinstance(given, tuple | list) and len(given) == 2 and all(map(callable, given)):
        return Pair(*given)
    if _is_module(given):
        count = len(list(given.parameters()))
        if count != len(points) - inputs:
            raise InputError(
                f"same: {who} has {count} parameters, the other {len(points) - inputs}, expected as many:"
                " wrap one of them in a function of all arrays"
            )
        forward, backward, *_ = from_module(given, *points[:inputs])
        return Pair(forward, backward)
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(given, type) and issubclass(given, torch.autograd.Function):
        return from_torch(getattr(given, "apply"))  # noqa: B009
    if callable(getattr(given, "forward", None)) and callable(getattr(given, "backward", None)):
        return Pair(given.forward, given.backward)
    if callable(given):
        return _of_a_library(who, given, points)
    raise InputError(
        f"same: {who} is {describe(given)}, expected a pair (forward, backward), an op, a module or a"
        " function of PyTorch's, or a function of JAX's"
    )


def _of_a_library(who: str, function: Any, points: list[Any]) -> Pair:
    """A function as a pair, by the library whose arrays it takes."""
    reasons = []
    for name, adapter in (("torch", from_torch), ("jax", from_jax)):
        if name in sys.modules:
            pair = adapter(function)
            try:
                y, saved = pair.forward(*as_dtype(points, np.float32))
                pair.backward(np.ones_like(y), saved)
            except Exception as error:  # whatever their code raises
                reason = (str(error).splitlines() or [""])[0]
                reasons.append(f"with arrays of {name}'s it raised {type(error).__name__}: {reason[:120]}")
            else:
                return pair
    what = "; ".join(reasons) or "neither PyTorch nor JAX was imported"
    raise InputError(
        f"same: {who} is a function without a backward, and {what}: expected a pair (forward, backward), or a"
        " function of PyTorch's or JAX's: from_torch(f) and from_jax(f) say which"
    )


def signed(given: Any, count: int) -> tuple[Any, int]:
    """(the function whose signature says what an implementation takes, how many of count arrays it takes).

    A module's parameters may be among the arrays, after its inputs.
    """
    if isinstance(given, tuple | list):
        return (given[0] if given else None), count
    if _is_module(given):
        inputs = count - len(list(given.parameters()))
        return given.forward, inputs if inputs > 0 else count
    if callable(getattr(given, "forward", None)) and callable(getattr(given, "backward", None)):
        return (None if isinstance(given, type) else given.forward), count  # an autograd.Function has none
    return given, count


def _is_module(given: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(given, torch.nn.Module)
