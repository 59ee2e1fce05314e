"""The rows of the steps of attention, of which each query sees an interval of keys, first … last."""

from collections.abc import Mapping

from .rows import Row

IS_SEEN = "first[n, t] <= s <= last[n, t]"
SOFTMAX = f"""
    first[n, t] = 0
    last[n, t] = t
    m[n, h, t] = max(s, x[n, h, t, s], {IS_SEEN})
    Z[n, h, t] = sum(s, exp(x[n, h, t, s] - m[n, h, t]), {IS_SEEN})
    Delta[n, h, t] = sum(s, P[n, h, t, s] * dP[n, h, t, s], {IS_SEEN})
"""
# Attention in one piece: its steps as locals, of which cap and slopes are taken where they are given.
WHOLE = f"""
    scale = 1 / sqrt(D)
    first[n, t] = 0
    last[n, t] = t
    capped = 0
    sloped = 0
    q[n, h, t, d] = qkv[n, t, h * D + d]
    k[n, h, s, d] = qkv[n, s, (K * G + h // G) * D + d]
    v[n, h, s, d] = qkv[n, s, (K * G + K + h // G) * D + d]
    score[n, h, t, s] = scale * sum(d < D, q[n, h, t, d] * k[n, h, s, d])
    bent[n, h, t, s] = cap * tanh(score[n, h, t, s] / cap) if capped > 0 else score[n, h, t, s]
    x[n, h, t, s] = bent[n, h, t, s] + slopes[h] * (s - t) if sloped > 0 else bent[n, h, t, s]
    m[n, h, t] = max(s, x[n, h, t, s], {IS_SEEN})
    Z[n, h, t] = sum(s, exp(x[n, h, t, s] - m[n, h, t]), {IS_SEEN})
    P[n, h, t, s] = exp(x[n, h, t, s] - m[n, h, t]) / Z[n, h, t] if {IS_SEEN} else 0
    used[n, h, t, s] = P[n, h, t, s] * (keep[n, h, t, s] / (1 - p))
    dP[n, h, t, s] = sum(d < D, dy[n, t, h * D + d] * v[n, h, s, d]) * (keep[n, h, t, s] / (1 - p))
    Delta[n, h, t] = sum(s, P[n, h, t, s] * dP[n, h, t, s], {IS_SEEN})
    slope[n, h, t, s] = 1 - tanh(score[n, h, t, s] / cap) ** 2 if capped > 0 else 1
    dscore[n, h, t, s] = P[n, h, t, s] * (dP[n, h, t, s] - Delta[n, h, t]) * slope[n, h, t, s]
    dq[n, h, t, d] = scale * sum(s, dscore[n, h, t, s] * k[n, h, s, d], {IS_SEEN})
    dkey[n, h, s, d] = scale * sum(t, dscore[n, h, t, s] * q[n, h, t, d], {IS_SEEN})
    dvalue[n, h, s, d] = sum(t, used[n, h, t, s] * dy[n, t, h * D + d], {IS_SEEN})
    dk[n, j, s, d] = sum(g < G, dkey[n, j * G + g, s, d])
    dv[n, j, s, d] = sum(g < G, dvalue[n, j * G + g, s, d])
"""
WHICH = """
    dq[n, c // D, t, c % D] if c // D < K * G else (
        dk[n, c // D - K * G, t, c % D] if c // D < K * G + K else dv[n, c // D - K * G - K, t, c % D])
"""
SINK_SOFTMAX = f"""
    first[n, t] = 0
    last[n, t] = t
    m[n, h, t] = max(s, x[n, h, t, s], {IS_SEEN})
    Z[n, h, t] = sum(s, exp(x[n, h, t, s] - m[n, h, t]), {IS_SEEN}) + exp(z[h] - m[n, h, t])
    Delta[n, h, t] = sum(s, P[n, h, t, s] * dP[n, h, t, s], {IS_SEEN})
"""
# Of a norm of channels begin … end − 1, in vectors of W: channel c is in vector (c − begin) // W.
IN_PART = "begin <= c < end"
PART_WEIGHT = "dw[i] = sum(n, sum(j < G, dy[n, j * W + i] * xhat[n, j * W + i], begin <= j * W < end))"
PART_MEANS = """
    along[n, j] = sum(i < W, dy[n, begin + j * W + i] * w[i] * xhat[n, begin + j * W + i]) / W
"""
PART_SQUARE = f"""
    begin = 0
    end = G * W
    eps = 1e-5
    ms[n, j] = sum(i < W, x[n, begin + j * W + i] ** 2) / W
    r[n, j] = 1 / sqrt(ms[n, j] + eps)
    xhat[n, c] = x[n, c] * r[n, (c - begin) // W]
    {PART_MEANS.strip()}
"""
PART_NORM = f"""
    begin = 0
    end = G * W
    eps = 1e-5
    mu[n, j] = sum(i < W, x[n, begin + j * W + i]) / W
    var[n, j] = sum(i < W, (x[n, begin + j * W + i] - mu[n, j]) ** 2) / W
    r[n, j] = 1 / sqrt(var[n, j] + eps)
    xhat[n, c] = (x[n, c] - mu[n, (c - begin) // W]) * r[n, (c - begin) // W]
    gmean[n, j] = sum(i < W, dy[n, begin + j * W + i] * w[i]) / W
    {PART_MEANS.strip()}
"""
# Of a norm of H heads from channel begin on: channel c is in head (c − begin) // D.
IN_HEADS = "begin <= c < begin + H * D"
HEADS_NORM = """
    begin = 0
    eps = 1e-5
    mu[n, h] = sum(i < D, x[n, begin + h * D + i]) / D
    var[n, h] = sum(i < D, (x[n, begin + h * D + i] - mu[n, h]) ** 2) / D
    r[n, h] = 1 / sqrt(var[n, h] + eps)
    xhat[n, c] = (x[n, c] - mu[n, (c - begin) // D]) * r[n, (c - begin) // D]
    gmean[n, h] = sum(i < D, dy[n, begin + h * D + i] * w[h, i]) / D
    along[n, h] = sum(i < D, dy[n, begin + h * D + i] * w[h, i] * xhat[n, begin + h * D + i]) / D
"""
TURNED = """
    start = 0
    positions[n, t] = start + t
    base = 10000
    dim = D
    half = dim // 2
    size = 1
    f[i] = base ** (-2 * i / dim)
    theta[n, t, i] = positions[n, t] * f[i]
    cosine[n, t, c] = size * cos(theta[n, t, c % D % half])
    sine[n, t, c] = size * sin(theta[n, t, c % D % half])
"""
TURNS = "c % D < dim and c // D < K * G + K"
PART = "dqkv[n, t, c] = {d}[n, c // D - {at}, t, c % D] if {at} <= c // D < {at} + {heads} else 0"


def turn(to: str, of: str, first: str, second: str) -> str:
    """The equation of what is turned, with the signs of the sines in the first and the second half."""
    kept = f"{of}[n, t, c] * cosine[n, t, c]"
    other = [f"{of}[n, t, c {sign} half] * sine[n, t, c]" for sign in "+-"]
    halves = f"{kept} {first} {other[0]} if c % D < half else {kept} {second} {other[1]}"
    return f"{to}[n, t, c] = ({halves}) if {TURNS} else {of}[n, t, c]"


def part(letter: str, at: str, heads: str) -> Row:
    """The row of queries, keys or values out of their packed channels, whose heads begin at head `at`."""
    return Row(
        "qkv",
        f"{letter}[n, h, t, d] = qkv[n, t, ({at} + h) * D + d]",
        PART.format(d=f"d{letter}", at=f"({at})", heads=heads),
    )


ATTENTION: Mapping[str, Row] = {
    "query_heads": Row(
        "qkv",
        "q[n, h, t, d] = qkv[n, t, h * D + d]",
        "dqkv[n, t, c] = dq[n, c // D, t, c % D] if c // D < K * G else 0",
    ),
    "key_heads": part("k", "K * G", "K"),
    "value_heads": part("v", "K * G + K", "K"),
    "rotary": Row("x", turn("y", "x", "-", "+"), turn("dx", "dy", "+", "-"), TURNED),
    "attention": Row(
        "qkv",
        f"y[n, t, c] = sum(s, used[n, c // D, t, s] * v[n, c // D, s, c % D], {IS_SEEN})",
        f"dqkv[n, t, c] = ({WHICH})",
        WHOLE,
    ),
    "attention_scores": Row(
        "q k",
        "score[n, h, t, s] = scale * sum(d, q[n, h, t, d] * k[n, h // G, s, d])",
        """
        dq[n, h, t, d] = scale * sum(s, dscore[n, h, t, s] * k[n, h // G, s, d])
        dk[n, j, s, d] = scale * sum(g < G, sum(t, dscore[n, j * G + g, t, s] * q[n, j * G + g, t, d]))
        """,
        "scale = 1 / sqrt(D)\n",
    ),
    "softcap": Row(
        "x",
        "y[n] = cap * tanh(x[n] / cap)",
        "dx[n] = dy[n] * (1 - tanh(x[n] / cap) ** 2)",
        "cap = 50\n",
    ),
    "distance_slopes": Row(
        "x",
        "y[n, h, t, s] = x[n, h, t, s] + slopes[h] * (s - t)",
        "dx[n, h, t, s] = dy[n, h, t, s]",
    ),
    "attention_probs": Row(
        "x",
        f"P[n, h, t, s] = exp(x[n, h, t, s] - m[n, h, t]) / Z[n, h, t] if {IS_SEEN} else 0",
        """
        dx[n, h, t, s] = P[n, h, t, s] * (dP[n, h, t, s] - Delta[n, h, t]) \\
            if first[n, t] <= s <= last[n, t] else 0
        """,
        SOFTMAX,
    ),
    "sink_probs": Row(
        "x z",
        f"P[n, h, t, s] = exp(x[n, h, t, s] - m[n, h, t]) / Z[n, h, t] if {IS_SEEN} else 0",
        """
        dx[n, h, t, s] = P[n, h, t, s] * (dP[n, h, t, s] - Delta[n, h, t]) \\
            if first[n, t] <= s <= last[n, t] else 0
        dz[h] = sum(n, sum(t, -exp(z[h] - m[n, h, t]) / Z[n, h, t] * Delta[n, h, t]))
        """,
        SINK_SOFTMAX,
    ),
    "part_rmsnorm": Row(
        "x w",
        f"y[n, c] = xhat[n, c] * w[(c - begin) % W] if {IN_PART} else x[n, c]",
        f"""
        dx[n, c] = r[n, (c - begin) // W] * (dy[n, c] * w[(c - begin) % W]
            - xhat[n, c] * along[n, (c - begin) // W]) if {IN_PART} else dy[n, c]
        {PART_WEIGHT}
        """,
        PART_SQUARE,
    ),
    "part_layernorm": Row(
        "x w b",
        f"y[n, c] = xhat[n, c] * w[(c - begin) % W] + b[(c - begin) % W] if {IN_PART} else x[n, c]",
        f"""
        dx[n, c] = r[n, (c - begin) // W] * (dy[n, c] * w[(c - begin) % W] - gmean[n, (c - begin) // W]
            - xhat[n, c] * along[n, (c - begin) // W]) if {IN_PART} else dy[n, c]
        {PART_WEIGHT}
        db[i] = sum(n, sum(j < G, dy[n, j * W + i], begin <= j * W < end))
        """,
        PART_NORM,
    ),
    "heads_layernorm": Row(
        "x w",
        f"y[n, c] = xhat[n, c] * w[(c - begin) // D, (c - begin) % D] if {IN_HEADS} else x[n, c]",
        f"""
        dx[n, c] = r[n, (c - begin) // D] * (dy[n, c] * w[(c - begin) // D, (c - begin) % D]
            - gmean[n, (c - begin) // D] - xhat[n, c] * along[n, (c - begin) // D]) \\
            if {IN_HEADS} else dy[n, c]
        dw[h, i] = sum(n, dy[n, begin + h * D + i] * xhat[n, begin + h * D + i])
        """,
        HEADS_NORM,
    ),
    "weighted_values": Row(
        "P v",
        "y[n, t, c] = sum(s, used[n, c // D, t, s] * v[n, c // D // G, s, c % D], P[n, c // D, t, s] != 0)",
        """
        dP[n, h, t, s] = sum(d, dy[n, t, h * D + d] * v[n, h // G, s, d]) * (keep[n, h, t, s] / (1 - p))
        dv[n, j, s, d] = sum(g < G, sum(t, used[n, j * G + g, t, s] * dy[n, t, (j * G + g) * D + d],
            P[n, j * G + g, t, s] != 0))
        """,
        "used[n, h, t, s] = P[n, h, t, s] * (keep[n, h, t, s] / (1 - p))\n",
    ),
}
