"""How wrong a prediction is."""

import numpy as np

from ..errors import InputError
from .op import Op


def cross_entropy_forward(logits, targets, *, count=None):
    """The mean surprise at the targets, in nats.

        loss = Σ_n (lse_n − logits_n[target_n]) / N        lse = m + ln Σ_v exp(logits_v − m),  m = max logits

    n runs over the targets that count: a negative one does not. N is their number, or count where it is given (a micro-batch
    divides by the number of the whole batch, so that the parts add up to the mean over all).
    logits (..., V), targets (...) integers below V → loss ()
    """
    V = logits.shape[-1]
    rows, ids = logits.reshape(-1, V), targets.reshape(-1)  # (N, V), (N)
    counted = ids >= 0
    count = int(counted.sum() if count is None else count)
    if count == 0:
        raise InputError("cross_entropy: no target counts, expected at least one that is not negative")
    ids = np.where(counted, ids, 0)
    shifted = rows - rows.max(-1, keepdims=True)
    exps = np.exp(shifted)
    sums = exps.sum(-1, keepdims=True)
    surprise = np.log(sums[:, 0]) - shifted[np.arange(len(ids)), ids]
    loss = np.where(counted, surprise, surprise.dtype.type(0)).sum() * (1 / count)
    return loss, (exps / sums, ids, counted, count, logits.shape)


def cross_entropy_backward(dy, saved):
    """Gradients of cross_entropy_forward with respect to logits and targets (none: they are integers).

        dlogits_nv = dy (softmax(logits_n)_v − [v = target_n]) / N        because ∂lse/∂logits_v = softmax_v
        and 0 in the rows that do not count

    In words: what was predicted minus what was there; each row sums to 0.
    """
    probs, ids, counted, count, shape = saved
    dlogits = probs.copy()
    dlogits[np.arange(len(ids)), ids] -= 1
    dlogits *= np.where(counted, dy * (1 / count), dy * 0)[:, None]
    return dlogits.reshape(shape), None


cross_entropy = Op(
    "...V, ...~V -> ()",
    cross_entropy_forward,
    cross_entropy_backward,
    variants={"count": {"count": 7}},
)
