"""Autograd functions of PyTorch and JAX keep the same laws; a wrong one is caught in both precisions."""

import sys

import numpy as np
import pytest

from numgpt import InputError, gradcheck
from numgpt.gradcheck import GradientError, check, from_jax, from_module, from_torch, verdict

RNG = np.random.default_rng(5)
X, W, B = RNG.standard_normal((3, 4)), RNG.standard_normal(4), RNG.standard_normal(4)
both = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: numgpt[verify]")


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="JAX is not installed")


def torch_functions(torch):
    """Functions with a backward of PyTorch's own, and arrays for them."""
    F = torch.nn.functional
    return {
        "layer_norm": (lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias), X, W, B),
        "gelu": (F.gelu, X),
        "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), X),
        "softmax": (lambda x: F.softmax(x, -1), X * 5),
        "logsumexp at 1e4": (lambda x: torch.logsumexp(x, -1), X + 1e4),
        "cross entropy": (lambda logits, targets: F.cross_entropy(logits, targets), X, np.array([0, 3, 2])),
        "sine": (torch.sin, X),
        "matmul": (torch.matmul, X, RNG.standard_normal((4, 2))),
        "attention": (F.scaled_dot_product_attention, *RNG.standard_normal((3, 1, 3, 2))),
    }


TORCH = [
    "layer_norm",
    "gelu",
    "gelu tanh",
    "softmax",
    "logsumexp at 1e4",
    "cross entropy",
    "sine",
    "matmul",
    "attention",
]


@both
@pytest.mark.parametrize("name", TORCH)
def test_functions_of_torch_are_right_or_rounding_and_keep_the_laws(torch, name, dtype):
    function, *arrays = torch_functions(torch)[name]
    judged = verdict(*from_torch(function), *arrays, dtype=dtype)
    assert not judged.wrong, str(judged)
    assert judged.dtype == dtype
    assert judged.known < 1e-7
    if name == "logsumexp at 1e4":
        # in float64 it errs by 1e4 eps: the law of the transpose, with its limit for arrays of ordinary size,
        # is not for that
        return
    laws = {f.law: f for f in check(*from_torch(function), *arrays)}
    assert {"linear in dy", "pure", "repeatable", "keeps the dtype"} <= set(laws)
    assert str(np.dtype(np.longdouble)) in laws["keeps the dtype"].detail


def test_the_witness_is_the_complex_step_where_torch_takes_complex_numbers(torch):
    assert verdict(*from_torch(torch.sin), X).witness.complex
    judged = verdict(*from_torch(torch.nn.functional.gelu), X)
    assert not judged.witness.complex
    assert "does not take complex numbers" in str(judged)
    assert {f.law for f in check(*from_torch(torch.sin), X)} == set(gradcheck.LIMITS)
    assert gradcheck.TRANSPOSE not in {f.law for f in check(*from_torch(torch.nn.functional.gelu), X)}


def scaled_exponential(torch, mistake=None):
    """A custom autograd function of x and weight, y = exp(x) weight, with a mistake in its backward."""

    class ScaledExponential(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return torch.exp(x) * weight

        @staticmethod
        def backward(ctx, dy):
            x, weight = ctx.saved_tensors
            dx, dweight = dy * torch.exp(x) * weight, (dy * torch.exp(x)).sum(0)
            mistakes = {
                "sign": (-dx, dweight),
                "mean": (dx, dweight / 3),
                "constant": (dx * 1.0001, dweight),
                "no gradient": (dx, None),
            }
            return mistakes.get(mistake, (dx, dweight))

    return ScaledExponential.apply


@both
def test_a_custom_autograd_function_that_is_right_passes(torch, dtype):
    judged = verdict(*from_torch(scaled_exponential(torch)), X, W, dtype=dtype)
    assert not judged.wrong
    assert judged["weight"].index == 1
    check(*from_torch(scaled_exponential(torch)), X, W)


@both
@pytest.mark.parametrize(
    ("mistake", "name", "words"),
    [
        ("sign", "x", "sign is flipped"),
        ("mean", "weight", "×1/3"),
        ("constant", "x", "×(1 +0.0001)"),
        ("no gradient", "weight", "zero"),
    ],
)
def test_a_custom_autograd_function_that_is_wrong_is_wrong_in_the_argument_at_fault(
    torch, mistake, name, words, dtype
):
    pair = from_torch(scaled_exponential(torch, mistake))
    judged = verdict(*pair, X, W, dtype=dtype)
    assert [a.name for a in judged.wrong] == [name], str(judged)
    assert words in judged[name].pattern
    with pytest.raises(GradientError, match=rf"{name}: (wrong in .* ulps off|its gradient is missing)"):
        check(*pair, X, W)


@both
def test_a_wrong_function_without_complex_numbers_is_rejected_too(torch, dtype):
    """Its forward is torch's GELU, which takes none; its backward is that of the tanh form."""

    class Gelu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.nn.functional.gelu(x)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(torch.nn.functional.gelu(x, approximate="tanh"), x, dy)[0]

    assert [a.name for a in verdict(*from_torch(Gelu.apply), X, dtype=dtype).wrong] == ["x"]
    with pytest.raises(GradientError, match=r"central differences: residual .* x: wrong in"):
        check(*from_torch(Gelu.apply), X)


@both
def test_the_parameters_of_a_module_are_arguments_by_their_names(torch, dtype):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    before = {n: t.clone() for n, t in module.state_dict().items()}
    forward, backward, *arrays = from_module(module, X.astype(dtype))
    judged = verdict(forward, backward, *arrays)
    assert not judged.wrong, str(judged)
    assert judged.dtype == dtype
    assert [a.name for a in judged.arguments] == ["input", *dict(module.named_parameters())]
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())


def test_a_parameter_with_a_wrong_gradient_is_called_by_its_name(torch):
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.linspace(1, 2, 4))

        def forward(self, x):
            return wrong(x, self.weight)

    wrong = scaled_exponential(torch, "mean")
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), Scale())
    judged = verdict(*from_module(module, X.astype(np.float32)))
    assert [a.name for a in judged.wrong] == ["1.weight"]
    with pytest.raises(GradientError, match=r"1\.weight: wrong in"):
        check(*from_module(module, X))


def test_what_the_adapters_of_torch_cannot_take_is_an_error(torch):
    with pytest.raises(
        InputError, match=r"from_torch: Linear is an nn\.Module, expected a function of tensors: from_module"
    ):
        from_torch(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"from_module: a function is not an nn\.Module"):
        from_module(lambda x: x, X)
    with pytest.raises(InputError, match="returned a tuple of 2, expected one tensor"):
        verdict(*from_torch(lambda x: (x, x)), X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of torch.jit
@pytest.mark.parametrize("name", ["a lazy one", "on the meta device", "scripted", "traced", "complex"])
def test_a_module_without_parameters_to_call_it_with_is_an_error(torch, name):
    module = {
        "a lazy one": torch.nn.LazyLinear(2),
        "on the meta device": torch.nn.Linear(4, 2, device="meta"),
        "scripted": torch.jit.script(torch.nn.Linear(4, 2)),
        "traced": torch.jit.trace(torch.nn.Linear(4, 2), torch.ones(3, 4)),
        "complex": torch.nn.Linear(4, 2, dtype=torch.complex64),
    }[name]
    for take in (from_module, lambda module, x: gradcheck.same(module, module, x)):
        with pytest.raises(InputError, match="from_module: .*expected"):
            take(module, X)


@pytest.mark.parametrize("scope", ["inference_mode", "no_grad"])
def test_gradients_arrive_in_any_scope_of_the_caller(torch, scope):
    with getattr(torch, scope)():
        check(*from_torch(torch.sin), X)
        assert verdict(*from_torch(torch.sin), X).word == "right"
        assert not verdict(*from_module(torch.nn.Linear(4, 2), X)).wrong
        gradcheck.same(torch.nn.Linear(4, 2), torch.nn.functional.linear, X)


def test_tensors_of_any_layout_give_their_numbers(torch):
    check(*from_module(torch.nn.Embedding(5, 3, sparse=True), np.array([0, 4, 4])))
    check(*from_torch(torch.sin), torch.eye(3).to_sparse())
    check(*from_torch(lambda x: x.sin().to_sparse()), X)
    check(*from_torch(lambda x: torch.complex(x.cos(), x.sin()).conj().imag), X)
    check(*from_module(torch.nn.DataParallel(torch.nn.Linear(4, 2)), X))


def test_bfloat16_is_refused_in_our_words(torch):
    with pytest.raises(InputError, match=r"from_module: weight is bfloat16, .*module.float\(\)"):
        from_module(torch.nn.Linear(4, 2).bfloat16(), X)
    with pytest.raises(InputError, match="from_torch: the function's value is bfloat16"):
        check(*from_torch(lambda x: x.bfloat16()), X)
    for function in (check, verdict):
        with pytest.raises(InputError, match="argument 0 is bfloat16"):
            function(*from_torch(torch.sin), torch.ones(3, dtype=torch.bfloat16))
    with pytest.raises(InputError, match="argument 0 is bfloat16"):
        from_module(torch.nn.Linear(3, 2), torch.ones(3, dtype=torch.bfloat16))


def test_tensors_that_want_a_gradient_give_their_numbers(torch):
    x = torch.tensor(X, requires_grad=True)
    check(*from_torch(torch.sin), x)
    check(*from_module(torch.nn.Linear(4, 2), x))
    assert verdict(lambda x: (2 * x, None), lambda dy, saved: (2 * dy,), x).word == "right"
    assert x.grad is None


@pytest.mark.parametrize("function", [check, verdict])
def test_a_forward_that_returns_no_pair_is_an_error_in_our_words(function):
    def backward(dy, saved):
        return (2 * dy,)

    for shape in ((2,), (2, 3), (3, 3)):
        message = rf"returned an array of shape \({shape[0]},.*expected a pair \(y, saved\)"
        with pytest.raises(InputError, match=message):
            function(lambda x: 2 * x, backward, np.full(shape, 0.7))
    with pytest.raises(InputError, match="returned None, expected a pair"):
        function(lambda x: None, backward, X)
    with pytest.raises(InputError, match="value is a tuple of 2 of unequal shapes, expected one array"):
        function(lambda x: ((x, x[0]), None), backward, X)
    with pytest.raises(InputError, match="argument 0 is a list of 2 of unequal lengths"):
        function(lambda x: (x, None), backward, [[1.0, 2.0], [1.0]])


def test_a_forward_that_returns_a_tensor_is_an_error_in_our_words(torch):
    with pytest.raises(InputError, match="value is a Tensor, expected an array: from_torch"):
        check(lambda x: (torch.tensor(x), None), lambda dy, saved: (dy,), X)


def test_arrays_pass_through_torch_as_they_are(torch):
    for dtype in (np.float32, np.float64, np.complex64, np.complex128):
        y, _ = from_torch(lambda x, ids: x[ids] * 2).forward(X.astype(dtype), np.array([1, 0]))
        assert y.dtype == dtype
        assert np.array_equal(y, 2 * X.astype(dtype)[[1, 0]])
    y, saved = (
        pair := from_torch(lambda x, bias, scale=1.0: x * scale if bias is None else x + bias)
    ).forward(X, None, scale=3.0)
    assert [None if g is None else g.tolist() for g in pair.backward(np.ones_like(X), saved)] == [
        (3 * np.ones_like(X)).tolist(),
        None,
    ]


@both
def test_functions_of_jax_are_right_or_rounding_and_keep_the_laws(jax, dtype):
    state = jax.config.jax_enable_x64
    functions = {
        "softmax": (lambda x: jax.nn.softmax(x, -1), X),
        "layer norm": (
            lambda x, w: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * w,
            X,
            W,
        ),
        "rows": (lambda ids, x: x[ids] ** 2, np.array([0, 2, 0]), X),
    }
    for name, (function, *arrays) in functions.items():
        judged = verdict(*from_jax(function), *arrays, dtype=dtype)
        assert not judged.wrong, f"{name}: {judged}"
        assert judged.dtype == dtype, name
        if dtype == np.float64:
            check(*from_jax(function), *arrays)
    assert jax.config.jax_enable_x64 == state


def test_jax_computes_in_64_bits_only_where_the_arrays_have_them(jax):
    """And whatever happens inside, its own setting is untouched."""
    state = jax.config.jax_enable_x64
    pair = from_jax(lambda x: jax.numpy.exp(x) * jax.numpy.ones(x.shape))
    for dtype in (np.float32, np.float64, np.complex128):
        y, saved = pair.forward(X.astype(dtype))
        assert y.dtype == dtype
        if dtype != np.complex128:
            assert pair.backward(np.ones(X.shape, dtype), saved)[0].dtype == dtype
    with pytest.raises(ZeroDivisionError):
        from_jax(lambda x: 1 / 0).forward(X)
    assert jax.config.jax_enable_x64 == state
    assert jax.numpy.asarray(X).dtype == (np.float64 if state else np.float32)


@both
def test_a_custom_vjp_of_jax_that_is_wrong_is_rejected(jax, dtype):
    @jax.custom_vjp
    def scaled_square(x, scale):
        return scale * x * x

    scaled_square.defvjp(
        lambda x, scale: (scale * x * x, (x, scale)),
        lambda saved, dy: (2 * dy * saved[0] * saved[1], (dy * saved[0]).sum()),
    )
    pair = from_jax(scaled_square)
    judged = verdict(*pair, X, np.array(3.0), dtype=dtype)
    assert [a.name for a in judged.wrong] == ["scale"], str(judged)
    with pytest.raises(GradientError, match="scale: wrong in 1 of 1 element "):
        check(*pair, X, np.array(3.0))


def test_more_than_one_output_of_jax_is_an_error(jax):
    with pytest.raises(InputError, match="from_jax: the function returned a tuple of 2, expected one array"):
        verdict(*from_jax(lambda x: (x, x)), X)


@pytest.mark.parametrize(
    ("adapter", "package", "advice"),
    [
        (from_torch, "torch", r"numgpt\[verify\]"),
        (from_module, "torch", r"numgpt\[verify\]"),
        (from_jax, "jax", "pip install jax"),
    ],
)
def test_a_library_that_is_not_installed_is_an_error_that_says_what_to_install(
    monkeypatch, adapter, package, advice
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=advice):
        adapter(np.sin)
