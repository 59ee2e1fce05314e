"""What the twins of a block share, in training and in decoding: its parameters and activations."""

import math
from collections import namedtuple
from typing import NamedTuple

from ..engine.blas import gemm
from ..engine.jit import kernel
from ..ops.activations_numba import (
    BOUND,
    INV_SQRT_2PI,
    SQRT_2_OVER_PI,
    kept_near,
    swiglu_gradient_row,
    swiglu_row,
)
from ..ops.elementary_numba import exp, half_erfc
from ..ops.linear_numba import set_rows
from ..ops.rotary import rotations
from .known import ANY

TILES = 8  # of rows, whatever the number of threads
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


@kernel
def swiglu_rows(h, act):
    """act (N, F) = silu(g) u for h (N, 2F) = g | u."""
    N, F = act.shape
    for n in range(N):
        swiglu_row(h[n][:F], h[n][F:], act[n])


@kernel
def swiglu_gradient_rows(h, dact, dh):
    """dh (N, 2F) for h (N, 2F) = g | u and the gradient of what swiglu gives."""
    N, F = dact.shape
    for n in range(N):
        swiglu_gradient_row(h[n][:F], h[n][F:], dact[n], dh[n][:F], dh[n][F:])


# The activations that a fused block computes. One more here needs its branch in activate.
GATED = ("swiglu",)
ACTIVATIONS = ("gelu", "gelu_tanh", *GATED)

# Where attention and feed-forward read the same stream: a copy normalised by ln_1, or each its own.
PARALLEL = ("parallel", "parallel2")

# The settings that a fused block computes; with any other, or another value, the ops run one by one.
KNOWN = {
    "vocab_size": ANY,
    "block_size": ANY,
    "n_layer": ANY,
    "n_head": ANY,
    "n_kv_head": ANY,
    "head_dim": ANY,
    "n_embd": ANY,
    "n_inner": ANY,
    "bias": ANY,
    "biases": ANY,
    "tied": ANY,
    "activation": ACTIVATIONS,
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", *PARALLEL),
    "positions": ("learned", "sinusoidal", "rotary", "none"),
    "rotary_base": ANY,
    "rotary_dim": ANY,
    "rotary_scaling": ANY,
    "window": ANY,
    "attn_scale": ANY,
    "dropout": ANY,  # where it drops, the Record asks for no twin
    "layer_norm_epsilon": ANY,
    "layers": ANY,  # a block is given the settings of its layer
    # What stands before the first block or behind the last.
    "embed_norm": ANY,
    "embed_scale": ANY,
    "logit_scale": ANY,
    "final_softcap": ANY,
}


class Form(NamedTuple):
    """What a block computes, as arguments of its kernels.

    Flags are True or None, not False: Numba leaves out the branch of an argument that is None, so a block
    compiles what its model has.
    """

    H: int  # query heads, key heads, and the size of a head
    K: int
    D: int
    scale: float  # of the scores
    eps: float
    rms: bool | None  # RMSNorm in place of LayerNorm
    tanh: bool | None  # GELU's tanh form in place of its erf form
    gated: bool | None  # SwiGLU in place of both
    sequential: bool | None  # the feed-forward reads what attention has added to the stream
    parallel: bool | None  # both read the stream as it came: one of the two is True
    second: bool | None  # there is an ln_2; else both read what ln_1 gives


def form_of(config):
    """The Form of a layer's Config."""
    D = config.head_size
    return Form(
        config.n_head,
        config.kv_heads,
        D,
        1 / math.sqrt(D) if config.attn_scale is None else config.attn_scale,
        config.layer_norm_epsilon,
        flag(config.norm == "rmsnorm"),
        flag(config.activation == "gelu_tanh"),
        flag(config.activation in GATED),
        flag(config.norm_position not in PARALLEL),
        flag(config.norm_position in PARALLEL),
        flag(config.norm_position != "parallel"),
    )


def flag(holds):
    """True or None."""
    return True if holds else None


def angles(r, x):
    """cos and sin (T, R/2) by which queries and keys turn at the positions of x, None and None for none.

    (BT, R/2), of each token, where the batch says where its tokens stand.
    """
    c = r.config
    if c.positions != "rotary":
        return None, None
    positions = None if r.visibility is None else r.visibility.positions
    turns = rotations(x, c.rotary_size, c.rotary_base, c.rotary_scaling, r.start, positions)
    tables = tuple(turn.reshape(-1, turn.shape[-1]) for turn in turns)
    for table in tables:  # always, since Numba would compile the block again for one that may be written to
        table.flags.writeable = False
    return tables


def inner_width(config):
    """The width of what the activation reads."""
    return config.ffn_width * (2 if config.activation in GATED else 1)


@kernel
def activate(tanh, gated, h, act):
    """act = the activation of h; h ← its slope there, but for a gate, which stays."""
    if gated is not None:
        swiglu_rows(h, act)
    elif tanh is None:
        gelu_and_slope(h.reshape(-1), act.reshape(-1))
    else:
        gelu_tanh_and_slope(h.reshape(-1), act.reshape(-1))


def parameters_of(r):
    """The parameters of a block in the order of Parameters, as the plain tuple that kernels are given."""
    return tuple(r.params.get(r.scope + name) for name in NAMES)


# Where an argument is None Numba leaves its branch out; it does not where a field is. So each bias is handed
# on as an argument of its own, and what a model does not need is never compiled.


@kernel
def multiply_rows(x, weight, bias, y, bf16=None):
    """y = x weight + bias, bias None is none. bf16: see gemm."""
    if bias is None:
        gemm(False, False, 1.0, x, weight, 0.0, y, bf16)
    else:
        set_rows(bias, 0, y, 0, len(y), len(bias))
        gemm(False, False, 1.0, x, weight, 1.0, y, bf16)


@kernel
def sum_with_bias(x, bias, y):
    """y = x + bias, bias None is none."""
    N, C = x.shape
    for n in range(N):
        for c in range(C):
            if bias is None:
                y[n, c] = x[n, c]
            else:
                y[n, c] = x[n, c] + bias[c]


@kernel
def add_bias(y, bias):
    """y += bias, bias None is none."""
    if bias is not None:
        sum_with_bias(y, bias, y)
