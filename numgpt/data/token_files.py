"""Tokens in mapped files, written once and known again by the digest of what they were made from."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..storage.atomic import replace_folder, write_json
from ..storage.files import open_file, read_json

PARTS = ("train", "held_out")
STAMP = "tokens.json"


def dtype(vocab_size):
    """The integers in which ids below vocab_size are kept, little-endian in files."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def in_memory(rows, n, vocab_size):
    """Arrays of ids from rows of n arrays each, one after the other."""
    parts = [[np.zeros(0, dtype(vocab_size))] for _ in range(n)]
    for row in rows:
        for part, ids in zip(parts, row):
            part.append(_small(ids, vocab_size))
    return [np.concatenate(part) for part in parts]


def temporary(rows, n, vocab_size):
    """The same arrays in files that are gone when nobody looks at them any more."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(n)]
        _fill(files, rows, vocab_size)
        return [_mapped(file, vocab_size) for file in files]


def kept(folder, digest, rows, vocab_size):
    """(train, held out) in the files of a folder, made from rows of two arrays each; rows are not looked at
    where the files are there.

    folder/<digest>/ holds train.bin and held_out.bin, ids one after the other, and tokens.json: their sizes
    and SHA-256, which are looked at before the files are trusted. It appears whole or not at all; of two runs
    that need it the second waits for the first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if find(folder, digest, vocab_size) is None:
            replace_folder(_place(folder, digest), lambda new: _write(new, digest, rows, vocab_size))
    found = find(folder, digest, vocab_size)
    if found is None:
        raise InputError(
            f"{_place(folder, digest)}: does not hold what was written to it, expected a disk that keeps it:"
            " choose another folder"
        )
    return found


def find(folder, digest, vocab_size):
    """(train, held out) that kept() wrote to a folder, mapped; None where they are not there, or not as they
    were written.
    """
    place = _place(folder, digest)
    try:
        stamp, arrays = read_json(place / STAMP), []
        if stamp != {
            "digest": digest,
            "dtype": dtype(vocab_size).str,
            **{name: stamp[name] for name in PARTS},
        }:
            return None
        for name in PARTS:
            with open_file(place / f"{name}.bin") as file:
                if {
                    "bytes": os.fstat(file.fileno()).st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                } != stamp[name]:
                    return None
                arrays.append(_mapped(file, vocab_size))
        return arrays
    except (InputError, KeyError, TypeError):
        return None


def _place(folder, digest):
    return Path(folder) / digest[:32]


def _write(new, digest, rows, vocab_size):
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(new / f"{name}.bin", "wb")) for name in PARTS]
        hashes = _fill(files, rows, vocab_size)
        for file in files:
            os.fsync(file.fileno())
        sizes = [file.tell() for file in files]
    parts = {name: {"bytes": size, "sha256": h.hexdigest()} for name, size, h in zip(PARTS, sizes, hashes)}
    write_json(new / STAMP, {"digest": digest, "dtype": dtype(vocab_size).str, **parts})


def _fill(files, rows, vocab_size):
    """Write rows of arrays to as many files; returns the hash of each."""
    hashes = [hashlib.sha256() for _ in files]
    for row in rows:
        for file, h, ids in zip(files, hashes, row):
            data = _small(ids, vocab_size).tobytes()
            file.write(data)
            h.update(data)
    for file in files:
        file.flush()
    return hashes


def _small(ids, vocab_size):
    """ids in the integers of a file; InputError for one that the vocabulary does not have."""
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise InputError(
            f"tokens: the tokenizer gave ids of {ids.min()} to {ids.max()}, expected 0 to {vocab_size - 1}:"
            " its vocab_size is wrong"
        )
    return ids.astype(dtype(vocab_size))


def _mapped(file, vocab_size):
    kind = dtype(vocab_size)
    return np.memmap(file, kind, "r") if os.fstat(file.fileno()).st_size else np.zeros(0, kind)


@contextlib.contextmanager
def _alone(folder):
    """One process at a time, where the system has locks; a killed one leaves none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / ".lock", "ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
