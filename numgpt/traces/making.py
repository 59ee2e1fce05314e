"""How a Trace is made of a TracedRecord: what was noted, and what is asked for besides.

record is a TracedRecord throughout, and noted a Noted of one of its names: recorded.py, which calls trace_of,
has both.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import engine
from .._version import __version__
from ..architecture.patterns import matching
from ..errors import InputError, near
from ..layers.filed import Filed
from ..ops import Op
from ..ops.formula import formula
from ..tokenizers import Tokenizer
from . import axes, differences
from .schema import plain
from .steps import Difference, OpText, Reference, Step
from .trace import Trace, expect_whole, listed


class Asked(NamedTuple):
    """What is asked of a record, as in TracedRecord.trace."""

    names: str | Sequence[str] | None = None
    tokenizer: Tokenizer | None = None
    differences: differences.Given = 0
    h: float | Sequence[float] | None = None
    reference: Reference | Mapping[str, Any] | None = None
    moments: Mapping[str, Any] | None = None
    who: str = "record.trace"


def trace_of(record: Any, asked: Asked) -> Trace:
    """The Trace of a record that was asked for."""
    kept = _kept(record)
    names = kept if asked.names is None else matching(asked.who, listed(asked.names), kept)
    every = {**record.params, **record.value}
    texts, sizes = _axes(record)
    grad = Filed("gradient", _arrays(record.grad, names))
    value = {n: _array(every[n], copy=n in record.params) for n in names if n in every}
    trace = Trace(
        value=Filed("value", value),
        grad=grad,
        steps=Filed("step", {n: _step(record, record.noted[n]) for n in names if n in record.noted}),
        ops={_op(record, noted): _text(noted) for n, noted in record.noted.items() if n in names},
        axes={n: texts[n] for n in names if n in texts},
        sizes=sizes,
        parameters=tuple(n for n in names if n in record.params),
        ids={name: _array(ids) for name, ids in (record.source.ids | record.decided).items()},
        texts=_token_texts(record, asked.tokenizer or record.source.tokenizer),
        edited=tuple(dict.fromkeys((*record.edit, *record.edit_grad))),
        parts={n: _arrays(parts, parts) for n, parts in record.parts.items() if n in names},
        differences=_differences(record, asked, grad),
        reference=_reference(asked.reference, kept, names),
        moments=_moments(asked.moments or {}, record.params, names),
        config=plain(vars(record.config)),
        source=f"numgpt {__version__}, engine {engine.current()}",
    )
    expect_whole("record.trace", trace)
    return trace


def _kept(record: Any) -> list[str]:
    """Every name of which something is kept: values in their order, then the parameters that were used."""
    values = (*record.value, *(n for n in record.grad if n not in record.params))
    return [*dict.fromkeys((*values, *(n for n in record.params if n in record.uses)))]


def _axes(record: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """(name → the letters of its axes, letter → size)."""
    found = {n: (noted.axes, noted.shape) for n, noted in record.noted.items()}
    for noted in record.noted.values():
        for n, of_one in noted.of_parameters.items():
            found.setdefault(n, (of_one, record.params[n].shape))
    ids = next(iter(record.source.ids.values()))
    sizes = {axis.text: size for axis, size in zip(axes.of_tokens(ids.ndim), ids.shape)}
    sizes |= {letter: size for letter, size in record.sizes.items() if letter not in sizes}
    return axes.named(found, sizes), sizes


def _array(array: Any, copy: bool = False) -> Any:
    array = np.asarray(engine.home(array))
    return array.copy() if copy else array


def _arrays(arrays: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {n: _array(arrays[n]) for n in names if n in arrays}


def _step(record: Any, noted: Any) -> Step:
    """What made a value. Ids have no gradient."""
    writes = [n for n in noted.reads if n not in record.source.ids and n not in record.decided]
    return Step(
        _op(record, noted),
        noted.reads,
        noted.parameters,
        noted.backward_reads,
        (*writes, *noted.parameters),
        noted.options,
        noted.cost,
    )


def _op(record: Any, noted: Any) -> str:
    """The name of an op, or of a layer by its forward; another one where an op of that name has run, too.

    Each has its own text in trace.ops. Attention is a layer, and an op where its heads run in one piece.
    """
    if isinstance(noted.op, Op):
        return noted.op.name
    name = getattr(noted.op.forward, "__name__", "layer").removesuffix("_forward")
    has_run = any(isinstance(one.op, Op) and one.op.name == name for one in record.noted.values())
    return f"{name}_layer" if has_run else name


def _text(noted: Any) -> OpText:
    """An op's line and equations; of a layer the sentence about it."""
    op = noted.op
    if isinstance(op, Op):
        return OpText(op.line, formula(op.forward), formula(op.backward))
    return OpText("", *(inspect.getdoc(f) or "" for f in (op.forward, op.backward)))


def _token_texts(record: Any, tokenizer: Tokenizer | None) -> dict[int, str]:
    """Id → text of every id that occurs and stands for something."""
    if tokenizer is None:
        return {}
    every = {int(i) for ids in record.source.ids.values() for i in np.unique(engine.home(ids))}
    return {i: tokenizer.decode([i]) for i in sorted(every) if 0 <= i < len(tokenizer.pieces)}


def _differences(record: Any, asked: Asked, grad: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Finite differences of the entries that are asked for, beside their gradients."""
    if asked.differences and not record.grad:
        raise InputError(
            "record.trace: differences have no gradient to be compared with, expected a record with targets"
        )
    given = differences.asked(asked.differences)
    held = grad if isinstance(given, int) else _arrays(record.grad, record.grad)
    places = differences.chosen(given, held, record.seed)
    if not any(places.values()):
        return ()
    rows = differences.measured(record, places, asked.h)
    return tuple(Difference(n, i, h, measured, float(held[n][i])) for n, i, h, measured in rows)


def _reference(given: Any, known: Collection[str], names: Collection[str]) -> Reference | None:
    """Another program's numbers of the chosen names; a mapping gives values."""
    if given is None:
        return None
    reference = given if isinstance(given, Reference) else Reference("given", given)
    for arrays in (reference.value, reference.grad):
        _expect_among("reference", arrays, known)
    value, grad = (
        {n: np.asarray(arrays[n]) for n in names if n in arrays}
        for arrays in (reference.value, reference.grad)
    )
    return Reference(reference.source, value, grad)


def _moments(
    state: Mapping[str, Any], known: Collection[str], names: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Moment → parameter → array, of a state with names such as "m.wte.weight", for the chosen parameters."""
    moments: dict[str, dict[str, Any]] = {}
    for full, array in state.items():
        kind, _, name = full.partition(".")
        _expect_among(f"moments {full!r}", {name: array}, known)
        if name in names:
            moments.setdefault(kind, {})[name] = _array(array, copy=True)
    return moments


def _expect_among(what: str, arrays: Any, known: Collection[str]) -> None:
    """Raise InputError for a name that the record does not know."""
    if not isinstance(arrays, Mapping):
        raise InputError(
            f"record.trace: {what} is {type(arrays).__name__}, expected a mapping of name -> array"
        )
    for name in arrays:
        if name not in known:
            names = near(str(name), known) or list(known)[:4]
            raise InputError(
                f"record.trace: {what} has {name!r}, which is not here, expected a name such as"
                f" {', '.join(names)}"
            )
