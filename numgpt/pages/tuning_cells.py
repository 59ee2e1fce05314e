"""The rows of what models are tuned by: likelihoods, means under weights, preferences, pooled vectors."""

from collections.abc import Mapping

from .rows import Row


def softmaxed(letter: str, out: str) -> str:
    """Locals: out[n, v], the logarithm of the softmax of letter[n, v] / temperature."""
    return f"""
m{out}[n] = max(v, {letter}[n, v])
Z{out}[n] = sum(v, exp(({letter}[n, v] - m{out}[n]) / temperature))
{out}[n, v] = ({letter}[n, v] - m{out}[n]) / temperature - log(Z{out}[n])
"""


LOGP = f"temperature = 1{softmaxed('z', 'logp')}"
BOTH = f"{LOGP}{softmaxed('f', 'logq')}"
TUNING: Mapping[str, Row] = {
    "token_logprobs": Row(
        "z targets",
        """
        y[n] = (1 - smoothing) * logp[n, targets[n]] + smoothing * mean(v, logp[n, v]) \\
            if targets[n] >= 0 else 0
        """,
        """
        dz[n, v] = dy[n] * ((1 - smoothing if v == targets[n] else 0) + smoothing / V \\
            - exp(logp[n, v])) / temperature if targets[n] >= 0 else 0
        """,
        f"smoothing = 0\n{LOGP}",
    ),
    "token_entropy": Row(
        "z",
        "y[n] = -sum(v, exp(logp[n, v]) * logp[n, v])",
        "dz[n, v] = -dy[n] * exp(logp[n, v]) * (logp[n, v] + y[n]) / temperature",
        LOGP,
    ),
    "reverse_kl": Row(
        "z f",
        "y[n] = sum(v, exp(logp[n, v]) * (logp[n, v] - logq[n, v]))",
        "dz[n, v] = dy[n] * exp(logp[n, v]) * (logp[n, v] - logq[n, v] - y[n]) / temperature",
        BOTH,
    ),
    "forward_kl": Row(
        "z f",
        "y[n] = sum(v, exp(logq[n, v]) * (logq[n, v] - logp[n, v]))",
        "dz[n, v] = dy[n] * (exp(logp[n, v]) - exp(logq[n, v])) / temperature",
        BOTH,
    ),
    "token_mean": Row(
        "x w",
        "y = sum(n, sum(t, w[n, t] * x[n, t])) / count",
        "dx[n, t] = dy * w[n, t] / count",
        "count = sum(n, sum(t, w[n, t]))\n",
    ),
    "sequence_mean": Row(
        "x w",
        "y = sum(n, sum(t, w[n, t] * x[n, t]) / total[n]) / count",
        "dx[n, t] = dy * w[n, t] / (total[n] * count)",
        "total[n] = sum(t, w[n, t])\ncount = sum(n, w[n, 0] ** 0)\n",
    ),
    "sequence_sum": Row("x w", "y[n] = sum(t, w[n, t] * x[n, t])", "dx[n, t] = dy[n] * w[n, t]"),
}
