"""How PyTorch computes attention and its steps: rows of the table of ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ops.positions import alibi_slopes


def _visible(torch: Any, T: int, S: int, first: Any, last: Any, mask: Any) -> Any:
    """Which keys each query sees, (..., T, S)."""
    key, position = torch.arange(S), torch.arange(S - T, S)
    last = position if last is None else last
    seen = key <= last[..., None]
    if first is not None:
        seen = seen & (key >= first[..., None])
    return seen if mask is None else seen & mask


def _attend(
    torch: Any,
    q: Any,
    k: Any,
    v: Any,
    scale: float | None = None,
    cap: float | None = None,
    slopes: Any = None,
    keep: Any = None,
    p: float = 0.0,
    **seen: Any,
) -> Any:
    T, S = q.shape[-2], k.shape[-2]
    visible = _visible(torch, T, S, *(seen.get(name) for name in ("first", "last", "mask")))
    if keep is None and cap is None and slopes is None:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if slopes is not None:
        scores = _sloped(torch, scores, slopes)
    probs = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return (probs if keep is None else probs * keep / (1 - p)) @ v


def _sloped(torch: Any, scores: Any, slopes: Any) -> Any:
    T, S = scores.shape[-2:]
    if slopes is None:
        slopes = alibi_slopes(scores.shape[-3])
    distance = torch.arange(S) - torch.arange(S - T, S)[:, None]
    return scores + torch.as_tensor(slopes).to(scores.dtype)[..., None, None] * distance


def _per_head(first: Any) -> Any:
    """Bounds (..., T) for scores with an axis of heads."""
    return None if first is None else first[..., None, :]


def _attend_groups(
    torch: Any, q: Any, k: Any, v: Any, first: Any = None, last: Any = None, **options: Any
) -> Any:
    *lead, K, G, T, D = q.shape
    k, v = (a.repeat_interleave(G, dim=-3) for a in (k, v))
    y = _attend(
        torch, q.reshape(*lead, K * G, T, D), k, v, first=_per_head(first), last=_per_head(last), **options
    )
    return y.reshape(q.shape)


def _split(qkv: Any, n_head: int, n_kv_head: int | None = None) -> list[Any]:
    """q (..., H, T, D), k and v (..., K, T, D)."""
    K = n_head if n_kv_head is None else n_kv_head
    D = qkv.shape[-1] // (n_head + 2 * K)
    parts = qkv.split([n_head * D, K * D, K * D], -1)
    return [part.unflatten(-1, (-1, D)).transpose(-3, -2) for part in parts]


def _attention(torch: Any, qkv: Any, n_head: int, n_kv_head: int | None = None, **options: Any) -> Any:
    q, k, v = _split(qkv, n_head, n_kv_head)
    K = k.shape[-3]
    if n_head != K:
        k, v = (a.repeat_interleave(n_head // K, dim=-3) for a in (k, v))
    for name in ("first", "last"):
        options[name] = _per_head(options.get(name))
    return _merge(_attend(torch, q, k, v, **options))


def _merge(heads: Any) -> Any:
    return heads.transpose(-3, -2).flatten(-2)


def _scores(torch: Any, q: Any, k: Any, scale: float | None = None) -> Any:
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
    return (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)


def _probs(torch: Any, scores: Any, first: Any = None, last: Any = None, mask: Any = None) -> Any:
    T, S = scores.shape[-2:]
    visible = _visible(torch, T, S, _per_head(first), _per_head(last), mask)
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


def _with_sink(torch: Any, scores: Any, sink: Any) -> Any:
    """The softmax over the scores and one of no key, which is cut off."""
    column = sink[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1]


def _sink_probs(
    torch: Any, scores: Any, sink: Any, first: Any = None, last: Any = None, mask: Any = None
) -> Any:
    T, S = scores.shape[-2:]
    visible = _visible(torch, T, S, _per_head(first), _per_head(last), mask)
    return _with_sink(torch, scores.masked_fill(~visible, -torch.inf), sink)


def _sink_attention(
    torch: Any,
    qkv: Any,
    sink: Any,
    n_head: int,
    n_kv_head: int | None = None,
    scale: float | None = None,
    cap: float | None = None,
    slopes: Any = None,
    **more: Any,
) -> Any:
    q, k, v = _split(qkv, n_head, n_kv_head)
    scores = _scores(torch, q, k, scale)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if slopes is not None:
        scores = _sloped(torch, scores, slopes)
    dropped = {name: more[name] for name in ("keep", "p") if name in more}
    seen = {name: more[name] for name in ("first", "last", "mask") if name in more}
    return _weighted(torch, _sink_probs(torch, scores, sink, **seen), v, **dropped)


def _weighted(torch: Any, probs: Any, v: Any, keep: Any = None, p: float = 0.0) -> Any:
    v = v.repeat_interleave(probs.shape[-3] // v.shape[-3], dim=-3)
    return _merge((probs if keep is None else probs * keep / (1 - p)) @ v)


ATTENTION: dict[str, Callable[..., Any]] = {
    "attend": _attend,
    "attend_groups": _attend_groups,
    "attention": _attention,
    "query_heads": lambda torch, qkv, **heads: _split(qkv, **heads)[0],
    "key_heads": lambda torch, qkv, **heads: _split(qkv, **heads)[1],
    "value_heads": lambda torch, qkv, **heads: _split(qkv, **heads)[2],
    "attention_scores": _scores,
    "softcap": lambda torch, x, cap=None: (cap or 50.0) * torch.tanh(x / (cap or 50.0)),
    "distance_slopes": lambda torch, scores, slopes=None: _sloped(torch, scores, slopes),
    "attention_probs": _probs,
    "weighted_values": _weighted,
    "sink_attention": _sink_attention,
    "sink_probs": _sink_probs,
}
