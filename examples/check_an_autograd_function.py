"""Is my autograd function wrong, or is it rounding? Two float32 gradients are off by 1e-4; one is a mistake.

With PyTorch the function is a torch.autograd.Function; without it, the same pair in NumPy.
"""

import numpy as np

from numgpt import gradcheck

try:
    import torch
except ImportError:
    torch = None

library = torch or np


def logsumexp_forward(x):
    """y = log Σ exp(x), the largest x taken out first."""
    top = x.max() if torch is None else x.amax()
    y = library.log(library.exp(x - top).sum()) + top
    return y, (x, y)


def logsumexp_backward(dy, saved, factor):
    """dx = dy exp(x − y); factor: a mistake, 1 for none."""
    x, y = saved
    return dy * library.exp(x - y) * factor


def pair(factor):
    """The function, with a gradient that is too large by the factor."""
    if torch is None:
        return logsumexp_forward, lambda dy, saved: logsumexp_backward(dy, saved, factor)

    class LogSumExp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y, saved = logsumexp_forward(x)
            ctx.save_for_backward(*saved)
            return y

        @staticmethod
        def backward(ctx, dy):
            return logsumexp_backward(dy, ctx.saved_tensors, factor)

    return gradcheck.from_torch(LogSumExp.apply)


x = (np.random.default_rng(0).standard_normal(8) + 3000).astype("float32")
print("a torch.autograd.Function" if torch else "PyTorch is not installed: the same pair in NumPy")
for factor, word in ((1.0, "rounding"), (1.0003, "wrong")):
    verdict = gradcheck.verdict(*pair(factor), x)
    print(verdict)
    element = verdict["x"].worst[0]
    assert verdict.word == word
    assert 1e-5 < abs(element.got / element.expected - 1) < 1e-3

# check asks in float64, and raises.
gradcheck.check(*pair(1.0), x - 3000)
message = "the wrong gradient passed"
try:
    gradcheck.check(*pair(1.0003), x - 3000)
except gradcheck.GradientError as error:
    message = str(error)
print(message)
assert "x: wrong in 8 of 8 elements" in message
print(
    "Both are off by some 1e-4. One loses that to float32 at 3,000; the other is off in float64 too, and that"
    " is a mistake."
)
