"""Products with the Jacobian, its transpose, the Hessian, the Gauss-Newton and the Fisher matrix, without the
matrices.
"""

import math

import numpy as np

from .. import engine
from ..errors import InputError
from ..layers.record import Record
from ..layers.transformer import gpt_backward, gpt_forward
from .vectors import as_parameters, flat_vector, widened

LARGEST_DENSE = 4096  # parameters: 128 MB as a matrix


def jvp(model, tokens, direction, targets=None, name=None):
    """J v: the derivative of the logits along a direction v in parameter space; with targets that of the
    loss.

        J v = d/dε f(θ + ε v) at ε = 0 = Im f(θ + ihv)/h        v (θ's shape) → J v (f's shape)

    name: of any other value that a Record files, "h.0.attn.heads".
    tokens (..., T) → (..., T, V), or () with targets. One complex128 forward.
    """
    if name is not None and targets is not None:
        raise InputError(
            "jvp: targets and a name are both given, expected one: the loss, or the value of that name"
        )
    moved = _Moved("jvp", model, direction)
    if name is not None:
        values = moved.model.record(tokens).value
        if name not in values:
            raise InputError(
                f"jvp: there is no value {name!r}, expected a name such as {', '.join(list(values)[-4:])}"
            )
        return moved.derivative(values[name])
    return moved.derivative(moved.model(tokens) if targets is None else moved.model.loss(tokens, targets))


def vjp(model, tokens, dvalue, name=None):
    """Jᵀ dy: the gradient with respect to all parameters of ⟨dy, logits⟩, or of ⟨dy, value⟩ for the value of
    a name.

    The transpose of jvp: ⟨dy, J v⟩ = ⟨Jᵀ dy, v⟩. tokens (..., T), dvalue: an array dy of the value's shape,
    (..., T, V) for the logits. One float64 forward and backward.
    """
    model = widened("vjp", model, np.float64)
    tokens, grads = model._tokens(tokens), model.params.like()
    dvalue = np.asarray(dvalue)
    if dvalue.dtype.kind not in "fiu":
        raise InputError(f"vjp: the array has dtype {dvalue.dtype}, expected real numbers")
    dvalue = dvalue.astype(np.float64, copy=False)
    record = Record(
        model.params,
        model.config,
        grads=grads,
        seed=model.seed,
        edit_grad=None if name is None else {name: lambda dy: dvalue},
    )
    with engine.session(np.float64):
        logits = gpt_forward(record, model._beside(tokens))
        record.check_names()
        dvalue = engine.beside(dvalue, logits)
        if name is None and dvalue.shape != logits.shape:
            raise InputError(
                f"vjp: the array has shape {dvalue.shape}, expected {logits.shape} as the logits"
            )
        # What comes after the named value gets a gradient of 0, and the value itself dvalue in its place.
        gpt_backward(record, dvalue if name is None else np.zeros_like(logits))
    record.finish_backward()
    return grads.to("reference")


def hvp(model, tokens, targets, vector):
    """H v: the Hessian of the loss with respect to all parameters, times v.

        H v = d/dε ∇L(θ + ε v) at ε = 0 = Im ∇L(θ + ihv)/h

    because ∇L, the hand-written backward, is a function of θ like any other: forward and backward once, in
    complex128. tokens and targets (..., T); a negative target does not count. The second derivative of ReLU
    is taken as 0.
    Source: Pearlmutter 1994 for the product without the matrix.
    """
    moved = _Moved("hvp", model, vector)
    _, grads = moved.model.loss_and_grads(tokens, targets)
    return as_parameters(model, moved.derivative(grads.flat))


def hessian(model, tokens, targets):
    """H (P, P), a row for each of the P parameters in the order of model.params.flat: for models of at most
    4,096 parameters.

    Row i is hvp along the i-th axis; that the matrix is symmetric is a law, not a step of the computation.
    """
    P = model.n_params
    if P > LARGEST_DENSE:
        raise InputError(
            f"hessian: the model has {P:,} parameters, expected at most {LARGEST_DENSE:,}: hvp gives its"
            " products"
        )
    rows, axis = np.empty((P, P)), np.zeros(P)
    for i in range(P):
        axis[i] = 1
        rows[i] = hvp(model, tokens, targets, axis).flat
        axis[i] = 0
    return rows


def gauss_newton(model, tokens, targets, vector):
    """G v with the Gauss-Newton matrix G = Jᵀ H_L J: the Hessian that the loss would have if the logits were
    linear in θ.

        H = Jᵀ H_L J + Σ_nv (∂L/∂z_nv) ∂²z_nv/∂θ²        the chain rule, twice
        a = J v                                          by the complex step through the forward
        G v = Jᵀ (H_L a)                                 by the backward; H_L is softmax_curvature

    G is positive semidefinite, because H_L is. tokens and targets (..., T); of the targets only the signs
    matter, since a negative one does not count. A complex128 forward, and a float64 forward and backward.
    Source: Schraudolph 2002.
    """
    targets = model._targets(model._tokens(tokens), targets)
    moved = _Moved("gauss_newton", model, vector)
    logits = moved.model(tokens)
    return vjp(model, tokens, softmax_curvature(engine.home(logits).real, moved.derivative(logits), targets))


def softmax_curvature(logits, direction, targets):
    """H_L a: the Hessian of the mean surprise with respect to the logits, times a direction a.

        ∂L/∂z_nv = (p_nv − [v = target_n])/N                     p_n = softmax(z_n)
        ∂²L/∂z_nv ∂z_nw = (p_nv [v = w] − p_nv p_nw)/N           because ∂p_v/∂z_w = p_v ([v = w] − p_w)
        (H_L a)_nv = p_nv (a_nv − ⟨p_n, a_n⟩)/N                  and 0 in the rows that do not count

    In words: how far each logit's change is from the mean change, times its probability. ⟨a, H_L a⟩ is the
    mean over the rows of the variance of a_n under p_n, so never negative. logits and direction (..., V),
    targets (...) → (..., V)
    """
    counted = np.asarray(targets) >= 0
    if not counted.any():
        raise InputError("softmax_curvature: no target counts, expected at least one that is not negative")
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    probs = exps / exps.sum(-1, keepdims=True)
    mean = (probs * direction).sum(-1, keepdims=True)
    return np.where(counted[..., None], probs * (direction - mean) * (1 / counted.sum()), 0.0)


def fisher(model, tokens, vector, targets=None):
    """F v with the Fisher matrix of the model's predictions: what the model itself would expect of its
    gradients.

        F = 1/N Σ_n E_{y ~ p_n}[g_n(y) g_n(y)ᵀ]        g_n(y) = −∇ ln p_n(y) = J_nᵀ (p_n − e_y)
          = 1/N Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n     because E[e_y] = p_n and E[e_y e_yᵀ] = diag p_n
          = G

    The expectation is over the model's own next token at each of the N positions, exact, no sampling: for
    softmax with cross-entropy the Fisher matrix is the Gauss-Newton matrix, whatever the data's targets are.
    tokens (..., T); targets (..., T), if given, say which positions count.  Source: Martens 2014.
    """
    return gauss_newton(
        model, tokens, np.zeros_like(model._tokens(tokens)) if targets is None else targets, vector
    )


class _Moved:
    """A model at θ + ihv in complex128, with h a power of two so that |hv| is some 2⁻¹⁰⁰ and v is scaled
    without rounding.
    """

    def __init__(self, who, model, vector):
        v = flat_vector(who, model, vector)
        self.shift = 100 + math.frexp(abs(v).max())[1]
        self.model = widened(who, model, np.complex128)
        self.model.params.flat.imag = engine.beside(np.ldexp(v, -self.shift), self.model.params.flat)

    def derivative(self, value):
        """Im value / h."""
        return np.ldexp(engine.home(value).imag, self.shift)
