"""What laws of models on several ranks share: an objective whose batches count unequally, and comparisons."""

import numpy as np

from numgpt import GPT
from numgpt.layers import transformer
from numgpt.training.objective import Batch, step_loss_and_grads

LIMIT = 4e-15  # relative, of each array's largest entry: some ten roundings


class Texts:
    """Random tokens in batches of unequal size, of whose targets some do not count."""

    def __init__(self, config, layer=transformer.loss, visibility=None):
        self.config, self.layer, self.visibility = config, layer, visibility
        self.drawn = []  # which batches were asked for

    def batch(self, step, n):
        self.drawn.append(n)
        rng = np.random.default_rng((step, n))
        x, y = rng.integers(0, self.config.vocab_size, (2, 2, self.config.block_size))
        y[0, : n % 4] = -1
        count = int((y >= 0).sum())
        return Batch((x, y, count), self.layer, count, visibility=self.visibility)

    def held_out(self):
        for n in range(5):
            batch = self.batch(10**6, n)
            yield Batch(batch.inputs[:2], transformer.loss, batch.count, visibility=self.visibility)


class WholeSteps(Texts):
    """The same, whose losses are divided by what counts in a step of so many, as in pre-training."""

    def __init__(self, *args, batches, **options):
        super().__init__(*args, **options)
        self.batches = batches

    def batch(self, step, n):
        whole = sum(super(WholeSteps, self).batch(step, k).count for k in range(self.batches))
        batch = super().batch(step, n)
        return Batch((*batch.inputs[:2], whole), self.layer, batch.count, whole, self.visibility)


def drawn(config, seed=0, dtype="float64"):
    """A model whose parameters are all random, biases too."""
    model = GPT(config, seed, dtype)
    model.params.flat[:] = 0.3 * np.random.default_rng(seed).standard_normal(model.n_params)
    return model


def whole_step(model, objective, batches, step=3):
    """The loss and the gradients of a step of one process that has the whole model."""
    grads = model.params.like()
    loss, _ = step_loss_and_grads(model, objective, step, batches, grads)
    return loss, grads


def relative_error(ours, theirs):
    """The worst of all arrays: the largest difference beside the largest entry. (error, name)"""
    assert ours.shapes == theirs.shapes
    errors = []
    for name in theirs:
        largest = abs(theirs[name]).max()
        difference = abs(ours[name] - theirs[name]).max()
        errors.append((float(difference / largest) if largest else float(difference > 0), name))
    return max(errors)
