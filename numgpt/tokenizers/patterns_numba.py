"""Twin of patterns.py: the published patterns as scanners over code points.

They are some ten times as fast as regular expressions.
"""

import functools

import numpy as np
import regex

from ..engine.jit import kernel, launch, parallel
from . import patterns

# A character's byte in the table: its class in the low four bits; in the high four, which letter of a
# contraction it is in either case (ſ is an s). Both come from the regex package, so the twin has its Unicode.
OTHER, UPPER, LOWER, LETTER, MARK, NUMBER, SPACE, LINE = range(8)
CLASSES = {
    UPPER: r"[\p{Lu}\p{Lt}]",
    LOWER: r"\p{Ll}",
    LETTER: r"[\p{Lm}\p{Lo}]",
    MARK: r"\p{M}",
    NUMBER: r"\p{N}",
    SPACE: r"\s",
    LINE: r"[\r\n]",
}
S, D, M, T, L, V, E, R = range(1, 9)  # 0 is no letter of a contraction; up to T it is one by itself
APOSTROPHE, BLANK, SLASH = 0x27, 0x20, 0x2F


def ends(text, pattern):
    """What patterns.ends gives, by a scanner where the pattern has one."""
    scan = SCANNERS.get(pattern.source)
    if scan is None:
        return patterns.ends(text, pattern)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    places, count = np.empty(len(codes), np.int64), np.zeros(1, np.int64)
    launch(scan, 1, codes, table(), places, count)
    return places[: count[0]]


@functools.cache
def table():
    """A byte for each code point: its class, and 16 times the letter of a contraction that it is."""
    everything = "".join(map(chr, range(0x110000)))
    codes = np.zeros(len(everything), np.uint8)
    for kind, source in CLASSES.items():
        for run in regex.finditer(f"{source}+", everything):
            codes[run.start() : run.end()] = kind
    for letter, c in enumerate("sdmtlver", 1):
        for match in regex.finditer(f"(?i:{c})", everything):
            codes[match.start()] += 16 * letter
    return codes


@kernel
def _kind(codes, table, i):
    return table[codes[i]] & 15


@kernel
def _run(codes, table, i, kinds):
    """The end of the run at i of characters whose classes are among the bits of kinds."""
    while i < len(codes) and (kinds >> (table[codes[i]] & 15)) & 1:
        i += 1
    return i


@kernel
def _contraction(codes, table, i, capitals):
    """The end of 's, 'd, 'm, 't, 'll, 've or 're at i, or i. capitals: whether 'S and so on count too."""
    if i + 1 >= len(codes) or codes[i] != APOSTROPHE:
        return i
    first = table[codes[i + 1]] >> 4
    if first == 0 or not (capitals or 97 <= codes[i + 1] <= 122):
        return i
    if first <= T:
        return i + 2
    if i + 2 >= len(codes) or not (capitals or 97 <= codes[i + 2] <= 122):
        return i
    second = table[codes[i + 2]] >> 4
    return i + 3 if (first == L and second == L) or (first in (V, R) and second == E) else i


@kernel
def _white(codes, table, i):
    r"""The end of \s+(?!\S)|\s+ at i: of several spaces, the last is left to the word behind them."""
    end = _run(codes, table, i, WHITE)
    return end - 1 if end < len(codes) and end - i > 1 else end


@kernel
def _lines(codes, table, i):
    r"""The end of \s*[\r\n]+ at i, or i: behind the last end of a line in a run of white space."""
    end = _run(codes, table, i, WHITE)
    while end > i and _kind(codes, table, end - 1) != LINE:
        end -= 1
    return end


LETTERS = 1 << UPPER | 1 << LOWER | 1 << LETTER
WHITE = 1 << SPACE | 1 << LINE
REST = 1 << OTHER | 1 << MARK  # [^\s\p{L}\p{N}]
CAPITALS = 1 << UPPER | 1 << LETTER | 1 << MARK  # [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
SMALL = 1 << LOWER | 1 << LETTER | 1 << MARK  # [\p{Ll}\p{Lm}\p{Lo}\p{M}]


# Each of the three tries the alternatives of its pattern from left to right, as the regular expression does.


@kernel
def _gpt2_pretoken(codes, table, i):
    """The end of the pretoken of GPT-2's pattern at i."""
    end = _contraction(codes, table, i, False)
    if end > i:
        return end
    start = i + 1 if codes[i] == BLANK and i + 1 < len(codes) else i
    kind = _kind(codes, table, start)
    if kind == NUMBER:
        return _run(codes, table, start, 1 << NUMBER)
    if (LETTERS >> kind) & 1:
        return _run(codes, table, start, LETTERS)
    if (REST >> kind) & 1:
        return _run(codes, table, start, REST)
    return _white(codes, table, i)


@kernel
def _cl100k_pretoken(codes, table, i):
    """The end of the pretoken of GPT-4's pattern at i."""
    end = _contraction(codes, table, i, True)
    if end > i:
        return end
    n, kind = len(codes), _kind(codes, table, i)
    if kind == NUMBER:
        return _run(codes[: i + 3], table, i, 1 << NUMBER)
    start = i if (LETTERS >> kind) & 1 or kind == LINE else i + 1  # [^\r\n\p{L}\p{N}]? takes one
    end = _run(codes, table, start, LETTERS)
    if end > start:
        return end
    start = i + 1 if codes[i] == BLANK else i
    end = _run(codes, table, start, REST)
    if end > start:
        return _run(codes, table, end, 1 << LINE)
    if _run(codes, table, i, WHITE) == n:  # \s++$
        return n
    end = _lines(codes, table, i)
    return end if end > i else _white(codes, table, i)


@kernel
def _word(codes, table, i):
    """The end of [CAPITALS]*[SMALL]+ at i, or i."""
    capitals = _run(codes, table, i, CAPITALS)
    end = _run(codes, table, capitals, SMALL)
    if end > capitals:
        return end
    # The run of capitals gives back until its last character may be small too.
    while end > i and not (SMALL >> _kind(codes, table, end - 1)) & 1:
        end -= 1
    return end


@kernel
def _o200k_pretoken(codes, table, i):
    """The end of the pretoken of GPT-4o's pattern at i."""
    n, kind = len(codes), _kind(codes, table, i)
    before = i if (LETTERS >> kind) & 1 or kind in (NUMBER, LINE) else i + 1
    for start in (before, i):  # the character before a word, then without one: ? prefers to take it
        end = _word(codes, table, start)
        if end > start:
            return _contraction(codes, table, end, True)
    for start in (before, i):
        end = _run(codes, table, start, CAPITALS)
        if end > start:
            return _contraction(codes, table, _run(codes, table, end, SMALL), True)
    if kind == NUMBER:
        return _run(codes[: i + 3], table, i, 1 << NUMBER)
    start = i + 1 if codes[i] == BLANK else i
    end = _run(codes, table, start, REST)
    if end > start:
        while end < n and (_kind(codes, table, end) == LINE or codes[end] == SLASH):
            end += 1
        return end
    end = _lines(codes, table, i)
    return end if end > i else _white(codes, table, i)


@kernel
def _bytes(code):
    """How many bytes of UTF-8 a code point has; one where surrogateescape put it in the place of a byte."""
    if code < 0x80 or 0xDC80 <= code < 0xDD00:
        return 1
    if code < 0x800:
        return 2
    return 3 if code < 0x10000 else 4


@kernel
def _note(codes, i, end, places, count):
    """Note where the pretoken codes[i:end] ends, in bytes; returns end."""
    place = places[count[0] - 1] if count[0] else 0
    for j in range(i, end):
        place += _bytes(codes[j])
    places[count[0]] = place
    count[0] += 1
    return end


@parallel
def _gpt2(task, codes, table, places, count):
    i = 0
    while i < len(codes):
        i = _note(codes, i, _gpt2_pretoken(codes, table, i), places, count)


@parallel
def _cl100k(task, codes, table, places, count):
    i = 0
    while i < len(codes):
        i = _note(codes, i, _cl100k_pretoken(codes, table, i), places, count)


@parallel
def _o200k(task, codes, table, places, count):
    i = 0
    while i < len(codes):
        i = _note(codes, i, _o200k_pretoken(codes, table, i), places, count)


SCANNERS = {
    patterns.PATTERNS["gpt2"]: _gpt2,
    patterns.PATTERNS["cl100k"]: _cl100k,
    patterns.PATTERNS["o200k"]: _o200k,
}
