"""Weights without masters: each step rounds them at random to bf16 numbers, whose mean is what they were."""

import numpy as np
import pytest
from test_mixed_precision import corpus, trainer  # noqa: F401 (a fixture)

from numgpt import GPT, AdamW, engine
from numgpt.engine.precision import rounded
from numgpt.training.stochastic import key_of, round_stochastically
from numgpt.training.trainer import Trainer

RNG = np.random.default_rng(2)
HALVES = np.uint32(0xFFFF0000)


def neighbours(w):
    """The bf16 numbers below and above in size; both are w where it is one."""
    low = (w.view(np.uint32) & HALVES).view(np.float32)
    return low, np.where(low == w, low, (low.view(np.uint32) + np.uint32(0x10000)).view(np.float32))


def at_random(w, n, begin=0, seed=0):
    """w rounded in n steps, each from w."""
    found = []
    for step in range(n):
        copy = w.copy()
        engine.twin(round_stochastically, copy)(copy, key_of(seed, step), begin)
        found.append(copy)
    return np.stack(found)


def test_only_the_two_bf16_numbers_beside_a_number_are_given(each_engine):
    w = (RNG.standard_normal(5000) * np.exp2(RNG.integers(-30, 30, 5000))).astype(np.float32)
    w = np.concatenate([w, rounded(w, "bf16"), np.array([0.0, -0.0, np.inf], np.float32)])
    low, high = neighbours(w)
    found = at_random(w, 20)
    assert ((found == low) | (found == high)).all()
    assert ((found == low).any(0) & (found == high).any(0))[:5000].mean() > 0.8
    assert np.array_equal(np.signbit(found[0]), np.signbit(w))


def expect_unbiased(rounding):
    """The law: over n steps the mean of each number is what it was, within five standard errors.

    A number that lies a share x of the way up is x or 1 − x of it off, with a variance of x (1 − x).
    """
    n, w = 4000, (RNG.standard_normal(200) * np.exp2(RNG.integers(-8, 8, 200))).astype(np.float32)
    low, high = (a.astype(np.float64) for a in neighbours(w))
    x = (w - low) / (high - low)
    up = (rounding(w, n) - low) / (high - low)
    deviations = (up.mean(0) - x) / np.sqrt(np.maximum(x * (1 - x), 1e-4) / n)
    assert np.abs(deviations).max() < 5 and abs(deviations.mean()) < 5 / np.sqrt(len(w))


def test_the_mean_is_the_number(each_engine):
    expect_unbiased(at_random)


@pytest.mark.parametrize(
    "rounding",
    [
        lambda w, n: np.broadcast_to(rounded(w, "bf16"), (n, len(w))),
        lambda w, n: np.broadcast_to(neighbours(w)[0], (n, len(w))),
        lambda w, n: np.where(RNG.random((n, len(w))) < 0.5, *neighbours(w)),
        lambda w, n: at_random(w * np.float32(1 + 2**-12), n),
    ],
    ids=["to the nearest", "cut off", "by a coin", "with an error of a part in 4096"],
)
def test_rounding_that_is_biased_is_rejected(rounding):
    with pytest.raises(AssertionError):
        expect_unbiased(rounding)


def test_it_depends_on_seed_step_and_place_alone(each_engine):
    """Not on where the array was cut: blocks, threads and ranks round the same bits."""
    w = RNG.standard_normal(150_000).astype(np.float32)
    (whole,) = at_random(w, 1, begin=1000)
    parts = [at_random(part, 1, 1000 + i)[0] for i, part in ((0, w[:70_001]), (70_001, w[70_001:]))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    different = [at_random(w, 1, 1001)[0], at_random(w, 2, 1000)[1], at_random(w, 1, 1000, seed=1)[0]]
    for other in different:  # of two independent draws one in three differs: the mean of 2 x (1 − x)
        assert 0.3 < (other != whole).mean() < 0.36


def test_the_twin_has_the_specifications_bits():
    numba = pytest.importorskip("numgpt.training.stochastic_numba", reason="Numba is not installed")
    for n, begin in ((1, 0), (65_537, 3), (1_100_000, 2**33)):
        w = RNG.standard_normal(n).astype(np.float32)
        ones, others = w.copy(), w.copy()
        round_stochastically(ones, key_of(3, 4), begin)
        numba.round_stochastically(others, key_of(3, 4), begin)
        assert ones.tobytes() == others.tobytes()


def test_an_update_below_half_a_place_arrives_as_often_as_it_should(each_engine):
    """A weight of 1, of which each step takes 2⁻¹²: the nearest of bf16 would stay 1 for ever."""
    w, steps = np.ones(2000, np.float32), 64
    assert rounded(w - np.float32(2**-12), "bf16")[0] == 1
    for step in range(steps):
        w -= np.float32(2**-12)
        engine.twin(round_stochastically, w)(w, key_of(0, step), 0)
    # each step's variance is at most (2⁻⁸)² / 4 · share; far below the change that is looked for
    assert abs(w.mean(dtype=np.float64) - (1 - steps * 2**-12)) < 5e-4


def test_without_masters_each_step_leaves_bf16_numbers_and_resumes_to_the_same_bits(corpus, tmp_path):
    settings = {"precision": "bf16", "masters": False, "steps": 8}
    whole = trainer(corpus, tmp_path / "whole", **settings)
    whole.run()
    assert np.array_equal(whole.model.params.flat, rounded(whole.model.params.flat, "bf16"))
    part = trainer(corpus, tmp_path / "part", **settings)
    for _ in range(3):
        part.step()
    part.save("last")
    again = Trainer(GPT.load(part.out / "last"), corpus, part.training, part.out)
    again.resume()
    again.run()
    assert again.model.params.flat.tobytes() == whole.model.params.flat.tobytes()


def test_what_does_not_train_is_not_rounded(corpus):
    run = trainer(corpus, precision="bf16", masters=False)
    names = ["h.*.mlp.*.weight"]
    run = Trainer(run.model, corpus, run.training, optimizer=AdamW(run.model, names=names))
    before = {name: array.copy() for name, array in run.model.params.items()}
    run.step()
    for name, array in run.model.params.items():
        if ".mlp." in name and name.endswith("weight"):
            assert np.array_equal(array, rounded(array, "bf16")) and (array != before[name]).any()
        else:
            assert array.tobytes() == before[name].tobytes(), name
