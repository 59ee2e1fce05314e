"""Products with rounded weights: integers of 8 or 4 bits, times a scale that is a number.

    Ŵ_io = s_o q_io                 8 bits: a scale for each output, which leaves the sum
    Ŵ_io = s_go (u_io − z_go)       4 bits: a scale and a zero for each group g of inputs

Two weights of 4 bits share a byte: row r of the bytes holds input 2r in its low half, 2r + 1 in its high one.
Integers have no gradient; x, scales, zeros and biases have theirs, those of scales for whoever tunes them.
"""

import numpy as np

from .embedding import add_at
from .experts import result_type, rows_by_expert
from .linear import sum_rows
from .op import Op

MIDDLE = 8  # the zero of 4 bits where none is stored: integers 0 … 15 then stand for −8 … 7


def quantised_linear_forward(x, weight_q, weight_scale, bias=None):
    """An affine map whose matrix is rounded to 8 bits, with a scale for each output.

        y = (x Q) s + b

    Source: Dettmers et al. 2022, weights alone.
    x (..., I), weight_q int8 (I, O), weight_scale (O) → y (..., O)
    """
    y = (x @ weight_q.astype(x.dtype)) * weight_scale
    if bias is not None:
        y = y + bias
    return y, (x, weight_q, weight_scale, bias is not None)


def quantised_linear_backward(dy, saved, wanted=(True, True, True)):
    """Gradients of quantised_linear_forward by x and, where wanted, weight_scale and bias; Q has none.

    y_no = s_o Σ_i x_ni Q_io + b_o for each row n, so that

        dx = (dy s) Qᵀ                  because ∂y_no/∂x_ni = s_o Q_io
        ds_o = Σ_n dy_no (x Q)_no       because ∂y_no/∂s_o is the sum that s_o multiplies
        db_o = Σ_n dy_no

    In words: linear's gradient, with the scale taken into dy as it was taken out of the sum.
    """
    x, weight_q, weight_scale, has_bias = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, I), (N, O)
    dx = (dy * weight_scale) @ weight_q.swapaxes(0, 1).astype(dy.dtype)
    dscale = sum_rows(drows * (rows @ weight_q.astype(x.dtype))) if wanted[1] else None
    dbias = sum_rows(drows) if has_bias and wanted[2] else None
    return dx, None, dscale, dbias


quantised_linear = Op(
    "...I, IO:int8, O, O? -> ...O",
    quantised_linear_forward,
    quantised_linear_backward,
    parameters=("weight_q", "weight_scale", "bias"),
    saves="x",
)


def quantised4_linear_forward(x, weight_q, weight_scale, weight_zero=None, bias=None):
    """An affine map whose matrix is rounded to 4 bits, with a scale for each output and group of inputs.

        y = x Ŵ + b,    Ŵ_io = s_go (u_io − z_go)        u from 0 to 15, z = 8 where no zero is given

    The inputs are N groups of 2M, side by side.
    x (..., 2NM), weight_q uint8 (NM, O), weight_scale, weight_zero (N, O) → y (..., O)
    """
    y = x @ matrix_of_nibbles(weight_q, weight_scale, weight_zero)
    if bias is not None:
        y = y + bias
    return y, (x, weight_q, weight_scale, weight_zero, bias is not None)


def quantised4_linear_backward(dy, saved, wanted=(True, True, True, True)):
    """Gradients of quantised4_linear_forward by x and, where wanted, weight_scale, weight_zero and bias.

    As in linear_backward dŴ = xᵀ dy. A scale and a zero stand in the entries of their group g:

        dx = dy Ŵᵀ
        ds_go = Σ_{i of g} dŴ_io (u_io − z_go)        because Ŵ_io = s_go (u_io − z_go)
        dz_go = −s_go Σ_{i of g} dŴ_io
        db_o = Σ_n dy_no

    In words: linear's gradients; what many weights share collects from all of them.
    """
    x, weight_q, weight_scale, weight_zero, has_bias = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (n, I), (n, O)
    dx = dy @ matrix_of_nibbles(weight_q, weight_scale, weight_zero).swapaxes(0, 1)
    dscale = dzero = None
    if wanted[1] or (wanted[2] and weight_zero is not None):
        levels = centred_nibbles(weight_q, weight_scale, weight_zero)  # (N, 2M, O)
        dweight = (rows.swapaxes(0, 1) @ drows).reshape(levels.shape)
        dscale = (dweight * levels).sum(-2) if wanted[1] else None
        dzero = -weight_scale * dweight.sum(-2) if wanted[2] and weight_zero is not None else None
    dbias = sum_rows(drows) if has_bias and wanted[3] else None
    return dx, None, dscale, dzero, dbias


def nibbles(weight_q):
    """The two integers of each byte as rows, the low half first.  uint8 (…, J, O) → (…, 2J, O)"""
    *lead, J, n = weight_q.shape
    halves = np.zeros_like(weight_q, shape=(*lead, 2 * J, n))
    halves[..., 0::2, :] = weight_q & 15
    halves[..., 1::2, :] = weight_q // 16
    return halves


def packed_nibbles(integers):
    """Integers from 0 to 15 as halves of bytes, which nibbles takes apart.  uint8 (…, 2J, O) → (…, J, O)"""
    return integers[..., 0::2, :] | integers[..., 1::2, :] * 16


def centred_nibbles(weight_q, weight_scale, weight_zero=None):
    """u − z by group.  (…, I/2, O), (…, N, O) → (…, N, I/N, O)"""
    *lead, N, n = weight_scale.shape
    u = nibbles(weight_q).reshape(*lead, N, -1, n).astype(weight_scale.dtype)
    return u - (MIDDLE if weight_zero is None else weight_zero[..., :, None, :])


def matrix_of_nibbles(weight_q, weight_scale, weight_zero=None):
    """Ŵ from its bytes, scales and zeros.  (…, I/2, O), (…, N, O) → (…, I, O)"""
    *lead, _, n = weight_scale.shape
    levels = centred_nibbles(weight_q, weight_scale, weight_zero)
    return (levels * weight_scale[..., :, None, :]).reshape(*lead, -1, n)


quantised4_linear = Op(
    "...(2NM), (NM)O:uint8, NO, NO?, O? -> ...O",
    quantised4_linear_forward,
    quantised4_linear_backward,
    parameters=("weight_q", "weight_scale", "weight_zero", "bias"),
    saves="x",
)


def quantised_embedding_forward(ids, weight_q, weight_scale):
    """One row for each id, from an embedding that is rounded to 8 bits with a scale for each row.

        y_n = s_{ids_n} Q[ids_n]

    ids (...) integers below V, weight_q int8 (V, C), weight_scale (V) → y (..., C)
    """
    y = weight_q[ids].astype(weight_scale.dtype) * weight_scale[ids][..., None]
    return y, (ids, weight_q, weight_scale)


def quantised_embedding_backward(dy, saved, wanted=(True, True)):
    """Gradients of quantised_embedding_forward: ids and Q are integers, weight_scale has one where wanted.

        ds_v = Σ_{n: ids_n = v} ⟨dy_n, Q_v⟩        because y_n = s_v Q_v

    In words: a scale collects from all places where its row was used.
    """
    ids, weight_q, weight_scale = saved
    if not wanted[1]:
        return None, None, None
    along = (dy * weight_q[ids].astype(dy.dtype)).sum(-1)
    dscale = np.zeros(weight_scale.shape, dy.dtype, like=dy)[:, None]
    add_at(dscale, ids, along[..., None])
    return None, None, dscale[:, 0]


quantised_embedding = Op(
    "...<V, VC:int8, V -> ...C",
    quantised_embedding_forward,
    quantised_embedding_backward,
    parameters=("weight_q", "weight_scale"),
    saves="ids",
)


def quantised_unembedding_forward(x, weight_q, weight_scale):
    """Logits from an embedding that is rounded to 8 bits: the scale of a row is that of its logit.

        y = (x Qᵀ) s

    x (..., C), weight_q int8 (V, C), weight_scale (V) → y (..., V)
    """
    return (x @ weight_q.swapaxes(0, 1).astype(x.dtype)) * weight_scale, (x, weight_q, weight_scale)


def quantised_unembedding_backward(dy, saved, wanted=(True, True)):
    """Gradients of quantised_unembedding_forward by x and, where wanted, weight_scale; Q has none.

        dx = (dy s) Q                  because y_nv = s_v Σ_c x_nc Q_vc
        ds_v = Σ_n dy_nv (x Qᵀ)_nv

    In words: quantised_linear's, with Q transposed.
    """
    x, weight_q, weight_scale = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, C), (N, V)
    q = weight_q.astype(dy.dtype)
    dscale = sum_rows(drows * (rows @ q.swapaxes(0, 1))) if wanted[1] else None
    return (dy * weight_scale) @ q, None, dscale


quantised_unembedding = Op(
    "...C, VC:int8, V -> ...V",
    quantised_unembedding_forward,
    quantised_unembedding_backward,
    parameters=("weight_q", "weight_scale"),
    saves="x",
)


def expert_quantised_linear_forward(x, chosen, weight_q, weight_scale, bias=None):
    """quantised_linear of its own for each row: that of the row's expert.

        y_n = (x_n Q_{e_n}) s_{e_n} + b_{e_n}

    x (..., I), chosen (...) integers below E, weight_q int8 (E, I, O), weight_scale (E, O) → y (..., O)
    """
    groups = rows_by_expert(chosen, len(weight_q))
    y = _by_expert(quantised_linear_forward, x, groups, weight_q, weight_scale, bias)
    return y, (x, groups, weight_q, weight_scale, bias is not None)


def expert_quantised_linear_backward(dy, saved, wanted=(True, True, True)):
    """Gradients of expert_quantised_linear_forward by x and, where wanted, weight_scale and bias.

        dx_n = (dy_n s_{e_n}) Q_{e_n}ᵀ
        ds_eo = Σ_{n: e_n = e} dy_no (x_n Q_e)_o
        db_e = Σ_{n: e_n = e} dy_n

    In words: quantised_linear's gradients within each group of rows; what nothing was sent to has gradient 0.
    """
    x, groups, weight_q, weight_scale, has_bias = saved
    shapes = (None, weight_scale.shape, weight_scale.shape if has_bias else None)
    dx, grads = _back_by_expert(
        dy,
        x,
        groups,
        lambda dy_e, x_e, e: quantised_linear_backward(
            dy_e, (x_e, weight_q[e], weight_scale[e], has_bias), wanted
        ),
        [shape if wants else None for shape, wants in zip(shapes, wanted)],
    )
    return dx, None, *grads


def _by_expert(forward, x, groups, weight_q, *stacked):
    """What a forward gives for the rows of each expert, put where they came from.  (..., I) → (..., O)"""
    rows = x.reshape(-1, x.shape[-1])
    y = np.zeros((len(rows), weight_q.shape[-1]), result_type(x, *stacked), like=x)
    for e, group in groups:
        y[group], _ = forward(rows[group], weight_q[e], *(None if a is None else a[e] for a in stacked))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _back_by_expert(dy, x, groups, backward, shapes):
    """dx, and gradients of the shapes, whose entry e is what backward gives for expert e.

    A shape of None stands for a gradient that there is not.
    """
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dx = np.zeros(rows.shape, dy.dtype, like=dy)
    grads = [None if shape is None else np.zeros(shape, dy.dtype, like=dy) for shape in shapes]
    for e, group in groups:
        dx[group], *of_expert = backward(drows[group], rows[group], e)
        for place, grad in zip(grads, of_expert):
            if place is not None:
                place[e] = grad
    return dx.reshape(x.shape), grads


expert_quantised_linear = Op(
    "...I, ...<E, EIO:int8, EO, EO? -> ...O",
    expert_quantised_linear_forward,
    expert_quantised_linear_backward,
    parameters=("weight_q", "weight_scale", "bias"),
    saves="x ...:int",
)


def expert_quantised4_linear_forward(x, chosen, weight_q, weight_scale, weight_zero=None, bias=None):
    """quantised4_linear of its own for each row: that of the row's expert.

        y_n = x_n Ŵ_{e_n} + b_{e_n}

    x (..., 2NM), chosen (...) integers below E, weight_q uint8 (E, NM, O), weight_scale and weight_zero
    (E, N, O) → y (..., O)
    """
    groups = rows_by_expert(chosen, len(weight_q))
    y = _by_expert(quantised4_linear_forward, x, groups, weight_q, weight_scale, weight_zero, bias)
    return y, (x, groups, weight_q, weight_scale, weight_zero, bias is not None)


def expert_quantised4_linear_backward(dy, saved, wanted=(True, True, True, True)):
    """Gradients of expert_quantised4_linear_forward by x and, where wanted, scales, zeros and biases.

        dx_n = dy_n Ŵ_{e_n}ᵀ
        ds_e, dz_e, db_e        quantised4_linear's, of the rows whose expert is e

    In words: quantised4_linear's gradients within each group of rows.
    """
    x, groups, weight_q, weight_scale, weight_zero, has_bias = saved
    E, _, n = weight_q.shape
    shapes = (
        None,
        weight_scale.shape,
        None if weight_zero is None else weight_zero.shape,
        (E, n) if has_bias else None,
    )

    def backward(dy_e, x_e, e):
        """The gradients by what is one expert's."""
        zero = None if weight_zero is None else weight_zero[e]
        return quantised4_linear_backward(dy_e, (x_e, weight_q[e], weight_scale[e], zero, has_bias), wanted)

    given = [shape if wants else None for shape, wants in zip(shapes, wanted)]
    dx, grads = _back_by_expert(dy, x, groups, backward, given)
    return dx, None, *grads


expert_quantised4_linear = Op(
    "...(2NM), ...<E, E(NM)O:uint8, ENO, ENO?, EO? -> ...O",
    expert_quantised4_linear_forward,
    expert_quantised4_linear_backward,
    parameters=("weight_q", "weight_scale", "weight_zero", "bias"),
    saves="x ...:int",
)
