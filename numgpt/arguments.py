"""What may be given to the public face: the arguments of a call are held to their annotations, here alone.

    @checked
    def step(self, grads: Mapping[str, Array], lr: AtLeastZero) -> float: ...

    step(grads, lr=-1.0)    InputError: AdamW.step: lr is -1.0, expected a finite number of 0 or more

The function gets plain Python: an np.int64 becomes an int, an np.float32 or an array () a float, so that no
scalar of NumPy changes the dtype of what it meets. A bool is no number, and a string is no sequence. What an
annotation does not say, such as that ids lie below a vocabulary's size, the function itself checks.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

from numpy.typing import ArrayLike, DTypeLike

from .argument_kinds import DTYPE, ELSEWHERE, Kind, Range, held, kind_of
from .errors import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")

Count = Annotated[int, Range("of 0 or more", lambda x: x >= 0)]
Size = Annotated[int, Range("of 1 or more", lambda x: x >= 1)]
Place = Annotated[int, Range("from 0 to 2⁵³, as a float counts", lambda x: 0 <= x <= 2**53)]
AtLeastZero = Annotated[float, Range("of 0 or more", lambda x: x >= 0)]
Positive = Annotated[float, Range("more than 0", lambda x: x > 0)]
BelowOne = Annotated[float, Range("from 0 to below 1", lambda x: 0 <= x < 1)]
Share = Annotated[float, Range("more than 0 and at most 1", lambda x: 0 < x <= 1)]
Ids = Annotated[ArrayLike, ELSEWHERE]
DType = Annotated[DTypeLike, DTYPE]  # DTypeLike by itself holds None in some versions of NumPy
FromZeroToOne = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1)]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose arguments are held to its annotations: InputError names the one that is not.

    Examples
    --------
    >>> import numpy as np
    >>> @checked
    ... def double(n: Count) -> int:
    ...     return 2 * n
    >>> double(np.int64(3))
    6
    >>> double(2.5)
    Traceback (most recent call last):
    numgpt.errors.InputError: double: n is 2.5, expected an integer of 0 or more
    """
    who = function.__qualname__.rpartition("<locals>.")[2]
    return checked_as(who.removesuffix(".__init__").removesuffix(".__call__"))(function)


class HeldAttributes:
    """An object whose attributes are held to the annotations of __init__ whenever they are set."""

    def __setattr__(self, name: str, value: Any) -> None:
        cls = next(c for c in type(self).__mro__ if HeldAttributes in c.__bases__)  # not a user's below it
        kind = _plan(cls.__init__)[1].get(name)  # type: ignore[misc]
        super().__setattr__(name, held(cls.__name__, name, kind, value))


def checked_as(who: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As checked, for a function that its messages call by another name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            in_order, by_name = _plan(function)
            given = [held(who, name, kind, value) for (name, kind), value in zip(in_order, args)]
            for name, value in kwargs.items():
                if name not in by_name and not _takes_any(function):
                    meant = did_you_mean(name, by_name)
                    raise TypeError(f"{who}() got an unexpected keyword argument {name!r}{meant}")
                kwargs[name] = held(who, name, by_name.get(name), value)
            return function(*given, *args[len(given) :], **kwargs)  # type: ignore[arg-type]

        return call

    return decorate


@functools.cache  # at the first call: annotations may name what is not there yet while a module is imported
def _plan(function: Callable[..., Any]) -> tuple[list[tuple[str, Kind | None]], dict[str, Kind | None]]:
    """What a function's parameters take: those given by place, in order, and all by name."""
    hints = typing.get_type_hints(function, include_extras=True)
    in_order: list[tuple[str, Kind | None]] = []
    by_name: dict[str, Kind | None] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        by_name[name] = kind_of(hints[name]) if name in hints else None
        if parameter.kind is not parameter.KEYWORD_ONLY:
            in_order.append((name, by_name[name]))
    return in_order, by_name


@functools.cache
def _takes_any(function: Callable[..., Any]) -> bool:
    """Whether a function takes arguments of any name."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
