"""Linear maps: the layer's own, and the unembedding that may share its weight with the token embedding."""

import numpy as np

from ..engine.precision import FORMATS, product
from .op import Op

PRECISIONS = FORMATS  # in which products can be computed here


def linear_forward(x, weight, bias=None):
    """An affine map of the last axis.

        y = x W + b

    W is (in, out), the layout of GPT-2's checkpoints.  x (..., I) → y (..., O)
    """
    y = product(x, weight)
    if bias is not None:
        y = y + bias
    return y, (x, weight, bias is not None)


def linear_backward(dy, saved, wanted=(True, True)):
    """Gradients of linear_forward with respect to x, weight and bias; wanted: which of the last two.

    Written with indices, y_no = Σ_i x_ni W_io + b_o for each row n, so that

        dx_ni = Σ_o dy_no W_io     dx = dy Wᵀ       because ∂y_no/∂x_ni = W_io
        dW_io = Σ_n x_ni dy_no     dW = xᵀ dy       because ∂y_no/∂W_io = x_ni, and all rows share W
        db_o  = Σ_n dy_no                           because ∂y_no/∂b_o = 1

    In words: each factor's gradient is dy times the other factor, summed over what the factor does not have.
    """
    x, weight, has_bias = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, I), (N, O)
    dx = product(dy, weight.swapaxes(0, 1))
    dweight = product(rows.swapaxes(0, 1), drows) if wanted[0] else None
    dbias = sum_rows(drows) if has_bias and wanted[1] else None
    return dx, dweight, dbias


def sum_rows(rows):
    """Σ_n rows_n.  (N, C) → (C)

    Transposed first: NumPy adds in pairs, with a small error, only along an axis contiguous in memory.
    """
    return np.ascontiguousarray(rows.swapaxes(0, 1), like=rows).sum(-1)


linear = Op("...I, IO, O? -> ...O", linear_forward, linear_backward, parameters=("weight", "bias"), saves="x")


def unembedding_forward(x, weight):
    """Logits: the product of each vector with every row of the embedding.

        y = x Wᵀ

    W is (V, C) as in the token embedding, with which it is shared in a tied model (Press and Wolf 2017).
    x (..., C) → y (..., V)
    """
    return product(x, weight.swapaxes(0, 1)), (x, weight)


def unembedding_backward(dy, saved, wanted=(True,)):
    """Gradients of unembedding_forward with respect to x and, where it is wanted, weight.

        dx = dy W        because y_nv = Σ_c x_nc W_vc
        dW = dyᵀ x       summed over the rows n

    In words: linear's, with W transposed. In a tied model dW is one of the embedding's two gradients; the
    Record adds them.
    """
    x, weight = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, C), (N, V)
    return product(dy, weight), product(drows.swapaxes(0, 1), rows) if wanted[0] else None


unembedding = Op(
    "...C, VC -> ...V", unembedding_forward, unembedding_backward, parameters=("weight",), saves="x"
)
