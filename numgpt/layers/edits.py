"""Edits of a value in flight (ablation, activation patching), with gradients that stay exact."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..errors import InputError, near

Array = NDArray[Any]
STEP = 1e-30  # of the complex step: nothing is subtracted, so it may be as small as one likes
NEEDS_PAIR = "give a pair (function, transpose)"


def check_names(edited: Iterable[str], filed: Collection[str]) -> None:
    """Raise InputError for an edit whose name the forward did not file."""
    for name in edited:
        if name not in filed:
            names = near(name, filed) or list(filed)[:4]
            raise InputError(f"edit: there is no value {name!r}, expected a name such as {', '.join(names)}")


def fit(who: str, edited: Any, like: Any) -> Any:
    """What an edit returned, cast to the dtype and memory layout that the next op expects."""
    if engine.on_gpu(edited) != engine.on_gpu(like):
        expected, actual = "on the GPU", "in the host's memory"
        if not engine.on_gpu(like):
            expected, actual = actual, expected
        raise InputError(
            f"{who} returned an array {actual}, expected one {expected}: make it from the value it is given"
        )
    edited = edited if engine.on_gpu(edited) else np.asarray(edited)
    if edited.shape != like.shape:
        raise InputError(f"{who} returned shape {edited.shape}, expected {like.shape}")
    return edited.astype(like.dtype, order="C")


@dataclass
class Edit:
    """A function of a value, and how gradients pass back through it.

    function: the value → the value that goes on, of the same shape.
    transpose: the gradient with respect to the edited value → that with respect to the value before. Without
    one, the function has to act on each entry by itself (0 * a, a + direction, a patch from another run, a
    head set to 0), and the complex step gives its derivative; where it mixes entries, or differences
    contradict the derivative, an InputError asks for a pair.
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
            return fit(f"edit: the transpose of {name!r}", self.transpose(dy), dy)
        return dy * self.slope(name).astype(dy.dtype)

    def slope(self, name: str) -> Array:
        """The derivative of each entry with respect to itself.

        For f(a)_i = f_i(a_i) the directional derivative along v is f_i'(a_i) v_i. Ones give the slope. A
        second, random direction tells whether f is of that form: then it gives the slope times itself. And
        central differences tell whether f let the imaginary part through.
        """
        a = self.before.astype(np.float64)
        v = engine.beside(np.random.default_rng(0).standard_normal(a.shape), a)
        h = 1e-6 * max(1.0, float(abs(a).max()) if a.size else 0.0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a function that drops imaginary parts: the differences tell
                slope = self._at(a + 1j * STEP).imag / STEP
                along = self._at(a + 1j * STEP * v).imag / STEP
                differences = (self._at(a + h * v) - self._at(a - h * v)) / (2 * h)
        except TypeError as error:
            raise InputError(
                f"edit: {name!r} does not take complex numbers ({error}): {NEEDS_PAIR}"
            ) from error
        if not np.allclose(along, slope * v, rtol=1e-9, atol=0):
            raise InputError(f"edit: {name!r} mixes entries, so its gradient is not known: {NEEDS_PAIR}")
        if not np.linalg.norm(differences - along) <= 1e-3 * np.linalg.norm(differences) + 1e-6:
            raise InputError(
                f"edit: {name!r} does not let complex numbers through (abs, sign, .real), so its gradient is"
                f" not known: {NEEDS_PAIR}"
            )
        return slope

    def _at(self, a: Array) -> Any:
        """The function's value, as an array where a lies."""
        return np.asarray(self.function(a), like=a)
