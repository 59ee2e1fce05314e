"""A gradient an example: their norms, their second moment, and how noisy their mean is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..architecture.parameters import Flat
from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from .vectors import Vector, as_parameters, flat_vector, widened


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def per_example_gradients(
    model: GPT, tokens: ArrayLike, targets: ArrayLike, share: bool = False
) -> Iterator[Flat]:
    """The gradients of the rows of a batch, one at a time: all at once may not fit in memory.

        g_m = ∇ L_m,  L_m = the mean surprise at row m's N_m targets        so that ∇L = Σ_m N_m g_m / N
        share: (N_m/N) g_m, row m's part of the batch's gradient            so that ∇L = Σ_m of them

    Parameters
    ----------
    model : GPT
    tokens, targets : integers (..., T)
        Each row (T) is an example.
    share : bool
        Whether to weigh each gradient by its row's part of the batch.

    Returns
    -------
    iterator of Flat
        One float64 forward and backward each.

    Raises
    ------
    InputError
        Where no target counts; without share also where none does in one row, which then has no mean.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> batch = [[0, 1, 2], [3, 4, 0]], [[1, 2, 3], [4, 0, 1]]
    >>> [g["wte.weight"].shape for g in numgpt.calculus.per_example_gradients(model, *batch)]
    [(5, 4), (5, 4)]
    """
    model = widened("per_example_gradients", model, np.float64)
    tokens = model.check_tokens(tokens)
    targets = model.check_targets(tokens, targets)
    T = tokens.shape[-1]
    rows = list(zip(tokens.reshape(-1, T), targets.reshape(-1, T)))
    counted = [int((row >= 0).sum()) for _, row in rows]
    total = sum(counted)
    if total == 0 or (not share and 0 in counted):
        what = "no target counts" if total == 0 else f"no target counts in row {counted.index(0)}"
        raise InputError(
            f"per_example_gradients: {what}, expected at least one that is not negative: leave out the row,"
            " or ask for share=True"
        )
    return (
        model.loss_and_grads(*row, count=total if share else own)[1].to("reference")
        for row, own in zip(rows, counted)
    )


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def gradient_norms(
    model: GPT, tokens: ArrayLike, targets: ArrayLike, share: bool = False
) -> NDArray[np.float64]:
    """The Euclidean norms of per_example_gradients.  tokens and targets (..., T) → (M) for M rows

    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> numgpt.calculus.gradient_norms(model, [[0, 1], [2, 3]], [[1, 2], [3, 4]]).shape
    (2,)
    """
    return np.array([np.linalg.norm(g.flat) for g in per_example_gradients(model, tokens, targets, share)])


class NoiseScale(NamedTuple):
    """scale = trace / squared_norm, in examples; estimates of tr Σ and |G|²; and from how many examples."""

    scale: float
    trace: float
    squared_norm: float
    examples: int


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def gradient_noise_scale(model: GPT, tokens: ArrayLike, targets: ArrayLike) -> NoiseScale:
    """The noise scale of a batch's per-example gradients, each of its row's own mean loss.

    All rows count alike, whatever the number of their targets.

    Parameters
    ----------
    model : GPT
    tokens, targets : integers (..., T)
        At least two rows; one float64 forward and backward a row.

    Returns
    -------
    NoiseScale

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> numgpt.calculus.gradient_noise_scale(model, [[0, 1], [2, 3]], [[1, 2], [3, 4]]).examples
    2
    """
    return noise_scale(per_example_gradients(model, tokens, targets))


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def noise_scale(gradients: Iterable[Flat | ArrayLike]) -> NoiseScale:
    """The simple noise scale: the batch size at which the gradient's noise is as large as the gradient.

        B = tr Σ / |G|²        G = E[g], Σ = E[(g − G)(g − G)ᵀ]

    Estimated without bias from g_1 … g_M with mean ḡ:

        tr Σ ≈ Σ_m |g_m − ḡ|² / (M − 1)
        |G|² ≈ |ḡ|² − (tr Σ)/M                because E|ḡ|² = |G|² + tr Σ / M

    which is McCandlish et al. 2018, appendix A, for a small batch of 1 and a large one of M. Their ratio is
    biased, and where noise prevails the second may come out negative. Then the scale is infinite, which says
    to take more examples.

    Parameters
    ----------
    gradients : iterable of arrays
        Or of gradients as per_example_gradients yields them; each is looked at once.

    Returns
    -------
    NoiseScale

    Raises
    ------
    InputError
        For fewer than two gradients, and for gradients of different sizes or that are not finite.

    Examples
    --------
    >>> noise_scale([[1.0, 2.0], [3.0, 2.0]])
    NoiseScale(scale=0.2857142857142857, trace=2.0, squared_norm=7.0, examples=2)
    """
    mean = np.zeros(0)
    scatter = 0.0
    examples = 0
    for gradient in gradients:
        g = np.asarray(gradient.flat if isinstance(gradient, Flat) else gradient)
        if g.dtype.kind == "c" or not np.isfinite(g).all():
            what = "complex" if g.dtype.kind == "c" else "not finite"
            raise InputError(f"noise_scale: gradient {examples} is {what}, expected finite real numbers")
        g = g.astype(np.float64, copy=False).reshape(-1)
        if examples == 0:
            mean = np.zeros(g.shape)
        if g.shape != mean.shape:
            raise InputError(
                f"noise_scale: gradient {examples} has {g.size} numbers, expected {mean.size} as those"
                " before it"
            )
        examples += 1
        before = g - mean
        mean = mean + before / examples
        scatter += float(before @ (g - mean))  # Welford 1962: no difference of large squares
    if examples < 2:
        raise InputError(f"noise_scale: {examples} example, expected at least two: one alone shows no noise")
    trace = scatter / (examples - 1)
    squared_norm = float(mean @ mean - trace / examples)
    scale = trace / squared_norm if squared_norm > 0 else math.inf
    return NoiseScale(scale, trace, squared_norm, examples)


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def empirical_fisher(model: GPT, tokens: ArrayLike, targets: ArrayLike, vector: Vector) -> Flat:
    """F̃ v with F̃ = 1/M Σ_m g_m g_mᵀ, the second moment of the M examples' gradients, not centred.

        F̃ v = 1/M Σ_m g_m ⟨g_m, v⟩        g_m = the gradient of row m's own mean loss

    What it is: the noise of the batch gradient (tr F̃ = ⟨|g|²⟩), a preconditioner. What it is not: the Fisher
    matrix, whose targets the model draws, nor an approximation of the Hessian, except where the model
    predicts the data's own distribution (Kunstner, Balles and Hennig 2019). An example is a row of T targets:
    if the model drew them, F̃ would be F/T in the mean, because the gradients of different positions are then
    uncorrelated.

    Parameters
    ----------
    model : GPT
    tokens, targets : integers (..., T)
        M rows: M float64 forwards and backwards.
    vector : mapping of name -> array, or array (n_params,)

    Returns
    -------
    Flat

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> v = model.params.like()
    >>> v["wte.weight"] += 1
    >>> numgpt.calculus.empirical_fisher(model, [[0, 1], [2, 3]], [[1, 2], [3, 4]], v).dtype
    dtype('float64')
    """
    v = flat_vector("empirical_fisher", model, vector)
    total = np.zeros(model.params.flat.size)
    examples = 0
    for g in per_example_gradients(model, tokens, targets):
        total += g.flat * (g.flat @ v)
        examples += 1
    return as_parameters(model, total / examples)
