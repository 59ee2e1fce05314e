"""How likely a token is, how open a distribution, and how far it is from another: what tuning is made of.

With τ the temperature of sampling, p = softmax(logits / τ) throughout.
"""

import numpy as np

from .op import Op
from .rounded import rounded_once


@rounded_once
def token_logprobs_forward(logits, targets, *, temperature=1.0, smoothing=0.0):
    """The log-probability of each token that came, in nats: what every loss of tuning reads of a model.

        ln p_v = (l_v − m)/τ − ln Σ_u exp((l_u − m)/τ)        m = max l
        y      = (1 − ε) ln p_target + ε ⟨ln p⟩                ⟨⟩ the mean over the vocabulary

    A negative target does not count: its y is 0. ε smooths the label: the target holds 1 − ε of what is
    expected, and all tokens share the rest alike. −y, averaged, is the cross-entropy.
    logits (..., V), targets (...) integers below V → y (...).  Source of ε: Szegedy et al. 2016.
    """
    counted = targets >= 0
    top = logits.real.max(-1, keepdims=True)
    scaled = (logits - top) * (1 / temperature)
    total = np.exp(scaled).sum(-1, keepdims=True)
    at = np.where(counted, targets, 0)[..., None]
    y = np.take_along_axis(scaled, at, -1)[..., 0]
    if smoothing:  # a logit of −∞ would make 0 · ∞ of a share of 0
        y = y + smoothing * (scaled.mean(-1) - y)
    y = np.where(counted, y - np.log(total[..., 0]), 0)
    return y, (logits, targets, top, total, temperature, smoothing)


@rounded_once
def token_logprobs_backward(dy, saved):
    """Gradients of token_logprobs_forward with respect to logits and targets (none: they are integers).

        ∂ln p_u/∂l_v = ([u = v] − p_v)/τ        because ∂ ln Σ exp(l/τ)/∂l_v = p_v/τ
        dl_v = dy ((1 − ε) [v = target] + ε/V − p_v)/τ        because the weights of the ln p_u add up to 1

    and 0 where the target does not count. In words: what was expected minus what was predicted; each row
    sums to 0.
    """
    logits, targets, top, total, temperature, smoothing = saved
    V = logits.shape[-1]
    probs = np.exp((logits - top) * (1 / temperature)) / total
    is_target = np.arange(V, like=targets) == targets[..., None]
    expected = np.where(is_target, 1 - smoothing + smoothing / V, smoothing / V)
    dlogits = dy[..., None] * (1 / temperature) * (expected - probs)
    return np.where((targets >= 0)[..., None], dlogits, 0), None


token_logprobs = Op(
    "...V, ...~V -> ...",
    token_logprobs_forward,
    token_logprobs_backward,
    variants={
        "temperature": {"temperature": 0.7},
        "smoothing": {"smoothing": 0.1},
        "both": {"temperature": 1.6, "smoothing": 0.3},
    },
    saves="logits targets ... ...",
)


def log_softmax(logits, temperature):
    """ln p = (l − m)/τ − ln Σ exp((l − m)/τ), row by row.  logits (..., V) → (..., V)"""
    scaled = (logits - logits.real.max(-1, keepdims=True)) * (1 / temperature)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def where_seen(probs, values):
    """The values, and 0 where a probability is 0: 0 · ln 0 is 0, but 0 · ∞ is no number."""
    return np.where(probs.real > 0, values, 0)


@rounded_once
def token_entropy_forward(logits, *, temperature=1.0):
    """How undecided a model is about its next token, in nats: 0 where one is sure, ln V where all are alike.

        H = −Σ_v p_v ln p_v

    logits (..., V) → H (...).  Source: Shannon 1948.
    """
    logp = log_softmax(logits, temperature)
    probs = np.exp(logp)
    entropy = -(probs * where_seen(probs, logp)).sum(-1)
    return entropy, (logits, entropy, temperature)


@rounded_once
def token_entropy_backward(dy, saved):
    """Gradient of token_entropy_forward with respect to logits.

        ∂H/∂p_v = −ln p_v − 1,  and a softmax takes g to p (g − ⟨p, g⟩)/τ, in which the 1 cancels:
        dl_v = −dy p_v (ln p_v + H)/τ        because ⟨p, ln p⟩ = −H

    In words: what is likelier than the entropy says loses, what is less likely gains.
    """
    logits, entropy, temperature = saved
    logp = log_softmax(logits, temperature)
    probs = np.exp(logp)
    gap = where_seen(probs, logp + entropy[..., None])
    return (dy[..., None] * (-1 / temperature) * probs * gap,)


token_entropy = Op(
    "...V -> ...",
    token_entropy_forward,
    token_entropy_backward,
    variants={"temperature": {"temperature": 0.7}},
    saves="logits y",
)


@rounded_once
def reverse_kl_forward(logits, fixed, *, temperature=1.0):
    """How far a model has moved from a fixed one, by its own tokens: large where the fixed one has none.

        KL(p‖q) = Σ_v p_v (ln p_v − ln q_v)        q = softmax(fixed / τ)

    fixed: the other model's logits, a constant.
    logits (..., V), fixed (..., V) → KL (...).  Source: Kullback and Leibler 1951.
    """
    logp = log_softmax(logits, temperature)
    probs = np.exp(logp)
    ratio = where_seen(probs, logp) - where_seen(probs, log_softmax(fixed, temperature))
    divergence = (probs * ratio).sum(-1)
    return divergence, (logits, fixed, divergence, temperature)


@rounded_once
def reverse_kl_backward(dy, saved):
    """Gradients of reverse_kl_forward with respect to logits and fixed (none: it is a constant).

        ∂KL/∂p_v = ln(p_v/q_v) + 1,  and a softmax takes g to p (g − ⟨p, g⟩)/τ, in which the 1 cancels:
        dl_v = dy p_v (ln(p_v/q_v) − KL)/τ        because ⟨p, ln(p/q)⟩ = KL

    In words: tokens that the model overrates more than it does on average are taken back.
    """
    logits, fixed, divergence, temperature = saved
    logp = log_softmax(logits, temperature)
    probs = np.exp(logp)
    ratio = where_seen(probs, logp) - where_seen(probs, log_softmax(fixed, temperature))
    return dy[..., None] * (1 / temperature) * probs * (ratio - divergence[..., None]), None


reverse_kl = Op(
    "...V, ...V! -> ...",
    reverse_kl_forward,
    reverse_kl_backward,
    variants={"temperature": {"temperature": 0.7}},
    saves="logits fixed y",
)


@rounded_once
def forward_kl_forward(logits, fixed, *, temperature=1.0):
    """How far a model is from a fixed one, by the fixed one's tokens: large where the model has none.

        KL(q‖p) = Σ_v q_v (ln q_v − ln p_v)        q = softmax(fixed / τ)

    Distillation is τ² KL(q‖p), with the teacher's logits as fixed, a constant: τ > 1 shows which wrong tokens
    the teacher holds for likely, and τ² keeps the gradient's size, which falls like 1/τ²:
    scaled(forward_kl(logits, fixed, temperature=τ), factor=τ²).
    logits (..., V), fixed (..., V) → KL (...).  Source: Hinton, Vinyals and Dean 2015.
    """
    logq = log_softmax(fixed, temperature)
    probs = np.exp(logq)
    ratio = where_seen(probs, logq) - where_seen(probs, log_softmax(logits, temperature))
    return (probs * ratio).sum(-1), (logits, fixed, temperature)


@rounded_once
def forward_kl_backward(dy, saved):
    """Gradients of forward_kl_forward with respect to logits and fixed (none: it is a constant).

        dl_v = dy (p_v − q_v)/τ        because Σ_u q_u ∂(−ln p_u)/∂l_v = (p_v Σ_u q_u − q_v)/τ

    In words: cross-entropy's, with the teacher's probabilities in the place of the one token that came.
    """
    logits, fixed, temperature = saved
    gap = np.exp(log_softmax(logits, temperature)) - np.exp(log_softmax(fixed, temperature))
    return dy[..., None] * (1 / temperature) * gap, None


forward_kl = Op(
    "...V, ...V! -> ...",
    forward_kl_forward,
    forward_kl_backward,
    variants={"temperature": {"temperature": 0.7}},
    saves="logits fixed",
)
