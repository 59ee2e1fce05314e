"""Pairs of a forward and a backward over arrays, a family a file; ALL is the table of them.

Enter here to ask how a gradient is derived: help(numgpt.ops.layernorm) shows it.
"""

from .activations import ACTIVATIONS, gelu, gelu_tanh, relu
from .attention import attend, attention
from .dropout import dropout
from .embedding import embedding
from .linear import linear, unembedding
from .losses import cross_entropy
from .norms import NORMS, layernorm
from .op import Op
from .positions import POSITIONS, positions

_CHOSEN = (*POSITIONS.values(), *NORMS.values(), *(row.op for row in ACTIVATIONS.values()))
ALL = {
    op.name: op
    for op in (embedding, linear, attend, attention, dropout, unembedding, cross_entropy, *_CHOSEN)
}

__all__ = [
    "ALL",
    "Op",
    "attend",
    "attention",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "gelu_tanh",
    "layernorm",
    "linear",
    "positions",
    "relu",
    "unembedding",
]
