"""Second derivatives and gradients by example under their laws: symmetric, linear, definite, transposed."""

import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shares import drawn, each_time

import numgpt
from numgpt import GPT, Config, InputError, calculus
from numgpt.architecture.parameters import Flat
from numgpt.proofs.subjects import SMALL, VARIANTS

# Both sides of a law are sums over the same products in other orders, each product exact to some tens of
# roundings through a forward and a backward: 1e-13 of the terms' absolute sum is what gradcheck holds a
# gradient to, and what holds here.
LIMIT = 1e-13
TINY = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4, "n_inner": 3}
seeds = st.integers(0, 2**32 - 1)
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
every_product = pytest.mark.parametrize(
    "product", [calculus.hvp, calculus.gauss_newton, calculus.empirical_fisher], ids=lambda f: f.__name__
)


def case(changes, seed, sizes=SMALL, rows=2):
    """A model well away from its first values, tokens, targets (some do not count) and a generator."""
    rng = np.random.default_rng(seed)
    model = GPT(Config(**sizes | changes), seed=0, dtype="float64")
    model.params.flat[:] += 0.3 * rng.standard_normal(model.n_params)
    tokens, targets = rng.integers(0, model.config.vocab_size, (2, rows, 4))
    targets[:, 0] = -1
    return model, tokens, targets, rng


def agree(ours, theirs, terms=None):
    """Raise unless the norm of the difference is at most LIMIT of the terms': of theirs, unless given."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    scale = np.linalg.norm(theirs) if terms is None else terms
    error = np.linalg.norm(ours - theirs)
    if not error <= LIMIT * scale:
        raise AssertionError(f"differ by {error:.1e}, expected at most {LIMIT:.0e} of {scale:.1e}")


def agree_as_products(u, a, v, b):
    """⟨u, a⟩ = ⟨v, b⟩, relative to the absolute sum of the terms."""
    agree(np.vdot(u, a), np.vdot(v, b), abs(u * a).sum() + abs(v * b).sum())


def dense(product, model, *args):
    return np.stack([product(model, *args, axis).flat for axis in np.eye(model.n_params)])


def test_the_comparison_rejects_what_is_off_by_more_than_its_limit():
    x = np.arange(1.0, 9.0)
    with pytest.raises(AssertionError, match="differ by"):
        agree(x * (1 + 1e-12), x)
    with pytest.raises(AssertionError, match="differ by"):
        agree(x * np.nan, x)
    with pytest.raises(AssertionError, match="differ by"):
        agree_as_products(x, x, x, x * (1 + 1e-12))


def test_symmetry_rejects_a_product_that_is_wrong_by_1e_9_in_one_parameter():
    model, tokens, targets, rng = case({}, 0)
    u, v = rng.standard_normal((2, model.n_params))
    hu, hv = (calculus.hvp(model, tokens, targets, x) for x in (u, v))
    hv["h.1.mlp.c_fc.weight"] *= 1 + 1e-9
    with pytest.raises(AssertionError, match="differ by"):
        agree_as_products(u, hv.flat, v, hu.flat)


@every_variant
@drawn(few=1, many=3, seed=seeds)  # each goes through some forty values
def test_jvp_is_the_transpose_of_vjp_for_every_named_value(changes, seed):
    model, tokens, _, rng = case(changes, seed)
    v = rng.standard_normal(model.n_params)
    for name, value in [(None, model(tokens)), *model.record(tokens).value.items()]:
        dy = rng.standard_normal(value.shape)
        agree_as_products(
            dy, calculus.jvp(model, tokens, v, name=name), v, calculus.vjp(model, tokens, dy, name=name).flat
        )


@every_variant
@drawn(few=2, many=8, seed=seeds)
def test_the_loss_moves_along_a_direction_by_the_gradients_product_with_it(changes, seed):
    model, tokens, targets, rng = case(changes, seed)
    v = rng.standard_normal(model.n_params)
    _, grads = model.loss_and_grads(tokens, targets)
    agree(calculus.jvp(model, tokens, v, targets), grads.flat @ v, abs(grads.flat * v).sum())


@every_variant
@every_product
@drawn(few=2, many=8, seed=seeds)
def test_a_product_is_symmetric_linear_and_scales_to_the_bit(changes, product, seed):
    model, tokens, targets, rng = case(changes, seed)
    u, v = rng.standard_normal((2, model.n_params))
    hu, hv = (product(model, tokens, targets, x).flat for x in (u, v))
    agree_as_products(u, hv, v, hu)
    agree(
        product(model, tokens, targets, u + 3 * v).flat,
        hu + 3 * hv,
        np.linalg.norm(hu) + 3 * np.linalg.norm(hv),
    )
    assert np.array_equal(product(model, tokens, targets, v * 2.0**60).flat, hv * 2.0**60)
    assert not product(model, tokens, targets, 0 * v).flat.any()


@every_variant
@pytest.mark.parametrize(
    "product", [calculus.gauss_newton, calculus.empirical_fisher], ids=lambda f: f.__name__
)
@drawn(few=2, many=8, seed=seeds)
def test_gauss_newton_and_fisher_are_never_negative(changes, product, seed):
    model, tokens, targets, rng = case(changes, seed)
    v = rng.standard_normal(model.n_params)
    gv = product(model, tokens, targets, v).flat
    assert v @ gv >= -LIMIT * abs(v * gv).sum()


@settings(max_examples=8)
@given(seed=seeds)
def test_the_hessian_is_the_derivative_of_the_gradient(seed):
    """Central differences in longdouble are a witness that knows nothing of complex numbers.

    h = 1e-6 along a v of norm 1 errs by h² of the third derivative and by eps/h, 1e-10 at worst; 1e-8 leaves
    room for large third derivatives, as in gradcheck.
    """
    model, tokens, targets, rng = case({}, seed)
    v = rng.standard_normal(model.n_params)
    v /= np.linalg.norm(v)

    def gradient(shift):
        moved = model.astype("longdouble")
        moved.params.flat += shift * v
        return moved.loss_and_grads(tokens, targets)[1].flat

    hv = calculus.hvp(model, tokens, targets, v).flat
    assert np.linalg.norm(hv - (gradient(1e-6) - gradient(-1e-6)) / 2e-6) <= 1e-8 * np.linalg.norm(hv)


# A matrix takes a product for each parameter. Each time every other model has its Hessian formed for the law
# of eigenvalues; those between have it formed for this law, and Gauss-Newton's matrix for the other.
@pytest.mark.parametrize("variant", each_time(VARIANTS, lambda i, _: i % 2 == 1))
def test_the_dense_hessian_is_symmetric_and_its_products_are_hvp(variant):
    model, tokens, targets, rng = case(VARIANTS[variant], 0, TINY | {"n_head": 1})
    H = calculus.hessian(model, tokens, targets)
    v = rng.standard_normal(model.n_params)
    agree(H, H.T)
    agree(calculus.hvp(model, tokens, targets, v).flat, H @ v)


def test_what_nothing_used_has_no_curvature():
    model, tokens, targets, rng = case({}, 0)
    v = model.params.like()
    v["wpe.weight"][4:] = 1  # positions beyond the four that the tokens have
    assert not calculus.hvp(model, tokens, targets, v).flat.any()
    hv = calculus.hvp(model, tokens, targets, rng.standard_normal(model.n_params))
    assert not hv["wpe.weight"][4:].any()
    assert hv["wpe.weight"][:4].all()


@pytest.mark.parametrize("names", [["lm_head.weight"], ["ln_f.weight", "ln_f.bias"]], ids=str)
def test_where_the_logits_are_linear_the_hessian_is_gauss_newton(names):
    """An untied model's logits are linear in its unembedding, and in the last norm's weight and bias."""
    model, tokens, targets, rng = case({"tied": False}, 0)
    u, v = model.params.like(), model.params.like()
    for name in names:
        u[name], v[name] = rng.standard_normal((2, *u[name].shape))
    hv, gv = (product(model, tokens, targets, v).flat for product in (calculus.hvp, calculus.gauss_newton))
    agree_as_products(u.flat, hv, u.flat, gv)
    other = rng.standard_normal(model.n_params)
    assert abs(other @ hv - other @ gv) > 1e-3 * abs(other @ gv)  # towards the other parameters they are not


@settings(max_examples=8)
@given(seed=seeds)
def test_the_hessian_with_respect_to_the_logits_is_the_derivative_of_cross_entropys_backward(seed):
    """softmax_curvature is written out; the complex step through the op's own backward must give the same."""
    rng = np.random.default_rng(seed)
    logits, a = rng.standard_normal((2, 3, 4, 5))
    targets = rng.integers(-1, 5, (3, 4))
    targets[0, 0] = 1
    loss, saved = numgpt.ops.cross_entropy.forward(logits + 1e-30j * a, targets)
    dlogits, _ = numgpt.ops.cross_entropy.backward(np.ones_like(loss), saved)
    agree(calculus.softmax_curvature(logits, a, targets), dlogits.imag / 1e-30)


def test_the_fisher_is_the_exact_mean_over_all_targets_that_the_model_may_draw():
    """At each position all V targets count by the model's own probabilities. It is Gauss-Newton's matrix."""
    model, tokens, targets, _ = case({}, 0, TINY)
    p = np.exp(model(tokens))
    p /= p.sum(-1, keepdims=True)
    expected = np.zeros((model.n_params, model.n_params))
    for place in np.ndindex(tokens.shape):
        for y in range(5):
            only = np.full(tokens.shape, -1)
            only[place] = y
            g = model.loss_and_grads(tokens, only)[1].flat
            expected += p[(*place, y)] * np.outer(g, g) / tokens.size
    agree(dense(calculus.fisher, model, tokens), expected)
    v = np.random.default_rng(1).standard_normal(model.n_params)
    assert np.array_equal(
        calculus.fisher(model, tokens, v).flat, calculus.gauss_newton(model, tokens, abs(targets), v).flat
    )
    assert np.array_equal(
        calculus.fisher(model, tokens, v, targets).flat, calculus.gauss_newton(model, tokens, targets, v).flat
    )


def test_the_empirical_fisher_at_targets_that_the_model_draws_is_the_fisher_over_t_in_the_mean():
    model, tokens, _, _ = case({}, 0, TINY | {"vocab_size": 3}, rows=1)
    tokens = tokens[:, :3]
    v = np.random.default_rng(1).standard_normal(model.n_params)
    p = np.exp(model(tokens))[0]
    p /= p.sum(-1, keepdims=True)
    mean = sum(
        math.prod(p[t, y] for t, y in enumerate(drawn))
        * calculus.empirical_fisher(model, tokens, [drawn], v).flat
        for drawn in itertools.product(range(3), repeat=3)
    )
    agree(mean, calculus.fisher(model, tokens, v).flat / 3)


def test_the_empirical_fisher_is_the_mean_of_outer_products():
    model, tokens, targets, rng = case({}, 0, rows=3)
    G = np.stack([g.flat for g in calculus.per_example_gradients(model, tokens, targets)])
    v = rng.standard_normal(model.n_params)
    agree(calculus.empirical_fisher(model, tokens, targets, v).flat, G.T @ (G @ v) / 3)


@every_variant
def test_the_examples_gradients_add_up_to_the_batchs(changes):
    model, tokens, targets, _ = case(changes, 0, rows=3)
    targets[1, 1:3] = -1  # rows of different weight
    counted = (targets >= 0).sum(1)
    _, grads = model.loss_and_grads(tokens, targets)
    own, shares = (
        [g.flat for g in calculus.per_example_gradients(model, tokens, targets, share=share)]
        for share in (False, True)
    )
    agree(
        sum(n * g for n, g in zip(counted, own)) / counted.sum(), grads.flat, sum(map(np.linalg.norm, shares))
    )
    agree(sum(shares), grads.flat, sum(map(np.linalg.norm, shares)))
    for row, g in enumerate(own):
        assert np.array_equal(g, model.loss_and_grads(tokens[row], targets[row])[1].flat)
    assert np.array_equal(calculus.gradient_norms(model, tokens, targets), [np.linalg.norm(g) for g in own])
    assert np.array_equal(
        calculus.gradient_norms(model, tokens, targets, share=True), [np.linalg.norm(g) for g in shares]
    )


def test_the_estimates_of_the_noise_scale_are_without_bias():
    """Over all 4³ samples of three out of a population of four, the estimates' means are its own values."""
    population = np.random.default_rng(0).standard_normal((4, 7)) + 0.2
    estimates = [
        calculus.noise_scale(population[list(drawn)]) for drawn in itertools.product(range(4), repeat=3)
    ]
    G = population.mean(0)
    agree(np.mean([f.trace for f in estimates]), ((population - G) ** 2).sum() / 4)
    agree(
        np.mean([f.squared_norm for f in estimates]), G @ G, np.mean([abs(f.squared_norm) for f in estimates])
    )


def test_the_noise_scale_of_gradients_whose_truth_is_known():
    """512 draws in 64 dimensions: tr Σ is known to √(2/(512·64)) = 0.8 %, |G|² to some 2/√(512·64) = 1.1 %.

    The limits are six of these.
    """
    rng = np.random.default_rng(0)
    noise = calculus.noise_scale(1 + 3 * rng.standard_normal((512, 64)))
    assert noise.trace == pytest.approx(9 * 64, rel=0.05)
    assert noise.squared_norm == pytest.approx(64, rel=0.09)
    assert noise.scale == noise.trace / noise.squared_norm
    assert noise.examples == 512


def test_the_noise_scale_keeps_its_digits_where_the_noise_is_small():
    noise = np.random.default_rng(0).standard_normal((5, 3)).round(2)
    small = calculus.noise_scale(2.0**20 + noise * 2.0**-10)  # ⟨|g|²⟩ − |ḡ|² would cancel: 1e12 less 1e12
    assert small.trace == pytest.approx(
        calculus.noise_scale(noise).trace * 2.0**-20, rel=1e-6
    )  # the sums round at 2⁻³³


def test_no_noise_has_scale_zero_and_no_signal_an_infinite_one():
    assert calculus.noise_scale([np.ones(3), np.ones(3)]).scale == 0
    assert calculus.noise_scale([np.ones(3), -np.ones(3)]).scale == math.inf


@pytest.mark.parametrize(
    ("bad", "what"), [(math.nan, "not finite"), (-math.inf, "not finite"), (1j, "complex")]
)
def test_the_noise_scale_of_what_is_no_gradient_is_refused_by_its_number(bad, what):
    with pytest.raises(
        InputError, match=f"^noise_scale: gradient 1 is {what}, expected finite real numbers$"
    ):
        calculus.noise_scale([[1.0, 2.0], [bad, 1.0]])


def test_the_noise_scale_of_a_model_is_that_of_its_examples():
    model, tokens, targets, _ = case({}, 0, rows=4)
    G = [g.flat for g in calculus.per_example_gradients(model, tokens, targets)]
    noise = calculus.gradient_noise_scale(model, tokens, targets)
    assert noise == calculus.noise_scale(G)
    agree(noise.trace, np.cov(np.transpose(G)).trace())


@pytest.mark.parametrize(
    "variant, operator",
    each_time(itertools.product(VARIANTS, calculus.OPERATORS), lambda i, _: i % 4 in (0, 3)),
)
def test_eigenvalues_are_those_of_the_dense_matrix(variant, operator):
    model, tokens, targets, _ = case(VARIANTS[variant], 0, TINY | {"n_head": 1})
    matrix = dense(calculus.OPERATORS[operator], model, tokens, targets)
    truth = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    rounding = LIMIT * abs(truth).max()
    ends = {"largest": truth[::-1], "smallest": truth, "magnitude": truth[np.argsort(-abs(truth))]}
    if operator == "gauss_newton":
        del ends["smallest"]  # 0, many times over, of which one start finds one
    for which, expected in ends.items():
        top = calculus.top_eigenvalues(model, tokens, targets, k=3, operator=operator, which=which)
        assert (top.bounds <= 1e-8 * abs(truth).max()).all()
        assert (abs(top.values - expected[:3]) <= top.bounds + rounding).all()
        for value, bound, y in zip(top.values, top.bounds, top.vectors):
            assert abs(np.linalg.norm(matrix @ y.flat - value * y.flat) - bound) <= 10 * rounding
            assert abs(y.flat @ y.flat - 1) < LIMIT
            assert list(y) == list(model.params)


def test_all_eigenvalues_add_up_to_the_trace():
    model, tokens, targets, _ = case({}, 0, TINY | {"n_head": 1, "n_embd": 3})
    H = calculus.hessian(model, tokens, targets)
    P = model.n_params
    top = calculus.top_eigenvalues(model, tokens, targets, k=P, steps=P)
    agree(top.values.sum(), np.trace(H), abs(top.values).sum())
    assert top.products == P
    assert (np.diff(top.values) <= 0).all()


def test_scipys_solver_finds_the_same_eigenvalues():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    model, tokens, targets, _ = case({}, 0)
    for which in ("largest", "smallest", "magnitude"):
        ours, theirs = (
            calculus.top_eigenvalues(model, tokens, targets, k=3, which=which, solver=s)
            for s in ("lanczos", "scipy")
        )
        assert (
            abs(ours.values - theirs.values) <= ours.bounds + theirs.bounds + LIMIT * abs(ours.values).max()
        ).all()
        assert (
            abs(np.sum([a.flat * b.flat for a, b in zip(ours.vectors, theirs.vectors)], axis=1)) > 1 - 1e-12
        ).all()


def test_without_scipy_its_solver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    model, tokens, targets, _ = case({}, 0, TINY)
    with pytest.raises(InputError, match=r"scipy is not installed.*pip install numgpt\[scipy\]"):
        calculus.top_eigenvalues(model, tokens, targets, solver="scipy")


def test_a_float32_model_is_taken_at_its_parameters_exactly():
    model, tokens, targets, rng = case({}, 0)
    narrow = model.astype("float32")
    wide = narrow.astype("float64")
    v = rng.standard_normal(model.n_params)
    for product in (calculus.hvp, calculus.gauss_newton, calculus.empirical_fisher):
        ours = product(narrow, tokens, targets, v)
        assert ours.dtype == np.float64
        assert np.array_equal(ours.flat, product(wide, tokens, targets, v).flat)
    assert calculus.jvp(narrow, tokens, v).dtype == np.float64
    assert narrow.params.dtype == np.float32
    assert np.array_equal(narrow.params.flat, wide.params.flat)


@every_variant
def test_the_numba_engine_gives_the_same_products(changes):
    """Its float64 backward rounds otherwise than the specification's, and by no more."""
    pytest.importorskip("numba", reason="Numba is not installed")
    model, tokens, targets, rng = case(changes, 0)
    v, dy = rng.standard_normal(model.n_params), rng.standard_normal((4, 2, 6)).swapaxes(0, 1)
    before = dy.copy()

    def products():
        yield from (
            product(model, tokens, targets, v).flat
            for product in (calculus.hvp, calculus.gauss_newton, calculus.empirical_fisher)
        )
        yield from (calculus.vjp(model, tokens, dy, name=name).flat for name in ("h.0", "h.1.attn.heads"))

    expected = list(products())
    numgpt.use("numba")
    try:
        for ours, theirs in zip(products(), expected, strict=True):
            agree(ours, theirs)
        assert np.array_equal(dy, before)
    finally:
        numgpt.use("reference")


@pytest.mark.parametrize("kind", ["mapping", "Flat", "list", "integers"])
def test_a_direction_may_be_a_mapping_or_a_flat_array(kind):
    model, tokens, targets, rng = case({}, 0)
    flat = rng.integers(-5, 5, model.n_params).astype(float)
    v = Flat(model.params.shapes, "float64", flat)
    given = {
        "mapping": {name: v[name] for name in reversed(list(v))},
        "Flat": v,
        "list": flat.tolist(),
        "integers": flat.astype(int),
    }[kind]
    assert np.array_equal(
        calculus.hvp(model, tokens, targets, given).flat, calculus.hvp(model, tokens, targets, flat).flat
    )


def test_neither_model_nor_arguments_are_written_to():
    model, tokens, targets, rng = case({}, 0)
    v, dy = rng.standard_normal(model.n_params), rng.standard_normal((2, 4, 7))
    before = [a.copy() for a in (model.params.flat, tokens, targets, v, dy)]
    for product in (calculus.hvp, calculus.gauss_newton, calculus.empirical_fisher):
        product(model, tokens, targets, v)
    calculus.vjp(model, tokens, dy)
    assert all(np.array_equal(a, b) for a, b in zip(before, (model.params.flat, tokens, targets, v, dy)))


MODEL, TOKENS, TARGETS, _ = case({}, 0)
V = np.ones(MODEL.n_params)
LARGE = GPT(Config(**SMALL | {"n_embd": 64}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: calculus.hvp(MODEL, TOKENS, TARGETS, V[1:]),
            r"hvp: the vector has shape \(\d+,\), expected \(\d+,\), as model.params.flat",
        ),
        (
            lambda: calculus.hvp(MODEL, TOKENS, TARGETS, V * 1j),
            "hvp: the vector is not all finite real numbers .dtype complex128.",
        ),
        (lambda: calculus.jvp(MODEL, TOKENS, V * np.inf), "jvp: the vector is not all finite real numbers"),
        (
            lambda: calculus.gauss_newton(MODEL, TOKENS, TARGETS, {"wte.weight": 1}),
            "gauss_newton: the vector lacks h.0.attn.c_attn.bias, expected the names",
        ),
        (
            lambda: calculus.fisher(MODEL, TOKENS, {**MODEL.params, "x": V}),
            "the vector has x, expected the names",
        ),
        (
            lambda: calculus.hvp(MODEL, TOKENS, TARGETS, {**MODEL.params, "ln_f.bias": V[:2]}),
            r"the vector's ln_f.bias has shape \(2,\), expected \(6,\)",
        ),
        (
            lambda: calculus.hvp(MODEL.astype("longdouble"), TOKENS, TARGETS, V),
            "hvp: the model is of .*, expected float32 or float64",
        ),
        (lambda: calculus.hvp(MODEL, TOKENS + 7, TARGETS, V), "tokens has"),
        (lambda: calculus.gauss_newton(MODEL, TOKENS, TARGETS[:, 1:], V), "targets: have shape"),
        (lambda: calculus.gauss_newton(MODEL, TOKENS, TARGETS * 0 - 1, V), "no target counts"),
        (
            lambda: calculus.jvp(MODEL, TOKENS, V, TARGETS, "lm_head"),
            "jvp: targets and a name are both given, expected one",
        ),
        (
            lambda: calculus.jvp(MODEL, TOKENS, V, name="h.9"),
            "jvp: there is no value 'h.9', expected a name such as",
        ),
        (
            lambda: calculus.vjp(MODEL, TOKENS, np.ones((2, 4, 7)), name="h.9"),
            "there is no value 'h.9', expected a name such as",
        ),
        (
            lambda: calculus.vjp(MODEL, TOKENS, np.ones((2, 4))),
            r"vjp: the gradient of 'lm_head' has shape \(2, 4\), expected \(2, 4, 7\) as the value",
        ),
        (
            lambda: calculus.vjp(MODEL, TOKENS, np.ones((2, 4, 7)) * 1j),
            "vjp: the gradient of 'lm_head' is complex128, expected real numbers",
        ),
        (
            lambda: calculus.vjp(MODEL, TOKENS, np.ones((2, 4)), name="h.0"),
            r"vjp: the gradient of 'h.0' has shape \(2, 4\), expected \(2, 4, 6\) as the value",
        ),
        (
            lambda: calculus.per_example_gradients(MODEL, TOKENS, [[-1] * 4, [1] * 4]),
            "no target counts in row 0",
        ),
        (
            lambda: calculus.per_example_gradients(MODEL, TOKENS, TARGETS * 0 - 1, share=True),
            "no target counts,",
        ),
        (
            lambda: calculus.gradient_noise_scale(MODEL, TOKENS[:1], TARGETS[:1]),
            "noise_scale: 1 example, expected at least two",
        ),
        (lambda: calculus.noise_scale([V, V[1:]]), "noise_scale: gradient 1 has"),
        (
            lambda: calculus.hessian(LARGE, TOKENS, TARGETS),
            "hessian: the model has 100,864 parameters, expected at most 4,096",
        ),
        (
            lambda: calculus.top_eigenvalues(MODEL, TOKENS, TARGETS, operator="adam"),
            "operator is 'adam', expected one of hessian, gauss_newton",
        ),
        (
            lambda: calculus.top_eigenvalues(MODEL, TOKENS, TARGETS, solver="qr"),
            "solver is 'qr', expected one of lanczos, scipy",
        ),
        (
            lambda: calculus.top_eigenvalues(MODEL, TOKENS, TARGETS, which="top"),
            "which is 'top', expected one of largest, smallest, magnitude",
        ),
        (lambda: calculus.top_eigenvalues(MODEL, TOKENS, TARGETS, k=0), "k is 0, expected 1 to"),
    ],
)
def test_what_cannot_be_used_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_row_without_a_target_has_a_share_of_zero():
    first, second = calculus.per_example_gradients(MODEL, TOKENS, [[-1] * 4, [1] * 4], share=True)
    assert not first.flat.any()
    assert second.flat.any()
