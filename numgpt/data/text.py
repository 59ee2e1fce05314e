"""Text in parts: files of any size, read some megabytes at a time, as often as somebody goes through them."""

import codecs
import os
import shutil
import stat
import tempfile
import weakref
from pathlib import Path

from ..errors import InputError
from ..storage.files import open_file
from . import corpora

PART = 2**20  # bytes that are read at once
SUFFIXES = (".txt", ".md")
CHANGED = "has changed while it was read, expected it to rest: try once more"


class Text:
    """The text of files and folders, joined by blank lines, or the default text; no more of it than a part is
    in memory.

    A folder stands for its .txt and .md files at any depth, sorted. Iterating gives the text's parts, cut
    anywhere, with \\n for \\r\\n and without a byte order mark; every pass gives the same text, or is an
    InputError. source: what it is, to be printed.
    size: bytes, for a bar.
    """

    def __init__(self, paths=None):
        self._files, self._seen, self._default = [], {}, None
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
            self._files += [(p, _spooled(p, self)) for p in inside]
        self.source = ", ".join(map(str, paths))
        self.size = sum(
            os.stat(p).st_size if spool is None else spool.seek(0, os.SEEK_END) for p, spool in self._files
        )

    def __iter__(self):
        return self.parts()

    def parts(self, doing=None):
        """One pass through the text. doing: what is done in it, for a bar, which a pass of more than a second
        shows.
        """
        if doing is None:
            yield from self._parts(lambda n: None)
            return
        from tqdm import tqdm

        with tqdm(
            total=self.size, desc=doing, unit="B", unit_scale=True, disable=None, leave=False, delay=1
        ) as bar:
            yield from self._parts(bar.update)

    def _parts(self, update):
        if self._default is not None:
            for i in range(0, len(self._default), PART):
                yield self._default[i : i + PART]
                update(PART)
        for n, (path, spool) in enumerate(self._files):
            if n:
                yield "\n\n"
            if spool is None:
                with _opened(path) as file:
                    self._expect_unchanged(path, file)
                    yield from _decoded(path, file, update)
                    self._expect_unchanged(path, file)
            else:
                spool.seek(0)
                yield from _decoded(path, spool, update)

    def _expect_unchanged(self, path, file):
        """Raise InputError where a file is not what it was when it was first opened: passes would not be of
        one text.
        """
        found = os.fstat(file.fileno())
        if self._seen.setdefault(path, (found.st_size, found.st_mtime_ns)) != (
            found.st_size,
            found.st_mtime_ns,
        ):
            raise InputError(f"{path}: {CHANGED}")


def read(paths):
    """The whole of a Text, in memory."""
    return "".join(Text(paths))


def _texts_in(folder):
    """Its text files at any depth, hidden ones left out; a folder that cannot be read is an error, not
    skipped.
    """

    def fail(error):
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(place) / n for n in names if n.endswith(SUFFIXES) and not n.startswith("."))


def _spooled(path, owner):
    """What a pipe says, in a temporary file as long as there is an owner, since a pipe is read once; None for
    a file.
    """
    with _opened(path) as file:  # what cannot be opened is said before work begins
        if not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            return None
        spool = tempfile.TemporaryFile()
        weakref.finalize(owner, spool.close)
        shutil.copyfileobj(file, spool, PART)
    return spool


def _opened(path):
    return open_file(path, "a text file or a folder of them", pipes=True)


def _decoded(path, file, update):
    """The parts of an open file's text."""
    begun, blank, kept = False, True, ""
    for text, last in decoded(path, file, update):
        text = kept + text
        if not begun and text:
            text, begun = text.removeprefix("\ufeff"), True
        kept = "\r" if text.endswith("\r") and not last else ""  # its \n may be in the next part
        text = text[: len(text) - len(kept)].replace("\r\n", "\n")
        blank = blank and not text.strip()
        if text:
            yield text
    if blank:
        raise InputError(f"{path}: is empty, expected text to train on")


def decoded(path, file, update, do="convert it, for example with iconv"):
    """(text, whether it is the last) of the parts of an open file, as they stand there; InputError says where
    it is not UTF-8 and what to do.
    """
    decoder, read, data = codecs.getincrementaldecoder("utf-8")(), 0, True
    while data:
        data = file.read(PART)
        read += len(data)
        try:
            text = decoder.decode(data, not data)
        except UnicodeDecodeError as error:  # its object begins with what the decoder held back
            at = read - len(error.object) + error.start
            byte = error.object[error.start]
            raise InputError(
                f"{path}: is not UTF-8 (byte 0x{byte:02x} at {at}), expected UTF-8 text: {do}"
            ) from error
        yield text, not data
        update(len(data))
