"""Pairs of a forward and a backward over arrays, a family a file; ALL is the table of them.

Enter here to ask how a gradient is derived: help(numgpt.ops.layernorm) shows it.
"""

from .activations import (
    ACTIVATIONS,
    geglu,
    geglu_tanh,
    gelu,
    gelu_bloom,
    gelu_tanh,
    reglu,
    relu,
    relu2,
    silu,
    swiglu,
    swiglu_clamped,
)
from .attention import attend, attend_groups, attention
from .attention_steps import (
    attention_probs,
    attention_scores,
    distance_slopes,
    key_heads,
    query_heads,
    softcap,
    value_heads,
    weighted_values,
)
from .dropout import dropout
from .elementary import add, scaled, shift
from .embedding import embedding
from .experts import combine, dispatch, expert_linear, opened, route
from .likelihoods import forward_kl, reverse_kl, token_entropy, token_logprobs
from .linear import linear, unembedding
from .lora import lora_linear, low_rank
from .losses import anchor, cross_entropy, squared_error
from .masked import masked_expert_linear, masked_linear
from .means import sequence_mean, sequence_sum, token_mean, whiten
from .norms import NORMS, layernorm, rmsnorm, standardise
from .op import Op
from .part_norms import PART_NORMS, heads_layernorm, part_layernorm, part_rmsnorm
from .policies import k1, k2, k3, ppo
from .pooling import last_token, mean_pool
from .positions import POSITIONS, positions, sinusoidal
from .preferences import bradley_terry, clipped_value, dpo, ipo, kto
from .quantised import (
    expert_quantised4_linear,
    expert_quantised_linear,
    quantised4_linear,
    quantised_embedding,
    quantised_linear,
    quantised_unembedding,
)
from .rotary import rotary
from .router_losses import balance, router_z
from .sinks import sink_attention, sink_probs

_ATTENTION = (
    *(attend, attend_groups, attention, query_heads, key_heads, value_heads, attention_scores, softcap),
    *(distance_slopes, attention_probs, weighted_values, sink_attention, sink_probs),
)
_EXPERTS = (route, dispatch, expert_linear, combine, opened, balance, router_z)
_TUNING = (
    *(token_logprobs, token_entropy, reverse_kl, forward_kl, token_mean, sequence_mean, sequence_sum),
    *(bradley_terry, dpo, ipo, kto, clipped_value, last_token, mean_pool, squared_error, lora_linear),
    *(ppo, k1, k2, k3, whiten, anchor),
)
_QUANTISED = (
    *(quantised_linear, quantised4_linear, quantised_embedding, quantised_unembedding),
    *(expert_quantised_linear, expert_quantised4_linear, low_rank),
    *(masked_linear, masked_expert_linear),
)
_CHOSEN = (*filter(None, POSITIONS.values()), *NORMS.values(), *(row.op for row in ACTIVATIONS.values()))
ALL = {
    op.name: op
    for op in (
        embedding,
        linear,
        *_ATTENTION,
        add,
        scaled,
        shift,
        *_EXPERTS,
        dropout,
        unembedding,
        cross_entropy,
        *_TUNING,
        *_QUANTISED,
        *_CHOSEN,
        *PART_NORMS.values(),
        heads_layernorm,
    )
}

__all__ = [
    "ALL",
    "Op",
    "add",
    "anchor",
    "attend",
    "attend_groups",
    "attention",
    "attention_probs",
    "attention_scores",
    "balance",
    "bradley_terry",
    "clipped_value",
    "combine",
    "cross_entropy",
    "dispatch",
    "distance_slopes",
    "dpo",
    "dropout",
    "embedding",
    "expert_linear",
    "expert_quantised4_linear",
    "expert_quantised_linear",
    "forward_kl",
    "geglu",
    "geglu_tanh",
    "gelu",
    "gelu_bloom",
    "gelu_tanh",
    "heads_layernorm",
    "ipo",
    "k1",
    "k2",
    "k3",
    "key_heads",
    "kto",
    "last_token",
    "layernorm",
    "linear",
    "lora_linear",
    "low_rank",
    "masked_expert_linear",
    "masked_linear",
    "mean_pool",
    "opened",
    "part_layernorm",
    "part_rmsnorm",
    "positions",
    "ppo",
    "quantised4_linear",
    "quantised_embedding",
    "quantised_linear",
    "quantised_unembedding",
    "query_heads",
    "reglu",
    "relu",
    "relu2",
    "reverse_kl",
    "rmsnorm",
    "rotary",
    "route",
    "router_z",
    "scaled",
    "sequence_mean",
    "sequence_sum",
    "shift",
    "silu",
    "sink_attention",
    "sink_probs",
    "sinusoidal",
    "softcap",
    "squared_error",
    "standardise",
    "swiglu",
    "swiglu_clamped",
    "token_entropy",
    "token_logprobs",
    "token_mean",
    "unembedding",
    "value_heads",
    "weighted_values",
    "whiten",
]
