"""Twin of the optimizer's arithmetic: one pass over parameters, gradients and moments."""

import math

import numpy as np

from ..engine.jit import SUMS, kernel, launch, parallel

CHUNK = 65536  # entries a task


@kernel(fastmath=SUMS)
def squares(x):
    """Σ x² in float64."""
    s = 0.0
    for i in range(len(x)):
        v = np.float64(x[i])
        s += v * v
    return s


@parallel
def chunk_squares(chunk, x, out):
    """Σ x² of a chunk."""
    out[chunk] = squares(x[chunk * CHUNK : (chunk + 1) * CHUNK])


@parallel
def update(chunk, w, g, m, v, decayed, beta1, beta2, clip, eps, keep, rate, root):
    """AdamW over a chunk of the flat buffer, of which the first `decayed` entries are pulled to 0."""
    t = w.dtype.type  # constants of another type would turn float32's arithmetic into float64's
    rest1, rest2 = t(1 - beta1), t(1 - beta2)
    beta1, beta2 = t(beta1), t(beta2)
    clip, eps, rate, root = t(clip), t(eps), t(rate), t(root)
    a, b = chunk * CHUNK, min(len(w), (chunk + 1) * CHUNK)
    c = min(max(decayed, a), b)
    for i0, i1, factor in ((a, c, t(keep)), (c, b, t(1))):
        ws, gs, ms, vs = w[i0:i1], g[i0:i1], m[i0:i1], v[i0:i1]
        for i in range(len(ws)):
            grad = gs[i] * clip
            ms[i] = ms[i] * beta1 + rest1 * grad
            vs[i] = vs[i] * beta2 + rest2 * grad * grad
            ws[i] = ws[i] * factor - rate * ms[i] / (np.sqrt(vs[i] * root) + eps)


def global_norm(flat):
    """Twin of optim.global_norm."""
    return math.sqrt(sum(block_squares(flat)))


def block_squares(flat):
    """Twin of optim.block_squares."""
    sums = np.empty(-(-len(flat) // CHUNK))
    launch(chunk_squares, len(sums), flat, sums)
    return sums.tolist()


def adamw(w, g, m, v, decayed, betas, eps, weight_decay, clip, lr, t):
    """Twin of optim.adamw."""
    beta1, beta2 = betas
    keep, rate, root = 1 - lr * weight_decay, lr / (1 - beta1**t), 1 / (1 - beta2**t)
    launch(update, -(-len(w) // CHUNK), w, g, m, v, decayed, beta1, beta2, clip, eps, keep, rate, root)
