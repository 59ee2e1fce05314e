"""Moments by the names that a run's file has for them, and what such a file is held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.parameters import Flat
from ..errors import InputError


def named(moments: Mapping[str, Flat]) -> dict[str, NDArray[Any]]:
    """m.wte.weight … of {"m": Flat, "v": Flat}; InputError where v holds what is no mean of squares."""
    arrays = {f"{moment}.{name}": flat[name] for moment, flat in moments.items() for name in flat}
    _expect_means_of_squares(arrays)
    return arrays


def expect(who: str, arrays: Mapping[str, Any], moments: Mapping[str, Flat]) -> None:
    """Raise InputError unless arrays are such moments as these: their names, their shapes, real numbers."""
    own = {f"{moment}.{name}": s for moment, flat in moments.items() for name, s in flat.shapes.items()}
    unmatched = sorted(map(str, set(arrays) ^ set(own)))
    if unmatched:
        raise InputError(
            f"{who}: the arrays' names differ from the moments' at {', '.join(unmatched[:3])}, expected the"
            " same names"
        )
    given = {name: np.asarray(engine.home(array)) for name, array in arrays.items()}
    for name, shape in own.items():
        array = given[name]
        if array.shape != shape or array.dtype.kind not in "biuf":
            raise InputError(
                f"{who}: {name} is {array.dtype} of shape {array.shape}, expected real numbers of {shape}"
            )
    _expect_means_of_squares(given)


def _expect_means_of_squares(arrays: Mapping[str, Any]) -> None:
    """Raise InputError where an array whose name begins with v holds a negative number."""
    for name, array in arrays.items():
        if name.startswith("v.") and (array < 0).any():
            raise InputError(f"{name} holds a negative number, expected means of squares")
