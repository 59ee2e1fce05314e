"""A case: a pair run once at its points, and what the witness says of the elements of its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import InputError
from . import witness
from .pair import Array, Backward, Forward, as_dtype, constants, gradients, is_float, run
from .preconditions import first_run, require

ALL = 2000  # elements: of a larger array only a sample is looked at, and random directions of the whole
SAMPLE = 400
EXAMINED = 64  # suspects that are looked at closely
DRAWS, NEAR = 6, 16  # points near by, and how many roundings away they lie
EPS64 = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Columns:
    """What the witness says of the picked elements of a gradient, given by their flat indices.

    exact: Σ_i dy_i J_ij. terms: Σ_i |dy_i J_ij|. count: how many terms are not 0. error: how far the witness
    may be off. carried: Σ_i |dy_i y_i| over the outputs that the element acts on; the largest of all where it
    acts on none.
    """

    picked: Array
    exact: Array
    terms: Array
    count: Array
    error: Array
    carried: Array

    def at(self, chosen: Array) -> Columns:
        """Those that are chosen, by a mask or by their places."""
        return Columns(*(getattr(self, f.name)[chosen] for f in fields(self)))


class Case:
    """A pair at its points, run once in its own precision, and in float64 too if that is wider and it can."""

    def __init__(
        self,
        forward: Forward,
        backward: Backward,
        options: dict[str, Any],
        points: Sequence[Any],
        dtype: np.dtype[Any],
        seed: int,
        only: dict[int, Array] | None = None,
        computes: str = "",
    ) -> None:
        self.only = only  # argument → flat indices: of these elements alone, by the complex step
        self.forward, self.backward, self.options = forward, backward, options
        self.constants = constants(forward)
        self.points, self.dtype = points, dtype
        self.rng = np.random.default_rng([seed, 5])
        self.eps = float(np.finfo(dtype).eps)
        self.wide: list[Any] = as_dtype(points, np.float64)
        first = first_run(forward, backward, points, options, self._upstream)
        self.grads: list[Any] = first.grads
        require(forward, backward, points, options, first)
        if computes:  # in float32 inside, so that float64 is no witness
            self.witness = witness.Witness(forward, options, False, dtype, computes)
        elif only is None:
            self.witness = witness.choose(forward, self.wide, dtype, options, seed)
        else:
            self.witness = witness.Witness(forward, options, True, np.dtype(np.float64))
        # What the witness rounds: differences in float32 state their rounding themselves.
        self.reference = EPS64 if self.witness.dtype == np.float64 else 0.0
        self.wide_grads = self.in_float64() if dtype != np.float64 and not computes else None

    def _upstream(self, y: Any) -> Any:
        """A random dy, where the forward's value can be judged."""
        self.y = np.asarray(y)
        if self.y.dtype.kind != "f":
            raise InputError(f"verdict: the forward's value has dtype {self.y.dtype}, expected floats")
        if not np.isfinite(self.y).all():
            raise InputError(
                "verdict: the forward's value holds NaN or infinity, expected points where it is finite"
            )
        self.dy = self.rng.standard_normal(self.y.shape).astype(self.dtype)
        return self.dy[()]

    def in_float64(self) -> list[Any] | None:
        """The backward's gradients in float64, None where the pair is not for that."""
        try:
            y, saved = run(self.forward, self.wide, self.options)
            dy = self.dy.astype(np.float64)[()]
            grads = gradients(self.backward(dy, saved), self.wide, self.constants)
        except Exception:  # whatever the user's code raises means that it does not take float64
            return None
        return grads if all(a.dtype == np.float64 for a in (np.asarray(y), *grads) if is_float(a)) else None

    def pick(self, i: int) -> Array:
        """The flat indices of the elements of argument i to look at.

        Of many elements a sample at random, those whose gradient is largest, and some that got exactly 0: the
        largest alone would show no gradient that is missing.
        """
        size = self.points[i].size
        if self.only is not None:
            return self.only[i]
        if size <= ALL:
            return np.arange(size)
        sample = self.rng.choice(size, SAMPLE, replace=False)
        gradient = abs(self.grads[i].reshape(-1))
        zeros = np.flatnonzero(gradient == 0)
        some = np.random.default_rng([len(zeros), 7]).permutation(zeros)[:EXAMINED]
        return np.unique(np.concatenate([sample, np.argpartition(gradient, -EXAMINED)[-EXAMINED:], some]))

    def columns(self, points: Sequence[Any], i: int, picked: Array, scale: float = 1.0) -> Columns:
        """What the witness says of the picked elements of argument i, at points; scale: of its directions."""
        dy = self.dy.astype(np.float64)
        carried = abs(dy * self.y)
        exact, total, count, doubt, acted = np.zeros((5, len(picked)))
        direction = np.zeros(points[i].shape)
        directions = [direction if k == i else None for k in range(len(points))]
        for k, j in enumerate(picked):
            direction.reshape(-1)[j] = scale
            slope, error = self.witness.derivative(points, directions)
            direction.reshape(-1)[j] = 0.0
            terms = dy * slope / scale
            exact[k] = terms.sum()
            total[k] = abs(terms).sum()
            count[k] = np.count_nonzero(terms)
            doubt[k] = (abs(dy) * error).sum() / scale
            acted[k] = carried[terms != 0].sum() if terms.any() else carried.max(initial=0.0)
        return Columns(picked, exact, total, count, doubt, acted)

    def moved(self, eps: float, near: int = NEAR) -> list[Any]:
        """The points, each number moved at random by some roundings."""
        return [
            a * (1 + near * eps * self.rng.uniform(-1, 1, a.shape)) if is_float(a) else a for a in self.wide
        ]

    def nearby(self, i: int, columns: Columns) -> tuple[Array, Array]:
        """inner_j of the picked elements, and the noise of the witness.

        The noise is four times the most that the witness's word moves when float64 rounds otherwise: at
        points near by in float64, and of the complex step for a step that is a little longer.
        """
        inner, noise = np.zeros(len(columns.picked)), np.zeros(len(columns.picked))
        for _ in range(DRAWS):
            points = as_dtype(as_dtype(self.moved(self.eps), self.dtype), np.float64)
            inner += (self.columns(points, i, columns.picked).exact - columns.exact) ** 2
            others = [(self.moved(EPS64), 1.0)] if self.eps > EPS64 else []
            others += [(self.wide, float(self.rng.uniform(1, 2)))] if self.witness.complex else []
            for there, scale in others:
                exact = self.columns(there, i, columns.picked, scale).exact
                noise = np.maximum(noise, 4 * abs(exact - columns.exact))
        # 3: the mean square of a number that is uniform between −1 and 1 is a third
        return np.sqrt(3 * inner / DRAWS) / (NEAR * self.eps), noise

    def unrest(self, i: int) -> Array:
        """How far gradient i moves between points a rounding or two apart, in eps, over the dtypes it ran in.

        0 for a backward that gives another gradient at the same point: what moves there is not rounding.
        """
        most = np.zeros(self.points[i].size)
        runs = [(self.points, self.grads[i])]
        if self.wide_grads is not None:
            runs.append((self.wide, self.wide_grads[i]))
        for points, grad in runs:
            eps = float(np.finfo(grad.dtype).eps)
            if self._moves(points, i, grad).any():
                return np.zeros_like(most)
            for _ in range(2 * DRAWS - 1):
                there = as_dtype(self.moved(eps, 2), grad.dtype)
                most = np.fmax(most, self._moves(there, i, grad).reshape(-1) / eps)
        return most

    def _moves(self, points: Sequence[Any], i: int, grad: Array) -> Array:
        """How far gradient i is from grad when the pair is run once more, at points."""
        _, saved = self.forward(*points, **self.options)
        grads = gradients(self.backward(self.dy.astype(grad.dtype)[()], saved), points, self.constants)
        return abs(np.asarray(grads[i]).astype(np.float64) - grad)

    def beyond(
        self, grads: Sequence[Any], eps: float, i: int, span: slice, limit: float, sign: Array
    ) -> float:
        """By how much ⟨gradient i, v⟩ is further from ⟨dy, Jv⟩ than rounding explains.

        v has the signs on the span, else 0. The signs do not know the errors, so these add up like the root
        of the sum of their squares: six times that is allowed.
        """
        v = np.zeros(self.points[i].size)
        v[span] = sign[span]
        directions = [v.reshape(a.shape) if k == i else None for k, a in enumerate(self.wide)]
        slope, error = self.witness.derivative(self.wide, directions)
        dy = self.dy.astype(np.float64)
        terms, back = dy * slope, grads[i].reshape(-1)[span].astype(np.float64) * v[span]
        allowed = 6 * np.sqrt(len(v[span])) * limit * eps / self.eps + (abs(dy) * error).sum()
        allowed += (
            4 * np.sqrt(terms.size + 1) * self.reference * abs(terms).sum()
            + 4 * np.sqrt(back.size) * EPS64 * abs(back).sum()
        )
        return float(abs(terms.sum() - back.sum()) - allowed)
