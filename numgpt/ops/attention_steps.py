"""The steps of attention, each an op: what is to be seen or changed between q k v and the heads' result."""

import math

import numpy as np

from .. import engine
from ..engine.precision import FORMATS, product
from .attention import (
    Form,
    by_group,
    cap_slope,
    capped,
    distances,
    dropped,
    expecting,
    intervals,
    merge_heads,
    one_head_each,
    random_mask,
    split_heads,
    visible,
)
from .op import Op
from .positions import alibi_slopes
from .rounded import rounded_once
from .saving import blank

PRECISIONS = FORMATS  # in which products can be computed here

PACKED = "...T(KGD+2KD)"
HEADS = {"n_head": "KG", "n_kv_head": "K"}


def query_heads_forward(qkv, *, n_head, n_kv_head=None):
    """The queries of packed queries, keys and values.

        q_h = channels hD … (h+1)D of qkv

    qkv (..., T, HD + 2KD) → q (..., H, T, D)
    """
    return _part(0, qkv, n_head, n_kv_head)


def query_heads_backward(dy, saved):
    """Gradient of query_heads_forward with respect to qkv.

        dqkv = dq in its channels, 0 in the others        because q does not depend on those

    In words: each number goes back to where it was taken from.
    """
    return _back(0, dy, saved)


query_heads = Op(f"{PACKED} -> ...(KG)TD", query_heads_forward, query_heads_backward, sizes=HEADS, saves="")


def key_heads_forward(qkv, *, n_head, n_kv_head=None):
    """The keys of packed queries, keys and values.

        k_j = channels (H + j)D … (H + j + 1)D of qkv

    qkv (..., T, HD + 2KD) → k (..., K, T, D)
    """
    return _part(1, qkv, n_head, n_kv_head)


def key_heads_backward(dy, saved):
    """Gradient of key_heads_forward with respect to qkv.

        dqkv = dk in its channels, 0 in the others        because k does not depend on those

    In words: each number goes back to where it was taken from.
    """
    return _back(1, dy, saved)


key_heads = Op(f"{PACKED} -> ...KTD", key_heads_forward, key_heads_backward, sizes=HEADS, saves="")


def value_heads_forward(qkv, *, n_head, n_kv_head=None):
    """The values of packed queries, keys and values.

        v_j = channels (H + K + j)D … (H + K + j + 1)D of qkv

    qkv (..., T, HD + 2KD) → v (..., K, T, D)
    """
    return _part(2, qkv, n_head, n_kv_head)


def value_heads_backward(dy, saved):
    """Gradient of value_heads_forward with respect to qkv.

        dqkv = dv in its channels, 0 in the others        because v does not depend on those

    In words: each number goes back to where it was taken from.
    """
    return _back(2, dy, saved)


value_heads = Op(f"{PACKED} -> ...KTD", value_heads_forward, value_heads_backward, sizes=HEADS, saves="")


def _part(which, qkv, n_head, n_kv_head):
    part = split_heads(qkv, n_head, n_kv_head)[which]
    return np.ascontiguousarray(part, like=qkv), (qkv.shape[-1], n_head, n_kv_head)


def _back(which, dy, saved):
    channels, n_head, n_kv_head = saved
    *lead, _, T, _ = dy.shape
    dqkv = np.zeros((*lead, T, channels), dy.dtype, like=dy)
    split_heads(dqkv, n_head, n_kv_head)[which][...] = dy
    return (dqkv,)


def attention_scores_forward(q, k, *, scale=None):
    """How well each key matches each query.

        s_ts = scale ⟨q_t, k_s⟩        head h of q reads the keys of head h // G

    scale: 1/√D unless given.  q (..., KG, T, D), k (..., K, S, D) → s (..., KG, T, S)
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    grouped = by_group(q, k.shape[-3])
    scores = product(grouped, k[..., None, :, :].swapaxes(-1, -2)) * scale
    return scores.reshape(*q.shape[:-1], k.shape[-2]), (grouped, k, scale)


def attention_scores_backward(dy, saved):
    """Gradients of attention_scores_forward with respect to q and k.

        dq = scale ds k              because s = scale q kᵀ
        dk = scale Σ_g dsᵀ q         and the G heads of a group read the same keys

    In words: each factor's gradient is ds times the other.
    """
    q, k, scale = saved
    *lead, H, T, S = dy.shape
    dscores = dy.reshape(*q.shape[:-1], S)
    dq = product(dscores, k[..., None, :, :]) * scale
    dk = (product(dscores.swapaxes(-1, -2), q) * scale).sum(-3)
    return dq.reshape(*lead, H, T, q.shape[-1]), dk


attention_scores = Op(
    "...(KG)TD, ...KSD -> ...(KG)TS",
    attention_scores_forward,
    attention_scores_backward,
    variants={"scale 1": {"scale": 1.0}},
    saves="q k",
)


@rounded_once
def softcap_forward(x, *, cap=None):
    """Large values held back.

        y = c tanh(x / c)

    Near x where |x| is small beside cap = c, which is 50 unless given, and never beyond ±c.
    x (...) → y (...).  Source: Gemma Team 2024.
    """
    cap = 50.0 if cap is None else cap
    return capped(x, cap), (x, cap)


@rounded_once
def softcap_backward(dy, saved):
    """Gradient of softcap_forward with respect to x.

        dx = dy (1 − tanh²(x / c))        because dtanh(u)/du = 1 − tanh² u
           = dy 4 e / (1 + e)²            with e = exp(−2 |x / c|): 1 − tanh² would lose its digits

    In words: what was held back forward changes little, so little passes back.
    """
    x, cap = saved
    return (dy * cap_slope(x, cap),)


softcap = Op("... -> ...", softcap_forward, softcap_backward, variants={"cap 2": {"cap": 2.0}}, saves="x")


def distance_slopes_forward(scores, *, slopes=None):
    """A score falls with the distance of its key, in each head with a slope of its own (ALiBi).

        y_hts = s_hts + m_h (s − i)        i = t + S − T, the position of query t

    slopes (H), alibi_slopes unless given.  scores (..., H, T, S) → y (..., H, T, S).
    Source: Press, Smith and Lewis 2022.
    """
    if slopes is None:
        slopes = engine.beside(alibi_slopes(scores.shape[-3]), scores)
    return scores + distances(*scores.shape[-2:], slopes, scores), ()


def distance_slopes_backward(dy, saved):
    """Gradient of distance_slopes_forward with respect to scores.

        ds = dy        because what is added does not depend on s

    In words: a sum passes its gradient on.
    """
    () = saved
    return (dy,)


distance_slopes = Op(
    "...HTS -> ...HTS",
    distance_slopes_forward,
    distance_slopes_backward,
    at_least={"S": "T"},
    expect=expecting(None, lambda scores, _: (scores.shape[-3],)),
    variants={"slopes": lambda rng, sizes: {"slopes": rng.random(sizes["H"])}},
    saves="",
)


@rounded_once
def attention_probs_forward(scores, *, first=None, last=None, mask=None):
    """The softmax of each query's scores over the keys that it sees; 0 for the others.

        P_ts = exp(s_ts − m) / Σ_s exp(s_ts − m)        over the visible s, m the largest of their scores

    first and last broadcast to (..., T), mask to (..., 1 or H, T, S): as in attend.
    scores (..., H, T, S) → P (..., H, T, S)
    """
    form = Form(1.0, None, None, *(a if a is None else a[..., None, :] for a in (first, last)), mask)
    seen = visible(*scores.shape[-2:], form, scores)
    scores = np.where(seen, scores, -np.inf)
    exps = np.exp(scores - scores.max(-1, keepdims=True))
    probs = exps / exps.sum(-1, keepdims=True)
    return probs, (probs,)


def attention_probs_backward(dy, saved):
    """Gradient of attention_probs_forward with respect to scores.

        Δ = Σ_s P dP            the mean of dP under P
        ds = P (dP − Δ)         because ∂P_s/∂s_r = P_s ([s = r] − P_r)

    In words: how much better a key did than the mean key, times how much it was used.
    """
    (probs,) = saved
    return (probs * (dy - (probs * dy).sum(-1, keepdims=True)),)


attention_probs = Op(
    "...HTS -> ...HTS",
    attention_probs_forward,
    attention_probs_backward,
    at_least={"S": "T"},
    expect=expecting(
        lambda scores, _: (*scores.shape[:-3], scores.shape[-2]), None, lambda scores, _: scores.shape
    ),
    variants={"mask": random_mask, "intervals": intervals},
    saves="y",
)


def weighted_values_forward(probs, v, *, keep=None, p=0.0):
    """Each query's mean of the values, the heads side by side.

        y_h = P̃_h v_{h // G}        P̃ = P k / (1 − p) with dropout, else P

    keep: booleans (..., KG, T, S), the probabilities that dropout keeps; p: the share that it drops.
    probs (..., KG, T, S), v (..., K, S, D) → y (..., T, KGD)
    """
    used = by_group(dropped(probs, keep, p), v.shape[-3])
    y = product(used, v[..., None, :, :])
    return merge_heads(y.reshape(*probs.shape[:-1], v.shape[-1])), (used, v, keep, p)


def weighted_values_backward(dy, saved):
    """Gradients of weighted_values_forward with respect to probs and v.

        dP̃ = dy vᵀ,  dP = dP̃ k / (1 − p)        because y = P̃ v
        dv = Σ_g P̃ᵀ dy                           and the G heads of a group read the same values

    In words: each factor's gradient is dy times the other.
    """
    used, v, keep, p = saved
    *lead, K, G, T, S = used.shape
    dys = by_group(one_head_each(dy, K * G), K)
    dused = product(dys, v[..., None, :, :].swapaxes(-1, -2)).reshape(*lead, K * G, T, S)
    dv = product(used.swapaxes(-1, -2), dys).sum(-3)
    return dropped(dused, keep, p), dv


def _saved_mix(arrays, options, y):
    """The probabilities as they are used: with dropout, an array of their own."""
    (probs, v), keep = arrays, options.get("keep")
    return (probs, v) if keep is None else (blank(probs.shape, y.dtype), v, keep)


weighted_values = Op(
    "...(KG)TS, ...KSD -> ...T(KGD)",
    weighted_values_forward,
    weighted_values_backward,
    noise=lambda probs, v, **_: probs.shape,
    saves=_saved_mix,
)
