"""The witness of a verdict says how far it may be off itself: differences, kinks, and what it cannot tell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError, gradcheck
from numgpt.gradcheck import GradientError, differences, kinks, verdict
from numgpt.gradcheck.witness import choose

both = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
X = np.random.default_rng(3).standard_normal((4, 6))


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    f=st.sampled_from([np.sin, np.exp, np.tanh, np.cbrt, np.arctan]),
)
def test_central_differences_are_no_further_off_than_they_say(seed, scale, f):
    """The step goes with the size of the array, so functions of x/scale are as easy at any scale."""
    x = np.random.default_rng(seed).uniform(0.2, 2, 7) * scale
    exact = {
        np.sin: np.cos,
        np.exp: np.exp,
        np.tanh: lambda t: np.cosh(t) ** -2,
        np.arctan: lambda t: 1 / (1 + t * t),
    }
    exact[np.cbrt] = lambda t: 1 / (3 * np.cbrt(t) ** 2)
    found, error = differences(lambda x: (f(x / scale), None), [x], [np.ones(7)], {})
    expected = exact[f](x / scale) / scale
    assert (abs(found - expected) <= error + 4e-16 * abs(expected)).all()
    assert (error <= 1e-8 * abs(expected).max()).all()


@both
@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-300, 0),
    f=st.sampled_from([np.exp, np.sin, np.tanh, lambda x: x + 1, lambda x: 1 / (1 + np.exp(-x)), np.cos]),
)
def test_central_differences_of_values_far_larger_than_the_arrays_are_no_further_off_than_they_say(
    dtype, seed, exponent, f
):
    """Their steps are lost in the rounding of f where x is small: larger ones are as good as f allows."""
    if dtype == np.float32:
        exponent = exponent % 30 - 30
    x = (np.random.default_rng(seed).uniform(0.2, 2, 7) * 10.0**exponent).astype(dtype).astype(np.float64)
    slope, error = differences(lambda x: (f(x), None), [x], [np.ones(7)], {}, dtype)
    exact = f(x + 1e-30j).imag / 1e-30
    assert (abs(slope - exact) <= 2 * error + 4e-16 * abs(exact)).all()
    most = 3e-3 if dtype == np.float32 else 1e-9
    assert (error <= most * np.maximum(abs(exact), abs(f(x)))).all()


@given(exponent=st.integers(-20, -3), small=st.integers(0, 12))
def test_a_larger_step_is_not_believed_across_the_features_of_a_function(exponent, small):
    """1 + ε tanh(x/s) has slope ε/s near 0; a step far beyond s agrees with itself on a slope of nearly 0."""
    scale, height = 10.0**exponent, 10.0**-small
    x = np.array([0.3, -0.2]) * scale
    slope, error = differences(lambda x: (1 + height * np.tanh(x / scale), None), [x], [np.ones(2)], {})
    exact = height / scale / np.cosh(x / scale) ** 2
    assert (abs(slope - exact) <= 2 * error).all()


def test_central_differences_do_not_know_the_slope_of_a_kink():
    """At the kink they are off by half the jump at most, and say so; beside it smaller steps are taken."""
    x = np.array([0.0, 1e-6, -1.0, 2.0])
    found, error = differences(lambda x: (np.maximum(x, 0), None), [x], [np.ones(4)], {})
    assert error[0] >= 0.5
    assert (error[1:] < 1e-6).all()
    assert np.allclose(found[1:], [1, 0, 1], atol=1e-6)


def relu_forward(x):
    return np.maximum(x, 0), (x,)


def abs_forward(x):
    return abs(x), (x,)


def max_forward(x):
    return x.max(), (x,)


KINKS = {
    "relu": (relu_forward, lambda dy, s: (dy * (s[0] > 0),), lambda dy, s: (dy * (s[0] >= 0),)),
    "relu by a product": (
        lambda x: (x * (x > 0), (x,)),
        lambda dy, s: (dy * (s[0] > 0),),
        lambda dy, s: (dy * np.heaviside(s[0], 0.5).astype(dy.dtype),),
    ),
    "abs": (
        abs_forward,
        lambda dy, s: (dy * np.sign(s[0]),),
        lambda dy, s: (dy * np.where(s[0] < 0, -1, 1).astype(dy.dtype),),
    ),
    "max": (
        max_forward,
        lambda dy, s: (dy * (np.arange(s[0].size) == s[0].argmax()),),
        lambda dy, s: (dy * ((s[0] == s[0].max()) / (s[0] == s[0].max()).sum()).astype(dy.dtype),),
    ),
}
AT_KINKS = {name: np.array([0.0, 1.0, -1.0, 2.0]) for name in KINKS} | {"max": np.array([2.0, 1, -1, 2])}


@both
@pytest.mark.parametrize("convention", [0, 1])
@pytest.mark.parametrize("name", KINKS)
def test_at_a_kink_either_convention_is_not_wrong_and_the_point_is_named(name, convention, dtype):
    forward, *backwards = KINKS[name]
    x, message = AT_KINKS[name], r"no derivative at x\[0\]\S* .*left and right disagree; move the point"
    judged = verdict(forward, backwards[convention], x, dtype=dtype)
    assert not judged.wrong, str(judged)
    with pytest.raises(GradientError, match=message) as error:
        gradcheck.check(forward, backwards[convention], x)
    assert "rounding" not in str(error.value)
    moved = x + np.array([1e-3, 0, 0, 0])
    assert not verdict(forward, backwards[convention], moved, dtype=dtype)["x"].kinks
    gradcheck.check(forward, backwards[convention], moved, laws=set(gradcheck.LIMITS) - {"keeps the dtype"})


@both
@pytest.mark.parametrize("name", KINKS)
@pytest.mark.parametrize("factor", [-1, 2, 0])
def test_at_a_kink_a_gradient_of_neither_side_is_wrong_and_so_are_the_others(name, factor, dtype):
    forward, _, backward = KINKS[name]
    wrong = verdict(forward, lambda dy, s: (dtype(factor) * backward(dy, s)[0],), AT_KINKS[name], dtype=dtype)
    if name == "max" and factor != -1:
        # each of two that tie may have any share
        assert not wrong.wrong
    else:
        assert (3,) in wrong["x"].wrong
    if name in ("relu", "abs") and factor == 2:
        assert (0,) in wrong["x"].wrong


def test_points_all_of_which_are_at_kinks_have_no_verdict():
    with pytest.raises(
        InputError, match=r"no derivative at x\[0\], x\[1\], x\[2\] and 1 more: left and right"
    ):
        verdict(relu_forward, KINKS["relu"][1], np.zeros(4))
    with pytest.raises(GradientError, match=r"no derivative at x\[0\], x\[1\], x\[2\] and 1 more: left and"):
        gradcheck.check(relu_forward, KINKS["relu"][1], np.zeros(4))


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-9, 3))
def test_a_smooth_function_has_no_kink_wherever_it_bends(seed, exponent):
    """A bend as sharp as 1e-9 of the array's size, and a function that loses most digits, are not kinks."""
    x = np.random.default_rng(seed).standard_normal((2, 4))
    x[0, 0] = 0.0
    bend = 10.0**exponent

    def variance(x):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * ((x * x).mean(-1, keepdims=True) - mean * mean + 1e-5) ** -0.5

    for function, at in (
        (lambda x: (x * x + bend * bend) ** 0.5, x),
        (variance, x + 1000),
    ):
        chosen = choose(lambda x, f=function: (f(x), None), [at], np.float64, {})
        assert all(kinks.sides(chosen, [at], 0, j) is None for j in range(at.size))


def test_the_complex_step_is_believed_where_differences_are_noise():
    """A bend far sharper than any step, or values so large that differences drown, prove nothing."""
    for function, x in [
        (lambda x: 1e12 + x, X),
        (lambda x: (x * x + 1e-14) ** 0.5, 1e-7 * X),
        (lambda x: (x - 1e9) * (x + 1e9), X),
    ]:
        assert choose(lambda x, function=function: (function(x), None), [x], np.float64, {}).complex


def test_elements_of_which_the_witness_cannot_tell_the_sign_are_left_out_and_counted():
    slopes = np.array([100.0, 1.0, 1.0])

    def forward(x):
        return abs(x) * slopes + np.array([0.0, 1e12, 0.0]), x

    judged = verdict(forward, lambda dy, x: (dy * slopes * [1, -1, -1],), np.array([1.0, 2.0, 3.0]))
    assert judged["x"].examined == 1
    assert "the witness knows nothing of 2 other elements" in judged["x"].note, str(judged)
