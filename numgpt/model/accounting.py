"""What a model costs: parameters, bytes and FLOPs, counted without allocating anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import DTypeLike

from ..architecture.config import Config
from ..architecture.parameters import is_matrix, kinds, shapes
from .held import held_by_name


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


def active_parameters(config: Config) -> int:
    """How many parameters compute one token: all but those of experts that are not chosen for it.

    >>> active_parameters(Config()) == sum(parameter_groups(Config()).values())
    True
    """
    groups = parameter_groups(config)
    biases = sum(
        math.prod(shape) * share for name, shape, share in _of_experts(config) if not is_matrix(name, shape)
    )
    return sum(groups.values()) - groups.get("experts", 0) + active_in_experts(config) + int(biases)


def active_in_experts(config: Config) -> int:
    """How many weights of experts compute one token."""
    return int(
        sum(math.prod(shape) * share for name, shape, share in _of_experts(config) if is_matrix(name, shape))
    )


def _of_experts(config: Config) -> Iterator[tuple[str, tuple[int, ...], Fraction]]:
    """(name, shape, the share of it that computes a token) of the parameters of experts."""
    kind_of, scopes = kinds(config), config.scopes()
    for name, shape in shapes(config).items():
        if kind_of[name] == "experts":
            kind = scopes[name[: name.index(".", 2) + 1]]
            yield name, shape, Fraction(kind.n_expert_active, kind.n_expert)


def flops_per_token(config: Config, T: int | None = None) -> dict[str, int]:
    """Part -> multiplications and additions of the forward for one token of a sequence of T.

    T is block_size unless given. Matrix products only: an addition and a multiplication for each weight.
    Attention is counted as T × T although half of it is masked, as is usual, and as T × W within a window of
    W. The backward costs twice as much.
    """
    T = config.block_size if T is None else T
    sizes, kind_of = shapes(config), kinds(config)
    weights = Counter({"attention": 0, "feed-forward": 0, "routers": 0})
    for name, shape in sizes.items():
        if kind_of[name] in weights and is_matrix(name, shape):
            weights[kind_of[name]] += math.prod(shape)
    weights["feed-forward"] += weights["routers"] + active_in_experts(config)
    scores = sum(min(T, kind.window or T) * kind.n_head * kind.head_size for kind in config.scopes().values())
    return {
        "attention, projections": 2 * weights["attention"],
        "attention, scores and sums": 2 * 2 * scores,
        "feed-forward": 2 * weights["feed-forward"],
        "unembedding": 2 * config.n_embd * config.vocab_size,
    }


def activation_bytes(
    config: Config, B: int, T: int, dtype: DTypeLike = "float32", dropout: bool = False
) -> int:
    """Bytes that the specification holds between the forward and the backward of a batch (B, T).

    tokens and targets are among them; held_by_name of held.py says what each name holds.
    """
    return sum(held_by_name(config, B, T, dtype, dropout).values())


def cache_bytes(config: Config, B: int, T: int, dtype: DTypeLike = "float32") -> int:
    """Bytes of the keys and values of B texts of T tokens, of which a window of W asks for W at most.

    >>> cache_bytes(Config(), 1, 1024)  # GPT-2's, 12 layers of 2 × 768 numbers a token
    75497472
    """
    held = sum(
        2 * min(T, kind.window or T) * kind.kv_heads * kind.head_size for kind in config.scopes().values()
    )
    return B * held * np.dtype(dtype).itemsize


def training_bytes(config: Config, B: int, T: int, dtype: DTypeLike = "float32") -> dict[str, int]:
    """What -> bytes of a training step with AdamW."""
    size = sum(parameter_groups(config).values()) * np.dtype(dtype).itemsize
    return {
        "weights": size,
        "gradients": size,
        "moments": 2 * size,
        "activations": activation_bytes(config, B, T, dtype, dropout=config.dropout > 0),
    }
