"""Text in parts: files of any size, read a megabyte at a time, in as many passes as needed."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import stat
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ..errors import InputError
from ..storage.atomic import StrPath
from ..storage.files import open_file
from ..storage.shipped import OWN, is_named
from . import corpora
from .folders import SUFFIXES, texts_in

PART = 2**20  # bytes that are read at once
PATIENCE = 1.0  # seconds of waiting for a pipe after which it is said
# UTF-16 has a 0 in nearly half of its bytes where the letters are Latin, and elsewhere in those of spaces and
# digits; in most alphabets every second byte is small, the number of the alphabet.
SHARE = 0.4  # of the bytes, from which on zeros are no chance
ZEROS = 16  # that are no chance where all lie at even places, or all at odd ones
ALPHABETS = 0x11  # and 19 of 20 bytes there are below this
LAST_PLANE = 0x10  # of Unicode: in UTF-32 one byte of four is 0, and the one next to it is at most this
MARKS = {  # what a file begins with; UTF-32's holds UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Text:
    """The text of files, folders and names in corpora, joined by blank lines; read in parts.

    A folder stands for its .txt and .md files at any depth, sorted, those of linked folders among them; a
    warning says how many others it holds. Iterating yields the text's parts, cut
    anywhere, with \\n for \\r\\n and without a byte order mark. Every pass yields the same text; a file that
    has changed in between raises InputError.

    paths: what was given, or the name of the default text. source: what the text is, to be printed. size: its
    bytes, for a progress bar.
    """

    def __init__(self, paths: Sequence[StrPath] | None = None) -> None:
        self._pieces: list[str | tuple[Path, IO[bytes] | None]] = []  # a text, or a file with its spool
        self._stats: dict[Path, tuple[int, int]] = {}  # path → (size, time of its last change)
        if paths is not None and not paths:
            raise InputError("paths are empty, expected files or folders; None stands for the default text")
        self.paths: Sequence[StrPath] = [corpora.default()] if paths is None else paths
        sources = []
        for path in self.paths:
            source = str(path)
            if is_named(path):
                source, text = corpora.named(source)
                self._pieces.append(text)
            else:
                self._pieces += [(file, _spooled(file, self)) for file in _files_of(Path(path))]
            sources.append(source)
        self.source = ", ".join(sources)
        self.size = sum(map(_size, self._pieces))

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
        for n, piece in enumerate(self._pieces):
            if n:
                yield "\n\n"
            if isinstance(piece, str):
                for i in range(0, len(piece), PART):
                    yield piece[i : i + PART]
                    update(PART)
                continue
            path, spool = piece
            if spool is not None:
                spool.seek(0)
                yield from normalised(path, spool, update)
                continue
            with _opened(path) as file:
                self._expect_unchanged(path, file)
                yield from normalised(path, file, update)
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


def _size(piece: str | tuple[Path, IO[bytes] | None]) -> int:
    """About how many bytes a piece of a text has."""
    if isinstance(piece, str):
        return len(piece)
    path, spool = piece
    return os.stat(path).st_size if spool is None else spool.seek(0, os.SEEK_END)


def _files_of(path: Path) -> list[Path]:
    """The files that a path stands for; what is left out of a folder is said in a warning."""
    own = f"{OWN}{path}"
    if own in corpora.NAMES and not path.exists():
        raise InputError(f"{path}: does not exist, expected a text; numgpt's own of this name is {own}")
    if not path.is_dir():
        return [path]
    listing = texts_in(path)
    if not listing.texts:
        besides = f" ({listing})" if str(listing) else ""
        raise InputError(
            f"{path}: holds no text{besides}, expected files that end in {' or '.join(SUFFIXES)}: name the"
            " files themselves"
        )
    if str(listing):
        texts = "1 text is" if len(listing.texts) == 1 else f"{len(listing.texts):,} texts are"
        warnings.warn(
            f"{path}: {texts} read, left out: {listing} (a folder stands for its {' and '.join(SUFFIXES)}"
            " files; name others to read them)",
            stacklevel=4,
        )
    return listing.texts


def _spooled(path: Path, owner: Text) -> IO[bytes] | None:
    """A pipe's bytes in a temporary file that lives as long as its owner; None for a regular file.

    A pipe can be read only once, a text is read several times.
    """
    # A file that cannot be opened is reported before any work begins.
    with _telling_who_waits(path), _opened(path) as file:
        if not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            return None
        spool = tempfile.TemporaryFile()  # noqa: SIM115 closed with its owner
        weakref.finalize(owner, spool.close)
        shutil.copyfileobj(file, spool, PART)
    return spool


@contextlib.contextmanager
def _telling_who_waits(path: Path) -> Iterator[None]:
    """Warn after a second that a pipe is waited for, whose other end nobody may have opened."""
    message = f"{path}: is a pipe, and is read until whoever writes to it has ended; waiting"
    timer = threading.Timer(PATIENCE, warnings.warn, [message])
    timer.daemon = True
    if path.is_fifo():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _opened(path: Path) -> IO[bytes]:
    return open_file(path, "a text file or a folder of them", pipes=True)


def normalised(
    path: StrPath, file: IO[bytes], update: Callable[[int], object], expected: str = "text"
) -> Iterator[str]:
    """The parts of an open file's text, with \\n for \\r\\n and without a byte order mark.

    update: is called with the number of bytes after each part. expected: what to find in the file, for the
    error of an empty one.
    """
    _expect_one_byte_units(path, file.peek(1))  # type: ignore[attr-defined]  # all these files are buffered
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
        raise InputError(f"{path}: is empty, expected {expected}")


def _expect_one_byte_units(path: StrPath, begin: bytes) -> None:
    """Raise InputError for UTF-16 or UTF-32, which without a mark may be read as UTF-8 full of zeros."""
    marked = next((kind for mark, kind in MARKS.items() if begin.startswith(mark)), None)
    if marked:
        raise InputError(
            f"{path}: is {marked} (it begins with its mark), expected UTF-8 text: convert it, for example"
            f" with iconv -f {marked} -t UTF-8"
        )
    kind = _wide_units(begin)
    if kind:
        raise InputError(
            f"{path}: looks like {kind} ({begin.count(0):,} of its first {len(begin):,} bytes are 0),"
            f" expected UTF-8 text: convert it, for example with iconv -f {kind} -t UTF-8"
        )


def _wide_units(begin: bytes) -> str | None:
    """What a text without a mark seems to be by its zeros, UTF-32 or UTF-16; None where it is UTF-8."""
    for kind, high, next_to_it in (("UTF-32LE", 3, 2), ("UTF-32BE", 0, 1)):
        is_zero = len(begin) >= 8 and not any(begin[high::4])
        if is_zero and max(begin[next_to_it::4]) <= LAST_PLANE:
            return kind
    halves = begin[::2], begin[1::2]
    zeros = [half.count(0) for half in halves]
    n = sum(zeros)
    high_half = halves[1] if zeros[1] >= zeros[0] else halves[0]  # where UTF-16 would have its high bytes
    is_alphabet = 20 * sum(byte < ALPHABETS for byte in high_half) >= 19 * len(high_half)
    if (len(begin) >= 4 and n >= SHARE * len(begin)) or (n >= ZEROS and min(zeros) == 0 and is_alphabet):
        return "UTF-16LE" if high_half is halves[1] else "UTF-16BE"
    return None


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
