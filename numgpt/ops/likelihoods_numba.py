"""Twin of token_logprobs: a pass over each row for its maximum, one for the sum, one for the gradient."""

import numpy as np

from ..engine.jit import kernel, launch, parallel
from .elementary_numba import row_max
from .losses_numba import TILE, sum_of_exponentials, surprise_gradient


@kernel
def mean_gap(row, m):
    """⟨row − m⟩ in float64."""
    gap = 0.0
    for v in range(len(row)):
        gap += row[v] - m
    return gap / len(row)


@parallel
def likelihoods(tile, logits, ids, inverse, smoothing, top, total, logp):
    """The maximum, the sum of exponentials and ln p of each row's token; 0 where the id is negative.

    inverse: 1/τ in the logits' type, None for 1. smoothing: ε in float64, None for 0.
    """
    for n in range(tile * TILE, min(len(ids), tile * TILE + TILE)):
        row = logits[n]
        m = row_max(row)
        s = sum_of_exponentials(row, m, inverse)
        top[n], total[n] = m, s
        logp[n] = 0
        if ids[n] >= 0:
            gap = np.float64(row[ids[n]]) - m
            if smoothing is not None:
                gap = (1 - smoothing) * gap + smoothing * mean_gap(row, m)
            if inverse is not None:
                gap = gap * inverse
            logp[n] = gap - np.log(s)


@parallel
def likelihood_gradients(tile, ids, dlogp, inverse, smoothing, top, total, logits):
    """logits ← dlogp (expected − softmax)/τ in a tile of rows, 0 in those that do not count."""
    for n in range(tile * TILE, min(len(ids), tile * TILE + TILE)):
        row = logits[n]
        if ids[n] < 0:
            row[:] = 0
        else:
            scale = -np.float64(dlogp[n])
            if inverse is not None:
                scale = scale * inverse
            surprise_gradient(row, ids[n], top[n], total[n], scale, inverse)
            if smoothing is not None:
                shared = row.dtype.type(scale * smoothing / len(row))
                for v in range(len(row)):
                    row[v] -= shared
                row[ids[n]] += row.dtype.type(scale * smoothing)


def token_logprobs_forward(logits, targets, *, temperature=1.0, smoothing=0.0):
    """Twin of ops.likelihoods.token_logprobs_forward."""
    rows = np.ascontiguousarray(logits.reshape(-1, logits.shape[-1]))
    ids = targets.reshape(-1)
    top, total = (np.empty((*targets.shape, 1), logits.dtype) for _ in range(2))
    logp = np.empty(targets.shape, logits.dtype)
    made = top.reshape(-1), total.reshape(-1), logp.reshape(-1)
    launch(likelihoods, -(-len(ids) // TILE), rows, ids, *_numbers(rows, temperature, smoothing), *made)
    return logp, (logits, targets, top, total, temperature, smoothing)


def token_logprobs_backward(dy, saved, spare=False):
    """Twin of ops.likelihoods.token_logprobs_backward; spare: the gradient may take the logits' place."""
    logits, targets, top, total, temperature, smoothing = saved
    dlogits = logits if spare and logits.flags.c_contiguous else np.array(logits, order="C")
    rows, ids = dlogits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    dlogp = np.ascontiguousarray(dy).reshape(-1)
    numbers = _numbers(rows, temperature, smoothing)
    read = ids, dlogp, *numbers, top.reshape(-1), total.reshape(-1)
    launch(likelihood_gradients, -(-len(ids) // TILE), *read, rows)
    return dlogits, None


def _numbers(rows, temperature, smoothing):
    """(1/τ in the rows' type, or None for 1; ε, or None for 0): what is None costs nothing."""
    inverse = None if temperature == 1 else rows.dtype.type(1 / temperature)
    return inverse, (float(smoothing) or None)
