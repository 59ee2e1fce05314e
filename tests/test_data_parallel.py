"""Data parallel: the same bits on however many ranks, the right ones, and what goes wrong is seen."""

import dataclasses
import math

import numpy as np
import pytest
from threaded_ranks import Apart, ThreadRanks, on_ranks

from numgpt import GPT, AdamW, Config, InputError, LoRA, Trainer, Training
from numgpt.layers import transformer
from numgpt.parallel import alike, shards
from numgpt.parallel.data import DataParallel
from numgpt.parallel.ranks import Alone, tree_sum
from numgpt.training.objective import Batch, step_loss_and_grads

# More than four blocks of the norm, so that each of four ranks has a part of its own.
CONFIG = Config(vocab_size=64, block_size=8, n_layer=2, n_head=4, n_embd=112)
TRAINING = Training(steps=3, batch_size=1, accumulate=8, lr=1e-2, warmup=0, eval_interval=3, save_interval=3)


class Uneven:
    """An objective whose batches count unlike many tokens, each divided by its own count."""

    source = "uneven rows"

    def __init__(self, digest="uneven"):
        self.digest = digest

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


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_gradient_is_that_of_one_process_batch_after_batch(size):
    model = GPT(CONFIG, seed=0, dtype="float64")
    expected = model.params.like()
    loss, count = step_loss_and_grads(model, Uneven(), 3, 8, expected)

    def work(ranks):
        own = GPT(CONFIG, seed=0, dtype="float64")
        distribution = DataParallel(ranks)
        grads = distribution.begin(own, AdamW(own), 8, {})
        found = distribution.loss_and_grads(own, Uneven(), 3, 8, grads, 1.0)
        return *found, distribution.part, grads.flat.copy()

    together = model.params.like()
    for its_loss, its_count, part, flat in on_ranks(size, work):
        assert its_count == count and math.isclose(its_loss, loss, rel_tol=4e-16 * 8)
        together.flat[part] = flat[part]
    for name, exact in expected.items():
        error = np.abs(together[name] - exact).max() / np.abs(exact).max()
        assert error <= 4e-15, (name, error)  # 8 addends, each rounded once to 1.1e-16 of the largest


class Whole:
    """AdamW as an optimizer that DataParallel knows nothing of: it runs whole on every rank."""

    def __init__(self, model):
        self.adamw = AdamW(model)
        self.step, self.norm = self.adamw.step, self.adamw.norm
        self.state, self.load_state = self.adamw.state, self.adamw.load_state


def test_parts_of_adamw_have_the_bits_of_the_whole(alone):
    for trainer in on_ranks(4, lambda ranks: trained(ranks, optimizer=Whole)):
        assert bits(trainer) == bits(alone)


def test_each_rank_moves_its_part_alone():
    def work(ranks):
        trainer = trained(ranks)
        return trainer.distribution.part, trainer.optimizer.m.flat.copy()

    parts = on_ranks(4, work, Apart)
    for part, m in parts:
        assert m[part].any() and not m[: part.start].any() and not m[part.stop :].any()
    assert sum(part.stop - part.start for part, _ in parts) == len(parts[0][1])


def with_adapter(ranks):
    model = GPT(CONFIG, seed=0, dtype="float64").extended(LoRA(rank=2))
    optimizer = AdamW(model, names=["*.lora_a", "*.lora_b"])
    trainer = Trainer(model, None, TRAINING, None, Uneven(), optimizer, distribution=DataParallel(ranks))
    trainer.run()
    return trainer


@pytest.mark.parametrize("kind", [ThreadRanks, Apart], ids=["shared memory", "messages"])
def test_an_adapter_is_trained_alone_on_however_many_ranks(kind):
    expected = with_adapter(Alone())
    assert bits(expected) != GPT(CONFIG, seed=0, dtype="float64").params.flat.tobytes()
    for trainer in on_ranks(2, with_adapter, kind):
        assert bits(trainer) == bits(expected)


def without_masters(ranks):
    training = dataclasses.replace(TRAINING, precision="bf16", masters=False, emulate_precision=True)
    return trained(ranks, "float32", training=training)


def test_weights_without_masters_are_rounded_alike():
    for trainer in on_ranks(2, without_masters):
        assert bits(trainer) == bits(without_masters(Alone()))


# What goes wrong is seen.


class NoSum(DataParallel):
    def _add_up(self, grads):
        self.ranks.barrier()


class NormOfOnePart(DataParallel):
    def norm(self, optimizer, grads):
        return optimizer.norm(grads)


class LocalDenominators(DataParallel):
    def loss_and_grads(self, model, objective, step, batches, grads, scale):
        loss, count = super().loss_and_grads(model, objective, step, batches, grads, scale)
        each = batches // self.ranks.size
        own = range(each * self.ranks.rank, each * (self.ranks.rank + 1))
        grads.flat[self.part] *= count / self.ranks.size / sum(objective.batch(step, n).count for n in own)
        return loss, count


class NoExchange(DataParallel):
    def _exchange(self, params, moved):
        pass


class SumInOrder(Apart):
    def reduce_scatter(self, array, lengths, axis=0):
        parts = self.all_to_all(np.split(array, np.cumsum(lengths)[:-1]))
        return sum(parts[1:], parts[0])


def results(size, work, kind):
    """Bits of the parameters by rank, or None where the run was refused, as one that diverges is."""
    try:
        return [bits(trainer) for trainer in on_ranks(size, work, kind)]
    except InputError:
        return None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (NoSum, ThreadRanks),
        (NormOfOnePart, Apart),
        (LocalDenominators, ThreadRanks),
        (NoExchange, Apart),
        (DataParallel, SumInOrder),
    ],
)
def test_planted_faults_change_the_bits(fault, kind, alone):
    found = results(4, lambda ranks: trained(ranks, kind=fault), kind)
    assert found is None or any(one != bits(alone) for one in found)


def test_replicas_that_differ_are_named():
    def work(ranks):
        params = GPT(CONFIG, seed=0).params
        alike.expect_replicas(ranks, params, 7)
        if ranks.rank == 2:
            params["h.1.ln_1.bias"][0] = np.float32(1e-30)
        alike.expect_replicas(ranks, params, 8)

    with pytest.raises(
        InputError, match=r"after step 8 rank 2 holds other bits of h\.1\.ln_1\.bias than rank 0"
    ):
        on_ranks(4, work)


def test_replicas_are_compared_while_a_run_goes_on(monkeypatch):
    monkeypatch.setattr("numgpt.parallel.data.CHECKED", 2)
    with pytest.raises(InputError, match="after step 2 rank 1 holds other bits"):
        on_ranks(2, lambda ranks: trained(ranks, kind=NoExchange), Apart)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("settings", r"settings of rank 1 is lr 0\.02, and lr 0\.01 of rank 0"),
        ("data", r"data of rank 1 is other, and uneven of rank 0"),
        ("model", r"model of rank 1 is n_embd 56, and n_embd 112 of rank 0"),
        ("parameters", r"parameters of rank 1 is \w+, and \w+ of rank 0"),
        ("NumPy", r"NumPy of rank 1 is 1\.0, and "),
    ],
)
def test_ranks_that_disagree_are_told_so(what, named, monkeypatch):
    found = alike.libraries()

    def work(ranks):
        other = ranks.rank == 1
        config = dataclasses.replace(CONFIG, n_embd=56) if other and what == "model" else CONFIG
        training = dataclasses.replace(TRAINING, lr=0.02) if other and what == "settings" else TRAINING
        model = GPT(config, seed=int(other and what == "parameters"))
        objective = Uneven("other" if other and what == "data" else "uneven")
        if what == "NumPy":
            facts = found | ({"NumPy": "1.0"} if other else {})
            alike.expect_alike(ranks, facts)
        Trainer(model, None, training, None, objective, distribution=DataParallel(ranks))

    with pytest.raises(InputError, match=named):
        on_ranks(2, work)


@pytest.mark.parametrize(
    ("size", "accumulate", "advice"),
    [(3, 6, "start 2 or 4"), (2, 3, "give --accumulate 4"), (4, 2, "give --accumulate 4"), (8, 12, "16")],
)
def test_batches_that_ranks_cannot_share_are_refused(size, accumulate, advice):
    with pytest.raises(InputError, match=advice):
        shards.expect_divides(size, accumulate)
    for fine in (1, accumulate & -accumulate):
        shards.expect_divides(fine, accumulate)


@pytest.mark.parametrize("batches", [1, 2, 6, 8, 12, 24])
def test_batches_are_added_by_the_tree(batches):
    parts = [np.random.default_rng(n).standard_normal(5) for n in range(batches)]
    leaves = shards.leaves_of(batches)
    per_leaf = batches // leaves
    grads = AdamW(GPT(Config(vocab_size=5, block_size=1, n_layer=0, n_head=1, n_embd=1))).m
    grads = type(grads)({"x": (5,)}, "float64")
    scratch = []

    def compute(n, place, add):
        place.flat[:] = place.flat + parts[n] if add else parts[n]

    shards.added(leaves, per_leaf, grads, scratch, compute)
    sums = [sum(parts[i + 1 : i + per_leaf], parts[i]) for i in range(0, batches, per_leaf)]
    assert (grads.flat == tree_sum(sums)).all()
    assert len(scratch) == leaves.bit_length() - 1


# Runs that stop and go on.


@pytest.mark.parametrize("kind", [ThreadRanks, Apart], ids=["shared memory", "messages"])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, kind, alone):
    def part(steps):
        def work(ranks):
            resumes = (tmp_path / "last").exists()
            ranks.barrier()
            model = GPT.load(tmp_path / "last") if resumes else GPT(CONFIG, seed=0, dtype="float64")
            training = dataclasses.replace(TRAINING, steps=3, save_interval=1)
            trainer = Trainer(model, None, training, tmp_path, Uneven(), distribution=DataParallel(ranks))
            if resumes:
                trainer.resume()
            while trainer.updates < steps:
                trainer.step()
            if steps == 3:
                trainer.evaluate()
            trainer.save("last")
            return trainer

        return work

    on_ranks(4, part(1), kind)
    part(2)(Alone())
    for trainer in on_ranks(2, part(3), kind):
        assert bits(trainer) == bits(alone)
        assert trainer.held_out == alone.held_out
    saved = GPT.load(tmp_path / "last")
    assert saved.params.flat.tobytes() == bits(alone)


def test_all_stop_where_one_is_asked(tmp_path):
    class Asked(DataParallel):
        def update(self, *args):
            super().update(*args)
            self.stop = self.ranks.rank == 1

        def agreed(self, is_asked):
            return super().agreed(is_asked or getattr(self, "stop", False))

    trainers = on_ranks(4, lambda ranks: trained(ranks, out=tmp_path, kind=Asked))
    assert [(t.updates, t.stopped, t.saved) for t in trainers] == [(1, True, 1)] * 4
