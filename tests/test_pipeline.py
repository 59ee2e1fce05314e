"""A model whose blocks lie on several ranks is the model in one piece: steps, updates, refusals."""

import gc
import weakref

import numpy as np
import pytest
from parts_of_models import LIMIT, Texts, WholeSteps, drawn, relative_error, whole_step
from threaded_ranks import ThreadRanks, on_ranks

from numgpt import GPT, AdamW, Config, InputError, LoRA, Visibility
from numgpt.layers.layer import Layer
from numgpt.layers.router_losses import with_router_losses
from numgpt.parallel import pipeline
from numgpt.parallel.data import DataParallel
from numgpt.parallel.pipeline import PipelinePlan, StageRecord
from numgpt.parallel.ranks import Alone
from numgpt.training.objective import held_out_loss
from numgpt.training.optim import global_norm

SIZE = {"vocab_size": 11, "block_size": 6, "n_layer": 8, "n_head": 2, "n_embd": 8}
ROUTERS = with_router_losses(0.1, 0.2)
MODELS = {
    "GPT-2": {},
    "GPT-1": {"norm_position": "post"},
    "untied, with a bias of the head": {"tied": False, "biases": "qkv out mlp norm head"},
    "LLaMA": {
        "positions": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
        "n_kv_head": 1,
    },
    "capped and scaled": {"final_softcap": 3.0, "logit_scale": 0.5, "embed_scale": 2.0, "embed_norm": True},
    "parallel, ALiBi": {"norm_position": "parallel", "positions": "alibi"},
    "dropout": {"dropout": 0.3},
    "experts": {"n_expert": 4, "n_inner": 6},
    "every other layer has experts": {"layers": ({}, {"n_expert": 3}), "dropout": 0.1},
}
every_model = pytest.mark.parametrize("extra", MODELS.values(), ids=list(MODELS))


def objective_of(config, **options):
    has_experts = any(kind.n_expert for kind in config.scopes().values())
    return Texts(config, **({"layer": ROUTERS} if has_experts else {}), **options)


def step_in_stages(model, objective, batches, stages, kind=ThreadRanks, **options):
    """What each rank knows after a step: the loss, all gradients, their norm, what differs."""

    def work(ranks):
        plan = PipelinePlan(model.config, kind(ranks.shared, ranks.rank), **options)
        part = plan.model(model)
        grads = part.params.like()
        grads.flat[:] = np.nan  # whatever lies there
        loss, counted = plan.loss_and_grads(part, objective, 3, range(batches), grads)
        norm = plan.norm(grads) if grads.dtype.kind == "f" else None
        return loss, counted, plan.canonical(grads), norm, plan.differing(grads)

    return on_ranks(stages, work)


def expect_whole_step(model, objective, batches, stages, kind=ThreadRanks):
    """Raise AssertionError unless a step in stages is the step of one process."""
    loss, grads = whole_step(model, objective, batches)
    for ours, _, theirs, norm, differing in step_in_stages(model, objective, batches, stages, kind):
        error, name = relative_error(theirs, grads)
        assert error <= LIMIT, f"the gradient of {name} is off by {error:.1e}"
        assert abs(ours - loss) <= LIMIT * abs(loss), "the loss is another"
        assert norm == global_norm(theirs.flat) and not differing


@every_model
def test_a_step_in_stages_is_the_step_of_one_process(extra):
    model = drawn(Config(**SIZE, **extra))
    for stages in (1, 2, 4, 8):
        expect_whole_step(model, objective_of(model.config), 8, stages)


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_there_may_be_fewer_micro_batches_than_stages_and_any_number_of_them(batches):
    expect_whole_step(drawn(Config(**SIZE)), Texts(Config(**SIZE)), batches, 4)


def test_packed_documents_are_seen_alike_on_every_stage():
    config = Config(**SIZE)
    packed = Visibility.packed([[4, 2], [1, 5]])
    model = drawn(config)
    expect_whole_step(model, Texts(config, visibility=packed), 4, 4)
    apart = whole_step(model, Texts(config, visibility=packed), 4)[0]
    assert abs(apart - whole_step(model, Texts(config), 4)[0]) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_model
def test_bits_do_not_depend_on_the_number_of_stages(extra, dtype):
    """All of them where the tied embedding is summed by micro-batch; else all but its own."""
    model = drawn(Config(**SIZE, **extra), dtype=dtype)
    objective = objective_of(model.config)
    batches = 6  # two leaves of the tree, in each of which three follow each other
    _, _, one, norm, _ = step_in_stages(model, objective, batches, 1)[0]
    for stages in (2, 4):
        for _, _, grads, theirs, _ in step_in_stages(model, objective, batches, stages, exact=True):
            assert (grads.flat == one.flat).all() and theirs == norm
        for _, _, grads, _, _ in step_in_stages(model, objective, batches, stages):
            others = [name for name in grads if name != "wte.weight" or not model.config.tied]
            assert all((grads[name] == one[name]).all() for name in others)


@every_model
def test_bits_are_those_of_data_parallel(extra):
    """The tree by which data parallel adds up a step is the pipeline's, and so is the order of the losses."""
    model = drawn(Config(**SIZE, **extra))
    objective, alone = objective_of(model.config), DataParallel(Alone())
    grads = alone.begin(model, AdamW(model), 6, {})
    loss, counted = alone.loss_and_grads(model, objective, 3, 6, grads, 1.0)
    ours, counts, theirs, norm, _ = step_in_stages(model, objective, 6, 4, exact=True)[0]
    assert (theirs.flat == grads.flat).all() and counts == counted and norm == alone.norm(AdamW(model), grads)
    assert abs(ours - loss) <= (1e-15 * loss if objective.layer is ROUTERS else 0)


def test_a_process_alone_is_a_pipeline_of_one_stage():
    model = drawn(Config(**SIZE))
    plan = PipelinePlan(model.config, Alone())
    part, objective = plan.model(model), Texts(model.config)
    grads = part.params.like()
    loss, counted = plan.loss_and_grads(part, objective, 3, range(8), grads)
    expected = whole_step(model, objective, 8)
    assert abs(loss - expected[0]) < LIMIT * loss and counted == sum(
        objective.batch(3, n).count for n in range(8)
    )
    assert relative_error(grads, expected[1])[0] < LIMIT and plan.replicated == ()


def test_the_loss_is_a_function_and_the_gradients_are_its():
    """By complex step through all stages: Im L(θ + i h v) / h = ⟨dL/dθ, v⟩."""
    model = drawn(Config(**SIZE))
    objective = Texts(model.config)
    v = np.random.default_rng(1).standard_normal(model.n_params)
    grads = step_in_stages(model, objective, 4, 4)[0][2]
    wide = model.astype("complex128")
    wide.params.flat += 1e-30j * v
    loss = step_in_stages(wide, objective, 4, 4)[0][0]
    assert abs(loss.imag / 1e-30 - grads.flat @ v) <= 1e-13 * np.linalg.norm(grads.flat) * np.linalg.norm(v)


def test_gradients_are_scaled_while_they_are_computed_and_no_longer():
    model = drawn(Config(**SIZE))
    scales = []

    class Scaled(PipelinePlan):
        def loss_and_grads(self, *args):
            result = super().loss_and_grads(*args, 2.0**10)
            scales.append(result)
            return result

    def work(ranks, kind):
        plan = kind(model.config, ranks)
        part = plan.model(model)
        grads = part.params.like()
        loss, _ = plan.loss_and_grads(part, Texts(model.config), 3, range(4), grads)
        return loss, plan.canonical(grads)

    plain, scaled = (
        on_ranks(2, lambda ranks, kind=kind: work(ranks, kind)) for kind in (PipelinePlan, Scaled)
    )
    assert plain[0][0] == scaled[0][0] and relative_error(scaled[0][1], plain[0][1])[0] < LIMIT


def test_divisors_of_the_whole_step_leave_nothing_to_divide():
    config = Config(**SIZE)
    expect_whole_step(drawn(config), WholeSteps(config, batches=4), 4, 4)


@pytest.mark.parametrize("exact", [False, True])
def test_training_in_stages_ends_with_the_parameters_of_one_process(exact):
    """AdamW on each stage's own arrays, clipped by the norm of all; both ends of a tied model stay equal."""
    model = drawn(Config(**SIZE))
    objective = Texts(model.config)

    def work(ranks):
        plan = PipelinePlan(model.config, ranks, exact=exact)
        part = plan.model(model)
        optimizer, grads = AdamW(part.params, clip=0.1), part.params.like()
        for step in range(4):
            plan.loss_and_grads(part, objective, step, range(4), grads)
            optimizer.step(grads, 1e-2, norm=plan.norm(grads))
        moments = [plan.canonical(moment).flat for moment in (optimizer.m, optimizer.v)]
        return plan.canonical(part.params).flat, *moments, plan.differing(part.params)

    one = on_ranks(1, work)[0]
    for stages in (2, 4):
        for results in on_ranks(stages, work):
            for ours, theirs in zip(results[:3], one):
                assert (
                    (ours == theirs).all() if exact else abs(ours - theirs).max() <= 1e-12 * abs(theirs).max()
                )
            assert results[3] == []


def test_the_held_out_loss_is_that_of_one_process():
    model = drawn(Config(**SIZE))
    objective = Texts(model.config)

    def work(ranks):
        plan = PipelinePlan(model.config, ranks)
        return plan.held_out_loss(plan.model(model), objective)

    for stages in (1, 2, 4):
        assert {*np.round(on_ranks(stages, work), 14)} == {np.round(held_out_loss(model, objective), 14)}


# What a stage holds.


def test_arrays_cut_and_put_together_are_the_whole():
    for extra in ({}, {"tied": False}):
        model = drawn(Config(**SIZE, **extra))
        for stages in (2, 4):
            plans = on_ranks(stages, lambda ranks, m=model: PipelinePlan(m.config, ranks).local(m.params))
            wholes = on_ranks(
                stages,
                lambda ranks, m=model, p=plans: PipelinePlan(m.config, ranks).canonical(p[ranks.rank]),
            )
            assert all(w.shapes == model.params.shapes for w in wholes)
            assert all((w.flat == model.params.flat).all() for w in wholes)
            held = sum(plan.flat.size for plan in plans)
            assert held == model.n_params + (model.params["wte.weight"].size if model.config.tied else 0)


def test_the_norm_has_the_bits_of_one_process_where_its_blocks_are_torn():
    config = Config(vocab_size=65, block_size=8, n_layer=8, n_head=2, n_embd=64)
    for dtype in ("float32", "float64"):
        model = drawn(config, dtype=dtype)
        expected = global_norm(model.params.flat)
        assert len(model.params.flat) > 5 * 65536
        for stages in (1, 2, 4, 8):

            def work(ranks, model=model):
                plan = PipelinePlan(config, ranks)
                return plan.norm(plan.local(model.params))

            assert on_ranks(stages, work) == [expected] * stages


def test_a_stage_holds_what_is_on_its_way_and_no_more(monkeypatch):
    """Records that are alive: at most min(m, p − s), whose activations the last stage alone holds once."""
    alive, most = [weakref.WeakSet() for _ in range(4)], [0] * 4
    plain = StageRecord.__init__

    def watched(self, stage, *args, **options):
        plain(self, stage, *args, **options)
        rank = stage.ranks.rank
        alive[rank].add(self)
        most[rank] = max(most[rank], len(alive[rank]))

    monkeypatch.setattr(StageRecord, "__init__", watched)
    gc.collect()
    step_in_stages(drawn(Config(**SIZE)), Texts(Config(**SIZE)), 8, 4)
    assert most == [4, 3, 2, 1]


def test_each_stage_draws_each_micro_batch_once():
    objective = Texts(Config(**SIZE))
    step_in_stages(drawn(objective.config), objective, 6, 2)
    assert sorted(objective.drawn) == sorted([*range(6)] * 2)


# What a broken pipeline is caught by.


class SendsTwice(ThreadRanks):
    """A rank that sends the activations of micro-batch 0 in the place of those of micro-batch 1."""

    def send(self, array, to, tag):
        if tag == pipeline.AHEAD:
            self.first = array
        super().send(self.first if tag == 3 + pipeline.AHEAD else array, to, tag)


class OneEnd(PipelinePlan):
    """A plan that leaves the tied embedding's gradients apart."""

    def _share_embedding(self, grads, batches):
        pass


class LocalCounts(PipelinePlan):
    """A plan that divides each micro-batch's loss by what counts in it alone."""

    def _forward(self, model, batch, k, share, step):
        return super()._forward(model, batch, k, 1.0, step)


class Forgotten(PipelinePlan):
    """A plan whose stages forget the gradients of the first two micro-batches."""

    def _backward(self, model, held, place, add, scale):
        super()._backward(model, held, place, add, scale)
        if held.record.n < 2:
            place.flat[:] = 0


class WeighedTwice(StageRecord):
    """A stage that scales what comes back once more by its own part of the batches."""

    def back(self, name, dy):
        received = super().back(name, dy)
        return received * dy if name == "loss" and not self.stage.has(name) else received


def test_a_micro_batch_that_is_sent_twice_is_caught():
    with pytest.raises(AssertionError, match="is off by"):
        expect_whole_step(drawn(Config(**SIZE)), Texts(Config(**SIZE)), 4, 2, SendsTwice)


@pytest.mark.parametrize("broken", [OneEnd, LocalCounts, Forgotten])
def test_a_plan_that_leaves_something_out_is_caught(broken, monkeypatch):
    monkeypatch.setitem(globals(), "PipelinePlan", broken)
    with pytest.raises(AssertionError, match="is off by"):
        expect_whole_step(drawn(Config(**SIZE)), Texts(Config(**SIZE)), 4, 2)


def test_a_gradient_that_is_weighed_twice_is_caught(monkeypatch):
    monkeypatch.setattr(pipeline, "StageRecord", WeighedTwice)
    with pytest.raises(AssertionError, match="is off by"):
        expect_whole_step(drawn(Config(**SIZE)), Texts(Config(**SIZE)), 4, 2)


def test_ends_that_part_are_named():
    model = drawn(Config(**SIZE))

    def work(ranks):
        plan = PipelinePlan(model.config, ranks)
        part = plan.model(model)
        if ranks.rank == ranks.size - 1:
            part.params["wte.weight"][3, 1] *= 1 + 2**-50
        return plan.replicated, plan.differing(part.params)

    assert on_ranks(3, work) == [
        (("wte.weight",), ["wte.weight"]),
        ((), ["wte.weight"]),
        (("wte.weight",), ["wte.weight"]),
    ]


# What is refused.


def test_more_stages_than_blocks_are_refused_on_every_rank():
    config = Config(**SIZE | {"n_layer": 2})

    def work(ranks):
        with pytest.raises(
            InputError, match="pipeline: 3 stages for 2 blocks, expected .* 2 stages or fewer"
        ):
            PipelinePlan(config, ranks)

    on_ranks(3, work)


def test_an_objective_that_reads_more_than_the_models_end_is_refused():
    model = drawn(Config(**SIZE))
    other = Layer(lambda r, x, y, count: None, lambda r, dloss: None)

    def work(ranks):
        plan = PipelinePlan(model.config, ranks)
        part = plan.model(model)
        with pytest.raises(InputError, match="pipeline: the objective's layer .* train in data parallel"):
            plan.loss_and_grads(part, Texts(model.config, layer=other), 0, range(2), part.params.like())

    on_ranks(2, work)


def test_a_model_with_additions_is_refused():
    model = GPT(Config(**SIZE), additions=[LoRA(rank=2)])
    plan = PipelinePlan(model.config, Alone())
    with pytest.raises(
        InputError, match="pipeline: the parameters have .*lora_a.*, expected those of the config"
    ):
        plan.local(model.params)
