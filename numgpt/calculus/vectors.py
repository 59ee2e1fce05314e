"""Vectors in parameter space: what a caller may give for one, checked, and a model widened to hold them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..architecture.parameters import Flat
from ..errors import InputError
from ..model.gpt import GPT

Vector = Mapping[str, ArrayLike] | ArrayLike  # of parameter space: by name, or flat


def widened(who: str, model: GPT, dtype: DTypeLike) -> GPT:
    """The model in a dtype that holds its parameters exactly: itself where it has that dtype, else a copy."""
    if model.params.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{who}: the model is of {model.params.dtype}, expected float32 or float64:"
            ' model.astype("float64")'
        )
    return model if model.params.dtype == dtype else model.astype(dtype)


def flat_vector(who: str, model: GPT, vector: Vector) -> NDArray[np.float64]:
    """A vector in parameter space as one float64 array, checked."""
    if not isinstance(vector, Mapping):
        shape = (model.params.flat.size,)
        return _checked(f"{who}: the vector", vector, shape, ", as model.params.flat").astype(np.float64)
    flat = Flat(model.params.shapes, np.float64)
    for name in sorted(flat.keys() ^ vector.keys()):
        what = "lacks" if name in flat else "has"
        raise InputError(
            f"{who}: the vector {what} {name}, expected the names of model.params: begin with"
            " model.params.like(), which is all zeros"
        )
    for name, array in vector.items():
        flat[name] = _checked(f"{who}: the vector's {name}", array, flat.shapes[name])
    return flat.flat


def _checked(what: str, array: ArrayLike, shape: tuple[int, ...], as_where: str = "") -> NDArray[np.float64]:
    array = np.asarray(array)
    if array.shape != shape:
        raise InputError(f"{what} has shape {array.shape}, expected {shape}{as_where}")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise InputError(f"{what} is not all finite real numbers (dtype {array.dtype}), which are expected")
    return array


def as_parameters(model: GPT, flat: NDArray[np.float64]) -> Flat:
    """A flat float64 array as a mapping with the parameters' names."""
    return Flat(model.params.shapes, np.float64, flat)
