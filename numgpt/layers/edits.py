"""Edits of a value in flight (ablation, activation patching), with gradients that stay exact."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..errors import InputError, near
from .slope import slope

Array = NDArray[Any]


def check_names(edited: Iterable[str], filed: Collection[str], who: str = "edit") -> None:
    """Raise InputError for an edit whose name the forward did not file."""
    for name in edited:
        if name not in filed:
            names = near(name, filed) or list(filed)[:4]
            raise InputError(f"{who}: there is no value {name!r}, expected a name such as {', '.join(names)}")


def fit(who: str, edited: Any, like: Any) -> Any:
    """What an edit returned, cast to the dtype and memory layout that the next op expects."""
    if engine.on_gpu(edited) != engine.on_gpu(like):
        expected, actual = "on the GPU", "in the host's memory"
        if not engine.on_gpu(like):
            expected, actual = actual, expected
        raise InputError(
            f"{who} returned an array {actual}, expected one {expected}: make it from the value it is given"
        )
    try:
        array = edited if engine.on_gpu(edited) else np.asarray(edited)
    except ValueError:  # lists of unequal length
        array = np.empty((), object)
    if array.dtype.kind not in "biufc":
        raise InputError(f"{who} returned {type(edited).__name__}, expected an array of shape {like.shape}")
    if array.shape != like.shape:
        raise InputError(f"{who} returned shape {array.shape}, expected {like.shape}")
    return array.astype(like.dtype, order="C")


@dataclass
class Edit:
    """A function of a value, and how gradients pass back through it.

    function: the value → the value that goes on, of the same shape.
    transpose: the gradient with respect to the edited value → that with respect to the value before. Without
    one, the function has to act on each entry by itself (0 * a, a + direction, a patch from another run, a
    head set to 0), and the complex step gives its derivative; where it mixes entries, has a kink, draws at
    random, or differences contradict the derivative, an InputError says so and asks for a pair.
    """

    function: Callable[[Any], Any]
    transpose: Callable[[Any], Any] | None = None
    before: Any = None  # the value, from the forward to the backward

    @classmethod
    def of(cls, name: str, edit: Any) -> Edit:
        """An Edit from what the user gave: an Edit, a function, or a pair of functions."""
        if isinstance(edit, tuple) and len(edit) == 2 and all(map(callable, edit)):
            return cls(*edit)
        if isinstance(edit, cls):
            return cls(edit.function, edit.transpose)
        if callable(edit):
            return cls(edit)
        raise InputError(
            f"edit: {name!r} is {type(edit).__name__}, expected a function or a pair (function, transpose)"
        )

    def forward(self, name: str, value: Array) -> Array:
        """The edited value, in the value's own dtype; value itself is not written to."""
        self.before = value
        return fit(f"edit: {name!r}", self.function(value.copy()), value)

    def backward(self, name: str, dy: Array) -> Array:
        """The gradient with respect to the value before the edit."""
        if self.transpose is not None:
            return fit(f"edit: the transpose of {name!r}", self.transpose(dy.copy()), dy)
        return dy * self.slope(name).astype(dy.dtype)

    def slope(self, name: str) -> Array:
        """The derivative of each entry of the edited value with respect to the same entry of the value."""
        before = self.before

        def function(a: Any) -> Any:
            return engine.home(self.function(engine.beside(a, before)))

        return engine.beside(slope(f"edit: {name!r}", function, engine.home(before)), before)
