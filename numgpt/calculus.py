"""Derivatives beyond the gradient, exact: products with the Jacobian, Hessian, Gauss-Newton and Fisher matrices, and a gradient an example.

θ is a model's parameters, z its logits, L the mean surprise at the N targets that count, in nats. What is linear in the direction v
comes from the complex step: a function that accepts complex numbers, and both the forward and the backward do, has
Im f(θ + ihv)/h for its derivative along v, to rounding, because nothing is subtracted (Squire and Trapp 1998).

Everything is computed at the parameters widened to float64 or complex128, which is exact for a float32 model, and returned as
float64; dropout never acts. A vector in parameter space is a mapping name -> array, as model.params and its gradients are, or
their flat array of model.n_params numbers in the order of model.params.flat, in the host's memory as all results are, wherever
the model lies and computes. What has θ's shape is returned as such a mapping,
views of one buffer .flat.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from . import engine
from .errors import InputError
from .lanczos import SOLVERS
from .parameters import Flat
from .record import Record
from .transformer import gpt_backward, gpt_forward

LARGEST_DENSE = 4096  # parameters: 128 MB as a matrix


def jvp(model, tokens, direction, targets=None, name=None):
    """J v: the derivative of the logits along a direction v in parameter space; with targets that of the loss.

        J v = d/dε f(θ + ε v) at ε = 0 = Im f(θ + ihv)/h        v (θ's shape) → J v (f's shape)

    name: of any other value that a Record files, "h.0.attn.heads".
    tokens (..., T) → (..., T, V), or () with targets. One complex128 forward.
    """
    if name is not None and targets is not None:
        raise InputError("jvp: targets and a name are both given, expected one: the loss, or the value of that name")
    moved = _Moved("jvp", model, direction)
    if name is not None:
        values = moved.model.record(tokens).value
        if name not in values:
            raise InputError(f"jvp: there is no value {name!r}, expected a name such as {', '.join(list(values)[-4:])}")
        return moved.derivative(values[name])
    return moved.derivative(moved.model(tokens) if targets is None else moved.model.loss(tokens, targets))


def vjp(model, tokens, dvalue, name=None):
    """Jᵀ dy: the gradient with respect to all parameters of ⟨dy, logits⟩, or of ⟨dy, value⟩ for the value of a name.

    The transpose of jvp: ⟨dy, J v⟩ = ⟨Jᵀ dy, v⟩.
    tokens (..., T), dvalue: an array dy of the value's shape, (..., T, V) for the logits. One float64 forward and backward.
    """
    model = _widened("vjp", model, np.float64)
    tokens, grads = model._tokens(tokens), model.params.like()
    dvalue = np.asarray(dvalue)
    if dvalue.dtype.kind not in "fiu":
        raise InputError(f"vjp: the array has dtype {dvalue.dtype}, expected real numbers")
    dvalue = dvalue.astype(np.float64, copy=False)
    record = Record(model.params, model.config, grads=grads, seed=model.seed, edit_grad=None if name is None else {name: lambda dy: dvalue})
    with engine.session(np.float64):
        logits = gpt_forward(record, model._beside(tokens))
        record.check_names()
        dvalue = engine.beside(dvalue, logits)
        if name is None and dvalue.shape != logits.shape:
            raise InputError(f"vjp: the array has shape {dvalue.shape}, expected {logits.shape} as the logits")
        # What comes after the named value gets a gradient of 0, and the value itself dvalue in its place.
        gpt_backward(record, dvalue if name is None else np.zeros_like(logits))
    record.finish_backward()
    return grads.to("reference")


def hvp(model, tokens, targets, vector):
    """H v: the Hessian of the loss with respect to all parameters, times v.

        H v = d/dε ∇L(θ + ε v) at ε = 0 = Im ∇L(θ + ihv)/h

    because ∇L, the hand-written backward, is a function of θ like any other: forward and backward once, in complex128.
    tokens and targets (..., T); a negative target does not count. The second derivative of ReLU is taken as 0.
    Source: Pearlmutter 1994 for the product without the matrix.
    """
    moved = _Moved("hvp", model, vector)
    _, grads = moved.model.loss_and_grads(tokens, targets)
    return _like(model, moved.derivative(grads.flat))


def hessian(model, tokens, targets):
    """H (P, P), a row for each of the P parameters in the order of model.params.flat: for models of at most 4,096 parameters.

    Row i is hvp along the i-th axis; that the matrix is symmetric is a law, not a step of the computation.
    """
    P = model.n_params
    if P > LARGEST_DENSE:
        raise InputError(f"hessian: the model has {P:,} parameters, expected at most {LARGEST_DENSE:,}: hvp gives its products")
    rows, axis = np.empty((P, P)), np.zeros(P)
    for i in range(P):
        axis[i] = 1
        rows[i] = hvp(model, tokens, targets, axis).flat
        axis[i] = 0
    return rows


def gauss_newton(model, tokens, targets, vector):
    """G v with the Gauss-Newton matrix G = Jᵀ H_L J: the Hessian that the loss would have if the logits were linear in θ.

        H = Jᵀ H_L J + Σ_nv (∂L/∂z_nv) ∂²z_nv/∂θ²        the chain rule, twice
        a = J v                                          by the complex step through the forward
        G v = Jᵀ (H_L a)                                 by the backward; H_L is softmax_curvature

    G is positive semidefinite, because H_L is. tokens and targets (..., T); of the targets only the signs matter, since a
    negative one does not count. A complex128 forward, and a float64 forward and backward.  Source: Schraudolph 2002.
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

    In words: how far each logit's change is from the mean change, times its probability. ⟨a, H_L a⟩ is the mean over the
    rows of the variance of a_n under p_n, so never negative.
    logits and direction (..., V), targets (...) → (..., V)
    """
    counted = np.asarray(targets) >= 0
    if not counted.any():
        raise InputError("softmax_curvature: no target counts, expected at least one that is not negative")
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    probs = exps / exps.sum(-1, keepdims=True)
    mean = (probs * direction).sum(-1, keepdims=True)
    return np.where(counted[..., None], probs * (direction - mean) * (1 / counted.sum()), 0.0)


def fisher(model, tokens, vector, targets=None):
    """F v with the Fisher matrix of the model's predictions: what the model itself would expect of its gradients.

        F = 1/N Σ_n E_{y ~ p_n}[g_n(y) g_n(y)ᵀ]        g_n(y) = −∇ ln p_n(y) = J_nᵀ (p_n − e_y)
          = 1/N Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n     because E[e_y] = p_n and E[e_y e_yᵀ] = diag p_n
          = G

    The expectation is over the model's own next token at each of the N positions, exact, no sampling: for softmax with
    cross-entropy the Fisher matrix is the Gauss-Newton matrix, whatever the data's targets are.
    tokens (..., T); targets (..., T), if given, say which positions count.  Source: Martens 2014.
    """
    return gauss_newton(model, tokens, np.zeros_like(model._tokens(tokens)) if targets is None else targets, vector)


def empirical_fisher(model, tokens, targets, vector):
    """F̃ v with F̃ = 1/M Σ_m g_m g_mᵀ, the second moment of the M examples' gradients, not centred.

        F̃ v = 1/M Σ_m g_m ⟨g_m, v⟩        g_m = the gradient of row m's own mean loss

    What it is: the noise of the batch gradient (tr F̃ = ⟨|g|²⟩), a preconditioner. What it is not: the Fisher matrix, whose
    targets the model draws, nor an approximation of the Hessian, except where the model predicts the data's own distribution
    (Kunstner, Balles and Hennig 2019). An example is a row of T targets: were these drawn by the model, F̃ would be F/T in the
    mean, because the gradients of different positions are then uncorrelated.
    tokens and targets (..., T). M float64 forwards and backwards.
    """
    v, out, examples = _flat("empirical_fisher", model, vector), np.zeros(model.n_params), 0
    for g in per_example_gradients(model, tokens, targets):
        out += g.flat * (g.flat @ v)
        examples += 1
    return _like(model, out / examples)


def per_example_gradients(model, tokens, targets, share=False):
    """An iterator over the gradients of the rows of a batch, one mapping at a time: all at once may not fit in memory.

        g_m = ∇ L_m,  L_m = the mean surprise at row m's N_m targets        so that ∇L = Σ_m N_m g_m / N
        share: (N_m/N) g_m, row m's part of the batch's gradient            so that ∇L = Σ_m of them

    tokens and targets (..., T), of which each (T) is an example. A row in which no target counts has no mean, which is an
    error; its share is 0. One float64 forward and backward a row.
    """
    model = _widened("per_example_gradients", model, np.float64)
    tokens = model._tokens(tokens)
    targets = model._targets(tokens, targets)
    T = tokens.shape[-1]
    rows = list(zip(tokens.reshape(-1, T), targets.reshape(-1, T)))
    counted = [int((row >= 0).sum()) for _, row in rows]
    if sum(counted) == 0 or (not share and 0 in counted):
        what = "no target counts" if sum(counted) == 0 else f"no target counts in row {counted.index(0)}"
        raise InputError(f"per_example_gradients: {what}, expected at least one that is not negative: leave out the row, or ask for share=True")
    return (model.loss_and_grads(*row, count=sum(counted) if share else own)[1].to("reference") for row, own in zip(rows, counted))


def gradient_norms(model, tokens, targets, share=False):
    """The Euclidean norms of per_example_gradients.  tokens and targets (..., T) → (M) for M rows"""
    return np.array([np.linalg.norm(g.flat) for g in per_example_gradients(model, tokens, targets, share)])


class NoiseScale(NamedTuple):
    """scale = trace / squared_norm, in examples; estimates of tr Σ and |G|²; and from how many examples."""

    scale: float
    trace: float
    squared_norm: float
    examples: int


def gradient_noise_scale(model, tokens, targets):
    """noise_scale of a batch's per-example gradients, each of its row's own mean loss: the rows count alike.

    tokens and targets (..., T) with at least two rows. One float64 forward and backward a row.
    """
    return noise_scale(per_example_gradients(model, tokens, targets))


def noise_scale(gradients):
    """The simple noise scale: the batch size, in examples, at which the noise of the gradient is as large as the gradient.

        B = tr Σ / |G|²        G = E[g], Σ = E[(g − G)(g − G)ᵀ]

    Estimated without bias from g_1 … g_M with mean ḡ:

        tr Σ ≈ Σ_m |g_m − ḡ|² / (M − 1)
        |G|² ≈ |ḡ|² − (tr Σ)/M                because E|ḡ|² = |G|² + tr Σ / M

    which is McCandlish et al. 2018, appendix A, for a small batch of 1 and a large one of M. Their ratio is biased, and
    where noise prevails the second may come out negative: then the scale is infinite, which says to take more examples.
    gradients: an iterable of arrays, or of gradients as per_example_gradients yields them, each looked at once.
    """
    mean, scatter, examples = 0.0, 0.0, 0
    for g in gradients:
        g = np.asarray(g.flat if isinstance(g, Flat) else g, np.float64).reshape(-1)
        if examples and g.shape != mean.shape:
            raise InputError(f"noise_scale: gradient {examples} has {g.size} numbers, expected {mean.size} as those before it")
        examples += 1
        before = g - mean
        mean = mean + before / examples
        scatter += before @ (g - mean)  # Welford 1962: no difference of large squares
    if examples < 2:
        raise InputError(f"noise_scale: {examples} example, expected at least two: one alone shows no noise")
    trace = float(scatter / (examples - 1))
    squared_norm = float(mean @ mean - trace / examples)
    return NoiseScale(trace / squared_norm if squared_norm > 0 else math.inf, trace, squared_norm, examples)


OPERATORS = {"hessian": hvp, "gauss_newton": gauss_newton}


def top_eigenvalues(model, tokens, targets, k=1, *, operator="hessian", which="largest", solver="lanczos", steps=None, tolerance=1e-8, seed=0):
    """The k largest eigenvalues of the Hessian or the Gauss-Newton matrix of the loss, by their products alone.

    operator: "hessian" or "gauss_newton", which is the Fisher matrix too. which: "largest", "smallest" (the most negative) or
    "magnitude". solver: "lanczos", numgpt.lanczos.lanczos, which sets aside a vector for each of its steps and may find an
    eigenvalue that occurs twice once only; or "scipy" for ARPACK, which holds some 2 k. steps, tolerance, seed: the solver's.
    tokens and targets (..., T) → numgpt.lanczos.Eigenvalues, its vectors mappings. A bound larger than tolerance times the
    largest |value| says that the steps ran out.
    """
    for what, value, known in (("operator", operator, OPERATORS), ("solver", solver, SOLVERS)):
        if value not in known:
            raise InputError(f"top_eigenvalues: {what} is {value!r}, expected one of {', '.join(known)}")
    found = SOLVERS[solver](
        lambda x: OPERATORS[operator](model, tokens, targets, x).flat, model.n_params, k, which=which, steps=steps, tolerance=tolerance, seed=seed
    )
    return found._replace(vectors=tuple(_like(model, y) for y in found.vectors))


class _Moved:
    """A model at θ + ihv in complex128, with h a power of two so that |hv| is some 2⁻¹⁰⁰ and v is scaled without rounding."""

    def __init__(self, who, model, vector):
        v = _flat(who, model, vector)
        self.shift = 100 + math.frexp(abs(v).max())[1]
        self.model = _widened(who, model, np.complex128)
        self.model.params.flat.imag = engine.beside(np.ldexp(v, -self.shift), self.model.params.flat)

    def derivative(self, value):
        """Im value / h."""
        return np.ldexp(engine.home(value).imag, self.shift)


def _widened(who, model, dtype):
    """A copy of the model in a dtype that holds its parameters exactly; the model itself where it has that dtype."""
    if model.params.dtype not in (np.float32, np.float64):
        raise InputError(f'{who}: the model is of {model.params.dtype}, expected float32 or float64: model.astype("float64")')
    return model if model.params.dtype == dtype else model.astype(dtype)


def _flat(who, model, vector):
    """A vector in parameter space as one float64 array, checked."""
    arrays = vector if isinstance(vector, Mapping) else {"": vector}
    shapes = model.params.shapes if isinstance(vector, Mapping) else {"": (model.n_params,)}
    for name in sorted(shapes.keys() ^ arrays.keys()):
        what = "lacks" if name in shapes else "has"
        raise InputError(f"{who}: the vector {what} {name}, expected the names of model.params: begin with model.params.like(), which is all zeros")
    flat = Flat(shapes, np.float64)
    for name, array in arrays.items():
        array, of = np.asarray(array), name and f"'s {name}"
        if array.shape != shapes[name]:
            raise InputError(f"{who}: the vector{of} has shape {array.shape}, expected {shapes[name]}" + ("" if name else ", as model.params.flat"))
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"{who}: the vector{of} is not all finite real numbers (dtype {array.dtype}), which are expected")
        flat[name][...] = array
    return flat.flat


def _like(model, flat):
    """A flat float64 array as a mapping with the parameters' names."""
    return Flat(model.params.shapes, np.float64, flat)
