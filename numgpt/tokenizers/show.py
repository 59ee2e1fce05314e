"""How a text is cut, for people: each token in a cell with its id below, in colour or in brackets."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TextIO

from .tokenizer import Tokenizer

STYLES = ("\033[30;46m", "\033[30;43m")  # black on cyan, black on yellow, in turn
SPECIAL, IDS, END = "\033[1;37;41m", "\033[2m", "\033[0m"
VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
COLORS = ("auto", "always", "never")
JOINER = "\u200d"  # joins emoji into one


class _Cell(NamedTuple):
    text: str
    id: str
    columns: int
    style: str  # "" without colour


def wants_color(choice: str = "auto", stream: TextIO | None = None) -> bool:
    """Whether to write in colour: "always", "never", or "auto", if stream is a terminal that has it.

    A terminal of TERM=dumb has none, and NO_COLOR (no-color.org) says that its owner wants none.
    """
    if choice != "auto":
        return choice == "always"
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def lines(tokenizer: Tokenizer, ids: Iterable[int], color: bool = False, width: int = 80) -> Iterator[str]:
    r"""Yield the lines that show ids: tokens and, below each, its id.

    A new row begins after width columns, and after a line break. White space is ·⏎⇥, other control characters
    are their pictures ␀ to ␟, what a terminal does not print is \u200b, bytes that are no whole character are
    \xc3. Special tokens have a colour of their own, or stand between « and ».
    """
    special = set(tokenizer.specials.values())
    row: list[_Cell] = []
    used = 0
    for n, i in enumerate(map(int, ids)):
        piece = tokenizer.pieces[i]
        piece = tokenizer.decode_bytes([i]) if piece is None else piece
        cell = _cell(piece, i, i in special, STYLES[n % 2] if color else None)
        if row and used + cell.columns > width:
            yield from _row(row)
            row, used = [], 0
        row.append(cell)
        used += cell.columns
        if piece.endswith(b"\n"):
            yield from _row(row)
            row, used = [], 0
    if row:
        yield from _row(row)


def _cell(piece: bytes, i: int, is_special: bool, style: str | None) -> _Cell:
    """The cell of a token. style: None for brackets in the place of colour."""
    text, number = visible(piece), str(i)
    if style is None:
        text = f"«{text}»" if is_special else f"[{text}]"
    elif is_special:
        style = SPECIAL
    return _Cell(text, number, max(columns_of(text), len(number)) + 1, style or "")


def _row(cells: list[_Cell]) -> Iterator[str]:
    """The line of tokens and the line of ids."""
    tokens = ""
    for cell in cells:
        end = END if cell.style else ""
        tokens += f"{cell.style}{cell.text}{end}{' ' * (cell.columns - columns_of(cell.text))}"
    numbers = "".join(cell.id.ljust(cell.columns) for cell in cells).rstrip()
    yield tokens.rstrip()
    yield f"{IDS}{numbers}{END}" if cells[0].style else numbers


def visible(piece: bytes) -> str:
    """The bytes of a token as one line of printable characters."""
    text = "".join(map(_picture, piece.decode("utf-8", "surrogateescape")))
    return "◌" + text if text and _joins(text[0]) else text  # a mark needs something to stand on


def _picture(c: str) -> str:
    if 0xDC80 <= ord(c) <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    if c in VISIBLE:
        return VISIBLE[c]
    if ord(c) < 32:
        return chr(0x2400 + ord(c))
    return c if c.isprintable() or c == JOINER else c.encode("unicode_escape").decode()


def columns_of(text: str) -> int:
    """How many columns a terminal gives to a printable text.

    2 for East Asian wide characters, 0 for what joins the character before.
    """
    return sum(0 if _joins(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _joins(c: str) -> bool:
    return unicodedata.category(c) in ("Mn", "Me", "Cf")
