"""What tells a token where it stands: learned vectors, or sines and cosines, added to the embeddings."""

import functools

import numpy as np

from .. import engine
from ..errors import InputError
from .embedding import add_at
from .op import Op, check_ids, expect_one_each
from .rotary import rotary
from .scalings import HOST


def positions_forward(x, weight, *, start=0, positions=None):
    """Learned positions, added to the embeddings.

        y_t = x_t + W[p_t]        p_t = start + t, or positions_t where they are given

    start is the position of the first of the T vectors; positions: integers (..., T), of each.
    x (..., T, C), weight (P, C) with p_t < P → y (..., T, C)
    """
    if positions is not None:
        check_ids("positions: positions", positions, len(weight))
        expect_one_each("positions", positions, x)
        return x + weight[positions], (weight, start, positions)
    end = start + x.shape[-2]
    if end > len(weight):
        raise InputError(
            f"positions: the last position is {end}, expected at most P = {len(weight)}: shorten the text"
        )
    return x + weight[start:end], (weight, start, positions)


def positions_backward(dy, saved):
    """Gradients of positions_forward with respect to x and weight.

        dx = dy                          because ∂y_t/∂x_t = 1
        dW[p] = Σ_{t: p_t = p} dy_t      because all rows of the batch share W;  0 at unused positions

    In words: the gradient passes to the embeddings unchanged, and to each position summed over the batch.
    """
    weight, start, positions = saved
    T, C = dy.shape[-2:]
    dweight = np.zeros_like(weight, order="C")
    if positions is None:
        dweight[start : start + T] = dy.reshape(-1, T, C).sum(0)
    else:
        add_at(dweight, np.broadcast_to(positions, dy.shape[:-1]), dy)
    return dy, dweight


positions = Op(
    "...TC, PC -> ...TC",
    positions_forward,
    positions_backward,
    parameters=("weight",),
    at_least={"P": "T"},
    waived="positions",  # which are each looked at, of a row that may be longer
    variants={
        "from the end": lambda rng, sizes: {"start": sizes["P"] - sizes["T"]},
        "given": lambda rng, sizes: {"positions": rng.integers(0, sizes["P"], sizes["T"])},
    },
    saves="positions",
)


def sinusoidal_forward(x, *, start=0, positions=None):
    """Sines and cosines of the position, added to the embeddings.

        y_t,2i   = x_t,2i   + sin(p_t f_i)
        y_t,2i+1 = x_t,2i+1 + cos(p_t f_i)        f_i = 10000^(−2i/C), p_t = start + t or positions_t

    start is the position of the first of the T vectors; positions: integers (..., T), of each.
    x (..., T, C) → y (..., T, C).  Source: Vaswani et al. 2017, section 3.5.
    """
    T, C = x.shape[-2:]
    if positions is None:
        return x + engine.beside(_waves_from(int(start), T, C, x.real.dtype), x), ()
    expect_one_each("sinusoidal", positions, x)
    return x + _waves(positions, C, x.real.dtype), ()


def sinusoidal_backward(dy, saved):
    """Gradient of sinusoidal_forward with respect to x.

    dx = dy        because ∂y/∂x = 1: what is added depends on no x
    """
    return (dy,)


sinusoidal = Op(
    "...TC -> ...TC",
    sinusoidal_forward,
    sinusoidal_backward,
    variants={
        "from position 7": {"start": 7},
        "given": lambda rng, sizes: {"positions": rng.integers(0, 1000, sizes["T"])},
    },
    saves="",
)


@functools.lru_cache(maxsize=4)
def _waves_from(start, T, C, dtype):
    """The waves (T, C) from a position on."""
    table = _waves(np.arange(start, start + T, like=HOST), C, dtype)
    table.flags.writeable = False
    return table


def _waves(positions, C, dtype):
    """sin and cos by turns (..., T, C) at integer positions (..., T): found in float64, then cast."""
    f = 10000.0 ** (-np.arange(0, C, 2, like=HOST) / C)
    angles = positions[..., None] * engine.beside(f, positions)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1)  # (..., T, ⌈C/2⌉, 2)
    return waves.reshape(*angles.shape[:-1], -1)[..., :C].astype(dtype)


def alibi_slopes(n_head):
    """The slope m of each head: linear biases add m (s − t) to the score of query t and key s.

        m_h = 2^(−8(h + 1)/p)        for the first p heads, p the largest power of two up to H
        m_h = 2^(−4(2i + 1)/p)       for those after them, i = h − p: every other one of 2p heads

    A head of a large slope sees what is near. Published models of head counts that are no powers of two have
    these; the paper's text has one geometric series.  → (H,)  Source: Press, Smith and Lewis 2021.
    """
    p = 1 << (n_head.bit_length() - 1)
    first = [2.0 ** (-8 * (h + 1) / p) for h in range(p)]
    rest = [2.0 ** (-4 * (2 * i + 1) / p) for i in range(n_head - p)]
    return np.array(first + rest, like=HOST)


# What Config.positions may be: an op that adds to the embeddings (..., T, C), one that turns queries and
# keys, packed, or None where neither is done: ALiBi is added to the scores.
POSITIONS = {
    "learned": positions,
    "sinusoidal": sinusoidal,
    "rotary": rotary,
    "alibi": None,
    "none": None,
}


def turns(kind):
    """Whether a kind of positions turns packed queries and keys: its op has the line of theirs."""
    op = POSITIONS[kind]
    return op is not None and "2KD" in op.line
