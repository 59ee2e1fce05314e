"""Traces: every value has letters, steps and costs that hold, gradients in parts that add up to the whole."""

import collections
import math
import re

import numpy as np
import pytest

import numgpt
from numgpt import GPT, AdamW, Config, InputError, Trace, ops, parity
from numgpt.model.accounting import flops_per_token
from numgpt.ops.attention import attend_groups
from numgpt.ops.cost import cost
from numgpt.ops.formula import formula
from numgpt.proofs.subjects import SMALL, VARIANTS
from numgpt.traces import Reference
from numgpt.traces.axes import size_of

TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, 2, 5))
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


def model_of(changes, dtype="float64"):
    model = GPT(Config(**SMALL | changes), seed=0, dtype=dtype)
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.params.flat.shape)
    return model


# Letters.


@every_variant
def test_the_letters_of_every_value_and_parameter_multiply_out_to_its_shape(changes):
    trace = model_of(changes).record(TOKENS, TARGETS).trace()
    assert set(trace.axes) == set(trace.names)
    for name in trace.names:
        assert tuple(size_of(axis, trace.sizes) for axis in trace.axes[name]) == trace.grad[name].shape, name


def test_an_axis_is_called_by_who_made_it_or_who_reads_it():
    axes = model_of({}).record(TOKENS, TARGETS).trace().axes
    assert axes["wte"] == axes["h.0.ln_1"] == ("B", "T", "C")
    assert axes["wte.weight"] == ("V", "C")
    assert axes["wpe.weight"] == ("P", "C")
    assert axes["h.0.mlp.c_fc.weight"] == ("C", "F")
    assert axes["h.0.mlp.act"] == ("B", "T", "F")
    assert axes["lm_head"] == ("B", "T", "V")
    assert axes["loss"] == ()


@pytest.mark.parametrize(
    ("shape", "axes"), [((5,), ("T", "C")), ((2, 5), ("B", "T", "C")), ((3, 2, 5), ("B1", "B", "T", "C"))]
)
def test_leading_axes_are_those_of_the_tokens(shape, axes):
    tokens = np.zeros(shape, int)
    trace = model_of({}).record(tokens, tokens).trace()
    assert trace.axes["h.1"] == axes
    assert all(size_of(a, trace.sizes) == size for a, size in zip(axes, trace.value["h.1"].shape))


@pytest.mark.parametrize(
    ("axis", "size"),
    [("3HD", 24), ("KGD+2KD", 48), ("B1", 7), ("12", 12), ("", None), ("Q", None), ("H+", None), ("h", None)],
)
def test_the_size_of_an_axis_is_that_of_its_letters(axis, size):
    assert size_of(axis, {"H": 2, "D": 4, "K": 3, "G": 2, "B1": 7}) == size


# Steps.


@every_variant
def test_a_step_reads_what_was_there_before_and_its_backward_writes_their_gradients(changes):
    trace = model_of(changes).record(TOKENS, TARGETS, step=0 if changes.get("dropout") else None).trace()
    seen = {"tokens", "targets", *trace.parameters}
    for name, step in trace.steps.items():
        if name.endswith(".mlp.route"):  # between it and the scores a layer chooses
            seen.add(name.replace("route", "chosen"))
        assert set(step.reads) <= seen, name
        assert set(step.backward_reads) <= seen | {name}, name
        assert set(step.backward_writes) == ({*step.reads} - {*trace.ids}) | {*step.parameters}
        seen.add(name)
    used = {n for step in trace.steps.values() for n in step.parameters}
    assert used == set(trace.parameters) == set(trace.grad) - set(trace.value) | used


def test_what_a_step_reads_is_what_changes_it():
    """An edit of one value changes those that read it, and those that read these, and no others."""
    model = model_of({})
    plain = model.record(TOKENS).trace()
    edited = model.record(TOKENS, edit={"h.1.ln_2": lambda a: a + 1}).trace()
    assert edited.edited == ("h.1.ln_2",)
    reached = {"h.1.ln_2"}
    for name, step in plain.steps.items():
        if reached & {*step.reads}:
            reached.add(name)
    changed = {n for n in plain.value if not np.array_equal(plain.value[n], edited.value[n])}
    assert {"h.1.mlp.c_fc", "h.1.mlp.act", "h.1.mlp"} <= reached <= changed


def test_a_backward_reads_what_its_forward_saved():
    steps = model_of({}).record(TOKENS, TARGETS).trace().steps
    assert steps["h.0.mlp.c_fc"].backward_reads == ("h.0.ln_2", "h.0.mlp.c_fc.weight")
    assert steps["lm_head"].parameters == steps["wte"].parameters == ("wte.weight",)
    assert steps["h.0.attn.c_attn"].reads == ("h.0.ln_1",)
    assert steps["loss"].reads == ("lm_head", "targets")


# Equations and costs.


@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
def test_every_op_has_the_equations_of_its_forward_and_of_its_backward(op):
    for function in (op.forward, op.backward):
        first, *_ = formula(function).splitlines()
        assert "=" in first and first in function.__doc__


def test_a_trace_has_the_equations_of_what_made_a_value():
    trace = model_of({}).record(TOKENS, TARGETS).trace()
    assert trace.formula("lm_head") == "y = x Wᵀ"
    assert "dx = dy W " in trace.formula("lm_head", backward=True)
    with pytest.raises(InputError, match=r"formula: no step made 'lm_heat', expected .* lm_head"):
        trace.formula("lm_heat")


@every_variant
def test_the_costs_of_all_steps_add_up_to_what_accounting_counts(changes):
    model = model_of(changes)
    costs = [s.cost for s in model.record(TOKENS, TARGETS).trace().steps.values() if s.cost is not None]
    per_token = sum(flops_per_token(model.config, T=TOKENS.shape[1]).values())
    assert sum(c.flops for c in costs) == TOKENS.size * per_token
    assert sum(c.backward_flops for c in costs) == 2 * TOKENS.size * per_token


def test_a_step_moves_the_bytes_of_its_arrays_and_saves_those_that_the_record_counts():
    record = model_of({}).record(TOKENS, TARGETS)
    trace = record.trace()
    step = trace.steps["h.0.mlp.c_fc"]
    names = (*step.reads, *step.parameters, "h.0.mlp.c_fc")
    assert step.cost.moved == sum(trace.value[n].nbytes for n in names)
    saved = sum(s.cost.saved for s in trace.steps.values() if s.cost is not None)
    assert saved >= record.saved_bytes() > 0  # what two steps save is counted twice here


def test_attention_costs_two_products_however_it_is_written():
    q = np.ones((2, 3, 5, 4))  # (B, H, T, D)
    of_heads = cost(ops.attend, [q, q, q], {}, q)
    qkv, y = np.ones((2, 5, 36)), np.ones((2, 5, 12))
    packed = cost(ops.attention, [qkv], {"n_head": 3}, y)
    k = q[:, :1]  # (B, K, T, D): one key for three queries
    grouped = cost(attend_groups, [q[:, None], k, k], {}, q)
    assert of_heads.flops == packed.flops == grouped.flops == 2 * 2 * (2 * 3 * 5 * 5 * 4)


# Gradients in parts.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_by_place_of_use_add_up_to_the_gradient_to_the_bit(dtype, each_engine):
    trace = model_of({}, dtype).record(TOKENS, TARGETS).trace()
    assert list(trace.parts) == ["wte.weight"]
    head, lookup = trace.parts["wte.weight"].values()
    assert list(trace.parts["wte.weight"]) == ["lm_head", "wte"]
    assert np.array_equal(head + lookup, trace.grad["wte.weight"])
    assert set(np.flatnonzero(lookup.any(1))) == set(TOKENS.flat)
    assert head.all()


def test_a_part_is_the_gradient_where_the_matrices_are_two():
    tied = model_of({})
    trace = tied.record(TOKENS, TARGETS).trace()
    untied = GPT(Config(**SMALL | {"tied": False}), dtype="float64")
    for name, array in untied.params.items():
        array[...] = tied.params["wte.weight" if name == "lm_head.weight" else name]
    apart = untied.record(TOKENS, TARGETS).trace()
    assert apart.parts == {}
    parts = trace.parts["wte.weight"]
    assert np.array_equal(parts["lm_head"], apart.grad["lm_head.weight"])
    assert np.array_equal(parts["wte"], apart.grad["wte.weight"])


# Finite differences.


@every_variant
def test_finite_differences_agree_with_gradients_as_far_as_their_width_allows(changes):
    """Rounding: each loss errs by some ε (loss + x dloss/dx); the cubic term: h² times a third derivative,
    large where a norm divides by what is small, as in OLMo 2.
    """
    record = model_of(changes).record(TOKENS, TARGETS, step=3 if changes.get("dropout") else None)
    trace = record.trace(differences=3)
    assert {d.name for d in trace.differences} == set(trace.names)
    loss, eps = float(trace.value["loss"]), np.finfo(float).eps
    assert loss > 1
    for d in trace.differences:
        assert d.gradient == trace.grad[d.name][d.index]
        assert d.distance <= 64 * eps * (loss + 1) / d.h + 20000 * d.h**2, d


def test_a_difference_is_printed_with_how_far_it_is_from_the_gradient():
    (one,) = (
        model_of({}).record(TOKENS, TARGETS).trace("ln_f.bias", differences={"ln_f.bias": (3,)}).differences
    )
    text = r"ln_f\.bias\[3\]: gradient -?[\d.e-]+, difference -?[\d.e-]+, \d\.\de-\d\d apart at h = 7.6e-06"
    assert re.fullmatch(text, str(one))


def test_a_difference_of_twice_the_width_is_four_times_as_far():
    record = model_of({}).record(TOKENS, TARGETS)
    entries = {"h.0.mlp.act": [(0, 1, 2), (1, 3, 0)], "h.1.ln_1.bias": [(2,)]}
    near, far = (record.trace(differences=entries, h=h).differences for h in (1e-3, 2e-3))
    for one, other in zip(near, far):
        assert (one.h, other.h) == (1e-3, 2e-3)
        assert other.distance / one.distance == pytest.approx(4, rel=0.1)


def test_of_several_widths_each_entry_has_the_difference_that_each_gives_alone():
    record = model_of({}).record(TOKENS, TARGETS)
    entries, widths = {"h.0.mlp.act": [(0, 1, 2), (1, 3, 0)], "wte.weight": [(2, 1)]}, (1e-2, 1e-4)
    together = record.trace(differences=entries, h=widths).differences
    apart = [record.trace(differences=entries, h=h).differences for h in widths]
    assert together == tuple(d for pair in zip(*apart) for d in pair)
    assert [d.h for d in together] == [*widths] * 3


def test_differences_find_a_gradient_that_is_wrong():
    record = model_of({}).record(TOKENS, TARGETS, edit_grad={"h.1.mlp.act": lambda g: 1.5 * g})
    wrong = {d.name: d.distance for d in record.trace(differences={"h.1.mlp.act": [(0, 0, 1)]}).differences}
    assert wrong["h.1.mlp.act"] > 1e-6


def test_differences_are_those_of_the_edited_run_and_leave_the_model_alone():
    model = model_of({})
    before = model.params.flat.copy()
    record = model.record(TOKENS, TARGETS, edit={"h.0.mlp.act": lambda a: a * a})
    trace = record.trace(["h.0.mlp.act", "wte.weight"], differences=4)
    assert max(d.distance for d in trace.differences) < 1e-8
    assert np.array_equal(model.params.flat, before)


@pytest.mark.parametrize(
    ("differences", "match"),
    [
        ({"h.0.mlp.atc": [(0, 0, 0)]}, r"'h.0.mlp.atc', .* expected a name such as h.0.mlp.act"),
        ({"h.0.mlp.act": [(0, 0)]}, r"\(0, 0\) of h.0.mlp.act, expected an index in its shape \(2, 5, 24\)"),
        ({"h.0.mlp.act": [(0, 5, 0)]}, r"expected an index in its shape"),
        ({"h.0.mlp.act": (0, 5, 0)}, r"\(0, 5, 0\) of h.0.mlp.act, expected an index in its shape"),
        (-1, r"differences is -1, expected a number of entries, or a mapping name -> indices"),
        ({"h.0.mlp.act": 3}, r"expected a number of entries, or a mapping name -> indices"),
        ({"h.0.mlp.act": [(0, 1.5, 0)]}, r"expected a number of entries, or a mapping name -> indices"),
    ],
)
def test_differences_that_cannot_be_taken_are_refused_in_one_line(differences, match):
    with pytest.raises(InputError, match=match):
        model_of({}).record(TOKENS, TARGETS).trace(differences=differences)


def test_differences_need_targets_and_real_numbers():
    with pytest.raises(InputError, match="expected a record with targets"):
        model_of({}).record(TOKENS).trace(differences=1)
    with pytest.raises(InputError, match="of real numbers, expected a model of float32 or float64"):
        model_of({}, "complex128").record(TOKENS, TARGETS).trace(differences=1)


# What stands beside.


def test_names_are_chosen_by_patterns_and_keep_their_order():
    record = model_of({}).record(TOKENS, TARGETS)
    trace = record.trace(["h.1.mlp.act", "h.*.ln_1", "wte.weight"])
    assert list(trace.value) == ["h.0.ln_1", "h.1.ln_1", "h.1.mlp.act", "wte.weight"]
    assert set(trace.steps) == {"h.0.ln_1", "h.1.ln_1", "h.1.mlp.act"}
    assert set(trace.ops) == {"layernorm", "gelu_tanh"}
    assert [row.name for row in record.table("h.*.ln_1").rows] == ["h.0.ln_1", "h.1.ln_1"]


def test_the_layer_of_attention_and_the_op_have_each_its_own_text():
    trace = model_of({}).record(TOKENS, TARGETS, keep=["h.0.attn", "h.0.attn.heads"]).trace()
    whole, layer = (trace.ops[trace.steps[name].op] for name in ("h.0.attn.heads", "h.0.attn"))
    assert whole.line and "earlier positions" in layer.forward and not layer.line


@pytest.mark.parametrize("ask", ["trace", "table"])
def test_a_name_that_is_not_there_is_one_line_with_those_that_are_near(ask):
    record = model_of({}).record(TOKENS, TARGETS)
    with pytest.raises(
        InputError, match=rf"^record.{ask}: no name fits 'h.0.mlp.Atc', expected .* such as h.0.mlp.act, "
    ):
        getattr(record, ask)(["wte", "h.0.mlp.Atc"])


def test_what_is_not_kept_is_not_in_the_trace_and_the_rest_is_as_it_was():
    model = model_of({})
    names = ["h.*.mlp.act", "wte.weight"]
    some, every = (model.record(TOKENS, TARGETS, **keep).trace() for keep in ({"keep": names}, {}))
    assert set(some.value) - set(some.parameters) == {"h.0.mlp.act", "h.1.mlp.act"}
    assert set(some.grad) == {"h.0.mlp.act", "h.1.mlp.act", "wte.weight"}
    for name, grad in some.grad.items():
        np.testing.assert_allclose(grad, every.grad[name], rtol=0, atol=1e-13 * abs(every.grad[name]).max())
    assert some.steps["h.1.mlp.act"] == every.steps["h.1.mlp.act"]
    head, lookup = some.parts["wte.weight"].values()
    assert np.array_equal(head + lookup, some.grad["wte.weight"])


def test_a_record_without_targets_has_values_alone():
    trace = model_of({}).record(TOKENS).trace()
    assert not trace.grad and not trace.parts and list(trace.ids) == ["tokens"]
    with pytest.raises(KeyError, match="gradient"):
        trace.grad["wte"]


def test_tokens_have_their_texts_where_a_tokenizer_says_them():
    model = GPT(Config(**SMALL), tokenizer=numgpt.tokenizers.Characters("abcdefg"))
    assert model.record([0, 2], [2, -1]).trace().texts == {0: "a", 2: "c"}
    other = numgpt.tokenizers.Characters("ABC")
    assert model.record([0, 2], [2, 6]).trace(tokenizer=other).texts == {0: "A", 2: "C"}
    assert model_of({}).record([0, 2]).trace().texts == {}


def test_a_trace_does_not_change_with_the_model():
    model = model_of({})
    record = model.record(TOKENS, TARGETS)
    optimizer = AdamW(model)
    optimizer.step(model.loss_and_grads(TOKENS, TARGETS)[1], lr=0.1)
    trace = record.trace(["wte", "wte.weight"], moments=optimizer.state())
    before = [a.copy() for a in (*trace.value.values(), *trace.moments["v"].values())]
    optimizer.step(model.loss_and_grads(TOKENS, TARGETS)[1], lr=0.1)
    after = [*trace.value.values(), *trace.moments["v"].values()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after))
    assert list(trace.moments["m"]) == ["wte.weight"]


@pytest.mark.parametrize(
    ("beside", "match"),
    [
        ({"moments": {"m.wte.wieght": 1}}, "moments 'm.wte.wieght' has 'wte.wieght', .* such as wte.weight"),
        ({"reference": {"h.0.mlp.atc": np.ones(2)}}, "reference has 'h.0.mlp.atc', .* such as h.0.mlp.act"),
        (
            {"reference": {"h.0": np.ones(2)}},
            r"the reference's value of h.0 has shape \(2,\), expected its value's \(2, ",
        ),
        ({"h": 0.0}, "h is 0.0, expected"),
        ({"h": [1e-3, -1.0]}, r"h is \[0.001, -1.0\], expected"),
        ({"moments": {"wte.weight": np.ones(2)}}, "moments 'wte.weight' has 'weight', which"),
        ({"moments": 3}, "moments is 3, expected a mapping"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(beside, match):
    with pytest.raises(InputError, match=match):
        model_of({}).record(TOKENS, TARGETS).trace(**beside)


@every_variant
def test_pytorchs_numbers_stand_beside_ours(changes):
    pytest.importorskip("torch", reason="PyTorch is not installed, which the trace shows beside numgpt")
    record = model_of(changes).record(TOKENS, TARGETS, step=1 if changes.get("dropout") else None)
    trace = record.trace(reference=parity.reference(record))
    assert trace.reference.source.startswith("PyTorch ")
    for ours, theirs in ((trace.value, trace.reference.value), (trace.grad, trace.reference.grad)):
        assert set(theirs) <= set(ours) and len(theirs) > 20
        for name, array in theirs.items():
            np.testing.assert_allclose(array, ours[name], rtol=0, atol=1e-12 * abs(ours[name]).max() + 1e-16)


def test_pytorch_does_not_compute_what_was_edited():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    record = model_of({}).record(TOKENS, TARGETS, edit={"h.0": lambda a: 0 * a})
    with pytest.raises(InputError, match="values were edited or served"):
        parity.reference(record)


# The index.

TABLE = """\
name             axes   shape   ‖value‖  ‖gradient‖  op
wte              B T C  2×5×6     1.681      0.6896  embedding
h.0.ln_1         B T C  2×5×6     8.946      0.1878  layernorm
h.0.mlp.act      B T F  2×5×24    7.117      0.3713  gelu_tanh
lm_head          B T V  2×5×7     5.788      0.2923  unembedding
loss             ()     ()        2.048           1  cross_entropy
wte.weight       V C    7×6       1.654       1.267  embedding, unembedding
h.0.ln_1.weight  C      6         2.259      0.1984  layernorm
h.0.ln_1.bias    C      6        0.7193      0.3639  layernorm
B = 2, T = 5, V = 7, C = 6, F = 24"""


def test_the_index_reads_as_a_table():
    names = ["wte", "h.0.ln_1*", "h.0.mlp.act", "lm_head", "loss", "wte.weight"]
    assert repr(model_of({}).record(TOKENS, TARGETS).table(names)) == TABLE


def test_the_index_is_a_table_of_at_most_100_columns():
    config = Config(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=48)
    names = [f"h.11.{name}" for name in ("attn.c_attn", "attn.c_attn.weight", "mlp.act", "ln_1.bias")]
    table = GPT(config).record(np.zeros((4, 64), int), np.zeros((4, 64), int)).table(names)
    assert max(map(len, repr(table).splitlines())) <= 100
    assert "h.11.attn.c_attn" in repr(table)


def test_norms_neither_overflow_nor_hide_what_is_no_number():
    trace = Trace(
        value={"big": np.array([3e200, 4e200]), "odd": np.array([1.0, np.nan]), "none": np.zeros(2)}
    )
    rows = {row.name: row.value for row in trace.table().rows}
    assert rows["big"] == pytest.approx(5e200)
    assert math.isnan(rows["odd"]) and rows["none"] == 0


# What a Trace holds at all.


def test_a_trace_of_ones_own_is_held_to_its_shapes(tmp_path):
    x = np.ones((2, 3))
    assert Trace(value={"x": x}, axes={"x": ("T", "C")}, sizes={"T": 2}).table().rows[0].axes == ("T", "C")
    for wrong in (
        {"axes": {"x": ("T",)}},
        {"axes": {"x": ("T", "C")}, "sizes": {"T": 3}},
        {"grad": {"x": np.ones(3)}},
        {"moments": {"m": {"x": np.ones(3)}}},
        {"parts": {"x": {"y": np.ones(3)}}},
        {"reference": Reference("it", {"x": np.ones(3)})},
    ):
        with pytest.raises(InputError, match=r"^save: .*\bx\b.*, expected"):
            Trace(value={"x": x}, **wrong).save(tmp_path / "trace")
    assert re.fullmatch(r"<Trace: 1 value>", repr(Trace(value={"x": x})))


def test_every_layer_of_a_step_is_named_as_it_is_called():
    steps = model_of({}).record(TOKENS, TARGETS).trace().steps
    kinds = collections.Counter(step.op for step in steps.values() if step.cost is None)
    assert kinds.keys() >= {"attention", "ffn", "pre_norm_block"} and {*kinds.values()} == {2}
