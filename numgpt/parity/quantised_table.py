"""How PyTorch computes products with rounded or masked weights: its own, of the matrix that is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _dequantised(q: Any, scale: Any) -> Any:
    """Integers of 8 bits times the scale of their output, the last axis."""
    return q.to(scale.dtype) * scale[..., None, :]


def _dequantised4(torch: Any, q: Any, scale: Any, zero: Any) -> Any:
    """Two integers of 4 bits from each byte, less their group's zero, times its scale."""
    u = torch.stack([q % 16, q // 16], -2).flatten(-3, -2).to(scale.dtype)
    u = u.unflatten(-2, (scale.shape[-2], -1))
    zero = 8 if zero is None else zero.unsqueeze(-2)
    return ((u - zero) * scale.unsqueeze(-2)).flatten(-3, -2)


def _product(torch: Any, x: Any, weight: Any, bias: Any) -> Any:
    return torch.nn.functional.linear(x, weight.T, bias)


def _of_experts(torch: Any, x: Any, chosen: Any, weight: Any, bias: Any) -> Any:
    """One matrix a row."""
    y = torch.einsum("...i,...io->...o", x, weight[chosen])
    return y if bias is None else y + bias[chosen]


# The name of an op → what PyTorch calls it.
QUANTISED: dict[str, Callable[..., Any]] = {
    "quantised_linear": lambda torch, x, q, scale, bias: _product(torch, x, _dequantised(q, scale), bias),
    "quantised4_linear": lambda torch, x, q, scale, zero, bias: _product(
        torch, x, _dequantised4(torch, q, scale, zero), bias
    ),
    "quantised_embedding": lambda torch, ids, q, scale: torch.nn.functional.embedding(
        ids, _dequantised(q.T, scale).T
    ),
    "quantised_unembedding": lambda torch, x, q, scale: torch.nn.functional.linear(
        x, _dequantised(q.T, scale).T
    ),
    "expert_quantised_linear": lambda torch, x, chosen, q, scale, bias: _of_experts(
        torch, x, chosen, _dequantised(q, scale), bias
    ),
    "expert_quantised4_linear": lambda torch, x, chosen, q, scale, zero, bias: _of_experts(
        torch, x, chosen, _dequantised4(torch, q, scale, zero), bias
    ),
    "masked_linear": lambda torch, x, weight, mask, bias: _product(torch, x, weight * (mask != 0), bias),
    "masked_expert_linear": lambda torch, x, chosen, weight, mask, bias: _of_experts(
        torch, x, chosen, weight * (mask != 0), bias
    ),
}
