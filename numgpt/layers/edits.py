"""Edits of a value in flight (ablation, activation patching), with gradients that stay exact."""

import warnings
from dataclasses import dataclass

import numpy as np

from .. import engine
from ..errors import InputError

H = 1e-30


def fit(who, edited, like):
    """What an edit returned, in the dtype and with the memory layout that those expect who go on with it."""
    if engine.on_gpu(edited) != engine.on_gpu(like):
        place, other = (
            ("on the GPU", "in the host's memory")
            if engine.on_gpu(like)
            else ("in the host's memory", "on the GPU")
        )
        raise InputError(
            f"{who} returned an array {other}, expected one {place}: make it from the value that it is given"
        )
    edited = edited if engine.on_gpu(edited) else np.asarray(edited)
    if edited.shape != like.shape:
        raise InputError(f"{who} returned shape {edited.shape}, expected {like.shape}")
    return edited.astype(like.dtype, order="C")


@dataclass
class Edit:
    """A function of a value and how gradients pass back through it.

    function: the value → the value that goes on, of the same shape.
    transpose: the gradient with respect to the edited value → that with respect to the value before, or None:
    then the function has to act on each entry by itself (0 * a, a + direction, a patch from another run, a
    head set to 0), and its derivative is taken by the complex step; where it does not, or differences
    contradict, an InputError asks for a pair.
    """

    function: callable
    transpose: callable = None
    before: np.ndarray = None

    @classmethod
    def of(cls, name, edit):
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

    def forward(self, name, value):
        """The edited value, in the value's own dtype; value itself is not written to."""
        self.before = value
        return fit(f"edit: {name!r}", self.function(value.copy()), value)

    def backward(self, name, dy):
        """The gradient with respect to the value before the edit."""
        if self.transpose is not None:
            return fit(f"edit: the transpose of {name!r}", self.transpose(dy), dy)
        return dy * self.slope(name).astype(dy.dtype)

    def slope(self, name):
        """The derivative of each entry with respect to itself.

        For f(a)_i = f_i(a_i) the directional derivative along v is f_i'(a_i) v_i. Ones give the slope; a
        second, random
        direction tells whether f is of that form: then it gives the slope times itself.
        """
        a = self.before.astype(np.float64)
        v = engine.beside(np.random.default_rng(0).standard_normal(a.shape), a)
        h = 1e-6 * max(1.0, float(abs(a).max()) if a.size else 0.0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # of a function that throws imaginary parts away: the differences tell
                slope = np.asarray(self.function(a + 1j * H), like=a).imag / H
                along = np.asarray(self.function(a + 1j * H * v), like=a).imag / H
                differences = (
                    np.asarray(self.function(a + h * v), like=a)
                    - np.asarray(self.function(a - h * v), like=a)
                ) / (2 * h)
        except TypeError as error:
            raise InputError(
                f"edit: {name!r} does not take complex numbers ({error}): give a pair (function, transpose)"
            ) from error
        if not np.allclose(along, slope * v, rtol=1e-9, atol=0):
            raise InputError(
                f"edit: {name!r} mixes entries, so its gradient is not known: give a pair (function,"
                " transpose)"
            )
        if not np.linalg.norm(differences - along) <= 1e-3 * np.linalg.norm(differences) + 1e-6:
            raise InputError(
                f"edit: {name!r} does not let complex numbers through (abs, sign, .real), so its gradient is"
                " not known: give a pair (function, transpose)"
            )
        return slope
