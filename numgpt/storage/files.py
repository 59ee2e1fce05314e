"""Readers that trust nothing: a file is opened only if it is one, measured before it is read, and checked."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .atomic import StrPath

# The longest JSON that numgpt writes, a tokenizer with every character of Unicode, has 13 million bytes.
LONGEST_JSON = 2**24
# Levels of lists and objects: deeper ones would overflow the functions that print what is wrong with them.
DEEPEST_JSON = 64
# A dtype's name in a safetensors file → NumPy's. NumPy has no bfloat16, so its bits stand for it.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
# What may stand in a file's place.
NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}

Tensors = dict[str, tuple[str, NDArray[Any]]]


class Missing(InputError):
    """A file does not exist."""


def open_file(path: StrPath, expected: str = "a file", pipes: bool = False) -> BufferedReader:
    """Open a file to read its bytes.

    A folder, a device or a pipe raises InputError: reading the last two may never end.

    expected: the words for it in the error. pipes: accept a pipe, which can be read only once.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode)):
            return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: an impossible name
        raise Missing(f"{path}: does not exist, expected {expected}") from error
    actual = NO_FILES.get(stat.S_IFMT(mode), "a device")
    raise InputError(f"{path}: is {actual}, expected {expected}")


def mapped(file: IO[bytes]) -> NDArray[Any]:
    """The bytes of an open file, memory-mapped: only what is used gets read.  → (size,) uint8"""
    if os.fstat(file.fileno()).st_size == 0:  # nothing can be mapped
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(file, np.uint8, "r"))


def read_bytes(path: StrPath, longest: int = LONGEST_JSON) -> bytes:
    """All bytes of a file; InputError if it has more than the longest expected."""
    with open_file(path) as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise InputError(f"{path}: has more than {longest:,} bytes, the most expected here")
    return data


def read_json(path: StrPath) -> Any:
    """The content of a JSON file."""
    return parse_json(read_bytes(path), path)


def parse_json(data: bytes, path: StrPath) -> Any:
    """The content of JSON bytes.

    A name that occurs twice in an object is an error, since parsers differ in which of the two they take.

    path: the file's name, for errors.
    """
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
        _expect_shallow(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not JSON ({error}), expected a file written by numgpt or transformers"
        ) from error
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} occurs twice")
        content[name] = value
    return content


def _expect_shallow(content: Any) -> None:
    """Raise ValueError if lists and objects are nested too deep; level by level, not to overflow."""
    level = [content]
    for _ in range(DEEPEST_JSON + 1):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST_JSON} levels deep")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def tensors(path: StrPath) -> Tensors:
    """Name → (dtype, array) of a safetensors file. The arrays are memory-mapped; their numbers are not read.

        8 bytes     n, little-endian
        n bytes     JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}
        the rest    the arrays, each from its begin to its end, with nothing between or after them

    All of that is checked. dtype is spelled as in the file; BF16 comes as its bits, in uint16.
    Source: the description of the format in the repository huggingface/safetensors.
    """
    with open_file(path) as file:
        data = mapped(file)
    n = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or n > min(LONGEST_JSON, len(data) - 8):
        raise _damaged(path, f"it declares a header of {n:,} bytes, and has {len(data):,} in all")
    header = parse_json(data[8 : 8 + n].tobytes(), path)
    data = data[8 + n :]
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(path, name, entry)

    arrays: Tensors = {}
    place = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != place or end > len(data):
            raise _damaged(
                path, f"{name} lies at {begin:,} to {end:,} of {len(data):,} bytes, not from {place:,} on"
            )
        dtype = entry["dtype"]
        arrays[name] = dtype, data[begin:end].view(DTYPES[dtype]).reshape(entry["shape"])
        place = end
    if place != len(data):
        raise _damaged(path, f"its arrays end at {place:,} of {len(data):,} bytes")
    return arrays


def _check_entry(path: StrPath, name: str, entry: Any) -> None:
    """Raise InputError unless an array's entry in the header is consistent."""
    if not isinstance(entry, dict):
        entry = {}
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _damaged(path, f"{name} has dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not _are_sizes(shape, least=1) or len(shape) > 8:
        raise _damaged(path, f"{name} has shape {shape!r}, expected at most 8 integers from 1")
    size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if not _are_sizes(place, least=0) or len(place) != 2 or place[1] - place[0] != size:
        raise _damaged(
            path,
            f"{name} has data_offsets {place!r}, expected begin and end of {dtype} numbers of shape {shape}",
        )


def _are_sizes(values: Any, least: int) -> bool:
    return isinstance(values, list) and all(type(v) is int and least <= v < 2**63 for v in values)


def _damaged(path: StrPath, reason: str) -> InputError:
    return InputError(f"{path}: is damaged ({reason}), expected an intact safetensors file")
