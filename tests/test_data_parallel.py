"""Data parallel: the same bits on however many ranks, the right ones, and what goes wrong is seen."""

import dataclasses

import numpy as np
import pytest
from threaded_ranks import Apart, ThreadRanks, on_ranks

import numgpt
from numgpt import GPT, AdamW, Config, InputError, Trainer, Training
from numgpt.layers import transformer
from numgpt.parallel import data
from numgpt.parallel.data import DataParallel
from numgpt.parallel.ranks import Alone
from numgpt.training.objective import Batch

# More than four blocks of the norm, so that each of four ranks has a part of its own.
CONFIG = Config(vocab_size=64, block_size=8, n_layer=2, n_head=4, n_embd=112)
TRAINING = Training(steps=3, batch_size=1, accumulate=8, lr=1e-2, warmup=0, eval_interval=3, save_interval=3)


class Uneven:
    """An objective whose batches count unlike many tokens, each divided by its own count."""

    digest, source = "uneven", "uneven rows"

    def batch(self, step, n):
        draws = np.random.default_rng([step, n])
        x, y = draws.integers(0, CONFIG.vocab_size, (2, 1, CONFIG.block_size))
        y[:, : draws.integers(0, 7)] = -1
        return Batch((x, y), transformer.loss, int((y >= 0).sum()))

    def held_out(self):
        for n in range(5):
            yield self.batch(-1 % 100, n)


def trained(ranks, dtype="float64", optimizer=None, out=None, kind=DataParallel, training=TRAINING):
    """The trainer of a whole run on some ranks."""
    model = GPT(CONFIG, seed=0, dtype=dtype)
    optimizer = None if optimizer is None else optimizer(model)
    trainer = Trainer(model, None, training, out, Uneven(), optimizer, distribution=kind(ranks))
    trainer.run()
    return trainer


def bits(trainer):
    return trainer.model.params.flat.tobytes()


@pytest.fixture(scope="module")
def alone():
    return trained(Alone())


@pytest.mark.parametrize("kind", [ThreadRanks, Apart], ids=["shared memory", "messages"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_bits_do_not_depend_on_the_number_of_ranks(size, kind, alone):
    for trainer in on_ranks(size, trained, kind):
        assert bits(trainer) == bits(alone)
        assert trainer.held_out == alone.held_out
