"""Means under weights, and what is shifted and scaled by them: which tokens count, and what divides them.

A weight is 0 for a token that does not count, such as the prompt's or padding: whatever x holds there is not
looked at, not even NaN. Weights are constants.
"""

import numpy as np

from ..errors import InputError
from .norms import within_range
from .op import Op
from .rounded import rounded_once


def masked(x, weights):
    """x with 0 where w is 0, whatever stood there, and w in x's real dtype."""
    weights = weights.real.astype(x.real.dtype, copy=False)
    return np.where(weights != 0, x, 0), weights


def _expect_counted(who, weights):
    """InputError where nothing counts, of which there would be no mean."""
    if not weights.any():
        raise InputError(f"{who}: no weight counts, expected at least one that is not 0")


def sums_of_rows(who, weights):
    """Σ_t w of each row; InputError for a row without weight, which has no mean."""
    sums = weights.sum(-1)
    if (sums == 0).any():
        raise InputError(f"{who}: a row has no weight, expected at least one in each that is not 0")
    return sums


@rounded_once
def token_mean_forward(x, weights, *, count=None):
    """The mean over all tokens that count: each weighs the same, however long the text that it stands in.

        y = Σ_nt w_nt x_nt / N        N = Σ w

    N is count where it is given: a micro-batch divides by the number of the whole batch, so that the parts
    add up to the mean over all.
    x (..., T), weights (..., T) → y ()
    """
    seen, weights = masked(x, weights)
    if count is None:
        _expect_counted("token_mean", weights)
        count = weights.sum()
    elif count == 0:
        raise InputError("token_mean: count is 0, expected at least one token that counts")
    share = weights / count  # of weights however small: their sum may have no reciprocal
    mean = (seen * share).sum()
    return mean, (share,)


@rounded_once
def token_mean_backward(dy, saved):
    """Gradients of token_mean_forward with respect to x and weights (none: they are constants).

        dx_nt = dy w_nt / N        because y is linear in x

    In words: every token that counts gets its weight's share of dy.
    """
    (share,) = saved
    return dy * share, None


token_mean = Op(
    "...T, ...T! -> ()",
    token_mean_forward,
    token_mean_backward,
    weights="weights",
    variants={"count": {"count": 7}},
    saves="...T",
)


@rounded_once
def sequence_mean_forward(x, weights, *, count=None):
    """The mean over rows of each row's mean: every text weighs the same, however long it is.

        y = Σ_n (Σ_t w_nt x_nt / Σ_t w_nt) / N        N: how many rows, or count

    x (..., T), weights (..., T) → y ()
    """
    seen, weights = masked(x, weights)
    sums = sums_of_rows("sequence_mean", weights)
    count = sums.size if count is None else count
    if count == 0:
        raise InputError("sequence_mean: there is no row, expected at least one")
    share = weights / sums[..., None] / count
    return (seen * share).sum(), (share,)


@rounded_once
def sequence_mean_backward(dy, saved):
    """Gradients of sequence_mean_forward with respect to x and weights (none: they are constants).

        dx_nt = dy w_nt / (N Σ_s w_ns)        because y is linear in x

    In words: a row's N-th of dy, shared by its tokens: those of a short text get more each.
    """
    (share,) = saved
    return dy * share, None


sequence_mean = Op(
    "...T, ...T! -> ()",
    sequence_mean_forward,
    sequence_mean_backward,
    weights="weights",
    variants={"count": {"count": 7}},
    saves="...T",
)


@rounded_once
def sequence_sum_forward(x, weights):
    """The sum over each row: of log-probabilities that of the whole text, which preferences compare.

        y_n = Σ_t w_nt x_nt

    x (..., T), weights (..., T) → y (...)
    """
    seen, weights = masked(x, weights)
    return (seen * weights).sum(-1), (weights,)


@rounded_once
def sequence_sum_backward(dy, saved):
    """Gradients of sequence_sum_forward with respect to x and weights (none: they are constants).

        dx_nt = dy_n w_nt        because y is linear in x

    In words: every token of a row gets the row's dy, times its weight.
    """
    (weights,) = saved
    return dy[..., None] * weights, None


sequence_sum = Op(
    "...T, ...T! -> ...", sequence_sum_forward, sequence_sum_backward, weights="weights", saves="weights"
)


@rounded_once
def whiten_forward(x, weights, *, shift_mean=True, eps=1e-8):
    """All that counts shifted to mean 0 and scaled to variance 1, as PPO's advantages are in each batch.

        μ = ⟨x⟩      v = ⟨(x − μ)²⟩      r = (v + eps)^(−½)
        x̂ = (x − μ) r
        y = x̂, or x̂ + μ without shift_mean, as rewards are whitened

    ⟨·⟩ is the mean over all of x under the weights, Σ w x / Σ w. Where w is 0, y is 0. v divides by n, as
    OpenAI has it; TRL divides by n − 1, and its x̂ is √(1 − 1/n) of this one.
    x (..., T), weights (..., T) → y (..., T).  Source: Ziegler et al. 2019.
    """
    seen, weights = masked(x, weights)
    if not x.size:  # no rows have no statistics, and need none
        return seen, (seen, weights, 1.0, 0.0)
    _expect_counted("whiten", weights)
    share = weights / weights.sum()
    flat, s = within_range(seen.reshape(-1))  # as layernorm: where squares would overflow, x is divided by s
    mean = (flat * share.reshape(-1)).sum()
    centred = (flat - mean).reshape(x.shape)
    rstd = ((share * centred * centred).sum() + eps / s / s) ** -0.5
    xhat = np.where(weights != 0, centred * rstd, 0)
    kept = 0.0 if shift_mean else 1.0
    y = xhat if shift_mean else np.where(weights != 0, xhat + mean * s, 0)
    return y, (xhat, share, rstd / s, kept)


@rounded_once
def whiten_backward(dy, saved):
    """Gradients of whiten_forward with respect to x and weights (none: they are constants).

    With g = dy where w is not 0, the rest 0, and Σ over all of it, LayerNorm's derivation under weights gives

        dx = r (g − a Σ g − a x̂ Σ g x̂)        a = w / Σ w, because ∂μ/∂x = a and ∂r/∂x = −r² a x̂
        dx = … + a Σ g                        without shift_mean, because y has μ in it again

    In words: dx is g without its mean and without its part along x̂, scaled by r; a mean that is given back
    gives its gradient back.
    """
    xhat, share, rstd, kept = saved
    g = np.where(share != 0, dy, 0)
    of_mean, along = g.sum(), (g * xhat).sum()
    return rstd * (g - share * of_mean - xhat * share * along) + kept * share * of_mean, None


# of two numbers hardly anything is left beside their mean and x̂; of 16 that are drawn, more than two count
whiten = Op(
    "...T, ...T! -> ...T",
    whiten_forward,
    whiten_backward,
    weights="weights",
    at_least={"T": 16},
    variants={"mean kept": {"shift_mean": False}, "eps": {"eps": 0.3}},
    saves="...T ...T ()",
)
