"""Twins keep their specifications' laws, err no more, and give the same bits on any number of threads."""

import os
import subprocess
import sys
import threading
from string import ascii_uppercase

import numpy as np
import pytest
from hypothesis import strategies as st
from op_sizes import SIZES
from shares import drawn, slow

import numgpt
from numgpt import GPT, AdamW, Config, InputError, engine, gradcheck, ops
from numgpt.model.generate import logits_stream
from numgpt.proofs.subjects import SMALL, VARIANTS, block_layers, layer_subject, model_subject, op_subjects

pytest.importorskip("numba", reason="Numba is not installed")

both = pytest.mark.parametrize("dtype, wider", [("float32", "float64"), ("float64", "longdouble")])


@pytest.fixture(autouse=True, scope="module")
def on_numba():
    before = engine.current()
    numgpt.use("numba")
    yield
    numgpt.use(before)


TWINNED = [op for op in ops.ALL.values() if engine.choice._twin(op.backward)]


def twins_of(op):
    return engine.choice._twin(op.forward) or op.forward, engine.choice._twin(op.backward)


def test_the_ops_that_cost_time_have_twins():
    assert {op.name for op in TWINNED} >= {
        "linear",
        "unembedding",
        "layernorm",
        "gelu",
        "gelu_tanh",
        "attention",
        "attend",
        "attend_groups",
        "sink_attention",
        "cross_entropy",
        "embedding",
        "swiglu",
        *("geglu", "geglu_tanh", "reglu", "silu", "relu2"),
        *("part_rmsnorm", "part_layernorm"),
        *("dispatch", "expert_linear", "combine"),
        "token_logprobs",
        "lora_linear",
        *("masked_linear", "masked_expert_linear"),
    }


@pytest.mark.parametrize("op", TWINNED, ids=lambda op: op.name)
@drawn(few=10, many=40, data=st.data())
def test_twins_keep_the_laws(op, data):
    letters = sorted({c for c in op.line if c.isupper()})
    sizes = {c: data.draw(st.integers(1, 9), label=c) for c in letters}
    lead = data.draw(st.sampled_from([(), (1,), (3,), (2, 3)]), label="lead")
    for subject in op_subjects(op, data.draw(st.integers(0, 2**32 - 1), label="seed"), sizes, lead):
        gradcheck.check(subject.forward, subject.backward, *subject.arrays, **subject.options)


@pytest.mark.parametrize("seed", [0, *(slow(seed) for seed in range(1, 5))])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_layers_and_models_keep_the_laws_on_twins(changes, seed):
    config = Config(**SMALL | changes)
    for layer in block_layers(config):
        subject = layer_subject("layer", layer, config, seed)
        gradcheck.check(subject.forward, subject.backward, *subject.arrays)
    subject = model_subject("model", config, seed)
    gradcheck.check(subject.forward, subject.backward, *subject.arrays)


def cast(arrays, dtype):
    return [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]


def results(forward, backward, arrays, dy, options):
    with engine.session("float64"):
        y, saved = forward(*arrays, **options)
        return [np.asarray(y), *(g for g in backward(dy, saved) if g is not None)]


@both
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1.0, 3.0])  # larger scores would compare the luck of their rounding
@pytest.mark.parametrize("op", TWINNED, ids=lambda op: op.name)
def test_a_twin_errs_no_more_than_its_specification(op, size, scale, dtype, wider):
    """At most 4 times the specification's error and 16 roundings, against wider precision.

    Errors are relative to the largest entry of each result.
    """
    for subject in op_subjects(op, 0, SIZES[size], (2,)):
        drawn = cast(subject.arrays, dtype)
        drawn = [a * scale if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in drawn]
        arrays = cast(drawn, dtype)
        y, _ = op.forward(*arrays, **subject.options)
        dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(dtype)[()]
        wide = cast(arrays, wider), np.asarray(dy, wider)[()]
        exact = results(op.forward, op.backward, *wide, subject.options)
        specified = results(op.forward, op.backward, arrays, dy, subject.options)
        computed = results(*twins_of(op), arrays, dy, subject.options)
        for e, s, c in zip(exact, specified, computed, strict=True):
            assert c.dtype == dtype and c.shape == s.shape
            largest = abs(e).max(initial=0.0)
            ours, theirs = (abs(a - e).max(initial=0.0) for a in (c, s))
            # Below lost, what a value is computed from underflows, in a twin perhaps earlier.
            lost = np.finfo(dtype).tiny / np.finfo(dtype).eps
            limit = 4 * theirs + 16 * np.finfo(dtype).eps * largest + lost
            assert ours <= limit, (subject.name, ours / largest, theirs / largest)


@pytest.mark.parametrize("name", ["attend", "attend_groups", "attention", "sink_attention"])
def test_attention_is_compiled_in_every_form_but_with_a_mask_or_dropout(name, monkeypatch):
    """What a twin declines it hands to the specification: here nothing comes there."""

    def declined(*args):
        raise AssertionError("the specification ran")

    monkeypatch.setattr(sys.modules["numgpt.ops.attention"], "masked_scores", declined)
    op, ran = ops.ALL[name], set()
    forward, backward = twins_of(op)
    for subject in op_subjects(op, 0):
        if not {"mask", "keep"} & set(subject.options):
            arrays = cast(subject.arrays, "float32")
            y, saved = forward(*arrays, **subject.options)
            backward(y, saved)
            ran |= set(subject.options)
    assert ran >= {"cap", "slopes", "first", "last"}


def test_attention_is_not_compiled_again_for_what_may_not_be_written_to():
    """Bounds, slopes and sinks that were broadcast, or given as whole arrays of the caller's."""
    from numgpt.ops import attention_numba as twin

    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4, 3))
    last, slopes = np.broadcast_to(np.arange(4), (2, 4)), np.broadcast_to(0.5, 2)
    compiled = []
    for array in (np.array, np.asarray):
        twins_of(ops.attend)[0](q, k, v, last=array(last))
        twins_of(ops.attend)[0](q, k, v, slopes=array(slopes), cap=2.0)
        compiled.append(len(twin.attend_heads.signatures))
    assert compiled[0] == compiled[1]


@pytest.mark.parametrize("op", TWINNED, ids=lambda op: op.name)
def test_a_twin_saves_what_its_specification_saves(op):
    """So that either half may be swapped for the specification's."""
    subject = next(iter(op_subjects(op, 0)))
    arrays = cast(subject.arrays, "float64")
    forward, backward = twins_of(op)
    y, saved = forward(*arrays, **subject.options)
    same, specified = op.forward(*arrays, **subject.options)
    dy = np.random.default_rng(0).standard_normal(np.shape(y))
    for mixed in (op.backward(dy, saved), backward(dy, specified)):
        for a, b in zip(mixed, op.backward(dy, specified)):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_dispatch_repeats_are_read_as_copies_of_them_are(dtype):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 7, 5)).astype(dtype), rng.standard_normal((4, 5, 6)).astype(dtype)
    chosen = rng.random((3, 7, 4)).argsort(-1)[..., :2]
    repeated, _ = twins_of(ops.dispatch)[0](x, n_active=2)
    assert np.shares_memory(repeated, x) and np.array_equal(repeated, ops.dispatch(x, n_active=2))
    forward, backward = twins_of(ops.expert_linear)
    dy = rng.standard_normal((3, 7, 2, 6)).astype(dtype)
    found = []
    for rows in (repeated, repeated.copy()):
        y, saved = forward(rows, chosen, weight)
        dx, _, dweight, _ = backward(dy, saved)
        found.append((y.tobytes(), dx.tobytes(), dweight.tobytes()))
    assert found[0] == found[1]


def test_an_expert_that_got_nothing_adds_nothing_to_what_its_gradient_holds():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((9, 5)), rng.standard_normal((9, 6))
    chosen = np.array([0, 2, 2, 0, 0, 2, 2, 2, 0])
    forward, backward = twins_of(ops.expert_linear)
    _, saved = forward(x, chosen, rng.standard_normal((4, 5, 6)), rng.standard_normal((4, 6)))
    alone = backward(dy, saved)[2:]
    places = [np.full(shape, np.nan) for shape in ((4, 5, 6), (4, 6))]
    written = backward(dy, saved, into=[(place, False) for place in places])[2:]
    assert all(np.array_equal(a, b) and a is c for a, b, c in zip(written, alone, places))
    added = backward(dy, saved, into=[(np.ones_like(place), True) for place in places])[2:]
    assert all(np.allclose(a, 1 + b, rtol=1e-15) and (a[[1, 3]] == 1).all() for a, b in zip(added, alone))
    wanted = backward(dy, saved, wanted=(False, True))
    assert wanted[2] is None and np.array_equal(wanted[3], alone[1]) and np.isfinite(wanted[0]).all()


@pytest.fixture
def fused_always(monkeypatch):
    """Blocks run as one piece however few their rows."""
    from numgpt.layers import transformer_numba

    monkeypatch.setattr(transformer_numba, "SMALLEST", 0)
    return transformer_numba


LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu"}
FUSED = {
    "GPT-2": {},
    "nanoGPT": {"bias": False, "activation": "gelu"},
    "narrow": {"n_inner": 3, "n_head": 1},
    "untied": {"tied": False},
    "LLaMA": LLAMA | {"bias": False, "n_kv_head": 1, "head_dim": 4},
    "Mistral, Qwen 2": LLAMA | {"biases": "qkv", "rotary_dim": 2, "window": 2, "head_dim": 4, "n_kv_head": 1},
    "biases of norms alone": {"biases": "norm", "layers": ({"window": 2}, {})},
    "GPT-J": {"norm_position": "parallel", "positions": "rotary", "biases": "norm mlp", "head_dim": 4},
    "parallel SwiGLU": LLAMA | {"norm_position": "parallel", "bias": False, "n_kv_head": 1, "head_dim": 4},
    "GPT-NeoX": {"norm_position": "parallel2", "positions": "rotary", "rotary_dim": 2, "head_dim": 4},
}
BLOCKS = ("pre_norm_block_forward", "parallel_block_forward", "two_norm_parallel_block_forward")


@pytest.mark.parametrize("changes", FUSED.values(), ids=list(FUSED))
@pytest.mark.parametrize("shape", [(1, 1), (5,), (2, 5), (7, 3)])
def test_a_fused_block_keeps_the_law_within_a_model(fused_always, monkeypatch, changes, shape):
    """The model's loss at float64 with fused blocks, against the derivative of the specification."""
    calls, twin = [], engine.choice._twin
    watched = {name: _watched(getattr(fused_always, name), calls) for name in BLOCKS}
    monkeypatch.setattr(engine.choice, "_twin", lambda f: watched.get(f.__name__) or twin(f))
    config = Config(**SMALL | changes)
    model = GPT(config, 0, "float64")
    rng = np.random.default_rng(0)
    model.params.flat += 0.3 * rng.standard_normal(model.params.flat.shape)
    tokens, targets = rng.integers(0, 7, (2, *shape))
    v = rng.standard_normal(model.params.flat.shape)
    loss, grads = model.loss_and_grads(tokens, targets)
    moved = model.astype("complex128")
    moved.params.flat += 1e-30j * v
    exact = moved.loss(tokens, targets)
    assert len(calls) == config.n_layer
    assert abs(loss - exact.real) <= 1e-14 * abs(loss)
    assert abs(grads.flat @ v - exact.imag / 1e-30) <= 1e-13 * abs(grads.flat * v).sum()
    more = model.params.like()
    more.flat[:] = 1
    model.loss_and_grads(tokens, targets, out=more, add=True)
    assert np.allclose(more.flat - 1, grads.flat, rtol=1e-9, atol=1e-15)


def _watched(function, calls):
    def watched(*args):
        calls.append(1)
        return function(*args)

    watched.__module__ = function.__module__
    return watched


@both
@pytest.mark.parametrize("changes", FUSED.values(), ids=list(FUSED))
def test_a_fused_block_errs_no_more_than_the_specification(changes, dtype, wider):
    """At a size that fuses by itself; each gradient's error is relative to its largest entry."""
    config = Config(
        **{"vocab_size": 50, "block_size": 70, "n_layer": 2, "n_head": 3, "n_embd": 96}
        | {k: v for k, v in changes.items() if k != "n_head"}
    )
    tokens, targets = np.random.default_rng(0).integers(0, 50, (2, 8, 70))
    model = GPT(config, 0, dtype)
    exact = model.astype(wider).loss_and_grads(tokens, targets)[1]
    found = model.loss_and_grads(tokens, targets)[1]
    numgpt.use("reference")
    specified = model.loss_and_grads(tokens, targets)[1]
    numgpt.use("numba")
    for name in exact:
        largest = abs(exact[name]).max()
        ours, theirs = (abs(g[name] - exact[name]).max() for g in (found, specified))
        assert ours <= 4 * theirs + 16 * np.finfo(dtype).eps * largest, name


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_cached_logits_are_those_of_the_full_forward_on_twins(changes):
    model = GPT(Config(**SMALL | changes), 1, "float64")
    prompt = np.random.default_rng(0).integers(0, 7, (3, 2))
    steps = logits_stream(model, prompt)
    logits, ids = next(steps), prompt
    for _ in range(12):
        window = ids[:, -5:] if model.config.positions == "learned" else ids
        assert np.allclose(logits, model(window)[:, -1], rtol=0, atol=1e-12)
        new = logits.argmax(-1)
        ids = np.concatenate([ids, new[:, None]], axis=1)
        logits = steps.send(new)


def test_both_engines_write_the_same_text():
    model, prompt = GPT(Config(**SMALL), 1), np.zeros((2, 1), int)
    found = model.generate(prompt, 40, seed=1)
    numgpt.use("reference")
    specified = model.generate(prompt, 40, seed=1)
    numgpt.use("numba")
    assert np.array_equal(found, specified)


def test_what_is_kept_or_edited_is_not_fused(fused_always):
    model = GPT(Config(**SMALL), dtype="float64")
    tokens = np.arange(10).reshape(2, 5) % 7
    assert "h.0.mlp.act" in model.record(tokens, tokens).value
    from numgpt import Record

    r = Record(model.params, model.config, edit={"h.1.mlp.act": lambda a: 0 * a})
    assert r.is_plain("h.0") and not r.is_plain("h.1")


def step_bits(threads, config, dtype, B=3, steps=2):
    from numgpt.engine.jit import set_threads

    set_threads(threads)
    try:
        model = GPT(config, 0, dtype)
        optimizer = AdamW(model)
        rng = np.random.default_rng(0)
        for _ in range(steps):
            loss, grads = model.loss_and_grads(
                *rng.integers(0, config.vocab_size, (2, B, config.block_size)), step=0
            )
            optimizer.step(grads, lr=1e-3)
        return loss.tobytes(), grads.flat.tobytes(), model.params.flat.tobytes()
    finally:
        set_threads(os.cpu_count())


@pytest.mark.skipif(os.cpu_count() < 2, reason="one processor only")
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_one_and_two_threads_give_the_same_bits(changes, dtype):
    config = Config(
        **SMALL
        | {"vocab_size": 301, "block_size": 67, "n_embd": 66, "n_head": 3}
        | {k: v for k, v in changes.items() if k != "n_head"}
    )
    for B in (3, 9):  # op by op, and blocks as one piece
        first = step_bits(1, config, dtype, B)
        assert first == step_bits(2, config, dtype, B) == step_bits(2, config, dtype, B)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", [o for o in TWINNED if o.name != "embedding"], ids=lambda op: op.name)
def test_what_is_not_finite_does_not_become_a_number(op, bad):
    """Where the specification's result is not finite for a bad input, neither is the twin's.

    Attention's twin leaves a masked key out instead of multiplying it by 0, so that a NaN from the future
    stays there: it must show somewhere in the result.
    """
    subject = next(iter(op_subjects(op, 0, dict.fromkeys(ascii_uppercase, 5), (2,))))
    arrays = cast(subject.arrays, "float32")
    arrays[0].reshape(-1)[-1] = bad
    forward, backward = twins_of(op)
    with np.errstate(all="ignore"):
        y, saved = forward(*arrays, **subject.options)
        specified, specified_saved = op.forward(*arrays, **subject.options)
        assert_not_hidden(op, y, specified)
        dy = np.ones(np.shape(y), "float32")[()]
        for a, b in zip(backward(dy, saved), op.backward(dy, specified_saved)):
            if a is not None:
                assert_not_hidden(op, a, b)


def assert_not_hidden(op, found, specified):
    hidden = np.isfinite(found) & ~np.isfinite(specified)
    if op.name in ("attend", "attention"):
        assert np.isfinite(found).all() <= np.isfinite(specified).all()
    else:
        assert not hidden.any()


def test_the_default_engine_is_numba_for_floats_and_the_specification_for_the_rest():
    op, x = ops.gelu, np.ones(3)
    assert engine.forward(op, (x,)) is not op.forward
    for dtype in ("longdouble", "complex128", "float16"):
        assert engine.forward(op, (x.astype(dtype),)) is op.forward
    assert engine.forward(ops.relu, (x,)) is ops.relu.forward


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    )


BATCH = (
    "import numpy as np, numgpt; m = numgpt.GPT(numgpt.Config(vocab_size=7, block_size=5, n_layer=1,"
    " n_head=2, n_embd=6)); x = np.arange(5)[None]; "
)


def test_without_numba_everything_works_and_one_line_says_so():
    code = (
        "import sys; sys.modules['numba'] = None; sys.modules['llvmlite'] = None\n"
        + BATCH
        + "m.loss_and_grads(x, x); m(x); print(numgpt.engine.current())"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == "reference\n"
        and done.stderr.count("\n") == 1
        and "numba is not installed" in done.stderr
    )


def test_the_environment_chooses_the_engine():
    for name in ("reference", "numba"):
        assert run(BATCH + "m(x); print(numgpt.engine.current())", NUMGPT_ENGINE=name).stdout == f"{name}\n"
    done = run(BATCH + "m(x)", NUMGPT_ENGINE="gpu")
    assert done.returncode == 1 and "engine: 'gpu' is unknown" in done.stderr


def test_numba_is_imported_when_it_is_first_needed():
    looked = "import sys; print('numba' in sys.modules); m(x); print('numba' in sys.modules)"
    assert run(BATCH + looked).stdout == "False\nTrue\n"


def test_importing_numgpt_imports_what_a_model_needs_and_nothing_slow():
    """The rest of the face comes when it is asked for, and NumPy's own import is most of the time."""
    rooms = ("gradcheck", "calculus", "parity", "proofs", "commands")
    late = ["numba", *(f"numgpt.{room}" for room in rooms)]
    done = run(f"import sys, numgpt; print([name for name in {late} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr
    done = run("import numgpt; print(numgpt.gradcheck.check.__name__, numgpt.calculus.hvp.__name__)")
    assert done.stdout == "check hvp\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_after_a_step_can_take_steps_of_its_own():
    code = (
        BATCH
        + """
import os
loss, _ = m.loss_and_grads(x, x)
child = os.fork()
if child == 0:
    again, _ = m.loss_and_grads(x, x)
    os._exit(0 if again == loss else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert m.loss_and_grads(x, x)[0] == loss
"""
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_before_the_first_step_can_take_steps_too():
    done = run(
        BATCH
        + """
import os
numgpt.set_threads(2)
child = os.fork()
loss, _ = m.loss_and_grads(x, x)
if child == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("op", TWINNED, ids=lambda op: op.name)
def test_called_an_op_gives_the_bits_of_its_twin(op):
    for subject in op_subjects(op, 0):
        arrays = cast(subject.arrays, "float32")
        forward, _ = twins_of(op)
        with engine.session("float32"):
            expected = np.asarray(forward(*arrays, **subject.options)[0])
        value = np.asarray(op(*arrays, **subject.options))
        assert value.dtype == "float32" and value.tobytes() == expected.tobytes()


def test_a_gradient_edited_to_another_dtype_or_layout_is_read_as_it_should_be():
    model, tokens = GPT(Config(**SMALL), 1, "float32"), np.arange(10).reshape(2, 5) % 7
    for name, edit in {
        "h.0.mlp.c_proj": lambda g: g * np.float64(2),
        "h.0.attn.heads": lambda g: np.broadcast_to(g.mean(-2, keepdims=True), g.shape),
    }.items():
        found = model.record(tokens, tokens, edit_grad={name: edit}).grad["wte.weight"]
        expected = model.astype("float64").record(tokens, tokens, edit_grad={name: edit}).grad["wte.weight"]
        assert found.dtype == "float32" and np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r"edit_grad: 'loss' returned shape \(2,\), expected \(\)"):
        model.record(tokens, tokens, edit_grad={"loss": lambda g: np.ones(2)})


def test_several_python_threads_get_the_same_bits():
    config = Config(**SMALL | {"vocab_size": 301, "block_size": 40, "n_embd": 60})
    tokens, targets = np.random.default_rng(0).integers(0, 301, (2, 3, 40))
    model = GPT(config)
    expected, found = model.loss_and_grads(tokens, targets)[1].flat.tobytes(), []

    def work():
        for _ in range(5):
            found.append(model.loss_and_grads(tokens, targets)[1].flat.tobytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [expected] * 20


def test_an_engine_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(
        engine.choice,
        "_numba_lacks",
        lambda: "numba is not installed, expected it for the numba engine: pip install numba",
    )
    with pytest.raises(InputError, match="numba is not installed"):
        numgpt.use("numba")
