"""What tells a token where it stands."""

import numpy as np

from ..errors import InputError
from .op import Op


def positions_forward(x, weight, *, start=0):
    """Learned positions, added to the embeddings.

        y_t = x_t + W[start + t]

    start is the position of the first of the T vectors.
    x (..., T, C), weight (P, C) with start + T ≤ P → y (..., T, C)
    """
    end = start + x.shape[-2]
    if end > len(weight):
        raise InputError(
            f"positions: the last position is {end}, expected at most P = {len(weight)}: shorten the text"
        )
    return x + weight[start:end], (weight, start)


def positions_backward(dy, saved):
    """Gradients of positions_forward with respect to x and weight.

        dx = dy                          because ∂y_t/∂x_t = 1
        dW[start + t] = Σ_rows dy_t      because all rows of the batch share W;  0 at unused positions

    In words: the gradient passes to the embeddings unchanged, and to each position summed over the batch.
    """
    weight, start = saved
    T, C = dy.shape[-2:]
    dweight = np.zeros_like(weight)
    dweight[start : start + T] = dy.reshape(-1, T, C).sum(0)
    return dy, dweight


positions = Op(
    "...TC, PC -> ...TC",
    positions_forward,
    positions_backward,
    parameters=("weight",),
    at_least={"P": "T"},
    variants={"from the end": lambda rng, sizes: {"start": sizes["P"] - sizes["T"]}},
)

POSITIONS = {"learned": positions}  # what Config.positions may be
