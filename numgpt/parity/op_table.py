"""How PyTorch computes each op: a function of torch, the arrays as tensors, and the op's options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _attend(
    torch: Any,
    q: Any,
    k: Any,
    v: Any,
    scale: float | None = None,
    mask: Any = None,
    keep: Any = None,
    p: float = 0.0,
) -> Any:
    T, S = q.shape[-2], k.shape[-2]
    visible = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    if mask is not None:
        visible = visible & mask
    if keep is None:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (scores.masked_fill(~visible, -torch.inf).softmax(-1) * keep / (1 - p)) @ v


def _attention(torch: Any, qkv: Any, n_head: int, **options: Any) -> Any:
    *lead, T, C3 = qkv.shape
    q, k, v = (a.reshape(*lead, T, n_head, -1).transpose(-3, -2) for a in qkv.split(C3 // 3, -1))
    return _attend(torch, q, k, v, **options).transpose(-3, -2).reshape(*lead, T, C3 // 3)


def _cross_entropy(torch: Any, logits: Any, targets: Any, count: Any = None) -> Any:
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-1, reduction="sum"
    )
    return loss / ((targets >= 0).sum() if count is None else count)


# The name of an op → what PyTorch calls it.
TORCH: dict[str, Callable[..., Any]] = {
    "embedding": lambda torch, ids, weight: torch.nn.functional.embedding(ids, weight),
    "positions": lambda torch, x, weight, start=0: x + weight[start : start + x.shape[-2]],
    "linear": lambda torch, x, weight, bias: torch.nn.functional.linear(x, weight.T, bias),
    "layernorm": lambda torch, x, weight, bias, eps=1e-5: torch.nn.functional.layer_norm(
        x, x.shape[-1:], weight, bias, eps
    ),
    "gelu": lambda torch, x: torch.nn.functional.gelu(x),
    "gelu_tanh": lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": lambda torch, x: torch.relu(x),
    "attend": _attend,
    "attention": _attention,
    "dropout": lambda torch, x, keep=None, p=0.0: x if keep is None else x * keep / (1 - p),
    "unembedding": lambda torch, x, weight: torch.nn.functional.linear(x, weight),
    "cross_entropy": _cross_entropy,
}
