"""The rows of a mixture of experts: k counts the experts chosen for a token, e all that there are."""

from collections.abc import Mapping

from .rows import Row

PROBS = """
    m[n] = max(e, l[n, e])
    Z[n] = sum(e, exp(l[n, e] - m[n]))
    p[n, e] = exp(l[n, e] - m[n]) / Z[n]
"""
WEIGHTS = f"""
    renorm = 1
    {PROBS.strip()}
    among[n] = sum(k, p[n, chosen[n, k]]) if renorm > 0 else 1
    along[n] = sum(k, w[n, k] * dw[n, k])
"""
LOAD = f"""
    {PROBS.strip()}
    rows = sum(n, p[n, 0] ** 0)
    f[e] = mean(n, sum(k, 1, chosen[n, k] == e)) / A
    g[e] = E * f[e] / rows
"""
EXPERTS: Mapping[str, Row] = {
    "route": Row(
        "l chosen",
        "w[n, k] = p[n, chosen[n, k]] / among[n]",
        """
        dl[n, e] = sum(k, w[n, k] * dw[n, k], chosen[n, k] == e) - (
            sum(k, w[n, k], chosen[n, k] == e) if renorm > 0 else p[n, e]) * along[n]
        """,
        WEIGHTS,
    ),
    "dispatch": Row("x", "y[n, k, c] = x[n, c]", "dx[n, c] = sum(k, dy[n, k, c])"),
    "expert_linear": Row(
        "x chosen W b",
        "y[n, o] = sum(i, x[n, i] * W[chosen[n], i, o]) + b[chosen[n], o]",
        """
        dx[n, i] = sum(o, dy[n, o] * W[chosen[n], i, o])
        dW[e, i, o] = sum(n, x[n, i] * dy[n, o], chosen[n] == e)
        db[e, o] = sum(n, dy[n, o], chosen[n] == e)
        """,
    ),
    "combine": Row(
        "x w",
        "y[n, c] = sum(k, w[n, k] * x[n, k, c])",
        "dx[n, k, c] = w[n, k] * dy[n, c]\ndw[n, k] = sum(c, dy[n, c] * x[n, k, c])",
    ),
    "opened": Row(
        "g x",
        "y[n, c] = sigma[n, c // W] * x[n, c]",
        """
        dx[n, c] = sigma[n, c // W] * dy[n, c]
        dg[n, j] = sigma[n, j] * (1 - sigma[n, j]) * sum(d < W, dy[n, j * W + d] * x[n, j * W + d])
        """,
        "sigma[n, j] = 1 / (1 + exp(-g[n, j]))\n",
    ),
    "balance": Row(
        "l chosen",
        "loss = E * sum(e, f[e] * mean(n, p[n, e]))",
        "dl[n, e] = dloss * p[n, e] * (g[e] - sum(i, p[n, i] * g[i]))",
        LOAD,
    ),
    "router_z": Row(
        "l",
        "loss = mean(n, z[n] ** 2)",
        "dl[n, e] = dloss * 2 * z[n] * p[n, e] / rows",
        f"{PROBS.rstrip()}\n    z[n] = m[n] + log(Z[n])\n    rows = sum(n, p[n, 0] ** 0)\n",
    ),
}
