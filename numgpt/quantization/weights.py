"""The parameters of a model, rounded, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.additions import all_shapes, integers, quantized_by
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..architecture.quantized import Form, Quantized
from .gptq import gptq
from .rounding import Rounded, matrix_of, nearest4, nearest8

Array = NDArray[Any]
STORED = "weight_q", "weight_scale", "weight_zero"


def quantized(
    params: Flat,
    config: Config,
    additions: Sequence[Any],
    clip: str = "mse",
    hessians: Mapping[str, Array] | None = None,
) -> Flat:
    """Parameters in the host's memory, with what the Quantized among additions rounds in its place.

    hessians: name of a matrix -> H of its inputs, (I, I) or stacked for experts; those are rounded by GPTQ.
    """
    how = quantized_by(additions)
    assert how is not None, "the caller has put it there"
    found: dict[str, Array] = {}
    for name, form in how.forms(config).items():
        hessian = None if hessians is None else hessians.get(name)
        rounded = _rounded(params[f"{name}.weight"], form, how, clip, hessian)
        found |= {f"{name}.{part}": a for part, a in zip(STORED, rounded) if a is not None}
    kept = {name: np.ascontiguousarray(found[name]) for name in integers(config, additions)}
    flat = Flat(all_shapes(config, additions), params.dtype, integers=kept)
    for name in flat.shapes:
        flat[name] = found[name] if name in found else params[name]
    return flat


def _rounded(weight: Array, form: Form, how: Quantized, clip: str, hessian: Array | None) -> Rounded:
    """A matrix, or a stack of them, in its form."""
    if form.kind == "embedding":
        return nearest8(weight, axis=-1)
    if form.bits == 8:
        return nearest8(weight)
    options = how.group, clip, how.asymmetric
    if hessian is None:
        return nearest4(weight, *options)
    if form.kind == "linear":
        return gptq(weight, hessian, *options)
    each = [gptq(w, h, *options) for w, h in zip(weight, hessian)]
    zeros = [r.weight_zero for r in each if r.weight_zero is not None]
    q, scale = (np.stack([r[i] for r in each]) for i in range(2))  # type: ignore[misc]
    return Rounded(q, scale, np.stack(zeros) if zeros else None)


def dequantized(params: Flat, config: Config, additions: Sequence[Any]) -> Flat:
    """Parameters with the matrices that integers and scales stand for, without the integers."""
    how = quantized_by(additions)
    rest = [addition for addition in additions if addition is not how]
    flat = Flat(all_shapes(config, rest), params.dtype)
    forms = {} if how is None else how.forms(config)
    for name in flat.shapes:
        part = name.removesuffix(".weight")
        if part in forms and part != name:
            stored = Rounded(*(params.get(f"{part}.{kind}") for kind in STORED))
            flat[name] = matrix_of(stored, -1 if forms[part].kind == "embedding" else -2)
        else:
            flat[name] = params[name]
    return flat
