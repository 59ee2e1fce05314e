"""Twins of the products with masked weights: a pass over the weights, then the products of linear's twins."""

import numpy as np

from ..engine import bf16
from ..engine.jit import launch, parallel
from . import experts_numba, linear_numba

PRECISIONS = bf16.PRECISIONS
CHUNK = 1 << 16  # weights of a task


@parallel
def masked_part(task, weight, mask, add, out):
    """Some entries of out (+)= M ∘ W, all flat."""
    for i in range(task * CHUNK, min(len(weight), task * CHUNK + CHUNK)):
        left = weight[i] * np.float32(mask[i] != 0)  # a product: NaN stays NaN
        out[i] = left + out[i] if add else left


def masked(weight, weight_mask, into=None):
    """M ∘ W, new or into = (array, add)."""
    out, add = (np.empty(weight.shape, weight.dtype), False) if into is None else into
    flat = weight.reshape(-1), weight_mask.reshape(-1)
    launch(masked_part, -(-weight.size // CHUNK), *flat, add, out.reshape(-1))
    return out


def masked_linear_forward(x, weight, weight_mask, bias=None):
    """Twin of ops.masked.masked_linear_forward."""
    y, _ = linear_numba.linear_forward(x, masked(weight, weight_mask), bias)
    return y, (x, weight, weight_mask, bias is not None)


def masked_linear_backward(dy, saved, wanted=(True, True, True), into=(None, None, None)):
    """Twin of ops.masked.masked_linear_backward; into: where the gradients of weight and bias go."""
    x, weight, weight_mask, has_bias = saved
    inner = x, masked(weight, weight_mask), has_bias
    which, places = (wanted[0], wanted[2]), (_place(into[0]), into[2])
    dx, dweight, dbias = linear_numba.linear_backward(dy, inner, which, places)
    return dx, _home(dweight, weight_mask, into[0]), None, dbias


def masked_expert_linear_forward(x, chosen, weight, weight_mask, bias=None):
    """Twin of ops.masked.masked_expert_linear_forward."""
    y, (_, groups, _, has_bias) = experts_numba.expert_linear_forward(
        x, chosen, masked(weight, weight_mask), bias
    )
    return y, (x, groups, weight, weight_mask, has_bias)


def masked_expert_linear_backward(dy, saved, wanted=(True, True, True), into=(None, None, None)):
    """Twin of ops.masked.masked_expert_linear_backward; into: where the gradients of weight and bias go."""
    x, groups, weight, weight_mask, has_bias = saved
    inner = x, groups, masked(weight, weight_mask), has_bias
    which, places = (wanted[0], wanted[2]), (_place(into[0]), into[2])
    dx, _, dweight, dbias = experts_numba.expert_linear_backward(dy, inner, which, places)
    return dx, None, _home(dweight, weight_mask, into[0]), None, dbias


def _place(into):
    """Where a product may be written before it is masked: its home, unless that holds something to add to."""
    return None if into is None or into[1] else into


def _home(dweight, weight_mask, into):
    """M ∘ dŴ in its home; None where nobody wants it."""
    if dweight is None:
        return None
    return masked(dweight, weight_mask, (dweight, False) if into is None or not into[1] else into)
