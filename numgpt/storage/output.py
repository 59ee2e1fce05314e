"""Standard output and error that take whatever is printed, and messages that outlive whoever reads them."""

from __future__ import annotations

import codecs
import contextlib
import os
from typing import Any, TextIO, cast

ERRORS = "numgpt-bytes"  # the name of the codec's handler below


class Lasting:
    """A stream of messages; what nobody can take any more is dropped, and the program goes on.

    Its reader may have gone, as head does after ten lines, its terminal be closed, its disk be full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return self._stream.write(text)
        except BlockingIOError:  # a reader that is slow, and comes back
            pass
        except OSError:
            send_nowhere(self._stream)
        return len(text)

    def flush(self) -> None:
        """Flush what was written, or drop it."""
        try:
            self._stream.flush()
        except BlockingIOError:
            pass
        except OSError:
            send_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: TextIO) -> TextIO:
    """A stream of messages that outlives its reader."""
    return stream if isinstance(stream, Lasting) else cast(TextIO, Lasting(stream))


def send_nowhere(stream: TextIO) -> None:
    """Send what is still buffered, and all that follows, nowhere: Python does not complain of it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def take_everything(stream: TextIO, errors: str = ERRORS) -> None:
    """Make a stream take every character.

    A terminal shows ? for one that it cannot show. Files and pipes get UTF-8, whatever the locale: a ? there
    would be a loss that nobody sees.

    errors: what becomes of halves of characters there, by which Python spells bytes that are not UTF-8.
    """
    if not hasattr(stream, "reconfigure"):
        return
    if stream.isatty():
        stream.reconfigure(errors="replace")
    else:
        stream.reconfigure(encoding="utf-8", errors=errors)


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes that halves of characters stand for, ? where they stand for none."""
    if not isinstance(error, UnicodeEncodeError):
        return codecs.replace_errors(error)
    halves = (ord(c) for c in error.object[error.start : error.end])
    return b"".join(bytes([h - 0xDC00]) if 0xDC80 <= h <= 0xDCFF else b"?" for h in halves), error.end


codecs.register_error(ERRORS, _as_bytes)
