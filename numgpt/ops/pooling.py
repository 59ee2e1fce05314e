"""One vector for a text, out of a vector a token: what heads for classes and rewards read."""

import numpy as np

from .means import masked, sums_of_rows
from .op import Op
from .rounded import rounded_once


def last_token_forward(x, places):
    """The vector of each row's last token: in a causal model the one that has seen the whole text.

        y_n = x_n at places_n

    places is the length of each row minus 1. It comes from the lengths, and not from where padding begins:
    padding may be a token that texts hold, too.
    x (..., T, C), places (...) integers below T → y (..., C)
    """
    y = np.take_along_axis(x, places[..., None, None], -2)[..., 0, :]
    return y, (x.shape[-2], places)


def last_token_backward(dy, saved):
    """Gradients of last_token_forward with respect to x and places (none: they are integers).

        dx_nt = dy_n [t = places_n]        because y is one of the vectors of x

    In words: the last token gets all of dy.
    """
    T, places = saved
    is_last = np.arange(T, like=places) == places[..., None]
    return np.where(is_last[..., None], dy[..., None, :], 0), None


last_token = Op("...TC, ...<T -> ...C", last_token_forward, last_token_backward, saves="places")


@rounded_once
def mean_pool_forward(x, weights):
    """The mean of a row's vectors, of those that count.

        y_n = Σ_t w_nt x_nt / Σ_t w_nt

    weights are constants, 0 for padding: whatever x holds there is not looked at.
    x (..., T, C), weights (..., T) → y (..., C)
    """
    seen, weights = masked(x, weights[..., None])
    share = weights[..., 0] / sums_of_rows("mean_pool", weights[..., 0])[..., None]
    return (seen * share[..., None]).sum(-2), (share,)


@rounded_once
def mean_pool_backward(dy, saved):
    """Gradients of mean_pool_forward with respect to x and weights (none: they are constants).

        dx_nt = dy_n w_nt / Σ_s w_ns        because y is linear in x

    In words: each token gets its weight's share of dy.
    """
    (share,) = saved
    return share[..., None] * dy[..., None, :], None


mean_pool = Op("...TC, ...T! -> ...C", mean_pool_forward, mean_pool_backward, weights="weights", saves="...T")
