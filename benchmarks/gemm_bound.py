"""The matrix products of a training step, as the step runs them, and nothing else.

A launch for a block forwards and one backwards, tiles of rows, blocks of queries against the keys that they
see, gradients of matrices by their parts: what the step takes longer is what lies between its products. What
these reach of the processor's peak is printed beside.

The products of experts are the op's own twin, which copies the rows of each expert together.
"""

import math

import numpy as np

from numgpt.engine.blas import gemm, keep_memory, one_thread
from numgpt.engine.jit import launch, parallel
from numgpt.layers.transformer_numba import TILES, head, keys_and_values, of_batch, span
from numgpt.ops.attention_tiles_numba import QUERIES
from numgpt.ops.experts_numba import dispatch_forward, expert_linear_backward, expert_linear_forward
from numgpt.ops.linear_numba import borders, grid, multiply

ROWS, HEADS, ROWS_AGAIN = range(3)
BACK_ROWS, BACK_HEADS, BACK_TO_INPUT, MATRICES = range(4)


@parallel
def _forward(phase, task, heads_of, given, made, weights, dense):
    """given and made: x, qkv, heads, inner and act (N, …), read and written. dense: None beside experts.

    heads_of: B, H, K, D. weights: of c_attn, c_proj, and where it is dense c_fc, c_proj.
    """
    B, H, K, D = heads_of
    x, qkv, heads, _, act = given
    y, dqkv, dheads, inner, _ = made
    if phase == HEADS:
        b, h = task // H, task % H
        rows, into = of_batch(b, B, qkv), head(h, of_batch(b, B, dheads), D)
        q, (k, v) = head(h, rows, D), keys_and_values(h // (H // K), rows, H, K, D)
        for t0 in range(0, len(q), QUERIES):
            t1 = min(len(q), t0 + QUERIES)
            p = np.empty((t1 - t0, t1), x.dtype)
            gemm(False, True, 1.0, q[t0:t1], k[:t1], 0.0, p)
            gemm(False, False, 1.0, p, v[:t1], 0.0, into[t0:t1])
        return
    n0, n1 = span(task, len(x))
    if phase == ROWS:
        gemm(False, False, 1.0, x[n0:n1], weights[0], 0.0, dqkv[n0:n1])
    else:
        gemm(False, False, 1.0, heads[n0:n1], weights[1], 0.0, y[n0:n1])
        if dense is not None:
            gemm(False, False, 1.0, x[n0:n1], weights[2], 0.0, inner[n0:n1])
            gemm(False, False, 1.0, act[n0:n1], weights[3], 0.0, y[n0:n1])


@parallel
def _backward(phase, task, heads_of, given, made, weights, dense, places):
    """As _forward. places: see places_of."""
    B, H, K, D = heads_of
    x, qkv, heads, inner, act = given
    y, dqkv, dheads, _, dact = made
    if phase == BACK_HEADS:
        b, kv, G = task // K, task % K, H // K
        rows, grads, douts = of_batch(b, B, qkv), of_batch(b, B, dqkv), of_batch(b, B, heads)
        k, v = keys_and_values(kv, rows, H, K, D)
        dk, dv = keys_and_values(kv, grads, H, K, D)
        for h in range(kv * G, kv * G + G):
            q, dq, dy = head(h, rows, D), head(h, grads, D), head(h, douts, D)
            for t0 in range(0, len(q), QUERIES):
                t1 = min(len(q), t0 + QUERIES)
                p, ds = np.empty((t1 - t0, t1), x.dtype), np.empty((t1 - t0, t1), x.dtype)
                gemm(False, True, 1.0, q[t0:t1], k[:t1], 0.0, p)
                gemm(False, True, 1.0, dy[t0:t1], v[:t1], 0.0, ds)
                gemm(True, False, 1.0, p, dy[t0:t1], 0.0, dv[:t1])
                gemm(False, False, 1.0, ds, k[:t1], 0.0, dq[t0:t1])
                gemm(True, False, 1.0, ds, q[t0:t1], 0.0, dk[:t1])
        return
    if phase == MATRICES:
        first, pairs = 0, ((x, qkv), (heads, x), (x, inner), (act, x))
        for i in range(len(places)):
            (a, d), (end, rows, columns, g) = pairs[i], places[i]
            if first <= task < end:
                i0, i1, j0, j1 = borders(task - first, rows, columns, g)
                gemm(True, False, 1.0, a[:, i0:i1], d[:, j0:j1], 0.0, g[i0:i1, j0:j1])
            first = end
        return
    n0, n1 = span(task, len(x))
    if phase == BACK_ROWS:
        if dense is not None:
            gemm(False, True, 1.0, x[n0:n1], weights[3], 0.0, dact[n0:n1])
            gemm(False, True, 1.0, inner[n0:n1], weights[2], 0.0, y[n0:n1])
        gemm(False, True, 1.0, x[n0:n1], weights[1], 0.0, dheads[n0:n1])
    else:
        gemm(False, True, 1.0, qkv[n0:n1], weights[0], 0.0, y[n0:n1])


def products(config, B, T):
    """A function that computes the products of one training step.

    Activations are used again by every layer, and each layer has matrices of its own, as in a model: large
    ones come from memory every time.
    """
    H, K, D = config.n_head, config.kv_heads, config.head_size
    N, C, V, sizes = B * T, config.n_embd, config.vocab_size, sizes_of(config)
    rng = np.random.default_rng(0)

    def arrays(*shapes):
        return tuple(rng.standard_normal(s, dtype=np.float32) for s in shapes)

    (_, W), _, (_, inner), (F, _) = sizes
    widths = [(N, width) for width in (C, W, H * D, inner, F)]
    given, made = arrays(*widths), arrays(*widths)
    experts = Experts(rng, config, N) if config.n_expert else None
    dense, own = (None, sizes[:2]) if experts else (True, sizes)
    layers = [(arrays(*own), places_of(arrays(*own))) for _ in range(config.n_layer)]
    (head_in, head_out), (weight, gradient) = arrays((N, C), (N, V)), arrays((C, V), (C, V))
    keep_memory()

    def step():
        with one_thread():
            for layer, (weights, _) in enumerate(layers):
                launch(_forward, (TILES, B * H, TILES), (B, H, K, D), given, made, weights, dense)
                if experts:
                    experts.forward(layer)
            multiply(False, False, head_in, weight, into=(head_out, False))
            multiply(False, True, head_out, weight, into=(head_in, False))
            multiply(True, False, head_in, head_out, into=(gradient, False))
            for layer, (weights, places) in enumerate(layers):
                if experts:
                    experts.backward(layer)
                tasks = TILES, B * K, TILES, places[-1][0]
                launch(_backward, tasks, (B, H, K, D), given, made, weights, dense, places)
            head_in[:], head_out[:] = 1, 1  # else the numbers grow from step to step
        return 0.0

    return step


class Experts:
    """The products of a mixture's layers, and their gradients: two for each expert that a row is sent to.

    To which it is sent is drawn, each expert as often.
    """

    def __init__(self, rng, config, N):
        _, _, (C, inner), (F, _) = sizes_of(config)
        E, A, layers = config.n_expert, config.n_expert_active, range(config.n_layer)

        def drawn(*shape):
            return rng.standard_normal(shape, dtype=np.float32)

        self.chosen = rng.permuted(np.tile(np.arange(E), (N, 1)), axis=1)[:, :A]
        self.x, self.act = dispatch_forward(drawn(N, C), n_active=A)[0], drawn(N, A, F)
        self.inner, self.out = drawn(N, A, inner), drawn(N, A, C)
        self.weights = [(drawn(E, C, inner), drawn(E, F, C)) for _ in layers]
        self.gradients = [(drawn(E, C, inner), drawn(E, F, C)) for _ in layers]
        self.saved = {}

    def forward(self, layer):
        """Both products of a layer."""
        inputs = zip((self.x, self.act), self.weights[layer])
        self.saved[layer] = [expert_linear_forward(x, self.chosen, w)[1] for x, w in inputs]

    def backward(self, layer):
        """Their gradients."""
        given = zip((self.inner, self.out), self.saved.pop(layer), self.gradients[layer])
        for dy, saved, gradient in given:
            expert_linear_backward(dy, saved, into=((gradient, False), None))


def flops(config, B, T):
    """The operations of those products."""
    blocks = [min(T, t0 + QUERIES) - t0 for t0 in range(0, T, QUERIES)]
    seen = sum(n * end for n, end in zip(blocks, np.cumsum(blocks).tolist()))  # queries times keys
    attention = 7 * 2 * config.head_size * seen * B * config.n_head
    A, (qkv, out, fc, proj) = (
        config.n_expert_active if config.n_expert else 1,
        map(math.prod, sizes_of(config)),
    )
    matrices = config.n_layer * (qkv + out + A * (fc + proj)) + config.n_embd * config.vocab_size
    return 3 * 2 * B * T * matrices + config.n_layer * attention


def sizes_of(c):
    """The rows and columns of a block's matrices."""
    inner = 2 * c.ffn_width if c.activation == "swiglu" else c.ffn_width
    return (
        (c.n_embd, c.qkv_width),
        (c.n_head * c.head_size, c.n_embd),
        (c.n_embd, inner),
        (c.ffn_width, c.n_embd),
    )


def places_of(gradients):
    """For each gradient the task after its last, its rows and columns of parts, and itself."""
    end, places = 0, []
    for g in gradients:
        rows, columns = grid(*g.shape)
        end += rows * columns
        places.append((end, rows, columns, g))
    return tuple(places)
