"""Runs of a model that are read in the middle: a plain one, one with its backward, and many with patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..layers.layer import Layer
from ..layers.record import Record
from ..layers.transformer import (
    blocks_forward,
    trunk_backward,
    trunk_forward,
    unembedded_backward,
    unembedded_forward,
)
from ..model import differentiable
from ..model.gpt import GPT
from ..ops import last_token
from .metrics import Metric, gradient_of, value_of

Array = NDArray[Any]
Progress = Callable[[int, int], None]
AT_ONCE = 4096  # tokens of one forward of many rows
BEHIND = ("ln_f", "lm_head", "read")  # what comes after the last block


class Forwards(Record):
    """A Record whose backward never comes: it lets go of what that would have read."""

    def __call__(self, name: str, op: Any, *inputs: Any, **options: Any) -> Any:
        """As in any Record."""
        value = super().__call__(name, op, *inputs, **options)
        self._entries.pop(self.scope + name, None)
        return value


def read_forward(r: Any, x: Any, places: Any) -> Any:
    """The logits of one position of each row, or of all.  x (B, T, C), places (B) or None → (B, V), (B, T, V)

    Nothing behind the last norm reads another position, so the others need not be unembedded.
    """
    x = r("read", None if places is None else last_token, x, *([] if places is None else [places]))
    return unembedded_forward(r, x)


def read_backward(r: Any, dlogits: Any) -> Any:
    """Gradient of read_forward with respect to x."""
    return r.back("read", unembedded_backward(r, dlogits))


def logits_forward(r: Any, tokens: Any, places: Any) -> Any:
    """From tokens to the logits that are asked for."""
    return read_forward(r, trunk_forward(r, tokens), places)


def logits_backward(r: Any, dlogits: Any) -> None:
    """Gradient of logits_forward: to the values that are kept."""
    trunk_backward(r, read_backward(r, dlogits))


logits_at = Layer(logits_forward, logits_backward)


@dataclass(eq=False)
class Run:
    """A run of rows of tokens: ids (N, T), the logits that were asked for, and what was kept, by name."""

    ids: Array
    logits: Array
    value: Mapping[str, Any]
    grad: Mapping[str, Any] = field(default_factory=dict)


def places_of(ids: Array, at: int | None) -> Array | None:
    """The position at, counted from the end where it is negative, for each row of ids."""
    return None if at is None else np.full(len(ids), at % ids.shape[-1])


def run(
    model: GPT,
    ids: Array,
    at: int | None = -1,
    keep: Sequence[str] = (),
    edit: Mapping[str, Any] | None = None,
) -> Run:
    """One forward; keep: names, or patterns of them."""
    record = Forwards(*_of(model), keep=list(keep), edit=edit, **_options(model))
    logits = differentiable.forwards(model, record, logits_at, (ids, places_of(ids, at)))
    return Run(ids, engine.home(logits), record.value)


def run_with_gradients(
    model: GPT, ids: Array, metric: Metric, keep: Sequence[str], edit: Mapping[str, Any] | None = None
) -> Run:
    """One forward, and one backward from the sum of a metric over the rows; no parameter's gradient is made.

    Rows do not meet, so each has the gradients of its own value.
    """
    record = Record(*_of(model), keep=list(keep), edit=edit, **_options(model))
    logits = differentiable.forwards(model, record, logits_at, (ids, places_of(ids, metric.at)))
    home = engine.home(logits)
    dlogits = engine.beside(gradient_of(metric, home), logits)
    with engine.session(model.params.dtype):
        logits_backward(record, dlogits)
    return Run(ids, home, record.value, record.grad)


def _of(model: GPT) -> tuple[Any, Any]:
    return model.params, model.config


def _options(model: GPT) -> dict[str, Any]:
    return {"served": model.served, "seed": model.seed}


# Many rows at once.


class Patch(NamedTuple):
    """What is put into a value of a row: value (N, ...), at the index where of each text's array."""

    name: str
    where: tuple[Any, ...]
    value: Any


class Patched(NamedTuple):
    """What rows with patches gave: the metric (rows, N), and what was kept, name → (rows, N, ...)."""

    metric: Array
    value: dict[str, Any]


def stream(layer: int) -> str:
    """The name of the stream that a layer reads; that of layer L is what the last norm reads."""
    return "drop" if layer == 0 else f"h.{layer - 1}"


def streams(model: GPT) -> list[str]:
    """The names of all streams, from the embeddings on."""
    return [stream(layer) for layer in range(model.config.n_layer + 1)]


def layer_of(name: str) -> int:
    """The first layer that has to run again where a value is changed; -1 for the embeddings, too."""
    parts = name.split(".")
    if parts[0] != "h":
        return 0 if name in (stream(0), *BEHIND) else -1
    return int(parts[1]) + (len(parts) == 2)


def patched(
    model: GPT,
    base: Run,
    rows: Sequence[Sequence[Patch]],
    metric: Metric,
    progress: Progress | None = None,
    keep: Sequence[str] = (),
) -> Patched:
    """The metric of a base's texts under each row's patches: many rows at once, from the layer they begin at.

    Everything below the first patched layer is what it was in the base, whose streams are kept there; so each
    row begins with the stream that this layer reads. Rows of one first layer are one batch, as far as a batch
    is worth its memory.

    base: keeps the streams of the N texts. keep: of names that all rows compute.
    """
    N = len(base.ids)
    values = np.zeros((len(rows), N), np.result_type(base.logits.dtype, np.float64))
    kept: dict[str, list[Any]] = {name: [None] * len(rows) for name in keep}
    done = 0
    for first, places in _chunks(base, rows):
        record, chunk = _run_rows(model, base, first, [rows[place] for place in places], metric, keep)
        values[places] = value_of(metric, chunk).reshape(len(places), N)
        for name, arrays in kept.items():
            found = record.value[name].reshape(len(places), N, *record.value[name].shape[1:])
            for n, place in enumerate(places):
                arrays[place] = found[n]
        done += len(places)
        if progress is not None:
            progress(done, len(rows))
    return Patched(values, kept)


def _chunks(base: Run, rows: Sequence[Sequence[Patch]]) -> Iterator[tuple[int, list[int]]]:
    """(first layer, numbers of rows) of the batches in which rows run."""
    most = max(1, AT_ONCE // base.ids.size)
    by_layer: dict[int, list[int]] = {}
    for place, patches in enumerate(rows):
        by_layer.setdefault(min(layer_of(patch.name) for patch in patches), []).append(place)
    for first, places in sorted(by_layer.items()):
        for begin in range(0, len(places), most):
            yield first, places[begin : begin + most]


def _run_rows(
    model: GPT,
    base: Run,
    first: int,
    rows: Sequence[Sequence[Patch]],
    metric: Metric,
    keep: Sequence[str],
) -> tuple[Record, Array]:
    """The Record and the logits of rows with patches, from a layer on."""
    by_name: dict[str, list[tuple[int, Patch]]] = {}
    for n, row in enumerate(rows):
        for patch in row:
            by_name.setdefault(patch.name, []).append((n, patch))
    N, begin = len(base.ids), stream(max(first, 0))
    own = base.value[begin]
    ids = np.tile(base.ids, (len(rows), 1))
    x = np.repeat(own[None], len(rows), axis=0).reshape(-1, *own.shape[1:])
    if first >= 0:
        x = _with_patches(x, N, by_name.pop(begin, []))
    edit = {
        name: lambda value, patches=patches: _with_patches(value, N, patches)
        for name, patches in by_name.items()
    }
    record = Forwards(*_of(model), keep=list(keep), edit=edit, **_options(model))
    places = places_of(ids, metric.at)
    if first < 0:  # what is patched comes before the first stream that is kept
        return record, engine.home(differentiable.forwards(model, record, logits_at, (ids, places)))
    layer = Layer(lambda r, x, places: read_forward(r, blocks_forward(r, x, first), places), read_backward)
    with engine.session(model.params.dtype):
        logits = layer.forward(record, x, *differentiable.placed(model, (places,)))
    return record, engine.home(logits)


def _with_patches(value: Any, N: int, patches: Sequence[tuple[int, Patch]]) -> Any:
    """A value of all rows, which is written to, with the patches of each."""
    by_row = value.reshape(-1, N, *value.shape[1:])
    for n, patch in patches:
        by_row[n][(slice(None), *patch.where)] = engine.beside(patch.value, value)
    return value
