"""Vectors in parameter space: what a caller may give for one, checked, and a model widened to hold them."""

from collections.abc import Mapping

import numpy as np

from ..architecture.parameters import Flat
from ..errors import InputError


def widened(who, model, dtype):
    """A copy of the model in a dtype that holds its parameters exactly; the model itself where it has that
    dtype.
    """
    if model.params.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{who}: the model is of {model.params.dtype}, expected float32 or float64:"
            ' model.astype("float64")'
        )
    return model if model.params.dtype == dtype else model.astype(dtype)


def flat_vector(who, model, vector):
    """A vector in parameter space as one float64 array, checked."""
    arrays = vector if isinstance(vector, Mapping) else {"": vector}
    shapes = model.params.shapes if isinstance(vector, Mapping) else {"": (model.n_params,)}
    for name in sorted(shapes.keys() ^ arrays.keys()):
        what = "lacks" if name in shapes else "has"
        raise InputError(
            f"{who}: the vector {what} {name}, expected the names of model.params: begin with"
            " model.params.like(), which is all zeros"
        )
    flat = Flat(shapes, np.float64)
    for name, array in arrays.items():
        array, of = np.asarray(array), name and f"'s {name}"
        if array.shape != shapes[name]:
            raise InputError(
                f"{who}: the vector{of} has shape {array.shape}, expected {shapes[name]}"
                + ("" if name else ", as model.params.flat")
            )
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(
                f"{who}: the vector{of} is not all finite real numbers (dtype {array.dtype}), which are"
                " expected"
            )
        flat[name][...] = array
    return flat.flat


def as_parameters(model, flat):
    """A flat float64 array as a mapping with the parameters' names."""
    return Flat(model.params.shapes, np.float64, flat)
