"""A linear map with a small correction beside it, which is all that is learned: LoRA."""

import itertools

import numpy as np

from ..engine.precision import FORMATS, product
from ..errors import InputError
from .linear import linear_backward, linear_forward
from .op import Op

PRECISIONS = FORMATS  # in which products can be computed here


def lora_linear_forward(x, weight, bias, lora_a, lora_b, *, factor=1.0, widths=None):
    """A linear map that products of two thin matrices correct.

        y   = x W + b + s (x A) B̃                    s = factor
        B̃_ro = B_(r − gR)o for r = gR … gR + R − 1, where column o is of map g; else 0

    W is G maps side by side, such as queries, keys and values, or one (G = 1: B̃ = B), each with a rank R far
    below I and O: A is (I, G R), B is (R, O). widths says how many columns each map has: as equal as they can
    be unless given. s is α/R, or α/√R (rsLoRA). With B = 0, as it is to begin with, y is the base's to the
    bit. W + s A B̃ is never formed: in float32 it would change W.
    x (..., I) → y (..., O).  Sources: Hu et al. 2021; Kalajdzievski 2023.
    """
    y, _ = linear_forward(x, weight, bias)
    columns = columns_of(lora_a, lora_b, widths)
    low = product(x, lora_a)
    saved = x, weight, bias is not None, lora_a, lora_b, low, factor, columns
    return y + factor * product(low, apart(lora_b, columns)), saved


def lora_linear_backward(dy, saved, wanted=(True, True, True, True)):
    """Gradients of lora_linear_forward by x, weight, bias, lora_a and lora_b; wanted: which of the last four.

    Two linear maps add up, x W + b and s (x A) B̃. The second with u = x A and du = s dy B̃ᵀ:

        dx = dy Wᵀ + du Aᵀ                 because x goes through both
        dA = xᵀ du                         because u = x A, as in linear_backward
        dB̃ = s uᵀ dy                       because y has s u B̃
        dB_ro = dB̃_(gR + r)o               because B̃ holds B_ro once, in the rows of its column's map g
        dW = xᵀ dy,  db = Σ_n dy_n         the base's, which nobody wants of one that is frozen

    In words: with B = 0 A gets no gradient, and B does; with A = B = 0 neither would, ever.
    """
    x, weight, has_bias, lora_a, lora_b, low, factor, columns = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, I), (N, O)
    dx, dweight, dbias = linear_backward(dy, (x, weight, has_bias), wanted[:2])
    dlow = factor * product(dy, apart(lora_b, columns).swapaxes(0, 1))
    lows, dlows = low.reshape(-1, low.shape[-1]), dlow.reshape(-1, low.shape[-1])  # (N, GR) both
    dlora_a = product(rows.swapaxes(0, 1), dlows) if wanted[2] else None
    dlora_b = factor * together(product(lows.swapaxes(0, 1), drows), columns) if wanted[3] else None
    return dx + product(dlow, lora_a.swapaxes(0, 1)), dweight, dbias, dlora_a, dlora_b


def columns_of(lora_a, lora_b, widths):
    """The columns of each of the maps that lie side by side, as slices."""
    R, n = lora_b.shape
    G = lora_a.shape[1] // R
    ends = [(g + 1) * n // G for g in range(G)] if widths is None else itertools.accumulate(widths)
    return tuple(itertools.starmap(slice, itertools.pairwise((0, *ends))))


def apart(lora_b, columns):
    """B̃: each map's columns of B in rows of its own, with zeros in the others.  (R, O) → (G R, O)"""
    wide = np.zeros_like(lora_b, shape=(len(columns), *lora_b.shape))  # (G, R, O)
    for rows, of_map in zip(wide, columns):
        rows[:, of_map] = lora_b[:, of_map]
    return wide.reshape(-1, lora_b.shape[1])  # (G R, O)


def together(wide, columns):
    """Each map's columns from its own rows, side by side: what apart set apart.  (G R, O) → (R, O)"""
    by_map = wide.reshape(len(columns), -1, wide.shape[-1])  # (G, R, O)
    return np.concatenate([rows[:, of_map] for rows, of_map in zip(by_map, columns)], axis=1)


def _expect_widths(arrays, options):
    """InputError unless the widths are those of the maps."""
    lora_a, lora_b, widths = arrays[-2], arrays[-1], options.get("widths")
    G, n = lora_a.shape[1] // lora_b.shape[0], lora_b.shape[1]
    if widths is not None and (len(widths), sum(widths)) != (G, n):
        who = "low_rank" if len(arrays) == 3 else "lora_linear"
        raise InputError(
            f"{who}: widths is {tuple(widths)}, expected {G} of them for lora_a {lora_a.shape} and"
            f" lora_b {lora_b.shape}, {n} together"
        )


def _uneven(rng, sizes):
    """Widths of G maps that differ."""
    cuts = 1 + rng.permutation(sizes["O"] - 1)[: sizes["G"] - 1]
    return {"widths": tuple(np.diff([0, *sorted(cuts), sizes["O"]]).tolist())}


lora_linear = Op(
    "...I, IO, O?, I(GR), RO -> ...O",
    lora_linear_forward,
    lora_linear_backward,
    parameters=("weight", "bias", "lora_a", "lora_b"),
    at_least={"O": "G"},
    variants={"factor": {"factor": 0.5}, "widths": _uneven},
    expect=_expect_widths,
    saves="x ...(GR)",
)


def low_rank_forward(x, lora_a, lora_b, *, factor=1.0, widths=None):
    """What an adapter adds to a map that is computed elsewhere, such as one of rounded weights.

        y = s (x A) B̃        s = factor, B̃ as in lora_linear

    x (..., I) → y (..., O)
    """
    columns = columns_of(lora_a, lora_b, widths)
    low = product(x, lora_a)
    return factor * product(low, apart(lora_b, columns)), (x, lora_a, lora_b, low, factor, columns)


def low_rank_backward(dy, saved, wanted=(True, True)):
    """Gradients of low_rank_forward with respect to x, lora_a and lora_b; wanted: which of the last two.

    With u = x A and du = s dy B̃ᵀ, as in lora_linear_backward:

        dx = du Aᵀ        because u = x A
        dA = xᵀ du
        dB̃ = s uᵀ dy      because y = s u B̃
    """
    x, lora_a, lora_b, low, factor, columns = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, I), (N, O)
    dlow = factor * product(dy, apart(lora_b, columns).swapaxes(0, 1))
    lows, dlows = low.reshape(-1, low.shape[-1]), dlow.reshape(-1, low.shape[-1])  # (N, GR) both
    dlora_a = product(rows.swapaxes(0, 1), dlows) if wanted[0] else None
    dlora_b = factor * together(product(lows.swapaxes(0, 1), drows), columns) if wanted[1] else None
    return product(dlow, lora_a.swapaxes(0, 1)), dlora_a, dlora_b


low_rank = Op(
    "...I, I(GR), RO -> ...O",
    low_rank_forward,
    low_rank_backward,
    parameters=("lora_a", "lora_b"),
    at_least={"O": "G"},
    variants={"factor": {"factor": 0.5}, "widths": _uneven},
    expect=_expect_widths,
    saves="x ...(GR)",
)
