"""Attention with a sink: a learned score of each head that takes a share of the softmax, without a value."""

import math

import numpy as np

from ..engine.precision import FORMATS
from .attention import (
    Form,
    attend_groups_backward,
    attend_in_form,
    by_group,
    expecting,
    heads_in_groups,
    in_groups,
    intervals,
    merge_heads,
    of_its_own,
    one_head_each,
    random_mask,
    split_heads,
    visible,
)
from .op import Op
from .rounded import rounded_once

PRECISIONS = FORMATS  # in which products can be computed here: attention's


def sink_attention_forward(
    qkv,
    sink,
    *,
    n_head,
    n_kv_head=None,
    scale=None,
    cap=None,
    slopes=None,
    first=None,
    last=None,
    mask=None,
    keep=None,
    p=0.0,
):
    """Causal multi-head attention whose heads may attend to nothing.

        P_ts = exp(s_ts − m) / (Σ_s exp(s_ts − m) + exp(z_h − m))        z the sink of head h
        y = P̃ v        the heads side by side

    m is the largest of the scores and the sink; each row of P adds up to 1 − p, p the sink's share.
    The options are attention's.
    qkv (..., T, HD + 2KD), sink (H) → y (..., T, HD).  Source: OpenAI 2025, gpt-oss.
    """
    q, k, v = split_heads(qkv, n_head, n_kv_head)
    K = k.shape[-3]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    form = in_groups(Form(scale, cap, slopes, first, last, mask), K, n_head // K)
    keep = heads_in_groups(keep, K, n_head // K)
    grouped = by_group(q, K), k[..., None, :, :], v[..., None, :, :]
    y, saved = attend_in_form(*grouped, form, keep, p, sink.reshape(K, -1, 1, 1))
    y = merge_heads(y.reshape(q.shape))
    return y, (saved, n_head, sink, y)


def sink_attention_backward(dy, saved):
    """Gradients of sink_attention_forward with respect to qkv and sink.

        Δ = Σ_s P dP = ⟨dy, y⟩       the mean of dP under P; the sink has no value, so its dP is 0
        ds = P (dP − Δ)              as in attend_backward, whose sums know the sink
        dz = −Σ p Δ                  over rows and queries, because dz is p (0 − Δ), p = exp(z − m) / total

    In words: the sink's score gains where reading nothing would have been better than what was read.
    """
    attended, n_head, sink, y = saved
    top, total = attended[3:5]
    K = top.shape[-4]
    dheads = one_head_each(dy, n_head)
    dys, ys = by_group(dheads, K), by_group(one_head_each(y, n_head), K)
    dq, dk, dv = attend_groups_backward(dys, attended)
    dqkv = [merge_heads(dq.reshape(dheads.shape)), merge_heads(dk), merge_heads(dv)]
    return np.concatenate(dqkv, axis=-1), dsink_of(dys, ys, sink, top, total)


def dsink_of(dys, ys, sink, top, total):
    """dz (H) of sink_attention_backward, from the heads' dy and y (..., K, G, T, D)."""
    share = np.exp(sink.reshape(ys.shape[-4], -1, 1, 1) - top) / total
    dsink = -(share * (dys * ys).sum(-1, keepdims=True)).sum((-1, -2))  # (..., K, G)
    return dsink.reshape(-1, sink.size).sum(0)


sink_attention = Op(
    "...T(KGD+2KD), (KG) -> ...T(KGD)",
    sink_attention_forward,
    sink_attention_backward,
    parameters=("sink",),
    sizes={"n_head": "KG", "n_kv_head": "K"},
    noise=lambda qkv, sink=None, *, n_head, **_: (*qkv.shape[:-2], n_head, qkv.shape[-2], qkv.shape[-2]),
    expect=expecting(lambda qkv, sink, n_head: qkv.shape[:-1], lambda qkv, sink, n_head: (n_head,)),
    variants={
        "mask": of_its_own(random_mask),
        "intervals": of_its_own(intervals),
        "cap": {"cap": 1.5},
        "slopes": lambda rng, sizes: {"slopes": rng.random(sizes["K"] * sizes["G"])},
    },
    saves="qkv y ...T(KG) ...T(KG) slopes first last mask keep",
)


def beside_sink(y, saved, sink):
    """What heads give that may attend to nothing, from what attend_groups gave of heads that may not.

        Σ_s exp(s − m) v / (Σ_s exp(s − m) + exp(z − m)) = y S / (S + exp(z − m)),  S = Σ_s exp(s − m)

    because y is the same sum over S. m is the largest of the scores and the sink, as in sink_attention.
    y (..., K, G, T, D), sink (KG) → (..., K, G, T, D)
    """
    top, total = saved[3:5]
    z = sink.reshape(*y.shape[-4:-2], 1, 1)
    largest = np.maximum(top, z)
    own = total * np.exp(top - largest)
    return y * (own / (own + np.exp(z - largest)))


@rounded_once
def sink_probs_forward(scores, sink, *, first=None, last=None, mask=None):
    """The softmax of each query's scores over the keys that it sees, and a sink that takes a share.

        P_ts = exp(s_ts − m) / (Σ_s exp(s_ts − m) + exp(z_h − m))        over the visible s

    m is the largest of their scores and z_h. first, last and mask are those of attention_probs.
    scores (..., H, T, S), sink (H) → P (..., H, T, S)
    """
    form = Form(1.0, None, None, *(a if a is None else a[..., None, :] for a in (first, last)), mask)
    seen = visible(*scores.shape[-2:], form, scores)
    scores, z = np.where(seen, scores, -np.inf), sink[:, None, None]
    top = np.maximum(scores.max(-1, keepdims=True), z)
    exps = np.exp(scores - top)
    share = np.exp(z - top)
    total = exps.sum(-1, keepdims=True) + share
    probs = exps / total
    return probs, (probs, share / total)


def sink_probs_backward(dy, saved):
    """Gradients of sink_probs_forward with respect to scores and sink.

        Δ = Σ_s P dP               the sink's own dP is 0
        ds = P (dP − Δ)            because ∂P_s/∂s_r = P_s ([s = r] − P_r)
        dz = −Σ p Δ                over rows and queries, because ∂P_s/∂z = −P_s p, p the sink's share

    In words: each score gains by how much better its key did than the mean, and the sink's key gives nothing.
    """
    probs, share = saved
    mean = (probs * dy).sum(-1, keepdims=True)
    dsink = -(share * mean).sum((-1, -2))  # (..., H)
    return probs * (dy - mean), dsink.reshape(-1, dsink.shape[-1]).sum(0)


sink_probs = Op(
    "...HTS, H -> ...HTS",
    sink_probs_forward,
    sink_probs_backward,
    parameters=("sink",),
    at_least={"S": "T"},
    expect=expecting(
        lambda scores, sink, _: (*scores.shape[:-3], scores.shape[-2]),
        None,
        lambda scores, sink, _: scores.shape,
    ),
    variants={"mask": random_mask, "intervals": intervals},
    saves="y ...HT",
)
