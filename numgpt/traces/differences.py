"""Finite differences of the loss at chosen entries: what a gradient says, measured without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import engine
from ..argument_kinds import WRONG, kind_of
from ..arguments import Count
from ..errors import InputError, near
from ..layers.record import Record
from ..random import generator

# ε^⅓ as a power of two: there the error of rounding, ε/h, is as large as that of the difference, h².
WIDTH = 2.0**-17
Index = tuple[int, ...]
Entries = dict[str, list[Index]]
Given = int | Mapping[str, Index | Sequence[Index]]


def asked(given: Any) -> int | Entries:
    """A number of entries, or indices by name, of what was given; InputError for anything else."""
    if isinstance(given, Mapping):
        entries = {str(name): _indices(places) for name, places in given.items()}
        if None not in entries.values():
            return {name: places for name, places in entries.items() if places is not None}
    elif _convert(Count, given) is not WRONG:
        return int(_convert(Count, given))
    text = repr(given)
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    raise InputError(
        f"record.trace: differences is {shown}, expected a number of entries, or a mapping name -> indices"
        " such as {'wte.weight': [(0, 1), (2, 0)]}"
    )


def _indices(places: Any) -> list[Index] | None:
    """Indices, or one, as a list; None where they are neither."""
    one = _convert(tuple[int, ...], places)
    if isinstance(places, tuple) and one is not WRONG:
        return [one]
    several = _convert(Sequence[tuple[int, ...]], places)
    return None if several is WRONG else list(several)


def _convert(hint: Any, value: Any) -> Any:
    kind = kind_of(hint)
    return value if kind is None else kind.convert(value)


def chosen(given: int | Entries, held: Mapping[str, Any], seed: int) -> Entries:
    """Name → entries: as they are given, or so many of each array that is held, drawn from the seed."""
    if isinstance(given, Mapping):
        return {name: [_inside(held, name, index) for index in entries] for name, entries in given.items()}
    entries: Entries = {}
    for name, array in held.items() if given else ():
        places = generator(seed, "differences", name).choice(
            array.size, min(given, array.size), replace=False
        )
        entries[name] = [tuple(map(int, np.unravel_index(n, array.shape))) for n in sorted(places)]
    return entries


def _inside(held: Mapping[str, Any], name: str, index: Index) -> Index:
    if name not in held:
        names = near(name, held) or list(held)[:4]
        raise InputError(
            f"record.trace: differences has {name!r}, which has no gradient here, expected a name such as"
            f" {', '.join(names)}"
        )
    shape = held[name].shape
    if len(index) != len(shape) or not all(0 <= i < size for i, size in zip(index, shape)):
        raise InputError(
            f"record.trace: differences has {index} of {name}, expected an index in its shape {tuple(shape)}"
        )
    return index


def measured(
    record: Any, entries: Entries, h: float | Sequence[float] | None
) -> Iterator[tuple[str, Index, float, float]]:
    """(name, index, h, difference) of each entry, by two runs of the record's source in float64.

        difference = (loss(x + h) − loss(x − h)) / 2h
                   = dloss/dx + h² loss'''/6 + O(ε loss / h)

    h: WIDTH · max(1, |x|) unless given; of several, each entry is measured at each of them.
    """
    loss = _Moved(record)
    for name, places in entries.items():
        for index in places:
            x = float(engine.home((record.params if name in record.params else record.value)[name])[index])
            for width in [WIDTH * max(1.0, abs(x))] if h is None else np.atleast_1d(h).tolist():
                after, before = (loss(name, index, sign * width) for sign in (1, -1))
                yield name, index, width, (after - before) / (2 * width)


class _Moved:
    """The loss of a record's source in float64, with one entry of a value or a parameter moved."""

    def __init__(self, record: Any) -> None:
        self.record = record
        if record.params.dtype.kind == "c":
            raise InputError(
                "record.trace: differences are of real numbers, expected a model of float32 or float64"
            )
        self.params = record.params.to("reference").astype("float64")
        self.inputs = [engine.home(a) for a in record.source.inputs]

    def __call__(self, name: str, index: Index, amount: float) -> float:
        """The loss where the entry at name and index is larger by the amount."""
        if name not in self.params:
            return self._run({name: (index, amount)})
        array = self.params[name]
        before = array[index]
        array[index] += amount
        try:
            return self._run({})
        finally:
            array[index] = before

    def _run(self, moved: Mapping[str, tuple[Index, float]]) -> float:
        edits = {name: edit.function for name, edit in self.record.edit.items()}
        for name, (index, amount) in moved.items():
            edits[name] = _after(edits.get(name), index, amount)
        own = self.record
        options = {"served": own.served, "visibility": own.visibility, "seed": own.seed, "step": own.step}
        again = Record(self.params, own.config, edit=edits, **options)
        with engine.session("float64"):
            return float(self.record.source.layer.forward(again, *self.inputs))


def _after(edit: Any, index: Index, amount: float) -> Any:
    """An edit, where there is one, and then one entry moved."""

    def moved(array: Any) -> Any:
        array = np.array(array if edit is None else edit(array), np.float64)
        array[index] += amount
        return array

    return moved
