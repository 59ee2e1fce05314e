"""Twin of lora_linear: the base's products as linear's twin makes them, and the thin ones added in place."""

from .linear_numba import linear_backward, linear_forward, multiply, rows


def lora_linear_forward(x, weight, bias, lora_a, lora_b, *, factor=1.0):
    """Twin of ops.lora.lora_linear_forward."""
    y, _ = linear_forward(x, weight, bias)
    low = multiply(False, False, rows(x), lora_a)
    multiply(False, False, x.dtype.type(factor) * low, lora_b, into=(rows(y), True))
    saved = x, weight, bias is not None, lora_a, lora_b, low.reshape(*x.shape[:-1], low.shape[-1]), factor
    return y, saved


def lora_linear_backward(dy, saved, wanted=(True, True, True, True), into=(None, None, None, None)):
    """Twin of ops.lora.lora_linear_backward; into: where the parameters' gradients go."""
    x, weight, has_bias, lora_a, lora_b, low, factor = saved
    dx, dweight, dbias = linear_backward(dy, (x, weight, has_bias), wanted[:2], into[:2])
    factor, dys = x.dtype.type(factor), rows(dy)
    dlow = factor * multiply(False, True, dys, lora_b)
    multiply(False, True, dlow, lora_a, into=(rows(dx), True))
    dlora_a = multiply(True, False, rows(x), dlow, into=into[2]) if wanted[2] else None
    dlora_b = multiply(True, False, factor * rows(low), dys, into=into[3]) if wanted[3] else None
    return dx, dweight, dbias, dlora_a, dlora_b
