"""The rows of what models are tuned by: likelihoods, means under weights, preferences, pooled vectors."""

from collections.abc import Mapping

from .quantised_cells import QUANTISED
from .rows import Row


def softmaxed(letter: str, out: str) -> str:
    """Locals: out[n, v], the logarithm of the softmax of letter[n, v] / temperature."""
    return f"""
m{out}[n] = max(v, {letter}[n, v])
Z{out}[n] = sum(v, exp(({letter}[n, v] - m{out}[n]) / temperature))
{out}[n, v] = ({letter}[n, v] - m{out}[n]) / temperature - log(Z{out}[n])
"""


LOGP = f"temperature = 1{softmaxed('z', 'logp')}"
MARGIN = "D[n] = a[n] - fa[n] - (b[n] - fb[n])\n"
BOTH = f"{LOGP}{softmaxed('f', 'logq')}"
LOW_RANK = """
    factor = 1
    widths[g] = (g + 1) * O // G - g * O // G
    end[g] = sum(j < G, widths[j] if j <= g else 0)
    map[o] = sum(g < G, 1 if end[g] <= o else 0)
    low[n, a] = sum(i, x[n, i] * A[i, a])
    dlow[n, a] = sum(o, dy[n, o] * B[a % R, o] if map[o] == a // R else 0)
"""
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
    "squared_error": Row(
        "x t",
        "y = mean(n, mean(c, (x[n, c] - t[n, c]) * (x[n, c] - t[n, c])))",
        "dx[n, c] = 2 * dy * (x[n, c] - t[n, c]) / count",
        "count = sum(n, sum(c, x[n, c] - x[n, c] + 1))\n",
    ),
    "anchor": Row(
        "w a f",
        "y = sum(n, sum(c, 0.5 * f[n, c] * (w[n, c] - a[n, c]) * (w[n, c] - a[n, c])))",
        "dw[n, c] = dy * f[n, c] * (w[n, c] - a[n, c])",
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
    "bradley_terry": Row(
        "a b",
        "y[n] = log(1 + exp(b[n] - a[n]))",
        "da[n] = -dy[n] * sigma[n]\ndb[n] = dy[n] * sigma[n]",
        "sigma[n] = 1 / (1 + exp(a[n] - b[n]))\n",
    ),
    "dpo": Row(
        "a b fa fb",
        "y[n] = (1 - label_noise) * log(1 + exp(-h[n])) + label_noise * log(1 + exp(h[n]))",
        """
        da[n] = dy[n] * beta * (label_noise - 1 / (1 + exp(h[n])))
        db[n] = -dy[n] * beta * (label_noise - 1 / (1 + exp(h[n])))
        """,
        f"beta = 0.1\nlabel_noise = 0\n{MARGIN}h[n] = beta * D[n]\n",
    ),
    "ipo": Row(
        "a b fa fb",
        "y[n] = (D[n] - 1 / (2 * beta)) ** 2",
        "da[n] = 2 * dy[n] * (D[n] - 1 / (2 * beta))\ndb[n] = -2 * dy[n] * (D[n] - 1 / (2 * beta))",
        f"beta = 0.1\n{MARGIN}",
    ),
    "kto": Row(
        "l f good z",
        "y[n] = 1 / (1 + exp(g[n]))",
        "dl[n] = -dy[n] * sign[n] * beta / ((1 + exp(g[n])) * (1 + exp(-g[n])))",
        """
        beta = 0.1
        sign[n] = 1 if good[n] > 0 else -1
        g[n] = sign[n] * (beta * (l[n] - f[n]) - z)
        """,
    ),
    "clipped_value": Row(
        "v o r",
        "y[n] = (first[n] if first[n] > second[n] else second[n]) / 2",
        "dv[n] = dy[n] * (v[n] - r[n]) if first[n] >= second[n] else 0",
        """
        clip = 0.2
        kept[n] = v[n] if -clip <= v[n] - o[n] <= clip else (o[n] + clip if v[n] > o[n] else o[n] - clip)
        first[n] = (v[n] - r[n]) ** 2
        second[n] = (kept[n] - r[n]) ** 2
        """,
    ),
    "ppo": Row(
        "l o a",
        "y[n] = -seen[n] * a[n]",
        "dl[n] = -dy[n] * ratio[n] * a[n] if seen[n] == ratio[n] else 0",
        """
        clip = 0.2
        clip_high = clip
        ratio[n] = exp(l[n] - o[n])
        most[n] = 1 + clip_high if a[n] > 0 and ratio[n] > 1 + clip_high else ratio[n]
        seen[n] = 1 - clip if a[n] < 0 and ratio[n] < 1 - clip else most[n]
        """,
    ),
    "k1": Row("l f", "y[n] = l[n] - f[n]", "dl[n] = dy[n]"),
    "k2": Row("l f", "y[n] = (l[n] - f[n]) ** 2 / 2", "dl[n] = dy[n] * (l[n] - f[n])"),
    # ratio is written so that it is absent where old is, and drops out of a product
    "k3": Row(
        "l f o",
        "y[n] = ratio[n] * k[n]",
        "dl[n] = dy[n] * (ratio[n] * (1 - exp(-d[n])) + ratio[n] / (1 / k[n]))",
        """
        d[n] = l[n] - f[n]
        k[n] = exp(-d[n]) - 1 + d[n]
        ratio[n] = (exp(o[n]) / exp(l[n])) ** -1
        """,
    ),
    "whiten": Row(
        "x w",
        "y[n, t] = (hat[n, t] if shift_mean else hat[n, t] + mu) if w[n, t] != 0 else 0",
        """
        dx[n, t] = r * g[n, t] - w[n, t] / total * (r * sum(m, sum(s, g[m, s])) \\
            + r * hat[n, t] * sum(m, sum(s, g[m, s] * hat[m, s])) \\
            - (0 if shift_mean else sum(m, sum(s, g[m, s]))))
        """,
        """
        shift_mean = 1
        eps = 1e-8
        total = sum(n, sum(t, w[n, t]))
        mu = sum(n, sum(t, w[n, t] * x[n, t])) / total
        v = sum(n, sum(t, w[n, t] * (x[n, t] - mu) ** 2)) / total
        r = 1 / sqrt(v + eps)
        hat[n, t] = (x[n, t] - mu) * r if w[n, t] != 0 else 0
        g[n, t] = dy[n, t] if w[n, t] != 0 else 0
        """,
    ),
    "last_token": Row(
        "x places",
        "y[n, c] = x[n, places[n], c]",
        "dx[n, t, c] = dy[n, c] if t == places[n] else 0",
    ),
    "mean_pool": Row(
        "x w",
        "y[n, c] = sum(t, w[n, t] * x[n, t, c]) / total[n]",
        "dx[n, t, c] = dy[n, c] * w[n, t] / total[n]",
        "total[n] = sum(t, w[n, t])\n",
    ),
    "lora_linear": Row(
        "x W b A B",
        "y[n, o] = sum(i, x[n, i] * W[i, o]) + b[o] + factor * sum(r < R, low[n, map[o] * R + r] * B[r, o])",
        """
        dx[n, i] = sum(o, dy[n, o] * W[i, o]) + factor * sum(a, dlow[n, a] * A[i, a])
        dW[i, o] = sum(n, x[n, i] * dy[n, o])
        db[o] = sum(n, dy[n, o])
        dA[i, a] = factor * sum(n, x[n, i] * dlow[n, a])
        dB[r, o] = factor * sum(n, low[n, map[o] * R + r] * dy[n, o])
        """,
        LOW_RANK,
    ),
    "low_rank": Row(
        "x A B",
        "y[n, o] = factor * sum(r < R, low[n, map[o] * R + r] * B[r, o])",
        """
        dx[n, i] = factor * sum(a, dlow[n, a] * A[i, a])
        dA[i, a] = factor * sum(n, x[n, i] * dlow[n, a])
        dB[r, o] = factor * sum(n, low[n, map[o] * R + r] * dy[n, o])
        """,
        LOW_RANK,
    ),
    **QUANTISED,
}
