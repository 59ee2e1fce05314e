"""A backward that gives 0 where the function acts misses a gradient: planted on every op, by share."""

import itertools

import numpy as np
import pytest
from shares import each_time

from numgpt import gradcheck, ops
from numgpt.gradcheck import MISSING, GradientError
from numgpt.proofs.subjects import op_subjects

SUBJECTS = {s.name: s for op in ops.ALL.values() for s in op_subjects(op, seed=1)}


def whole(grad):
    return np.ones(grad.shape, bool)


def half(grad):
    """The second half of the last axis."""
    return np.broadcast_to(np.arange(grad.shape[-1]) >= grad.shape[-1] // 2, grad.shape)


def row(grad):
    """The first slice in which there is a gradient."""
    first = int(grad.reshape(len(grad), -1).any(-1).argmax())
    return np.broadcast_to((np.arange(len(grad)) == first).reshape(-1, *[1] * (grad.ndim - 1)), grad.shape)


def element(grad):
    """The element with the smallest gradient that is clearly none of rounding."""
    size = abs(grad)
    size[size < 1e-6 * size.max()] = np.inf
    return size == size.min()


CUTS = {f.__name__: f for f in (whole, half, row, element)}


def arguments(subject):
    """(index, gradient) of the arguments that have a gradient other than 0."""
    y, saved = subject.forward(*subject.arrays, **subject.options)
    dy = np.random.default_rng(2).standard_normal(np.shape(y))
    grads = subject.backward(dy[()], saved)
    return [(i, g) for i, g in enumerate(grads) if g is not None and abs(g).max() > 1e-12]


def with_a_cut(subject, i, cut):
    """A backward whose gradient of argument i is exactly 0 in the chosen elements."""

    def backward(dy, saved):
        grads = [None if g is None else np.array(g) for g in subject.backward(dy, saved)]
        grads[i][cut] = 0
        return tuple(grads)

    return backward


# Each time every op is cut: its first form whole and in one element, its other forms in one way, in turn.
TURNS = {
    (subject.name, kind)
    for op in ops.ALL.values()
    for form, subject in enumerate(op_subjects(op, seed=1))
    for kind in (["whole", "element"] if form == 0 else [tuple(CUTS)[form % len(CUTS)]])
}


@pytest.mark.parametrize(
    "name, kind", each_time(itertools.product(SUBJECTS, CUTS), lambda _, row: row in TURNS)
)
def test_a_gradient_that_is_cut_is_missing_in_every_op(name, kind):
    subject = SUBJECTS[name]
    for i, grad in arguments(subject):
        cut = CUTS[kind](grad) & (abs(grad) > 1e-9 * abs(grad).max())
        backward = with_a_cut(subject, i, cut)
        (found,) = gradcheck.findings(
            subject.forward, backward, *subject.arrays, laws=[MISSING], **subject.options
        )
        assert not found.holds and "its gradient is missing, " in found.detail
        assert ("none of its" in found.detail or "not reached" in found.detail) == bool(
            found.residual == grad.size
        )
        with pytest.raises(GradientError, match=f"^{MISSING}: "):
            gradcheck.check(subject.forward, backward, *subject.arrays, **subject.options)


@pytest.mark.parametrize("name", SUBJECTS)
def test_no_gradient_of_an_op_is_called_missing(name):
    subject = SUBJECTS[name]
    (found,) = gradcheck.findings(
        subject.forward, subject.backward, *subject.arrays, laws=[MISSING], **subject.options
    )
    assert found.holds, found.detail


X = np.random.default_rng(0).standard_normal((6, 4))


@pytest.mark.parametrize("takes", ["complex numbers", "real numbers alone"])
@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0])
def test_a_small_gradient_is_missed_too_though_no_sum_would_show_it(size, takes):
    """Of terms that lie 9 digits apart the small ones count as much."""

    def forward(x):
        x = x if takes == "complex numbers" else np.asarray(x, np.float64)
        return np.concatenate([x[:1] * size, x[1:]]), None

    def backward(dy, saved):
        return (np.concatenate([dy[:1] * size, dy[1:]]),)

    def cut(dy, saved):
        return (np.concatenate([0 * dy[:1], dy[1:]]),)

    verdict = gradcheck.verdict(forward, cut, X)
    assert gradcheck.verdict(forward, backward, X).word == "right"
    assert (verdict.word, verdict["x"].pattern) == (
        "missing",
        "they are zero: 20 of 24 elements reached, but not index 0 of axis 0",
    )
    assert verdict.missing == verdict.wrong == (verdict["x"],)
    assert "missing in 4 of 24" in str(verdict)


def test_a_sample_of_many_elements_holds_what_is_large_and_what_is_zero():
    x = np.random.default_rng(0).standard_normal((300, 100))

    def backward(dy, saved):
        dx = dy.copy()
        dx[7, 3:6] = 0
        return (dx,)

    verdict = gradcheck.verdict(lambda x: (x * 1.0, None), backward, x)
    assert verdict.word == "missing" and set(verdict["x"].wrong) == {(7, 3), (7, 4), (7, 5)}


def test_none_for_a_gradient_is_said_to_be_missing():
    with pytest.raises(GradientError, match="gradient 0 is None, expected an array: it is missing"):
        gradcheck.check(lambda x: (2 * x, None), lambda dy, saved: (None,), X)


def test_a_kink_is_no_missing_gradient():
    x = np.array([-1.0, 0.0, 0.0, 2.0])
    for forward in (lambda x: (np.maximum(x, 0), x), lambda x: (np.where(x > 0, x, 0 * x), x)):
        (found,) = gradcheck.findings(forward, lambda dy, x: (dy * (x > 0),), x, laws=[MISSING])
        assert found.holds, found.detail


@pytest.mark.parametrize(
    "array, said",
    [
        (np.zeros((2, 3)), "is 0 everywhere"),
        (np.full((2, 3), 2.0), "is 2 everywhere"),
        (np.array([[1.0, 1.0], [1.0, 2.0]]), "is constant along its last axis in 1 of 2 rows"),
    ],
)
def test_what_hides_mistakes_is_said_with_the_law(array, said):
    found = gradcheck.check(lambda x: (2 * x, None), lambda dy, saved: (2 * dy,), array, laws=[MISSING])
    assert found[0].detail == f"x {said}, where mistakes may not show"
    assert not gradcheck.check(lambda x: (2 * x, None), lambda dy, saved: (2 * dy,), X, laws=[MISSING])[
        0
    ].detail


def test_the_gradients_of_pytorch_that_do_not_arrive_are_missing():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    cuts = {
        "detach": lambda x, w: (x.detach() * w).sin(),
        "a cast": lambda x, w: (torch.from_numpy(x.detach().numpy().copy()) * w).sin(),
        "unused": lambda x, w: w.sin() + 0 * x.detach(),
    }
    w = np.random.default_rng(1).standard_normal((6, 4))
    for name, function in cuts.items():
        verdict = gradcheck.verdict(*gradcheck.from_torch(function), X, w)
        assert (verdict.word, verdict["w"].word) == ("right" if name == "unused" else "missing", "right")
    for name in ("detach", "a cast"):
        with pytest.raises(
            GradientError, match="missing: x: its gradient is missing, none of its 24 elements"
        ):
            gradcheck.check(*gradcheck.from_torch(cuts[name]), X, w)
