"""GPTQ: rounding one input after the other; the inputs still to come make good for each error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .rounding import Grid, Rounded, error_in, grid4, matrix_of, nearest4, stored4

Array = NDArray[Any]
DAMPING = 0.01  # λ, relative to the mean of the diagonal


def gptq(weight: Array, hessian: Array, group: int, clip: str = "mse", asymmetric: bool = False) -> Rounded:
    """4 bits that keep x W near x Ŵ for the inputs x that a layer gets.

    The layer's error over its inputs X is quadratic in e = w − ŵ, for each output by itself:

        ‖X e‖² = ½ eᵀ H e,    H = 2 Xᵀ X + λ 1

    Say that rounding has fixed e_i, and the rest R of the inputs, not rounded yet, is free to move by −e_R.
    Then the least of eᵀ H e is at

        e_R = −H_RR⁻¹ H_Ri e_i = e_i [H⁻¹]_Ri / [H⁻¹]_ii        with H⁻¹ of the inputs i and R alone

    because 0 = H_Ri e_i + H_RR e_R, and the block inverse has [H⁻¹]_Ri = −H_RR⁻¹ H_Ri [H⁻¹]_ii. Of all the
    inverses that this asks for one Cholesky factor has the rows: with H⁻¹ = Uᵀ U, U upper triangular,

        w_R ← w_R − (w_i − ŵ_i) U_iR / U_ii

    A group's grid is made when its first input is reached, of the weights as they are by then. An output that
    is nearer, in this metric, by rounding to nearest keeps that.
    Sources: Frantar et al. 2023 (GPTQ); Hassibi and Stork 1993 (the step).

    weight (I, O), hessian H without λ (I, I) → Rounded, as nearest4
    """
    plain = nearest4(weight, group, clip, asymmetric)
    damped = damped_hessian(hessian)
    found = _in_order(weight.astype(np.float64), _factor(damped), group, clip, asymmetric)
    rounded = stored4(*found, weight.dtype, asymmetric)
    errors = (error_in(weight, matrix_of(r), damped) for r in (rounded, plain))
    nearer = np.less_equal(*errors)
    zero = None
    if rounded.weight_zero is not None:
        zero = np.where(nearer, rounded.weight_zero, plain.weight_zero)  # type: ignore[arg-type]
    q = np.where(nearer, rounded.weight_q, plain.weight_q)
    return Rounded(q, np.where(nearer, rounded.weight_scale, plain.weight_scale), zero)


def damped_hessian(hessian: Array) -> Array:
    """H + λ 1; of inputs that were never anything but 0 the diagonal alone is left."""
    mean = float(np.mean(np.diag(hessian)))
    if not np.isfinite(hessian).all():
        raise InputError("gptq: the Hessian holds NaN or infinity, expected inputs that are finite")
    return hessian + (DAMPING * mean if mean > 0 else 1.0) * np.eye(len(hessian))


def _factor(damped: Array) -> Array:
    """U, upper triangular, of H⁻¹ = Uᵀ U."""
    inverse = np.linalg.inv(damped)
    factor: Array = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return factor


def _in_order(w: Array, U: Array, group: int, clip: str, asymmetric: bool) -> tuple[Array, Grid]:
    """(integers by group, their grids) of weights in float64, which are written over.  w (I, O), U (I, I)"""
    inputs, outputs = w.shape
    u = np.empty((inputs // group, group, outputs))
    grids = []
    for g in range(inputs // group):
        rows = slice(g * group, (g + 1) * group)
        grid = grid4(w[rows], clip, asymmetric)
        errors = np.empty((group, outputs))
        for n in range(group):
            i = rows.start + n
            u[g, n] = grid.nearest(w[i : i + 1])[0]
            errors[n] = (w[i] - grid.value(u[g, n : n + 1])[0]) / U[i, i]
            w[i + 1 : rows.stop] -= U[i, i + 1 : rows.stop, None] * errors[n]
        w[rows.stop :] -= U[rows, rows.stop :].T @ errors  # what the group owes to all that come after
        grids.append(grid)
    return u, Grid(*(np.stack(parts) for parts in zip(*grids)))
