"""How other programs name and lay out the parameters of a model: a table of lines, read into views.

A line of a table is a part of numgpt's, what it is called elsewhere, and words on its form:

    h.attn.c_attn  layers.{i}.self_attn.{q,k,v}_proj

{i} is the number of a block. {q,k,v} are parts that numgpt packs side by side. A matrix inside a block is
(out, in) elsewhere, where PyTorch's Linear holds it, unless the word in_out says that it is as here.
plus_one: a weight of 0 there is 1 here. after_two: two rows there come before ours. bare: its weight there
is called by the part's name alone, and its bias with _bias behind it. alternating: gate and value of each
feature side by side. neighbours: the two features of a head that turn together are so. The others are orders
of columns: see packed_order.

A part with [e] is of the layers that have experts; {e} is an expert's number, and without it all are stacked:

    h.mlp.c_fc[e]  layers.{i}.mlp.experts.{e}.{gate,up}_proj

Of a norm of heads {e} is the head's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..architecture.parameters import is_matrix, shapes

SEVERAL = re.compile(r"\{(\w+(?:,\w+)+)\}")


ORDERS = ("grouped", "by_quarters", "interleaved")
WORDS = ("neighbours", "in_out", "plus_one", "after_two", "bare", "alternating", *ORDERS)


class Line(NamedTuple):
    """A line of a table: the names elsewhere, with {i}, and the words on the form there."""

    theirs: tuple[str, ...]
    words: tuple[str, ...] = ()


def lines(table: str) -> dict[str, Line]:
    """A part of numgpt's, without the number of its block → its line.

    >>> lines("h.mlp.c_fc  layers.{i}.{gate,up}_proj")
    {'h.mlp.c_fc': Line(theirs=('layers.{i}.gate_proj', 'layers.{i}.up_proj'), words=())}
    """
    rows = [row.split() for row in table.strip().splitlines()]
    assert all(word in WORDS for _, _, *words in rows for word in words), "a word of a table is unknown"
    return {ours: Line(each(theirs), tuple(words)) for ours, theirs, *words in rows}


def each(theirs: str) -> tuple[str, ...]:
    """The names that a name with {a,b} stands for; of another, itself.

    >>> each("attn.{q,k,v}_proj")
    ('attn.q_proj', 'attn.k_proj', 'attn.v_proj')
    """
    match = SEVERAL.search(theirs)
    if match is None:
        return (theirs,)
    return tuple(theirs.replace(match[0], word) for word in match[1].split(","))


class Piece(NamedTuple):
    """An array elsewhere as columns of one of numgpt's.

    ours: the parameter's name. columns: those of its last axis, in their order there, or what gives them, so
    that none are made for sizes that no file has. width: how many they are. is_turned: whether rows and
    columns change places. shift: what is added to a number there to give ours. before: rows there that
    nothing reads, before those of ours. expert: whose it is, of those that are stacked in ours.
    """

    ours: str
    columns: Any
    width: int
    is_turned: bool = False
    shift: float = 0.0
    before: int = 0
    expert: int | None = None

    def elsewhere(self, array: NDArray[Any], is_gradient: bool = False) -> NDArray[Any]:
        """numgpt's array as it is there: a view where columns lie side by side. A gradient is not shifted."""
        there = self._own(array)[..., self.places()]
        there = there.swapaxes(-1, -2) if self.is_turned else there
        if self.shift and not is_gradient:
            there = there - there.dtype.type(self.shift)
        if self.before:
            there = np.concatenate([np.zeros((self.before, *there.shape[1:]), there.dtype), there])
        return there

    def put(self, array: NDArray[Any], numbers: NDArray[Any]) -> None:
        """Write what lies there into numgpt's array."""
        numbers, own = numbers[self.before :], self._own(array)
        columns = self.places()
        own[..., columns] = numbers.swapaxes(-1, -2) if self.is_turned else numbers
        if self.shift:
            own[..., columns] += own.dtype.type(self.shift)

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape there, where numgpt's array has this one."""
        own = ours if self.expert is None else ours[1:]
        there = (*own[:-1], self.width)
        there = (*there[:-2], there[-1], there[-2]) if self.is_turned else there
        return (there[0] + self.before, *there[1:]) if self.before else there

    def places(self) -> Any:
        """The columns."""
        return self.columns() if callable(self.columns) else self.columns

    def _own(self, array: NDArray[Any]) -> NDArray[Any]:
        """The part of numgpt's array that it is of: all of it, or an expert's."""
        return array if self.expert is None else array[self.expert]


def pieces(table: str, config: Config, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Piece]:
    """Name elsewhere → the Piece of the arrays by numgpt's names that it is."""
    by_part, named = lines(table), {}
    for name, array in arrays.items():
        part, number, kind = split_name(name)
        line = by_part[line_of(name, array.ndim)]
        is_turned = is_matrix(name, array.shape) and part.startswith("h.") and "in_out" not in line.words
        shift = 1.0 if "plus_one" in line.words and kind == "weight" else 0.0
        before = 2 if "after_two" in line.words else 0
        for theirs, (columns, width) in zip(line.theirs, _columns(line, config, name, array.shape[-1])):
            full = _full_name(theirs.replace("{i}", number), kind, line.words)
            experts = range(len(array)) if "{e}" in full else (None,)
            for e in experts:
                piece = Piece(name, columns, width, is_turned, shift, before, e)
                named[full.replace("{e}", str(e))] = piece
    return named


def _full_name(part: str, kind: str, words: Sequence[str]) -> str:
    """The name of a weight or a bias elsewhere; what is called by another word has none of its own there."""
    if "bare" in words:
        return f"{part}_bias" if kind == "bias" else part
    return f"{part}.{kind}" if kind in ("weight", "bias") else part


def views(table: str, config: Config, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays by numgpt's names as they are elsewhere, by the names there."""
    return {name: p.elsewhere(arrays[p.ours]) for name, p in pieces(table, config, arrays).items()}


def _columns(line: Line, config: Config, name: str, width: int) -> list[tuple[Any, int]]:
    """(the columns of numgpt's array, or what gives them; how many) for each of a line's names."""
    n = len(line.theirs)
    ordered = [word for word in line.words if word in ORDERS]
    sizes = widths(config, name, width, n)
    if "neighbours" in line.words:
        return [(lambda: _neighbours(_kind(config, name)), width)]
    if "alternating" in line.words:
        return [(lambda: np.arange(width).reshape(2, -1).T.reshape(-1), width)]
    if ordered and n == 1:
        return [(lambda: np.concatenate(packed_order(_kind(config, name), ordered)), width)]
    if ordered:
        parts = (partial(_part_of_order, _kind(config, name), ordered, i) for i in range(n))
        return list(zip(parts, sizes))
    return [(slice(end - size, end), size) for end, size in zip(np.cumsum(sizes).tolist(), sizes)]


def _part_of_order(kind: Config, words: Sequence[str], i: int) -> NDArray[Any]:
    """The columns of the queries, the keys or the values."""
    return packed_order(kind, words)[i]


def _kind(config: Config, name: str) -> Config:
    """The Config of the block that a parameter is of."""
    return config.scopes()[".".join(name.split(".")[:2]) + "."]


def _neighbours(kind: Config) -> NDArray[Any]:
    """The features of a head as they lie elsewhere, those that turn together side by side."""
    D, R = kind.head_size, kind.rotary_size
    return np.concatenate([np.arange(R).reshape(2, R // 2).T.reshape(-1), np.arange(R, D)])


def packed_order(kind: Config, words: Sequence[str]) -> list[NDArray[Any]]:
    """The columns of queries, keys and values, packed side by side as [q | k | v], in their order elsewhere.

    interleaved: the two features that turn together are neighbours there; here they are R/2 apart.
    grouped: the G queries of a key head, then that key, then its value: with G = 1 each head's q, k and v.
    by_quarters: a quarter of all queries, of all values, of all keys, four times (CodeGen).
    """
    H, K, D = kind.n_head, kind.kv_heads, kind.head_size
    heads = np.arange((H + 2 * K) * D).reshape(-1, D)
    q, k, v = heads[:H], heads[H : H + K], heads[H + K :]
    if "interleaved" in words:
        q, k = q[:, _neighbours(kind)], k[:, _neighbours(kind)]
    if "grouped" in words:
        return [np.concatenate([q.reshape(K, -1, D), k[:, None], v[:, None]], axis=1).reshape(-1)]
    if "by_quarters" in words:
        return [np.concatenate([part.reshape(4, -1) for part in (q, v, k)], axis=1).reshape(-1)]
    return [part.reshape(-1) for part in (q, k, v)]


def split_name(name: str) -> tuple[str, str, str]:
    """(the part without the number of its block, that number or "", weight or bias) of a parameter.

    >>> split_name("h.3.mlp.c_fc.weight")
    ('h.mlp.c_fc', '3', 'weight')
    """
    part, _, kind = name.rpartition(".")
    if not part.startswith("h."):
        return part, "", kind
    _, number, rest = part.split(".", 2)
    return f"h.{rest}", number, kind


def line_of(name: str, ndim: int) -> str:
    """The line that a parameter has in a table: ndim says whether it is of experts, stacked.

    >>> line_of("h.3.mlp.c_fc.weight", 2), line_of("h.3.mlp.c_fc.weight", 3)
    ('h.mlp.c_fc', 'h.mlp.c_fc[e]')
    """
    part, _, kind = split_name(name)
    of_one = 1 if kind == "bias" else 2  # the axes of an expert's own
    return f"{part}[e]" if ndim > of_one else part


def widths(config: Config, name: str, width: int, n: int) -> Sequence[int]:
    """The widths of the n parts that a parameter holds side by side: q, k and v, or gate and value."""
    if n != 3:
        return [width // n] * n
    kind = _kind(config, name)
    of_queries, of_keys = kind.n_head * kind.head_size, kind.kv_heads * kind.head_size
    return [of_queries, of_keys, of_keys]


def placeholders(config: Config) -> dict[str, NDArray[Any]]:
    """An array without memory for every parameter, to ask for shapes before there are numbers."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes(config).items()}
