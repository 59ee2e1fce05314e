"""Twin of sink_attention: attention's kernels, whose sums know the sink."""

import math

import numpy as np

from ..engine import bf16
from .attention import Form, by_group, in_groups, one_head_each, split_heads
from .attention_numba import attend_back_into, attend_into, is_compiled
from .sinks import sink_attention

PRECISIONS = bf16.PRECISIONS


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
    """Twin of ops.sinks.sink_attention_forward; what is_compiled does not name is the specification's."""
    q, k, v = split_heads(qkv, n_head, n_kv_head)
    K = k.shape[-3]
    form = Form(1 / math.sqrt(q.shape[-1]) if scale is None else scale, cap, slopes, first, last, mask)
    if not is_compiled(form, keep):
        return sink_attention.forward(
            qkv, sink, n_head=n_head, n_kv_head=n_kv_head, **form._asdict(), keep=keep, p=p
        )
    merged = np.empty((*qkv.shape[:-1], n_head * q.shape[-1]), qkv.dtype)
    form = in_groups(form, K, n_head // K)
    q, k, v = by_group(q, K), k[..., None, :, :], v[..., None, :, :]
    y = by_group(one_head_each(merged, n_head), K)
    top, total = attend_into(q, k, v, form, y, n_head, K, sink.reshape(K, -1))
    return merged, ((q, k, v, top, total, form, None, p), n_head, sink, merged)


def sink_attention_backward(dy, saved):
    """Twin of ops.sinks.sink_attention_backward: dq, dk and dv are written side by side."""
    heads, n_head, sink, _ = saved
    q, _, _, _, _, form, keep, _ = heads
    if not is_compiled(form, keep):
        return sink_attention.backward(dy, saved)
    K, D = q.shape[-4], q.shape[-1]
    dqkv = np.empty((*dy.shape[:-1], (n_head + 2 * K) * D), dy.dtype)
    places = split_heads(dqkv, n_head, K)
    dsinks = attend_back_into(one_head_each(dy, n_head), heads, *places, n_head, K, sink.reshape(K, -1))
    return dqkv, dsinks.sum(0).astype(dy.dtype)
