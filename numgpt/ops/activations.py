"""What makes a feed-forward more than a product of matrices: GELU in its two forms, and ReLU.

ACTIVATIONS, at the end, is the table from which settings, layers, files and comparisons read what there is.
"""

import math
from typing import NamedTuple

import numpy as np

from .erf import erfc
from .op import Op


def gelu_forward(x):
    """The Gaussian error linear unit, exact (erf) form.

        y = x Φ(x)        Φ(x) = ½ erfc(−x/√2), the normal distribution function

    x (...) → y (...).  Source: Hendrycks and Gimpel 2016.
    """
    return x * normal_cdf(x), (x,)


def gelu_backward(dy, saved):
    """Gradient of gelu_forward with respect to x.

        dx = dy (Φ(x) + x φ(x))        because Φ' = φ = exp(−x²/2)/√(2π)

    In words: the gate's value, plus x times how fast the gate opens.
    """
    (x,) = saved
    near = bounded(x)
    pdf = np.exp(near * near * -0.5) * (1 / math.sqrt(2 * math.pi))
    return (dy * (normal_cdf(x) + near * pdf),)


def normal_cdf(x):
    """Φ(x) = ½ erfc(−x/√2), accurate in the left tail too, where ½ (1 + erf) would round to 0."""
    return 0.5 * erfc(x * -math.sqrt(0.5))


gelu = Op("... -> ...", gelu_forward, gelu_backward)


def gelu_tanh_forward(x):
    """The Gaussian error linear unit, tanh form: the one of GPT-1, GPT-2 and GPT-3.

        y = ½ x (1 + tanh u) = x σ        σ = 1/(1 + exp(−2u)),  u = √(2/π) (x + 0.044715 x³)

    x (...) → y (...).  Source: Hendrycks and Gimpel 2016, section 2.
    """
    return x * gate(x), (x,)


def gelu_tanh_backward(dy, saved):
    """Gradient of gelu_tanh_forward with respect to x.

        du/dx = √(2/π) (1 + 3·0.044715 x²)
        dx = dy (σ + x 2σ(1 − σ) du/dx)        because dσ/du = 2σ(1 − σ)

    In words: the gate's value, plus x times how fast the gate opens.
    """
    (x,) = saved
    s, near = gate(x), bounded(x)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * near * near)
    return (dy * (s + 2 * near * s * (1 - s) * slope),)


def gate(x):
    """σ = ½ (1 + tanh u) = 1/(1 + exp(−2u)): the right side keeps its digits where 1 + tanh u cancels."""
    x = bounded(x)
    z = -2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    shut = z.real > math.floor(np.log(np.finfo(x.dtype).max))  # exp would overflow: σ is below all numbers
    return np.where(shut, 0, 1 / (1 + np.exp(np.where(shut, 0, z))))


def bounded(x):
    """x cut to ±64, where Φ and σ have been 0 or 1 for long: x² would overflow, and 0 · ∞ is no number."""
    return np.where(abs(x.real) > 64, np.copysign(64, x.real), x)


gelu_tanh = Op("... -> ...", gelu_tanh_forward, gelu_tanh_backward)


def relu_forward(x):
    """The rectifier.

        y = max(x, 0)

    x (...) → y (...).  A complex x is judged by its real part.
    """
    positive = x.real > 0
    return np.where(positive | (x != x), x, x.dtype.type(0)), (positive,)  # x != x: NaN stays NaN


def relu_backward(dy, saved):
    """Gradient of relu_forward with respect to x.

        dx = dy where x > 0, else 0        at x = 0 the slope is taken as 0

    In words: what was let through forward is let through backward.
    """
    (positive,) = saved
    return (np.where(positive, dy, dy.dtype.type(0)),)


relu = Op("... -> ...", relu_forward, relu_backward)


class Activation(NamedTuple):
    """One that a feed-forward may have.

    title: its name in a sentence.
    transformers: its names in a config.json of transformers, of which the first is written; none where
    transformers has no such activation.
    torch: the classes of PyTorch modules that compute it, torch.nn.GELU with its approximate behind it.
    """

    op: Op
    title: str
    transformers: tuple = ()
    torch: tuple = ()


ACTIVATIONS = {
    "gelu": Activation(gelu, "GELU in its erf form", ("gelu",), ("GELU none",)),
    "gelu_tanh": Activation(
        gelu_tanh,
        "GELU in its tanh form",
        ("gelu_new", "gelu_pytorch_tanh"),
        ("GELU tanh", "NewGELU", "NewGELUActivation"),
    ),
    "relu": Activation(relu, "ReLU", ("relu",), ("ReLU",)),
}
