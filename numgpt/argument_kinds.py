"""The kinds of values that annotations stand for: the words for each, and how a value becomes one."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError

WRONG = object()  # what a Kind's convert returns for a value that it does not take
NUMBERS = "biufc"  # the kinds of a NumPy dtype that are numbers
SHOWN = 80  # characters of a wrong value in a message
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in memory, in what repr says of a function
ELSEWHERE = "checked by the function itself, which can say more"
ARRAYS = frozenset(typing.get_args(ArrayLike))


class Range(NamedTuple):
    """What a number must hold besides its type, and the words for it behind the type's."""

    words: str
    holds: Callable[[Any], bool]


class Kind(NamedTuple):
    """What an annotation takes: the words for it, and a function value → the value to use, or WRONG."""

    words: str
    convert: Callable[[Any], Any]


def held(who: str, name: str, kind: Kind | None, value: Any) -> Any:
    """The value to use for an argument; InputError where it is not of its kind. No kind takes anything."""
    if kind is None:
        return value
    converted = kind.convert(value)
    if converted is WRONG:
        raise InputError(f"{who}: {name} is {_shown(value)}, expected {kind.words}")
    return converted


@functools.cache
def kind_of(hint: Any) -> Kind | None:
    """What an annotation takes; None where it takes anything."""
    if hint in KINDS:
        return KINDS[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _annotated(*parts)
    if origin in (typing.Union, types.UnionType):
        return _one_of(parts)
    if origin is Literal:
        return Kind(" or ".join(map(repr, parts)), lambda x: x if type(x) is str and x in parts else WRONG)
    if origin in CONTAINERS:
        return CONTAINERS[origin](*parts)
    if origin is os.PathLike:
        return PATH
    cls = origin or hint
    return _instance(cls) if inspect.isclass(cls) and cls not in (object, Any) else None


def is_finite(value: Any) -> bool:
    """Whether something is a number that a float holds."""
    return _number(value) is not WRONG


def _shown(value: Any) -> str:
    """A wrong value in a message: short, and without an address in memory."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        of = f" of {value.dtype}" if isinstance(value, np.ndarray) else ""
        if isinstance(value, np.ma.MaskedArray):
            return f"a masked array{of} of shape {value.shape}, whose mask would be lost"
        return f"an array{of} of shape {tuple(value.shape)}" if value.shape else f"the array {value}"
    text = ADDRESS.sub("", repr(value))
    if text.startswith("<"):
        return f"of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


# Scalars.


def _integer(value: Any) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        return WRONG
    try:
        return operator.index(value)
    except TypeError:
        return WRONG


def _number(value: Any) -> Any:
    if type(value) is float:
        return value if math.isfinite(value) else WRONG
    if getattr(value, "shape", None) == () and hasattr(
        value, "item"
    ):  # NumPy's scalars, arrays and tensors ()
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return WRONG
    try:
        value = float(value)
    except (OverflowError, TypeError, ValueError):
        return WRONG
    return value if math.isfinite(value) else WRONG


def _flag(value: Any) -> Any:
    return bool(value) if isinstance(value, bool | np.bool_) else WRONG


def _string(value: Any) -> Any:
    return str(value) if isinstance(value, str) else WRONG


def _path(value: Any) -> Any:
    """A path that an operating system can be asked for: a text of some length without a null character."""
    if not isinstance(value, str | os.PathLike):
        return WRONG
    try:
        text = os.fspath(value)
        os.fsencode(text)
    except (TypeError, UnicodeEncodeError):
        return WRONG
    return value if isinstance(text, str) and text and "\0" not in text else WRONG


def _none(value: Any) -> Any:
    return None if value is None else WRONG


def _dtype(value: Any) -> Any:
    if value is None:  # which NumPy takes for float64
        return WRONG
    try:
        known = np.dtype(value).kind in NUMBERS
    except Exception:  # whatever NumPy says of what is none
        return WRONG
    return value if known else WRONG


def as_array(what: str, value: Any, expected: str, advice: str = "") -> np.ndarray[Any, Any]:
    """What NumPy makes of a value; InputError with its reason where that is nothing.

    advice: what to do where rows differ in length. The array has the machine's byte order.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            f"{what}: is a masked array, whose mask would be lost, expected {expected}: give .filled(…), or"
            " the entries that count"
        )
    try:
        return native(np.asarray(value))
    except Exception as error:  # ragged rows, a tensor of another device or one that records
        if isinstance(error, ValueError) and "inhomogeneous" in str(error):
            advice = f": {advice}" if advice else ""
            raise InputError(f"{what}: rows differ in length, expected {expected}{advice}") from error
        reason = " ".join(str(error).split())
        raise InputError(f"{what}: cannot be read as an array ({reason}), expected {expected}") from error


def native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array itself, or a copy in the machine's byte order: compiled code knows no other."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _array(value: Any) -> Any:
    """Numbers as an array; one that lies on a GPU stays there."""
    if type(value) is not np.ndarray:
        if isinstance(value, np.ma.MaskedArray):  # its mask would be lost
            return WRONG
        if type(value).__module__.partition(".")[0] == "cupy":
            return value
        try:
            value = np.asarray(value)
        except Exception:  # ragged rows, a tensor of another device or one that records
            return WRONG
    return native(value) if value.dtype.kind in NUMBERS else WRONG


def _annotated(hint: Any, says: Any) -> Kind | None:
    """The kind of Annotated[hint, says]: a Kind says all, a Range narrows what the hint takes."""
    if says is ELSEWHERE:
        return None
    return says if isinstance(says, Kind) else _within(kind_of(hint), says)


def _within(kind: Kind | None, limits: Range) -> Kind | None:
    """A kind of number within a range."""
    if kind is None:
        return None

    def convert(value: Any) -> Any:
        number = kind.convert(value)
        return number if number is not WRONG and limits.holds(number) else WRONG

    return Kind(f"{kind.words} {limits.words}", convert)


# What is made of other kinds.


def _one_of(parts: Sequence[Any]) -> Kind | None:
    """The kind of a union: the first of its parts that takes a value."""
    rest = [part for part in parts if part is not type(None)]
    alternatives: list[Kind | None] = []
    if set(rest) >= ARRAYS:
        alternatives.append(ARRAY)
        rest = [part for part in rest if part not in ARRAYS]
    if any(typing.get_origin(part) is os.PathLike for part in rest):
        rest = [part for part in rest if part is not str]
    alternatives = [*map(kind_of, rest), *alternatives]
    kinds = [kind for kind in alternatives if kind is not None]
    if len(kinds) < len(alternatives):
        return None

    def convert(value: Any) -> Any:
        if value is None and type(None) in parts:
            return None
        for kind in kinds:
            converted = kind.convert(value)
            if converted is not WRONG:
                return converted
        return WRONG

    words = " or ".join(kind.words for kind in kinds)
    return Kind(f"{words}, or None" if type(None) in parts else words, convert)


def _instance(cls: type) -> Kind:
    """The kind of a class's instances; of a protocol, of what has its names."""
    article = "an" if cls.__name__[0] in "AEIOU" else "a"
    words = f"{article} {cls.__name__}"
    if not getattr(cls, "_is_protocol", False):
        return Kind(words, lambda value: value if isinstance(value, cls) else WRONG)
    bases = [base for base in cls.__mro__ if getattr(base, "_is_protocol", False)]
    names = {name for base in bases for name in (*inspect.get_annotations(base), *vars(base))}
    public = sorted(name for name in names if not name.startswith("_"))
    words = f"{words}, which has {', '.join(public)}"

    def convert(value: Any) -> Any:
        """The value, unless it is a class: what that has are names of its instances."""
        fits = not isinstance(value, type) and all(hasattr(value, name) for name in public)
        return value if fits else WRONG

    return Kind(words, convert)


def _mapping(key: Any = Any, value: Any = Any) -> Kind:
    keys, values = kind_of(key), kind_of(value)

    def convert(given: Any) -> Any:
        if not isinstance(given, Mapping):
            return WRONG
        if type(given) is not dict:  # such as a Flat, whose names and arrays are what they are
            return given
        pairs = {_element(keys, k): _element(values, v) for k, v in given.items()}
        if WRONG in pairs or any(v is WRONG for v in pairs.values()):
            return WRONG
        return given if all(pairs.get(k) is v for k, v in given.items()) else pairs

    return Kind("a mapping" if values is None else f"a mapping, each value {values.words}", convert)


def _element(kind: Kind | None, value: Any) -> Any:
    return value if kind is None else kind.convert(value)


def _sequence(item: Any = Any) -> Kind:
    items = kind_of(item)

    def convert(given: Any) -> Any:
        if isinstance(given, str | bytes) or not isinstance(given, Sequence | np.ndarray):
            return WRONG
        if isinstance(given, np.ndarray) and given.ndim == 0:
            return WRONG
        return _all_of(items, given)

    return Kind(f"a sequence{_of(items)}", convert)


def _iterable(item: Any = Any) -> Kind:
    items = kind_of(item)

    def convert(given: Any) -> Any:
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            return WRONG
        if isinstance(given, np.ndarray) and given.ndim == 0:
            return WRONG
        if isinstance(given, list | tuple):
            return _all_of(items, given)
        return given if items is None else _each(items, given)

    return Kind(f"an iterable{_of(items)}", convert)


def _of(items: Kind | None) -> str:
    return "" if items is None else f" of which each is {items.words}"


def _all_of(items: Kind | None, given: Any) -> Any:
    """A sequence with its elements converted: a tuple stays one, everything else is a list."""
    if items is None:
        return given
    converted = [items.convert(value) for value in given]
    if any(value is WRONG for value in converted):
        return WRONG
    return tuple(converted) if isinstance(given, tuple) else converted


def _each(items: Kind, given: Iterable[Any]) -> Iterator[Any]:
    """What is met only once, looked at as it is taken."""
    for n, value in enumerate(given):
        yield held("iterable", f"element {n}", items, value)


def _tuple(*parts: Any) -> Kind:
    """A tuple, or a list that may stand for one."""
    if len(parts) == 2 and parts[1] is Ellipsis:
        every = kind_of(parts[0])

        def convert_all(given: Any) -> Any:
            return _all_of(every, tuple(given)) if isinstance(given, tuple | list) else WRONG

        return Kind(f"a tuple{_of(every)}", convert_all)
    items = [kind_of(part) for part in parts]
    words = ", ".join("anything" if item is None else item.words for item in items)

    def convert(given: Any) -> Any:
        if not isinstance(given, tuple | list) or len(given) != len(items):
            return WRONG
        converted = tuple(map(_element, items, given))
        return WRONG if any(value is WRONG for value in converted) else converted

    return Kind(f"({words})", convert)


def _callable(*signature: Any) -> Kind:
    return Kind("a function", lambda value: value if callable(value) else WRONG)


ARRAY = Kind("an array of numbers, all rows of one length", _array)
DTYPE = Kind("a dtype of numbers", _dtype)
PATH = Kind("a path, not empty and without a null character", _path)
KINDS: dict[Any, Kind] = {
    int: Kind("an integer", _integer),
    float: Kind("a finite number", _number),
    bool: Kind("True or False", _flag),
    str: Kind("a string", _string),
    bytes: Kind("bytes", lambda value: value if isinstance(value, bytes) else WRONG),
    type(None): Kind("None", _none),
    ArrayLike: ARRAY,
    typing.SupportsIndex: Kind("an integer", _integer),
}
CONTAINERS: dict[Any, Callable[..., Kind]] = {
    Mapping: _mapping,
    dict: _mapping,
    Sequence: _sequence,
    list: _sequence,
    Iterable: _iterable,
    tuple: _tuple,
    Callable: _callable,
    np.ndarray: lambda *parts: ARRAY,
}
