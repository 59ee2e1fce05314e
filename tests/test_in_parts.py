"""Runs whose model is cut: they end, stop and go on as a run of one process, on however many ranks."""

import dataclasses
import functools

import numpy as np
import pytest
from parts_of_models import Texts
from threaded_ranks import on_ranks

from numgpt import GPT, AdamW, Config, InputError, Trainer, Training
from numgpt.layers import transformer
from numgpt.layers.router_losses import with_router_losses
from numgpt.parallel import in_parts
from numgpt.parallel.data import DataParallel
from numgpt.parallel.experts import ExpertPlan
from numgpt.parallel.in_parts import InParts
from numgpt.parallel.layout import parsed
from numgpt.parallel.pipeline import PipelinePlan
from numgpt.parallel.ranks import Alone
from numgpt.training.finite import NotFinite

EXACT = functools.partial(PipelinePlan, exact=True)
SIZE = {"vocab_size": 11, "block_size": 6, "n_head": 2, "n_embd": 8}
DEEP = Config(**SIZE, n_layer=8)
MIXED = Config(**SIZE, n_layer=2, n_inner=6, n_expert=8)
TRAINING = Training(steps=6, batch_size=2, accumulate=4, lr=1e-2, warmup=0, eval_interval=3, save_interval=2)


def trainer_of(config, distribution, out=None, training=TRAINING, model=None):
    model = GPT(config, seed=0, dtype="float64") if model is None else model
    layer = with_router_losses(0.01, 0.01) if config.n_expert else transformer.loss
    return Trainer(model, None, training, out, Texts(config, layer), distribution=distribution)


def distribution_of(kind, layout, ranks):
    """The distribution of a rank in a layout such as data:2,pipeline:2."""
    places = parsed(layout, ranks.size)
    name = "pipeline" if kind is not ExpertPlan else "experts"
    return InParts(kind, ranks, places.group(ranks, name), places.group(ranks, "data"))


def result(trainer):
    """The parameters and moments of a trainer whose distribution has put them together."""
    optimizer = trainer.distribution.to_save(trainer.optimizer)
    return (
        trainer.model.params.flat.copy(),
        optimizer.m.flat.copy(),
        optimizer.v.flat.copy(),
        trainer.held_out,
    )


@functools.cache
def of_one_process(config):
    trainer = trainer_of(config, DataParallel(Alone()))
    trainer.run()
    return result(trainer)


@pytest.mark.parametrize("layout", ["pipeline:2", "pipeline:4", "data:2,pipeline:2", "data:4,pipeline:2"])
def test_a_run_in_stages_has_the_bits_of_one_process(layout):
    size = np.prod([int(word.split(":")[1]) for word in layout.split(",")])

    def work(ranks):
        trainer = trainer_of(DEEP, distribution_of(EXACT, layout, ranks))
        trainer.run()
        return result(trainer), ranks.rank

    expected = of_one_process(DEEP)
    for ours, rank in on_ranks(size, work):
        assert (ours[0] == expected[0]).all() and ours[3] == expected[3]
        if rank == 0:  # the first has the moments, for it saves
            assert all((a == b).all() for a, b in zip(ours[1:3], expected[1:3]))


@pytest.mark.parametrize(
    ("config", "kind", "layout"),
    [
        (DEEP, PipelinePlan, "pipeline:4"),
        (DEEP, PipelinePlan, "data:2,pipeline:2"),
        (MIXED, ExpertPlan, "experts:4"),
        (MIXED, ExpertPlan, "data:2,experts:2"),
    ],
)
def test_a_run_in_parts_ends_where_one_process_does(config, kind, layout):
    def work(ranks):
        trainer = trainer_of(config, distribution_of(kind, layout, ranks))
        trainer.run()
        return result(trainer)

    expected = of_one_process(config)
    for ours in on_ranks(4, work):
        assert abs(ours[0] - expected[0]).max() <= 1e-11 * abs(expected[0]).max()
        assert abs(ours[3] - expected[3]) <= 1e-12 * expected[3]


def test_a_run_that_stops_goes_on_in_another_number_of_stages(tmp_path):
    """Saved at 4, resumed at 2, then at 1 in data mode: the same bits as a run that was never stopped."""
    out = tmp_path / "run"

    def begun(ranks):
        trainer = trainer_of(
            DEEP, InParts(EXACT, ranks), out, dataclasses.replace(TRAINING, steps=6, save_interval=2)
        )
        while trainer.updates < 2:
            trainer.step()
        trainer.save("last")

    def resumed(ranks, steps):
        model = GPT.load(out / "last", dtype="float64")
        trainer = trainer_of(DEEP, InParts(EXACT, ranks), out, model=model)
        trainer.resume()
        while trainer.updates < steps:
            trainer.step()
        trainer.save("last")

    on_ranks(4, begun)
    on_ranks(2, lambda ranks: resumed(ranks, 4))
    model = GPT.load(out / "last", dtype="float64")
    trainer = trainer_of(DEEP, DataParallel(Alone()), out, model=model)
    trainer.resume()
    trainer.run()
    expected = of_one_process(DEEP)
    assert (model.params.flat == expected[0]).all() and (trainer.optimizer.v.flat == expected[2]).all()


def test_the_best_checkpoint_is_the_model_that_was_measured(tmp_path):
    out = tmp_path / "run"

    def work(ranks):
        trainer = trainer_of(DEEP, InParts(EXACT, ranks), out)
        trainer.run()
        return trainer.best

    best = on_ranks(2, work)[0]
    whole = trainer_of(DEEP, DataParallel(Alone()), model=GPT.load(out / "best", dtype="float64"))
    assert whole.evaluate()["held_out_loss"] == pytest.approx(best, rel=1e-14)


def test_parts_that_differ_end_the_run(monkeypatch):
    monkeypatch.setattr(in_parts, "CHECKED", 2)

    def work(ranks):
        trainer = trainer_of(DEEP, InParts(PipelinePlan, ranks))
        trainer.step()
        if ranks.rank:
            trainer.distribution.part.params["wte.weight"][0, 0] += 1e-9
        with pytest.raises(
            InputError, match="parallel: after step 2 ranks hold different bits of wte.weight"
        ):
            trainer.step()

    on_ranks(2, work)


def test_a_part_that_is_not_finite_is_not_saved(tmp_path):
    def work(ranks):
        trainer = trainer_of(DEEP, InParts(PipelinePlan, ranks), tmp_path / "run")
        if ranks.rank:
            trainer.distribution.part.params["h.7.ln_1.weight"][0] = np.nan
        with pytest.raises(NotFinite, match=r"h\.7\.ln_1\.weight is not finite"):
            trainer.save("last")

    on_ranks(2, work)
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize(
    ("optimizer", "training", "message"),
    [
        (
            lambda model: AdamW(model, names=["h.*"]),
            {},
            "AdamW moves some parameters alone, expected AdamW of all",
        ),
        (None, {"accumulate": 3}, "a step has accumulate 3 batches, which 2 ranks cannot share"),
    ],
)
def test_what_cannot_be_cut_is_refused_on_every_rank(optimizer, training, message):
    def work(ranks):
        model = GPT(DEEP, seed=0, dtype="float64")
        given = None if optimizer is None else optimizer(model)
        settings = dataclasses.replace(TRAINING, **training)
        distribution = distribution_of(PipelinePlan, "data:2,pipeline:2", ranks)
        with pytest.raises(InputError, match=message):
            Trainer(model, None, settings, None, Texts(DEEP), given, distribution)

    on_ranks(4, work)
