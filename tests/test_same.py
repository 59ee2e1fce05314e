"""same compares two implementations of a layer, and rejects each kind of difference with its pattern."""

import numpy as np
import pytest
from hypothesis import strategies as st
from shares import drawn

from numgpt import InputError, gradcheck, ops
from numgpt.gradcheck import GradientError, same
from numgpt.proofs.subjects import op_subjects

RNG = np.random.default_rng(2)
X, W, B = RNG.standard_normal((4, 5)), RNG.standard_normal(5), RNG.standard_normal(5)


def forward(x, weight, bias):
    return x * x * weight + bias, (x, weight)


def backward(dy, saved):
    x, weight = saved
    return 2 * dy * x * weight, (dy * x * x).sum(0), dy.sum(0)


def changed(change):
    return forward, lambda dy, saved: change(*backward(dy, saved))


def at_one(array, index, value):
    array = array.copy()
    array[index] = value
    return array


both = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
WRONG = {
    "flipped": (lambda dx, dw, db: (-dx, dw, db), "x differs in 20 of 20 elements.*sign is flipped"),
    "zero": (lambda dx, dw, db: (dx, 0 * dw, db), "weight differs in 5 of 5 elements.*they are zero"),
    "NaN": (lambda dx, dw, db: (dx, dw, db * np.nan), "bias differs in 5 of 5 elements.*NaN"),
    "factor": (lambda dx, dw, db: (dx, dw, 2 * db), "bias differs in 5 of 5 elements.*×2"),
    "mean": (lambda dx, dw, db: (dx, dw / 4, db), "weight differs in 5 of 5 elements.*×1/4 .*mean for a sum"),
    "reversed": (lambda dx, dw, db: (dx, dw, db[::-1]), "bias differs in .*axis 0 is reversed"),
    "shifted": (lambda dx, dw, db: (dx + dx.dtype.type(0.1), dw, db), r"x differs in .*all of them \+0.1"),
    "one": (
        lambda dx, dw, db: (at_one(dx, (2, 3), 0), dw, db),
        r"x differs in 1 of 20 elements; \[2, 3\] theirs",
    ),
    "by 1e-3": (lambda dx, dw, db: (dx * dx.dtype.type(1.001), dw, db), "x differs in 20 .*001"),
}


@both
@pytest.mark.parametrize("kind", WRONG)
def test_a_gradient_that_differs_is_rejected_with_its_pattern_and_whose_fault_it_is(kind, dtype):
    change, message = WRONG[kind]
    with pytest.raises(GradientError, match=f"the gradient of {message}") as error:
        same(changed(change), (forward, backward), X, W, B, dtype=dtype)
    assert "mine is wrong in" in str(error.value)
    assert "theirs is right" in str(error.value)
    with pytest.raises(GradientError, match="mine is right, theirs is wrong in"):
        same((forward, backward), changed(change), X, W, B, dtype=dtype)


@both
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda y: y * 1.001, "the value differs in 20 of 20 elements.*were not compared"),
        (lambda y: -y, "the value differs in .*sign is flipped"),
        (lambda y: y + np.eye(4, 5), "the value differs in 4 of 20 elements"),
        (lambda y: y.sum(0), r"the value has shape \(4, 5\), mine has \(5,\)"),
        (lambda y: y[..., None], r"the value has shape \(4, 5\), mine has \(4, 5, 1\)"),
    ],
)
def test_values_that_differ_are_rejected(other, message, dtype):
    def different(x, weight, bias):
        y, saved = forward(x, weight, bias)
        return other(y).astype(y.dtype), saved

    def flat(dy, saved):
        return backward(np.broadcast_to(dy.reshape(dy.shape[:2]), saved[0].shape), saved)

    with pytest.raises(GradientError, match=message):
        same((different, flat), (forward, backward), X, W, B, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dx, dw, db: (dx, dw), "mine: backward returned 2 gradients, expected 3"),
        (lambda dx, dw, db: (dx, dw, None), "mine: gradient 2 is None"),
        (lambda dx, dw, db: (dx, db, dw[:, None]), r"mine: gradient 2 has shape \(5, 1\)"),
    ],
)
def test_gradients_that_do_not_fit_are_rejected(change, message):
    with pytest.raises(GradientError, match=message):
        same(changed(change), (forward, backward), X, W, B)


@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
@drawn(few=20, seed=st.integers(0, 2**32 - 1))
def test_an_op_is_the_same_as_itself_at_other_roundings(op, seed):
    """Its arrays moved by a rounding: what is within rounding is not called different."""
    subject = next(iter(op_subjects(op, seed)))

    def rounded(*arrays, **options):
        eps = np.finfo(np.float32).eps / 2
        moved = [
            a * a.dtype.type(1 + eps) if hasattr(a, "dtype") and a.dtype.kind == "f" else a for a in arrays
        ]
        return op.forward(*moved, **options)

    rounded.constants = getattr(op.forward, "constants", frozenset())
    found = same((rounded, op.backward), op, *subject.arrays, dtype=np.float32, **subject.options)
    assert all(row.differs == 0 for row in found.rows)


def test_sameness_prints_as_a_table():
    lines = str(same(ops.layernorm, ops.layernorm, X, W, B)).splitlines()
    assert lines[0] == "the same in float64, but for rounding"
    assert [line.split()[0] for line in lines[2:]] == ["value", "x", "weight", "bias"]


def test_a_pair_that_draws_or_writes_is_not_compared():
    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match="theirs: repeatable: the forward"):
        same((forward, backward), (lambda *a: (rng.random() * forward(*a)[0], a[:2]), backward), X, W, B)


@pytest.mark.parametrize("given", [3, None, np.sin, (np.sin,), "gelu"], ids=str)
def test_what_is_no_implementation_is_an_error(given):
    with pytest.raises(InputError, match="^same: mine is .* expected a pair"):
        same(given, (forward, backward), X, W, B)


def test_modules_and_functions_of_torch_are_implementations():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: numgpt[verify]")
    same(ops.layernorm, torch.nn.LayerNorm(5), X)
    same(torch.nn.LayerNorm(5), ops.layernorm, X, W, B)
    same(ops.layernorm, torch.nn.LayerNorm(5), torch.tensor(X, requires_grad=True), W, B, dtype="float32")
    same(ops.gelu, torch.nn.functional.gelu, X)
    same(ops.gelu, lambda x: torch.nn.functional.gelu(x), X)
    with pytest.raises(GradientError, match="the value differs"):
        same(ops.layernorm, torch.nn.LayerNorm(5, eps=1e-6), X)
    with pytest.raises(GradientError, match="mine: repeatable.*module.eval"):
        same(torch.nn.Dropout(), ops.gelu, X)
    with pytest.raises(InputError, match="one of the two raised .* expected both to take them"):
        same(ops.layernorm, torch.nn.Linear(5, 2), X)


def test_functions_of_jax_are_implementations():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    same(ops.gelu, lambda x: jax.nn.gelu(x, approximate=False), X)
    same(ops.gelu_tanh, jax.nn.gelu, X)
    with pytest.raises(GradientError, match="the value differs"):
        same(ops.gelu, jax.nn.gelu, X)
    assert gradcheck.same is same
