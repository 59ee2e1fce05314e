"""Whole models on the twins, over the stand-in that refuses to mix host and device: laws, errors and bits.

And in a step the host never waits for the device.
"""

import re
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest

pytest.importorskip("cupy_stand_in", reason="the stand-in for CuPy is not here")

from cupy_stand_in import cupy, waits  # noqa: F401 (a fixture)
from shares import slow
from test_cuda_shim import SOURCES

from numgpt import GPT, AdamW, Config, Visibility, engine
from numgpt.engine import cuda
from numgpt.ops import attention_cupy
from numgpt.ops.activations import ACTIVATIONS
from numgpt.proofs.subjects import SMALL, VARIANTS, composed_subjects

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
both = pytest.mark.parametrize("dtype, wider", [("float32", "float64"), slow("float64", "longdouble")])
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
T = 140  # more than a block of queries
TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, 2, T))
TARGETS[0, 0] = -1


def config(changes):
    return Config(**SMALL | {"block_size": T} | changes)


def step(model, add=False, T=T):
    """(loss, gradients, parameters after) of a training step, in the host's memory; add: with a second pass
    onto the first.
    """
    tokens, targets = TOKENS[:, :T], TARGETS[:, :T]
    loss, grads = model.loss_and_grads(tokens, targets, step=0)
    if add:
        model.loss_and_grads(targets * (targets > 0), tokens, step=1, out=grads, add=True)
    optimizer = AdamW(model, clip=0.1)
    optimizer.step(grads, 1e-2, optimizer.norm(grads))
    return [np.array(engine.home(a)) for a in (loss, grads.flat, model.params.flat)]


@both
@every_variant
def test_a_model_errs_no_more_on_the_twins_than_on_the_specification(cupy, changes, dtype, wider):
    """Loss and gradients, against wider precision.

    At most 4 times the specification's error, and 16 roundings of the largest.
    """
    ours = step(GPT(config(changes), 0, dtype), add=True)
    engine.use("reference")
    model = GPT(config(changes), 0, dtype)
    exact, theirs = step(model.astype(wider), add=True), step(model, add=True)
    for f, s, e in list(zip(ours, theirs, exact))[:2]:
        assert f.dtype == dtype
        assert abs(f - e).max() <= 4 * abs(s - e).max() + 16 * np.finfo(dtype).eps * abs(e).max()


@every_variant
def test_a_step_gives_the_same_bits_in_any_order_and_never_waits(cupy, changes):
    """But for how many rows each expert has, which both of its maps ask of the GPU."""
    asked = ["tolist"] * 2 * sum(kind.n_expert > 0 for kind in config(changes).scopes().values())
    found = set()
    for order in ("forwards", "forwards", "both backwards"):
        with cuda_on_cpu.order(order):
            model = GPT(config(changes))
            waits.clear()
            optimizer = AdamW(model, clip=0.1)
            loss, grads = model.loss_and_grads(TOKENS, TARGETS, step=0)
            optimizer.step(grads, 1e-2, optimizer.norm(grads))
            assert waits == asked
            found.add(b"".join(engine.home(a).tobytes() for a in (loss, grads.flat, model.params.flat)))
    assert len(found) == 1


def test_layers_and_models_keep_the_laws_on_the_twins(cupy):
    for subject in composed_subjects():
        for finding in subject.findings():
            assert finding.holds, (subject.name, finding)


def test_training_launches_every_kernel(cupy, monkeypatch):
    launched, kernel = set(), cuda.kernel

    def watched(source, name, dtype):
        launched.add(name)
        return kernel(source, name, dtype)

    monkeypatch.setattr(cuda, "kernel", watched)
    for changes in ({}, *({"activation": name} for name in ACTIVATIONS)):
        for dropout in (0.0, 0.3):  # without dropout the feed-forward runs as one piece
            step(GPT(Config(**SMALL | changes | {"dropout": dropout})), T=5)
    for name in ("LLaMA", "Gemma 2"):
        step(GPT(Config(**SMALL | VARIANTS[name])), T=5)
    assert launched == {name for source in SOURCES.values() for name in cuda.names(source)}


# What the page of the engines says of models of a kind, and one of the kind.
LLAMA = VARIANTS["LLaMA"]
SHAPES = {
    "LLaMA": [LLAMA],
    "Mistral": [LLAMA | {"window": 3}, LLAMA | {"layers": [{"window": 3}, {}]}],
    "Gemma 2": [VARIANTS["Gemma 2"] | {"layers": [{"window": 3}, {}], "positions": "rotary", "head_dim": 4}],
    "Qwen 3": [LLAMA | {"qk_norm": "head", "head_dim": 4}],
    "GPT-OSS, dense": [LLAMA | {"activation": "swiglu_clamped", "sink": True}],
    "MPT": [{"positions": "alibi", "activation": "gelu", "bias": False}],
    "Mixtral": [VARIANTS["Mixtral"]],
}


def without_twins(monkeypatch, changes):
    """The ops of a step of which a half runs the specification, on the GPU's arrays."""
    found = set()

    def watched(half, chosen):
        def choose(op, arrays):
            function = chosen(op, arrays)
            found.update({op.name} if function is getattr(op, half) else ())
            return function

        return choose

    with monkeypatch.context() as patch:
        for half in ("forward", "backward"):
            patch.setattr(engine, half, watched(half, getattr(engine, half)))
        step(GPT(Config(**SMALL | changes)), T=5)
    return found


def test_the_page_of_engines_says_which_ops_of_a_model_have_no_twin_on_a_gpu(cupy, monkeypatch):
    page = Path(engine.__file__).with_name("README.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| ((?:`\w+`(?:, | \|$))+)", page, re.MULTILINE)
    said = {name: set(re.findall(r"`(\w+)`", ops)) for names, ops in rows for name in names.split("; ")}
    assert set(said) == set(SHAPES)
    for name, shapes in SHAPES.items():
        for changes in shapes:
            assert without_twins(monkeypatch, changes) == said[name], name


@pytest.mark.parametrize("seen", [None, Visibility.packed([[50, 90], [130, 10]])], ids=["causal", "packed"])
def test_a_window_costs_its_keys_alone_and_never_a_wait(cupy, monkeypatch, seen):
    """Also where a batch says more of who sees whom. The loss and its gradients are the specification's."""
    keys, row_by_row = [], attention_cupy.row_by_row

    def watched(name, scores, *args):
        keys.append(scores[0].shape[-1])
        return row_by_row(name, scores, *args)

    monkeypatch.setattr(attention_cupy, "row_by_row", watched)
    made = config(LLAMA | {"window": 4})
    model = GPT(made, 0, "float64")
    waits.clear()
    found = model.loss_and_grads(TOKENS, TARGETS, visibility=seen)
    assert waits == [] and set(keys) == {attention_cupy.QUERIES, T - attention_cupy.QUERIES + 3}
    ours = [engine.home(a) for a in (found[0], found[1].flat)]
    engine.use("reference")
    loss, grads = GPT(made, 0, "float64").loss_and_grads(TOKENS, TARGETS, visibility=seen)
    for a, b in zip(ours, (loss, grads.flat), strict=True):
        assert abs(a - b).max() <= 1e-13 * abs(b).max()


def test_thirty_steps_take_the_same_curve_on_the_twins_as_on_the_specification(cupy):
    """In float64: 30 steps multiply a rounding that differs by far less than 1e6."""
    curves = {}
    for name in ("cupy", "reference"):
        engine.use(name)
        model = GPT(Config(**SMALL), 0, "float64")
        optimizer, curves[name] = AdamW(model, clip=0.5), []
        for t in range(30):
            loss, grads = model.loss_and_grads(TOKENS[:, :5], TARGETS[:, :5], step=t)
            optimizer.step(grads, 1e-2, optimizer.norm(grads))
            curves[name].append(float(engine.home(loss)))
    assert curves["reference"][-1] < 0.8 * curves["reference"][0]
    np.testing.assert_allclose(curves["cupy"], curves["reference"], rtol=1e6 * np.finfo(float).eps)
