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


layernorm = Op("...C, C, C? -> ...C", layernorm_forward, layernorm_backward, parameters=("weight", "bias"))


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


NORMS = {"layernorm": layernorm}  # what Config.norm may be
