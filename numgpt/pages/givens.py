"""What a step of a trace gives to the formulas of its op besides arrays: sizes, options, angles, masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..ops import ALL
from ..ops.rotary import frequencies
from ..random import generator
from ..traces import Step, Trace

Array = NDArray[Any]
OF_SCORES = ("attention_probs", "sink_probs")  # whose rows are those of heads
BOUNDS = ("first", "last", "positions")  # of each query, or token


def given(trace: Trace, name: str) -> dict[str, Any]:
    """Name → number or array of what made a value: the letters of its op's line, its options, its masks.

    Empty where the trace lacks an array that it read, or where a step that another program wrote does not fit
    its op.
    """
    try:
        return _given(trace, name)
    except (InputError, ArithmeticError, LookupError, TypeError, ValueError):
        return {}


def _given(trace: Trace, name: str) -> dict[str, Any]:
    step = trace.steps[name]
    op = ALL.get(step.op)
    shapes = None if op is None else shapes_of(trace, step)
    if op is None or shapes is None:
        return {}
    options = dict(step.options)
    found: dict[str, Any] = dict(op.bound(shapes, {n: options.get(n) for n in op.sizes}))
    found |= {n: x for n, x in options.items() if isinstance(x, int | float) and n not in op.sizes}
    shape = shapes[0]
    assert shape is not None
    for bound in BOUNDS:
        if bound in options:
            rows = (*shape[:-3], shape[-2]) if step.op in OF_SCORES else shape[:-1]
            found[bound] = np.broadcast_to(np.asarray(options[bound]), rows)
    if "cap" in options:
        found["capped"] = 1
    if "slopes" in options:
        found |= {"slopes": np.asarray(options["slopes"]), "sloped": 1}
    if options.get("widths") is not None:
        found["widths"] = np.asarray(options["widths"])
    if "drawn" in options and op.noise is not None:
        arrays = [np.broadcast_to(0.0, s) for s in shapes if s is not None]
        found["keep"] = drawn(options, op.noise(*arrays, **{n: options.get(n) for n in op.sizes}))
    return found | _angles(found, options.get("scaling"))


def shapes_of(trace: Trace, step: Step) -> list[tuple[int, ...] | None] | None:
    """The shapes of an op's arrays, None for a parameter that there is not; None where one is unknown."""
    op = ALL[step.op]
    arrays = {**trace.ids, **trace.grad, **trace.value}
    inputs = len(op.arguments) - len(op.parameters)
    if len(step.reads) != inputs or not {*step.reads, *step.parameters} <= {*arrays}:
        return None
    owned = {name.rpartition(".")[2]: name for name in step.parameters}
    names = [*step.reads, *(owned.get(end) for end in op.parameters)]
    return [None if n is None else tuple(arrays[n].shape) for n in names]


def drawn(options: Mapping[str, Any], shape: tuple[int, ...]) -> Array:
    """The mask of dropout, drawn again from what it was drawn from: 1 for what is kept."""
    words = (tuple(word) if isinstance(word, list) else word for word in options["drawn"])
    random = generator(options["seed"], *words).random(shape, dtype=np.float32)
    return (random >= options["p"]).astype(np.int64)


def _angles(found: Mapping[str, Any], scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    """The frequencies of scaled rotary positions, and what cosines and sines are multiplied by."""
    if scaling is None:
        return {}
    R = min(found.get("dim", found["D"]), found["D"])
    last = found["start"] + found["T"] if "start" in found else found["T"]
    if "positions" in found:
        last = 1 + int(np.max(found["positions"]))
    f, size = frequencies(R, found.get("base", 1e4), dict(scaling), last)
    return {"f": f, "size": size}


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, as JSON has it: an array is its shape and its numbers in a row."""
    return {
        name: {"shape": list(x.shape), "data": x.ravel().tolist()} if isinstance(x, np.ndarray) else x
        for name, x in found.items()
    }
