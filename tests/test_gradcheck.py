"""The checker rejects what is wrong: a law that nothing can break proves nothing."""

import numpy as np
import pytest

from numgpt import InputError, gradcheck, ops
from numgpt.gradcheck import GradientError

X = np.random.default_rng(1).standard_normal((3, 5))
W = np.random.default_rng(2).standard_normal(5)


def square_forward(x, w):
    return w * x * x, (x, w)


def square_backward(dy, saved):
    x, w = saved
    return 2 * dy * w * x, (dy * x * x).sum(0)


def with_gradient(change):
    """square_backward with its results passed through change."""
    return lambda dy, saved: change(*square_backward(dy, saved))


def test_a_right_pair_passes_with_residuals_at_rounding():
    laws = {f.law: f for f in gradcheck.check(square_forward, square_backward, X, W)}
    assert set(laws) == set(gradcheck.LIMITS)
    assert laws["transpose of the derivative"].residual < 1e-15


@pytest.mark.parametrize(
    "planted",
    [
        lambda dx, dw: (dx * (1 + 1e-9), dw),
        lambda dx, dw: (dx, dw * (1 - 1e-9)),
        lambda dx, dw: (-dx, dw),
        lambda dx, dw: (dx + 1e-9, dw),
        lambda dx, dw: (dx, dw / 3),
        lambda dx, dw: (dx[::-1], dw),
        lambda dx, dw: (dx * 0, dw),
        lambda dx, dw: (dx * np.nan, dw),
    ],
    ids=["dx by 1e-9", "dw by 1e-9", "sign", "shifted", "mean for sum", "reversed", "zero", "NaN"],
)
def test_a_wrong_gradient_is_rejected(planted):
    law = "(transpose of the derivative: residual|no gradient missing: .: its gradient is missing)"
    with pytest.raises(GradientError, match=law):
        gradcheck.check(square_forward, with_gradient(planted), X, W)


@pytest.mark.parametrize(
    ("law", "forward", "backward"),
    [
        ("expected 2", square_forward, lambda dy, saved: square_backward(dy, saved)[:1]),
        ("gradient 1 is None", square_forward, lambda dy, saved: (square_backward(dy, saved)[0], None)),
        ("gradient 0 has shape", square_forward, with_gradient(lambda dx, dw: (dx.sum(0), dw))),
    ],
)
def test_gradients_that_do_not_fit_the_arrays_are_rejected(law, forward, backward):
    with pytest.raises(GradientError, match=law):
        gradcheck.check(forward, backward, X, W)


ASKED = {
    "check": lambda backward, forward=square_forward: gradcheck.check(forward, backward, X, W),
    "verdict": lambda backward, forward=square_forward: gradcheck.verdict(forward, backward, X, W),
    "same": lambda backward, forward=square_forward: gradcheck.same((forward, backward), SQUARE, X, W),
}
SQUARE = (square_forward, square_backward)
by_all = pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)


@by_all
@pytest.mark.parametrize("kind", [complex, np.complex64, int, bool, object, str])
def test_a_gradient_that_is_not_of_real_floats_is_rejected_by_its_dtype(ask, kind):
    message = f"gradient 1 has dtype {np.ones(1).astype(kind).dtype}, expected real floats"
    with pytest.raises(GradientError, match=message):
        ask(with_gradient(lambda dx, dw: (dx, dw.astype(kind))))


@by_all
def test_a_backward_that_writes_to_what_the_forward_saved_is_rejected(ask):
    def forward(x, w):
        y, (x, w) = square_forward(x, w)
        return y, (x.copy(), w)

    def backward(dy, saved):
        grads = square_backward(dy, saved)
        saved[0][...] *= 2
        return grads

    with pytest.raises(GradientError, match="repeatable: the backward gives another gradient each time"):
        ask(backward, forward)


def test_saved_values_that_are_good_for_one_use_have_a_verdict():
    def forward(x, w):
        y, saved = square_forward(x, w)
        return y, [saved]

    judged = gradcheck.verdict(forward, lambda dy, saved: square_backward(dy, saved.pop()), X, W)
    assert judged.word == "right", str(judged)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_points_and_values_that_are_not_finite_are_an_error_in_our_words(number):
    x = np.where(X[1, 2] == X, number, X)
    with pytest.raises(InputError, match="gradcheck: x holds NaN or infinity, expected points"):
        gradcheck.check(*SQUARE, x, W)
    with pytest.raises(InputError, match="gradcheck: the forward's value holds NaN or infinity"):
        gradcheck.check(lambda x, w: (x * w * number, (x, w)), square_backward, X, W)
    slope, error = gradcheck.differences(lambda x: (x * x, None), [x], [np.ones_like(x)], {})
    assert np.isnan(slope[1, 2]) and error[1, 2] == np.inf
    assert not gradcheck.same(SQUARE, SQUARE, x, W).rows[0].difference


def broken_laws(forward, backward, *arrays):
    return {f.law for f in gradcheck.findings(forward, backward, *arrays) if not f.holds}


def test_a_backward_that_is_not_linear_in_dy_is_rejected():
    broken = broken_laws(square_forward, lambda dy, saved: square_backward(np.tanh(dy), saved), X, W)
    assert {"linear in dy", "doubles with dy"} <= broken


def test_a_forward_that_writes_to_its_argument_is_rejected():
    def forward(x, w):
        y = square_forward(x.copy(), w)
        x *= 1.5
        return y

    assert "pure" in broken_laws(forward, square_backward, X, W)


def test_a_backward_that_writes_to_dy_is_rejected():
    def backward(dy, saved):
        grads = square_backward(dy, saved)
        dy *= 0.5
        return grads

    assert "pure" in broken_laws(square_forward, backward, X, W)


def test_a_backward_that_remembers_is_rejected():
    calls = []

    def backward(dy, saved):
        calls.append(1)
        dx, dw = square_backward(dy, saved)
        return dx * (1 + 1e-15 * len(calls)), dw

    assert "repeatable" in broken_laws(square_forward, backward, X, W)


class Layer:
    """sin(x) w, which keeps its input on self, and writes into the same buffers in every call.

    mistake: a factor of dx.
    """

    def __init__(self, mistake=1.0):
        self.mistake, self.buffers = mistake, {}

    def buffer(self, name, array):
        """The array in the buffer of a name."""
        buffer = self.buffers.setdefault((name, array.shape, array.dtype), np.empty_like(array))
        buffer[...] = array
        return buffer

    def forward(self, x, w):
        self.x, self.w = x, w
        return self.buffer("y", np.sin(x) * w), None

    def backward(self, dy, saved):
        dx = self.mistake * dy * np.cos(self.x) * self.w
        return self.buffer("dx", dx), self.buffer("dw", (dy * np.sin(self.x)).sum(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_that_keeps_its_state_on_self_is_judged_by_its_gradient(dtype):
    right, wrong, x, w = Layer(), Layer(1.001), X.astype(dtype), W.astype(dtype)
    assert all(f.holds for f in gradcheck.check(right.forward, right.backward, x, w))
    assert not gradcheck.verdict(right.forward, right.backward, x, w).wrong
    gradcheck.same(right, right, x, w)
    assert gradcheck.TRANSPOSE in broken_laws(wrong.forward, wrong.backward, x, w)
    assert [a.name for a in gradcheck.verdict(wrong.forward, wrong.backward, x, w).wrong] == ["x"]
    with pytest.raises(gradcheck.GradientError, match="the gradient of x differs"):
        gradcheck.same(wrong, right, x, w)


@pytest.mark.parametrize("laws", [{}, {"laws": ("repeatable", "transpose of the derivative")}])
def test_what_is_not_repeatable_or_writes_to_its_arguments_is_told_of_nothing_else(laws):
    rng = np.random.default_rng(0)

    def drawing(x, w):
        return x * (rng.random(x.shape) < 0.5) * w, (x, w)

    found = list(gradcheck.findings(drawing, square_backward, X, W, **laws))
    assert [f.law for f in found if not f.holds] == ["repeatable"]
    assert found[-1].law == "repeatable"
    with pytest.raises(GradientError, match="^repeatable: the forward gives another value each time .*eval"):
        gradcheck.check(drawing, square_backward, X, W, **laws)


def test_what_was_written_to_is_named():
    def forward(x, w, mask=None):
        mask[0] = 0
        return square_forward(x, w)

    def backward(dy, saved):
        grads = square_backward(dy, saved)
        dy *= 0.5
        return grads

    with pytest.raises(
        GradientError, match="^pure: the forward wrote to mask and the backward wrote to dy: "
    ):
        gradcheck.check(forward, backward, X, W, mask=np.ones(3))


def over_float64(x, w):
    """A right pair that closes over a float64 array."""
    y, saved = square_forward(x, w)
    return y * np.full(5, 1.0), saved


def test_laws_choose_what_is_asked():
    with pytest.raises(GradientError, match="keeps the dtype: the value is float64 for float32"):
        gradcheck.check(over_float64, square_backward, X, W)
    laws = set(gradcheck.LIMITS) - {"keeps the dtype"}
    assert {f.law for f in gradcheck.check(over_float64, square_backward, X, W, laws=laws)} == laws
    for law in gradcheck.LIMITS:
        assert [f.law for f in gradcheck.check(square_forward, square_backward, X, W, laws=[law])] == [law]
        assert [f.law for f in gradcheck.check(square_forward, square_backward, X, W, laws=law)] == [law]
    for law, message in (
        ("keeps the type", "there is no law 'keeps the type', expected .*'keeps the dtype'"),
        ([], "empty"),
    ):
        with pytest.raises(InputError, match=message):
            gradcheck.check(square_forward, square_backward, X, W, laws=law)


def test_where_differences_alone_can_stand_for_the_derivative_they_do():
    (only,) = gradcheck.check(
        lambda x: (np.sin(np.real(x)), x), lambda dy, x: (dy * np.cos(x),), X, laws=[gradcheck.TRANSPOSE]
    )
    assert only.law == gradcheck.WITNESS


SMOOTH = {
    "sigmoid": (lambda x: ((1 + np.exp(-x)) ** -1,) * 2, lambda dy, y: (dy * y * (1 - y),)),
    "exp": (lambda x: (np.exp(x),) * 2, lambda dy, y: (dy * y,)),
    "exp of the real part": (lambda x: (np.exp(np.real(x)),) * 2, lambda dy, y: (dy * y,)),
    "a + 1": (lambda x: (x + 1, None), lambda dy, saved: (dy,)),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 1e-8, 1e-12, 1e-30, 1e-300])
def test_a_right_pair_passes_at_inputs_of_any_size_and_a_wrong_one_does_not(name, scale):
    forward, backward = SMOOTH[name]
    gradcheck.check(forward, backward, X * scale)
    with pytest.raises(GradientError):
        gradcheck.check(forward, lambda dy, saved: (1.0001 * backward(dy, saved)[0],), X * scale)


def test_rounding_explains_a_residual_only_where_the_elements_add_up_to_it():
    """Every element is right, but the forward is another function in the directions that are tried."""

    def forward(x):
        moved = (abs(np.asarray(x) - X) > 0).sum() > 1
        return np.where(moved, 2, 1) * x, None

    with pytest.raises(GradientError, match="correct, which does not explain the residual") as error:
        gradcheck.check(forward, lambda dy, saved: (dy,), X)
    assert "rounding explains" not in str(error.value)


def test_a_leak_of_float64_is_rejected():
    def forward(x, w):
        y, saved = square_forward(x, w)
        return y * np.float64(1.0), saved

    assert "keeps the dtype" in broken_laws(forward, square_backward, X, W)


def test_central_differences_reject_what_the_complex_step_cannot_see():
    """A forward whose complex branch agrees with a wrong backward fools the complex step alone."""

    def forward(x, w):
        return (np.sin(x) + w if np.iscomplexobj(x) else np.cos(x) + w), (x,)

    def backward(dy, saved):
        return dy * np.cos(saved[0]), dy.sum(0)

    assert broken_laws(forward, backward, X, W) == {"central differences"}


def test_the_message_names_the_argument_at_fault():
    with pytest.raises(GradientError, match="w: ⟨dy, Jv⟩"):
        gradcheck.check(square_forward, with_gradient(lambda dx, dw: (dx, 2 * dw)), X, W)


def variance_forward(x, w):
    """LayerNorm by np.var, which is real for complex x and wrong as a function of it."""
    c = x - x.mean(-1, keepdims=True)
    r = (np.var(x, -1, keepdims=True) + 1e-5) ** -0.5
    return c * r * w, (c * r, r, w, False)


def test_a_forward_that_does_not_let_complex_numbers_through_is_held_to_differences_and_told_so():
    laws = {
        f.law: f
        for f in gradcheck.check(
            variance_forward, lambda dy, saved: ops.layernorm.backward(dy, saved)[:2], X, W
        )
    }
    assert gradcheck.TRANSPOSE not in laws
    assert "does not let complex numbers through" in laws[gradcheck.WITNESS].detail
    assert laws[gradcheck.WITNESS].limit < 1e-8


@pytest.mark.parametrize("at", [0, 1])
def test_a_wrong_gradient_of_such_a_forward_is_rejected(at):
    """Wrong by 1e-7, or in a way that the complex step takes for right: a variance without a gradient."""

    def slightly(dy, saved):
        grads = list(ops.layernorm.backward(dy, saved)[:2])
        grads[at] = grads[at] * (1 + 1e-7)
        return tuple(grads)

    def constant_variance(dy, saved):
        xhat, rstd, weight, _ = saved
        g = dy * weight
        return rstd * (g - g.mean(-1, keepdims=True)), (dy * xhat).sum(0)

    with pytest.raises(
        GradientError,
        match=f"central differences: residual .* {'xw'[at]}: wrong .* does not let complex numbers through",
    ):
        gradcheck.check(variance_forward, slightly, X, W)
    with pytest.raises(GradientError, match="x: wrong in"):
        gradcheck.check(variance_forward, constant_variance, X, W)


def test_the_message_names_the_elements_and_how_many_ulps_they_are_off():
    def change(dx, dw):
        dx[1, 2] *= 1.5
        return dx, dw

    with pytest.raises(
        GradientError, match=r"x: wrong in 1 of 15 elements .*\[1, 2\] expected .* ulps off"
    ) as error:
        gradcheck.check(square_forward, with_gradient(change), X, W)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_the_message_says_so_where_a_law_is_broken_by_rounding_alone():
    """Far from 0, log Σ exp is rounded before it is used again, so its gradient errs by |x| eps."""

    def forward(x):
        y = np.log(np.exp(x - x.max()).sum()) + x.max()
        return y, (x, y)

    with pytest.raises(
        GradientError, match=r"Element by element all gradients are correct \(they differ by rounding only"
    ):
        gradcheck.check(forward, lambda dy, saved: (np.exp(saved[0] - saved[1]) * dy,), X + 1e6)


@pytest.mark.parametrize("x", [X * 1e-6, X * 1e6, abs(X) * 1e-7 + 1e-9])
def test_a_right_pair_passes_whatever_the_size_of_its_arrays(x):
    def forward(x, w):
        return x * x * w + 1e-6 * x, (x, w)

    gradcheck.check(forward, lambda dy, s: (dy * (2 * s[0] * s[1] + 1e-6), (dy * s[0] * s[0]).sum(0)), x, W)


def test_arrays_without_a_float_are_an_error():
    with pytest.raises(ValueError, match="no array of floats"):
        gradcheck.check(square_forward, square_backward, np.arange(3), np.arange(3))


def test_a_findings_detail_is_made_when_it_is_asked_for_and_once():
    calls = []
    finding = gradcheck.Finding("pure", 1.0, 0.0, lambda: calls.append(1) or "who wrote")
    assert not calls
    assert not finding.holds
    assert [finding.detail, finding.detail, calls] == ["who wrote", "who wrote", [1]]
    assert repr(finding) == "pure: is broken, residual 1.0e+00, at most 0e+00"
