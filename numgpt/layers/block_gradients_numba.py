"""The gradients of a block's parameters: of biases tile by tile, of matrices block by block."""

from typing import Any, NamedTuple

import numpy as np

from ..engine.blas import gemm
from ..engine.jit import kernel
from ..ops.linear_numba import TILE, borders, grid, tile_sums

# The matrices in the order in which their gradients are computed.
MATRIX_NAMES = ("mlp.c_proj", "mlp.c_fc", "attn.c_proj", "attn.c_attn")


class Gradient(NamedTuple):
    """Where the gradients of a linear map go, and how the matrix's is divided into tasks."""

    end: Any  # the task after its last
    rows: Any  # of blocks, and columns of blocks: a block is a task
    columns: Any
    weight: Any
    add: Any  # whether to add to what weight holds
    bias: Any  # None where there is none


@kernel
def bias_gradient(task, d, dbias):
    """A tile of columns of dbias ← Σ rows of d, if the task is one of its tiles.

    Returns the task's number among the tiles of the next bias; None has no tiles.
    """
    if dbias is None:
        return task
    tiles = (d.shape[1] + TILE - 1) // TILE
    if 0 <= task < tiles:
        tile_sums(task, d, False, dbias)
    return task - tiles


@kernel
def matrix_gradient(block, into, x, d, bf16):
    """A block of g ← xᵀ d (+ g) for g = into.weight."""
    g = into.weight
    i0, i1, j0, j1 = borders(block, into.rows, into.columns, g)
    gemm(True, False, 1.0, x[:, i0:i1], d[:, j0:j1], 1.0 if into.add else 0.0, g[i0:i1, j0:j1], bf16)


@kernel
def scaled_matrix_gradient(block, into, xhat, d, w, b, bf16):
    """A block of g ← w x̂ᵀ d + b dbias (+ g) for g = into.weight, of a matrix that reads x̂ w + b."""
    g, dbias = into.weight, into.bias
    i0, i1, j0, j1 = borders(block, into.rows, into.columns, g)
    part = np.empty((i1 - i0, j1 - j0), g.dtype)
    gemm(True, False, 1.0, xhat[:, i0:i1], d[:, j0:j1], 0.0, part, bf16)
    if not into.add:
        g[i0:i1, j0:j1] = 0
    for m in range(i1 - i0):
        for n in range(j1 - j0):
            if b is None:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n]
            else:
                g[i0 + m, j0 + n] += w[i0 + m] * part[m, n] + b[i0 + m] * dbias[j0 + n]


def gradients_of(r, dtype, places):
    """A Gradient for each of MATRIX_NAMES; places holds the matrices' places open until they are filled.

    The bias of a norm is part of what a matrix reads, whose gradient then needs Σ dy, too: the gradient of a
    bias, which is summed even where the matrix has none.
    """
    end, norm_has_bias = 0, f"{r.scope}ln_1.bias" in r.params
    for name in MATRIX_NAMES:
        weight, add = places.enter_context(r.place(f"{name}.weight"))
        rows, columns = grid(*weight.shape)
        end += rows * columns
        is_summed = norm_has_bias or f"{r.scope}{name}.bias" in r.params
        bias = np.empty(weight.shape[1], dtype) if is_summed else None
        yield Gradient(end, rows, columns, weight, add, bias)
