"""Is my layer the same as theirs? Values and every gradient are compared, with what rounding explains.

With PyTorch the other side is torch.nn.LayerNorm; without it, numgpt's own.
"""

import numpy as np

from numgpt import gradcheck, ops

try:
    import torch
except ImportError:
    torch = None


def layernorm_forward(x, weight, bias):
    """y = x̂ w + b with x̂ = (x − μ) r."""
    centred = x - x.mean(-1, keepdims=True)
    rstd = ((centred * centred).mean(-1, keepdims=True) + 1e-5) ** -0.5
    return centred * rstd * weight + bias, (centred * rstd, rstd, weight)


def layernorm_backward(dy, saved):
    xhat, rstd, weight = saved
    g = dy * weight
    dx = rstd * (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum(0), dy.sum(0)


def mean_for_sum(dy, saved):
    """The bias's gradient is a mean over rows."""
    dx, dweight, dbias = layernorm_backward(dy, saved)
    return dx, dweight, dbias / len(dy)


rng = np.random.default_rng(0)
x, weight, bias = rng.standard_normal((7, 5)), rng.standard_normal(5), rng.standard_normal(5)
theirs = torch.nn.LayerNorm(5) if torch else ops.layernorm
print(gradcheck.same((layernorm_forward, layernorm_backward), theirs, x, weight, bias))

message = "the wrong gradient passed"
try:
    gradcheck.same((layernorm_forward, mean_for_sum), theirs, x, weight, bias)
except gradcheck.GradientError as error:
    message = str(error)
print(message)
assert "the gradient of bias differs in 5 of 5 elements" in message
assert "×1/7" in message
assert "mine is wrong in bias, theirs is right" in message
print("The message says which argument, what the difference looks like, and whose gradient is wrong.")
