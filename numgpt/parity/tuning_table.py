"""How PyTorch computes the ops that models are tuned by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _token_logprobs(
    torch: Any, logits: Any, targets: Any, temperature: float = 1.0, smoothing: float = 0.0
) -> Any:
    """Minus cross-entropy, which smooths labels as Szegedy et al. do."""
    rows = logits.reshape(-1, logits.shape[-1]) / temperature
    loss = torch.nn.functional.cross_entropy(
        rows, targets.reshape(-1), ignore_index=-1, reduction="none", label_smoothing=smoothing
    )
    return -loss.reshape(targets.shape)


def _entropy(torch: Any, logits: Any, temperature: float = 1.0) -> Any:
    return torch.distributions.Categorical(logits=logits / temperature).entropy()


def _kl(torch: Any, of: Any, to: Any, temperature: float) -> Any:
    """KL(of‖to) of two rows of logits."""
    given, input_ = (x.div(temperature).log_softmax(-1) for x in (of, to))
    return torch.nn.functional.kl_div(input_, given, reduction="none", log_target=True).sum(-1)


def _reverse_kl(torch: Any, logits: Any, fixed: Any, temperature: float = 1.0) -> Any:
    return _kl(torch, logits, fixed, temperature)


def _forward_kl(torch: Any, logits: Any, fixed: Any, temperature: float = 1.0) -> Any:
    return _kl(torch, fixed, logits, temperature)


def _token_mean(torch: Any, x: Any, weights: Any, count: Any = None) -> Any:
    return (x * weights).sum() / (weights.sum() if count is None else count)


def _sequence_mean(torch: Any, x: Any, weights: Any, count: Any = None) -> Any:
    means = (x * weights).sum(-1) / weights.sum(-1)
    return means.mean() if count is None else means.sum() / count


# The name of an op → what PyTorch calls it.
TUNING: dict[str, Callable[..., Any]] = {
    "token_logprobs": _token_logprobs,
    "token_entropy": _entropy,
    "reverse_kl": _reverse_kl,
    "forward_kl": _forward_kl,
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "sequence_sum": lambda torch, x, weights: (x * weights).sum(-1),
}
