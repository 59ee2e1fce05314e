"""The outermost eigenvalues of a symmetric operator that is known by its products alone."""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..random import generator

# What a product errs by, relative to the operator: below it a vector is rounding, not a direction.
ROUNDING = 1e-13
# Which end of the spectrum: its name here, the order in which it takes the eigenvalues, its name in ARPACK.
ENDS = {
    "largest": (lambda values: -values, "LA"),
    "smallest": (lambda values: values, "SA"),
    "magnitude": (lambda values: -abs(values), "LM"),
}


class Eigenvalues(NamedTuple):
    """values (k), the wanted end first; bounds (k): within each of its value lies an eigenvalue; vectors: the
    k eigenvectors, of norm 1.

    products: how often the operator was applied.
    """

    values: np.ndarray
    bounds: np.ndarray
    vectors: np.ndarray
    products: int


def lanczos(product, n, k=1, *, which="largest", steps=None, tolerance=1e-8, seed=0):
    """The k outermost eigenvalues of a symmetric A, by Lanczos' three-term recurrence with full
    reorthogonalisation.

        β_j q_{j+1} = A q_j − α_j q_j − β_{j−1} q_{j−1}        α_j = ⟨q_j, A q_j⟩,  β_j so that |q_{j+1}| = 1
        A Q = Q T + β_m q_{m+1} e_mᵀ                           Q = (q_1 … q_m), T tridiagonal with α on and β beside the diagonal
        T s = θ s   ⇒   |A y − θ y| = β_m |s_m|  for  y = Q s   because Q has orthonormal columns

    and of a symmetric A an eigenvalue lies within the residual |A y − θ y| of θ: that is the bound. In
    floating point the q_j lose their orthogonality just when a θ converges, and copies of it appear (Paige
    1971); each new one is therefore made orthogonal to all before it, twice, which is enough (Parlett 1980).

    One start finds each eigenvalue once, however often A has it. Where the recurrence ends (β_j = 0: Q spans
    an invariant space), it starts anew from a random vector orthogonal to Q, until such a start changes
    nothing among the k. Where it does not end, an eigenvalue that A has twice is found once.

    product: x (n) → A x (n). which: "largest", "smallest" or "magnitude". tolerance: the bound at which to
    stop, relative to the largest |θ|. steps: the most products, min(n, max(200, 20 k)) unless given; after
    them the values are returned as they are, and their bounds tell. Sets aside a vector for each of steps.
    Source: Lanczos 1950.
    """
    order = _end(which)[0]
    steps = min(n, max(200, 20 * k) if steps is None else steps)
    if not 1 <= k <= steps:
        raise InputError(f"lanczos: k is {k}, expected 1 to {steps}, the number of steps")
    rng = generator(seed, "lanczos")
    Q, alpha, beta, settled = np.empty((steps, n)), [], [], None
    q = _orthogonal(rng.standard_normal(n), Q[:0])
    for m in range(1, steps + 1):
        Q[m - 1] = q / np.linalg.norm(q)
        w = product(Q[m - 1])
        if not np.isfinite(w).all():
            raise InputError(
                "lanczos: the operator's product is not finite, expected finite numbers: look for NaN in the"
                " parameters"
            )
        alpha.append(Q[m - 1] @ w)
        w = _orthogonal(w, Q[:m])
        beta.append(np.linalg.norm(w))
        theta, s = np.linalg.eigh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
        chosen = np.argsort(order(theta), kind="stable")[:k]
        bounds, size = beta[-1] * abs(s[-1, chosen]), abs(theta).max()
        if m == steps:
            break
        if beta[-1] <= ROUNDING * size:
            if (
                settled is not None
                and len(settled) == k
                and (abs(theta[chosen] - settled) <= m * ROUNDING * size).all()
            ):
                break
            settled, beta[-1] = theta[chosen], 0.0
            w = _orthogonal(rng.standard_normal(n), Q[:m])
        elif settled is None and len(chosen) == k and (bounds <= tolerance * size).all():
            break
        q = w
    vectors = s[:, chosen].T @ Q[:m]
    return Eigenvalues(theta[chosen], bounds, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), m)


def arpack(product, n, k=1, *, which="largest", steps=None, tolerance=1e-8, seed=0):
    """What lanczos does, by scipy.sparse.linalg.eigsh: ARPACK's implicitly restarted Lanczos, which holds
    some 2 k vectors.

    steps: the most restarts, 10 n unless given. The bounds are residuals |A y − θ y|, measured with one more
    product each.
    """
    try:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
    except ModuleNotFoundError:
        raise InputError(
            "lanczos: scipy is not installed, expected it for the solver scipy: pip install numgpt[scipy]"
        ) from None
    order, theirs = _end(which)
    if not 1 <= k < n:
        raise InputError(f"lanczos: k is {k}, expected 1 to {n - 1} for the solver scipy")
    products = 0

    def counted(x):
        nonlocal products
        products += 1
        return product(x.reshape(n))

    operator = LinearOperator((n, n), matvec=counted, dtype=np.float64)
    try:
        start = generator(seed, "lanczos").standard_normal(n)
        values, vectors = eigsh(operator, k, which=theirs, v0=start, maxiter=steps, tol=tolerance)
    except ArpackNoConvergence as error:
        found = len(error.eigenvalues)
        raise InputError(
            f"lanczos: {found} of {k} eigenvalues converged in {products} products: give more steps, or a"
            " larger tolerance"
        ) from error
    best = np.argsort(order(values), kind="stable")
    values, vectors = values[best], vectors.T[best]
    bounds = np.array([np.linalg.norm(counted(y) - value * y) for value, y in zip(values, vectors)])
    return Eigenvalues(values, bounds, vectors, products)


SOLVERS = {"lanczos": lanczos, "scipy": arpack}


def _end(which):
    if which not in ENDS:
        raise InputError(f"lanczos: which is {which!r}, expected one of {', '.join(ENDS)}")
    return ENDS[which]


def _orthogonal(w, Q):
    """w without its parts along the rows of Q: twice, because the first pass leaves rounding of the size of
    what it took.
    """
    for _ in range(2):
        w = w - (Q @ w) @ Q
    return w
