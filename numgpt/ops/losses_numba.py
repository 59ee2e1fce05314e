"""Twin of cross_entropy: a pass over each row for its maximum, one for the sum, one for the gradient."""

import numpy as np

from ..engine.jit import SUMS, kernel, launch, parallel
from ..errors import InputError
from .elementary_numba import exp, row_max

TILE = 32  # rows a task


@kernel(fastmath=SUMS)
def sum_of_exponentials(x, top, inverse):
    """Σ exp((x − top) inverse) in float64; inverse: in x's type, None for 1."""
    s = 0.0
    if inverse is None:
        for i in range(len(x)):
            s += exp(x[i] - top)
    else:
        for i in range(len(x)):
            s += exp((x[i] - top) * inverse)
    return s


@kernel
def softmax_row(x, top, factor, inverse):
    """x ← exp((x − top) inverse) factor."""
    if inverse is None:
        for i in range(len(x)):
            x[i] = exp(x[i] - top) * factor
    else:
        for i in range(len(x)):
            x[i] = exp((x[i] - top) * inverse) * factor


@kernel
def surprise_gradient(row, target, top, total, scale, inverse):
    """row ← scale (softmax − one-hot)."""
    one_over, factor = row.dtype.type(1.0 / total), row.dtype.type(scale)
    gap = row[target] - top
    if inverse is not None:
        gap = gap * inverse
    at_target = factor * (exp(gap) * one_over - row.dtype.type(1))
    softmax_row(row, top, row.dtype.type(scale / total), inverse)
    row[target] = at_target


@parallel
def surprises(tile, logits, ids, top, total, surprise):
    """The maximum, the sum of exponentials and the surprise of each row; 0 where the id is negative."""
    for n in range(tile * TILE, min(len(ids), tile * TILE + TILE)):
        row = logits[n]
        m = row_max(row)
        s = sum_of_exponentials(row, m, None)
        top[n], total[n] = m, s
        surprise[n] = np.log(s) - (row[ids[n]] - m) if ids[n] >= 0 else 0.0


@parallel
def surprise_gradients(tile, ids, top, total, scale, logits):
    """logits ← scale (softmax − one-hot) in a tile of rows, 0 in those that do not count."""
    for n in range(tile * TILE, min(len(ids), tile * TILE + TILE)):
        row = logits[n]
        if ids[n] < 0:
            row[:] = 0
        else:
            surprise_gradient(row, ids[n], top[n], total[n], scale, None)


def cross_entropy_forward(logits, targets, *, count=None):
    """Twin of ops.losses.cross_entropy_forward."""
    V = logits.shape[-1]
    rows, ids = np.ascontiguousarray(logits.reshape(-1, V)), targets.reshape(-1)
    count = int((ids >= 0).sum() if count is None else count)
    if count == 0:
        raise InputError("cross_entropy: no target counts, expected at least one that is not negative")
    top, total = np.empty((len(ids), 1), logits.dtype), np.empty((len(ids), 1), logits.dtype)
    surprise = np.empty(len(ids))
    launch(surprises, -(-len(ids) // TILE), rows, ids, top[:, 0], total[:, 0], surprise)
    return logits.dtype.type(surprise.sum() / count), (logits, ids, top, total, count)


def cross_entropy_backward(dy, saved, spare=False):
    """Twin of ops.losses.cross_entropy_backward; spare: the gradient may take the logits' place."""
    logits, ids, top, total, count = saved
    dlogits = logits if spare and logits.flags.c_contiguous else np.array(logits, order="C")
    rows = dlogits.reshape(-1, logits.shape[-1])
    launch(surprise_gradients, -(-len(ids) // TILE), ids, top[:, 0], total[:, 0], float(dy) / count, rows)
    return dlogits, None
