"""A trace as the data of a page: JSON, whose arrays are base64 of little-endian floats.

Doubles that are all floats, as the parameters of a model trained in float32, are stored as floats.
Arrays that are equal to the bit, as those of a block and of its last sum, are stored once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..traces import Trace
from ..traces.schema import plain
from ..traces.table import Row
from . import givens, selecting
from .cells import cells

SCHEMA = "numgpt.page/1"
WIDE = np.dtype("<f8")
SMALLEST = 16  # numbers of an array that is looked for among those that are stored already
LONGEST_TITLE = 60
Packed = dict[str, Any]


class Store:
    """Arrays as they are written, each once; counts the characters that they take.

    dtype: of all of them, or None for each its own. limit: bytes of a page, or None for any number.
    """

    def __init__(self, dtype: np.dtype[Any] | None = None, limit: int | None = selecting.MOST) -> None:
        self.dtype, self.limit = dtype, limit
        self.size = 0
        self._places: dict[bytes, list[str]] = {}

    def add(self, array: Any, place: Sequence[str] = (), own: bool = False) -> Packed | None:
        """An array as JSON has it; None for None.

        place: its tensor, and "value" or "grad", where another array may refer to it. own: it may not refer
        to another.
        """
        if array is None:
            return None
        numbers = np.asarray(array)
        dtype = self.dtype or np.dtype("<f8" if numbers.dtype.itemsize > 4 else "<f4")
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.ascontiguousarray(numbers, dtype).tobytes()
        digest = hashlib.sha256(data).digest() + dtype.str.encode()
        if digest in self._places and not own and numbers.size >= SMALLEST:
            return {"same": self._places[digest]}
        if place:
            self._places.setdefault(digest, list(place))
        stored = _narrow(data) if dtype == WIDE else data
        self.size += len(stored) * 4 // 3
        if self.limit is not None and self.size > self.limit:
            raise InputError(too_large(self.limit))
        content = {"dtype": f"f{8 * dtype.itemsize}", "data": base64.b64encode(stored).decode()}
        return content if stored is data else content | {"stored": "f32"}


def _narrow(data: bytes) -> bytes:
    """The bytes of doubles; as those of floats where all are floats, as a trained model's parameters.

    NaNs have bits that a conversion may change, and stay doubles.
    """
    wide = np.frombuffer(data, WIDE)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = wide.astype("<f4")
    return narrow.tobytes() if wide.size and (narrow == wide).all() else data


def too_large(limit: int) -> str:
    """What is said of a page with more bytes than the limit."""
    return (
        f"explore: the page would have more than {limit / 1e6:.0f} MB, expected a smaller trace:"
        " choose some blocks, float32 or a shorter prompt, or ask for it in full"
    )


def title_of(trace: Trace) -> str:
    """What a page is called that nobody gave a title: the text of the tokens."""
    if "tokens" not in trace.ids or not trace.texts:
        return trace.source or "a trace"
    rows = [np.atleast_1d(ids) for ids in trace.ids.values()]
    ids = [int(i) for i in rows[0].reshape(-1, rows[0].shape[-1])[0]]
    if len(rows) > 1 and len(ids):
        last = int(rows[1].reshape(-1, rows[1].shape[-1])[0][-1])
        ids += [last] if last >= 0 else []
    return shortened("".join(trace.texts.get(i, "�") for i in ids))


def shortened(text: str) -> str:
    """A text as a title: in one line, and not too long."""
    text = " ".join(text.split()) or "a trace"
    return text if len(text) <= LONGEST_TITLE else f"{text[:LONGEST_TITLE]}…"


def packed(trace: Trace, title: str, store: Store, blocks: Sequence[int] | None = None) -> Packed:
    """The data of a page, as README.md of this room describes them."""
    kept = selecting.whole(trace, blocks)
    reference = trace.reference
    return {
        "schema": SCHEMA,
        "title": title,
        "source": trace.source,
        "config": plain(dict(trace.config)),
        "dtype": _dtype(trace, store),
        "names": [*trace.names],
        "parameters": [*trace.parameters],
        "edited": [*trace.edited],
        "tensors": {row.name: _tensor(trace, row, store, row.name in kept) for row in trace.table().rows},
        "sizes": dict(trace.sizes),
        "ids": {name: _ids(array) for name, array in trace.ids.items()},
        "texts": {str(i): text for i, text in trace.texts.items()},
        "steps": {name: _step(trace, name) for name in trace.steps},
        "ops": {name: text._asdict() | {"cells": cells(name)} for name, text in trace.ops.items()},
        "differences": [_difference(d) for d in trace.differences],
        "reference_source": None if reference is None else reference.source,
        "beside": None,
    }


def as_json(data: Packed) -> str:
    """The data as a script element of a page may hold them: no < stands in it."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode("utf-8", "replace").decode()  # halves of characters have no place in a file


def _finite(content: Any) -> Any:
    """A content with those numbers as texts for which JSON has no word."""
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else f"{'-' * (content < 0)}Infinity"
    if isinstance(content, dict):
        return {key: _finite(part) for key, part in content.items()}
    if isinstance(content, list):
        return [_finite(part) for part in content]
    return content


def _dtype(trace: Trace, store: Store) -> str:
    if store.dtype is not None:
        return store.dtype.name
    arrays = [*trace.value.values(), *trace.grad.values()]
    return str(max((np.asarray(a).dtype for a in arrays), key=lambda dtype: dtype.itemsize))


def _tensor(trace: Trace, row: Row, store: Store, is_whole: bool) -> Packed:
    name = row.name
    value, grad = trace.value.get(name), trace.grad.get(name)
    tensor: Packed = {
        "axes": [*row.axes],
        "shape": [*row.shape],
        "value": None,
        "grad": None,
        "norm": row.value,
        "grad_norm": row.grad,
    }
    if not is_whole:
        return tensor | {"largest": selecting.largest({"value": value, "grad": grad})}
    tensor["value"] = store.add(value, (name, "value"), own=name in trace.parameters)
    tensor["grad"] = store.add(grad, (name, "grad"))
    beside = {
        "parts": _arrays(store, trace.parts.get(name, {})),
        "reference": _of_reference(trace, name, store),
        "moments": _arrays(store, {kind: by[name] for kind, by in trace.moments.items() if name in by}),
    }
    return tensor | {key: arrays for key, arrays in beside.items() if arrays}


def _arrays(store: Store, arrays: Mapping[str, Any]) -> Packed:
    return {key: store.add(array) for key, array in arrays.items()}


def _of_reference(trace: Trace, name: str, store: Store) -> Packed:
    """What another program has for value and gradient."""
    if trace.reference is None:
        return {}
    sides = {"value": trace.reference.value, "grad": trace.reference.grad}
    return {side: store.add(arrays[name]) for side, arrays in sides.items() if name in arrays}


def _ids(array: Any) -> Packed:
    return {"shape": [*np.shape(array)], "data": [int(i) for i in np.asarray(array).reshape(-1)]}


def _step(trace: Trace, name: str) -> Packed:
    """A step, with what it gives to the formulas of its op."""
    step = trace.steps[name]
    parts = step._asdict() | {"given": givens.plain(givens.given(trace, name))}
    lists = {key: [*part] for key, part in parts.items() if isinstance(part, tuple)}
    return parts | lists | {"options": plain(dict(step.options)), "cost": step.cost and [*step.cost]}


def _difference(difference: Any) -> Packed:
    keys = ("name", "h", "difference", "gradient")
    return {key: getattr(difference, key) for key in keys} | {"index": [*difference.index]}
