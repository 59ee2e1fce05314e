"""How a text is cut, for people: each token in a cell of its own with its id below, in colour or in brackets."""

import os
import sys
import unicodedata

STYLES = ("\033[30;46m", "\033[30;43m")  # black on cyan, black on yellow, in turn
SPECIAL, IDS, END = "\033[1;37;41m", "\033[2m", "\033[0m"
VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
COLORS = ("auto", "always", "never")


def wants_color(choice="auto", stream=None):
    """Whether to write in colour: "always" and "never" say it; "auto" asks whether stream is a terminal that
    has it.

    A terminal of TERM=dumb has none, and NO_COLOR (no-color.org) says that its owner wants none.
    """
    if choice != "auto":
        return choice == "always"
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def lines(tokenizer, ids, color=False, width=80):
    """Yield the lines that show ids: tokens and, below each, its id; a new row after width columns, and after
    a line break.

    White space is ·⏎⇥, other control characters are their pictures ␀ to ␟, what a terminal does not print is
    \\u200b, bytes that are no whole character are \\xc3. Special tokens are in a colour of their own, or
    between « and ».
    """
    special, row, used = set(tokenizer.specials.values()), [], 0
    for n, i in enumerate(map(int, ids)):
        piece = tokenizer.decode_bytes([i]) if tokenizer.pieces[i] is None else tokenizer.pieces[i]
        text, number = visible(piece), str(i)
        if not color:
            text = f"«{text}»" if i in special else f"[{text}]"
        columns = max(columns_of(text), len(number)) + 1
        if row and used + columns > width:
            yield from _row(row)
            row, used = [], 0
        style = "" if not color else SPECIAL if i in special else STYLES[n % 2]
        row.append((text, number, columns, style))
        used += columns
        if piece.endswith(b"\n"):
            yield from _row(row)
            row, used = [], 0
    if row:
        yield from _row(row)


def _row(cells):
    """The line of tokens and the line of ids."""
    tokens = "".join(
        f"{style}{text}{END if style else ''}{' ' * (columns - columns_of(text))}"
        for text, _, columns, style in cells
    )
    numbers = "".join(number.ljust(columns) for _, number, columns, _ in cells)
    yield tokens.rstrip()
    yield f"{IDS}{numbers.rstrip()}{END}" if cells[0][3] else numbers.rstrip()


def visible(piece):
    """The bytes of a token as one line of printable characters."""
    text = "".join(map(_picture, piece.decode("utf-8", "surrogateescape")))
    return "◌" + text if text and _joins(text[0]) else text  # a mark needs something to stand on


def _picture(c):
    if 0xDC80 <= ord(c) <= 0xDCFF:
        return f"\\x{ord(c) - 0xDC00:02x}"
    if c in VISIBLE:
        return VISIBLE[c]
    if ord(c) < 32:
        return chr(0x2400 + ord(c))
    return (
        c if c.isprintable() or c == "\u200d" else c.encode("unicode_escape").decode()
    )  # U+200D joins emoji to one


def columns_of(text):
    """How many columns a terminal gives to a printable text: 2 for East Asian wide characters, 0 for what
    joins the one before.
    """
    return sum(0 if _joins(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _joins(c):
    return unicodedata.category(c) in ("Mn", "Me", "Cf")
