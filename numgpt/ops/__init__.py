"""Pairs: forward and backward functions over arrays, a family a file. ALL is the table of them."""

from .activations import gelu, gelu_tanh, relu
from .attention import attend, attention
from .dropout import dropout
from .embedding import embedding
from .linear import linear, unembedding
from .losses import cross_entropy
from .norms import layernorm
from .op import Op
from .positions import positions

ALL = {
    op.name: op
    for op in (
        embedding,
        positions,
        linear,
        layernorm,
        gelu,
        gelu_tanh,
        relu,
        attend,
        attention,
        dropout,
        unembedding,
        cross_entropy,
    )
}

__all__ = ["ALL", "Op", *ALL]
