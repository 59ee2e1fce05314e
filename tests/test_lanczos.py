"""Lanczos on matrices whose eigenvalues are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import InputError
from numgpt.calculus.lanczos import SOLVERS, lanczos

# A product with the matrix and each orthogonalisation round to some eps |A|, and n of them add up.
ROUNDING = 1e-13


def with_eigenvalues(values, seed=0):
    """A symmetric matrix with these eigenvalues and a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))
    return basis * values @ basis.T


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    which=st.sampled_from(["largest", "smallest", "magnitude"]),
)
def test_the_outermost_eigenvalues_are_found_within_their_bounds(n, k, seed, which):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A += A.T
    k = min(k, n)
    truth = np.linalg.eigvalsh(A)
    expected = truth[np.argsort({"largest": -truth, "smallest": truth, "magnitude": -abs(truth)}[which])][:k]
    top = lanczos(lambda x: A @ x, n, k, which=which)
    size = abs(truth).max()
    assert (top.bounds <= 1e-8 * size).all()
    assert (abs(top.values - expected) <= top.bounds + ROUNDING * n * size).all()
    for value, bound, y in zip(top.values, top.bounds, top.vectors):
        assert abs(np.linalg.norm(A @ y - value * y) - bound) <= ROUNDING * n * size
    assert abs(top.vectors @ top.vectors.T - np.eye(k)).max() < ROUNDING * n


@pytest.mark.parametrize(
    "values",
    [
        [2, 2, 1],
        [5, 5, 5, 5],
        [0, 0, 0, 0],
        [3, 3, 1, 1, 0, 0, 0],
        [4, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, -7, -7, -7, -7, 0.5],
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_where_the_recurrence_ends_repeated_eigenvalues_are_found_as_often_as_they_are(values, k):
    A = with_eigenvalues(np.array(values, float))
    top = lanczos(lambda x: A @ x, len(values), k)
    assert abs(top.values - sorted(values, reverse=True)[:k]).max() <= ROUNDING * 10


def test_a_matrix_of_low_rank_takes_few_products():
    """Rank 3 in 300 dimensions: four products span what there is, and a second start that it is all."""
    A = with_eigenvalues(np.array([9.0, 5.0, 4.0] + 297 * [0.0]))
    top = lanczos(lambda x: A @ x, 300, 3)
    assert abs(top.values - [9, 5, 4]).max() < ROUNDING * 300
    assert top.products <= 6


def test_vectors_stay_orthogonal_where_one_pass_of_orthogonalisation_loses_them():
    """Twenty eigenvalues, 1/299 apart: with a single pass copies of the first ones appear, then nonsense."""
    values = np.linspace(0, 1, 300)
    A = with_eigenvalues(values)
    top = lanczos(lambda x: A @ x, 300, 20, steps=300, tolerance=1e-14)
    assert abs(top.vectors @ top.vectors.T - np.eye(20)).max() < ROUNDING
    assert abs(top.values - values[:-21:-1]).max() < ROUNDING


def test_where_the_steps_run_out_the_bounds_say_so():
    A = with_eigenvalues(np.linspace(0, 1, 200))
    top = lanczos(lambda x: A @ x, 200, 2, steps=5)
    assert top.products == 5
    assert (top.bounds > 1e-3).any()
    nearest = abs(top.values[:, None] - np.linspace(0, 1, 200)).min(1)
    assert (nearest <= top.bounds).all()


def test_a_start_is_drawn_from_the_seed():
    A = with_eigenvalues(np.linspace(0, 1, 30))
    first, again, other = (lanczos(lambda x: A @ x, 30, 2, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, other.vectors)


def test_scipys_solver_gives_measured_bounds_and_names_what_does_not_converge():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    A = with_eigenvalues(np.linspace(0, 1, 200))
    top = SOLVERS["scipy"](lambda x: A @ x, 200, 2)
    assert (abs(top.values - [1, 1 - 1 / 199]) <= top.bounds + ROUNDING * 200).all()
    with pytest.raises(InputError, match=r"\d of 5 eigenvalues converged in \d+ products: give more steps"):
        SOLVERS["scipy"](lambda x: A @ x, 200, 5, steps=1)
    with pytest.raises(InputError, match="k is 3, expected 1 to 2 for the solver scipy"):
        SOLVERS["scipy"](lambda x: A[:3, :3] @ x, 3, 3)


def test_a_product_that_is_not_finite_is_named():
    with pytest.raises(InputError, match="product is not finite"):
        lanczos(lambda x: x * np.nan, 3)
