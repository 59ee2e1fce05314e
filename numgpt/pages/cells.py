"""The table of cell formulas: how each number of each op's value and gradients comes about.

A row has equations in the language of expressions.py. A local with the name of an option is what holds where
the option is not given; sizes are the letters of the op's line. To show an op, write its row.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..ops import ALL
from .attention_cells import ATTENTION
from .expert_cells import EXPERTS
from .rows import Row
from .tuning_cells import TUNING

ERF = """
    Phi[n] = erfc(-x[n] / sqrt(2)) / 2
    phi[n] = exp(-x[n] ** 2 / 2) / sqrt(2 * pi)
"""
TANH = """
    u[n] = sqrt(2 / pi) * (x[n] + 0.044715 * x[n] ** 3)
    du[n] = sqrt(2 / pi) * (1 + 3 * 0.044715 * x[n] ** 2)
    Phi[n] = (1 + tanh(u[n])) / 2
    phi[n] = (1 - tanh(u[n]) ** 2) / 2 * du[n]
"""
SIGMOID = """
    sigma[n] = 1 / (1 + exp(-x[n]))
"""
WAVES = """
    start = 0
    positions[n, t] = start + t
    angle[n, t, i] = positions[n, t] * 10000 ** (-2 * i / C)
"""
NORM = """
    mu[n] = mean(c, x[n, c])
    var[n] = mean(c, (x[n, c] - mu[n]) ** 2)
    eps = 1e-5
    r[n] = 1 / sqrt(var[n] + eps)
    xhat[n, c] = (x[n, c] - mu[n]) * r[n]
    g[n, c] = dy[n, c] * w[c]
    gmean[n] = mean(c, g[n, c])
    along[n] = mean(c, g[n, c] * xhat[n, c])
"""
PLAIN_NORM = """
    mu[n] = mean(c, x[n, c])
    var[n] = mean(c, (x[n, c] - mu[n]) ** 2)
    eps = 1e-5
    r[n] = 1 / sqrt(var[n] + eps)
    along[n] = mean(c, dy[n, c] * y[n, c])
"""
CLAMPED = """
    g[n, f] = x[n, f] if x[n, f] < 7 else 7
    value[n, f] = 7 if x[n, F + f] > 7 else (-7 if x[n, F + f] < -7 else x[n, F + f])
    sigma[n, f] = 1 / (1 + exp(-1.702 * g[n, f]))
"""
SQUARE = """
    ms[n] = mean(c, x[n, c] ** 2)
    eps = 1e-5
    r[n] = 1 / sqrt(ms[n] + eps)
    xhat[n, c] = x[n, c] * r[n]
    g[n, c] = dy[n, c] * w[c]
    along[n] = mean(c, g[n, c] * xhat[n, c])
"""
SURPRISE = """
    m[n] = max(v, logits[n, v])
    Z[n] = sum(v, exp(logits[n, v] - m[n]))
    lse[n] = m[n] + log(Z[n])
    q[n, v] = exp(logits[n, v] - m[n]) / Z[n]
    count = sum(n, 1, targets[n] >= 0)
"""
PASSED = "dx[n, t, c] = dy[n, t, c]"


def gate(act: str, slope: str, more: str = "") -> Row:
    """The row of an activation's gate: act and slope are of x[n, f], more are locals of [n, f]."""
    gradient = "dy[n, c] * x[n, F + c] * slope[n, c] if c < F else dy[n, c - F] * act[n, c - F]"
    return Row(
        "x",
        "y[n, f] = act[n, f] * x[n, F + f]",
        f"dx[n, c] = {gradient}",
        f"{more}\nact[n, f] = {act}\nslope[n, f] = {slope}\n",
    )


def of_half(text: str) -> str:
    """Locals of an activation, of x[n], as those of a gate."""
    return "\n".join(line.strip() for line in text.replace("[n]", "[n, f]").splitlines())


ROWS: Mapping[str, Row] = {
    "embedding": Row(
        "ids W",
        "y[n, c] = W[ids[n], c]",
        "dW[v, c] = sum(n, dy[n, c], ids[n] == v)",
    ),
    "positions": Row(
        "x W",
        "y[n, t, c] = x[n, t, c] + W[positions[n, t], c]",
        f"{PASSED}\ndW[i, c] = sum(n, sum(t, dy[n, t, c], positions[n, t] == i))",
        "start = 0\npositions[n, t] = start + t\n",
    ),
    "sinusoidal": Row(
        "x",
        "y[n, t, c] = x[n, t, c] + (sin(angle[n, t, c // 2]) if c % 2 == 0 else cos(angle[n, t, c // 2]))",
        PASSED,
        WAVES,
    ),
    "dropout": Row("x", "y[n] = x[n] * (keep[n] / (1 - p))", "dx[n] = dy[n] * (keep[n] / (1 - p))"),
    "add": Row("x y", "z[n] = x[n] + y[n]", "dx[n] = dz[n]\ndy[n] = dz[n]"),
    "layernorm": Row(
        "x w b",
        "y[n, c] = xhat[n, c] * w[c] + b[c]",
        """
        dx[n, c] = r[n] * (g[n, c] - gmean[n] - xhat[n, c] * along[n])
        dw[c] = sum(n, dy[n, c] * xhat[n, c])
        db[c] = sum(n, dy[n, c])
        """,
        NORM,
    ),
    "rmsnorm": Row(
        "x w",
        "y[n, c] = xhat[n, c] * w[c]",
        """
        dx[n, c] = r[n] * (g[n, c] - xhat[n, c] * along[n])
        dw[c] = sum(n, dy[n, c] * xhat[n, c])
        """,
        SQUARE,
    ),
    "standardise": Row(
        "x",
        "y[n, c] = (x[n, c] - mu[n]) * r[n]",
        "dx[n, c] = r[n] * (dy[n, c] - mean(i, dy[n, i]) - y[n, c] * along[n])",
        PLAIN_NORM,
    ),
    "scaled": Row("x", "y[n] = factor * x[n]", "dx[n] = factor * dy[n]", "factor = 1\n"),
    "shift": Row("x b", "y[n, c] = x[n, c] + b[c]", "dx[n, c] = dy[n, c]\ndb[c] = sum(n, dy[n, c])"),
    "linear": Row(
        "x W b",
        "y[n, o] = sum(i, x[n, i] * W[i, o]) + b[o]",
        """
        dx[n, i] = sum(o, dy[n, o] * W[i, o])
        dW[i, o] = sum(n, x[n, i] * dy[n, o])
        db[o] = sum(n, dy[n, o])
        """,
    ),
    "unembedding": Row(
        "x W",
        "y[n, v] = sum(c, x[n, c] * W[v, c])",
        """
        dx[n, c] = sum(v, dy[n, v] * W[v, c])
        dW[v, c] = sum(n, dy[n, v] * x[n, c])
        """,
    ),
    "gelu": Row("x", "y[n] = x[n] * Phi[n]", "dx[n] = dy[n] * (Phi[n] + x[n] * phi[n])", ERF),
    "gelu_tanh": Row("x", "y[n] = x[n] * Phi[n]", "dx[n] = dy[n] * (Phi[n] + x[n] * phi[n])", TANH),
    "gelu_bloom": Row(
        "x",
        "y[n] = x[n] * Phi[n]",
        "dx[n] = dy[n] * (Phi[n] + x[n] * phi[n])",
        TANH.replace("sqrt(2 / pi)", "0.79788456"),
    ),
    "relu2": Row("x", "y[n] = 0 if x[n] <= 0 else x[n] ** 2", "dx[n] = 2 * x[n] * dy[n] if x[n] > 0 else 0"),
    "relu": Row("x", "y[n] = 0 if x[n] <= 0 else x[n]", "dx[n] = dy[n] if x[n] > 0 else 0"),
    "silu": Row(
        "x",
        "y[n] = x[n] * sigma[n]",
        "dx[n] = dy[n] * sigma[n] * (1 + x[n] * (1 - sigma[n]))",
        SIGMOID,
    ),
    "swiglu": gate(
        "x[n, f] * sigma[n, f]",
        "sigma[n, f] * (1 + x[n, f] * (1 - sigma[n, f]))",
        of_half(SIGMOID),
    ),
    "geglu": gate("x[n, f] * Phi[n, f]", "Phi[n, f] + x[n, f] * phi[n, f]", of_half(ERF)),
    "geglu_tanh": gate("x[n, f] * Phi[n, f]", "Phi[n, f] + x[n, f] * phi[n, f]", of_half(TANH)),
    "reglu": gate("0 if x[n, f] <= 0 else x[n, f]", "1 if x[n, f] > 0 else 0"),
    "swiglu_clamped": Row(
        "x",
        "y[n, f] = (value[n, f] + 1) * g[n, f] * sigma[n, f]",
        """
        dx[n, c] = (dy[n, c] * (value[n, c] + 1) * sigma[n, c] * (1 + 1.702 * g[n, c] * (1 - sigma[n, c])) \\
            if x[n, c] < 7 else 0) if c < F else (dy[n, c - F] * g[n, c - F] * sigma[n, c - F] \\
            if -7 < x[n, c] < 7 else 0)
        """,
        CLAMPED,
    ),
    "cross_entropy": Row(
        "logits targets",
        "loss = sum(n, lse[n] - logits[n, targets[n]], targets[n] >= 0) / count",
        """
        dlogits[n, v] = dloss * (q[n, v] - (1 if v == targets[n] else 0)) / count if targets[n] >= 0 else 0
        """,
        SURPRISE,
    ),
    **ATTENTION,
    **EXPERTS,
    **TUNING,
}

# Ops without a row, and what a reader of a trace does instead.
REASONS: Mapping[str, str] = {
    "attend": "its steps have formulas: scores, probabilities, weighted values",
    "attend_groups": "its steps have formulas: scores, probabilities, weighted values",
    "sink_attention": "its steps have formulas: keep them, h.*.attn.heads.*",
}


@functools.cache
def cells(op: str) -> dict[str, Any] | None:
    """The cell formulas of an op by its name, None where it has no row."""
    return ROWS[op].cells(ALL[op]) if op in ROWS and op in ALL else None
