"""The laws of every op: on shapes and values that Hypothesis draws, sizes of 1 included."""

import inspect
import math
import pydoc
from string import ascii_uppercase

import numpy as np
import pytest
from cupy_stand_in import cupy  # noqa: F401 (a fixture)
from hypothesis import given
from hypothesis import strategies as st
from shares import drawn

from numgpt import InputError, engine, gradcheck, ops
from numgpt.gradcheck.finding import TRANSPOSE
from numgpt.layers.filed import held_bytes
from numgpt.ops.activations import ACTIVATIONS
from numgpt.ops.describe import LETTERS
from numgpt.ops.erf import erf, erfc
from numgpt.ops.saving import saved
from numgpt.parity.op_table import TORCH
from numgpt.proofs.subjects import op_subjects

every_op = pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))


def draw_subjects(op, data):
    """The op in all its variants, with sizes, leading axes and values drawn."""
    letters = sorted({c for c in op.line if c.isupper()})
    sizes = {c: data.draw(st.integers(1, 6), label=c) for c in letters}
    leads = [(), (1,), (3,), (2, 1), (2, 3)]
    # A single number may lie where the slope is 0 and its terms cancel: no relative limit holds there.
    if op.line == "... -> ...":
        leads = [(3,), (4, 1), (2, 3)]
    lead = data.draw(st.sampled_from(leads), label="lead")
    return op_subjects(op, data.draw(st.integers(0, 2**32 - 1), label="seed"), sizes, lead)


def test_every_op_has_a_row_in_the_table():
    without = sorted(set(ops.ALL) - set(TORCH))
    assert not without, f"{', '.join(without)}: no row of TORCH in numgpt/parity/op_table.py"
    assert set(TORCH) == set(ops.ALL), "a row in numgpt/parity/op_table.py has no op"


def test_every_pair_in_the_package_is_an_op():
    pairs = {
        name.removesuffix("_forward")
        for module in _op_modules()
        for name in vars(module)
        if name.endswith("_forward")
    }
    without = sorted(pairs - set(ops.ALL))
    assert not without, f"{', '.join(without)}: in no table of ops, nor in ALL of numgpt/ops/__init__.py"
    assert pairs == set(ops.ALL)


def _op_modules():
    import importlib
    import pkgutil

    return [importlib.import_module(f"numgpt.ops.{m.name}") for m in pkgutil.iter_modules(ops.__path__)]


@every_op
@drawn(few=15, data=st.data())
def test_backward_is_the_transpose_of_the_derivative_and_keeps_all_other_laws(op, data):
    for subject in draw_subjects(op, data):
        op.check(subject.arrays, subject.options)
        gradcheck.check(subject.forward, subject.backward, *subject.arrays, **subject.options)


@every_op
@drawn(few=20, data=st.data())
def test_a_gradient_wrong_by_one_part_in_1e9_is_rejected(op, data):
    """Each gradient in turn, all others right."""
    subject = next(iter(draw_subjects(op, data)))
    for i, array in enumerate(subject.arrays):
        if array is None or array.dtype.kind != "f" or i in op.constants:
            continue

        def planted(dy, saved, i=i):
            grads = list(subject.backward(dy, saved))
            grads[i] = grads[i] * (1 + 1e-9)
            return tuple(grads)

        if share(subject, i) > 1e-2:  # else this direction hardly sees that gradient; another example will
            law = gradcheck.findings(
                subject.forward, planted, *subject.arrays, laws=TRANSPOSE, options=subject.options
            )
            assert [finding.holds for finding in law] == [False]


def share(subject, i):
    """The share of ⟨gradient i, v_i⟩ in the absolute sum that the checker divides by, with its v and dy."""
    rng = np.random.default_rng(0)
    moving = [a is not None and a.dtype.kind == "f" for a in subject.arrays]
    v = [
        rng.standard_normal(a.shape) if moves and j not in subject.op.constants else None
        for j, (a, moves) in enumerate(zip(subject.arrays, moving))
    ]
    y, saved = subject.forward(*subject.arrays, **subject.options)
    grads = subject.backward(rng.standard_normal(np.shape(y)), saved)
    total = sum(abs(g * w).sum() for g, w in zip(grads, v) if g is not None)
    return abs((grads[i] * v[i]).sum()) / total if total else 0


@pytest.mark.parametrize("op", [o for o in ops.ALL.values() if o.parameters], ids=lambda o: o.name)
def test_an_array_of_the_wrong_shape_is_named(op):
    arrays, options = op.draw(np.random.default_rng(0), dict.fromkeys(ascii_uppercase, 5), (2,))
    wrong = list(arrays)
    wrong[-1] = np.zeros((3, 3, 3))
    with pytest.raises(
        InputError, match=f"^{op.name}: {op.arguments[-1].name} has shape \\(3, 3, 3\\), expected"
    ):
        op.check(wrong, options)


def test_the_message_of_a_wrong_shape_says_what_is_and_what_was_expected():
    with pytest.raises(InputError) as error:
        ops.layernorm.check((np.zeros((2, 5)), np.zeros(4), None), {})
    assert str(error.value) == "layernorm: weight has shape (4,), expected (C) with C = 5"


@every_op
def test_an_axis_of_nothing_is_named_and_rows_may_be_none(op, each_engine):
    letters = sorted({c for c in op.line if c.isupper()})
    rng = np.random.default_rng(0)
    for empty in letters:
        arrays, options = op.draw(rng, dict.fromkeys(letters, 2), (2,), "float32")
        sizes = dict.fromkeys(letters, 2) | {empty: 0}
        options |= {option.name: option.shape(sizes)[0] for option in op.size_options}
        for i, argument in enumerate(op.arguments):
            axes = argument.shape(sizes)
            arrays[i] = np.zeros((*arrays[i].shape[: arrays[i].ndim - len(axes)], *axes), arrays[i].dtype)
        with pytest.raises(
            InputError, match=rf"^{op.name}: ({empty}|n_head) is 0|leaves|{op.name}: .*expected"
        ):
            op(*arrays, **options)
    arrays, options = op.draw(rng, dict.fromkeys(letters, 2), (0,), "float32")
    if op.result.text == "()":  # a mean
        with pytest.raises(InputError, match=f"^{op.name}: .*expected at least one"):
            op(*arrays, **options)
    elif op.noise is None:
        value, saved = engine.forward(op, arrays)(*arrays, **options)
        grads = engine.backward(op, value)(value, saved)
        assert op(*arrays, **options).size == 0
        assert all(g is None or np.shape(g) == a.shape for g, a in zip(grads, arrays))


def test_heads_that_do_not_divide_the_channels_are_named():
    with pytest.raises(
        InputError,
        match=r"attention: qkv has shape \(1, 3, 16\), expected \(\.\.\.T\(KGD\+2KD\)\) with G = 1, K = 2",
    ):
        ops.attention.check((np.zeros((1, 3, 16)),), {"n_head": 2})


@pytest.mark.parametrize(
    "ids, message",
    [
        ([[0, 5]], "has 5 at (0, 1), expected 0 to 4"),
        ([[-1]], "has -1 at (0, 0), expected 0 to 4"),
        ([[1.0]], "dtype float64"),
    ],
)
def test_ids_out_of_range_or_of_float_type_are_named(ids, message):
    with pytest.raises(InputError, match="embedding: ids") as error:
        ops.embedding.check((np.array(ids), np.zeros((5, 2))), {})
    assert message in str(error.value)


@every_op
@drawn(few=25, data=st.data())
def test_called_an_op_gives_its_forwards_value_of_arrays_and_of_lists(op, data):
    for subject in draw_subjects(op, data):
        expected, _ = op.forward(*subject.arrays, **subject.options)
        lists = [None if a is None else a.tolist() for a in subject.arrays]
        for arrays in (subject.arrays, lists):
            value = op(*arrays, **subject.options)
            assert value.dtype == expected.dtype and np.array_equal(value, expected)
        named = dict(zip((a.name for a in op.arguments), subject.arrays))
        assert np.array_equal(op(**named, **subject.options), expected)


@every_op
@given(data=st.data())
def test_an_op_holds_for_its_backward_what_its_line_says(op, data):
    """In bytes, an array that is held twice counted once, without parameters and numbers by themselves."""
    assert op.saves is not None, f"{op.name}: give it saves=, what it holds for its backward"
    for subject in draw_subjects(op, data):
        arrays = [None if a is None else a.copy() for a in subject.arrays]  # some are views
        params = dict(enumerate(a for a in arrays[len(arrays) - len(op.parameters) :] if a is not None))
        y, held = op.forward(*arrays, **subject.options)
        counted = {id(a): a.nbytes for a in saved(op, arrays, subject.options, y)}
        for array in params.values():
            counted.pop(id(array), None)
        numbers = sum(a.nbytes for a in held if isinstance(a, np.generic))  # arrays () but for their type
        assert sum(counted.values()) == held_bytes([held], params) + numbers, subject.name


@every_op
@pytest.mark.parametrize("dtype", ["float32", "complex128", "longdouble"])
def test_called_on_the_cupy_engine_an_op_moves_its_arrays_there(cupy, monkeypatch, op, dtype):
    """Those in long double, which the GPU has not, stay in the host's memory, and their masks with them."""
    monkeypatch.setattr(engine.choice, "_gpu_twin", lambda function: None)  # twins have tests of their own
    for subject in op_subjects(op, 0):
        arrays = [a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in subject.arrays]
        value = op(*arrays, **subject.options)
        assert engine.on_gpu(value) == (dtype != "longdouble")
        expected, _ = op.forward(*arrays, **subject.options)
        assert value.dtype == expected.dtype and np.array_equal(engine.home(value), expected)


@pytest.mark.parametrize(
    "op, i",
    [(op, i) for op in ops.ALL.values() for i in range(1, len(op.arguments))],
    ids=lambda p: getattr(p, "name", p),
)
def test_called_with_an_array_that_does_not_fit_those_before_it_an_op_names_it(op, i):
    subject = next(iter(op_subjects(op, 0)))
    arrays = list(subject.arrays)
    arrays[i] = np.zeros((*arrays[i].shape, 7), arrays[i].dtype)
    names = op.arguments[i].name
    if op is ops.weighted_values:  # the sizes of its v say how many heads its probs are to have
        names = "probs"
    with pytest.raises(InputError, match=f"^{op.name}: {names} has .*, expected "):
        op(*arrays, **subject.options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ops.layernorm([1.0, 2.0]), TypeError, "layernorm: missing a required argument: 'weight'"),
        (
            lambda: ops.layernorm([1.0], None),
            InputError,
            r"layernorm: weight is missing, expected an array \(C\)",
        ),
        (lambda: ops.gelu([[1.0, 2.0], [3.0]]), InputError, "gelu: x: rows differ in length"),
        (lambda: ops.gelu("one"), InputError, "gelu: x has dtype <U3, expected numbers"),
        (
            lambda: ops.embedding([0.5], [[1.0]]),
            InputError,
            "embedding: ids has dtype float64, expected integers",
        ),
        (
            lambda: ops.attention(np.ones((3, 12)), n_head=0),
            InputError,
            r"attention: n_head is 0, expected an integer of 1 or more",
        ),
    ],
)
def test_a_call_that_cannot_be_is_told_why(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


@every_op
def test_help_of_an_op_shows_its_call_its_line_and_both_derivations(op):
    page = pydoc.render_doc(op, renderer=pydoc.plaintext)
    signature = inspect.signature(op.forward)
    assert inspect.signature(op) == signature and f"{op.name}{signature}" in page
    assert f"{op.arguments[0].name} {op.arguments[0].text}" in page and f"-> {op.result.text}" in page
    for function in (op.forward, op.backward):
        for line in filter(None, inspect.cleandoc(function.__doc__).splitlines()):
            assert line in page
    assert set(filter(str.isupper, op.line)) <= set(LETTERS)  # each letter of a line has its meaning


def test_a_mask_that_hides_all_keys_of_a_query_is_an_error():
    mask = np.array([[True, True], [False, False]])
    with pytest.raises(InputError, match="mask leaves a query without a key"):
        ops.attend.forward(*np.ones((3, 2, 4)), mask=mask)


def test_targets_that_all_do_not_count_are_an_error():
    with pytest.raises(InputError, match="no target counts"):
        ops.cross_entropy.forward(np.zeros((2, 3)), np.array([-1, -1]))


def test_erf_is_accurate_to_a_few_ulp():
    x = np.concatenate([np.linspace(-7, 7, 20001), np.logspace(-300, -1, 300), [0.0, 0.46875, 4.0, 26.0]])
    e, c = (np.array([f(v) for v in x]) for f in (math.erf, math.erfc))
    assert (abs(erf(x) - e) <= 5e-16 * abs(e)).all()
    assert (abs(erfc(x) - c) <= 1e-15 * c + 5e-324).all()


def test_erf_at_the_ends():
    assert erf(np.array([np.inf, -np.inf])).tolist() == [1, -1]
    assert erfc(np.array([np.inf, -np.inf])).tolist() == [0, 2]
    assert np.isnan(erf(np.array([np.nan]))).all()


@pytest.mark.parametrize("op", [ops.gelu, ops.gelu_tanh], ids=lambda o: o.name)
def test_gelu_keeps_its_digits_in_the_left_tail(op):
    """The value falls like exp(−x²/2): its relative error there is that of the exponent, not 100 %."""
    x = np.linspace(-8, 8, 3001)
    exact, single = op.forward(x)[0], op.forward(x.astype(np.float32))[0]
    assert (abs(single - exact) <= 40 * np.finfo(np.float32).eps * (1 + x * x) * abs(exact)).all()


@pytest.mark.parametrize("dtype, last", [("float32", 80), ("float64", 700)])
def test_silu_and_its_slope_keep_their_digits_in_both_tails(dtype, last):
    """The left tail falls like exp(x), whose exponent errs by eps |x|; the slope crosses 0 near −1.28."""
    x = np.linspace(-last, last, 4001).astype(dtype)
    wide = x.astype("longdouble")
    (y, saved), (exact, kept) = ops.silu.forward(x), ops.silu.forward(wide)
    assert (abs(y - exact) <= 4 * np.finfo(dtype).eps * (1 + abs(wide)) * abs(exact)).all()
    (dx,), (slope,) = ops.silu.backward(np.ones_like(x), saved), ops.silu.backward(np.ones_like(wide), kept)
    sigmoid = 1 / (1 + np.exp(-wide))
    assert (abs(dx - slope) <= 4 * np.finfo(dtype).eps * (1 + abs(wide)) ** 2 * sigmoid).all()


@pytest.mark.parametrize("scale", [1, 100, 3000])
def test_attention_sums_to_one_at_large_scores(scale):
    """A mean of values that are all 1 is 1, to a few roundings for each key."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        q, k = (scale**0.5 * rng.standard_normal((2, 3, 9, 8))).astype(dtype)
        y, _ = ops.attend.forward(q, k, np.ones_like(k))
        assert abs(y - 1).max() <= 9 * np.finfo(dtype).eps


@pytest.mark.parametrize(
    "op",
    [*(row.op for row in ACTIVATIONS.values()), ops.layernorm, ops.rmsnorm, ops.linear],
    ids=lambda o: o.name,
)
def test_nan_comes_out_as_nan(op):
    x = np.array([[np.nan, 1.0]])
    more = {"layernorm": (np.ones(2), None), "rmsnorm": (np.ones(2),), "linear": (np.ones((2, 2)), None)}.get(
        op.name, ()
    )
    with np.errstate(invalid="ignore"):
        assert np.isnan(op.forward(x, *more)[0]).any()


@given(seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([0.0, 1e4, -1e4]))
def test_cross_entropy_is_stable_at_large_logits(seed, shift):
    """Its error is a few ulp of the largest intermediate, as against the same sum in longdouble."""
    rng = np.random.default_rng(seed)
    logits, targets = rng.standard_normal((5, 7)) * rng.choice([1, 1e4]) + shift, rng.integers(0, 7, 5)
    loss, saved = ops.cross_entropy.forward(logits, targets)
    assert np.isfinite(loss)
    assert np.isfinite(ops.cross_entropy.backward(1.0, saved)[0]).all()
    wide = logits.astype(np.longdouble)
    if abs(wide).max() < 5e3:
        exps = np.exp(wide - wide.max(-1, keepdims=True))
        exact = -np.log(exps / exps.sum(-1, keepdims=True))[np.arange(5), targets]
        assert abs(loss - exact.mean()) <= 8 * np.finfo(float).eps * (abs(logits).max() + 1)
    moved, _ = ops.cross_entropy.forward(logits - shift, targets)
    assert abs(loss - moved) <= 64 * np.finfo(float).eps * (abs(shift) + abs(logits).max())


def test_embedding_counts_repeated_ids():
    _, saved = ops.embedding.forward(np.array([1, 1, 1, 0]), np.zeros((3, 2)))
    dweight = ops.embedding.backward(np.arange(8.0).reshape(4, 2), saved)[1]
    assert dweight.tolist() == [[6, 7], [6, 9], [0, 0]]


def test_a_mask_of_dropout_depends_on_seed_step_and_name_only():
    from numgpt.random import generator

    draws = {
        words: generator(*words).random(8).tobytes()
        for words in [
            (0, "dropout", 1, "a"),
            (1, "dropout", 1, "a"),
            (0, "dropout", 2, "a"),
            (0, "dropout", 1, "b"),
        ]
    }
    assert len(set(draws.values())) == 4
    assert all(generator(*words).random(8).tobytes() == bits for words, bits in reversed(draws.items()))
