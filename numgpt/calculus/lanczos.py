"""The outermost eigenvalues of a symmetric operator that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..random import generator

Array = NDArray[np.float64]
Product = Callable[[Array], Array]
Vectors = TypeVar("Vectors")

# What a product errs by, relative to the operator: below it a vector is rounding, not a direction.
ROUNDING = 1e-13
# Which end of the spectrum: its name here, the order in which it takes the eigenvalues, its name in ARPACK.
ENDS: dict[str, tuple[Callable[[Array], Array], str]] = {
    "largest": (lambda values: -values, "LA"),
    "smallest": (lambda values: values, "SA"),
    "magnitude": (lambda values: -abs(values), "LM"),
}


class Eigenvalues(NamedTuple, Generic[Vectors]):
    """Eigenvalues of a symmetric operator, the wanted end first.

    values (k), and bounds (k): within each of its value lies an eigenvalue. vectors: the k eigenvectors, of
    norm 1. products: how often the operator was applied.
    """

    values: Array
    bounds: Array
    vectors: Vectors
    products: int


def lanczos(
    product: Product,
    n: int,
    k: int = 1,
    *,
    which: str = "largest",
    steps: int | None = None,
    tolerance: float = 1e-8,
    seed: int = 0,
) -> Eigenvalues[Array]:
    """The k outermost eigenvalues of a symmetric A, by Lanczos with full reorthogonalisation.

        β_j q_{j+1} = A q_j − α_j q_j − β_{j−1} q_{j−1}        α_j = ⟨q_j, A q_j⟩,  β_j so that |q_{j+1}| = 1
        A Q = Q T + β_m q_{m+1} e_mᵀ                           Q = (q_1 … q_m), T tridiagonal of α and β
        T s = θ s   ⇒   |A y − θ y| = β_m |s_m|  for  y = Q s   because Q has orthonormal columns

    An eigenvalue of a symmetric A lies within the residual |A y − θ y| of θ: that is the bound. In floating
    point the q_j lose their orthogonality just when a θ converges, and copies of it appear (Paige 1971). So
    each new one is made orthogonal to all before it, twice, which is enough (Parlett 1980).

    One start finds each eigenvalue once, however often A has it. Where the recurrence ends (β_j = 0: Q spans
    an invariant space), it starts anew from a random vector orthogonal to Q, until such a start changes
    nothing among the k. Where it does not end, an eigenvalue that A has twice is found once.

    Source: Lanczos 1950.

    Parameters
    ----------
    product : function
        x (n) → A x (n).
    n, k : int
    which : "largest", "smallest" or "magnitude"
    steps : int, optional
        The most products, min(n, max(200, 20 k)) unless given; there is a vector of memory for each. After
        them the values are returned as they are, and their bounds tell.
    tolerance : float
        The bound at which to stop, relative to the largest |θ|.
    seed : int
        Draws the first vector.

    Returns
    -------
    Eigenvalues
        Its vectors are an array (k, n).

    Examples
    --------
    >>> import numpy as np
    >>> A = np.diag([1.0, 5.0, 3.0])
    >>> lanczos(lambda x: A @ x, 3, k=2).values.round(9).tolist()
    [5.0, 3.0]
    """
    order = _end(which)[0]
    steps = min(n, max(200, 20 * k) if steps is None else steps)
    if not 1 <= k <= steps:
        raise InputError(f"lanczos: k is {k}, expected 1 to {steps}, the number of steps")
    rng = generator(seed, "lanczos")
    Q = np.empty((steps, n))
    alpha: list[float] = []
    beta: list[float] = []
    settled: Array | None = None  # the k values when the recurrence last ended
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
        beta.append(float(np.linalg.norm(w)))
        theta, s = _ritz(alpha, beta[:-1])
        chosen = np.argsort(order(theta), kind="stable")[:k]
        bounds = beta[-1] * abs(s[-1, chosen])
        size = abs(theta).max()
        if m == steps:
            break
        if beta[-1] <= ROUNDING * size:  # the recurrence ended: Q spans an invariant space
            if settled is not None and _are_equal(theta[chosen], settled, m * ROUNDING * size):
                break
            settled = theta[chosen]
            beta[-1] = 0.0
            w = _orthogonal(rng.standard_normal(n), Q[:m])
        elif settled is None and len(chosen) == k and (bounds <= tolerance * size).all():
            break
        q = w
    vectors = s[:, chosen].T @ Q[:m]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Eigenvalues(theta[chosen], bounds, vectors, m)


def _ritz(alpha: list[float], beta: list[float]) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of T, with α on its diagonal and β beside it."""
    theta, s = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    return theta, s


def _are_equal(values: Array, settled: Array, within: float) -> bool:
    return len(values) == len(settled) and bool((abs(values - settled) <= within).all())


def arpack(
    product: Product,
    n: int,
    k: int = 1,
    *,
    which: str = "largest",
    steps: int | None = None,
    tolerance: float = 1e-8,
    seed: int = 0,
) -> Eigenvalues[Array]:
    """As lanczos, by scipy.sparse.linalg.eigsh: ARPACK, which restarts and holds only some 2 k vectors.

    steps: the most restarts, 10 n unless given. The bounds are residuals |A y − θ y|, measured with one more
    product each.
    """
    try:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
    except ModuleNotFoundError:
        raise InputError(
            "lanczos: scipy is not installed, expected it for the solver scipy: pip install numgpt[scipy]"
        ) from None
    order, their_name = _end(which)
    if not 1 <= k < n:
        raise InputError(f"lanczos: k is {k}, expected 1 to {n - 1} for the solver scipy")
    products = 0

    def counted(x: Array) -> Array:
        nonlocal products
        products += 1
        return product(x.reshape(n))

    operator = LinearOperator((n, n), matvec=counted, dtype=np.float64)
    start = generator(seed, "lanczos").standard_normal(n)
    try:
        values, rows = eigsh(operator, k, which=their_name, v0=start, maxiter=steps, tol=tolerance)
    except ArpackNoConvergence as error:
        converged = len(error.eigenvalues)
        raise InputError(
            f"lanczos: {converged} of {k} eigenvalues converged in {products} products: give more steps, or a"
            " larger tolerance"
        ) from error
    best = np.argsort(order(values), kind="stable")
    values, vectors = values[best], rows.T[best]
    bounds = np.array([np.linalg.norm(counted(y) - value * y) for value, y in zip(values, vectors)])
    return Eigenvalues(values, bounds, vectors, products)


SOLVERS: dict[str, Callable[..., Eigenvalues[Array]]] = {"lanczos": lanczos, "scipy": arpack}


def _end(which: str) -> tuple[Callable[[Array], Array], str]:
    if which not in ENDS:
        raise InputError(f"lanczos: which is {which!r}, expected one of {', '.join(ENDS)}")
    return ENDS[which]


def _orthogonal(w: Array, Q: Array) -> Array:
    """w without its parts along the rows of Q: twice, because the first pass leaves rounding behind."""
    for _ in range(2):
        w = w - (Q @ w) @ Q
    return w
