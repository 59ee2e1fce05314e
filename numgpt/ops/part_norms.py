"""Norms of a part of the channels: of the queries, or the keys, that lie packed side by side."""

import numpy as np

from ..errors import InputError
from .linear import sum_rows
from .norms import layernorm_forward, rmsnorm_forward, standardise_forward
from .op import Op
from .rounded import rounded_once
from .saving import blank


def part_rmsnorm_forward(x, weight, *, begin=0, end=None, eps=1e-5):
    """Channels begin … end − 1 in vectors as long as the weight, each scaled to mean square 1.

        y_g = rmsnorm(x_g, w)        x_g the vectors of W = len(w) channels, one after the other
        y = x                        in the other channels

    With W = D the weight is one for all heads; with W = HD it goes over the whole width.
    begin, end: 0 and all channels unless given.
    x (..., I), w (W) → y (..., I).  Source: Henry et al. 2020, in the form of Qwen 3 and OLMo 2.
    """
    part, end = part_of(x, weight, begin, end)
    normed, (xhat, rstd, _) = rmsnorm_forward(part, weight, eps=eps)
    return _with_part(x, normed, begin, end), (xhat, rstd, weight, begin, end)


def part_rmsnorm_backward(dy, saved):
    """Gradients of part_rmsnorm_forward with respect to x and weight.

        dw = Σ dy_g x̂_g                          over rows and over the vectors g, which share w
        dx_g = r (e − x̂_g ⟨e x̂_g⟩)              rmsnorm's, with e = dy_g w
        dx = dy                                  in the other channels, for y = x there

    In words: rmsnorm's gradient within the part, dy outside it.
    """
    xhat, rstd, weight, begin, end = saved
    dpart = dy[..., begin:end].reshape(xhat.shape)
    e = dpart * weight
    dnormed = rstd * (e - xhat * (e * xhat).mean(-1, keepdims=True))
    return _with_part(dy, dnormed, begin, end), _dweight(dpart * xhat)


@rounded_once
def part_layernorm_forward(x, weight, bias=None, *, begin=0, end=None, eps=1e-5):
    """Channels begin … end − 1 in vectors as long as the weight, each normalised; the others as they are.

        y_g = layernorm(x_g, w, b)        x_g the vectors of W = len(w) channels, one after the other

    begin, end: 0 and all channels unless given.
    x (..., I), w and b (W) → y (..., I).  Source: Dehghani et al. 2023, in the form of Persimmon.
    """
    part, end = part_of(x, weight, begin, end)
    normed, (xhat, rstd, _, has_bias) = layernorm_forward(part, weight, bias, eps=eps)
    return _with_part(x, normed, begin, end), (xhat, rstd, weight, has_bias, begin, end)


@rounded_once
def part_layernorm_backward(dy, saved):
    """Gradients of part_layernorm_forward with respect to x, weight and bias.

        dw = Σ dy_g x̂_g,  db = Σ dy_g              over rows and over the vectors g, which share w and b
        dx_g = r (e − ⟨e⟩ − x̂_g ⟨e x̂_g⟩)          layernorm's, with e = dy_g w
        dx = dy                                    in the other channels, for y = x there

    In words: layernorm's gradient within the part, dy outside it.
    """
    xhat, rstd, weight, has_bias, begin, end = saved
    dpart = dy[..., begin:end].reshape(xhat.shape)
    e = dpart * weight
    dnormed = rstd * (e - e.mean(-1, keepdims=True) - xhat * (e * xhat).mean(-1, keepdims=True))
    dbias = _dweight(dpart) if has_bias else None
    return _with_part(dy, dnormed, begin, end), _dweight(dpart * xhat), dbias


@rounded_once
def heads_layernorm_forward(x, weight, *, begin=0, eps=1e-5):
    """H heads of D channels each, from channel begin on, are normalised, each with a weight of its own.

        y_h = layernorm(x_h, w_h)        x_h the channels of head h
        y = x                            in the other channels

    begin: 0 unless given.
    x (..., HD + I), w (H, D) → y (..., HD + I).  Source: Dehghani et al. 2023, as in Cohere and StableLM.
    """
    part = heads_of(x, weight, begin)
    xhat, (_, rstd) = standardise_forward(part, eps=eps)
    return _with_part(x, xhat * weight, begin, begin + weight.size), (xhat, rstd, weight, begin)


@rounded_once
def heads_layernorm_backward(dy, saved):
    """Gradients of heads_layernorm_forward with respect to x and weight.

        dw_h = Σ dy_h x̂_h                          over rows: no head has part in another's
        dx_h = r (e − ⟨e⟩ − x̂_h ⟨e x̂_h⟩)          layernorm's, with e = dy_h w_h
        dx = dy                                    in the other channels, for y = x there

    In words: layernorm's gradient within each head, dy outside them.
    """
    xhat, rstd, weight, begin = saved
    end = begin + weight.size
    dpart = dy[..., begin:end].reshape(xhat.shape)
    e = dpart * weight
    dheads = rstd * (e - e.mean(-1, keepdims=True) - xhat * (e * xhat).mean(-1, keepdims=True))
    dweight = sum_rows((dpart * xhat).reshape(-1, weight.size)).reshape(weight.shape)
    return _with_part(dy, dheads, begin, end), dweight


def heads_of(x, weight, begin):
    """The channels of x from begin on, as many as the weight (H, D) has, as heads (..., H, D)."""
    end = begin + weight.size
    if not 0 <= begin <= end <= x.shape[-1]:
        raise InputError(
            f"heads_layernorm: begin is {begin}, expected a channel from which on there are {weight.size} of"
            f" {x.shape[-1]}"
        )
    return x[..., begin:end].reshape(*x.shape[:-1], *weight.shape)


def part_of(x, weight, begin, end):
    """Channels begin … end − 1 of x as vectors (..., g, W), and end."""
    end = x.shape[-1] if end is None else end
    W = len(weight)
    if not 0 <= begin < end <= x.shape[-1] or (end - begin) % W:
        raise InputError(
            f"part norm: channels {begin} to {end} of {x.shape[-1]}, expected a part of them whose width is"
            f" a multiple of W = {W}"
        )
    return x[..., begin:end].reshape(*x.shape[:-1], (end - begin) // W, W), end


def _saved_part(arrays, options, y):
    """x̂ of the part, and 1/σ of each of its vectors."""
    x, weight = arrays[:2]
    part, _ = part_of(x, weight, options.get("begin", 0), options.get("end"))
    return blank(part.shape, y.dtype), blank(part.shape[:-1], y.dtype)


def _with_part(x, part, begin, end):
    """x with other numbers in channels begin … end − 1."""
    y = x.astype(np.result_type(x, part))  # a part may be complex where the rest is not: a law asks that
    y[..., begin:end] = part.reshape(*x.shape[:-1], end - begin)
    return y


def _dweight(rows):
    """The sum over all vectors: the gradient of what they share."""
    return sum_rows(rows.reshape(-1, rows.shape[-1]))


def _first_half(rng, sizes):
    """A part of the channels: those of the first half, as the queries are."""
    return {"end": max(1, sizes["G"] // 2) * sizes["W"]}


def _second_half(rng, sizes):
    """A part of the channels: those of the second half, as the keys would be without values."""
    return {"begin": sizes["G"] // 2 * sizes["W"]}


part_rmsnorm = Op(
    "...(GW), W -> ...(GW)",
    part_rmsnorm_forward,
    part_rmsnorm_backward,
    parameters=("weight",),
    at_least={"W": 3},
    variants={"of the first half": _first_half, "of the second half": _second_half},
    saves=_saved_part,
)
part_layernorm = Op(
    "...(GW), W, W? -> ...(GW)",
    part_layernorm_forward,
    part_layernorm_backward,
    parameters=("weight", "bias"),
    at_least={"W": 4},
    variants={"of the first half": _first_half, "of the second half": _second_half},
    saves=_saved_part,
)
heads_layernorm = Op(
    "...(HD+I), HD -> ...(HD+I)",
    heads_layernorm_forward,
    heads_layernorm_backward,
    parameters=("weight",),
    at_least={"D": 4},
    variants={"of the last heads": lambda rng, sizes: {"begin": sizes["I"]}},
    saves="...(HD) ...H",
)

# The norm of a model → the one of its queries and keys.
PART_NORMS = {"layernorm": part_layernorm, "rmsnorm": part_rmsnorm}
