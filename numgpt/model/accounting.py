"""What a model costs: parameters, bytes and FLOPs, counted without allocating anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import DTypeLike

from ..architecture.config import Config
from ..architecture.parameters import NORMS_OF, is_matrix, kinds, shapes
from ..ops.activations import ACTIVATIONS
from ..ops.norms import NORMS


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
    """Bytes that the specification holds between the forward and the backward of a batch (B, T)."""
    C, V, L, N = config.n_embd, config.vocab_size, config.n_layer, B * T
    norm = N * C + N  # x̂ and 1/σ
    last = 0 if _gives_what_it_saves(config) else N * C  # the input of the unembedding
    # At the end that input, the logits, their maxima and sums; and the logits before a cap.
    floats = (config.has_final_norm + config.embed_norm) * norm + last + N * V + 2 * N
    floats += N * V if config.final_softcap is not None else 0
    flags = N * C + L * 2 * N * C if dropout else 0
    activations = 0
    for kind in config.scopes().values():
        inner = _inner_rows(kind, N)
        floats += _norm_floats(kind, N) + _attention_floats(kind, N) + inner  # input of c_proj
        floats += _expert_floats(kind, N)
        activations += inner * _saved_bytes(kind.activation, dtype)
        flags += B * kind.n_head * T * T if dropout else 0
    floats += _turning_floats(config, T)
    ids = 8 * N * 2  # tokens and targets
    ids += sum(_bytes_of_form(kind, T) + _expert_ids(kind, N) for kind in config.scopes().values())
    return floats * np.dtype(dtype).itemsize + activations + ids + flags


def _gives_what_it_saves(config: Config) -> bool:
    """Whether a norm's value is the x̂ that it saves: one without a weight."""
    return not NORMS[config.norm].parameters


def _norm_floats(kind: Config, N: int) -> int:
    """The numbers that a block's norms save, and the inputs of c_attn and c_fc, which may be one."""
    C = kind.n_embd
    norms = NORMS_OF[kind.norm_position]
    count = sum(map(len, norms))
    inputs = 1 if kind.norm_position == "parallel" else 2
    if _gives_what_it_saves(kind) and kind.norm_position in ("pre", "both", "parallel", "parallel2"):
        inputs = 0
    return count * (N * C + N) + inputs * N * C


def _attention_floats(kind: Config, N: int) -> int:
    """The numbers that attention saves: q, k, v, maxima and sums, its result; and of a norm of q and k."""
    H, K, D = kind.n_head, kind.kv_heads, kind.head_size
    floats = N * kind.qkv_width + 2 * N * H + N * H * D
    if kind.qk_norm == "none":
        return floats
    return floats + N * (H + K) * D + N * (2 if kind.qk_norm == "full" else H + K)


def _inner_rows(kind: Config, N: int) -> int:
    """The numbers that the activations of a feed-forward give: of the chosen experts and the shared one."""
    if kind.n_expert == 0:
        return N * kind.ffn_width
    return N * (kind.n_expert_active * kind.ffn_width + (kind.shared_inner or 0))


def _expert_floats(kind: Config, N: int) -> int:
    """The numbers that a mixture saves: copies of rows, what experts give, scores, weights and the gate."""
    if kind.n_expert == 0:
        return 0
    C, E, A = kind.n_embd, kind.n_expert, kind.n_expert_active
    shared = 0 if kind.shared_inner is None else N * C + 2 * N
    return 2 * N * A * C + N * (E + A) + shared


def _expert_ids(kind: Config, N: int) -> int:
    """Bytes of the chosen experts, and of the rows by expert in both of their maps."""
    return 0 if kind.n_expert == 0 else 3 * 8 * N * kind.n_expert_active


def _turning_floats(config: Config, T: int) -> int:
    """The numbers in tables of cos and sin, R/2 each a position: layers that turn alike share them."""
    rotary = (kind for kind in config.scopes().values() if kind.positions == "rotary")
    tables = {(kind.rotary_size, kind.rotary_base, kind.rotary_scaling) for kind in rotary}
    return sum(T * size for size, *_ in tables)


def _bytes_of_form(kind: Config, T: int) -> int:
    """Bytes of the first key that each query sees within a window, and of the slopes of linear biases."""
    is_cut = kind.window is not None and kind.window < T
    return 8 * T * is_cut + 8 * kind.n_head * (kind.positions == "alibi")


def _saved_bytes(activation: str, dtype: DTypeLike) -> int:
    """What an activation saves for each of its results, asked of the op itself."""
    row = ACTIVATIONS[activation]
    _, saved = row.op.forward(np.zeros(2 if row.gated else 1, dtype))
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
