"""The cupy engine in a precision: the specification's numbers from cuBLAS's products, on the stand-in."""

import dataclasses

import numpy as np
import pytest
from cupy_stand_in import cupy, waits  # noqa: F401 (fixtures)
from test_mixed_precision import (
    FRACTION,
    MULTIPLIES,
    both_ways,
    corpus,  # noqa: F401 (a fixture)
    expect_float32_sums,
    first_subject,
    trainer,
    within,
)

import numgpt
from numgpt import InputError, engine, ops
from numgpt.engine.precision import FORMATS, of_products, product, rounded
from numgpt.training.stochastic import key_of, round_stochastically
from numgpt.training.trainer import Trainer

each_format = pytest.mark.parametrize("name", FORMATS)
RNG = np.random.default_rng(1)


def there(x):
    return engine.move(x, "cupy")


@each_format
def test_a_product_rounds_its_operands_and_adds_up_in_float32(cupy, name):
    multiply = within(name)
    expect_float32_sums(lambda a, b: engine.home(multiply(there(a), there(b))), name)


SHAPES = {
    "matrices": ((5, 7), (7, 3)),
    "a row": ((1, 7), (7, 3)),
    "rows of a batch": ((2, 5, 7), (7, 3)),
    "a batch": ((2, 3, 5, 7), (2, 3, 7, 4)),
    "heads of a group": ((2, 3, 4, 5, 7), (2, 3, 1, 7, 2)),
    "one matrix for all": ((4, 5), (3, 5, 2)),
    "no rows": ((0, 7), (7, 3)),
    "no terms": ((5, 0), (0, 3)),
}


@each_format
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
def test_products_of_all_shapes_and_layouts(cupy, name, shapes, transposed):
    a, b = (RNG.standard_normal(shape).astype(np.float32) for shape in shapes)
    if transposed:
        a, b = (np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) for x in (a, b))
    with of_products(name):
        found = product(there(a), there(b))
    exact = rounded(a, name).astype(float) @ rounded(b, name).astype(float)
    assert found.dtype == np.float32 and found.shape == exact.shape and found.flags.c_contiguous
    np.testing.assert_allclose(engine.home(found), exact, rtol=1e-5, atol=1e-5)


@each_format
@pytest.mark.parametrize("op", MULTIPLIES)
def test_each_op_gives_what_the_specification_gives(cupy, op, name):
    subject = first_subject(ops.ALL[op])
    moved = dataclasses.replace(subject, arrays=[None if a is None else _moved(a) for a in subject.arrays])
    with of_products(name):
        found = both_ways(moved)
        numgpt.use("reference")
        expected = both_ways(subject)
    far = 2.0 ** -(FRACTION[name] + 1)
    for a, b in zip(found, expected, strict=True):
        assert np.linalg.norm(a - b) <= 0.2 * far * np.linalg.norm(b)


def _moved(array):
    return there(array.astype(np.float32) if array.dtype.kind == "f" else array)


@each_format
def test_a_run_stays_near_the_specifications_and_waits_no_more_than_its_scale_asks(cupy, corpus, name):
    """In fp16 each step waits for loss and norm, which tell whether it is left out; else for nothing."""
    numgpt.use("reference")
    expected = trainer(corpus, precision=name, dropout=0.0)
    losses = [float(expected.step()["loss"]) for _ in range(3)]
    numgpt.use("cupy")
    run = on_the_gpu(corpus, name)
    waits.clear()
    entries = [run.step() for _ in range(3)]
    assert len(waits) == (6 if name == "fp16" else 0), waits
    np.testing.assert_allclose([float(e["loss"]) for e in entries], losses, rtol=1e-3)
    run.run()
    assert run.updates == run.training.steps


def on_the_gpu(corpus, name, **settings):
    """A run on the GPU, which emulates nothing."""
    like = trainer(corpus, precision=name, dropout=0.0, **settings)
    training = dataclasses.replace(like.training, emulate_precision=False)
    return Trainer(like.model.to("cupy"), corpus, training)


def test_a_step_whose_gradients_overflow_is_left_out(cupy, corpus):
    run = on_the_gpu(corpus, "fp16")
    run.mixed.loss_scale.value = 2.0**26
    before = engine.home(run.model.params.flat).tobytes()
    assert run.step()["skipped"] and run.optimizer.steps == 0
    assert engine.home(run.model.params.flat).tobytes() == before
    run.run()
    assert run.optimizer.steps == run.training.steps - run.mixed.skipped > 0


def test_weights_without_masters_have_the_specifications_bits(cupy):
    w = RNG.standard_normal(1000).astype(np.float32)
    moved = there(w.copy())
    engine.twin(round_stochastically, moved)(moved, key_of(0, 0), 7)
    round_stochastically(w, key_of(0, 0), 7)
    assert engine.home(moved).tobytes() == w.tobytes()


def test_a_gpu_whose_tensor_cores_do_not_know_a_format_is_refused(cupy, corpus, monkeypatch):
    old = {"name": b"old", "major": 7, "minor": 5}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device: old)
    with pytest.raises(InputError, match=r"this GPU has no products \(compute capability 7.5, below 8.0\)"):
        on_the_gpu(corpus, "bf16")
    on_the_gpu(corpus, "fp16")
