"""Dropout: forget at random, so that nothing is relied on alone."""

from .op import Op


def dropout_forward(x, *, keep=None, p=0.0):
    """Entries set to 0 with probability p, the others scaled so that the expectation stays.

        y = x k / (1 − p)        k is 1 where an entry is kept

    keep: booleans of x's shape, drawn by the caller (the Record draws them from seed, step and name); None
    keeps all. x (...) → y (...).  Source: Srivastava et al. 2014.
    """
    if keep is None:
        return x, (None, p)
    return x * keep * (1 / (1 - p)), (keep, p)


def dropout_backward(dy, saved):
    """Gradient of dropout_forward with respect to x.

        dx = dy k / (1 − p)        because y is x times a constant

    In words: the same mask and the same scale.
    """
    keep, p = saved
    return (dy if keep is None else dy * keep * (1 / (1 - p)),)


dropout = Op("... -> ...", dropout_forward, dropout_backward, noise=lambda x: x.shape, saves="keep")
