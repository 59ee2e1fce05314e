"""Causal attention: each position reads from those before it and from itself."""

import math

import numpy as np

from ..errors import InputError
from .op import Op


def attend_forward(q, k, v, *, scale=None, mask=None, keep=None, p=0.0):
    """For each query a mean of the values, weighted by how well their keys match it.

        s_ts = scale ⟨q_t, k_s⟩, −∞ where t may not see s
        P = exp(s − m) / Σ exp(s − m)        the softmax over the keys, m their maximum
        y = P̃ v        P̃ = P k / (1 − p) with dropout on the probabilities, else P

    The T queries are the last T of the S positions: query t sees keys 0 … t + S − T.
    scale: 1/√D unless given.
    mask: booleans that broadcast to (..., T, S); False hides a key that the causal rule would show.
    keep: booleans (..., T, S), the probabilities that dropout keeps; p: the share that it drops.
    q (..., T, D), k and v (..., S, D), S ≥ T → y (..., T, D).  Source: Vaswani et al. 2017.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = masked_scores(q, k, scale, mask)
    top = scores.max(-1, keepdims=True)
    exps = np.exp(scores - top)
    total = exps.sum(-1, keepdims=True)
    y = dropped(exps / total, keep, p) @ v
    return y, (q, k, v, top, total, scale, mask, keep, p)


def attend_backward(dy, saved):
    """Gradients of attend_forward with respect to q, k and v.

        P = exp(s − m) / Σ exp(s − m)       again, so that the forward need not keep a (T, S) array
        dv = P̃ᵀ dy                          because y = P̃ v
        dP̃ = dy vᵀ,  dP = dP̃ k / (1 − p)
        Δ = Σ_s P dP                        the mean of dP under P
        ds = P (dP − Δ)                     because ∂P_s/∂s_r = P_s ([s = r] − P_r)
        dq = scale ds k,  dk = scale dsᵀ q  because s = scale q kᵀ

    In words: a score's gradient is how much better its key did than the mean key, times how much it was used;
    hidden keys have P = 0 and so get exactly nothing.

    Δ is ⟨dy, y⟩ too, which costs less. But y is not rounded as dP is: where one key takes all of P, the truth
    is ds = 0, and what would be left there is noise as large as dP's, which q and k then multiply.
    """
    q, k, v, top, total, scale, mask, keep, p = saved
    probs = np.exp(masked_scores(q, k, scale, mask) - top) / total
    dv = dropped(probs, keep, p).swapaxes(-1, -2) @ dy
    dprobs = dropped(dy @ v.swapaxes(-1, -2), keep, p)
    dscores = probs * (dprobs - (probs * dprobs).sum(-1, keepdims=True))
    dq = dscores @ k * scale
    dk = dscores.swapaxes(-1, -2) @ q * scale
    return dq, dk, dv


def masked_scores(q, k, scale, mask):
    """scale q kᵀ (..., T, S), −∞ where a query may not see a key: a later one, or one that the mask hides."""
    T, S = q.shape[-2], k.shape[-2]
    visible = np.tri(T, S, S - T, dtype=bool, like=q)
    if mask is not None:
        visible = visible & mask
        if not visible.any(-1).all():
            raise InputError(
                "attention: the mask leaves a query without a key, expected at least one: let it see itself"
            )
    return np.where(visible, q @ k.swapaxes(-1, -2) * scale, -np.inf)


def dropped(probs, keep, p):
    """probs k / (1 − p), or probs where nothing is dropped. Linear, so its own transpose."""
    return probs if keep is None else probs * keep * (1 / (1 - p))


attend = Op(
    "...TD, ...SD, ...SD -> ...TD",
    attend_forward,
    attend_backward,
    at_least={"S": "T"},
    noise=lambda q, k, v: (*q.shape[:-1], k.shape[-2]),
    variants={
        "scale 1": {"scale": 1.0},
        "mask": lambda rng, sizes: {
            "mask": (
                (rng.random((sizes["T"], sizes["S"])) < 0.5)
                | np.eye(sizes["T"], sizes["S"], sizes["S"] - sizes["T"], dtype=bool)
            )
        },
    },
)


def attention_forward(qkv, *, n_head, scale=None, mask=None, keep=None, p=0.0):
    """Causal multi-head attention from packed queries, keys and values.

        q, k, v = the three thirds of qkv's channels, each split into H heads of size D
        y = the heads' attend(q, k, v), side by side

    mask (..., 1 or H, T, T); keep (..., H, T, T).  qkv (..., T, 3HD) → y (..., T, HD)
    """
    q, k, v = split_heads(qkv, n_head)
    y, saved = attend_forward(q, k, v, scale=scale, mask=mask, keep=keep, p=p)
    return merge_heads(y), (saved, n_head)


def attention_backward(dy, saved):
    """Gradient of attention_forward with respect to qkv.

        dq, dk, dv = attend_backward of dy, split into heads as q was
        dqkv = the three side by side        because splitting and merging only move numbers

    In words: split, go back through each head, merge.
    """
    saved, n_head = saved
    dq, dk, dv = attend_backward(one_head_each(dy, n_head), saved)
    return (np.concatenate([merge_heads(dq), merge_heads(dk), merge_heads(dv)], axis=-1),)


def split_heads(qkv, n_head):
    """qkv (..., T, 3HD) → q, k, v (..., H, T, D), views."""
    C = qkv.shape[-1] // 3
    return tuple(one_head_each(qkv[..., i * C : (i + 1) * C], n_head) for i in range(3))


def one_head_each(x, n_head):
    """x (..., T, HD) → (..., H, T, D), a view."""
    *lead, T, C = x.shape
    return x.reshape(*lead, T, n_head, C // n_head).swapaxes(-3, -2)


def merge_heads(heads):
    """heads (..., H, T, D) → (..., T, HD)."""
    *lead, H, T, D = heads.shape
    return heads.swapaxes(-3, -2).reshape(*lead, T, H * D)


attention = Op(
    "...T(3HD) -> ...T(HD)",
    attention_forward,
    attention_backward,
    sizes={"n_head": "H"},
    noise=lambda qkv, n_head: (*qkv.shape[:-2], n_head, qkv.shape[-2], qkv.shape[-2]),
    variants=attend.variants
    | {
        "mask": lambda rng, sizes: {
            "mask": (rng.random((sizes["T"], sizes["T"])) < 0.5) | np.eye(sizes["T"], dtype=bool)
        }
    },
)
