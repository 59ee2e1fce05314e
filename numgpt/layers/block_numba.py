"""What the twins of a block share, in training and in decoding: its parameters as kernels take them, and the
activations they know.
"""

from ..engine.jit import kernel
from ..ops.activations_numba import INV_SQRT_2PI, SQRT_2_OVER_PI
from ..ops.elementary_numba import exp, half_erfc

ACTIVATIONS = ("gelu", "gelu_tanh")
PARAMETERS = [
    f"{name}.{p}"
    for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for p in ("weight", "bias")
]


@kernel
def gelu_and_slope(h, act):
    """act = x Φ(x) and h ← Φ(x) + x φ(x), the slope, for x = h, all flat."""
    one, half, scale = h.dtype.type(1), h.dtype.type(0.5), h.dtype.type(INV_SQRT_2PI)
    for i in range(len(h)):
        v = h[i]
        a = abs(v)
        gauss = exp(-half * a * a)
        tail = half_erfc(a, gauss)
        cdf = tail if v < 0 else one - tail
        act[i] = v * cdf
        h[i] = cdf + v * gauss * scale


@kernel
def gelu_tanh_and_slope(h, act):
    """act = x σ(2u) and h ← σ + x 2σ(1 − σ) du/dx, the slope, for x = h, all flat."""
    one, a, b = h.dtype.type(1), h.dtype.type(-2 * SQRT_2_OVER_PI), h.dtype.type(0.044715)
    c, e = h.dtype.type(2 * SQRT_2_OVER_PI), h.dtype.type(3 * 0.044715)
    for i in range(len(h)):
        v = h[i]
        s = one / (one + exp(a * (v + b * v * v * v)))
        act[i] = v * s
        h[i] = s + v * s * (one - s) * c * (one + e * v * v)


def parameters_of(r):
    """PARAMETERS, a bias that the model does not have is None."""
    return tuple(
        r.parameter(name) if r.config.bias or name.endswith("weight") else None for name in PARAMETERS
    )
