"""Reinforcement on several processes: each answers and scores its own, and all learn from all."""

import numpy as np
import pytest
from test_reinforce import additions_of, model_of, objective_of, training
from threaded_ranks import Apart, ThreadRanks, on_ranks

from numgpt import Trainer, tuning
from numgpt.parallel.data import DataParallel
from numgpt.parallel.ranks import Alone

CHANGES = [{}, {"epochs": 2, "batches": 2}, {"beta": 0.2}]


def trained(ranks, kind, changes):
    """A run, and which micro-batches this rank has scored."""
    model = model_of("float64", *additions_of(kind))
    fixed = tuning.frozen(model_of("float64", *additions_of(kind)))
    t = training(accumulate=4, batch_size=1)
    objective = objective_of(kind, model, t, fixed, **changes)
    scored = []
    logp = objective._logp
    objective._logp = lambda m, s: (scored.append(s.inputs.shape), logp(m, s))[1]
    trainer = Trainer(model, None, t, None, objective, distribution=DataParallel(ranks))
    entries = []
    while trainer.updates < t.steps:
        entry = trainer.step()
        entry.pop("tokens_per_s")
        entries.append(entry)
    return model.params.flat.tobytes(), entries, len(scored)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_bits_do_not_depend_on_the_number_of_ranks(kind, changes):
    bits, entries, scored = trained(Alone(), kind, changes)
    for size, ranks in ((2, ThreadRanks), (4, Apart)):
        for found, its_entries, its_scored in on_ranks(size, lambda r: trained(r, kind, changes), ranks):
            assert found == bits
            np.testing.assert_equal(its_entries, entries)
            assert its_scored == scored // size
