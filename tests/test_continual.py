"""Continual learning: the exact diagonal of the Fisher matrix, and springs to where parameters were."""

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError, Training, calculus, tuning
from numgpt.layers import transformer
from numgpt.model import differentiable
from numgpt.training.objective import Batch, step_loss_and_grads

CONFIG = Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=4)
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 5, (2, 3, 4))


def a_model(seed=1):
    """Away from its beginning, where half of the Fisher matrix is nearly 0."""
    model = GPT(CONFIG, seed=seed, dtype="float64")
    model.params.flat[:] += 0.4 * np.random.default_rng(seed).standard_normal(model.n_params)
    return model


@pytest.mark.parametrize("targets", [None, np.where(RNG.random((3, 4)) < 0.5, -1, Y)], ids=["all", "some"])
def test_the_diagonal_is_that_of_the_fisher_matrix(targets):
    model = a_model()
    diagonal = calculus.fisher_diagonal(model, X, targets)
    columns = [calculus.fisher(model, X, unit, targets).flat for unit in np.eye(model.n_params)]
    np.testing.assert_allclose(diagonal.flat, np.diag(columns), rtol=1e-10, atol=1e-16)
    assert diagonal.flat.min() >= 0


def test_it_is_neither_the_empirical_one_nor_the_square_of_the_mean_gradient():
    """Labels of the data's give another matrix, and a batch's mean gradient one of another size."""
    model = a_model()
    diagonal = calculus.fisher_diagonal(model, X)
    rows = list(calculus.per_example_gradients(model, X.reshape(-1, 1), Y.reshape(-1, 1)))
    empirical = np.mean([g.flat**2 for g in rows], 0)
    mean = model.loss_and_grads(X, Y)[1].flat ** 2
    assert np.abs(empirical - diagonal.flat).max() > 0.1 * diagonal.flat.max()
    assert mean.sum() < 0.5 * diagonal.flat.sum()


def test_a_position_that_does_not_count_leaves_nothing():
    with pytest.raises(InputError, match="fisher_diagonal: no position counts"):
        calculus.fisher_diagonal(a_model(), X, np.full_like(Y, -1))


class Text:
    """Two batches a step, of unequal counts; divided: by what counts in the whole step."""

    source = "a text"

    def __init__(self, divided):
        self.whole = 11 if divided else None

    def batch(self, step, n):
        targets = np.where(np.arange(12).reshape(3, 4) < (4 if n else 7), Y, -1)
        inputs = (X, targets) if self.whole is None else (X, targets, self.whole)
        return Batch(inputs, transformer.loss, 4 if n else 7, self.whole)


@pytest.mark.parametrize("divided", [False, True], ids=["means", "sums"])
def test_a_steps_loss_has_the_springs_once_and_its_gradient_is_the_complex_steps(divided):
    model, before = a_model(), a_model(2)
    anchors = [tuning.Anchor(before, calculus.fisher_diagonal(before, X)), tuning.Anchor(a_model(3))]
    objective = tuning.Anchored(Text(divided), anchors, 0.7)
    grads = model.params.like()
    loss, _ = step_loss_and_grads(model, objective, 0, 2, grads)
    plain, _ = step_loss_and_grads(model, Text(divided), 0, 2, model.params.like())
    springs = sum(
        (a.stiffness.flat * (model.params.flat - a.centre.flat) ** 2).sum() for a in objective.anchors
    )
    assert loss == pytest.approx(plain + 0.7 / 2 * springs, rel=1e-13)

    moved, v = model.astype("complex128"), np.random.default_rng(4).standard_normal(model.n_params)
    moved.params.flat[:] += 1e-30j * v
    batches = [objective.batch(0, n) for n in range(2)]
    weights = np.array([b.divisor for b in batches]) / 11
    losses = [differentiable.loss(moved, b.layer, b.inputs) for b in batches]
    assert grads.flat @ v == pytest.approx((weights * losses).sum().imag / 1e-30, rel=1e-11)


def test_springs_that_are_stiff_enough_leave_a_model_where_it_was():
    model = a_model()
    anchored = tuning.Anchored(Text(False), [tuning.Anchor(model)], 1e6)
    before = model.params.flat.copy()
    training = Training(steps=30, lr=1e-3, warmup=0, weight_decay=0.0, clip=0.0, min_lr=0.0)
    numgpt.Trainer(model, None, training, objective=anchored).run()
    free = a_model()
    numgpt.Trainer(free, None, training, objective=Text(False)).run()
    assert np.abs(model.params.flat - before).max() < 0.2 * np.abs(free.params.flat - before).max()


def test_another_weight_or_another_centre_is_another_run():
    model = a_model()
    one, other = tuning.Anchor(model), tuning.Anchor(a_model(2))
    digests = {
        tuning.Anchored(Text(False), anchors, weight).digest
        for anchors, weight in (([one], 1.0), ([one], 2.0), ([other], 1.0), ([one, other], 1.0), ([], 1.0))
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("stiffness", "message"),
    [
        (
            {"wte.weight": np.ones((5, 5))},
            r"stiffness has wte.weight of shape \(5, 5\), expected shape \(5, 4\)",
        ),
        ({"nobody": np.ones(2)}, "stiffness has nobody of shape .2,., expected a parameter of the model"),
        ({"ln_f.weight": np.full(4, -1.0)}, "stiffness of ln_f.weight is negative or not finite"),
        ({"ln_f.weight": np.full(4, np.nan)}, "stiffness of ln_f.weight is negative or not finite"),
    ],
)
def test_a_stiffness_of_something_else_is_an_error(stiffness, message):
    with pytest.raises(InputError, match=f"Anchor: {message}"):
        tuning.Anchor(a_model(), stiffness)
