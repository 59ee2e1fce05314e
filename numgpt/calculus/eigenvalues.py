"""The outermost eigenvalues of the Hessian or the Gauss-Newton matrix, by their products alone."""

from ..errors import InputError
from .lanczos import SOLVERS
from .products import gauss_newton, hvp
from .vectors import as_parameters

OPERATORS = {"hessian": hvp, "gauss_newton": gauss_newton}


def top_eigenvalues(
    model,
    tokens,
    targets,
    k=1,
    *,
    operator="hessian",
    which="largest",
    solver="lanczos",
    steps=None,
    tolerance=1e-8,
    seed=0,
):
    """The k largest eigenvalues of the Hessian or the Gauss-Newton matrix of the loss, by their products
    alone.

    operator: "hessian" or "gauss_newton", which is the Fisher matrix too. which: "largest", "smallest" (the
    most negative) or "magnitude". solver: "lanczos", numgpt.calculus.lanczos.lanczos, which sets aside a
    vector for each of its steps and may find an eigenvalue that occurs twice once only; or "scipy" for
    ARPACK, which holds some 2 k. steps, tolerance, seed: the solver's. tokens and targets (..., T) →
    numgpt.calculus.lanczos.Eigenvalues, its vectors mappings. A bound larger than tolerance times the largest
    |value| says that the steps ran out.
    """
    for what, value, known in (("operator", operator, OPERATORS), ("solver", solver, SOLVERS)):
        if value not in known:
            raise InputError(f"top_eigenvalues: {what} is {value!r}, expected one of {', '.join(known)}")
    found = SOLVERS[solver](
        lambda x: OPERATORS[operator](model, tokens, targets, x).flat,
        model.n_params,
        k,
        which=which,
        steps=steps,
        tolerance=tolerance,
        seed=seed,
    )
    return found._replace(vectors=tuple(as_parameters(model, y) for y in found.vectors))
