"""What a model costs: parameters, bytes and FLOPs, counted without allocating anything."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..architecture.config import Config
from ..architecture.parameters import kinds, shapes
from ..ops.activations import ACTIVATIONS


def parameter_groups(config: Config) -> dict[str, int]:
    """Group -> number of parameters; their sum is all of them.

    >>> sum(parameter_groups(Config()).values())  # GPT-2's
    124439808
    """
    groups: Counter[str] = Counter()
    kind_of = kinds(config)
    for name, shape in shapes(config).items():
        groups[kind_of[name]] += math.prod(shape)
    return dict(groups)


def flops_per_token(config: Config, T: int | None = None) -> dict[str, int]:
    """Part -> multiplications and additions of the forward for one token of a sequence of T.

    T is block_size unless given. Matrix products only: an addition and a multiplication for each weight.
    Attention is counted as T × T although half of it is masked, as is usual. The backward costs
    twice as much.
    """
    T = config.block_size if T is None else T
    L, C, F, V = config.n_layer, config.n_embd, config.ffn_width, config.vocab_size
    return {
        "attention, projections": L * 2 * (3 * C * C + C * C),
        "attention, scores and sums": L * 2 * (2 * T * C),
        "feed-forward": L * 2 * (2 * C * F),
        "unembedding": 2 * C * V,
    }


def activation_bytes(
    config: Config, B: int, T: int, dtype: DTypeLike = "float32", dropout: bool = False
) -> int:
    """Bytes that the specification holds between the forward and the backward of a batch (B, T)."""
    C, F, H, V, L = config.n_embd, config.ffn_width, config.n_head, config.vocab_size, config.n_layer
    N = B * T
    itemsize = np.dtype(dtype).itemsize
    norm = N * C + N  # x̂ and 1/σ
    attention = N * C + 3 * N * C + 2 * N * H + N * C  # input of c_attn; q, k, v; maxima and sums; result
    feed_forward = N * C + N * F  # input of c_fc; input of c_proj
    norms = 2 * L + (config.norm_position == "pre")
    # At the end the input of the unembedding, the logits, their maxima and sums.
    floats = norms * norm + L * (attention + feed_forward) + N * C + N * V + 2 * N
    activations = L * N * F * _saved_bytes(ACTIVATIONS[config.activation].op, dtype)
    ids = 8 * N * 2  # tokens and targets
    flags = N * C + L * (2 * N * C + B * H * T * T) if dropout else 0
    return floats * itemsize + activations + ids + flags


def _saved_bytes(op: Any, dtype: DTypeLike) -> int:
    """What an op of one array saves for each of its entries, asked of the op itself."""
    _, saved = op.forward(np.zeros(1, dtype))
    return sum(array.nbytes for array in saved)


def training_bytes(config: Config, B: int, T: int, dtype: DTypeLike = "float32") -> dict[str, int]:
    """What -> bytes of a training step with AdamW."""
    size = sum(parameter_groups(config).values()) * np.dtype(dtype).itemsize
    return {
        "weights": size,
        "gradients": size,
        "moments": 2 * size,
        "activations": activation_bytes(config, B, T, dtype, dropout=config.dropout > 0),
    }
