"""What the twins of a block share, in training and in decoding: its parameters and activations."""

from collections import namedtuple

from ..engine.jit import kernel
from ..ops.activations_numba import BOUND, INV_SQRT_2PI, SQRT_2_OVER_PI, kept_near
from ..ops.elementary_numba import exp, half_erfc
from .known import ANY

NAMES = [
    f"{name}.{p}"
    for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for p in ("weight", "bias")
]

# A block's parameters, .attn_c_attn_weight and so on; a bias that the model does not have is None.
# The kernels of training get a plain tuple and name its parts inside, Parameters(*parameters), at no cost.
# Numba would take 4 µs longer a launch to recognise a NamedTuple of twelve arrays. To hand it on to a kernel
# for each phase took 11 to 17 % longer to compile, so all phases of a launch stand in one kernel.
Parameters = namedtuple("Parameters", [name.replace(".", "_") for name in NAMES])


@kernel
def gelu_and_slope(h, act):
    """act = x Φ(x) and h ← Φ(x) + x φ(x), the slope, for x = h, all flat."""
    one, half, scale = h.dtype.type(1), h.dtype.type(0.5), h.dtype.type(INV_SQRT_2PI)
    bound = h.dtype.type(BOUND)
    for i in range(len(h)):
        v = h[i]
        near = kept_near(v, bound)
        a = abs(near)
        gauss = exp(-half * a * a)
        tail = half_erfc(a, gauss)
        cdf = tail if v < 0 else one - tail
        act[i] = v * cdf
        h[i] = cdf + near * gauss * scale


@kernel
def gelu_tanh_and_slope(h, act):
    """act = x σ(2u) and h ← σ + x 2σ(1 − σ) du/dx, the slope, for x = h, all flat."""
    one, a, b = h.dtype.type(1), h.dtype.type(-2 * SQRT_2_OVER_PI), h.dtype.type(0.044715)
    c, e, bound = h.dtype.type(2 * SQRT_2_OVER_PI), h.dtype.type(3 * 0.044715), h.dtype.type(BOUND)
    for i in range(len(h)):
        v = h[i]
        s = one / (one + exp(a * (v + b * v * v * v)))
        act[i] = v * s
        near = min(max(v, -bound), bound)
        h[i] = s + near * s * (one - s) * c * (one + e * near * near)


# The activations that a fused block computes. One more here needs its branch in activate.
ACTIVATIONS = {"gelu": gelu_and_slope, "gelu_tanh": gelu_tanh_and_slope}

# The settings that a fused block computes; with any other, or another value, the ops run one by one.
KNOWN = {
    "vocab_size": ANY,
    "block_size": ANY,
    "n_layer": ANY,
    "n_head": ANY,
    "n_embd": ANY,
    "n_inner": ANY,
    "bias": ANY,
    "tied": ANY,
    "activation": ACTIVATIONS,
    "norm_position": ("pre",),
    "dropout": ANY,  # where it drops, the Record asks for no twin
    "layer_norm_epsilon": ANY,
}


@kernel
def activate(tanh, h, act):
    """act = gelu(h) and h ← its slope there; tanh is as tanh_flag gives it."""
    if tanh is None:
        gelu_and_slope(h.reshape(-1), act.reshape(-1))
    else:
        gelu_tanh_and_slope(h.reshape(-1), act.reshape(-1))


def tanh_flag(config):
    """True for GELU's tanh form, None for its erf form.

    Not False: Numba leaves out the branch of an argument that is None, so a block compiles one form only.
    """
    return True if ACTIVATIONS[config.activation] is gelu_tanh_and_slope else None


def parameters_of(r):
    """The parameters of a block in the order of Parameters, as the plain tuple that kernels are given."""
    return tuple(r.parameter(name) if r.config.bias or name.endswith("weight") else None for name in NAMES)
