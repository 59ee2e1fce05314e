"""Mixture of experts: tokens are sent to a few of many feed-forwards, and what these give is added up.

    l = x W_r           router         a score of each expert, for each token
    e_1 … e_k           chosen         the k largest scores: integers, which have no gradient
    w                   route          a weight for each chosen expert
    x, k times          dispatch       a copy of the token for each of them
    f_e(x)              expert_linear  the product with the matrix of the copy's expert, tokens grouped by it
    y = Σ_j w_j f_j     combine

No token is dropped and none waits for another, so what a token gets does not depend on the rest of the batch.
"""

import numpy as np

from .. import engine
from ..engine.precision import FORMATS, product
from .activations import sigmoids
from .embedding import add_at
from .linear import sum_rows
from .op import Op
from .rounded import rounded_once

PRECISIONS = FORMATS  # in which products can be computed here


def chosen_experts(logits, n_active):
    """The experts with the largest scores, the largest first; of equal scores the lower expert's is first.

    An integer does not change a little when a score does: it has no gradient, and where two scores change
    places the layer jumps.
    logits (..., E) → integers (..., A), A = n_active.
    """
    order = np.argsort(-logits.real, axis=-1, kind="stable")
    chosen = np.ascontiguousarray(order[..., :n_active], like=order)  # all of it is not to be held
    return engine.checked(chosen, logits, logits.shape[-1])


@rounded_once
def route_forward(logits, chosen, *, renorm=True):
    """The weight of each chosen expert, out of a softmax of the router's scores.

        renorm:  w_j = exp(l_{e_j}) / Σ_i exp(l_{e_i})        over the chosen: their weights add up to 1
        raw:     w_j = exp(l_{e_j}) / Σ_e exp(l_e)            over all, of which the chosen keep their share

    A softmax over all whose chosen entries are divided by their sum is the first: the common denominator
    cancels. With one expert chosen, renorm's weight is 1 whatever the scores, and the router learns nothing
    from it; therefore Switch is raw.
    logits (..., E), chosen (..., A) integers below E → w (..., A).  Source: Shazeer et al. 2017.
    """
    scores = np.take_along_axis(logits, chosen, -1)
    among = scores if renorm else logits
    top = among.real.max(-1, keepdims=True)
    w = np.exp(scores - top) / np.exp(among - top).sum(-1, keepdims=True)
    return w, (w, logits, chosen, renorm)


@rounded_once
def route_backward(dw, saved):
    """Gradients of route_forward with respect to logits and chosen (none: they are integers).

        s_e = Σ_{j: e_j = e} w_j dw_j
        dl_e = s_e − q_e Σ_i s_i        q the softmax that w is part of: over the chosen, or over all

    because ∂w_j/∂l_e = w_j ([e = e_j] − q_e).

    In words: a softmax's gradient; what is chosen competes with what is in the denominator. Under renorm that
    is nothing but the chosen, so the others get 0, and one that is chosen alone as well.
    """
    w, logits, chosen, renorm = saved
    E = logits.shape[-1]
    a = scattered(w * dw, chosen, E)
    q = scattered(w, chosen, E) if renorm else softmax(logits)[0]
    return a - q * a.sum(-1, keepdims=True), None


def scattered(a, chosen, E):
    """Σ_{j: e_j = e} a_j for each expert e.  a, chosen (..., A) → (..., E)"""
    rows, ids = a.reshape(-1), chosen.reshape(-1, chosen.shape[-1])
    places = (ids + E * np.arange(len(ids), like=ids)[:, None]).reshape(-1)
    flat = np.zeros((len(ids) * E, 1), a.dtype, like=a)
    add_at(flat, places, rows[:, None])
    return flat.reshape(*a.shape[:-1], E)


def softmax(logits):
    """(the softmax of each row, and the logarithm of the sum that it divides by)"""
    top = logits.real.max(-1, keepdims=True)
    e = np.exp(logits - top)
    total = e.sum(-1, keepdims=True)
    return e / total, (top + np.log(total))[..., 0]


route = Op(
    "...E, ...A<E -> ...A",
    route_forward,
    route_backward,
    at_least={"E": "A"},
    distinct="chosen",
    variants={"raw": {"renorm": False}},
    saves="y logits chosen",
)


def dispatch_forward(x, *, n_active):
    """A copy of each vector for each of the experts that it is sent to.

        y_j = x        j = 1 … A, A = n_active

    x (..., C) → y (..., A, C)
    """
    return np.repeat(x[..., None, :], n_active, axis=-2), ()


def dispatch_backward(dy, saved):
    """Gradient of dispatch_forward with respect to x.

        dx = Σ_j dy_j        because each copy is x

    In words: what is read several times collects the gradients of all its readers.
    """
    () = saved
    return (dy.sum(-2),)


dispatch = Op("...C -> ...AC", dispatch_forward, dispatch_backward, sizes={"n_active": "A"}, saves="")


def expert_linear_forward(x, chosen, weight, bias=None):
    """A linear map of its own for each row: that of the row's expert.

        y_n = x_n W_{e_n} + b_{e_n}

    Rows of one expert are taken together, so that each matrix is read once.
    x (..., I), chosen (...) integers below E, weight (E, I, O), bias (E, O) → y (..., O)
    """
    rows = x.reshape(-1, x.shape[-1])
    groups = rows_by_expert(chosen, len(weight))
    y = np.zeros((len(rows), weight.shape[-1]), result_type(x, weight, bias), like=x)
    for e, group in groups:
        y[group] = product(rows[group], weight[e])
        if bias is not None:
            y[group] += bias[e]
    return y.reshape(*x.shape[:-1], y.shape[-1]), (x, groups, weight, bias is not None)


def expert_linear_backward(dy, saved):
    """Gradients of expert_linear_forward with respect to x, chosen (none), weight and bias.

        dx_n = dy_n W_{e_n}ᵀ
        dW_e = Σ_{n: e_n = e} x_nᵀ dy_n
        db_e = Σ_{n: e_n = e} dy_n

    In words: linear's gradients within each group; an expert that nothing was sent to has gradient 0.
    """
    x, groups, weight, has_bias = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    E, I, O = weight.shape  # noqa: E741 - the letters of the line
    dx = np.zeros(rows.shape, result_type(dy, weight), like=dy)
    dweight = np.zeros((E, I, O), result_type(x, dy), like=dy)
    dbias = np.zeros((E, O), dy.dtype, like=dy) if has_bias else None
    for e, group in groups:
        x_e, dy_e = rows[group], drows[group]
        dx[group] = product(dy_e, weight[e].swapaxes(0, 1))
        dweight[e] = product(x_e.swapaxes(0, 1), dy_e)
        if dbias is not None:
            dbias[e] = sum_rows(dy_e)
    return dx.reshape(x.shape), None, dweight, dbias


def rows_by_expert(chosen, E):
    """(expert, the rows that are sent to it), for each expert that has any; rows in their order."""
    ids = chosen.reshape(-1)
    order = np.argsort(ids, kind="stable")
    ends = np.cumsum(np.bincount(ids, minlength=E)).tolist()
    groups = ((e, order[begin:end]) for e, (begin, end) in enumerate(zip([0, *ends], ends)))
    return tuple((e, group) for e, group in groups if len(group))


def result_type(*arrays):
    """The dtype of what is computed of some arrays; None stands for one that is not there."""
    return np.result_type(*(a.dtype for a in arrays if a is not None))


expert_linear = Op(
    "...I, ...<E, EIO, EO? -> ...O",
    expert_linear_forward,
    expert_linear_backward,
    parameters=("weight", "bias"),
    saves="x ...:int",
)


def combine_forward(x, weights):
    """The sum of what the experts gave for a token, each times its weight.

        y = Σ_j w_j x_j

    x (..., A, C), weights (..., A) → y (..., C)
    """
    return (x * weights[..., None]).sum(-2), (x, weights)


def combine_backward(dy, saved):
    """Gradients of combine_forward with respect to x and weights.

        dx_j = w_j dy
        dw_j = ⟨dy, x_j⟩        because ∂y/∂w_j = x_j

    In words: an expert learns as much as it was listened to; its weight by how much it would have helped.
    """
    x, weights = saved
    return weights[..., None] * dy[..., None, :], (x * dy[..., None, :]).sum(-1)


combine = Op("...AC, ...A -> ...C", combine_forward, combine_backward, saves="x weights")


@rounded_once
def opened_forward(gate, x):
    """Channels let through by a gate: of one gate all of them, of G gates C/G by each.

        y = σ(g) x        σ(g) = 1 / (1 + e^−g)

    gate (..., G), x (..., C) → y (..., C).  Source: the shared expert of Qwen 2 (Yang et al. 2024).
    """
    s, rest = sigmoids(gate)
    parts = x.reshape(*gate.shape, x.shape[-1] // gate.shape[-1])
    return (parts * s[..., None]).reshape(x.shape), (parts, s, rest)


@rounded_once
def opened_backward(dy, saved):
    """Gradients of opened_forward with respect to gate and x.

        dg = σ (1 − σ) ⟨dy, x⟩        over the channels of the gate, because dσ/dg = σ (1 − σ)
        dx = σ dy

    In words: what passes forward passes backward; the gate learns by what it lets through.
    """
    parts, s, rest = saved
    dparts = dy.reshape(parts.shape)
    return s * rest * (dparts * parts).sum(-1), (dparts * s[..., None]).reshape(dy.shape)


opened = Op("...G, ...(GW) -> ...(GW)", opened_forward, opened_backward, saves="x ...G ...G")
