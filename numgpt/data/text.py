"""Text in parts: files of any size, read a megabyte at a time, in as many passes as needed."""

from __future__ import annotations

import codecs
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ..errors import InputError
from ..storage.atomic import StrPath
from ..storage.files import open_file
from . import corpora

PART = 2**20  # bytes that are read at once
SUFFIXES = (".txt", ".md")  # of the files that a folder stands for


class Text:
    """The text of files and folders, joined by blank lines, or the default text; read in parts.

    A folder stands for its .txt and .md files at any depth, sorted. Iterating yields the text's parts, cut
    anywhere, with \\n for \\r\\n and without a byte order mark. Every pass yields the same text; a file that
    has changed in between raises InputError.

    source: what the text is, to be printed. size: its bytes, for a progress bar.
    """

    def __init__(self, paths: Sequence[StrPath] | None = None) -> None:
        self._files: list[tuple[Path, IO[bytes] | None]] = []
        self._stats: dict[Path, tuple[int, int]] = {}  # path → (size, time of its last change)
        self._default: str | None = None
        if not paths:
            self.source, self._default = corpora.default()
            self.size = len(self._default)
            return
        for path in map(Path, paths):
            inside = sorted(_texts_in(path)) if path.is_dir() else [path]
            if not inside:
                raise InputError(
                    f"{path}: holds no text, expected files that end in {' or '.join(SUFFIXES)}: name the"
                    " files themselves"
                )
            self._files += [(file, _spooled(file, self)) for file in inside]
        self.source = ", ".join(map(str, paths))
        self.size = sum(
            os.stat(path).st_size if spool is None else spool.seek(0, os.SEEK_END)
            for path, spool in self._files
        )

    def __iter__(self) -> Iterator[str]:
        return self.parts()

    def parts(self, doing: str | None = None) -> Iterator[str]:
        """One pass through the text.

        doing: what the pass is for, the title of a progress bar, which appears after a second. None: no bar.
        """
        if doing is None:
            yield from self._parts(lambda n: None)
            return
        from tqdm import tqdm

        with tqdm(
            total=self.size, desc=doing, unit="B", unit_scale=True, disable=None, leave=False, delay=1
        ) as bar:
            yield from self._parts(bar.update)

    def _parts(self, update: Callable[[int], object]) -> Iterator[str]:
        if self._default is not None:
            for i in range(0, len(self._default), PART):
                yield self._default[i : i + PART]
                update(PART)
        for n, (path, spool) in enumerate(self._files):
            if n:
                yield "\n\n"
            if spool is not None:
                spool.seek(0)
                yield from _normalised(path, spool, update)
                continue
            with _opened(path) as file:
                self._expect_unchanged(path, file)
                yield from _normalised(path, file, update)
                self._expect_unchanged(path, file)

    def _expect_unchanged(self, path: Path, file: IO[bytes]) -> None:
        """Raise InputError if a file has changed since it was first opened: passes would yield two texts."""
        status = os.fstat(file.fileno())
        current = status.st_size, status.st_mtime_ns
        if self._stats.setdefault(path, current) != current:
            raise InputError(f"{path}: has changed while it was read, expected no change: try again")


def read(paths: Sequence[StrPath]) -> str:
    """The whole text of files and folders, in memory."""
    return "".join(Text(paths))


def _texts_in(folder: Path) -> Iterator[Path]:
    """The text files in a folder at any depth, but for hidden ones. An unreadable folder is an error."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place) / name


def _spooled(path: Path, owner: Text) -> IO[bytes] | None:
    """A pipe's bytes in a temporary file that lives as long as its owner; None for a regular file.

    A pipe can be read only once, a text is read several times.
    """
    with _opened(path) as file:  # a file that cannot be opened is reported before any work begins
        if not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            return None
        spool = tempfile.TemporaryFile()  # noqa: SIM115 closed with its owner
        weakref.finalize(owner, spool.close)
        shutil.copyfileobj(file, spool, PART)
    return spool


def _opened(path: Path) -> IO[bytes]:
    return open_file(path, "a text file or a folder of them", pipes=True)


def _normalised(path: Path, file: IO[bytes], update: Callable[[int], object]) -> Iterator[str]:
    """The parts of an open file's text, with \\n for \\r\\n and without a byte order mark."""
    begun, blank, waiting = False, True, ""
    for text, last in decoded(path, file, update):
        text = waiting + text
        if not begun and text:
            text = text.removeprefix("\ufeff")
            begun = True
        waiting = "\r" if text.endswith("\r") and not last else ""  # its \n may be in the next part
        text = text[: len(text) - len(waiting)].replace("\r\n", "\n")
        blank = blank and not text.strip()
        if text:
            yield text
    if blank:
        raise InputError(f"{path}: is empty, expected text to train on")


def decoded(
    path: StrPath,
    file: IO[bytes],
    update: Callable[[int], object],
    advice: str = "convert it, for example with iconv",
) -> Iterator[tuple[str, bool]]:
    """(text, whether it is the last) of each part of an open UTF-8 file, unchanged.

    update: is called with the number of bytes after each part. advice: what to do about a file that is not
    UTF-8, for the error.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    data = file.read(PART)
    while True:
        read += len(data)
        try:
            text = decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            at = read - len(error.object) + error.start  # error.object begins with bytes of the part before
            byte = error.object[error.start]
            raise InputError(
                f"{path}: is not UTF-8 (byte 0x{byte:02x} at {at}), expected UTF-8 text: {advice}"
            ) from error
        yield text, not data
        update(len(data))
        if not data:
            return
        data = file.read(PART)
