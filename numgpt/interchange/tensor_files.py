"""The safetensors files of a folder of transformers: one, or shards that an index names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..errors import InputError
from ..storage import safetensors_file
from ..storage.files import Missing, pickled, pickled_in, read_json

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of shards: array → file
SHARD = re.compile(r"[\w-][\w.-]{0,200}\.safetensors", re.ASCII)  # a name without a folder
# A dtype in a file → of the parameters. float32 holds the halves exactly.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float32", "BF16": "float32"}


class Entry(NamedTuple):
    """An array of a safetensors file, memory-mapped."""

    file: Path
    name: str  # as the file spells it
    dtype: str
    array: NDArray[Any]


def entries(folder: Path, prefix: str, is_buffer: Callable[[str], bool]) -> dict[str, Entry]:
    """Name without prefix → its entry, from all files of a folder; an unknown dtype is an InputError.

    is_buffer: whether an array is left out.
    """
    named: dict[str, Entry] = {}
    same: dict[str, str] = {}  # a name that a file left out → the name of the same array
    for file in _files(folder):
        stored, metadata = safetensors_file.read(file)
        same |= {name: other for name, other in metadata.items() if other in stored and name not in stored}
        for name, (dtype, array) in stored.items():
            parameter = name.removeprefix(prefix)
            if parameter in named:
                raise InputError(f"{file}: {name} occurs twice, expected each array once")
            if not is_buffer(parameter):
                named[parameter] = Entry(file, name, dtype, array)
    for name, other in same.items():
        if other.removeprefix(prefix) in named:
            named.setdefault(name.removeprefix(prefix), named[other.removeprefix(prefix)])
    for entry in named.values():
        if entry.dtype not in DTYPES:
            raise InputError(
                f"{entry.file}: {entry.name} has dtype {entry.dtype}, expected one of {', '.join(DTYPES)}"
            )
    return named


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder; shards must lie in it."""
    if (folder / MODEL).exists():
        return [folder / MODEL]
    if not (folder / INDEX).exists():
        weights = pickled_in(folder)
        if weights is not None:
            raise pickled(weights)
        raise Missing(f"{folder}: has neither {MODEL} nor {INDEX}, expected one of them")
    index = read_json(folder / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(n, str) for n in shards.values()):
        raise InputError(f"{folder / INDEX}: has no weight_map from arrays to files, expected one")
    names = sorted(set(shards.values()))
    outside = next((name for name in names if not SHARD.fullmatch(name)), None)
    if outside is not None:
        raise InputError(
            f"{folder / INDEX}: names the file {outside!r}, expected safetensors files in the same folder"
        )
    absent = next((name for name in names if not (folder / name).exists()), None)
    if absent is not None:
        raise Missing(f"{folder / absent}: is missing, expected all files that {INDEX} names")
    return [folder / name for name in names]


def numbers(entry: Entry) -> NDArray[Any]:
    """The numbers of an entry; bfloat16 is the upper half of a float32."""
    if entry.dtype == "BF16":
        return (entry.array.astype("<u4") << 16).view("<f4")
    return entry.array
