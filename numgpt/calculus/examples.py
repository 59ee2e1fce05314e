"""A gradient an example: their norms, their second moment, and how noisy their mean is."""

import math
from typing import NamedTuple

import numpy as np

from ..architecture.parameters import Flat
from ..errors import InputError
from .vectors import as_parameters, flat_vector, widened


def per_example_gradients(model, tokens, targets, share=False):
    """An iterator over the gradients of the rows of a batch, one mapping at a time: all at once may not fit
    in memory.

        g_m = ∇ L_m,  L_m = the mean surprise at row m's N_m targets        so that ∇L = Σ_m N_m g_m / N
        share: (N_m/N) g_m, row m's part of the batch's gradient            so that ∇L = Σ_m of them

    tokens and targets (..., T), of which each (T) is an example. A row in which no target counts has no mean,
    which is an error; its share is 0. One float64 forward and backward a row.
    """
    model = widened("per_example_gradients", model, np.float64)
    tokens = model._tokens(tokens)
    targets = model._targets(tokens, targets)
    T = tokens.shape[-1]
    rows = list(zip(tokens.reshape(-1, T), targets.reshape(-1, T)))
    counted = [int((row >= 0).sum()) for _, row in rows]
    if sum(counted) == 0 or (not share and 0 in counted):
        what = "no target counts" if sum(counted) == 0 else f"no target counts in row {counted.index(0)}"
        raise InputError(
            f"per_example_gradients: {what}, expected at least one that is not negative: leave out the row,"
            " or ask for share=True"
        )
    return (
        model.loss_and_grads(*row, count=sum(counted) if share else own)[1].to("reference")
        for row, own in zip(rows, counted)
    )


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
    """The simple noise scale: the batch size, in examples, at which the noise of the gradient is as large as
    the gradient.

        B = tr Σ / |G|²        G = E[g], Σ = E[(g − G)(g − G)ᵀ]

    Estimated without bias from g_1 … g_M with mean ḡ:

        tr Σ ≈ Σ_m |g_m − ḡ|² / (M − 1)
        |G|² ≈ |ḡ|² − (tr Σ)/M                because E|ḡ|² = |G|² + tr Σ / M

    which is McCandlish et al. 2018, appendix A, for a small batch of 1 and a large one of M. Their ratio is
    biased, and
    where noise prevails the second may come out negative: then the scale is infinite, which says to take more
    examples.
    gradients: an iterable of arrays, or of gradients as per_example_gradients yields them, each looked at
    once.
    """
    mean, scatter, examples = 0.0, 0.0, 0
    for g in gradients:
        g = np.asarray(g.flat if isinstance(g, Flat) else g, np.float64).reshape(-1)
        if examples and g.shape != mean.shape:
            raise InputError(
                f"noise_scale: gradient {examples} has {g.size} numbers, expected {mean.size} as those"
                " before it"
            )
        examples += 1
        before = g - mean
        mean = mean + before / examples
        scatter += before @ (g - mean)  # Welford 1962: no difference of large squares
    if examples < 2:
        raise InputError(f"noise_scale: {examples} example, expected at least two: one alone shows no noise")
    trace = float(scatter / (examples - 1))
    squared_norm = float(mean @ mean - trace / examples)
    return NoiseScale(trace / squared_norm if squared_norm > 0 else math.inf, trace, squared_norm, examples)


def empirical_fisher(model, tokens, targets, vector):
    """F̃ v with F̃ = 1/M Σ_m g_m g_mᵀ, the second moment of the M examples' gradients, not centred.

        F̃ v = 1/M Σ_m g_m ⟨g_m, v⟩        g_m = the gradient of row m's own mean loss

    What it is: the noise of the batch gradient (tr F̃ = ⟨|g|²⟩), a preconditioner. What it is not: the Fisher
    matrix, whose targets the model draws, nor an approximation of the Hessian, except where the model
    predicts the data's own distribution (Kunstner, Balles and Hennig 2019). An example is a row of T targets:
    were these drawn by the model, F̃ would be F/T in the mean, because the gradients of different positions
    are then uncorrelated. tokens and targets (..., T). M float64 forwards and backwards.
    """
    v, out, examples = flat_vector("empirical_fisher", model, vector), np.zeros(model.n_params), 0
    for g in per_example_gradients(model, tokens, targets):
        out += g.flat * (g.flat @ v)
        examples += 1
    return as_parameters(model, out / examples)
