"""Twins of the norms of a part of the channels on a GPU: the kernels are those of norms_cupy.py."""

from .norms_cupy import Vectors, gradients, input_gradient, normalised
from .part_norms import heads_of, part_of


def part_rmsnorm_forward(x, weight, *, begin=0, end=None, eps=1e-5):
    """Twin of ops.part_norms.part_rmsnorm_forward."""
    part, end = part_of(x, weight, begin, end)
    y, xhat, rstd = normalised(x, weight, None, eps, _vectors(x, part, begin), centred=False)
    return y, (xhat.reshape(part.shape), rstd.reshape(*part.shape[:-1], 1), weight, begin, end)


def part_rmsnorm_backward(dy, saved, into=(None,)):
    """Twin of ops.part_norms.part_rmsnorm_backward; into: where the gradient of weight goes."""
    xhat, rstd, weight, begin, _ = saved
    at = _vectors(dy, xhat, begin)
    dx = input_gradient(dy, xhat, rstd, weight, at, centred=False)
    return dx, gradients(dy, xhat, weight, at, into)[0]


def part_layernorm_forward(x, weight, bias=None, *, begin=0, end=None, eps=1e-5):
    """Twin of ops.part_norms.part_layernorm_forward."""
    part, end = part_of(x, weight, begin, end)
    y, xhat, rstd = normalised(x, weight, bias, eps, _vectors(x, part, begin))
    hats, scales = xhat.reshape(part.shape), rstd.reshape(*part.shape[:-1], 1)
    return y, (hats, scales, weight, bias is not None, begin, end)


def part_layernorm_backward(dy, saved, into=(None, None)):
    """Twin of ops.part_norms.part_layernorm_backward; into: where the gradients of weight and bias go."""
    xhat, rstd, weight, has_bias, begin, _ = saved
    at = _vectors(dy, xhat, begin)
    dx = input_gradient(dy, xhat, rstd, weight, at)
    return dx, *gradients(dy, xhat, weight, at, into if has_bias else into[:1])


def heads_layernorm_forward(x, weight, *, begin=0, eps=1e-5):
    """Twin of ops.part_norms.heads_layernorm_forward."""
    heads = heads_of(x, weight, begin)
    y, xhat, rstd = normalised(x, weight, None, eps, _vectors(x, heads, begin), each=weight.shape[-1])
    return y, (xhat.reshape(heads.shape), rstd.reshape(*heads.shape[:-1], 1), weight, begin)


def heads_layernorm_backward(dy, saved, into=(None,)):
    """Twin of ops.part_norms.heads_layernorm_backward; into: where the gradient of weight goes.

    Each head has a weight of its own, so for its gradient a row's heads are one vector.
    """
    xhat, rstd, weight, begin = saved
    dx = input_gradient(dy, xhat, rstd, weight, _vectors(dy, xhat, begin), each=weight.shape[-1])
    return dx, gradients(dy, xhat, weight, Vectors(weight.size, 1, dy.shape[-1], begin), into)[0]


def _vectors(x, part, begin):
    """Where the vectors of a part (..., count, C) lie in x."""
    return Vectors(part.shape[-1], part.shape[-2], x.shape[-1], begin)
