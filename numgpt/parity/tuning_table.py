"""How PyTorch computes the ops that models are tuned by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def _bradley_terry(torch: Any, chosen: Any, rejected: Any) -> Any:
    return -torch.nn.functional.logsigmoid(chosen - rejected)


def _margin(chosen: Any, rejected: Any, fixed_chosen: Any, fixed_rejected: Any) -> Any:
    return (chosen - fixed_chosen) - (rejected - fixed_rejected)


def _dpo(
    torch: Any,
    chosen: Any,
    rejected: Any,
    fixed_chosen: Any,
    fixed_rejected: Any,
    beta: float = 0.1,
    label_noise: float = 0.0,
) -> Any:
    """As TRL has it."""
    log_sigmoid = torch.nn.functional.logsigmoid
    h = beta * _margin(chosen, rejected, fixed_chosen, fixed_rejected)
    return -log_sigmoid(h) * (1 - label_noise) - log_sigmoid(-h) * label_noise


def _ipo(
    torch: Any, chosen: Any, rejected: Any, fixed_chosen: Any, fixed_rejected: Any, beta: float = 0.1
) -> Any:
    return (_margin(chosen, rejected, fixed_chosen, fixed_rejected) - 1 / (2 * beta)) ** 2


def _kto(torch: Any, logp: Any, fixed: Any, desirable: Any, z0: Any = None, beta: float = 0.1) -> Any:
    gain = beta * (logp - fixed) - (0.0 if z0 is None else z0)
    return torch.where(desirable > 0, 1 - torch.sigmoid(gain), 1 - torch.sigmoid(-gain))


def _clipped_value(torch: Any, value: Any, old: Any, returns: Any, clip: float = 0.2) -> Any:
    """As CleanRL has it."""
    kept = old + torch.clamp(value - old, -clip, clip)
    return 0.5 * torch.maximum((value - returns) ** 2, (kept - returns) ** 2)


def _ppo(
    torch: Any, logp: Any, old: Any, advantages: Any, clip: float = 0.2, clip_high: float | None = None
) -> Any:
    """As TRL has it."""
    ratio = torch.exp(logp - old)
    kept = torch.clamp(ratio, 1 - clip, 1 + (clip if clip_high is None else clip_high))
    return -torch.min(ratio * advantages, kept * advantages)


def _k3(torch: Any, logp: Any, fixed: Any, old: Any = None) -> Any:
    """As TRL has it, and its importance sampling of the divergence."""
    k3 = torch.exp(fixed - logp) - (fixed - logp) - 1
    return k3 if old is None else torch.exp(logp - old) * k3


def _whiten(torch: Any, x: Any, weights: Any, shift_mean: bool = True, eps: float = 1e-8) -> Any:
    """OpenAI's, of those that count; their variance divides by n."""
    mean = (x * weights).sum() / weights.sum()
    variance = ((x - mean) ** 2 * weights).sum() / weights.sum()
    whitened = (x - mean) * torch.rsqrt(variance + eps)
    return torch.where(weights != 0, whitened if shift_mean else whitened + mean, torch.zeros_like(x))


def _last_token(torch: Any, x: Any, places: Any) -> Any:
    at = places[..., None, None].expand(*places.shape, 1, x.shape[-1])
    return x.gather(-2, at).squeeze(-2)


def _mean_pool(torch: Any, x: Any, weights: Any) -> Any:
    return (x * weights.unsqueeze(-1)).sum(-2) / weights.sum(-1, keepdim=True)


def _lora_linear(
    torch: Any,
    x: Any,
    weight: Any,
    bias: Any,
    lora_a: Any,
    lora_b: Any,
    factor: float = 1.0,
    widths: Sequence[int] | None = None,
) -> Any:
    """As PEFT has it: an adapter for each of the maps that lie side by side."""
    return torch.nn.functional.linear(x, weight.T, bias) + _low_rank(torch, x, lora_a, lora_b, factor, widths)


def _low_rank(
    torch: Any, x: Any, lora_a: Any, lora_b: Any, factor: float = 1.0, widths: Sequence[int] | None = None
) -> Any:
    maps = zip(lora_a.split(len(lora_b), 1), _split(lora_b, lora_a.shape[1] // len(lora_b), widths))
    return torch.cat([x @ a @ b for a, b in maps], -1) * factor


def _split(lora_b: Any, G: int, widths: Sequence[int] | None) -> Any:
    """The columns of each of G maps, as equal as they can be unless widths are given."""
    n = lora_b.shape[1]
    equal = [(g + 1) * n // G - g * n // G for g in range(G)]
    return lora_b.split(equal if widths is None else [*widths], 1)


# The name of an op → what PyTorch calls it.
TUNING: dict[str, Callable[..., Any]] = {
    "token_logprobs": _token_logprobs,
    "token_entropy": _entropy,
    "reverse_kl": _reverse_kl,
    "forward_kl": _forward_kl,
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "sequence_sum": lambda torch, x, weights: (x * weights).sum(-1),
    "bradley_terry": _bradley_terry,
    "dpo": _dpo,
    "ipo": _ipo,
    "kto": _kto,
    "clipped_value": _clipped_value,
    "ppo": _ppo,
    "k1": lambda torch, logp, fixed: logp - fixed,
    "k2": lambda torch, logp, fixed: 0.5 * (logp - fixed) ** 2,
    "k3": _k3,
    "whiten": _whiten,
    "last_token": _last_token,
    "mean_pool": _mean_pool,
    "squared_error": lambda torch, x, targets: torch.nn.functional.mse_loss(x, targets),
    "anchor": lambda torch, w, centre, stiffness: (0.5 * stiffness * (w - centre) ** 2).sum(),
    "lora_linear": _lora_linear,
    "low_rank": _low_rank,
}
