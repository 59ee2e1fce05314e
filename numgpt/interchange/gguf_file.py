"""The container of GGUF: what a file says, and where its arrays lie. Files may come from anybody.

    GGUF, version, number of arrays, number of keys
    keys:    name, type, value        of a list: the type of what is in it, how many, the values
    arrays:  name, number of axes, sizes from the last axis on, type, where it begins
    padding, then the numbers of each array, which begin at multiples of general.alignment

The package's own reader believes what a file says of its sizes, and makes objects for each number of a list:
so a header is measured and read here, while the package writes files, and knows the types and their blocks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..storage.atomic import StrPath, write_file
from ..storage.files import mapped, open_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # where a file does not say it
MOST_AXES = 4
LARGEST = 2**48  # numbers of an array: far beyond all files, and small enough to count with
STRING, LIST = 8, 9
# A type of values → how NumPy calls it.
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8"}
NUMBERS |= {12: "<f8"}
PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}  # types of arrays whose numbers are read as they are


class Stored(NamedTuple):
    """An array of a file, memory-mapped: the bytes, the type as the package calls it, and NumPy's shape."""

    kind: str
    shape: tuple[int, ...]
    data: NDArray[Any]


class Content(NamedTuple):
    """What a file says, and its arrays by name. Lists of numbers are arrays; all else is Python's."""

    said: dict[str, Any]
    arrays: dict[str, Stored]


def package(path: StrPath) -> Any:
    """The package gguf; InputError where it is not installed. path: what it is needed for."""
    try:
        import gguf
    except ImportError:
        raise InputError(
            f"{path}: gguf is not installed, expected it for a file of GGUF: pip install 'numgpt[gguf]'"
        ) from None
    return gguf


def is_gguf(path: StrPath) -> bool:
    """Whether a file begins as those of GGUF do."""
    with open_file(path) as file:
        return file.read(len(MAGIC)) == MAGIC


class _Cursor:
    """A place in a file, before which all is read: what is said to lie behind the end is an InputError."""

    def __init__(self, path: StrPath, data: NDArray[Any]) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, n: int) -> NDArray[Any]:
        """The next n bytes."""
        if n > len(self.data) - self.at:
            raise InputError(
                f"{self.path}: has {len(self.data):,} bytes, expected {n:,} more from byte {self.at:,} on, as"
                " its header says: it is cut short, or damaged"
            )
        self.at += n
        return self.data[self.at - n : self.at]

    def integer(self, kind: str = "Q") -> int:
        """The next integer: Q of 8 bytes, I of 4."""
        return int(struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)).tobytes())[0])

    def text(self) -> str:
        """The next string."""
        begin = self.at
        try:
            return self.take(self.integer()).tobytes().decode()
        except UnicodeDecodeError:
            self.refuse(f"a string at byte {begin:,} that is not UTF-8", "text")

    def value(self) -> Any:
        """The next value, before which its type stands."""
        kind = self.integer("I")
        if kind == LIST:
            kind, n = self.integer("I"), self.integer()
            if kind == STRING:
                self._expect_room(8 * n)
                return [self.text() for _ in range(n)]
            size = self._dtype(kind).itemsize
            return np.frombuffer(self.take(size * n).tobytes(), self._dtype(kind))
        if kind == STRING:
            return self.text()
        dtype = self._dtype(kind)
        number = np.frombuffer(self.take(dtype.itemsize).tobytes(), dtype)[0]
        return float(str(number)) if dtype == np.float32 else number.item()  # 1e-05, not 9.99999975e-06

    def _dtype(self, kind: int) -> np.dtype[Any]:
        if kind not in NUMBERS:
            self.refuse(f"a value of type {kind}", "numbers, strings and lists of these")
        return np.dtype(NUMBERS[kind])

    def _expect_room(self, n: int) -> None:
        """Raise InputError unless n bytes are there, before anything is made for each."""
        at = self.at
        self.take(n)
        self.at = at

    def refuse(self, what: str, expected: str) -> NoReturn:
        """Raise the InputError for what a file has."""
        raise InputError(f"{self.path}: has {what}, expected {expected}: it is damaged")


def read(path: StrPath) -> Content:
    """What a file of GGUF says and where its arrays lie; every size is measured before it is believed."""
    types = package(path)
    with open_file(path) as file:
        data = mapped(file)
    cursor = _Cursor(path, data)
    if cursor.take(len(MAGIC)).tobytes() != MAGIC:
        cursor.refuse("another beginning", "GGUF")
    version = cursor.integer("I")
    if version not in VERSIONS:
        known = " or ".join(map(str, VERSIONS))
        raise InputError(
            f"{path}: has version {version} of GGUF, expected {known}, with the lowest byte of numbers first"
        )
    n_arrays, n_keys = cursor.integer(), cursor.integer()
    said: dict[str, Any] = {}
    for _ in range(n_keys):
        name = cursor.text()
        if name in said:
            cursor.refuse(f"{name[:80]!r} twice", "each key once")
        said[name] = cursor.value()
    return Content(said, _arrays(cursor, n_arrays, _alignment(cursor, said), types))


def _alignment(cursor: _Cursor, said: Mapping[str, Any]) -> int:
    step = said.get("general.alignment", ALIGNMENT)
    if type(step) is not int or not 8 <= step <= 2**20 or step & (step - 1):
        cursor.refuse(f"general.alignment {str(step)[:80]!r}", "a power of 2 from 8 on")
    return int(step)


def _arrays(cursor: _Cursor, n: int, step: int, types: Any) -> dict[str, Stored]:
    """The arrays by name, from the n entries that come next and the numbers behind them."""
    known = {int(kind): (kind.name, *sizes) for kind, sizes in types.GGML_QUANT_SIZES.items()}
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(n):
        name = cursor.text()
        axes = cursor.integer("I")
        if name in entries or not 1 <= axes <= MOST_AXES:
            cursor.refuse(
                f"{name[:80]!r} twice, or with {axes} axes", f"each array once, with 1 to {MOST_AXES}"
            )
        shape = tuple(cursor.integer() for _ in range(axes))[::-1]
        kind, begin = cursor.integer("I"), cursor.integer()
        if kind not in known:
            cursor.refuse(f"{name[:80]!r} of type {kind}", f"one of gguf's {len(known)} types")
        title, block, size = known[kind]
        if not all(0 < width <= LARGEST for width in shape) or math.prod(shape) > LARGEST:
            cursor.refuse(f"{name[:80]!r} of shape {shape}", f"sizes from 1 on, at most {LARGEST:,} numbers")
        if shape[-1] % block or begin % step:
            cursor.refuse(
                f"{name[:80]!r} of {title} with rows of {shape[-1]} at {begin}",
                f"multiples of {block} and of {step}",
            )
        entries[name] = (title, shape, begin, math.prod(shape) // block * size)
    start = -(-cursor.at // step) * step
    _expect_apart(cursor, entries)
    arrays = {}
    for name, (title, shape, begin, length) in entries.items():
        cursor.at = start + begin
        arrays[name] = Stored(title, shape, cursor.take(length))
    return arrays


def _expect_apart(cursor: _Cursor, entries: Mapping[str, tuple[str, tuple[int, ...], int, int]]) -> None:
    """Raise InputError where two arrays share bytes."""
    end = 0
    for name, (_, _, begin, length) in sorted(entries.items(), key=lambda item: item[1][2]):
        if begin < end:
            cursor.refuse(f"{name[:80]!r} over another array", "arrays apart")
        end = begin + length


def numbers(path: StrPath, name: str, stored: Stored) -> NDArray[Any]:
    """The numbers of an array: float16 and blocks of fewer bits become float32, which holds them."""
    if stored.kind in PLAIN:
        plain = stored.data.view(PLAIN[stored.kind]).reshape(stored.shape)
        return plain.astype("<f4") if stored.kind == "F16" else plain
    types = package(path)
    rows = stored.data.reshape(*stored.shape[:-1], -1)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused where it lies
            return np.asarray(types.dequantize(rows, types.GGMLQuantizationType[stored.kind]))
    except NotImplementedError:
        raise InputError(
            f"{path}: {name} has type {stored.kind}, expected F32, F16, Q8_0, Q4_0, or another that gguf"
            " reads as floats"
        ) from None


def write(
    path: StrPath, kind: str, said: Mapping[str, Any], arrays: Mapping[str, tuple[NDArray[Any], str]]
) -> None:
    """Write a file, whole or not at all.

    kind: general.architecture. said: key → value; integers are of 32 bits, floats too. arrays: name → float32
    numbers, and the type in which they are stored.
    """
    types = package(path)
    write_file(path, lambda place: _write(place, kind, said, arrays, types))


def _write(
    place: Path,
    kind: str,
    said: Mapping[str, Any],
    arrays: Mapping[str, tuple[NDArray[Any], str]],
    types: Any,
) -> None:
    """Write the file by the package's own writer."""
    writer = types.GGUFWriter(place, kind)
    add: dict[type, Any] = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    for key, value in said.items():
        add[type(value)](key, value)
    for name, (array, title) in arrays.items():
        form = types.GGMLQuantizationType[title]
        with np.errstate(over="ignore"):  # 1 over a scale that is next to 0: the numbers become 0
            writer.add_tensor(name, types.quantize(np.ascontiguousarray(array), form), raw_dtype=form)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        if error.errno is None:  # NumPy does not say what the system said; who asks for more room is told
            with open(place, "ab") as file:
                file.write(bytes(2**16))
        raise
    finally:
        writer.close()
