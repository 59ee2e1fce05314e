"""Readers that trust nothing: a file is opened only if it is one, measured before it is read, and checked."""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .atomic import StrPath

# The longest JSON that numgpt writes, a tokenizer with every character of Unicode, has 13 million bytes.
LONGEST_JSON = 2**24
# Levels of lists and objects: deeper ones would overflow the functions that print what is wrong with them.
DEEPEST_JSON = 64
DIGITS = 308  # of integers that are certainly below the largest float
# What may stand in a file's place.
NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
# Errors that mean that a path leads nowhere: for one, a link to itself.
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# What a file of Git LFS begins with as long as only its pointer was fetched, and the most bytes that one has.
LFS, LONGEST_LFS = b"version https://git-lfs.github.com/spec/v1", 1024
# What torch.save writes begins with: a zip archive since PyTorch 1.6, before that a magic number, pickled.
TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF")
HALVES = re.compile(rb"\\u[dD][89a-fA-F]")  # escapes of half a character


class Missing(InputError):
    """A file does not exist."""


def open_file(path: StrPath, expected: str = "a file", pipes: bool = False) -> BufferedReader:
    """Open a file to read its bytes.

    A folder, a device or a pipe raises InputError: reading the last two may never end.

    expected: the words for it in the error. pipes: accept a pipe, which can be read only once.
    """
    file = None
    try:
        status = os.stat(path)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG or (pipes and kind == stat.S_IFIFO):
            file = open(path, "rb")  # noqa: SIM115 closed by who asked for it
    except (OSError, ValueError) as error:  # ValueError: an impossible name
        if isinstance(error, OSError) and error.errno not in NOWHERE:
            raise
        raise Missing(f"{path}: does not exist, expected {expected}") from error
    if file is None:
        raise InputError(f"{path}: is {NO_FILES.get(kind, 'a device')}, expected {expected}")
    if kind == stat.S_IFREG and status.st_size <= LONGEST_LFS and file.peek(len(LFS)).startswith(LFS):
        file.close()
        raise InputError(
            f"{path}: is a pointer of Git LFS, expected {expected}: run git lfs pull to get what it points to"
        )
    return file


def is_pickled(begin: bytes) -> bool:
    """Whether a file that begins so was written by torch.save."""
    return begin.startswith(TORCH)


def pickled(path: StrPath) -> InputError:
    """The error for a file of torch.save, with the two lines of PyTorch that write what can be read."""
    return InputError(
        f"{path}: is pickled, which may run code when it is read, expected safetensors, as PyTorch writes it:"
        f" state = torch.load({Path(path).name!r}, map_location='cpu', weights_only=True);"
        " safetensors.torch.save_file({name: w.clone() for name, w in state.get('model', state).items()},"
        " 'model.safetensors')"
    )


def pickled_in(folder: StrPath) -> Path | None:
    """A file of torch.save in a folder, None where there is none."""
    for path in sorted(
        p for p in Path(folder).glob("*") if p.suffix.lower() in (".bin", ".pt", ".pth") and p.is_file()
    ):
        with open_file(path) as file:
            if is_pickled(file.read(8)):
                return path
    return None


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


def read_json(path: StrPath, halves: bool = False) -> Any:
    """The content of a JSON file; halves as in parse_json."""
    return parse_json(read_bytes(path), path, halves)


def parse_json(
    data: bytes,
    path: StrPath,
    halves: bool = False,
    expected: str = "a file written by numgpt or transformers",
) -> Any:
    """The content of JSON bytes, where every parser gives the same; the only place that reads JSON.

    Python's own takes more, in which parsers differ: NaN and Infinity, a name that occurs twice in an object,
    half of a character, a number beyond the largest float, levels without end.

    path: the file's name, for errors. halves: whether texts may hold halves of characters, by which Python
    spells the bytes of file names that are not UTF-8. expected: the words for it in the error.
    """
    try:
        if data.startswith(codecs.BOM_UTF8):
            raise ValueError("it begins with a byte order mark")
        content = json.loads(
            _utf8(data),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_float,
            parse_int=_integer,
        )
        _expect_shallow(content)
        if not halves and HALVES.search(data):
            _expect_whole_characters(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}), expected {expected}") from error
    return content


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte 0x{data[error.start]:02x} at {error.start} is not UTF-8") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} occurs twice")
        content[name] = value
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        shown = text if len(text) <= 20 else f"{text[:10]}…, of {len(text):,} characters,"
        raise ValueError(f"the number {shown} is beyond the largest float")
    return number


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        _float(text)
    return int(text)


def _expect_shallow(content: Any) -> None:
    """Raise ValueError if lists and objects are nested too deep; level by level, not to overflow."""
    level = [content]
    for _ in range(DEEPEST_JSON + 1):
        level = [value for value in level if isinstance(value, list | dict)]
        if not level:
            return
        level = [part for value in level for part in _parts(value)]
    raise ValueError(f"nested more than {DEEPEST_JSON} levels deep")


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _expect_whole_characters(content: Any) -> None:
    """Raise ValueError if a text, which may be a name, holds half of a character: UTF-8 has no such text."""
    level = [content]
    while level:
        for value in level:
            for text in value if isinstance(value, dict) else (value,):
                if isinstance(text, str):
                    _expect_utf8(text)
        level = [part for value in level if isinstance(value, list | dict) for part in _parts(value)]


def _expect_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"U+{ord(text[error.start]):04X} is half of a character") from error
