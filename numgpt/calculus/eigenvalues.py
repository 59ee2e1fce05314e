"""The outermost eigenvalues of the Hessian or the Gauss-Newton matrix, by their products alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..architecture.parameters import Flat
from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from .lanczos import SOLVERS, Array, Eigenvalues
from .products import gauss_newton, hvp
from .vectors import as_parameters

OPERATORS = {"hessian": hvp, "gauss_newton": gauss_newton}


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def top_eigenvalues(
    model: GPT,
    tokens: ArrayLike,
    targets: ArrayLike,
    k: int = 1,
    *,
    operator: str = "hessian",
    which: str = "largest",
    solver: str = "lanczos",
    steps: int | None = None,
    tolerance: float = 1e-8,
    seed: int = 0,
) -> Eigenvalues[tuple[Flat, ...]]:
    """The k outermost eigenvalues of the Hessian or the Gauss-Newton matrix of the loss.

    Parameters
    ----------
    model : GPT
    tokens, targets : integers (..., T)
        A negative target does not count.
    k : int
    operator : "hessian" or "gauss_newton"
        The Gauss-Newton matrix is the Fisher matrix too.
    which : "largest", "smallest" or "magnitude"
        "smallest" means the most negative.
    solver : "lanczos" or "scipy"
        numgpt.calculus.lanczos.lanczos holds a vector for each of its steps, and may find an eigenvalue that
        occurs twice only once. "scipy" is ARPACK, which holds some 2 k vectors.
    steps : int, optional
        The most steps that the solver takes.
    tolerance : float
        The bound at which to stop, relative to the largest |value|.
    seed : int
        Draws the first vector.

    Returns
    -------
    numgpt.calculus.lanczos.Eigenvalues
        Its vectors are mappings name -> array. A bound larger than tolerance times the largest |value| says
        that the steps ran out.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> top = numgpt.calculus.top_eigenvalues(model, [[0, 1, 2]], [[1, 2, 3]], k=2)
    >>> bool(top.values[0] >= top.values[1] > 0), top.vectors[0]["wte.weight"].shape
    (True, (5, 4))
    """
    for what, value, names in (("operator", operator, OPERATORS), ("solver", solver, SOLVERS)):
        if value not in names:
            raise InputError(f"top_eigenvalues: {what} is {value!r}, expected one of {', '.join(names)}")

    def product(x: Array) -> Array:
        return OPERATORS[operator](model, tokens, targets, x).flat

    top = SOLVERS[solver](
        product, model.params.flat.size, k, which=which, steps=steps, tolerance=tolerance, seed=seed
    )
    vectors = tuple(as_parameters(model, y) for y in top.vectors)
    return Eigenvalues(top.values, top.bounds, vectors, top.products)
