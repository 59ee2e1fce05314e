"""A verdict tells rounding from a mistake, in float32 and float64: "wrong", and where, only of what is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shares import drawn

from numgpt import gradcheck, ops
from numgpt.gradcheck import GradientError, verdict
from numgpt.proofs.subjects import op_subjects

both = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
RNG = np.random.default_rng(3)
X, W = RNG.standard_normal((4, 6)), RNG.standard_normal(6)


def scaled_square_forward(x, w):
    return w * x * x, (x, w)


def scaled_square_backward(dy, saved):
    x, w = saved
    return 2 * dy * w * x, (dy * x * x).sum(0)


def matmul_forward(x, w):
    return x @ w, (x, w)


def matmul_backward(dy, saved):
    x, w = saved
    return dy @ w.T, x.T @ dy


def logsumexp_forward(x):
    top = x.max(-1, keepdims=True)
    y = np.log(np.exp(x - top).sum(-1, keepdims=True)) + top
    return y[..., 0], (x, y)


def logsumexp_backward(dy, saved):
    x, y = saved
    return (np.exp(x - y) * dy[..., None],)


def softmax_forward(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return p, (p,)


def softmax_backward(dy, saved):
    (p,) = saved
    return (p * (dy - (dy * p).sum(-1, keepdims=True)),)


def scale_forward(x, w):
    return x * w, (x, w)


def scale_backward(dy, saved):
    """Adds the terms one after another, in the precision of x."""
    x, w = saved
    return dy * w, np.cumsum(dy * x)[-1].reshape(())


RIGHT = {
    "square": (scaled_square_forward, scaled_square_backward, X, W),
    "matmul": (matmul_forward, matmul_backward, X, RNG.standard_normal((6, 3))),
    "logsumexp": (logsumexp_forward, logsumexp_backward, X),
    "logsumexp at 1e4": (logsumexp_forward, logsumexp_backward, X + 1e4),
    "softmax": (softmax_forward, softmax_backward, X),
    "softmax at 1e3": (softmax_forward, softmax_backward, X + 1e3),
    "layernorm": (ops.layernorm.forward, ops.layernorm.backward, X, W, W[::-1]),
    "layernorm at 100": (ops.layernorm.forward, ops.layernorm.backward, X + 100, W, W[::-1]),
    "gelu": (ops.gelu.forward, ops.gelu.backward, np.linspace(-9, 9, 41)),
}


@both
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_backward_is_never_wrong(name, dtype):
    judged = verdict(*RIGHT[name], dtype=dtype)
    assert judged.word in ("right", "rounding"), str(judged)
    assert judged.dtype == dtype
    assert judged.witness.complex


@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
@drawn(few=15, data=st.data())
def test_the_ops_are_not_wrong_in_float32(op, data):
    """On sizes and values that are drawn: a limit that is too tight would fail here."""
    letters = sorted({c for c in op.line if c.isupper()})
    sizes = {c: data.draw(st.integers(1, 4), label=c) for c in letters}
    subject = next(
        iter(
            op_subjects(
                op,
                data.draw(st.integers(0, 2**32 - 1), label="seed"),
                sizes,
                data.draw(st.sampled_from([(), (2,)]), label="lead"),
            )
        )
    )
    judged = verdict(op.forward, op.backward, *subject.arrays, dtype=np.float32, **subject.options)
    assert not judged.wrong, str(judged)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_float32_sum_is_rounding_although_its_relative_error_is_large(seed):
    """100,000 terms nearly cancel: the sum is off by more than allclose grants, yet nothing is wrong."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(100_000).astype(np.float32)
    judged = verdict(scale_forward, scale_backward, x, np.float32(0.7), seed=seed)
    assert judged["w"].word == "rounding"
    assert judged["x"].word == "right"
    assert 0.01 < judged["w"].ulps < judged["w"].limit
    assert judged["x"].examined < x.size
    assert "random directions" in judged["x"].note


def test_what_is_exact_is_right_and_what_is_rounded_is_rounding():
    """Both words are in use: a power of two times x has nothing to round, a sum of terms that cancel has."""
    exact = verdict(lambda x: (2 * x, None), lambda dy, saved: (2 * dy,), X, dtype=np.float32)
    assert exact.word == "right"
    assert exact["x"].ulps == 0
    cancelling = np.array([[1.0, 1e4, -1e4, 3e-4]])
    judged = verdict(
        matmul_forward,
        matmul_backward,
        np.repeat(cancelling, 300, 0),
        RNG.standard_normal((4, 1)),
        dtype=np.float32,
    )
    assert judged.word == "rounding"


def planted(change, backward=scaled_square_backward):
    """A backward whose results pass through change."""
    return lambda dy, saved: change(*backward(dy, saved))


def at_one(array, index, factor):
    array = array.copy()
    array[index] *= array.dtype.type(factor)
    return array


MISTAKES = {
    "sign": (lambda dx, dw: (-dx, dw), 0, 24, "sign is flipped"),
    "factor": (lambda dx, dw: (2 * dx, dw), 0, 24, "all of them ×2"),
    "half": (lambda dx, dw: (dx / 2, dw), 0, 24, "all of them ×1/2"),
    "mean for sum": (lambda dx, dw: (dx, dw / 4), 1, 6, "×1/4 (4 is the length of an axis"),
    "zero": (lambda dx, dw: (dx, 0 * dw), 1, 6, "they are zero"),
    "NaN": (lambda dx, dw: (dx, np.nan * dw), 1, 6, "NaN"),
    "one row": (lambda dx, dw: (at_one(dx, 2, 1.01), dw), 0, 6, "×1.01"),
    "shifted": (lambda dx, dw: (dx, dw + dw.dtype.type(0.125)), 1, 6, "all of them +0.125"),
    "reversed": (lambda dx, dw: (dx, dw[::-1]), 1, 6, "axis 0 is reversed"),
}


@both
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_wrong_with_its_argument_its_elements_and_its_kind(mistake, dtype):
    change, at, count, kind = MISTAKES[mistake]
    judged = verdict(scaled_square_forward, planted(change), X, W, dtype=dtype)
    assert [a.index for a in judged.wrong] == [at], str(judged)
    assert len(judged[at].wrong) == count
    assert kind in str(judged)
    assert judged["xw"[at]] is judged[at]


@both
@given(
    index=st.tuples(st.integers(0, 3), st.integers(0, 5)),
    argument=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_wrong_element_is_named(dtype, index, argument, seed):
    """Off by 1e-3 of its terms in float32, by 1e-9 in float64.

    That is more than a hundred times what rounding explains in a few products.
    """
    index = index[argument:]
    error = 1e-3 if dtype == np.float32 else 1e-9

    def backward(dy, saved):
        x, w = saved
        grads = scaled_square_backward(dy, saved)
        terms = (abs(2 * dy * w * x), abs(dy * x * x).sum(0))[argument]
        grads[argument][index] += grads[argument].dtype.type(error) * terms[index]
        return grads

    rng = np.random.default_rng(seed)
    judged = verdict(
        scaled_square_forward,
        backward,
        rng.uniform(0.5, 2, (4, 6)),
        rng.uniform(1, 2, 6),
        dtype=dtype,
        seed=seed,
    )
    assert [(a.index, a.wrong) for a in judged.wrong] == [(argument, (index,))], str(judged)
    (element,) = judged[argument].worst
    assert element.index == index
    assert element.ulps > 100


def test_a_transposed_gradient_is_called_that():
    square = RNG.standard_normal((5, 5))
    judged = verdict(
        matmul_forward,
        planted(lambda dx, dw: (dx, dw.T), matmul_backward),
        X[:, :5],
        square,
        dtype=np.float32,
    )
    assert [a.name for a in judged.wrong] == ["w"]
    assert judged["w"].pattern == "it is transposed"


@both
def test_a_missing_term_is_wrong(dtype):
    """LayerNorm whose variance is taken for a constant: the bias and the weight are right, x is not."""

    def backward(dy, saved):
        _dx, dweight, dbias = ops.layernorm.backward(dy, saved)
        _xhat, rstd, weight, _ = saved
        g = dy * weight
        return rstd * (g - g.mean(-1, keepdims=True)), dweight, dbias

    judged = verdict(ops.layernorm.forward, backward, X, W, W, dtype=dtype)
    assert [a.name for a in judged.wrong] == ["x"]


def test_one_wrong_element_among_a_hundred_thousand_is_found_by_halving():
    """It is not in the sample: a random direction feels it in float64, where rounding is 1e-16."""

    def backward(dy, saved):
        dx, dw = scale_backward(dy, saved)
        return at_one(dx, 77_777, 1.001), dw

    judged = verdict(
        scale_forward, backward, RNG.standard_normal(100_000).astype(np.float32), np.float32(0.7)
    )
    assert judged["x"].wrong == ((77_777,),)
    assert "halving" in judged["x"].note


def test_an_error_that_float32_could_hide_is_seen_in_float64():
    """dw is off by 2e-5 of its terms, a tenth of what sums of 100,000 float32 may err by."""

    def backward(dy, saved):
        x, _w = saved
        dx, dw = scale_backward(dy, saved)
        return dx, dw + dw.dtype.type(2e-5) * abs(dy * x).sum()

    x = RNG.standard_normal(100_000).astype(np.float32)
    judged = verdict(scale_forward, backward, x, np.float32(0.7))
    assert [a.name for a in judged.wrong] == ["w"]
    assert "float64 shows it" in judged["w"].note


def test_a_formula_that_is_right_and_loses_digits_is_rounding_and_says_so():
    """The variance as ⟨x²⟩ − ⟨x⟩², far from 0: float32 loses what the two have in common."""

    def forward(x):
        mean = x.mean(-1, keepdims=True)
        rstd = ((x * x).mean(-1, keepdims=True) - mean * mean + 1e-5) ** -0.5
        return (x - mean) * rstd, ((x - mean) * rstd, rstd)

    def backward(dy, saved):
        xhat, rstd = saved
        return (rstd * (dy - dy.mean(-1, keepdims=True) - xhat * (dy * xhat).mean(-1, keepdims=True)),)

    x = np.random.default_rng(0).standard_normal((3, 16)) + 1000
    judged = verdict(forward, backward, x, dtype=np.float32)
    assert judged.word == "rounding"
    assert "loses" in judged["x"].note
    assert judged["x"].ulps > judged["x"].limit
    halved = verdict(forward, planted(lambda dx: (dx / 2,), backward), x, dtype=np.float32)
    assert halved.word == "wrong"


def test_a_float32_path_of_its_own_is_wrong_and_the_note_says_that_float64_is_right():
    def backward(dy, saved):
        dx, dw = scaled_square_backward(dy, saved)
        return (dx * np.float32(1.01) if dx.dtype == np.float32 else dx), dw

    judged = verdict(scaled_square_forward, backward, X, W, dtype=np.float32)
    assert [a.name for a in judged.wrong] == ["x"]
    assert "right in float64" in judged["x"].note
    assert verdict(scaled_square_forward, backward, X, W).word != "wrong"


def drawing_forward(factor, in_backward=False):
    """Dropout whose mask is drawn anew in each call, and its gradient times a factor."""
    rng = np.random.default_rng(9)

    def forward(x):
        keep = np.ones_like(x) if in_backward else (rng.random(x.shape) < 0.7).astype(x.dtype)
        return x * keep, keep

    def backward(dy, keep):
        drawn = rng.choice([-1, 1], keep.shape).astype(keep.dtype) if in_backward else keep
        return (dy.dtype.type(factor) * dy * drawn,)

    return forward, backward


@both
@pytest.mark.parametrize("factor", [1, -1, 0])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4)], ids=str)
def test_a_pair_that_draws_at_random_has_no_verdict(factor, shape, dtype):
    """Neither right nor wrong: what its gradient is compared with is another function each time."""
    with pytest.raises(GradientError, match="repeatable: the forward gives another value each time"):
        verdict(*drawing_forward(factor), np.full(shape, 0.8), dtype=dtype)


@both
def test_a_backward_that_draws_at_random_has_no_verdict(dtype):
    rng = np.random.default_rng(9)

    def backward(dy, saved):
        dx, dw = scaled_square_backward(dy, saved)
        return dx * (1 + 1e-3 * rng.standard_normal(dx.shape)).astype(dx.dtype), dw

    message = r"repeatable: the backward gives another gradient each time for x \(\d+ of 24 elements\)"
    with pytest.raises(GradientError, match=message):
        verdict(scaled_square_forward, backward, X, W, dtype=dtype)
    with pytest.raises(GradientError, match="repeatable: the backward"):
        verdict(*drawing_forward(1, in_backward=True), X, dtype=dtype)


@both
def test_a_pair_that_writes_to_its_arguments_has_no_verdict(dtype):
    def forward(x, w):
        y = scaled_square_forward(x.copy(), w.copy())
        w *= 2
        return y

    def backward(dy, saved):
        grads = scaled_square_backward(dy, saved)
        dy *= 2
        return grads

    with pytest.raises(GradientError, match="pure: the forward wrote to w: "):
        verdict(forward, scaled_square_backward, X, W, dtype=dtype)
    with pytest.raises(GradientError, match="pure: the backward wrote to dy: "):
        verdict(scaled_square_forward, backward, X, W, dtype=dtype)


@both
def test_a_gradient_that_is_zero_by_cancellation_is_not_wrong(dtype):
    """A softmax sums to 1: any program's gradient of that is rounding, off by infinite relative errors."""

    def forward(x):
        p, saved = softmax_forward(x)
        return p.sum(-1), saved

    def backward(dy, saved):
        return softmax_backward(np.broadcast_to(dy[..., None], saved[0].shape), saved)

    assert not verdict(forward, backward, X, dtype=dtype).wrong
    judged = verdict(forward, planted(lambda dx: (dx + dx.dtype.type(1e-5),), backward), X, dtype=dtype)
    assert judged.word == "wrong"


@both
def test_a_scalar_loss_whose_terms_cancel_before_they_are_seen_is_not_wrong(dtype):
    """y is one number, so each gradient is one term: what was added inside is measured at points near by."""

    def forward(x, w):
        h = x @ w
        return (h * h).mean(), (x, w, h)

    def backward(dy, saved):
        x, w, h = saved
        dh = h * (2 / h.size) * dy
        return dh @ w.T, x.T @ dh

    x, w = np.random.default_rng(0).standard_normal((300, 5)), RNG.standard_normal((5, 3))
    assert not verdict(forward, backward, x, w, dtype=dtype).wrong
    judged = verdict(
        forward, planted(lambda dx, dw: (dx, at_one(dw, (1, 2), 1.001)), backward), x, w, dtype=dtype
    )
    assert [a.wrong for a in judged.wrong] == [((1, 2),)]


LOSSY = {
    "raises": lambda x: np.sin(x) if x.dtype.kind == "f" else np.sin(x.item(0, 0, 0)),
    "real": lambda x: np.sin(np.real(x)),
    "half lost": lambda x: (
        np.sin(x) + 0 * x if x.dtype.kind == "f" else np.concatenate([np.sin(x[:2]), np.sin(x[2:].real) + 0j])
    ),
    "dropped inside": lambda x: np.sin(x.real) + 0 * x,
}


@both
@pytest.mark.parametrize("loss", LOSSY)
def test_a_forward_that_loses_imaginary_parts_is_held_to_differences(loss, dtype):
    """Its complex step would say that the derivative is 0, and a backward of zeros would be right."""

    def forward(x):
        return LOSSY[loss](x), (x,)

    judged = verdict(forward, lambda dy, saved: (dy * np.cos(saved[0]),), X, dtype=dtype)
    assert not judged.witness.complex
    assert judged.witness.why
    assert not judged.wrong
    assert "central differences" in str(judged)
    assert judged.known < 1e-9
    zero = verdict(forward, lambda dy, saved: (0 * dy,), X, dtype=dtype)
    assert zero["x"].pattern == "they are zero: none of its 24 elements reached"
    for error in (1e-3,) if dtype == np.float32 else (1e-3, 1e-7):
        factor = dtype(1 + error)
        wrong = verdict(forward, lambda dy, saved, f=factor: (dy * np.cos(saved[0]) * f,), X, dtype=dtype)
        assert wrong.word == "wrong"


def only_float32_forward(x, w):
    if x.dtype != np.float32:
        raise TypeError("compiled for float32")
    return np.tanh(x @ w), (x, w)


def only_float32_backward(dy, saved):
    x, w = saved
    d = dy * (1 - np.tanh(x @ w) ** 2)
    return d @ w.T, x.T @ d


def test_code_for_float32_alone_is_judged_by_float32_differences():
    x, w = X.astype(np.float32), RNG.standard_normal((6, 3)).astype(np.float32)
    judged = verdict(only_float32_forward, only_float32_backward, x, w)
    assert not judged.wrong
    assert judged.witness.dtype == np.float32
    assert 1e-7 < judged.known < 1e-2
    wrong = planted(lambda dx, dw: (dx, at_one(dw, (2, 1), 1.05)), only_float32_backward)
    assert [a.wrong for a in verdict(only_float32_forward, wrong, x, w).wrong] == [((2, 1),)]
    laws = {f.law: f for f in gradcheck.check(only_float32_forward, only_float32_backward, x, w)}
    assert "float64" in laws["keeps the dtype"].detail
    with pytest.raises(GradientError, match=r"w: wrong in 1 of 18 elements .*\[2, 1\] expected"):
        gradcheck.check(only_float32_forward, wrong, x, w)


def test_a_gradient_that_is_0_has_a_verdict_though_the_witness_errs_by_more():
    def forward(x):
        p = softmax_forward(x)[0]
        return abs(p).sum(-1), p

    judged = verdict(forward, lambda dy, p: (softmax_backward(np.repeat(dy[:, None], 6, 1), (p,))[0],), X)
    assert not judged.wrong, str(judged)
