"""What a training step holds between its forward and its backward, by name, without running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..architecture.config import Config
from ..architecture.parameters import shapes
from ..layers.filed import arrays_in
from ..layers.record import Record
from ..layers.transformer import loss_forward
from ..ops.dropout import dropout
from ..ops.op import Op
from ..ops.saving import blank, saved


class Weightless(Record):
    """A Record of arrays without memory: the layers run as they are written, and no number is computed."""

    def run(self, full: str, op: Op, arrays: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        """A value of the shape that the op's line promises, and what the op would hold."""
        options = {**options, **self.mask(full, op, arrays, options)}
        if op is dropout and "keep" not in options:
            return arrays[0], ()  # which gives the very array that it got
        dtype = next(a.dtype for a in arrays if a is not None and a.dtype.kind == "f")
        shape = op.shape_of_result(arrays, options)
        assert shape is not None, f"{full}: {op.name} was given what does not fit its line"
        y = blank(shape, dtype)
        return y, tuple(saved(op, arrays, options, y))

    def decide(self, name: str, function: Callable[..., Any], *values: Any) -> Any:
        """As many integers as experts are chosen."""
        logits, n = values
        return blank((*logits.shape[:-1], n), np.int64)

    def drawn(self, full: str, shape: tuple[int, ...], p: float) -> Any:
        """A mask that is not drawn."""
        return blank(shape, bool)

    def is_plain(self, name: str) -> bool:
        """What an engine would run as one piece is looked at op by op, as the specification has it."""
        return False

    def held(self) -> dict[str, int]:
        """Name -> bytes that are held first under it; each array counts once, parameters do not."""
        seen = {id(a) for a in self.params.values()}
        found = {}
        for name, entry in self._entries.items():
            new = {id(a): a.nbytes for a in arrays_in(entry.saved) if id(a) not in seen}
            seen |= set(new)
            found[name] = sum(new.values())
        return {name: n for name, n in found.items() if n}


def held_by_name(
    config: Config, B: int, T: int, dtype: DTypeLike = "float32", dropout: bool = False
) -> dict[str, int]:
    """Name -> bytes that the specification holds under it between forward and backward of a batch (B, T).

    >>> held = held_by_name(Config(n_layer=1, n_head=2, n_embd=8, vocab_size=10), 1, 4)
    >>> held["h.0.mlp.c_fc"], held["h.0.mlp.act"]
    (128, 512)
    """
    params = {name: blank(shape, dtype) for name, shape in shapes(config).items()}
    record = Weightless(params, config, step=0 if dropout else None)
    loss_forward(record, blank((B, T), np.int64), blank((B, T), np.int64))
    return record.held()
