"""How wrong a prediction is: the surprise at what came."""

import numpy as np

from ..errors import InputError
from .op import Op
from .rounded import rounded_once


def cross_entropy_forward(logits, targets, *, count=None):
    """The mean surprise at the targets, in nats.

        loss = Σ_n (lse_n − logits_n[target_n]) / N        lse = m + ln Σ_v exp(logits_v − m),  m = max logits

    n runs over the targets that count: a negative one does not. N is their number, or count where it is given
    (a micro-batch divides by the number of the whole batch, so that the parts add up to the mean over all).
    logits (..., V), targets (...) integers below V → loss ()
    """
    V = logits.shape[-1]
    rows, ids = logits.reshape(-1, V), targets.reshape(-1)  # (N, V), (N)
    counted = ids >= 0
    count = int(counted.sum() if count is None else count)
    if count == 0:
        raise InputError("cross_entropy: no target counts, expected at least one that is not negative")
    top = rows.max(-1, keepdims=True)
    shifted = rows - top
    total = np.exp(shifted).sum(-1, keepdims=True)
    surprise = np.log(total[:, 0]) - shifted[np.arange(len(ids), like=ids), np.where(counted, ids, 0)]
    loss = np.where(counted, surprise, surprise.dtype.type(0)).sum() * (1 / count)
    return loss, (logits, ids, top, total, count)


def cross_entropy_backward(dy, saved):
    """Gradients of cross_entropy_forward with respect to logits and targets (none: they are integers).

        dlogits_nv = dy (softmax(logits_n)_v − [v = target_n]) / N        because ∂lse/∂logits_v = softmax_v
        and 0 in the rows that do not count

    In words: what was predicted minus what was there; each row sums to 0.
    """
    logits, ids, top, total, count = saved
    dlogits = np.exp(logits.reshape(-1, logits.shape[-1]) - top) / total  # (N, V)
    counted = ids >= 0
    dlogits[np.arange(len(ids), like=ids), np.where(counted, ids, 0)] -= counted
    dlogits = np.where(counted[:, None], dlogits * (dy * (1 / count)), dlogits.dtype.type(0))
    return dlogits.reshape(logits.shape), None


cross_entropy = Op(
    "...V, ...~V -> ()",
    cross_entropy_forward,
    cross_entropy_backward,
    variants={"count": {"count": 7}},
    saves="logits targets ... ...",
)


@rounded_once
def squared_error_forward(x, targets):
    """The mean squared error of numbers that a head gives.

        loss = Σ_i (x_i − t_i)² / N        N how many numbers there are

    targets are constants.  x (..., C), targets (..., C) → loss ()
    """
    error = x - targets
    if not error.size:
        raise InputError(f"squared_error: x has shape {x.shape}, expected at least one number")
    return (error * error).sum() * (1 / error.size), (error,)


@rounded_once
def squared_error_backward(dy, saved):
    """Gradients of squared_error_forward with respect to x and targets (none: they are constants).

        dx = dy 2 (x − t) / N        because the slope of a square is twice its root

    In words: each number is pulled towards its target by twice its distance.
    """
    (error,) = saved
    return dy * (2 / error.size) * error, None


squared_error = Op("...C, ...C! -> ()", squared_error_forward, squared_error_backward, saves="...C")


@rounded_once
def anchor_forward(w, centre, stiffness):
    """What it costs to move parameters away from where they were, each by its own stiffness.

        y = ½ Σ_i f_i (w_i − c_i)²

    c and f are constants. With f the diagonal of the Fisher matrix at c this is, to second order, how much a
    model that was trained there changes its predictions.
    w (..., C), centre (..., C), stiffness (..., C) → y ().  Source: Kirkpatrick et al. 2017.
    """
    if not w.size:
        raise InputError(f"anchor: w has shape {w.shape}, expected at least one number")
    moved = w - centre
    return (0.5 * stiffness * moved * moved).sum(), (moved, stiffness)


@rounded_once
def anchor_backward(dy, saved):
    """Gradients of anchor_forward with respect to w, centre and stiffness (none: they are constants).

        dw_i = dy f_i (w_i − c_i)        because the slope of half a square is its root

    In words: a spring at each parameter pulls it back.
    """
    moved, stiffness = saved
    return dy * stiffness * moved, None, None


anchor = Op("...C, ...C!, ...C! -> ()", anchor_forward, anchor_backward, saves="...C stiffness")
