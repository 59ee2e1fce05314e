"""What a model costs: parameters, bytes and FLOPs, counted without allocating anything."""

import math
from collections import Counter

import numpy as np

from ..architecture.parameters import shapes


def parameter_groups(config):
    """Group -> number of parameters; their sum is all of them."""
    groups = Counter()
    for name, shape in shapes(config).items():
        groups[_group(name)] += math.prod(shape)
    return dict(groups)


def _group(name):
    if name.startswith("wte"):
        return "token embedding"
    if name.startswith("wpe"):
        return "positions"
    if name.startswith("lm_head"):
        return "unembedding"
    return "norms" if "ln_" in name else "attention" if ".attn." in name else "feed-forward"


def flops_per_token(config, T=None):
    """Part -> multiplications and additions of the forward for one token of a sequence of T (block_size
    unless given).

    Matrix products only, two a weight. Attention is counted as T × T although half of it is masked, as is
    usual; the backward costs twice the forward.
    """
    T = config.block_size if T is None else T
    L, C, F, V = config.n_layer, config.n_embd, config.ffn_width, config.vocab_size
    return {
        "attention, projections": L * 2 * (3 * C * C + C * C),
        "attention, scores and sums": L * 2 * (2 * T * C),
        "feed-forward": L * 2 * (2 * C * F),
        "unembedding": 2 * C * V,
    }


def activation_bytes(config, B, T, dtype="float32", dropout=False):
    """Bytes that the specification holds between the forward and the backward of a batch (B, T)."""
    C, F, H, V, L = config.n_embd, config.ffn_width, config.n_head, config.vocab_size, config.n_layer
    N, itemsize = B * T, np.dtype(dtype).itemsize
    norm = N * C + N  # x̂ and 1/σ
    attention = N * C + 3 * N * C + 2 * N * H + N * C  # input of c_attn; q, k, v; maxima and sums; result
    act = 0 if config.activation == "relu" else N * F  # its input; relu holds booleans
    feed_forward = N * C + act + N * F  # input of c_fc; the activation's; input of c_proj
    norms = 2 * L + (config.norm_position == "pre")
    floats = (
        norms * norm + L * (attention + feed_forward) + N * C + N * V + 2 * N
    )  # input of the unembedding; logits, their maxima and sums
    ids = 8 * N * 2  # tokens and targets
    flags = L * N * F if config.activation == "relu" else 0
    if dropout:
        flags += N * C + L * (2 * N * C + B * H * T * T)
    return floats * itemsize + ids + flags


def training_bytes(config, B, T, dtype="float32"):
    """What -> bytes of a training step with AdamW."""
    size = sum(parameter_groups(config).values()) * np.dtype(dtype).itemsize
    return {
        "weights": size,
        "gradients": size,
        "moments": 2 * size,
        "activations": activation_bytes(config, B, T, dtype, dropout=config.dropout > 0),
    }
