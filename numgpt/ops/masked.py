"""Products with pruned weights: a mask says which of a matrix's weights there are; the others count as 0.

    Ŵ_io = M_io W_io        M_io is 1 where a byte of the mask is not 0, else 0

Masks are integers and have no gradient. What is masked has gradient 0: training leaves it where it is.
"""

from ..engine.formats import FORMATS
from .experts import expert_linear_backward, expert_linear_forward
from .linear import linear_backward, linear_forward
from .op import Op

PRECISIONS = FORMATS  # in which products can be computed here: linear's and the experts'


def masked(weight, weight_mask):
    """M ∘ W, an array of W's type.  weight, weight_mask (…) → (…)"""
    return weight * (weight_mask != 0)


def masked_linear_forward(x, weight, weight_mask, bias=None):
    """An affine map of which only some weights are left.

        y = x (M ∘ W) + b

    Source: Han et al. 2015.  x (..., I), weight, weight_mask uint8 (I, O) → y (..., O)
    """
    y, _ = linear_forward(x, masked(weight, weight_mask), bias)
    return y, (x, weight, weight_mask, bias is not None)


def masked_linear_backward(dy, saved, wanted=(True, True, True)):
    """Gradients of masked_linear_forward by x and, where wanted, weight and bias; the mask has none.

    As in linear_backward dŴ = xᵀ dy, and

        dx = dy Ŵᵀ
        dW = M ∘ dŴ        because ∂Ŵ_io/∂W_io = M_io
        db = Σ_n dy_n

    In words: linear's gradients, and none for a weight that is not there.
    """
    x, weight, weight_mask, has_bias = saved
    which = wanted[0], wanted[2]
    dx, dweight, dbias = linear_backward(dy, (x, masked(weight, weight_mask), has_bias), which)
    return dx, masked(dweight, weight_mask) if wanted[0] else None, None, dbias


masked_linear = Op(
    "...I, IO, IO:uint8, O? -> ...O",
    masked_linear_forward,
    masked_linear_backward,
    parameters=("weight", "weight_mask", "bias"),
    saves="x",
)


def masked_expert_linear_forward(x, chosen, weight, weight_mask, bias=None):
    """masked_linear of its own for each row: that of the row's expert.

        y_n = x_n (M_{e_n} ∘ W_{e_n}) + b_{e_n}

    x (..., I), chosen (...) integers below E, weight, weight_mask uint8 (E, I, O), bias (E, O) → y (..., O)
    """
    y, (_, groups, _, has_bias) = expert_linear_forward(x, chosen, masked(weight, weight_mask), bias)
    return y, (x, groups, weight, weight_mask, has_bias)


def masked_expert_linear_backward(dy, saved):
    """Gradients of masked_expert_linear_forward by x, chosen (none), weight, mask (none) and bias.

        dx_n = dy_n Ŵ_{e_n}ᵀ
        dW_e = M_e ∘ Σ_{n: e_n = e} x_nᵀ dy_n
        db_e = Σ_{n: e_n = e} dy_n

    In words: expert_linear's gradients, and none for a weight that is not there.
    """
    x, groups, weight, weight_mask, has_bias = saved
    saved = x, groups, masked(weight, weight_mask), has_bias
    dx, _, dweight, dbias = expert_linear_backward(dy, saved)
    return dx, None, masked(dweight, weight_mask), None, dbias


masked_expert_linear = Op(
    "...I, ...<E, EIO, EIO:uint8, EO? -> ...O",
    masked_expert_linear_forward,
    masked_expert_linear_backward,
    parameters=("weight", "weight_mask", "bias"),
    saves="x ...:int",
)
