"""Twin of lora_linear: the base's products as linear's twin makes them, and the thin ones added in place."""

from .linear_numba import linear_backward, linear_forward, multiply, rows
from .lora import apart, columns_of, together


def lora_linear_forward(x, weight, bias, lora_a, lora_b, *, factor=1.0, widths=None):
    """Twin of ops.lora.lora_linear_forward."""
    y, _ = linear_forward(x, weight, bias)
    columns = columns_of(lora_a, lora_b, widths)
    low = multiply(False, False, rows(x), lora_a)
    multiply(False, False, x.dtype.type(factor) * low, apart(lora_b, columns), into=(rows(y), True))
    low = low.reshape(*x.shape[:-1], low.shape[-1])
    return y, (x, weight, bias is not None, lora_a, lora_b, low, factor, columns)


def lora_linear_backward(dy, saved, wanted=(True, True, True, True), into=(None, None, None, None)):
    """Twin of ops.lora.lora_linear_backward; into: where the parameters' gradients go."""
    x, weight, has_bias, lora_a, lora_b, low, factor, columns = saved
    dx, dweight, dbias = linear_backward(dy, (x, weight, has_bias), wanted[:2], into[:2])
    factor, dys = x.dtype.type(factor), rows(dy)
    dlow = factor * multiply(False, True, dys, apart(lora_b, columns))
    multiply(False, True, dlow, lora_a, into=(rows(dx), True))
    dlora_a = multiply(True, False, rows(x), dlow, into=into[2]) if wanted[2] else None
    dlora_b = _gradient_of_b(factor * rows(low), dys, columns, into[3]) if wanted[3] else None
    return dx, dweight, dbias, dlora_a, dlora_b


def _gradient_of_b(low, dy, columns, into):
    """s uᵀ dy, of each map's columns the rows of its own; new or into = (array, add)."""
    if len(columns) == 1:
        return multiply(True, False, low, dy, into=into)
    dlora_b = together(multiply(True, False, low, dy), columns)
    if into is None:
        return dlora_b
    place, add = into
    place[...] = place + dlora_b if add else dlora_b
    return place
