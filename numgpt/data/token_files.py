"""Tokens in memory-mapped files, written once and found again by the digest of what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..storage.atomic import StrPath, make_folder, named, write_json
from ..storage.files import open_file, read_json
from ..storage.folders import replace_folder

PARTS = ("train", "held_out")  # the names of the two files, without .bin
STAMP = "tokens.json"

Rows = Iterable[Sequence[NDArray[Any]]]  # of n arrays of ids each; row after row they are n long arrays


def dtype(vocab_size: int) -> np.dtype[Any]:
    """The integers that hold ids below vocab_size; little-endian, as in files."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def in_memory(rows: Rows, n: int, vocab_size: int) -> list[NDArray[Any]]:
    """n arrays of ids, joined from rows of n arrays each."""
    arrays = [[np.zeros(0, dtype(vocab_size))] for _ in range(n)]
    for row in rows:
        for parts, ids in zip(arrays, row):
            parts.append(_as_stored(ids, vocab_size))
    return [np.concatenate(parts) for parts in arrays]


def temporary(rows: Rows, n: int, vocab_size: int) -> list[NDArray[Any]]:
    """The same, mapped from temporary files that vanish with the arrays."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(n)]
        _fill(files, rows, vocab_size)
        return [_mapped(file, vocab_size) for file in files]


def stored(folder: StrPath, digest: str, rows: Rows, vocab_size: int) -> list[NDArray[Any]]:
    """(train, held out), mapped from files in a folder; rows is not consumed if the files exist.

    folder/<digest>/ holds train.bin and held_out.bin, the ids one after the other, and tokens.json, their
    sizes and SHA-256, which are checked whenever the files are opened. It appears whole or not at all. Of two
    runs that need it, the second waits for the first.
    """
    folder = named(folder)
    make_folder(folder, folder)
    place = _place(folder, digest)
    with _locked(folder):
        if find(folder, digest, vocab_size) is None:
            replace_folder(place, lambda new: _write(new, digest, rows, vocab_size))
    arrays = find(folder, digest, vocab_size)
    if arrays is None:
        raise InputError(
            f"{place}: does not hold what was just written to it, expected the same bytes: choose a folder on"
            " another disk"
        )
    return arrays


def find(folder: StrPath, digest: str, vocab_size: int) -> list[NDArray[Any]] | None:
    """(train, held out) that stored() wrote to a folder, mapped; None if missing, or not as written."""
    place = _place(folder, digest)
    try:
        stamp = read_json(place / STAMP)
        expected = _stamp(digest, vocab_size, {name: stamp[name] for name in PARTS})
        if stamp != expected:
            return None
        arrays = []
        for name in PARTS:
            with open_file(place / f"{name}.bin") as file:
                size = os.fstat(file.fileno()).st_size
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if stamp[name] != {"bytes": size, "sha256": sha256}:
                    return None
                arrays.append(_mapped(file, vocab_size))
        return arrays
    except (InputError, KeyError, TypeError):  # no such files, or a stamp of another shape
        return None


def _place(folder: StrPath, digest: str) -> Path:
    return Path(folder) / digest[:32]


def _stamp(digest: str, vocab_size: int, parts: dict[str, Any]) -> dict[str, Any]:
    """The content of tokens.json."""
    return {"digest": digest, "dtype": dtype(vocab_size).str, **parts}


def _write(new: Path, digest: str, rows: Rows, vocab_size: int) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(new / f"{name}.bin", "wb")) for name in PARTS]
        hashes = _fill(files, rows, vocab_size)
        for file in files:
            os.fsync(file.fileno())
        sizes = [file.tell() for file in files]
    parts = {name: {"bytes": size, "sha256": sha256} for name, size, sha256 in zip(PARTS, sizes, hashes)}
    write_json(new / STAMP, _stamp(digest, vocab_size, parts))


def _fill(files: Sequence[IO[bytes]], rows: Rows, vocab_size: int) -> list[str]:
    """Write rows of n arrays to n files; returns the SHA-256 of each file."""
    hashes = [hashlib.sha256() for _ in files]
    for row in rows:
        for file, sha256, ids in zip(files, hashes, row):
            data = _as_stored(ids, vocab_size).tobytes()
            file.write(data)
            sha256.update(data)
    for file in files:
        file.flush()
    return [sha256.hexdigest() for sha256 in hashes]


def _as_stored(ids: NDArray[Any], vocab_size: int) -> NDArray[Any]:
    """The ids in the integers of a file; InputError if the vocabulary lacks one."""
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise InputError(
            f"tokens: the tokenizer gave ids of {ids.min()} to {ids.max()}, expected 0 to {vocab_size - 1}:"
            " its vocab_size is wrong"
        )
    return ids.astype(dtype(vocab_size))


def _mapped(file: IO[bytes], vocab_size: int) -> NDArray[Any]:
    integers = dtype(vocab_size)
    if os.fstat(file.fileno()).st_size == 0:  # nothing can be mapped
        return np.zeros(0, integers)
    return np.memmap(file, integers, "r")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclude other processes, where the system has file locks. A killed process releases its lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / ".lock", "ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
