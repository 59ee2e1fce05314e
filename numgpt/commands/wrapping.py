"""Text that comes in parts, broken into lines of a terminal's width."""

from __future__ import annotations

import re
import shutil
import sys

PIECE = re.compile(r"\n|[^\S\n]+|\S+")


class Wrapper:
    """Breaks lines between words, where the next word would pass the width.

    A line that fits stays as it is, its spaces too. A word that is longer than a line has one for itself.
    What is printed of a text does not depend on the parts in which it comes: the last word of a part waits,
    as it may go on in the next. width None: every part is printed as it comes.
    """

    def __init__(self, width: int | None) -> None:
        self.width = width
        self._column = 0
        self._spaces = ""  # behind the last word printed
        self._begun = ""  # what the next part may continue

    def add(self, part: str) -> str:
        """What can be printed once a part has come."""
        if self.width is None:
            return part
        pieces = PIECE.findall(self._begun + part)
        self._begun = pieces.pop() if pieces else ""
        return "".join(map(self._placed, pieces))

    def end(self) -> str:
        """What is left to print when no other part comes."""
        last, self._begun = self._begun, ""
        return self._placed(last) + self._spaces_that_fit()

    def _placed(self, piece: str) -> str:
        """A piece as it is printed: a line break, a word with the spaces before it, or nothing yet."""
        if piece == "\n":
            spaces = self._spaces_that_fit()
            self._column = 0
            return f"{spaces}\n"
        if not piece or piece.isspace():
            self._spaces = piece
            return ""
        if self._column and not self._fits(len(self._spaces) + len(piece)):
            self._column, self._spaces = len(piece), ""
            return f"\n{piece}"
        placed, self._spaces = self._spaces + piece, ""
        self._column += len(placed)
        return placed

    def _spaces_that_fit(self) -> str:
        """The spaces at the end of a line, where there is room."""
        spaces, self._spaces = self._spaces, ""
        return spaces if self._fits(len(spaces)) else ""

    def _fits(self, n: int) -> bool:
        return self.width is None or self._column + n <= self.width


def for_stdout() -> Wrapper:
    """What breaks the lines of a text on standard output, where that is a terminal."""
    return Wrapper(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
