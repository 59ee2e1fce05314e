"""Files that anybody may have made: opened only if they are files, measured before they are read, and
believed in nothing.
"""

import json
import math
import os
import stat

import numpy as np

from ..errors import InputError

LONGEST = (
    2**24
)  # bytes of JSON: the longest that numgpt writes, a tokenizer with all characters of Unicode, has 13 million
# lists and objects in one another: more would be too deep for the functions that print what is wrong with
# them
DEEPEST = 64
KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1",
}  # fmt: skip


class Missing(InputError):
    """A file is not there."""


def open_file(path, expected="a file", pipes=False):
    """A file opened to read its bytes. A folder, a device or a pipe is an InputError: the last two may never
    end.

    expected: what the message says that should be there. pipes: take a pipe too, which can be read once.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode)):
            return open(path, "rb")
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
    ) as error:  # ValueError: no file can have that name
        raise Missing(f"{path}: does not exist, expected {expected}") from error
    what = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}.get(
        stat.S_IFMT(mode), "a device"
    )
    raise InputError(f"{path}: is {what}, expected {expected}")


def mapped(file):
    """The bytes of an open file, of which memory holds only what is looked at.  → (size,) uint8"""
    return (
        np.asarray(np.memmap(file, np.uint8, "r"))
        if os.fstat(file.fileno()).st_size
        else np.zeros(0, np.uint8)
    )


def read_bytes(path, longest=LONGEST):
    """All bytes of a file; InputError where it has more than the longest that is expected."""
    with open_file(path) as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise InputError(f"{path}: has more than {longest:,} bytes, expected no more")
    return data


def read_json(path):
    """What a JSON file holds."""
    return parse_json(read_bytes(path), path)


def parse_json(data, path):
    """What bytes of JSON say. A name that is there twice is an error: readers differ in which of them they
    believe.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
        level = [found]
        for _ in range(DEEPEST + 1):
            level = [
                v
                for part in level
                if isinstance(part, dict | list)
                for v in (part.values() if isinstance(part, dict) else part)
            ]
            if not level:
                return found
        raise ValueError(f"more than {DEEPEST} lists and objects in one another")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not JSON ({error}), expected a file as numgpt or transformers write it"
        ) from error


def _once(pairs):
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def tensors(path):
    """Name → (dtype, array) of a safetensors file. The arrays are mapped: none of their numbers is read here.

        8 bytes     n, little-endian
        n bytes     JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}
        the rest    the arrays, each from its begin to its end, one after the other with nothing between or behind them

    All of that is checked. dtype is spelled as in the file; BF16, which NumPy lacks, is given as the bits,
    uint16.
    Source: the format's description in the repository of huggingface/safetensors.
    """
    with open_file(path) as file:
        data = mapped(file)
    n = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or n > min(LONGEST, len(data) - 8):
        raise _damaged(path, f"it says that its header has {n:,} bytes, and has {len(data):,} in all")
    header, data = parse_json(data[8 : 8 + n].tobytes(), path), data[8 + n :]
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no object of JSON")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(path, name, entry)
    found, place = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != place or end > len(data):
            raise _damaged(
                path,
                f"{name} lies at {begin:,} to {end:,} of {len(data):,} bytes, the one before it ends at"
                f" {place:,}",
            )
        found[name], place = (
            (entry["dtype"], data[begin:end].view(KINDS[entry["dtype"]]).reshape(entry["shape"])),
            end,
        )
    if place != len(data):
        raise _damaged(path, f"its arrays end at {place:,} of {len(data):,} bytes")
    return found


def _check_entry(path, name, entry):
    """Raise InputError unless an array's line in the header agrees with itself."""
    dtype, shape, place = (
        (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if isinstance(entry, dict)
        else (None,) * 3
    )
    if not isinstance(dtype, str) or dtype not in KINDS:
        raise _damaged(path, f"{name} has dtype {dtype!r}, expected one of {', '.join(KINDS)}")
    if not _sizes(shape, 1) or len(shape) > 8:
        raise _damaged(path, f"{name} has shape {shape!r}, expected at most 8 integers from 1")
    if (
        not _sizes(place, 0)
        or len(place) != 2
        or place[1] - place[0] != math.prod(shape) * np.dtype(KINDS[dtype]).itemsize
    ):
        raise _damaged(
            path,
            f"{name} has data_offsets {place!r}, expected begin and end of {dtype} numbers of shape {shape}",
        )


def _sizes(values, least):
    return isinstance(values, list) and all(type(v) is int and least <= v < 2**63 for v in values)


def _damaged(path, why):
    return InputError(f"{path}: is damaged ({why}), expected a whole safetensors file")
