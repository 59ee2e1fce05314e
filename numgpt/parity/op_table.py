"""How PyTorch computes each op: a function of torch, the arrays as tensors, and the op's options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ops.rotary import frequencies
from .attention_table import ATTENTION
from .quantised_table import QUANTISED
from .tuning_table import TUNING


def _cross_entropy(torch: Any, logits: Any, targets: Any, count: Any = None) -> Any:
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-1, reduction="sum"
    )
    return loss / ((targets >= 0).sum() if count is None else count)


def _gated(act: Callable[..., Any]) -> Callable[..., Any]:
    """act of the first half of the channels, times the second."""

    def gate(torch: Any, x: Any) -> Any:
        opened, value = x.chunk(2, -1)
        return act(torch, opened) * value

    return gate


def _sinusoidal(torch: Any, x: Any, start: int = 0, positions: Any = None) -> Any:
    """As in the paper, each channel by itself."""
    T, C = x.shape[-2:]
    places = torch.arange(start, start + T) if positions is None else positions
    i = torch.arange(C, dtype=torch.float64)
    angles = places.to(torch.float64)[..., None] / 10000 ** (2 * (i // 2) / C)
    return x + torch.where(i % 2 == 0, angles.sin(), angles.cos()).to(x.dtype)


def _rotary(
    torch: Any,
    qkv: Any,
    n_head: int,
    n_kv_head: int | None = None,
    base: float = 1e4,
    dim: int | None = None,
    scaling: Any = None,
    start: int = 0,
    positions: Any = None,
) -> Any:
    """As transformers has it, by rotate_half; the frequencies of a scaling are ours."""
    K = n_head if n_kv_head is None else n_kv_head
    D = qkv.shape[-1] // (n_head + 2 * K)
    R = D // 2 * 2 if dim is None else dim
    places = torch.arange(start, start + qkv.shape[-2]) if positions is None else positions
    n = int(places.max()) + 1 if places.numel() else 1
    f, size = frequencies(R, base, scaling, n)
    angles = places.to(torch.float64)[..., None] * torch.from_numpy(f)
    angles = torch.cat([angles, angles], -1)[..., None, :]
    heads = qkv.unflatten(-1, (-1, D))
    x, rest = heads[..., :R], heads[..., R:]
    half = torch.cat([-x[..., R // 2 :], x[..., : R // 2]], -1)
    turned = x * (angles.cos() * size).to(x.dtype) + half * (angles.sin() * size).to(x.dtype)
    is_turned = torch.arange(n_head + 2 * K)[:, None] < n_head + K
    return torch.where(is_turned, torch.cat([turned, rest], -1), heads).flatten(-2)


def _in_part(norm: Callable[..., Any], torch: Any, x: Any, weight: Any, begin: int, end: int | None) -> Any:
    """A norm of vectors as long as the weight, of some channels."""
    end = x.shape[-1] if end is None else end
    part = x[..., begin:end].unflatten(-1, (-1, weight.shape[0]))
    return torch.cat([x[..., :begin], norm(part).flatten(-2), x[..., end:]], -1)


def _part_rmsnorm(
    torch: Any, x: Any, weight: Any, begin: int = 0, end: int | None = None, eps: float = 1e-5
) -> Any:
    norm = torch.nn.functional.rms_norm
    return _in_part(lambda part: norm(part, weight.shape, weight, eps), torch, x, weight, begin, end)


def _part_layernorm(
    torch: Any, x: Any, weight: Any, bias: Any, begin: int = 0, end: int | None = None, eps: float = 1e-5
) -> Any:
    norm = torch.nn.functional.layer_norm
    return _in_part(lambda part: norm(part, weight.shape, weight, bias, eps), torch, x, weight, begin, end)


def _heads_layernorm(torch: Any, x: Any, weight: Any, begin: int = 0, eps: float = 1e-5) -> Any:
    end = begin + weight.numel()
    heads = x[..., begin:end].unflatten(-1, weight.shape)
    normed = torch.nn.functional.layer_norm(heads, weight.shape[-1:], eps=eps) * weight
    return torch.cat([x[..., :begin], normed.flatten(-2), x[..., end:]], -1)


def _swiglu_clamped(torch: Any, x: Any) -> Any:
    """As transformers has it for GPT-OSS."""
    gate, value = x.chunk(2, -1)
    gate, value = gate.clamp(max=7.0), value.clamp(-7.0, 7.0)
    return (value + 1) * gate * torch.sigmoid(1.702 * gate)


def _route(torch: Any, logits: Any, chosen: Any, renorm: bool = True) -> Any:
    """As Mixtral has it: a softmax over all, whose chosen entries are divided by their sum."""
    w = logits.softmax(-1).gather(-1, chosen)
    return w / w.sum(-1, keepdim=True) if renorm else w


def _expert_linear(torch: Any, x: Any, chosen: Any, weight: Any, bias: Any) -> Any:
    """One matrix a row, as nobody would do it who has many rows."""
    y = torch.einsum("...i,...io->...o", x, weight[chosen])
    return y if bias is None else y + bias[chosen]


def _balance(torch: Any, logits: Any, chosen: Any) -> Any:
    E = logits.shape[-1]
    share = torch.bincount(chosen.flatten(), minlength=E).to(logits.dtype) / chosen.numel()
    return E * (share * logits.softmax(-1).reshape(-1, E).mean(0)).sum()


# The name of an op → what PyTorch calls it.
TORCH: dict[str, Callable[..., Any]] = {
    "embedding": lambda torch, ids, weight: torch.nn.functional.embedding(ids, weight),
    "positions": lambda torch, x, weight, start=0, positions=None: (
        x + weight[torch.arange(start, start + x.shape[-2]) if positions is None else positions]
    ),
    "sinusoidal": _sinusoidal,
    "rotary": _rotary,
    "linear": lambda torch, x, weight, bias: torch.nn.functional.linear(x, weight.T, bias),
    "layernorm": lambda torch, x, weight, bias, eps=1e-5: torch.nn.functional.layer_norm(
        x, x.shape[-1:], weight, bias, eps
    ),
    "rmsnorm": lambda torch, x, weight, eps=1e-5: torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps),
    "standardise": lambda torch, x, eps=1e-5: torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps),
    "part_rmsnorm": _part_rmsnorm,
    "part_layernorm": _part_layernorm,
    "heads_layernorm": _heads_layernorm,
    "gelu": lambda torch, x: torch.nn.functional.gelu(x),
    "gelu_tanh": lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_bloom": lambda torch, x: 0.5 * x * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    "relu": lambda torch, x: torch.relu(x),
    "relu2": lambda torch, x: torch.relu(x).square(),
    "silu": lambda torch, x: torch.nn.functional.silu(x),
    "swiglu": _gated(lambda torch, x: torch.nn.functional.silu(x)),
    "geglu": _gated(lambda torch, x: torch.nn.functional.gelu(x)),
    "geglu_tanh": _gated(lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh")),
    "reglu": _gated(lambda torch, x: torch.relu(x)),
    "swiglu_clamped": _swiglu_clamped,
    **ATTENTION,
    "route": _route,
    "dispatch": lambda torch, x, n_active: x.unsqueeze(-2).expand(*x.shape[:-1], n_active, x.shape[-1]),
    "expert_linear": _expert_linear,
    "combine": lambda torch, x, weights: (x * weights.unsqueeze(-1)).sum(-2),
    "opened": lambda torch, gate, x: (
        x.unflatten(-1, (gate.shape[-1], -1)) * torch.sigmoid(gate).unsqueeze(-1)
    ).flatten(-2),
    "balance": _balance,
    "router_z": lambda torch, logits: logits.logsumexp(-1).square().mean(),
    "add": lambda torch, x, y: x + y,
    "scaled": lambda torch, x, factor=1.0: x * factor,
    "shift": lambda torch, x, bias: x + bias,
    "dropout": lambda torch, x, keep=None, p=0.0: x if keep is None else x * keep / (1 - p),
    "unembedding": lambda torch, x, weight: torch.nn.functional.linear(x, weight),
    "cross_entropy": _cross_entropy,
    **TUNING,
    **QUANTISED,
}
