"""Options of a user's forward that have the names of ours: nobody guesses whose seed is meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from ..errors import InputError
from .implementations import signed
from .pair import argument_names, expect_taken

P = ParamSpec("P")
R = TypeVar("R")
OPTIONS = "options"


def expect_clear(*sides: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that refuses a name which is its own argument and an option of a forward, too.

    options= makes it clear: what is in it goes to the forward, and all else that has a name of the
    function's is the function's.

    sides: the names of the arguments that are forwards, or implementations that have one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        who, parameters = function.__name__, inspect.signature(function).parameters
        by_place = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        own = [n for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = dict(zip(by_place, args)) | kwargs
            arrays = args[len(by_place) :]
            names = {n for side in sides for n in option_names(given.get(side), arrays)}
            twice = [n for n in own if n in kwargs and (n not in by_place or by_place.index(n) < len(args))]
            options: Any = given.get(OPTIONS)
            _expect_clear(who, names, twice, options)
            if isinstance(options, Mapping):
                for side in sides:
                    expect_taken(who, signed(given.get(side), len(arrays))[0], options)
            return function(*args, **kwargs)

        return call

    return decorate


def _expect_clear(who: str, names: set[str], given: Sequence[str], options: Any) -> None:
    """Raise InputError for a name that is given, and is one of the forward's names.

    An option of the forward that is called options goes in options, too.
    """
    if options is None:
        doubtful = [n for n in given if n in names and n != OPTIONS]
    else:
        doubtful = [OPTIONS] if OPTIONS in names and not _are_of(options, names) else []
    if doubtful:
        name = doubtful[0]
        leaves = "" if name == OPTIONS else f", and options={{}} leaves {name}= to {who}"
        raise InputError(
            f"{who}: {name} is an argument of {who} and an option of the forward, expected to be told which:"
            f" options={{{name!r}: …}} gives it to the forward{leaves}"
        )


def _are_of(options: Any, names: set[str]) -> bool:
    return isinstance(options, Mapping) and set(options) <= names


def option_names(side: Any, arrays: Sequence[Any]) -> set[str]:
    """The names of a forward's options: those of its signature, without the arguments that are arrays."""
    function, count = signed(side, len(arrays))
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin, or nothing to call
        return set()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names - set(argument_names(function, count))
