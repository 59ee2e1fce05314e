"""A whole and its steps, names by pattern, and other ops at a name."""

import dataclasses

import numpy as np
import pytest

import numgpt
from numgpt import engine, ops
from numgpt.architecture.parameters import Flat
from numgpt.architecture.patterns import Patterns, matching
from numgpt.errors import InputError
from numgpt.layers.heads import STEPS
from numgpt.layers.layer import Layer
from numgpt.layers.record import Record
from numgpt.layers.transformer import loss_backward, loss_forward

SMALL = {"vocab_size": 7, "block_size": 6, "n_layer": 2, "n_head": 4, "n_embd": 8}
FORMS = {
    "GPT-2": {},
    "GPT-1": {"norm_position": "post"},
    "grouped": {"n_kv_head": 2},
    "windows": {"window": 2},
    "capped": {"softcap": 1.5},
    "windows in turns": {"layers": ({"window": 2}, {})},
    "dropout": {"dropout": 0.3},
    "all": {"n_kv_head": 1, "window": 3, "softcap": 2.0, "dropout": 0.2, "head_dim": 3},
}
TOKENS = np.array([[0, 1, 2, 3, 4, 5], [6, 5, 4, 0, 1, 1]])
TARGETS = np.array([[1, 2, 3, 4, 5, 6], [5, -1, 0, 1, 1, 2]])
ENGINES = ("reference", "numba")


@pytest.fixture(params=ENGINES)
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


def model_of(form="GPT-2", **changes):
    config = numgpt.Config(**SMALL | FORMS[form] | changes)
    model = numgpt.GPT(config, seed=1, dtype="float64")
    model.params.flat[...] += 0.3 * np.random.default_rng(0).standard_normal(model.n_params)
    return model


def run(model, **options):
    """The record of a training step's forward and backward."""
    record = Record(model.params, model.config, grads=model.params.like(), seed=3, step=5, **options)
    with engine.session("float64"):
        loss = loss_forward(record, TOKENS, TARGETS)
        record.check_names()
        loss_backward(record, np.ones_like(loss))
    return loss, record


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_and_its_steps_agree(form, on_engine):
    model = model_of(form)
    whole, steps = run(model), run(model, keep=True)
    assert abs(whole[0] - steps[0]) <= 1e-13 * abs(steps[0])
    scale = abs(steps[1].grads.flat).max()
    assert abs(whole[1].grads.flat - steps[1].grads.flat).max() <= 1e-13 * scale
    filed = [n for n in steps[1].ops if n.startswith("h.0.attn.heads.")]
    assert filed == [f"h.0.attn.heads.{step}" for step in STEPS]
    assert not any(n.startswith("h.0.attn.heads.") for n in whole[1].ops)


def test_a_step_has_a_value_a_gradient_and_an_edit(on_engine):
    model = model_of()
    record = model.record(TOKENS, TARGETS)
    probs = record.value["h.1.attn.heads.probs"]
    assert probs.shape == (2, 4, 6, 6)
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-14)
    assert not probs[..., 0, 1:].any()
    name, place, h = "h.0.attn.heads.scores", (1, 2, 4, 1), 1e-6

    def moved(by):
        def shift(a):
            a = a.copy()
            a[place] += by
            return a

        return float(model.record(TOKENS, TARGETS, edit={name: (shift, lambda dy: dy)}).value["loss"])

    difference = (moved(h) - moved(-h)) / (2 * h)
    assert abs(difference - record.grad[name][place]) < 1e-9


def test_an_edit_of_a_step_changes_what_follows_it(on_engine):
    model = model_of("grouped")
    edited = model.record(TOKENS, TARGETS, edit={"h.0.attn.heads.probs": lambda a: 0 * a})
    assert not edited.value["h.0.attn.heads.mix"].any()
    assert edited.value["h.1.attn.heads.mix"].any()


@pytest.mark.parametrize("form", ["GPT-2", "grouped", "windows"])
def test_nothing_of_t_by_t_is_held_where_nobody_looks(form, on_engine):
    T = 64
    model = model_of(form, block_size=T)
    tokens = np.zeros((1, T), int)
    record = Record(model.params, model.config, grads=model.params.like())
    with engine.session("float64"):
        loss_forward(record, tokens, tokens)
    arrays = [a for entry in record._entries.values() for a in flattened(entry.saved)]
    assert not [a.shape for a in arrays if a.ndim > 2 and a.shape[-2:] == (T, T)]


def flattened(saved):
    """All arrays in nested tuples."""
    if isinstance(saved, np.ndarray):
        yield saved
    elif isinstance(saved, tuple):
        for part in saved:
            yield from flattened(part)


def test_what_is_kept_by_pattern_is_all_that_is_kept(on_engine):
    model = model_of()
    wanted = ["h.*.attn.heads.probs", "h.1.mlp.act", "h.*.mlp.c_fc.weight"]
    record, every = model.record(TOKENS, TARGETS, keep=wanted), model.record(TOKENS, TARGETS)
    assert list(record.value) == ["h.0.attn.heads.probs", "h.1.attn.heads.probs", "h.1.mlp.act"]
    assert sorted(record.grad) == sorted([*record.value, "h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"])
    for name in record.value:
        np.testing.assert_allclose(record.value[name], every.value[name], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(record.grad[name], every.grad[name], rtol=1e-11, atol=1e-15)
    assert not record._entries, "what the backward has read is let go"


def test_a_pattern_that_matches_nothing_is_refused_with_names_that_are_near():
    model = model_of()
    with pytest.raises(
        InputError, match=r"keep: no name fits 'h.0.attn.head.probs', expected a pattern of names such as"
    ):
        model.record(TOKENS, keep=["h.0.attn.head.probs"])
    with pytest.raises(InputError, match=r"^keep: there is no pattern, expected at least one"):
        model.record(TOKENS, TARGETS, keep=[])
    with pytest.raises(InputError, match=r"grads: no name fits 'h.9.\*'"):
        model.loss_and_grads(TOKENS, TARGETS, grads="h.9.*")
    with pytest.raises(InputError, match=r"edit: there is no value 'h.0.attn.heads.cap'"):
        model.record(TOKENS, edit={"h.0.attn.heads.cap": lambda a: a})


def test_a_pattern_says_whether_names_below_one_may_fit_it():
    names = ["wte", "h.0.mlp.act", "h.0.mlp.c_fc", "h.10.mlp.act", "h.0"]
    assert matching("keep", ["h.*.mlp.act"], names) == ("h.0.mlp.act", "h.10.mlp.act")
    patterns = Patterns(["h.1.*.act", "wte", "h.2.mlp.c_fc"])
    assert patterns.below("h.1") and patterns.below("h.1.mlp") and patterns.below("h.2")
    assert not patterns.below("h.0") and not patterns.below("wte") and not patterns.below("h.2.mlp.c_fc")


@pytest.mark.parametrize("form", ["GPT-2", "grouped"])
def test_gradients_by_pattern_are_those_of_all(form, on_engine):
    model = model_of(form)
    loss, every = model.loss_and_grads(TOKENS, TARGETS)
    again, some = model.loss_and_grads(TOKENS, TARGETS, grads=["h.1.mlp.*.weight", "wpe.weight"])
    assert list(some) == ["wpe.weight", "h.1.mlp.c_fc.weight", "h.1.mlp.c_proj.weight"]
    for name in some:
        np.testing.assert_allclose(some[name], every[name], rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(loss, again, rtol=1e-13)


def test_a_frozen_matrix_costs_no_product(on_engine):
    model = model_of()
    asked = []

    def backward(dy, saved, wanted=(True, True)):
        asked.append(wanted)
        return ops.linear.backward(dy, saved, wanted)

    spy = dataclasses.replace(ops.linear, backward=backward)
    served = numgpt.GPT(model.config, dtype="float64", params=model.params, served={"h.*.mlp.c_fc": spy})
    served.loss_and_grads(TOKENS, TARGETS, grads=["h.1.mlp.c_fc.weight"])
    assert asked == [(True, False), (False, False)]


# Another op at a name.


def low_rank(rank=2, dims=(8, 32)):
    """y = x W + b + (x A) B, of which the model knows nothing: a Layer over four parameters."""

    def forward(r, x):
        y = r("base", ops.linear, x, shares=r.scope.rstrip("."))
        return r("sum", ops.add, y, r("up", ops.linear, r("down", ops.linear, x)))

    def backward(r, dy):
        dy, dlow = r.back("sum", dy)
        return r.back("base", dy) + r.back("down", r.back("up", dlow))

    shapes = {"down.weight": (dims[0], rank), "up.weight": (rank, dims[1])}
    return Layer(forward, backward), shapes


def with_adapters(model, names):
    layer, shapes = low_rank()
    more = {f"{name}.{n}": shape for name in names for n, shape in shapes.items()}
    params = Flat(model.params.shapes | more, "float64")
    rng = np.random.default_rng(4)
    for name in params:
        params[name] = model.params[name] if name in model.params else rng.standard_normal(params[name].shape)
    return numgpt.GPT(model.config, dtype="float64", params=params, served=dict.fromkeys(names, layer))


def derivative(model, names, direction, h=1e-30):
    """Of the loss along a direction of some parameters, by the complex step."""
    params = model.params.astype("complex128")
    for name in names:
        params[name] = params[name] + 1j * h * direction[name]
    moved = numgpt.GPT(model.config, dtype="complex128", params=params, served=model.served)
    return float(np.imag(moved.loss(TOKENS, TARGETS))) / h


@pytest.mark.parametrize("form", ["GPT-2", "grouped"])
def test_a_served_adapter_has_exact_gradients_and_its_base_may_be_frozen(form, on_engine):
    model = with_adapters(model_of(form), ["h.0.mlp.c_fc", "h.1.mlp.c_fc"])
    _, grads = model.loss_and_grads(TOKENS, TARGETS, grads=["*.down.weight", "*.up.weight"])
    assert len(grads) == 4
    rng = np.random.default_rng(5)
    direction = {name: rng.standard_normal(g.shape) for name, g in grads.items()}
    product = sum(float((grads[n] * direction[n]).sum()) for n in grads)
    assert abs(product - derivative(model, grads, direction)) < 1e-13 * max(1, abs(product))
    tokens = model.generate(TOKENS[:, :2], 4, temperature=0)
    again = TOKENS[:, :2]
    for _ in range(4):
        again = np.concatenate([again, model(again)[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(tokens, again)


def test_a_served_mask_on_a_matrix_trains_what_it_leaves(on_engine):
    model = model_of()
    keep = np.random.default_rng(6).random((8, 32)) < 0.5

    def forward(x, weight, bias=None):
        y, saved = ops.linear.forward(x, weight * keep, bias)
        return y, saved

    def backward(dy, saved):
        dx, dweight, dbias = ops.linear.backward(dy, saved)
        return dx, dweight * keep, dbias

    masked = dataclasses.replace(ops.linear, forward=forward, backward=backward)
    pruned = numgpt.GPT(model.config, dtype="float64", params=model.params, served={"h.*.mlp.c_fc": masked})
    _, grads = pruned.loss_and_grads(TOKENS, TARGETS)
    assert not grads["h.0.mlp.c_fc.weight"][~keep].any() and grads["h.0.mlp.c_fc.weight"][keep].all()
    zeroed = model.astype("float64")
    for i in range(2):
        zeroed.params[f"h.{i}.mlp.c_fc.weight"] *= keep
    np.testing.assert_allclose(pruned.loss(TOKENS, TARGETS), zeroed.loss(TOKENS, TARGETS), rtol=1e-14)


def test_a_planted_fault_shows_in_the_gradient(on_engine):
    model = model_of()
    wrong = dataclasses.replace(ops.gelu_tanh, backward=lambda dy, saved: (dy,))
    faulty = numgpt.GPT(model.config, dtype="float64", params=model.params, served={"h.1.mlp.act": wrong})
    _, right = model.loss_and_grads(TOKENS, TARGETS)
    _, grads = faulty.loss_and_grads(TOKENS, TARGETS)
    np.testing.assert_allclose(grads["h.1.mlp.c_proj.weight"], right["h.1.mlp.c_proj.weight"], rtol=1e-11)
    assert abs(grads["h.1.mlp.c_fc.weight"] - right["h.1.mlp.c_fc.weight"]).max() > 1e-3


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (
            {"h.0.mlp.akt": ops.relu},
            r"served: no name fits 'h.0.mlp.akt', expected a pattern of names such as h.0.mlp.act",
        ),
        ({"h.0.mlp.act": np.tanh}, r"served is .*, expected a mapping, each value an Op or a Layer"),
        ({"h.0.ln_1": ops.relu}, r"served: relu_forward at 'h.0.ln_1' does not take eps"),
        ({"h.0.mlp.act": ops.unembedding}, r"served: 'h.0.mlp.act': unembedding: weight is missing"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(served, message):
    model = model_of()
    with pytest.raises(InputError, match=message):
        numgpt.GPT(model.config, dtype="float64", params=model.params, served=served).loss(TOKENS, TARGETS)


def test_a_served_op_of_another_shape_is_refused():
    model = model_of()
    half = dataclasses.replace(
        ops.relu, line="...C -> ...C", forward=lambda x: (x[..., ::2], ()), backward=lambda dy, saved: (dy,)
    )
    faulty = numgpt.GPT(model.config, dtype="float64", params=model.params, served={"h.0.mlp.act": half})
    with pytest.raises(
        InputError, match=r"served: 'h.0.mlp.act' gives shape \(2, 6, 16\), expected \(2, 6, 32\)"
    ):
        faulty.loss(TOKENS, TARGETS)


def misfit(**changes):
    """GELU with another forward or backward."""
    return dataclasses.replace(ops.gelu_tanh, **changes)


@pytest.mark.parametrize(
    ("name", "op", "message"),
    [
        ("mlp.act", ops.add, r"served: add_forward at 'h.0.mlp.act': missing a required argument: 'y'"),
        ("mid", ops.relu, r"served: relu_forward at 'h.0.mid': too many positional arguments.*, 2 arrays"),
        ("attn.turned", ops.rotary, r"'h.0.attn.turned': missing a required argument: 'n_head'"),
        (
            "mlp",
            Layer(lambda r, x, y: x, lambda r, dy: dy),
            r"served: <lambda> at 'h.0.mlp': missing a required argument: 'y'",
        ),
        (
            "mlp.act",
            Layer(lambda r, x: r("sum", ops.add, x), lambda r, dy: r.back("sum", dy)),
            r"served: 'h.0.mlp.act': add: arrays given: 1, expected 2: \.\.\., \.\.\. -> \.\.\.",
        ),
        ("mlp.act", misfit(forward=lambda x: x), r"at 'h.0.mlp.act': the forward gave ndarray, expected a p"),
        (
            "mlp.act",
            misfit(forward=lambda x: (x.astype("float32"), x)),
            r"served: 'h.0.mlp.act' gives float32, expected float64 as the arrays that it reads",
        ),
        (
            "mlp.act",
            misfit(backward=lambda dy, saved: (dy[..., :1],)),
            r"^gelu_tanh at 'h.0.mlp.act': the backward gave float64 of shape \(2, 6, 1\) for x, expected"
            r" float64 of shape \(2, 6, 32\)$",
        ),
        (
            "mlp.act",
            misfit(backward=lambda dy, saved: (dy.astype("float32"),)),
            r"at 'h.0.mlp.act': the backward gave float32 of shape \(2, 6, 32\) for x, expected float64 of",
        ),
        (
            "mlp.act",
            misfit(backward=lambda dy, saved: dy),
            r"the backward gave ndarray, expected a tuple of 1",
        ),
        (
            "mlp.act",
            misfit(backward=lambda dy, saved: (dy, dy)),
            r"the backward gave 2 things, expected a tu",
        ),
        (
            "mlp.c_fc",
            dataclasses.replace(ops.linear, backward=lambda dy, saved: (dy @ saved[1].T, None, None)),
            r"linear at 'h.0.mlp.c_fc': the backward gave NoneType for weight, expected float64 of shape \(8",
        ),
    ],
)
def test_a_served_pair_that_does_not_fit_is_one_line_that_names_it(name, op, message, on_engine):
    model = model_of()
    faulty = numgpt.GPT(model.config, dtype="float64", params=model.params, served={f"h.0.{name}": op})
    with pytest.raises(InputError, match=message):
        faulty.loss_and_grads(TOKENS, TARGETS)


def test_what_is_served_may_be_constant_and_its_derivative_then_is_0(on_engine):
    model = model_of()
    ones = misfit(
        forward=lambda x: (np.ones_like(x.real), ()), backward=lambda dy, saved: (np.zeros_like(dy),)
    )
    model = numgpt.GPT(model.config, dtype="float64", params=model.params, served={"h.1.mlp.act": ones})
    _, grads = model.loss_and_grads(TOKENS, TARGETS)
    direction = {name: np.ones_like(g) for name, g in grads.items()}
    assert not grads["h.1.mlp.c_fc.weight"].any()
    assert abs(sum(g.sum() for g in grads.values()) - derivative(model, grads, direction)) < 1e-12


def test_a_parameter_that_nothing_uses_has_gradient_0_in_the_record(on_engine):
    model = model_of()
    served = {"h.*.ln_1": ops.standardise}
    model = numgpt.GPT(model.config, dtype="float64", params=model.params, served=served)
    record = model.record(TOKENS, TARGETS)
    assert set(model.params) <= set(record.grad)
    assert not record.grad["h.0.ln_1.weight"].any() and record.grad["h.0.ln_2.weight"].any()
    few = model.record(TOKENS, TARGETS, keep=["h.0.ln_?.weight", "h.1.*.bias"])
    assert "h.1.ln_1.weight" not in few.grad and not few.grad["h.1.ln_1.bias"].any()


def test_a_model_with_served_ops_is_not_saved_without_them(tmp_path):
    model = model_of()
    served = numgpt.GPT(model.config, dtype="float64", params=model.params, served={"h.0.mlp.act": ops.relu})
    with pytest.raises(InputError, match=r"save: other ops are served at h.0.mlp.act"):
        served.save(tmp_path / "m")
