"""Is my backward right? A pair is held to the laws: first wrong, as it is often written, then right."""

import numpy as np

from numgpt import gradcheck


def rmsnorm_forward(x, weight):
    """y = x r w with r = (⟨x²⟩ + eps)^(−½)."""
    rstd = ((x * x).mean(-1, keepdims=True) + 1e-6) ** -0.5
    return x * rstd * weight, (x, rstd, weight)


def forgetful_backward(dy, saved):
    """Treats r as a constant."""
    x, rstd, weight = saved
    return dy * weight * rstd, (dy * x * rstd).sum((0, 1))


def rmsnorm_backward(dy, saved):
    """dx = r (g − x̂ ⟨g x̂⟩) with g = dy w, x̂ = x r, because ∂r/∂x = −r³ x / C."""
    x, rstd, weight = saved
    g, xhat = dy * weight, x * rstd
    return rstd * (g - xhat * (g * xhat).mean(-1, keepdims=True)), (dy * xhat).sum((0, 1))


rng = np.random.default_rng(0)
x, weight = rng.standard_normal((2, 3, 5)), rng.standard_normal(5)
message = "the wrong gradient passed"
try:
    gradcheck.check(rmsnorm_forward, forgetful_backward, x, weight)
except gradcheck.GradientError as error:
    message = str(error)
print(f"wrong: {message}")
assert "x: wrong in 30 of 30 elements" in message  # and the weight is right
assert "weight:" not in message

for finding in gradcheck.check(rmsnorm_forward, rmsnorm_backward, x, weight):
    print(f"right: {finding.law:28} residual {finding.residual:.1e}, at most {finding.limit:.0e}")
print("The checker names the argument whose gradient is wrong; the right pair keeps every law.")
