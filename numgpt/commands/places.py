"""What a command reads and where it writes: two places, so that no command destroys its own input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from ..data.folders import SUFFIXES, texts_in
from ..errors import InputError
from ..storage.atomic import StrPath

STDIN = STDOUT = "-"


def expect_apart(read: Iterable[StrPath], written: Iterable[StrPath], flag: str = "--out") -> None:
    """Raise InputError where what is written would take the place of what is read, or be read itself.

    So it is for -, which a shell's user means as standard output and a file system takes for a name.

    To be called before the work. What is not there is nobody's input: that is found out when it is read.

    read: files, - for standard input, and folders, which stand for their texts. written: files, and folders
    that are replaced as a whole. flag: the name of the argument that says where to write.
    """
    sources = [source for source in read if source == STDIN or os.path.exists(source)]
    for place in map(Path, written):
        if place.parts[:1] == (STDOUT,):
            raise InputError(
                f"-: is standard output where a text is printed, expected a file or folder: choose another"
                f" {flag}"
            )
        for source in sources:
            if _is_same(source, place):
                raise InputError(
                    f"{_names(source, place)}: is read and would be written over, expected another place:"
                    f" choose another {flag}"
                )
            if source != STDIN and _lies_in(Path(source), place):
                raise InputError(
                    f"{place}: would be replaced, and {source} in it is read, expected another place: choose"
                    f" another {flag}"
                )
            if source != STDIN and Path(source).is_dir():
                _expect_no_text_of(Path(source), place, flag)


def _expect_no_text_of(folder: Path, place: Path, flag: str) -> None:
    """Raise InputError where a place is one of a folder's texts, or would be."""
    would_be = place.suffix.lower() in SUFFIXES and _lies_in(place, folder)
    if would_be or any(_is_same(text, place) for text in texts_in(folder).texts):
        raise InputError(
            f"{place}: is a text in {folder}, whose {' and '.join(SUFFIXES)} files are read, expected another"
            f" place: choose another {flag}"
        )


def _names(source: StrPath, place: Path) -> str:
    """The place, and its other name where it was given one."""
    if source == STDIN:
        return f"{place}, which is standard input"
    return str(place) if place == Path(source) else f"{place}, which is {source}"


def _is_same(source: StrPath, place: Path) -> bool:
    """Whether a source and a place are one file or folder, whatever their names; devices are none."""
    try:
        status = os.fstat(sys.stdin.fileno()) if source == STDIN else os.stat(source)
        is_place = os.path.samestat(status, os.stat(place))
    except (OSError, ValueError, AttributeError):  # one is not there, or standard input is closed
        return False
    return is_place and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode))


def _lies_in(path: Path, folder: Path) -> bool:
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return inner != outer and Path(inner).is_relative_to(outer)
