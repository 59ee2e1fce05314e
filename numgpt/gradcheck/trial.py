"""A trial: a pair run once in the dtype in which the laws are asked, at the arrays and along directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import InputError
from .pair import (
    Array,
    Backward,
    Forward,
    argument_names,
    as_dtype,
    constants,
    gradients,
    is_float,
    plain,
    run,
    title,
)
from .preconditions import first_run


class Trial:
    """A pair run once: what the laws compare with."""

    def __init__(
        self,
        forward: Forward,
        backward: Backward,
        arrays: Sequence[Any],
        options: dict[str, Any],
        seed: int,
        computes: str = "",
    ) -> None:
        self.computes = computes  # SINGLE of precision.py where the forward does
        self.forward, self.backward, self.options, self.seed = forward, backward, options, seed
        arrays = plain(arrays)
        rng = np.random.default_rng(seed)
        self.dtype = np.dtype(np.float32) if computes else _precision(forward, arrays, options)
        self.arrays: list[Any] = as_dtype(arrays, self.dtype)
        self.constants = constants(forward)
        self.directions = [
            rng.standard_normal(a.shape) if is_float(a) and i not in self.constants else None
            for i, a in enumerate(self.arrays)
        ]
        if not any(v is not None for v in self.directions):
            raise InputError("gradcheck: no array of floats, expected at least one to differentiate by")
        for name, array in zip(self.names(), self.arrays):
            _expect_finite(name, array)
        self.first = first_run(forward, backward, self.arrays, options, lambda y: self._upstream(rng, y))
        self.y, self.dy, self.grads = self.first.y, self.first.dy, self.first.grads
        self.other_dy = self._upstream(rng, self.y)

    def _upstream(self, rng: np.random.Generator, y: Any) -> Any:
        """A random dy in the pair's dtype."""
        kind = np.asarray(y).dtype
        if kind.kind != "f":
            raise InputError(f"gradcheck: the forward's value has dtype {kind}, expected floats")
        _expect_finite("the forward's value", y)
        dy: Any = rng.standard_normal(np.shape(y))
        return dy if self.dtype == np.float64 else np.asarray(dy, self.dtype)[()]

    def gradients(self, dy: Any, saved: Any) -> list[Any]:
        """The backward's gradients, None for arrays that have none."""
        return gradients(self.backward(dy, saved), self.arrays, self.constants)

    def again(self, dy: Any) -> list[Any]:
        """The gradients for another dy, of a forward run anew: a layer may keep what it saves on self."""
        return self.gradients(dy, run(self.forward, self.arrays, self.options)[1])

    def names(self) -> list[str]:
        """What reports call the arguments."""
        return [title(i, n) for i, n in enumerate(argument_names(self.forward, len(self.arrays)))]

    def moving(self) -> list[tuple[int, Array, Array]]:
        """(index, direction, gradient) of each array that is differentiated by."""
        return [(i, v, self.grads[i]) for i, v in enumerate(self.directions) if v is not None]

    def only(self, i: int) -> list[Array | None]:
        """The directions in which array i alone moves."""
        return [v if j == i else None for j, v in enumerate(self.directions)]


def _expect_finite(what: str, array: Any) -> None:
    """Raise InputError for floats that hold NaN or infinity: there is no derivative there."""
    if is_float(array) and not np.isfinite(array).all():
        raise InputError(
            f"gradcheck: {what} holds NaN or infinity, expected points where all is finite: there is no"
            " derivative elsewhere"
        )


def _precision(forward: Forward, arrays: Sequence[Any], options: dict[str, Any]) -> np.dtype[Any]:
    """float64; float32 where the arrays are that and the forward raises on float64: code for one type."""
    floats = [np.asarray(a).dtype for a in arrays if is_float(a)]
    is_single = bool(floats) and np.result_type(*floats) == np.float32
    if is_single and not takes(forward, arrays, np.float64, options):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def takes(forward: Forward, arrays: Sequence[Any], dtype: DTypeLike, options: dict[str, Any]) -> bool:
    """Whether the forward takes arrays of a dtype; TypeError and its like say that it does not."""
    try:
        forward(*as_dtype(arrays, dtype), **options)
    except Exception:  # each library has its own: TypeError, NotImplementedError, numba's TypingError
        return False
    return True
