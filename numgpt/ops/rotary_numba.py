"""Twin of rotary: each row is copied and turned while it is in cache."""

import numpy as np

from ..engine.jit import kernel, launch, parallel
from .linear_numba import rows
from .rotary import angles_of

TILE = 64  # rows a task


@kernel
def turn_rows(x, first, cos, sin, heads, D):
    """Turn the first heads of each row (ND), in place, by the angles of cos and sin (P, R/2).

    Row n has those of row (first + n) mod P.
    """
    P, half = cos.shape
    for n in range(len(x)):
        p = (first + n) % P
        for h in range(heads):
            for i in range(half):
                a, b = x[n, h * D + i], x[n, h * D + half + i]
                x[n, h * D + i] = a * cos[p, i] - b * sin[p, i]
                x[n, h * D + half + i] = a * sin[p, i] + b * cos[p, i]


@parallel
def turn(tile, x, cos, sin, heads, D, y):
    """y: a tile of rows of x, turned."""
    n0, n1 = tile * TILE, min(len(x), tile * TILE + TILE)
    y[n0:n1] = x[n0:n1]
    turn_rows(y[n0:n1], n0, cos, sin, heads, D)


def rotary_forward(qkv, *, n_head, n_kv_head=None, base=1e4, dim=None, scaling=None, start=0, positions=None):
    """Twin of ops.rotary.rotary_forward."""
    angles = angles_of(qkv, n_head, n_kv_head, base, dim, scaling, start, positions)
    return _turned(qkv, *angles), angles


def rotary_backward(dy, saved):
    """Twin of ops.rotary.rotary_backward."""
    cos, sin, heads, D = saved
    return (_turned(dy, cos, -sin, heads, D),)


def _turned(x, cos, sin, heads, D):
    """x (..., T, ND), its first heads turned by the angles of cos and sin (..., T, R/2)."""
    xs, half = rows(x), cos.shape[-1]
    if cos.ndim > 2:
        cos, sin = (np.broadcast_to(a, (*x.shape[:-1], half)).reshape(-1, half) for a in (cos, sin))
    y = np.empty_like(xs)
    launch(turn, -(-len(xs) // TILE), xs, np.ascontiguousarray(cos), np.ascontiguousarray(sin), heads, D, y)
    return y.reshape(x.shape)
