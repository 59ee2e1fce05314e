"""At hostile points a right backward is never condemned, and a wrong one never acquitted.

Hostile are: a masked logit beside the others, elements of 1e-8 beside 1e8, rows far from 0, a bend that is
far sharper than the arrays are large, a power between 1 and 2 at 0.
"""

import numpy as np
import pytest

from numgpt import InputError, gradcheck, ops
from numgpt.gradcheck import GradientError, differences, kinks, verdict
from numgpt.gradcheck.witness import choose

X = np.random.default_rng(0).standard_normal((1, 4))
LAWS = set(gradcheck.LIMITS) - {"keeps the dtype"}


def masked(logit):
    x = X.copy()
    x[0, 2] = logit
    return x


def softmax_forward(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return p, p


def softmax_backward(dy, p):
    return p * (dy - (dy * p).sum(-1, keepdims=True))


def logsumexp_forward(x):
    top = x.max(-1, keepdims=True)
    e = np.exp(x - top)
    return (np.log(e.sum(-1, keepdims=True)) + top)[..., 0], e / e.sum(-1, keepdims=True)


def variance_forward(x):
    """Layer norm by np.var, which loses imaginary parts."""
    rstd = (np.var(x, -1, keepdims=True) + 1e-5) ** -0.5
    return (x - x.mean(-1, keepdims=True)) * rstd, ((x - x.mean(-1, keepdims=True)) * rstd, rstd)


def variance_backward(dy, saved):
    xhat, rstd = saved
    return rstd * (dy - dy.mean(-1, keepdims=True) - xhat * (dy * xhat).mean(-1, keepdims=True))


def layernorm_forward(x):
    one = np.ones(x.shape[-1], x.real.dtype)
    return ops.layernorm.forward(x, one, 0 * one)


def of_real(forward):
    """The forward for whoever lets no complex numbers through, as PyTorch does."""
    return lambda x: forward(np.real(x))


def elementwise(f, slope):
    return lambda x: (f(x), x), lambda dy, x: dy * slope(np.real(x))


softsign = elementwise(lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2)


def tanh_of(k):
    return elementwise(lambda x: np.tanh(k * x), lambda x: k / np.cosh(k * x) ** 2)


def power(p):
    return elementwise(lambda x: abs(x) ** p, lambda x: p * np.sign(x) * abs(x) ** (p - 1))


COLUMN = np.array([0.0, 1.0, -2.0])
POINTS = {}  # name → (forward, the right gradient, x)
for logit in (-1e6, -1e9, -1e15, -3.4e38):
    POINTS[f"softmax at {logit:.0e}"] = (softmax_forward, softmax_backward, masked(logit))
    POINTS[f"real softmax at {logit:.0e}"] = (of_real(softmax_forward), softmax_backward, masked(logit))
    POINTS[f"softsign at {logit:.0e}"] = (*softsign, np.array([0.3, logit, -2.0]))
POINTS["logsumexp at -1e30"] = (logsumexp_forward, lambda dy, p: p * dy[..., None], masked(-1e30))
for shift in (1e4, 1e8):
    POINTS[f"layernorm at {shift:.0e}"] = (
        layernorm_forward,
        lambda *a: ops.layernorm.backward(*a)[0],
        X + shift,
    )
    POINTS[f"variance at {shift:.0e}"] = (variance_forward, variance_backward, X + shift)
for size in (1e4, 1e8, 1e12):
    apart = np.array([1 / size, size, -2 / size, 3.0])
    POINTS[f"square at {size:.0e}"] = (*elementwise(lambda x: x * x, lambda x: 2 * x), apart)
    POINTS[f"real square at {size:.0e}"] = (*elementwise(lambda x: abs(x) ** 2, lambda x: 2 * x), apart)
    POINTS[f"cube at {size:.0e}"] = (*elementwise(lambda x: x**3, lambda x: 3 * x * x), apart)
POINTS["exp(-x)"] = (*elementwise(lambda x: np.exp(-x), lambda x: -np.exp(-x)), np.array([0.5, 130, 30]))
for k in (1e6, 1e10, 1e15):
    forward, slope = tanh_of(k)
    POINTS[f"tanh({k:.0e} x) at 0"] = (forward, slope, COLUMN)
    POINTS[f"real tanh({k:.0e} x) at 0"] = (of_real(forward), slope, COLUMN)
for p in (1.01, 1.1, 1.5):
    POINTS[f"|x|^{p} at 0"] = (*power(p), COLUMN)

WRONG = {
    "sign": lambda grad, dy: -grad,
    "zero": lambda grad, dy: 0 * grad,
    "factor": lambda grad, dy: 1.05 * grad,
    "large": lambda grad, dy: np.where(abs(grad) > 1e-3 * abs(grad).max(), 2, 1) * grad,
    "at 0": lambda grad, dy: np.where(grad == 0, 0.5 * dy, grad),
}


def by_verdict(forward, backward, x):
    """The word, "unknown" where elements have no verdict."""
    judged = verdict(forward, backward, x)
    return "unknown" if judged.arguments[0].unknown and not judged.wrong else judged.word


def by_check(forward, backward, x):
    """As by_verdict, of the laws; "rounding" where they say that it explains the residual."""
    try:
        results = gradcheck.check(forward, backward, x, laws=LAWS)
    except GradientError as error:
        assert "no derivative" not in str(error)
        return "rounding" if "rounding explains that much" in str(error) else "wrong"
    return "unknown" if any("other element" in r.detail for r in results) else "right"


def word_of(ask, forward, grad, x, change=lambda grad, dy: grad):
    with np.errstate(all="ignore"):
        try:
            return ask(forward, lambda dy, saved: (change(grad(dy, saved), dy),), x)
        except InputError:
            return "unknown"


@pytest.mark.parametrize("ask", [by_verdict, by_check])
@pytest.mark.parametrize("name", POINTS)
def test_what_is_right_is_not_condemned_and_what_is_wrong_is_not_acquitted(name, ask):
    forward, grad, x = POINTS[name]
    assert word_of(ask, forward, grad, x) in ("right", "rounding", "unknown")
    with np.errstate(all="ignore"):
        right = grad(np.ones_like(forward(x)[0]), forward(x)[1])
    for mistake, change in WRONG.items():
        if not np.array_equal(change(right, 1.0), right):
            word = word_of(ask, forward, grad, x, change)
            assert word in ("wrong", "missing", "unknown"), mistake


@pytest.mark.parametrize("ask", [by_verdict, by_check])
@pytest.mark.parametrize(
    "name", ["softmax at -1e+09", "real softmax at -3e+38", "softsign at -1e+15", "tanh(1e+10 x) at 0"]
)
def test_where_the_witness_can_see_it_a_right_backward_is_right_and_not_unknown(name, ask):
    assert word_of(ask, *POINTS[name]) in ("right", "rounding")


@pytest.mark.parametrize("ask", [by_verdict, by_check])
@pytest.mark.parametrize(
    "name", [name for name in POINTS if name.split()[0] in ("square", "cube", "exp(-x)")]
)
def test_a_wrong_gradient_of_a_small_element_is_seen_beside_large_ones(name, ask):
    def twice_the_small(grad, dy):
        return np.where(abs(grad) < 1e-3 * abs(grad).max(), 2, 1) * grad

    assert word_of(ask, *POINTS[name], twice_the_small) == "wrong"
    if f"real {name}" in POINTS:  # what the others' values hide of it is unknown
        assert word_of(ask, *POINTS[f"real {name}"], twice_the_small) in ("wrong", "unknown")


@pytest.mark.parametrize("outside", [0.04, 1e-6, -1e-6])
def test_at_a_kink_a_gradient_just_outside_of_the_two_sides_is_wrong(outside):
    def backward(dy, x):
        return (dy * np.where(x == 0, 1 + outside, x > 0),)

    judged = verdict(lambda x: (np.maximum(x, 0), x), backward, np.array([0.0, 1.0, -1.0]))
    assert judged["x"].wrong == (((0,),) if outside > 0 else ()), str(judged)


@pytest.mark.parametrize(("function", "is_kink"), [(abs, True), (lambda x: abs(x) ** 1.02, False)])
def test_a_power_above_1_has_a_derivative_at_0_and_an_absolute_value_has_none(function, is_kink):
    witness = choose(lambda x: (function(x), None), [COLUMN], np.float64, {})
    assert (kinks.sides(witness, [COLUMN], 0, 0) is not None) == is_kink


@pytest.mark.parametrize("exponent", range(-14, 14, 4))
def test_central_differences_find_a_function_of_any_width_beside_numbers_of_any_size(exponent):
    x, width = np.array([0.3, -0.2, 1e13]) * [10.0**exponent, 10.0**exponent, 1], 10.0**exponent
    for j in (0, 1):
        slope, error = differences(lambda x: (np.tanh(x / width), None), [x], [np.eye(3)[j]], {})
        exact = np.eye(3)[j] / np.cosh(np.clip(x / width, -99, 99)) ** 2 / width
        assert (abs(slope - exact) <= 2 * error + 4e-16 * abs(exact)).all()
        assert error[j] <= 1e-9 * exact[j]
