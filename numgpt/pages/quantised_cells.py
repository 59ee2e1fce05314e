"""The rows of products with rounded weights, q of 8 bits and u of 4, two in each byte of B, or masked by M.

What is absent is left out of a sum, so 8 (1 − z⁰) + z is z where there is one, else 8.
"""

from collections.abc import Mapping

from .rows import Row

HALVES = """
    zero[g, o] = 8 * (1 - z[g, o] ** 0) + z[g, o]
    u[i, o] = B[i // 2, o] // 16 ** (i % 2) % 16
    W[i, o] = s[i // (2 * M), o] * (u[i, o] - zero[i // (2 * M), o])
    dW[i, o] = sum(n, x[n, i] * dy[n, o])
"""
HALVES_OF_EXPERTS = """
    zero[e, g, o] = 8 * (1 - z[e, g, o] ** 0) + z[e, g, o]
    u[e, i, o] = B[e, i // 2, o] // 16 ** (i % 2) % 16
    W[e, i, o] = s[e, i // (2 * M), o] * (u[e, i, o] - zero[e, i // (2 * M), o])
    dW[e, i, o] = sum(n, x[n, i] * dy[n, o], chosen[n] == e)
"""
QUANTISED: Mapping[str, Row] = {
    "quantised_linear": Row(
        "x q s b",
        "y[n, o] = s[o] * sum(i, x[n, i] * q[i, o]) + b[o]",
        """
        dx[n, i] = sum(o, dy[n, o] * s[o] * q[i, o])
        ds[o] = sum(n, dy[n, o] * sum(i, x[n, i] * q[i, o]))
        db[o] = sum(n, dy[n, o])
        """,
    ),
    "quantised4_linear": Row(
        "x B s z b",
        "y[n, o] = sum(i, x[n, i] * W[i, o]) + b[o]",
        """
        dx[n, i] = sum(o, dy[n, o] * W[i, o])
        ds[g, o] = sum(i, dW[i, o] * (u[i, o] - zero[g, o]), i // (2 * M) == g)
        dz[g, o] = -s[g, o] * sum(i, dW[i, o], i // (2 * M) == g)
        db[o] = sum(n, dy[n, o])
        """,
        HALVES,
    ),
    "quantised_embedding": Row(
        "ids q s",
        "y[n, c] = s[ids[n]] * q[ids[n], c]",
        "ds[v] = sum(n, sum(c, dy[n, c] * q[v, c]), ids[n] == v)",
    ),
    "quantised_unembedding": Row(
        "x q s",
        "y[n, v] = s[v] * sum(c, x[n, c] * q[v, c])",
        """
        dx[n, c] = sum(v, dy[n, v] * s[v] * q[v, c])
        ds[v] = sum(n, dy[n, v] * sum(c, x[n, c] * q[v, c]))
        """,
    ),
    "expert_quantised_linear": Row(
        "x chosen q s b",
        "y[n, o] = s[chosen[n], o] * sum(i, x[n, i] * q[chosen[n], i, o]) + b[chosen[n], o]",
        """
        dx[n, i] = sum(o, dy[n, o] * s[chosen[n], o] * q[chosen[n], i, o])
        ds[e, o] = sum(n, dy[n, o] * sum(i, x[n, i] * q[e, i, o]), chosen[n] == e)
        db[e, o] = sum(n, dy[n, o], chosen[n] == e)
        """,
    ),
    "expert_quantised4_linear": Row(
        "x chosen B s z b",
        "y[n, o] = sum(i, x[n, i] * W[chosen[n], i, o]) + b[chosen[n], o]",
        """
        dx[n, i] = sum(o, dy[n, o] * W[chosen[n], i, o])
        ds[e, g, o] = sum(i, dW[e, i, o] * (u[e, i, o] - zero[e, g, o]), i // (2 * M) == g)
        dz[e, g, o] = -s[e, g, o] * sum(i, dW[e, i, o], i // (2 * M) == g)
        db[e, o] = sum(n, dy[n, o], chosen[n] == e)
        """,
        HALVES_OF_EXPERTS,
    ),
    "masked_linear": Row(
        "x W M b",
        "y[n, o] = sum(i, x[n, i] * A[i, o]) + b[o]",
        """
        dx[n, i] = sum(o, dy[n, o] * A[i, o])
        dW[i, o] = sum(n, x[n, i] * dy[n, o]) if M[i, o] > 0 else 0
        db[o] = sum(n, dy[n, o])
        """,
        "A[i, o] = W[i, o] if M[i, o] > 0 else 0\n",
    ),
    "masked_expert_linear": Row(
        "x chosen W M b",
        "y[n, o] = sum(i, x[n, i] * A[chosen[n], i, o]) + b[chosen[n], o]",
        """
        dx[n, i] = sum(o, dy[n, o] * A[chosen[n], i, o])
        dW[e, i, o] = sum(n, x[n, i] * dy[n, o], chosen[n] == e) if M[e, i, o] > 0 else 0
        db[e, o] = sum(n, dy[n, o], chosen[n] == e)
        """,
        "A[e, i, o] = W[e, i, o] if M[e, i, o] > 0 else 0\n",
    ),
}
