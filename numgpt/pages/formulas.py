"""Which formulas make a number of a trace, and what their letters stand for there.

A value has one formula, that of the op which made it. A gradient has one for each step that reads the value,
or uses the parameter: it is their sum. web/formula.js resolves names in the same way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..traces import Trace
from .cells import REASONS, cells
from .evaluation import Inputs, evaluate
from .expressions import Tree
from .givens import given

Array = NDArray[Any]
Source = tuple[str, str]  # a name, and "value", "grad" or "ids"


class Use(NamedTuple):
    """A formula of a number, at the step that it belongs to, and what its letters stand for."""

    step: str
    formula: Tree
    sources: dict[str, Source]


def uses(trace: Trace, name: str, which: str = "value") -> list[Use] | str:
    """The formulas whose sum is the value or gradient of a name; a reason where there is none.

    An edit in flight may add to a gradient what no formula has: where the name, or a step that reads it, is
    among trace.edited.
    """
    if which == "value":
        return "it is edited in flight" if name in trace.edited else _of_value(trace, name)
    steps = [step for step in trace.steps if name in _read_by(trace, step)]
    outer = _layer_of(trace, name)
    if outer is not None:
        return [_copy(outer, "grad", name)]
    if not steps:
        return "no step of the trace reads it" if np.ndim(trace.grad[name]) else "the backward starts here"
    found = []
    for step in steps:
        row = cells(trace.steps[step].op)
        if row is None:
            return _no_row(trace, step)
        sources = _sources(trace, step, row)
        if isinstance(sources, str):
            return sources
        for letter in row["letters"]:
            if letter in row["backward"] and sources.get(letter, ("", ""))[0] == name:
                found.append(Use(step, row["backward"][letter], sources))
    return found


def numbers(trace: Trace, name: str, which: str = "value", at: Any = None) -> Array:
    """The value or gradient of a name by its formulas, all cells of it or those at (M, axes) indices."""
    found = uses(trace, name, which)
    assert not isinstance(found, str), f"{name}: {found}"
    shape = np.shape(_array(trace, (name, which)))
    return np.asarray(sum(evaluate(use.formula, inputs(trace, use), shape, at) for use in found))


def inputs(trace: Trace, use: Use) -> Inputs:
    """The arrays of a use by letter, and what its step gives."""
    arrays = {letter: _array(trace, source) for letter, source in use.sources.items()}
    return Inputs(arrays, given(trace, use.step))


def _of_value(trace: Trace, name: str) -> list[Use] | str:
    if name in trace.parameters:
        return "it is a parameter: learned, not computed"
    if name not in trace.steps:
        return "the trace does not say what made it"
    if is_layer(trace, name):
        inner = _last_step_in(trace, name)
        return _no_row(trace, name) if inner is None else [_copy(inner, "value", name)]
    row = cells(trace.steps[name].op)
    if row is None:
        return _no_row(trace, name)
    sources = _sources(trace, name, row)
    return sources if isinstance(sources, str) else [Use(name, row["forward"], sources)]


def _no_row(trace: Trace, step: str) -> str:
    op = trace.steps[step].op
    if is_layer(trace, step):
        return "it is a layer's, which does more than its last step"
    return REASONS.get(op, f"no formula is written for {op}")


def is_layer(trace: Trace, step: str) -> bool:
    """Whether a layer made it, several ops, rather than one."""
    return trace.steps[step].cost is None and any(other.startswith(f"{step}.") for other in trace.steps)


def _read_by(trace: Trace, step: str) -> tuple[str, ...]:
    """What an op reads and uses; layers read nothing but by their ops."""
    made = trace.steps[step]
    return () if is_layer(trace, step) else (*made.reads, *made.parameters)


def _sources(trace: Trace, step: str, row: dict[str, Any]) -> dict[str, Source] | str:
    """Letter → what it stands for at a step; a reason where that is not known."""
    made = trace.steps[step]
    if len(made.reads) != row["inputs"]:
        return f"{step} reads an array that has no name"
    owned = {name.rpartition(".")[2]: name for name in made.parameters}
    found = {
        letter: (name, "ids" if name in trace.ids else "value")
        for letter, name in zip(row["letters"], made.reads)
    }
    found |= {letter: (owned[end], "value") for letter, end in row["parameters"].items() if end in owned}
    found |= {row["result"]: (step, "value"), f"d{row['result']}": (step, "grad")}
    return found


def _array(trace: Trace, source: Source) -> Any:
    name, which = source
    return {"value": trace.value, "grad": trace.grad, "ids": trace.ids}[which].get(name)


def _last_step_in(trace: Trace, layer: str) -> str | None:
    """The step whose value a layer gives: the last one filed in it, where their numbers are the same."""
    names = list(trace.steps)
    at = names.index(layer)
    inner = names[at - 1] if at else ""
    if not inner.startswith(f"{layer}.") or not is_layer(trace, layer):
        return None
    mine, its = (trace.value.get(n) for n in (layer, inner))
    if mine is None or its is None:
        return None
    return inner if np.array_equal(mine, its, equal_nan=True) else None


def _layer_of(trace: Trace, name: str) -> str | None:
    """The layer that gives a step's value as its own."""
    names = list(trace.steps)
    at = names.index(name) + 1 if name in trace.steps else len(names)
    outer = names[at] if at < len(names) else ""
    return outer if outer and _last_step_in(trace, outer) == name else None


def _copy(of: str, which: str, name: str) -> Use:
    """The formula of what is the same number as another."""
    index = [{"kind": "index", "name": "n"}]
    entry = {"kind": "entry", "array": "same", "index": index}
    return Use(name, {"result": "y", "index": ["n"], "of": entry, "locals": []}, {"same": (of, which)})
