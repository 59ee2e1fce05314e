"""Rounding to nearest: a matrix as integers and scales, with 8 bits an output or 4 bits a group of inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..ops.quantised import MIDDLE, matrix_of_nibbles, packed_nibbles

Array = NDArray[Any]

SHARES = np.linspace(0.5, 1.0, 26)  # of the largest weight, which a grid that is clipped may reach
TOP8, TOP4, LEVELS4 = 127, 7, 15  # the largest integer of 8 bits, of 4 about the middle, of 4 from 0 on


class Rounded(NamedTuple):
    """A matrix as it is stored, or several that are stacked: what ops of ops/quantised.py read.

    weight_zero: None where the integers are 8 bits, or 4 about the middle.
    """

    weight_q: Array
    weight_scale: Array
    weight_zero: Array | None = None


class Grid(NamedTuple):
    """The numbers that weights of 4 bits may be: scale (u − zero) for u from 0 to 15, of each group.

    scale, zero: arrays (N, 1, O) for weights (N, inputs of a group, O).
    """

    scale: Array
    zero: Array

    def nearest(self, weight: Array) -> Array:
        """The integers of the nearest numbers, as floats."""
        return np.clip(np.rint(weight / self.scale + self.zero), 0, LEVELS4)

    def value(self, u: Array) -> Array:
        """The numbers that integers stand for."""
        return self.scale * (u - self.zero)


def nearest8(weight: Array, axis: int = -2) -> Rounded:
    """8 bits: the nearest integers from −127 to 127 of the largest weight's 127th part.

        s = max |w| / 127,   q = round(w / s)

    axis: which s does not have: that of the inputs, −2, or −1 for the rows of an embedding. A column of zeros
    has s = 1.  weight (…, I, O) → int8 (…, I, O), s (…, O)
    """
    scale = _positive(np.abs(weight).max(axis, keepdims=True) / TOP8)
    q = np.rint(weight / scale).astype(np.int8)
    return Rounded(q, scale.squeeze(axis).astype(weight.dtype))


def nearest4(weight: Array, group: int, clip: str = "mse", asymmetric: bool = False) -> Rounded:
    """4 bits: the nearest of 16 numbers, which each output and group of inputs has for itself.

    weight (…, I, O) → uint8 (…, I/2, O), scales (…, I/group, O), zeros of the same shape if asymmetric
    """
    *lead, inputs, outputs = weight.shape
    grouped = weight.reshape(*lead, inputs // group, group, outputs)
    grid = grid4(grouped, clip, asymmetric)
    return stored4(grid.nearest(grouped), grid, weight.dtype, asymmetric)


def stored4(u: Array, grid: Grid, dtype: Any, asymmetric: bool) -> Rounded:
    """Integers by group, (…, N, group, O), and their grid as a file holds them."""
    *lead, n_groups, group, outputs = u.shape
    flat = u.astype(np.uint8).reshape(*lead, n_groups * group, outputs)
    zero = grid.zero[..., 0, :].astype(dtype) if asymmetric else None
    return Rounded(packed_nibbles(flat), grid.scale[..., 0, :].astype(dtype), zero)


def grid4(grouped: Array, clip: str, asymmetric: bool) -> Grid:
    """The grid of each group: to its largest weight, or to where the square error is least.

        symmetric     s = c max |w| / 7,            z = 8            the integers 1 … 15 reach ±c max |w|
        asymmetric    s = c (max w − min w) / 15,   z puts the middle of the range between 7 and 8

    c is 1, or with "mse" the best of 26 from ½ to 1: a few weights are clipped so that the others are nearer.
    grouped (…, group, O)
    """
    whole = _grid4(grouped, 1.0, asymmetric)
    if clip == "absmax":
        return whole
    best, least = whole, _square_errors(grouped, whole)
    for share in SHARES[-2::-1]:
        grid = _grid4(grouped, share, asymmetric)
        errors = _square_errors(grouped, grid)
        nearer = errors < least
        best = Grid(*(np.where(nearer, a, b) for a, b in zip(grid, best)))
        least = np.where(nearer, errors, least)
    return best


def _grid4(grouped: Array, share: float, asymmetric: bool) -> Grid:
    """The grid that reaches a share of the way to the largest weights."""
    if not asymmetric:
        scale = _positive(np.abs(grouped).max(-2, keepdims=True) * (share / TOP4))
        return Grid(scale, np.full_like(scale, MIDDLE))
    low, high = grouped.min(-2, keepdims=True), grouped.max(-2, keepdims=True)
    wide = (high - low) * (share / LEVELS4)
    scale = _positive(wide)
    middle = np.where(scale == wide, LEVELS4 / 2, MIDDLE)  # weights that are all alike lie on the grid
    return Grid(scale, middle - (high + low) / (2 * scale))


def _square_errors(grouped: Array, grid: Grid) -> Array:
    error = grouped - grid.value(grid.nearest(grouped))
    errors: Array = (error * error).sum(-2, keepdims=True)
    return errors


def _positive(scale: Array) -> Array:
    """Scales by which one can divide: 1 for a group whose weights are all alike, or too small."""
    usable = scale > np.finfo(scale.dtype).tiny * 256  # 1/s and w/s are finite
    return np.where(usable, scale, scale.dtype.type(1))


def matrix_of(rounded: Rounded, axis: int = -2) -> Array:
    """The matrix that integers and scales stand for; axis as in nearest8."""
    q, scale, zero = rounded
    if q.dtype == np.uint8:
        matrix: Array = matrix_of_nibbles(q, scale, zero)
        return matrix
    return q.astype(scale.dtype) * np.expand_dims(scale, axis)


def error_in(weight: Array, other: Array, hessian: Array | None = None) -> Array:
    """The square error of each output in a metric: Σ_ij e_i H_ij e_j of e = w − ŵ; H = 1 unless given.

    weight, other (I, O), hessian (I, I) → (O)
    """
    error = weight.astype(np.float64) - other
    turned = error if hessian is None else hessian @ error
    errors: Array = (error * turned).sum(0)
    return errors
