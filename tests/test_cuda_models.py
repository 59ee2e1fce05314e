"""Whole models on the twins, over the stand-in that refuses to mix host and device: laws, errors and bits.

And in a step the host never waits for the device.
"""

import cuda_on_cpu
import numpy as np
import pytest

pytest.importorskip("cupy_stand_in", reason="the stand-in for CuPy is not here")

from cupy_stand_in import cupy, waits  # noqa: F401 (a fixture)
from shares import slow
from test_cuda_shim import SOURCES

from numgpt import GPT, AdamW, Config, engine
from numgpt.engine import cuda
from numgpt.proofs.subjects import SMALL, VARIANTS, composed_subjects

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")
both = pytest.mark.parametrize("dtype, wider", [("float32", "float64"), slow("float64", "longdouble")])
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
T = 140  # more than a block of queries
TOKENS, TARGETS = np.random.default_rng(0).integers(0, 7, (2, 2, T))
TARGETS[0, 0] = -1


def config(changes):
    return Config(**SMALL | {"block_size": T} | changes)


def step(model, add=False):
    """(loss, gradients, parameters after) of a training step, in the host's memory; add: with a second pass
    onto the first.
    """
    loss, grads = model.loss_and_grads(TOKENS, TARGETS, step=0)
    if add:
        model.loss_and_grads(TARGETS * (TARGETS > 0), TOKENS, step=1, out=grads, add=True)
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
    for changes in ({}, {"activation": "gelu"}):
        for dropout in (0.0, 0.3):  # without dropout the feed-forward runs as one piece
            step(GPT(config(changes | {"dropout": dropout})))
    assert launched == {name for source in SOURCES.values() for name in cuda.names(source)}


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
