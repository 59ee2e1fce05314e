"""Cell formulas: each, evaluated on what its step read, gives the number that the trace holds."""

import copy
import json

import numpy as np
import pytest

from numgpt import GPT, Config, InputError, Trace, Visibility, ops
from numgpt.ops.norms import NORMS
from numgpt.ops.positions import POSITIONS
from numgpt.pages import cells, evaluation, formulas, givens
from numgpt.pages.expressions import parse, walk
from numgpt.pages.tuning_cells import TUNING
from numgpt.proofs.subjects import SMALL, VARIANTS, op_subjects

LLAMA = VARIANTS["LLaMA"]
MODELS = VARIANTS | {
    "SiLU": {"activation": "silu"},
    "Bloom": {"activation": "gelu_bloom"},
    "sinusoidal": {"positions": "sinusoidal"},
    "window": {"window": 2},
    "GEGLU": LLAMA | {"activation": "geglu"},
    "Gemma": LLAMA | {"activation": "geglu_tanh", "softcap": 2.0},
    "ReGLU, part turned": LLAMA | {"activation": "reglu", "head_dim": 4, "rotary_dim": 2},
    "YaRN": LLAMA | {"rotary_scaling": {"kind": "yarn", "factor": 4.0, "length": 3}, "head_dim": 4},
    "groups": LLAMA | {"n_head": 4, "n_kv_head": 2, "head_dim": 4},
}


def more(models):
    """Models of what a table of the package names and none of models has, and of ops that no setting chooses.

    So a new activation, norm or kind of positions is held to its row with no word about it here.
    """
    activations = {name: row.op for name, row in ops.ACTIVATIONS.items()}
    for field, table in (("activation", activations), ("norm", NORMS), ("positions", POSITIONS)):
        met = {getattr(Config(), field), *(changes.get(field) for changes in models.values())}
        has_row = [name for name, op in table.items() if op is not None and op.name in cells.ROWS]
        yield from ((name, {field: name}) for name in has_row if name not in met)
    by_setting = {"add", "dropout", "scaled", "softcap", *(op.name for op in activations.values())}
    for name in cells.ROWS:
        if name in ops.ALL and ops.ALL[name].line == "... -> ..." and name not in by_setting:
            yield name, {"served": {"h.0.mlp.act": ops.ALL[name]}}


MODELS |= dict(more(MODELS))
SEEN = {
    "causal": None,
    "packed": Visibility.packed([[3, 2], [1, 4]]),
    "padded": Visibility.padded([5, 2], T=5),
    "prefix": Visibility.prefix([2, 3], 5),
}
every_model = pytest.mark.parametrize("changes", MODELS.values(), ids=list(MODELS))
# Of sums of some tens of terms, relative to the largest number of the array: a cell may be a difference.
ROUNDING = 1e-13


def trace_of(changes, shape=(2, 5), **options):
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 7, (2, *shape))
    targets.reshape(-1)[1:2] = -1  # one of them does not count
    settings = {name: value for name, value in (SMALL | changes).items() if name != "served"}
    model = GPT(Config(**settings), seed=0, dtype="float64", served=changes.get("served"))
    model.params.flat += 0.3 * rng.standard_normal(model.params.flat.shape)
    step = 3 if changes.get("dropout") else None
    return model.record(tokens, targets, step=step, **options).trace()


def numbers_of(trace):
    """(name, which, array) of all that a trace holds."""
    for which in ("value", "grad"):
        yield from ((name, which, array) for name, array in getattr(trace, which).items())


def far(found, held):
    """How far numbers are from others, relative to the largest."""
    return np.max(np.abs(found - held), initial=0) / max(np.max(np.abs(held), initial=0), 1e-300)


# The law.


@pytest.mark.parametrize("seen", SEEN.values(), ids=list(SEEN))
@every_model
def test_the_formulas_of_a_number_give_it(changes, seen):
    trace = trace_of(changes, visibility=seen)
    without = {}
    for name, which, held in numbers_of(trace):
        found = formulas.uses(trace, name, which)
        if isinstance(found, str):
            without.setdefault(found, set()).add((name, which))
            continue
        assert far(formulas.numbers(trace, name, which), held) < ROUNDING, (name, which)
    learned = {(name, "value") for name in trace.parameters}
    assert without == {
        "it is a parameter: learned, not computed": learned,
        "the backward starts here": {("loss", "grad")},
    }


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (2, 1, 3)])
@pytest.mark.parametrize("name", ["GPT-2", "LLaMA", "dropout"])
def test_they_do_so_for_tokens_of_every_shape(name, shape):
    rng = np.random.default_rng(0)
    model = GPT(Config(**SMALL | MODELS[name]), seed=0, dtype="float64")
    tokens = rng.integers(0, 7, shape)
    trace = model.record(tokens, tokens, step=0 if name == "dropout" else None).trace()
    for name, which, held in numbers_of(trace):
        if not isinstance(formulas.uses(trace, name, which), str):
            assert far(formulas.numbers(trace, name, which), held) < ROUNDING, (name, which)


def test_they_do_so_for_a_trace_that_was_saved_and_read(tmp_path):
    for changes in (MODELS["dropout"], MODELS["ALiBi, capped"], MODELS["YaRN"]):
        trace = trace_of(changes, visibility=SEEN["packed"])
        trace.save(tmp_path / "trace.safetensors")
        again = Trace.read(tmp_path / "trace.safetensors")
        for name, which, held in numbers_of(again):
            if not isinstance(formulas.uses(again, name, which), str):
                assert far(formulas.numbers(again, name, which), held) < ROUNDING, (name, which)


@pytest.mark.parametrize("name", ["GPT-2", "groups", "ALiBi, capped", "dropout", "window"])
def test_attention_in_one_piece_has_formulas_too(name):
    kept = ["h.*.attn.c_attn", "h.*.attn.turned", "h.*.attn.heads", "h.*.attn.c_proj"]
    if name != "groups":
        kept.remove("h.*.attn.turned")
    trace = trace_of(MODELS[name], visibility=SEEN["packed"], keep=kept)
    assert trace.steps["h.0.attn.heads"].op == "attention"
    read = trace.steps["h.0.attn.heads"].reads[0]
    assert far(formulas.numbers(trace, "h.0.attn.heads"), trace.value["h.0.attn.heads"]) < ROUNDING
    assert far(formulas.numbers(trace, read, "grad"), trace.grad[read]) < ROUNDING


def test_some_cells_are_those_of_all():
    trace = trace_of({})
    at = np.array([[1, 0, 4, 2], [0, 1, 2, 2]])
    name = "h.0.attn.heads.probs"
    assert (formulas.numbers(trace, name, "grad", at) == formulas.numbers(trace, name, "grad")[*at.T]).all()


def test_a_number_that_is_edited_in_flight_has_no_formula():
    trace = trace_of({}, edit={"h.0.mlp.act": lambda a: 2 * a})
    assert formulas.uses(trace, "h.0.mlp.act") == "it is edited in flight"
    assert far(formulas.numbers(trace, "h.0.mlp.c_proj"), trace.value["h.0.mlp.c_proj"]) < ROUNDING
    apart = {
        name
        for name, grad in trace.grad.items()
        if name != "loss" and far(formulas.numbers(trace, name, "grad"), grad) > ROUNDING
    }
    assert apart == {"h.0.mlp.c_fc"}  # its reader's gradient goes through the edit


def test_a_gradient_is_the_sum_over_all_that_read_the_value():
    trace = trace_of({})
    places = {
        name: [use.step for use in formulas.uses(trace, name, "grad")]
        for name in trace.grad
        if name != "loss"
    }
    assert places["h.0"] == ["h.1.ln_1", "h.1.mid"]
    assert places["h.0.mid"] == ["h.0.ln_2", "h.0.out"]
    assert places["h.0.attn.c_attn"] == ["h.0.attn.heads.q", "h.0.attn.heads.k", "h.0.attn.heads.v"]
    assert places["wte.weight"] == ["wte", "lm_head"]


@pytest.mark.parametrize("place", ["wte", "lm_head"])
def test_a_part_of_a_tied_gradient_has_a_formula_of_its_own(place):
    trace = trace_of({})
    (use,) = (use for use in formulas.uses(trace, "wte.weight", "grad") if use.step == place)
    part = trace.parts["wte.weight"][place]
    assert far(evaluation.evaluate(use.formula, formulas.inputs(trace, use), part.shape), part) < ROUNDING


# The table.


@pytest.mark.parametrize("op", ops.ALL)
def test_every_op_has_a_row_or_a_reason_for_none(op):
    assert (op in cells.ROWS) != (op in cells.REASONS)


@pytest.mark.parametrize("op", cells.ROWS)
def test_a_row_has_a_gradient_for_every_array_that_has_one(op):
    row = cells.cells(op)
    arguments = ops.ALL[op].arguments
    assert len(row["letters"]) == len(arguments)
    assert set(row["backward"]) == {
        letter for letter, argument in zip(row["letters"], arguments) if argument.has_gradient
    }


# Losses, and what they are made of: a trainer runs them, no model.
OF_NO_MODEL = ("balance", "router_z", *TUNING)
SIZES = {"T": 4, "V": 5}


@pytest.mark.parametrize("name", OF_NO_MODEL)
def test_the_formulas_of_what_no_model_runs_give_it(name):
    op, row = ops.ALL[name], cells.cells(name)
    drawn = {c: SIZES.get(c, 2) for c in op.line if c.isupper()}
    sizes = op.fitted(drawn)
    for subject in op_subjects(op, 0, drawn, (2, 5)):
        y, saved = op.forward(*subject.arrays, **subject.options)
        dy = np.random.default_rng(1).standard_normal(np.shape(y))
        result = row["result"]
        known = dict(zip(row["letters"], subject.arrays)) | {result: np.asarray(y), f"d{result}": dy}
        lists = {name: np.asarray(x) for name, x in subject.options.items() if isinstance(x, tuple)}
        inputs = evaluation.Inputs(known | lists, sizes | subject.options)
        assert far(evaluation.evaluate(row["forward"], inputs, np.shape(y)), y) < ROUNDING, subject.name
        grads = op.backward(dy[()], saved)
        for letter, grad, array in zip(row["letters"], grads, subject.arrays):
            if grad is not None:
                found = evaluation.evaluate(row["backward"][letter], inputs, array.shape)
                assert far(found, grad) < ROUNDING, (subject.name, letter)


def test_models_of_these_tests_run_every_op_that_has_a_row():
    met = {step.op for changes in MODELS.values() for step in trace_of(changes).steps.values()}
    missing = set(cells.ROWS) - {*met, "attention", *OF_NO_MODEL}
    assert not missing, "no model runs them: serve each in an entry of MODELS, as more() does"


KINDS = {"binary": "sign", "call": "function", "over": "reduction"}
OTHER = {"+": "-", "-": "+", "*": "+", "/": "*", "**": "*", "//": "*", "%": "*"}
OTHER |= {
    "exp": "tanh",
    "tanh": "exp",
    "erfc": "exp",
    "sqrt": "exp",
    "log": "exp",
    "sin": "cos",
    "cos": "sin",
}
OTHER |= {"sum": "max", "mean": "sum", "max": "sum"}
TRIED = [
    "GPT-2",
    "groups",
    "GEGLU",
    "Gemma",
    "ReGLU, part turned",
    "YaRN",
    "ALiBi, capped",
    "dropout",
    "nanoGPT",
]
TRIED += ["ReLU", "SiLU", "sinusoidal"]


def nodes_of(formula):
    return [node for part in (formula, *formula["locals"]) for node in walk(part["of"])]


def mutants(formula):
    """(place, the formula with one sign, function or reduction changed), for each that it has.

    What is left out where it is 0 could as well be added.
    """
    nodes = nodes_of(formula)
    free = [id(part) for node in nodes if node.get("signs") == ["!="] for part in walk(node)]
    for place, node in enumerate(nodes):
        if node["kind"] in KINDS and id(node) not in free:
            key = KINDS[node["kind"]]
            changed = copy.deepcopy(formula)
            nodes_of(changed)[place][key] = OTHER[node[key]]
            yield place, changed


def test_a_mistake_in_a_formula_is_caught():
    """Every change of a sign, a function or a sum shows in some model, but for that of a softmax' largest."""
    alive, dead = {}, set()
    packed = trace_of({}, visibility=SEEN["packed"])
    for trace in (packed, *(trace_of(MODELS[name]) for name in TRIED)):
        for name, which, held in numbers_of(trace):
            found = formulas.uses(trace, name, which)
            for use in () if isinstance(found, str) or len(found) > 1 else found:
                for place, mutant in mutants(use.formula):
                    key = (trace.steps[use.step].op, mutant["result"], place)
                    if key in dead or name.startswith("h.1"):
                        continue
                    wrong = evaluation.evaluate(mutant, formulas.inputs(trace, use), held.shape)
                    alive[key] = nodes_of(use.formula)[place]
                    if not far(wrong, held) < 1e-9:
                        dead.add(key)
    survived = {key: node for key, node in alive.items() if key not in dead}
    assert all(node.get("reduction") == "max" for node in survived.values()), survived
    assert len(dead) > 200


# Steps that another program wrote.

JUNK = [
    {"n_head": "x"},
    {"n_head": 10**12},
    {"n_head": -1},
    {"drawn": 3},
    {"drawn": ["a", {}], "seed": 0, "p": 0.5},
    {"drawn": ["dropout", 0, "x"], "seed": 10**400, "p": 0.1},
    {"first": [[1, 2, 3]]},
    {"first": "x"},
    {"positions": [[None] * 5] * 2},
    {"slopes": [[["x"]]]},
    {"scaling": {"kind": "none"}},
    {"scaling": {"kind": "linear", "factor": "x"}},
    {"scaling": {"kind": "linear", "factor": 2.0}, "dim": 10**12},
    {"scaling": {"kind": "linear", "factor": 2.0}, "dim": -4},
    {"scaling": {"kind": "dynamic", "factor": 2.0, "length": 2}, "positions": [[10**30] * 5] * 2},
]


@pytest.mark.parametrize("name", ["GPT-2", "LLaMA", "dropout"])
def test_options_that_do_not_fit_an_op_give_nothing_that_a_page_cannot_hold(name):
    trace = trace_of(MODELS[name])
    for at, step in list(trace.steps.items()):
        for options in JUNK:
            trace.steps[at] = step._replace(options={**step.options, **options})
            json.dumps(givens.plain(givens.given(trace, at)))
        trace.steps[at] = step


# The language.


def test_a_formula_without_what_is_absent_is_what_is_left():
    formula = parse("y[n] = a[n] * b[n] + c[n] - d[n] / (e - f)", "abcde")
    a, b = np.array([2.0, 3.0]), np.array([5.0, 7.0])
    for arrays, expected in (
        ({"a": a}, a),
        ({"a": a, "b": b}, a * b),
        ({"b": b, "c": a}, a + b),
        ({"c": a, "d": b, "e": np.array(2.0)}, a - b / 2),
        ({"d": b, "e": np.array(2.0)}, -b / 2),
    ):
        found = evaluation.evaluate(formula, evaluation.Inputs(arrays), (2,))
        assert np.array_equal(found, expected), arrays


def test_what_is_given_stands_in_the_place_of_a_local():
    formula = parse("scale = 3\ny[n] = scale * x[n]", "x")
    x = np.array([1.0, 2.0])
    assert (evaluation.evaluate(formula, evaluation.Inputs({"x": x}), (2,)) == 3 * x).all()
    assert (evaluation.evaluate(formula, evaluation.Inputs({"x": x}, {"scale": 5}), (2,)) == 5 * x).all()


def test_an_entry_outside_of_an_array_is_no_number():
    formula = parse("y[i] = x[i + 1] if i < 3 else 7", "x")
    found = evaluation.evaluate(formula, evaluation.Inputs({"x": np.arange(3.0)}), (4,))
    assert np.array_equal(found, [1, 2, np.nan, 7], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no equation"),
        ("y[n] = ", "invalid syntax"),
        ("x[n]", "no equation"),
        ("y[n] = z = x[n]", "no equation"),
        ("y[2] = x[n]", "its left side is none"),
        ("y[n, n] = x[n, n]", "an index stands twice"),
        ("y[n] = open('x')", "open is called with 1"),
        ("y[n] = x.real", "x.real is not of the language"),
        ("y[n] = x[n] or 1", "is not of the language"),
        ("y[n] = 'x'", "'x' is not of the language"),
        ("y[n] = sum(i, 2)", "i indexes no array"),
        ("y[n] = sum(n, x[n])", "n is no new index"),
        ("a[n] = x[n]\ny[n] = a[n, n]", "a[n, n] has 2 indices"),
        ("y[n] = (lambda: 1)()", "is not of the language"),
        ("y[n] = x[n][0]", "is no entry"),
        ("y[n] = True", "is not of the language"),
    ],
)
def test_what_is_not_of_the_language_is_refused(text, fault):
    with pytest.raises(InputError, match="formula ") as raised:
        parse(text, "x")
    assert fault in str(raised.value) and "\n" not in str(raised.value)
