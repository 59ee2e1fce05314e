"""How parameters are cut among ranks of tensor parallelism: columns, rows, heads, vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..architecture.parameters import parts, shapes
from ..errors import InputError
from ..ops.activations import ACTIVATIONS

Integers = NDArray[np.int64]


class Cut(NamedTuple):
    """An axis of a parameter, in sections that are each cut among the ranks.

    sections: (units, the width of one): q | k | v are three sections of heads, gate | value two of channels.
    """

    axis: int
    sections: tuple[tuple[int, int], ...]

    def places(self, rank: int, size: int) -> Integers:
        """The places along the axis that a rank has."""
        found, begin = [], 0
        for units, width in self.sections:
            first, end = bounds(units, rank, size)
            found.append(np.arange(begin + first * width, begin + end * width))
            begin += units * width
        return np.concatenate(found)


def bounds(units: int, rank: int, size: int) -> tuple[int, int]:
    """The first unit that a rank has, and the one behind its last: the first ranks have what is over.

    >>> [bounds(65, rank, 2) for rank in range(2)]
    [(0, 33), (33, 65)]
    """
    share, over = divmod(units, size)
    return rank * share + min(rank, over), (rank + 1) * share + min(rank + 1, over)


def cuts(config: Config) -> dict[str, Cut]:
    """Name → Cut of every parameter that is cut; the others lie on all ranks."""
    found: dict[str, Cut] = {}
    scopes = config.scopes()
    for part in parts(config):
        kind = next((of for scope, of in scopes.items() if part.name.startswith(scope)), config)
        found.update(_of_part(part.name, part.weight, part.bias, kind))
    known = shapes(config)
    return {name: cut for name, cut in found.items() if name in known}


def _of_part(part: str, weight: str, has_bias: bool, kind: Config) -> Iterator[tuple[str, Cut]]:
    """The cuts of one part: columns with their bias, rows without, whose bias is added after the sum."""
    heads, kv = (kind.n_head, kind.head_size), (kind.kv_heads, kind.head_size)
    width = ((kind.ffn_width, 1),)
    gated = ACTIVATIONS[kind.activation].gated
    name = part.rpartition(".")[2]
    columns = {"c_attn": (heads, kv, kv), "c_fc": width * 2 if gated else width}
    rows = {"attn.c_proj": (heads,), "mlp.c_proj": width}
    of_rows = next((sections for end, sections in rows.items() if part.endswith(end)), None)
    if name in columns:
        yield f"{part}.weight", Cut(1, columns[name])
        yield f"{part}.bias", Cut(0, columns[name])
    elif of_rows is not None:
        yield f"{part}.weight", Cut(0, of_rows)
    elif name in ("wte", "lm_head"):
        yield f"{part}.weight", Cut(0, ((kind.vocab_size, 1),))
        yield f"{part}.bias", Cut(0, ((kind.vocab_size, 1),))
    elif weight == "sink":
        yield f"{part}.sink", Cut(0, ((kind.n_head, 1),))
    elif kind.qk_norm == "each" and name in ("ln_q", "ln_k"):
        units = kind.n_head if name == "ln_q" else kind.kv_heads
        yield f"{part}.weight", Cut(0, ((units, 1),))
        yield f"{part}.bias", Cut(0, ((units, 1),))


def expect_cut(config: Config, ranks: int) -> None:
    """Raise InputError unless each rank gets whole heads, and something of every width."""
    for kind in {*config.scopes().values()}:
        if kind.n_expert:
            raise InputError(
                "tensor: the model has experts, which are not cut, expected feed-forwards: --parallel experts"
                " or data"
            )
        if kind.qk_norm == "full":
            raise InputError(
                "tensor: qk_norm is full, a mean over the heads of all ranks, expected none, head or each:"
                " --parallel data or pipeline"
            )
        for what, heads in (("n_head", kind.n_head), ("key and value heads", kind.kv_heads)):
            if heads % ranks:
                fitting = [
                    n for n in range(1, kind.kv_heads + 1) if not (kind.kv_heads % n or kind.n_head % n)
                ]
                raise InputError(
                    f"tensor: {heads} {what} for {ranks} ranks, expected as many for each: give"
                    f" {' or '.join(map(str, fitting))} ranks"
                )
    widths = {"n_inner": min((kind.ffn_width for kind in config.scopes().values()), default=ranks)}
    for name, width in (widths | {"vocab_size": config.vocab_size}).items():
        if width < ranks:
            raise InputError(
                f"tensor: {name} is {width} for {ranks} ranks, expected at least one channel for each: give"
                f" {width} ranks or fewer"
            )


def local_kinds(config: Config, rank: int, size: int) -> Mapping[str, Any]:
    """Scope → the Config that a rank's layers have there: fewer heads of the same size."""
    made: dict[Config, Config] = {}
    for kind in {*config.scopes().values()}:
        first, end = bounds(kind.ffn_width, rank, size)
        heads: dict[str, Any] = {
            "n_head": kind.n_head // size,
            "head_dim": kind.head_size,
            "n_inner": end - first,
        }
        kv: dict[str, Any] = {} if kind.n_kv_head is None else {"n_kv_head": kind.n_kv_head // size}
        made[kind] = dataclasses.replace(kind, **heads, **kv)
    return {scope: made[kind] for scope, kind in config.scopes().items()}
