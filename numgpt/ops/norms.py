"""Normalisation over channels."""

import numpy as np

from .. import engine
from .linear import sum_rows
from .op import Op


def layernorm_forward(x, weight, bias=None, *, eps=1e-5):
    """Each vector shifted to mean 0 and scaled to variance 1, then scaled and shifted by learned amounts.

        μ = ⟨x⟩      v = ⟨(x − μ)²⟩      r = (v + eps)^(−½)
        x̂ = (x − μ) r
        y = x̂ w + b

    ⟨·⟩ is the mean over the channels.  x (..., C) → y (..., C).  Source: Ba, Kiros and Hinton 2016.
    Where squares would overflow, x is divided by a number s first:  x̂(x, eps) = x̂(x/s, eps/s²).
    """
    x, s = within_range(x)
    centred = x - x.mean(-1, keepdims=True)
    rstd = ((centred * centred).mean(-1, keepdims=True) + eps / s / s) ** -0.5
    xhat = centred * rstd
    y = xhat * weight
    if bias is not None:
        y = y + bias
    return y, (xhat, rstd / s, weight, bias is not None)


def layernorm_backward(dy, saved):
    """Gradients of layernorm_forward with respect to x, weight and bias.

    All rows share weight and bias, so theirs sum over rows:  dweight = Σ dy x̂,  dbias = Σ dy.

    x acts through x̂ = c r, where c = x − μ and r depends on c through v = ⟨c²⟩. With g = dy weight:

        dc = r (g − x̂ ⟨g x̂⟩)                      because ∂r/∂c = −r² x̂ / C
        dx = dc − ⟨dc⟩ = r (g − ⟨g⟩ − x̂ ⟨g x̂⟩)    because ⟨x̂⟩ = 0

    In words: dx is g without its mean and without its part along x̂, scaled by r.
    """
    xhat, rstd, weight, has_bias = saved
    C = dy.shape[-1]
    g = dy * weight
    dx = rstd * (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True))
    dweight = sum_rows((dy * xhat).reshape(-1, C))
    dbias = sum_rows(dy.reshape(-1, C)) if has_bias else None
    return dx, dweight, dbias


layernorm = Op(
    "...C, C, C? -> ...C", layernorm_forward, layernorm_backward, ("weight", "bias"), saves="...C ..."
)


def rmsnorm_forward(x, weight=None, *, eps=1e-5):
    """Each vector scaled to mean square 1, then by learned amounts: layernorm without its mean and bias.

        r = (⟨x²⟩ + eps)^(−½)
        x̂ = x r
        y = x̂ w        or x̂ without a weight

    ⟨·⟩ is the mean over the channels.  x (..., C) → y (..., C).  Source: Zhang and Sennrich 2019.
    Where squares would overflow, x is divided by a number s first:  x̂(x, eps) = x̂(x/s, eps/s²).
    """
    x, s = within_range(x)
    rstd = ((x * x).mean(-1, keepdims=True) + eps / s / s) ** -0.5
    xhat = x * rstd
    y = xhat if weight is None else xhat * weight
    return y, (xhat, rstd / s, weight)


def rmsnorm_backward(dy, saved):
    """Gradients of rmsnorm_forward with respect to x and weight.

    All rows share weight, so its gradient sums over rows:  dweight = Σ dy x̂.

    x acts through x̂ = x r, where r depends on all of x. With g = dy weight:

        dx = r g + ∂r/∂x Σ g x = r (g − x̂ ⟨g x̂⟩)        because ∂r/∂x = −r² x̂ / C

    In words: dx is g without its part along x̂, scaled by r. Only eps leaves a trace of that part:
    Σ dx x = eps r² Σ g x̂, which is 0 for eps = 0, where the length of x does not matter.
    """
    xhat, rstd, weight = saved
    g = dy if weight is None else dy * weight
    dx = rstd * (g - xhat * (g * xhat).mean(-1, keepdims=True))
    dweight = None if weight is None else sum_rows((dy * xhat).reshape(-1, dy.shape[-1]))
    return dx, dweight


# of a vector of one or two channels hardly anything is left beside its part along x̂
rmsnorm = Op(
    "...C, C? -> ...C",
    rmsnorm_forward,
    rmsnorm_backward,
    parameters=("weight",),
    at_least={"C": 3},
    saves="...C ...",
)


def standardise_forward(x, *, eps=1e-5):
    """Each vector shifted to mean 0 and scaled to variance 1: layernorm without anything learned.

        μ = ⟨x⟩      v = ⟨(x − μ)²⟩      r = (v + eps)^(−½)
        y = (x − μ) r

    ⟨·⟩ is the mean over the channels.  x (..., C) → y (..., C).  Source: OLMo, Groeneveld et al. 2024.
    """
    y, (_, rstd, _, _) = layernorm_forward(x, 1.0, None, eps=eps)
    return y, (y, rstd)


def standardise_backward(dy, saved):
    """Gradient of standardise_forward with respect to x.

        dx = r (dy − ⟨dy⟩ − y ⟨dy y⟩)        layernorm's, whose g is dy where the weight is 1

    In words: dx is dy without its mean and without its part along y, scaled by r.
    """
    y, rstd = saved
    return (rstd * (dy - dy.mean(-1, keepdims=True) - y * (dy * y).mean(-1, keepdims=True)),)


# of two channels hardly anything is left beside the mean and the part along y
standardise = Op("...C -> ...C", standardise_forward, standardise_backward, at_least={"C": 4}, saves="y ...")


def within_range(x):
    """x / s and s: a vector whose Σ x² might overflow is divided by a power of two, which costs no digit.

    s is 1 where no vector is that large, else (..., 1). It is a constant: what divides by it undoes it.
    """
    largest = abs(x.real).max(-1, keepdims=True)
    limit = 0.25 * (np.finfo(x.dtype).max / x.shape[-1]) ** 0.5  # |x − μ| may be twice |x|
    if not engine.on_gpu(x) and not (largest > limit).any():  # on a GPU the host would wait for the answer
        return x, 1.0
    exponents = np.frexp(largest)[1] - 1
    s = np.where(largest > limit, np.ldexp(np.ones_like(largest), exponents), 1)
    return x / s, s


# What Config.norm may be.
NORMS = {"layernorm": layernorm, "rmsnorm": rmsnorm, "standardise": standardise}
