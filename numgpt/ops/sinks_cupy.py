"""Twin of sink_attention on a GPU: attention's kernels, whose sums know the sink."""

import math

from ..engine.precision import FORMATS
from .attention import Form, by_group, heads_in_groups, in_groups, one_head_each, split_heads
from .attention_cupy import attend_back_into, attend_into, has_kernels
from .sinks import dsink_of, sink_attention

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
    """Twin of ops.sinks.sink_attention_forward; what has_kernels declines is the specification's."""
    import cupy as cp

    q, k, v = split_heads(qkv, n_head, n_kv_head)
    K = k.shape[-3]
    form = Form(1 / math.sqrt(q.shape[-1]) if scale is None else scale, cap, slopes, first, last, mask)
    if not has_kernels(form):
        return sink_attention.forward(
            qkv, sink, n_head=n_head, n_kv_head=n_kv_head, **form._asdict(), keep=keep, p=p
        )
    merged = cp.empty((*qkv.shape[:-1], n_head * q.shape[-1]), qkv.dtype)
    form, keep = in_groups(form, K, n_head // K), heads_in_groups(keep, K, n_head // K)
    q, k, v = by_group(q, K), k[..., None, :, :], v[..., None, :, :]
    y = by_group(one_head_each(merged, n_head), K)
    top, total = attend_into(q, k, v, form, keep, p, y, sink)
    return merged, ((q, k, v, top, total, form, keep, p), n_head, sink, merged)


def sink_attention_backward(dy, saved):
    """Twin of ops.sinks.sink_attention_backward: dq, dk and dv are written side by side."""
    import cupy as cp

    heads, n_head, sink, y = saved
    if not has_kernels(heads[5]):
        return sink_attention.backward(dy, saved)
    *_, K, _, _, D = heads[0].shape
    dqkv = cp.empty((*dy.shape[:-1], (n_head + 2 * K) * D), dy.dtype)
    dq, dk, dv = split_heads(dqkv, n_head, K)
    dys, ys = (by_group(one_head_each(a, n_head), K) for a in (dy, y))
    attend_back_into(dys, heads, by_group(dq, K), dk[..., None, :, :], dv[..., None, :, :])
    return dqkv, dsink_of(dys, ys, sink, *heads[3:5])
