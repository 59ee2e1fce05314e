"""What makes a feed-forward more than a product of matrices: GELU in two forms, SiLU, ReLU, and their gates.

ACTIVATIONS, at the end, is the table from which settings, layers, files and comparisons read what there is.
"""

import math
from typing import NamedTuple

import numpy as np

from .erf import erfc
from .op import Op
from .rounded import rounded_once

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
FAR = 2.0**14  # exp(−FAR) is 0 in every type, and FAR² in the range of each


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
    return 0.5 * erfc(bounded(x, FAR) * -math.sqrt(0.5))


gelu = Op("... -> ...", gelu_forward, gelu_backward, saves="x")


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


def gate(x, slope=SQRT_2_OVER_PI):
    """σ = ½ (1 + tanh u) = 1/(1 + exp(−2u)): the right side keeps its digits where 1 + tanh u cancels.

    slope: that of u at 0.
    """
    x = bounded(x)
    z = -2 * slope * (x + 0.044715 * x * x * x)
    shut = z.real > math.floor(np.log(np.finfo(x.dtype).max))  # exp would overflow: σ is below all numbers
    return np.where(shut, 0, 1 / (1 + np.exp(np.where(shut, 0, z))))


def bounded(x, most=64):
    """x cut to ±64, where Φ and σ have been 0 or 1 for long: x² would overflow, and 0 · ∞ is no number."""
    return np.where(abs(x.real) > most, np.copysign(most, x.real), x)


gelu_tanh = Op("... -> ...", gelu_tanh_forward, gelu_tanh_backward, saves="x")


BLOOM = 0.79788456  # its √(2/π), to eight digits


@rounded_once
def gelu_bloom_forward(x):
    """The tanh form of GELU with Bloom's constant, without which its logits would be 2e-10 off.

        y = x σ        σ = 1/(1 + exp(−2u)),  u = 0.79788456 (x + 0.044715 x³)

    x (...) → y (...).  Source: BigScience 2022.
    """
    return x * gate(x, BLOOM), (x,)


@rounded_once
def gelu_bloom_backward(dy, saved):
    """Gradient of gelu_bloom_forward with respect to x.

        dx = dy (σ + x 2σ(1 − σ) du/dx)        as in gelu_tanh_backward, with Bloom's constant in du/dx

    In words: the gate's value, plus x times how fast the gate opens.
    """
    (x,) = saved
    s, near = gate(x, BLOOM), bounded(x)
    return (dy * (s + 2 * near * s * (1 - s) * BLOOM * (1 + 3 * 0.044715 * near * near)),)


gelu_bloom = Op("... -> ...", gelu_bloom_forward, gelu_bloom_backward, saves="x")


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


relu = Op("... -> ...", relu_forward, relu_backward, saves="...:bool")


def relu2_forward(x):
    """The square of the rectifier.

        y = max(x, 0)²

    x (...) → y (...).  Source: So et al. 2021.
    """
    positive, _ = relu_forward(x)
    return positive * positive, (positive,)


def relu2_backward(dy, saved):
    """Gradient of relu2_forward with respect to x.

        dx = 2 max(x, 0) dy        because y is a square, and at 0 its slope is 0 from both sides

    In words: the further a value passed the rectifier, the more passes back.
    """
    (positive,) = saved
    return (2 * positive * dy,)


relu2 = Op("... -> ...", relu2_forward, relu2_backward, saves="...")


@rounded_once
def silu_forward(x):
    """The sigmoid linear unit, also called Swish.

        y = x σ(x)        σ(x) = 1/(1 + exp(−x))

    x (...) → y (...).  Source: Elfwing, Uchibe and Doya 2017; Ramachandran, Zoph and Le 2017.
    """
    return x * sigmoids(x)[0], (x,)


@rounded_once
def silu_backward(dy, saved):
    """Gradient of silu_forward with respect to x.

        dx = dy (σ + x σ (1 − σ))        because σ' = σ (1 − σ)

    In words: the gate's value, plus x times how fast the gate opens.
    """
    (x,) = saved
    s, rest = sigmoids(x)
    return (dy * s * (1 + bounded(x, FAR) * rest),)


def sigmoids(x):
    """σ(x) and 1 − σ(x) = σ(−x), each with all its digits: exp(−|x|) cannot overflow, and nothing cancels."""
    left = x.real < 0
    e = np.exp(bounded(np.where(left, x, -x), FAR))
    large, small = 1 / (1 + e), e / (1 + e)
    return np.where(left, small, large), np.where(left, large, small)


silu = Op("... -> ...", silu_forward, silu_backward, saves="x")


@rounded_once
def swiglu_forward(x):
    """A value that the SiLU of its gate lets through.

        g, u = the two halves of x's channels
        y = silu(g) u

    x (..., 2F) → y (..., F).  Source: Shazeer 2020.
    """
    return gated(silu_forward, x)


@rounded_once
def swiglu_backward(dy, saved):
    """Gradient of swiglu_forward with respect to x.

        dg = dy u silu'(g)        because u scales what the gate lets through
        du = dy silu(g)           because y is linear in u
        dx = dg and du side by side

    In words: each half's gradient is dy times the other half, that of the gate through its slope.
    """
    return through_gate(silu_forward, silu_backward, dy, saved)


swiglu = Op("...(2F) -> ...F", swiglu_forward, swiglu_backward, saves="x")


def geglu_forward(x):
    """A value that the GELU of its gate lets through, in GELU's erf form.

        g, u = the two halves of x's channels
        y = gelu(g) u

    x (..., 2F) → y (..., F).  Source: Shazeer 2020.
    """
    return gated(gelu_forward, x)


def geglu_backward(dy, saved):
    """Gradient of geglu_forward with respect to x.

    dg = dy u gelu'(g),  du = dy gelu(g)        as in swiglu_backward
    dx = dg and du side by side
    """
    return through_gate(gelu_forward, gelu_backward, dy, saved)


geglu = Op("...(2F) -> ...F", geglu_forward, geglu_backward, saves="x")


@rounded_once
def geglu_tanh_forward(x):
    """A value that the GELU of its gate lets through, in GELU's tanh form: that of Gemma.

        g, u = the two halves of x's channels
        y = gelu_tanh(g) u

    x (..., 2F) → y (..., F).  Source: Shazeer 2020.
    """
    return gated(gelu_tanh_forward, x)


@rounded_once
def geglu_tanh_backward(dy, saved):
    """Gradient of geglu_tanh_forward with respect to x.

    dg = dy u gelu_tanh'(g),  du = dy gelu_tanh(g)        as in swiglu_backward
    dx = dg and du side by side
    """
    return through_gate(gelu_tanh_forward, gelu_tanh_backward, dy, saved)


geglu_tanh = Op("...(2F) -> ...F", geglu_tanh_forward, geglu_tanh_backward, saves="x")


def reglu_forward(x):
    """A value that the rectifier of its gate lets through.

        g, u = the two halves of x's channels
        y = max(g, 0) u

    x (..., 2F) → y (..., F).  Source: Shazeer 2020.
    """
    return gated(relu_forward, x)


def reglu_backward(dy, saved):
    """Gradient of reglu_forward with respect to x.

    dg = dy u where g > 0, else 0        as in swiglu_backward, with relu's slope
    du = dy max(g, 0)
    dx = dg and du side by side
    """
    return through_gate(relu_forward, relu_backward, dy, saved)


reglu = Op("...(2F) -> ...F", reglu_forward, reglu_backward, saves="x")


LIMIT, STEEPNESS = 7.0, 1.702  # of GPT-OSS


@rounded_once
def swiglu_clamped_forward(x):
    """SwiGLU of GPT-OSS: both halves are held back, the gate is steeper, and the value is shifted by 1.

        g, u = the two halves of x's channels
        g' = min(g, 7),  u' = max(−7, min(u, 7))
        y = (u' + 1) g' σ(1.702 g')

    x (..., 2F) → y (..., F).  Source: OpenAI 2025, gpt-oss.
    """
    gate, value = clamped(x)
    return (value + 1) * gate * sigmoids(gate * STEEPNESS)[0], (x,)


@rounded_once
def swiglu_clamped_backward(dy, saved):
    """Gradient of swiglu_clamped_forward with respect to x.

        dg = dy (u' + 1) σ (1 + 1.702 g' (1 − σ)) where g' = g, else 0        because σ' = σ (1 − σ)
        du = dy g' σ                              where u' = u, else 0        because y is linear in u'
        dx = dg and du side by side

    In words: swiglu's, but nothing passes back through what was held back.
    """
    (x,) = saved
    gate, value = clamped(x)
    s, rest = sigmoids(gate * STEEPNESS)
    dgate = dy * (value + 1) * s * (1 + STEEPNESS * bounded(gate, FAR) * rest)
    dclamped = np.concatenate([dgate, dy * gate * s], axis=-1)
    return (dclamped * (np.concatenate([gate, value], axis=-1) == x),)


def clamped(x):
    """The halves of x's channels, the first at most 7, the second within ±7."""
    gate, value = halves(x)
    return np.where(gate.real > LIMIT, x.dtype.type(LIMIT), gate), bounded(value, LIMIT)


swiglu_clamped = Op("...(2F) -> ...F", swiglu_clamped_forward, swiglu_clamped_backward, saves="x")


def gated(forward, x):
    """y = act(g) u of the halves g and u of x, and x to be saved; forward is act's."""
    gate, value = halves(x)
    return forward(gate)[0] * value, (x,)


def through_gate(forward, backward, dy, saved):
    """The gradient of what gated gives: act(g) again, so that nothing but x need be kept."""
    (x,) = saved
    gate, value = halves(x)
    act, kept = forward(gate)
    (dgate,) = backward(dy * value, kept)
    return (np.concatenate([dgate, dy * act], axis=-1),)


def halves(x):
    """x (..., 2F) → the first F channels and the last F, views."""
    F = x.shape[-1] // 2
    return x[..., :F], x[..., F:]


class Activation(NamedTuple):
    """One that a feed-forward may have.

    title: its name in a sentence.
    transformers: its names in a config.json of transformers, of which the first is written; none where
    transformers has no such activation.
    torch: the classes of PyTorch modules that compute it, torch.nn.GELU with its approximate behind it.
    gated: whether it takes a gate and a value, twice as many channels as it gives. transformers and PyTorch
    then name what acts on the gate, which is no name of the whole.
    """

    op: Op
    title: str
    transformers: tuple = ()
    torch: tuple = ()
    gated: bool = False


ACTIVATIONS = {
    "gelu": Activation(gelu, "GELU in its erf form", ("gelu",), ("GELU none",)),
    "gelu_tanh": Activation(
        gelu_tanh,
        "GELU in its tanh form",
        ("gelu_new", "gelu_pytorch_tanh"),
        ("GELU tanh", "NewGELU", "NewGELUActivation"),
    ),
    "gelu_bloom": Activation(gelu_bloom, "GELU in Bloom's tanh form", torch=("BloomGelu",)),
    "relu": Activation(relu, "ReLU", ("relu",), ("ReLU",)),
    "relu2": Activation(relu2, "squared ReLU", ("relu2",), ("ReLUSquaredActivation",)),
    "silu": Activation(silu, "SiLU", ("silu", "swish"), ("SiLU", "SiLUActivation")),
    "swiglu": Activation(swiglu, "SwiGLU", gated=True),
    "geglu": Activation(geglu, "GEGLU in its erf form", gated=True),
    "geglu_tanh": Activation(geglu_tanh, "GEGLU in its tanh form", gated=True),
    "reglu": Activation(reglu, "ReGLU", gated=True),
    "swiglu_clamped": Activation(swiglu_clamped, "SwiGLU, clamped as in GPT-OSS", gated=True),
}
