"""Products with the Jacobian, its transpose, the Hessian, Gauss-Newton and Fisher matrices."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import engine
from ..architecture.parameters import Flat
from ..arguments import checked
from ..errors import InputError, near
from ..layers.pickers import logits_name
from ..model.gpt import GPT
from .vectors import Vector, as_parameters, flat_vector, widened

Array = NDArray[np.float64]
LARGEST_DENSE = 4096  # parameters: 128 MB as a matrix


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def jvp(
    model: GPT,
    tokens: ArrayLike,
    direction: Vector,
    targets: ArrayLike | None = None,
    name: str | None = None,
) -> Array:
    """J v: the derivative of the logits along a direction in parameter space; with targets, of the loss.

        J v = d/dε f(θ + ε v) at ε = 0 = Im f(θ + ihv)/h        v (θ's shape) → J v (f's shape)

    Parameters
    ----------
    model : GPT
    tokens : integers (..., T)
        One complex128 forward.
    direction : mapping of name -> array, or array (n_params,)
    targets : integers (..., T), optional
        With them the derivative is that of the loss.
    name : str, optional
        With it the derivative is that of the value of this name, such as "h.0.attn.heads".

    Returns
    -------
    float64 array (..., T, V), or () with targets, or of the shape of the named value

    Raises
    ------
    InputError
        For targets and a name together, an unknown name, and a direction of another shape.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> v = model.params.like()
    >>> v["ln_f.bias"] += 1
    >>> numgpt.calculus.jvp(model, [[0, 1, 2]], v).shape
    (1, 3, 5)
    >>> float(numgpt.calculus.jvp(model, [[0, 1, 2]], v, name="h.0").any())
    0.0
    """
    if name is not None and targets is not None:
        raise InputError(
            "jvp: targets and a name are both given, expected one: the loss, or the value of that name"
        )
    moved = _Moved("jvp", model, direction)
    if name is None:
        return moved.derivative(moved.model(tokens) if targets is None else moved.model.loss(tokens, targets))
    values = moved.model.record(tokens).value
    if name not in values:
        names = near(name, values) or list(values)[-4:]
        raise InputError(f"jvp: there is no value {name!r}, expected a name such as {', '.join(names)}")
    return moved.derivative(values[name])


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def vjp(model: GPT, tokens: ArrayLike, dvalue: ArrayLike, name: str | None = None) -> Flat:
    """Jᵀ dy: the gradient of ⟨dy, logits⟩ with respect to all parameters; with a name, of ⟨dy, its value⟩.

    The transpose of jvp: ⟨dy, J v⟩ = ⟨Jᵀ dy, v⟩.

    Parameters
    ----------
    model : GPT
    tokens : integers (..., T)
        One float64 forward and backward.
    dvalue : array
        dy, of the value's shape, (..., T, V) for the logits.
    name : str, optional
        Of the value; the logits unless given.

    Returns
    -------
    Flat

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> gradient = numgpt.calculus.vjp(model, [0, 1, 2], np.ones((3, 5)))
    >>> gradient["wte.weight"].shape
    (5, 4)
    """
    model = widened("vjp", model, np.float64)
    return model.vjp(tokens, {logits_name(model.config) if name is None else name: dvalue}).to("reference")


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def hvp(model: GPT, tokens: ArrayLike, targets: ArrayLike, vector: Vector) -> Flat:
    """H v: the Hessian of the loss with respect to all parameters, times v.

        H v = d/dε ∇L(θ + ε v) at ε = 0 = Im ∇L(θ + ihv)/h

    because ∇L, the hand-written backward, is a function of θ like any other. Source: Pearlmutter 1994 for the
    product without the matrix.

    Parameters
    ----------
    model : GPT
    tokens, targets : integers (..., T)
        A negative target does not count. One forward and backward in complex128.
    vector : mapping of name -> array, or array (n_params,)

    Returns
    -------
    Flat
        The second derivative of ReLU is taken as 0.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> v = model.params.like()
    >>> v["wte.weight"][0] = 1
    >>> hv = numgpt.calculus.hvp(model, [[0, 1, 2]], [[1, 2, 3]], v)
    >>> hv["h.0.mlp.c_fc.weight"].shape, hv.dtype
    ((4, 16), dtype('float64'))
    """
    moved = _Moved("hvp", model, vector)
    _, grads = moved.model.loss_and_grads(tokens, targets)
    return as_parameters(model, moved.derivative(grads.flat))


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def hessian(model: GPT, tokens: ArrayLike, targets: ArrayLike) -> Array:
    """H (P, P), dense, for models of at most 4,096 parameters.

    Row i is hvp along the i-th axis; that the matrix is symmetric is a law, not a step of the computation.

    Parameters
    ----------
    model : GPT
    tokens, targets : integers (..., T)

    Returns
    -------
    float64 array (P, P)
        Rows and columns in the order of model.params.flat.

    Raises
    ------
    InputError
        For a larger model.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=2, block_size=2, n_layer=0, n_head=1, n_embd=2))
    >>> H = numgpt.calculus.hessian(model, [0, 1], [1, 0])
    >>> H.shape, bool(abs(H - H.T).max() < 1e-12)
    ((12, 12), True)
    """
    P = model.params.flat.size
    if P > LARGEST_DENSE:
        raise InputError(
            f"hessian: the model has {P:,} parameters, expected at most {LARGEST_DENSE:,}: hvp gives its"
            " products"
        )
    rows = np.empty((P, P))
    axis = np.zeros(P)
    for i in range(P):
        axis[i] = 1
        rows[i] = hvp(model, tokens, targets, axis).flat
        axis[i] = 0
    return rows


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def gauss_newton(model: GPT, tokens: ArrayLike, targets: ArrayLike, vector: Vector) -> Flat:
    """G v with G = Jᵀ H_L J: the Hessian that the loss would have if the logits were linear in θ.

        H = Jᵀ H_L J + Σ_nv (∂L/∂z_nv) ∂²z_nv/∂θ²        the chain rule, twice
        a = J v                                          by the complex step through the forward
        G v = Jᵀ (H_L a)                                 by the backward; H_L is softmax_curvature

    G, the Gauss-Newton matrix, is positive semidefinite, because H_L is. Source: Schraudolph 2002.

    Parameters
    ----------
    model : GPT
    tokens, targets : integers (..., T)
        Of the targets only the signs matter, since a negative one does not count. One complex128 forward, and
        one float64 forward and backward.
    vector : mapping of name -> array, or array (n_params,)

    Returns
    -------
    Flat

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> v = np.ones(model.n_params)
    >>> bool(v @ numgpt.calculus.gauss_newton(model, [[0, 1, 2]], [[1, 2, 3]], v).flat >= 0)
    True
    """
    wanted = model.check_targets(model.check_tokens(tokens), targets)
    moved = _Moved("gauss_newton", model, vector)
    logits = moved.model(tokens)
    return vjp(model, tokens, softmax_curvature(engine.home(logits).real, moved.derivative(logits), wanted))


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def softmax_curvature(logits: Array, direction: Array, targets: ArrayLike) -> Array:
    """H_L a: the Hessian of the mean surprise with respect to the logits, times a direction a.

        ∂L/∂z_nv = (p_nv − [v = target_n])/N                     p_n = softmax(z_n)
        ∂²L/∂z_nv ∂z_nw = (p_nv [v = w] − p_nv p_nw)/N           because ∂p_v/∂z_w = p_v ([v = w] − p_w)
        (H_L a)_nv = p_nv (a_nv − ⟨p_n, a_n⟩)/N                  and 0 in the rows that do not count

    In words: how far each logit's change is from the mean change, times its probability. ⟨a, H_L a⟩ is the
    mean over the rows of the variance of a_n under p_n, so never negative.

    Parameters
    ----------
    logits, direction : arrays (..., V)
    targets : integers (...)
        A row with a negative target does not count.

    Returns
    -------
    array (..., V)

    Examples
    --------
    >>> import numpy as np
    >>> softmax_curvature(np.zeros((1, 2)), np.array([[1.0, 0.0]]), [0]).tolist()
    [[0.25, -0.25]]
    """
    shapes = [np.shape(a) for a in (logits, direction, targets)]
    if len(shapes[0]) == 0 or shapes[1:] != [shapes[0], shapes[0][:-1]]:
        raise InputError(
            f"softmax_curvature: logits, direction and targets have the shapes {', '.join(map(str, shapes))},"
            " expected (..., V), (..., V) and (...)"
        )
    counted = np.asarray(targets) >= 0
    if not counted.any():
        raise InputError("softmax_curvature: no target counts, expected at least one that is not negative")
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    probs = exps / exps.sum(-1, keepdims=True)
    mean = (probs * direction).sum(-1, keepdims=True)
    return np.where(counted[..., None], probs * (direction - mean) * (1 / counted.sum()), 0.0)


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def fisher(model: GPT, tokens: ArrayLike, vector: Vector, targets: ArrayLike | None = None) -> Flat:
    """F v with the Fisher matrix: the second moment of the gradients that the model itself expects.

        F = 1/N Σ_n E_{y ~ p_n}[g_n(y) g_n(y)ᵀ]        g_n(y) = −∇ ln p_n(y) = J_nᵀ (p_n − e_y)
          = 1/N Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n     because E[e_y] = p_n and E[e_y e_yᵀ] = diag p_n
          = G

    The expectation is over the model's own next token at each of the N positions, exact, without sampling:
    for softmax with cross-entropy the Fisher matrix is the Gauss-Newton matrix, whatever the data's targets
    are. Source: Martens 2014.

    Parameters
    ----------
    model : GPT
    tokens : integers (..., T)
    vector : mapping of name -> array, or array (n_params,)
    targets : integers (..., T), optional
        The positions of negative ones do not count; all count unless given.

    Returns
    -------
    Flat

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> v = np.ones(model.n_params)
    >>> bool(v @ numgpt.calculus.fisher(model, [[0, 1, 2]], v).flat >= 0)
    True
    """
    if targets is None:
        targets = np.zeros_like(model.check_tokens(tokens))
    return gauss_newton(model, tokens, targets, vector)


class _Moved:
    """A model at θ + ihv in complex128.

    h is a power of two, so v is scaled without rounding, and |hv| is some 2⁻¹⁰⁰, so (hv)² vanishes beside θ.
    """

    def __init__(self, who: str, model: GPT, vector: Vector) -> None:
        v = flat_vector(who, model, vector)
        self.shift = 100 + math.frexp(abs(v).max())[1]
        self.model = widened(who, model, np.complex128)
        params = self.model.params.flat
        params.imag = engine.beside(np.ldexp(v, -self.shift), params)

    def derivative(self, value: NDArray[np.complex128]) -> Array:
        """Im value / h."""
        return np.ldexp(engine.home(value).imag, self.shift)
