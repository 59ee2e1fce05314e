"""Attention's heads step by step: the mirrored text of what ops.attention computes in one piece."""

from ..ops.attention import attention
from ..ops.attention_steps import (
    attention_scores,
    distance_slopes,
    key_heads,
    query_heads,
    softcap,
    value_heads,
    weighted_values,
)
from ..ops.sinks import sink_attention
from .layer import Layer
from .pickers import probabilities


def heads_forward(
    r, qkv, *, n_head, n_kv_head=None, scale=None, cap=None, slopes=None, keep=None, p=0.0, **seen
):
    """Each head's mean of the values, weighted by how well keys match queries.  qkv → y (..., T, HD)

    seen: first, last and mask, of the keys that a query may see. The other options are attention's.
    """
    q = r("q", query_heads, qkv, n_head=n_head, n_kv_head=n_kv_head)
    k = r("k", key_heads, qkv, n_head=n_head, n_kv_head=n_kv_head)
    v = r("v", value_heads, qkv, n_head=n_head, n_kv_head=n_kv_head)
    s = r("scores", attention_scores, q, k, scale=scale)
    s = r("cap", None if cap is None else softcap, s, cap=cap)
    s = r("slopes", None if slopes is None else distance_slopes, s, slopes=slopes)
    probs = probabilities(r, "probs", s, **seen)
    return r("mix", weighted_values, probs, v, keep=keep, p=p)


def heads_backward(r, dy):
    """Gradient of heads_forward with respect to qkv."""
    dprobs, dv = r.back("mix", dy)
    ds = r.back("probs", dprobs)
    ds = r.back("slopes", ds)
    ds = r.back("cap", ds)
    dq, dk = r.back("scores", ds)
    return r.back("q", dq) + r.back("k", dk) + r.back("v", dv)


STEPS = ("q", "k", "v", "scores", "cap", "slopes", "probs", "mix")
heads = Layer(heads_forward, heads_backward, whole=attention, steps=STEPS)
sink_heads = Layer(heads_forward, heads_backward, whole=sink_attention, steps=STEPS)
HEADS = {False: heads, True: sink_heads}  # by Config.sink
