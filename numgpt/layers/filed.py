"""What a Record files: entries for the backward, and arrays by name that show themselves as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import engine
from ..errors import InputError, near
from ..ops.op import Op
from .layer import Layer

SHOWN = 16  # rows of a table; of a longer one the middle is left out


@dataclass
class Entry:
    """What the backward of one name needs."""

    op: Op | Layer
    saved: Any  # a layer's is (), or (what its twin saved,)
    names: tuple[str | None, ...] = ()  # of an op's parameters; None for one that the model does not have
    shapes: tuple[Any, ...] = ()  # of an op's arrays, its parameters the last; None for one that is not there


def pair(full: str, op: Op, given: Any) -> tuple[Any, Any]:
    """What a forward gave, a value and what its backward needs; InputError where it is no such pair."""
    if isinstance(given, tuple) and len(given) == 2 and hasattr(given[0], "dtype"):
        return given
    raise InputError(
        f"{op.name} at {full!r}: the forward gave {_kind(given)}, expected a pair: its value, an array, and"
        " what the backward needs"
    )


def fitting(full: str, entry: Entry, names: tuple[str | None, ...], dy: Any, grads: Any) -> Sequence[Any]:
    """What a backward gave, one gradient for each array of its op; InputError where one does not fit.

    names: of the parameters whose gradients are wanted; the others may have None.
    """
    shapes, op = entry.shapes, entry.op
    assert isinstance(op, Op)
    if not isinstance(grads, tuple | list) or len(grads) != len(shapes):
        raise InputError(
            f"{op.name} at {full!r}: the backward gave {_kind(grads)}, expected a tuple of {len(shapes)}: for"
            " each array of the forward its gradient, or None"
        )
    for n, (grad, shape) in enumerate(zip(grads, shapes)):
        parameter = names[n - len(shapes)] if n >= len(shapes) - len(names) else None
        if grad is None and parameter is None:
            continue
        if getattr(grad, "shape", None) != shape or not _is_like(grad, dy):
            what = f"{grad.dtype} of shape {tuple(grad.shape)}" if hasattr(grad, "dtype") else _kind(grad)
            raise InputError(
                f"{op.name} at {full!r}: the backward gave {what} for {op.arguments[n].name}, expected"
                f" {dy.dtype} of shape {shape}"
            )
    return grads


def _is_like(grad: Any, dy: Any) -> bool:
    """Whether a gradient has the dtype of the one that came; in a complex run it may be real."""
    return bool(grad.dtype == dy.dtype or (dy.dtype.kind == "c" and grad.dtype.kind == "f"))


def _kind(given: Any) -> str:
    """What messages say of something that is not what it should be."""
    return f"{len(given)} things" if isinstance(given, tuple | list) else type(given).__name__


class Filed(dict[str, Any]):
    """Arrays by name. For a name that is missing, KeyError says which ones it may have meant."""

    def __init__(self, kind: str = "value", arrays: Mapping[str, Any] | None = None) -> None:
        super().__init__(arrays or {})
        self.kind = kind

    def __missing__(self, name: str) -> Any:
        if not self:
            raise KeyError(f"there is no {self.kind} {name!r}: none was kept, expected a run with keep=True")
        names = near(str(name), self) or list(self)[:4]
        raise KeyError(f"there is no {self.kind} {name!r}, expected a name such as {', '.join(names)}")


def table(filed: int, value: Mapping[str, Any], grad: Mapping[str, Any]) -> str:
    """How much is filed and kept, and a line for each name that is kept, shortened in the middle."""
    title = f"Record: {filed} names filed, {len(value)} values and {len(grad)} gradients kept"
    names = list(dict.fromkeys((*value, *grad)))
    rows = [("name", "value", "gradient")]
    rows += [(n, _cell(value.get(n)), _cell(grad.get(n))) for n in names]
    left_out = len(names) - SHOWN
    if left_out > 0:
        rows[1 + SHOWN // 2 : -SHOWN // 2] = [(f"… {left_out} more", "", "")]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths)).rstrip() for row in rows]
    return "\n  ".join([title, *(lines if names else [])])


def _cell(array: Any) -> str:
    """The dtype and shape of an array, nothing for None."""
    return "" if array is None else f"{array.dtype} {tuple(array.shape)}"


def held_bytes(saved: Iterable[Any], params: Mapping[str, Any]) -> int:
    """Bytes of the arrays in nested tuples, each counted once, those of the parameters left out."""
    owners = {id(a): a for s in saved for a in map(owner, arrays_in(s))}
    for array in params.values():
        owners.pop(id(owner(array)), None)
    return sum(a.nbytes for a in owners.values())


def arrays_in(saved: Any) -> Iterator[Any]:
    """All arrays in nested tuples."""
    if isinstance(saved, np.ndarray) or engine.on_gpu(saved):
        yield saved
    elif isinstance(saved, tuple):
        for part in saved:
            yield from arrays_in(part)


def owner(array: Any) -> Any:
    """The array whose memory a view shows."""
    while isinstance(array.base, np.ndarray) or engine.on_gpu(array.base):
        array = array.base
    return array
