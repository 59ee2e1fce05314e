"""A forward that computes in less precision than its arrays have is judged in that, and not condemned."""

import numpy as np
import pytest

from numgpt import InputError, gradcheck
from numgpt.gradcheck import GradientError, Pair, check, from_jax, from_torch, same, verdict

RNG = np.random.default_rng(3)
X, W = RNG.standard_normal((3, 4)), RNG.standard_normal(4)
both = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def casting(factor=1.0, back=False):
    """sin(x) w in float32, with or without a cast back; factor: of dx, a mistake."""

    def forward(x, w):
        kind = x.dtype if back else np.float32
        x, w = x.astype(np.float32), w.astype(np.float32)
        return (np.sin(x) * w).astype(kind), (x, w)

    def backward(dy, saved):
        x, w = saved
        dx, dw = factor * dy * np.cos(x) * w, (dy * np.sin(x)).sum(0)
        return dx.astype(dy.dtype), dw.astype(dy.dtype)

    return Pair(forward, backward)


def inside(factor=1.0):
    """x + sin(x w), of which the second term alone is computed in float32."""

    def forward(x, w):
        product = (x * w).astype(np.float32)
        return x + np.sin(product).astype(x.dtype), (x, w)

    def backward(dy, saved):
        x, w = saved
        slope = dy * np.cos(x * w)
        return dy + factor * slope * w, (slope * x).sum(0)

    return Pair(forward, backward)


def by_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: numgpt[verify]")
    return from_torch(lambda x, w: torch.sin(x.float() * w.float()).to(x.dtype))


def by_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    return from_jax(lambda x, w: jax.numpy.sin(x.astype("float32") * w.astype("float32")))


RIGHT = {
    "casts": casting,
    "casts and casts back": lambda: casting(back=True),
    "inside": inside,
    "torch": by_torch,
    "jax": by_jax,
}
WRONG = {
    "casts": lambda: casting(1.01),
    "casts and casts back": lambda: casting(1.01, back=True),
    "inside": lambda: inside(1.01),
}


@both
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_pair_that_computes_in_float32_is_right(name, dtype):
    pair, x, w = RIGHT[name](), X.astype(dtype), W.astype(dtype)
    check(*pair, x, w)
    judged = verdict(*pair, x, w)
    assert not judged.wrong, str(judged)


@both
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_pair_that_computes_in_float32_is_wrong_and_the_precision_is_named(name, dtype):
    pair, x, w = WRONG[name](), X.astype(dtype), W.astype(dtype)
    with pytest.raises(GradientError, match="x: wrong in .*computes in float32"):
        check(*pair, x, w)
    judged = verdict(*pair, x, w)
    assert [a.name for a in judged.wrong] == ["x"]
    assert "computes in float32" in str(judged)


@both
def test_half_precision_inside_is_named_and_nothing_is_called_wrong(dtype):
    def forward(x):
        return np.tanh(x.astype(np.float16)).astype(x.dtype), x

    for ask in (check, verdict):
        with pytest.raises(InputError, match="the forward computes in half precision, .*expected float32"):
            ask(forward, lambda dy, x: (dy * (1 - np.tanh(x) ** 2),), X.astype(dtype))


def test_implementations_one_of_which_computes_in_float32_are_the_same_in_float32():
    exact = Pair(
        lambda x, w: (np.sin(x) * w, (x, w)),
        lambda dy, s: (dy * np.cos(s[0]) * s[1], (dy * np.sin(s[0])).sum(0)),
    )
    assert same(casting(back=True), exact, X, W).dtype == np.float32
    assert same(exact, exact, X, W).dtype == np.float64
    with pytest.raises(GradientError, match="the gradient of x differs"):
        same(casting(1.01, back=True), exact, X, W)


def test_what_is_as_precise_as_its_arrays_is_asked_in_float64():
    def forward(x):
        return np.exp(x), np.exp(x)

    def rounded(dy, y):  # a backward that casts is wrong by a rounding of float32
        return ((dy * y).astype(np.float32).astype(np.float64),)

    broken = [f for f in gradcheck.findings(forward, rounded, X) if not f.holds]
    assert gradcheck.TRANSPOSE in {f.law for f in broken}
    for f in (np.exp, lambda x: np.sin(1e4 * x), lambda x: np.sin(1e7 * x), lambda x: x**2 + 1e6):
        assert gradcheck.precision.computes_in_single("test", lambda x, f=f: (f(x), None), [X], {}) == ""
