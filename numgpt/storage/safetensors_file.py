"""Files of safetensors, read in place: what their header says is checked before any number is looked at."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .atomic import StrPath
from .files import LONGEST_JSON, is_pickled, mapped, open_file, parse_json, pickled

# A dtype's name in a safetensors file → NumPy's. NumPy has no bfloat16, so its bits stand for it.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
MOST_AXES = 8
METADATA = "__metadata__"

Tensors = dict[str, tuple[str, NDArray[Any]]]


class Contents(NamedTuple):
    """What a file holds.

    tensors: name → (dtype, array), dtype spelled as in the file; BF16 comes as its bits, in uint16.
    metadata: name → text. Where several names are one array, save_model of safetensors stores one of them,
    and notes here {a name that it left out: the name that is stored}.
    """

    tensors: Tensors
    metadata: dict[str, str]


def read(path: StrPath) -> Contents:
    """The arrays of a safetensors file, memory-mapped: their numbers are not read.

        8 bytes     n, little-endian
        n bytes     JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}
        the rest    the arrays, each from its begin to its end, with nothing between or after them

    All of that is checked.
    Source: the description of the format in the repository huggingface/safetensors.
    """
    with open_file(path) as file:
        data = mapped(file)
    header, data = _header(path, data)
    metadata = header.pop(METADATA, None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, f"its {METADATA} are not texts")
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
    return Contents(arrays, metadata)


def tensors(path: StrPath) -> Tensors:
    """The arrays of a safetensors file alone."""
    return read(path).tensors


def _header(path: StrPath, data: NDArray[Any]) -> tuple[dict[str, Any], NDArray[Any]]:
    """(header, the bytes after it) of a file's bytes."""
    begin = data[:8].tobytes()
    n = int.from_bytes(begin, "little")
    if len(data) < 8 or n > min(LONGEST_JSON, len(data) - 8):
        if not begin:
            raise _damaged(path, "it is empty")
        if is_pickled(begin):
            raise pickled(path)
        if begin.isascii() and begin.decode().isprintable():
            raise InputError(f"{path}: begins with {begin.decode()!r}, expected a safetensors file")
        raise _damaged(path, f"it declares a header of {n:,} bytes, and has {len(data):,} in all")
    header = parse_json(data[8 : 8 + n].tobytes(), path)
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return header, data[8 + n :]


def _check_entry(path: StrPath, name: str, entry: Any) -> None:
    """Raise InputError unless an array's entry in the header is consistent."""
    if not isinstance(entry, dict):
        entry = {}
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str):
        raise _damaged(path, f"{name} has dtype {dtype!r}, not a dtype's name")
    if dtype not in DTYPES:
        raise InputError(
            f"{path}: {name} has dtype {dtype!r}, expected one of {', '.join(DTYPES)}: convert it, in PyTorch"
            " with .to(torch.float32)"
        )
    if not _are_sizes(shape):
        raise _damaged(path, f"{name} has shape {shape!r}, not integers from 0")
    if len(shape) > MOST_AXES:
        raise InputError(f"{path}: {name} has {len(shape)} axes, expected at most {MOST_AXES}")
    item = np.dtype(DTYPES[dtype]).itemsize
    if math.prod(filter(None, shape)) * item >= 2**63:  # a 0 among them does not make the others possible
        raise InputError(f"{path}: {name} has shape {shape!r}, expected one that an address can count")
    size = math.prod(shape) * item
    if not _are_sizes(place) or len(place) != 2 or place[1] - place[0] != size:
        raise _damaged(
            path,
            f"{name} has data_offsets {place!r}, not begin and end of {dtype} numbers of shape {shape}",
        )


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _damaged(path: StrPath, reason: str) -> InputError:
    return InputError(f"{path}: is damaged ({reason}), expected an intact safetensors file")
