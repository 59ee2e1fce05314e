"""Another op at a name: what a model runs in the place of its own op, which it never hears of."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..architecture.patterns import Patterns
from ..errors import InputError
from ..ops.op import Op
from .layer import Layer


def serving(
    served: Mapping[str, Op | Layer],
    full: str,
    op: Op | Layer | None,
    inputs: Sequence[Any],
    options: Mapping[str, Any],
) -> Op | Layer | None:
    """The op that runs at a name: what is served there, or op.

    At a step that the model does not have, None, only what is served under its very name: "*ln_*" means the
    norms that there are.
    InputError for what is neither Op nor Layer, and for one that does not take what the model's own takes.
    """
    for pattern, other in served.items():
        if full == pattern or (op is not None and full in Patterns((pattern,))):
            _expect_takes(full, other, inputs, options)
            return other
    return op


@contextlib.contextmanager
def told_at(full: str) -> Iterator[None]:
    """Have an error of what is served say where."""
    try:
        yield
    except InputError as error:
        raise InputError(f"served: {full!r}: {error}") from error


def expect_fits(
    full: str, value: Any, own: Op | Layer | None, arrays: Sequence[Any], options: Mapping[str, Any]
) -> None:
    """Raise InputError for a value of another shape or dtype than the model's own op would give."""
    _expect_dtype(full, value, arrays)
    op = own.whole if isinstance(own, Layer) else own
    expected = None if op is None else op.shape_of_result(arrays, options)
    if expected is not None and value.shape != expected:
        raise InputError(
            f"served: {full!r} gives shape {tuple(value.shape)}, expected {expected} as the model's own op"
        )


def _expect_dtype(full: str, value: Any, arrays: Sequence[Any]) -> None:
    """Raise InputError for a value of another dtype than the arrays have: kernels take one alone."""
    kinds = [a.dtype for a in arrays if a is not None and a.dtype.kind in "fc"]
    is_real = bool(kinds) and kinds[0].kind == "c" and value.dtype.kind == "f"  # nothing of what is imaginary
    if kinds and value.dtype != kinds[0] and not is_real:
        raise InputError(
            f"served: {full!r} gives {value.dtype}, expected {kinds[0]} as the arrays that it reads: a scalar"
            " such as np.float64(2) makes float64 of float32, 2.0 does not"
        )


def _expect_takes(full: str, op: Any, inputs: Sequence[Any], options: Mapping[str, Any]) -> None:
    if not isinstance(op, Op | Layer):
        raise InputError(
            f"served: {full!r} is {type(op).__name__}, expected an Op or a Layer: Op(line, forward, backward)"
        )
    signature = inspect.signature(op.forward)
    parameters = signature.parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in options if name not in parameters and not takes_any]
    if unknown:
        raise InputError(
            f"served: {op.forward.__name__} at {full!r} does not take {', '.join(unknown)}, expected it to"
            " take what the model's own op takes: add **options"
        )
    before = inputs if isinstance(op, Op) else (None, *inputs)  # a layer takes the Record first
    try:
        signature.bind(*before, *getattr(op, "parameters", ()), **options)
    except TypeError as error:
        raise InputError(
            f"served: {op.forward.__name__} at {full!r}: {error}, expected it to take what the model's own op"
            f" takes, {len(inputs)} {'arrays' if len(inputs) > 1 else 'array'}"
            f"{' and ' if options else ''}{', '.join(options)}"
        ) from None
