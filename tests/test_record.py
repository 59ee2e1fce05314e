"""The Record: names, edits in flight, what is kept and what is let go."""

import copy
import pickle

import numpy as np
import pytest

from numgpt import GPT, Config, InputError, Record, ops
from numgpt.layers.transformer import loss_backward, loss_forward
from numgpt.ops import layernorm, linear
from numgpt.proofs.subjects import SMALL, VARIANTS

TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, 2, 5))
H = 1e-30


@pytest.fixture
def model():
    model = GPT(Config(**SMALL), seed=0, dtype="float64")
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.params.flat.shape)
    return model


def test_every_value_and_every_gradient_has_a_name(model):
    record = model.record(TOKENS, TARGETS)
    assert {
        "wte",
        "wpe",
        "h.0",
        "h.1.attn.heads",
        "h.1.mlp.act",
        "h.1.mlp",
        "ln_f",
        "lm_head",
        "loss",
    } <= set(record.value)
    assert set(record.grad) == set(record.value) | set(model.params)
    for name, value in record.value.items():
        assert record.grad[name].shape == value.shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_model_files_the_same_names_and_none_where_a_step_is_absent(variant, model):
    """The layers are straight lines: a model that lacks a step says so under the step's name.

    Blocks that have their norms elsewhere are other lines, and so are experts: these are left out.
    """
    config = Config(**SMALL | VARIANTS[variant])
    ops = GPT(config, seed=0).record(TOKENS, TARGETS).ops
    of_gpt2 = model.record(TOKENS, TARGETS).ops
    others = ("ln_1", "ln_1_out", "ln_2", "ln_2_out")
    mixtures = tuple(f"{scope}mlp." for scope, kind in config.scopes().items() if kind.n_expert)
    found, expected = (
        {name for name in named if not name.endswith(others) and not name.startswith(mixtures)}
        for named in (ops, of_gpt2)
    )
    assert found == expected
    assert (ops["ln_f"] is None) == (config.norm_position == "post")


def test_the_record_agrees_with_the_plain_run(model):
    record, (loss, grads) = model.record(TOKENS, TARGETS), model.loss_and_grads(TOKENS, TARGETS)
    # Attention step by step adds up in another order than its kernels.
    np.testing.assert_allclose(record.value["loss"], loss, rtol=1e-13)
    np.testing.assert_allclose(record.value["lm_head"], model(TOKENS), rtol=1e-13, atol=1e-14)
    for name in grads:
        np.testing.assert_allclose(record.grad[name], grads[name], rtol=1e-11, atol=1e-14)


def test_the_gradient_of_every_value_is_what_the_complex_step_says(model):
    """For each name, adding t·v to that value changes the loss by t·⟨gradient, v⟩."""
    record = model.record(TOKENS, TARGETS)
    complex_model = model.astype("complex128")
    rng = np.random.default_rng(1)
    for name, value in record.value.items():
        v = rng.standard_normal(value.shape)
        moved = _loss_record(complex_model, {name: lambda a, v=v: a + 1j * H * v})
        expected = moved.value["loss"].imag / H
        assert np.isclose((record.grad[name] * v).sum(), expected, rtol=1e-11, atol=1e-15), name


def _loss_record(model, edit):
    record = Record(model.params, model.config, keep=True, edit=edit)
    loss_forward(record, TOKENS, TARGETS)
    return record


def test_an_edit_changes_what_follows_and_nothing_before(model):
    plain, edited = model.record(TOKENS), model.record(TOKENS, edit={"h.1.mlp.act": lambda a: 0 * a})
    assert (edited.value["h.1.mlp.act"] == 0).all()
    assert np.array_equal(edited.value["h.1.mlp.c_fc"], plain.value["h.1.mlp.c_fc"])
    assert not np.array_equal(edited.value["h.1"], plain.value["h.1"])
    assert np.array_equal(plain.value["lm_head"], model.record(TOKENS).value["lm_head"])


EDITS = {
    "ablation": lambda a: 0 * a,
    "scaling": lambda a: 1.5 * a,
    "steering": lambda a: a + np.linspace(-1, 1, a.shape[-1]),
    "one head": lambda a: np.concatenate([0 * a[..., :3], a[..., 3:]], -1),
    "squashing": lambda a: np.tanh(a),
    "writing into its argument": lambda a: np.multiply(a, 2, out=a),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
@pytest.mark.parametrize("name", ["h.0.attn.heads", "h.1.ln_2", "h.0", "wpe"])
def test_gradients_of_an_edited_model_are_exact(model, edit, name):
    record = model.record(TOKENS, TARGETS, edit={name: edit})
    rng = np.random.default_rng(2)
    moved = model.astype("complex128")
    v = {n: rng.standard_normal(p.shape) for n, p in model.params.items()}
    for n, p in moved.params.items():
        p += 1j * H * v[n]
    expected = _loss_record(moved, {name: edit}).value["loss"].imag / H
    terms = [record.grad[n] * v[n] for n in v]
    assert abs(sum(t.sum() for t in terms) - expected) <= 1e-13 * sum(abs(t).sum() for t in terms)


def test_a_patch_from_another_run_stops_the_gradient_there(model):
    other = model.record(TOKENS[::-1]).value["h.0"]
    record = model.record(TOKENS, TARGETS, edit={"h.0": lambda a: other})
    assert np.array_equal(record.value["h.0"], other)
    assert (record.grad["h.0.mlp"] == 0).all() and (record.grad["h.1.mlp"] != 0).any()


def test_an_edit_that_mixes_entries_needs_its_own_transpose(model):
    def mean(a):
        return 0 * a + a.mean(1, keepdims=True)

    with pytest.raises(InputError, match=r"edit: 'h.0.mlp' mixes entries.*give a pair"):
        model.record(TOKENS, TARGETS, edit={"h.0.mlp": mean})
    record = model.record(TOKENS, TARGETS, edit={"h.0.mlp": (mean, mean)})  # the mean is its own transpose
    moved = model.astype("complex128")
    v = np.random.default_rng(3).standard_normal(moved.params["h.0.mlp.c_fc.weight"].shape)
    moved.params["h.0.mlp.c_fc.weight"] += 1j * H * v
    expected = _loss_record(moved, {"h.0.mlp": mean}).value["loss"].imag / H
    assert np.isclose((record.grad["h.0.mlp.c_fc.weight"] * v).sum(), expected, rtol=1e-11)


@pytest.mark.parametrize(
    "edit", [np.abs, lambda a: a * np.sign(a), lambda a: 2 * a.real, lambda a: a / np.maximum(np.abs(a), 0.1)]
)
def test_an_edit_that_hides_from_the_complex_step_is_refused_not_differentiated_wrongly(model, edit):
    with pytest.raises(InputError, match="edit: 'h.0.mlp' does not let complex numbers through"):
        model.record(TOKENS, TARGETS, edit={"h.0.mlp": edit})


def test_an_edit_of_a_gradient_reaches_what_came_before(model):
    record = model.record(TOKENS, TARGETS, edit_grad={"h.1": lambda g: 0 * g})
    assert (record.grad["h.1"] == 0).all() and (record.grad["h.0.mlp.c_fc.weight"] == 0).all()
    assert (record.grad["ln_f.weight"] != 0).any()


@pytest.mark.parametrize(
    "edit, message",
    [
        ({"h.9.mlp": lambda a: a}, "there is no value 'h.9.mlp', expected a name such as h.0.mlp, h.1.mlp"),
        ({"h.0": lambda a: a[:1]}, r"edit: 'h.0' returned shape \(1, 5, 6\), expected \(2, 5, 6\)"),
        ({"h.0": 3}, "edit: 'h.0' is int, expected a function or a pair"),
    ],
)
def test_an_edit_that_cannot_be_used_is_named(model, edit, message):
    with pytest.raises(InputError, match=message):
        model.record(TOKENS, TARGETS, edit=edit)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_memory_is_let_go_as_the_backward_proceeds(changes):
    model = GPT(Config(**SMALL | changes))
    held = []

    class Watched(Record):
        def back(self, name, dy):
            held.append(self.saved_bytes())
            return super().back(name, dy)

    record = Watched(model.params, model.config, grads=model.params.like(), step=0)
    loss = loss_forward(record, TOKENS, TARGETS)
    loss_backward(record, np.ones_like(loss))
    assert not record.value and not record.grad
    assert held == sorted(held, reverse=True) and held[0] > 10 * held[-1]
    assert record.saved_bytes() == 0


def test_a_record_shows_what_it_has_kept_as_a_table(model):
    record = model.record(TOKENS, TARGETS)
    title, head, *rows = repr(record).splitlines()
    values, gradients = len(record.value), len(record.grad)
    assert title == f"Record: {values} names filed, {values} values and {gradients} gradients kept"
    assert head.split() == ["name", "value", "gradient"] and len(rows) < len(record.grad)
    assert rows[0].split() == ["wte", "float64", "(2,", "5,", "6)", "float64", "(2,", "5,", "6)"]
    assert rows[-1].split(maxsplit=1) == ["wte.weight", "float64 (7, 6)"]  # of a parameter, a gradient only
    assert sum("…" in row for row in rows) == 1
    assert repr(Record({}, None)) == "Record: 0 names filed, 0 values and 0 gradients kept"


@pytest.mark.parametrize(
    "name, near",
    [
        ("h.0.mlp.akt", {"h.0.mlp.act", "h.1.mlp.act"}),  # spelled alike
        ("heads", {"h.0.attn.heads", "h.1.attn.heads"}),  # the last part of a name
        ("?", set()),  # nothing is like it: any name shows what names look like
    ],
)
def test_a_missing_name_is_a_key_error_that_suggests_near_ones(model, name, near):
    record = model.record(TOKENS, TARGETS)
    for kind, arrays in (("value", record.value), ("gradient", record.grad)):
        with pytest.raises(KeyError) as error:
            arrays[name]
        message, names = error.value.args[0].split(", expected a name such as ")
        assert message == f"there is no {kind} {name!r}" and near <= set(names.split(", ")) <= set(arrays)
        assert arrays.get(name) is None and name not in arrays and arrays.pop(name, 0) == 0


def test_where_nothing_was_kept_the_key_error_says_so(model):
    record = Record(model.params, model.config)
    with pytest.raises(
        KeyError, match="there is no gradient 'wte': none was kept, expected a run with keep=True"
    ):
        record.grad["wte"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_what_is_kept_can_be_copied_pickled_and_changed_as_a_dict(model, copied):
    value = model.record(TOKENS).value
    other = copied(value)
    assert list(other) == list(value) and all(np.array_equal(other[n], value[n]) for n in value)
    del other["wte"]
    with pytest.raises(KeyError, match="there is no value 'wte', expected a name such as"):
        other["wte"]
    assert "wte" in value and isinstance(value, dict) and value == {**value}


def test_scopes_name_what_is_below_them():
    rng = np.random.default_rng(0)
    params = {
        "a.b.fc.weight": rng.standard_normal((3, 2)),
        "a.b.fc.bias": rng.standard_normal(2),
        "a.ln.weight": np.ones(3),
    }
    grads = {n: np.empty_like(p) for n, p in params.items()}
    r = Record(params, None, keep=True, grads=grads)
    y = (r / "a" / "b")("fc", linear, (r / "a")("ln", layernorm, rng.standard_normal((4, 3))))
    assert list(r.value) == ["a.ln", "a.b.fc"]
    (r / "a").back("ln", (r / "a" / "b").back("fc", np.ones_like(y)))
    assert set(r.grad) == {"a.ln", "a.b.fc", *params}
    assert (grads["a.b.fc.bias"] == 4).all()


def test_a_pattern_serves_the_steps_that_there_are_and_a_name_an_absent_one(model):
    double = ops.Op("... -> ...", lambda x, **options: (2 * x, ()), lambda dy, saved: (2 * dy,))
    served = GPT(model.config, params=model.params, served={"*scale": double}).record(TOKENS).ops
    assert served["embed_scale"] is None and served["h.0.attn.scale"] is None
    served = GPT(model.config, params=model.params, served={"embed_scale": double}).record(TOKENS).ops
    assert served["embed_scale"] is double
