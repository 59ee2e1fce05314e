"""Heads for tasks: scores of a text instead of logits, and the losses that are made of them."""

import numpy as np

from ..ops import (
    add,
    bradley_terry,
    cross_entropy,
    last_token,
    linear,
    mean_pool,
    scaled,
    squared_error,
    token_logprobs,
    token_mean,
)
from .layer import Layer
from .transformer import trunk_backward, trunk_forward, unembedded_backward, unembedded_forward

POOLS = {"last": last_token, "mean": mean_pool, "none": None}


def pooled_forward(r, x, read, pool):
    """Scores of what a head reads of the stream x (..., T, C): (..., n), or of each token (..., T, n).

    read: for "last" the place of each text's last token (...), for "mean" weights (..., T), else None.
    """
    h = r("pool", None, x) if POOLS[pool] is None else r("pool", POOLS[pool], x, read)
    return r("score", linear, h)


def pooled_backward(r, dscores):
    """Gradient of pooled_forward with respect to x."""
    return r.back("pool", r.back("score", dscores))


def scores(pool):
    """The layer of a model's head: tokens (..., T) and what it reads → scores."""

    def forward(r, tokens, read=None):
        """Scores of each text, or of each token."""
        return pooled_forward(r, trunk_forward(r, tokens), read, pool)

    def backward(r, dscores):
        """Gradients of forward."""
        trunk_backward(r, pooled_backward(r, dscores))

    return Layer(forward, backward)


LOSSES = {"classes": cross_entropy, "numbers": squared_error}


def tasks(task, pool, text_weight=0.0):
    """The layer of a task's loss: of classes the surprise, of numbers the mean squared error.

    text_weight: that of the surprise at the text itself, GPT-1's second objective (Radford et al. 2018).
    """

    def forward(r, tokens, read, labels, targets=None, weights=None):
        """labels (B) or (B, n); targets and weights (B, T), of the text → ()"""
        x = trunk_forward(r, tokens)
        loss = r("task", LOSSES[task], pooled_forward(r, x, read, pool), labels)
        if not text_weight:
            return loss
        logp = r("logp", token_logprobs, unembedded_forward(r, x), targets)
        surprise = r("text", token_mean, logp, weights)
        return r("loss", add, loss, r("text_part", scaled, surprise, factor=-text_weight))

    def backward(r, dloss):
        """Gradients of forward: the stream is read by the head, and perhaps by the unembedding."""
        dx = 0.0
        if text_weight:
            dloss, dtext = r.back("loss", dloss)
            dx = unembedded_backward(r, r.back("logp", r.back("text", r.back("text_part", dtext))))
        trunk_backward(r, pooled_backward(r, r.back("task", dloss)) + dx)

    return Layer(forward, backward)


def rewards(pool):
    """The layer of a reward model's loss: the mean surprise at which of two texts is the better one."""

    def forward(r, tokens, read):
        """tokens (B, 2, T), the better and the worse → ()"""
        s = pooled_forward(r, trunk_forward(r, tokens), read, pool)[..., 0]
        each = r("pairs", bradley_terry, s[:, 0], s[:, 1])
        return r("loss", token_mean, each, np.ones_like(each))

    def backward(r, dloss):
        """Gradients of forward."""
        ds = np.stack(r.back("pairs", r.back("loss", dloss)), axis=-1)
        trunk_backward(r, pooled_backward(r, ds[..., None]))

    return Layer(forward, backward)
