"""Sums of two values, and values shifted and scaled by what is the same for all positions."""

from .linear import sum_rows
from .op import Op


def add_forward(x, y):
    """The sum of two values of one shape, as the residual stream takes up what a part of a block adds.

        z = x + y

    x, y (...) → z (...)
    """
    return x + y, ()


def add_backward(dz, saved):
    """Gradients of add_forward with respect to x and y.

        dx = dz,  dy = dz        because ∂z/∂x = ∂z/∂y = 1

    In words: a sum passes its gradient to both terms.
    """
    () = saved
    return dz, dz


add = Op("..., ... -> ...", add_forward, add_backward, saves="")


def scaled_forward(x, *, factor=1.0):
    """A value times a number of the model's settings, as Gemma and Granite scale embeddings and logits.

        y = c x        c the factor

    x (...) → y (...)
    """
    return x * float(factor), (float(factor),)


def scaled_backward(dy, saved):
    """Gradient of scaled_forward with respect to x.

        dx = c dy        because ∂y/∂x = c

    In words: what is scaled forward is scaled backward.
    """
    (factor,) = saved
    return (dy * factor,)


scaled = Op("... -> ...", scaled_forward, scaled_backward, variants={"halved": {"factor": 0.5}}, saves="")


def shift_forward(x, bias):
    """A learned amount added to each channel: the bias of a head whose matrix is an op of its own.

        y = x + b

    x (..., C) → y (..., C)
    """
    return x + bias, ()


def shift_backward(dy, saved):
    """Gradients of shift_forward with respect to x and bias.

        dx = dy        because ∂y/∂x = 1
        db = Σ dy      because all rows share b

    In words: a sum passes its gradient to both terms, and to the shared one from every row.
    """
    () = saved
    return dy, sum_rows(dy.reshape(-1, dy.shape[-1]))


shift = Op("...C, C -> ...C", shift_forward, shift_backward, parameters=("bias",), saves="")
