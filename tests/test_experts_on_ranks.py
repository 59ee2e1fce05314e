"""A mixture whose experts lie on several ranks is the mixture in one piece, however uneven the choice is."""

import numpy as np
import pytest
from parts_of_models import LIMIT, Texts, WholeSteps, drawn, relative_error, whole_step
from threaded_ranks import ThreadRanks, on_ranks

from numgpt import GPT, AdamW, Config, InputError, LoRA
from numgpt.layers.router_losses import with_router_losses
from numgpt.ops.experts import chosen_experts
from numgpt.parallel import expert_layers
from numgpt.parallel.experts import ExpertPlan
from numgpt.parallel.ranks import Alone
from numgpt.training.objective import held_out_loss
from numgpt.training.optim import global_norm

SIZE = {
    "vocab_size": 11,
    "block_size": 6,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
    "n_inner": 6,
    "n_expert": 8,
}
ROUTERS = with_router_losses(0.1, 0.2)
MODELS = {
    "renorm": {},
    "raw, one active": {"router": "raw", "n_expert_active": 1},
    "shared": {"shared_inner": 5, "activation": "swiglu"},
    "dropout": {"dropout": 0.3},
    "every other layer": {"n_expert": 0, "n_layer": 3, "layers": ({}, {"n_expert": 8}, {"n_expert": 16})},
    "scaled, untied": {
        "residual_scale": 0.5,
        "tied": False,
        "biases": "router norm",
        "norm_position": "both",
    },
}
every_model = pytest.mark.parametrize("extra", MODELS.values(), ids=list(MODELS))


def step_on_ranks(model, objective, batches, n, kind=ThreadRanks):
    """What each rank knows after a step: the loss, what counted, all gradients, their norm, what differs."""

    def work(ranks):
        plan = ExpertPlan(model.config, kind(ranks.shared, ranks.rank))
        part = plan.model(model)
        grads = part.params.like()
        grads.flat[:] = np.nan  # whatever lies there
        loss, counted = plan.loss_and_grads(part, objective, 3, range(batches), grads)
        norm = plan.norm(grads) if grads.dtype.kind == "f" else None
        return loss, counted, plan.canonical(grads), norm, plan.differing(grads)

    return on_ranks(n, work)


def expect_whole_step(model, objective, batches, n, kind=ThreadRanks):
    """Raise AssertionError unless a step on n ranks is the step of one process."""
    loss, grads = whole_step(model, objective, batches)
    for ours, counted, theirs, norm, differing in step_on_ranks(model, objective, batches, n, kind):
        error, name = relative_error(theirs, grads)
        assert error <= LIMIT, f"the gradient of {name} is off by {error:.1e}"
        assert abs(ours - loss) <= LIMIT * abs(loss), "the loss is another"
        assert counted == sum(objective.batch(3, k).count for k in range(batches))
        assert norm == global_norm(theirs.flat) and not differing


@every_model
def test_a_step_on_ranks_is_the_step_of_one_process(extra):
    model = drawn(Config(**SIZE | extra))
    for n in (1, 2, 4, 8):
        expect_whole_step(model, Texts(model.config, ROUTERS), 8, n)


def test_divisors_of_the_whole_step_leave_nothing_to_divide():
    config = Config(**SIZE)
    expect_whole_step(drawn(config), WholeSteps(config, ROUTERS, batches=4), 4, 4)


@pytest.mark.parametrize("wanted", [[0, 1], [7, 6], [2]], ids=["rank 0's", "the last's", "one's"])
def test_tokens_that_all_want_the_same_get_it(wanted):
    """Some ranks compute no row, and all that want an expert are served: none is dropped."""
    config = Config(**SIZE, biases="router", n_expert_active=len(wanted), router="raw")
    model = drawn(config)
    for layer in range(2):
        model.params[f"h.{layer}.mlp.router.bias"][wanted] = 50
    for n in (2, 4, 8):
        expect_whole_step(model, Texts(config, ROUTERS), 8, n)
    grads = step_on_ranks(model, Texts(config, ROUTERS), 8, 4)[0][2]
    idle = [e for e in range(8) if e not in wanted]
    assert not grads["h.0.mlp.c_fc.weight"][idle].any() and grads["h.0.mlp.c_fc.weight"][wanted].any()


def test_the_loss_is_a_function_and_the_gradients_are_its():
    """By complex step through all ranks: Im L(θ + i h v) / h = ⟨dL/dθ, v⟩."""
    model = drawn(Config(**SIZE, shared_inner=5))
    objective = Texts(model.config, ROUTERS)
    v = np.random.default_rng(1).standard_normal(model.n_params)
    grads = step_on_ranks(model, objective, 4, 4)[0][2]
    wide = model.astype("complex128")
    wide.params.flat += 1e-30j * v
    loss = step_on_ranks(wide, objective, 4, 4)[0][0]
    assert abs(loss.imag / 1e-30 - grads.flat @ v) <= 1e-13 * np.linalg.norm(grads.flat) * np.linalg.norm(v)


def test_training_on_ranks_ends_with_the_parameters_of_one_process():
    model = drawn(Config(**SIZE))
    objective = Texts(model.config, ROUTERS)

    def work(ranks):
        plan = ExpertPlan(model.config, ranks)
        part = plan.model(model)
        optimizer, grads = AdamW(part.params, clip=0.1), part.params.like()
        for step in range(4):
            plan.loss_and_grads(part, objective, step, range(4), grads)
            optimizer.step(grads, 1e-2, norm=plan.norm(grads))
        moments = [plan.canonical(moment).flat for moment in (optimizer.m, optimizer.v)]
        return plan.canonical(part.params).flat, *moments, plan.differing(part.params)

    one = on_ranks(1, work)[0]
    for n in (2, 4):
        for results in on_ranks(n, work):
            for ours, theirs in zip(results[:3], one):
                assert abs(ours - theirs).max() <= 1e-12 * abs(theirs).max()
            assert results[3] == []


def test_the_held_out_loss_is_that_of_one_process_where_batches_do_not_divide():
    model = drawn(Config(**SIZE))
    objective = Texts(model.config)

    def work(ranks):
        plan = ExpertPlan(model.config, ranks)
        return plan.held_out_loss(plan.model(model), objective)

    expected = held_out_loss(model, objective)
    for n in (1, 2, 4, 8):
        assert abs(np.array(on_ranks(n, work)) - expected).max() < 1e-14 * expected


# The journeys.


@pytest.mark.parametrize("n", [1, 2, 4])
def test_rows_go_to_their_experts_and_come_home(n):
    """Each arrives once, at the rank of its expert, with the expert's number there; and back in its place."""

    def work(ranks):
        rng = np.random.default_rng(ranks.rank)
        chosen = chosen_experts(rng.standard_normal((3 + ranks.rank, 8)), 2)
        names = 1000.0 * ranks.rank + np.arange(chosen.size)[:, None]  # a row says where it comes from
        routing = expert_layers.routed(ranks, chosen, 8 // n)
        rows = expert_layers.away(ranks, routing, names)
        return (
            chosen.reshape(-1),
            rows[:, 0],
            routing.experts,
            expert_layers.home(ranks, routing, rows),
            names,
        )

    results = on_ranks(n, work)
    chosen = {name: e for ids, *_, names in results for name, e in zip(names[:, 0], ids)}
    arrived = np.concatenate([rows for _, rows, *_ in results])
    assert sorted(arrived) == sorted(chosen)
    for rank, (_, rows, experts, home, names) in enumerate(results):
        assert [chosen[row] for row in rows] == [rank * (8 // n) + e for e in experts]
        assert (home == names).all()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_journey_backward_is_the_transpose_of_the_journey(n):
    """⟨dy, P x⟩ = ⟨Pᵀ dy, x⟩ over the rows of all ranks, of both journeys."""

    def work(ranks):
        rng = np.random.default_rng(ranks.rank)
        sent, returned = expert_layers.travels(ranks)
        chosen = chosen_experts(rng.standard_normal((5, 8)), 2)
        routing = expert_layers.routed(ranks, chosen, 8 // n)
        x = rng.standard_normal((5, 2, 3))
        y, saved = sent.forward(x, routing=routing)
        dy = rng.standard_normal(y.shape)
        (dx,) = sent.backward(dy, saved)
        z = rng.standard_normal(y.shape)
        w, saved = returned.forward(z, routing=routing, like=x.shape)
        dw = rng.standard_normal(w.shape)
        (dz,) = returned.backward(dw, saved)
        assert dx.shape == x.shape and w.shape == x.shape
        return (dy * y).sum(), (dx * x).sum(), (dw * w).sum(), (dz * z).sum()

    a, b, c, d = np.sum(on_ranks(n, work), 0)
    assert abs(a - b) < 1e-13 and abs(c - d) < 1e-13 and a != 0 and c != 0


# What a rank holds.


@every_model
def test_arrays_cut_and_put_together_are_the_whole(extra):
    model = drawn(Config(**SIZE | extra))

    def work(ranks):
        plan = ExpertPlan(model.config, ranks)
        local = plan.local(model.params)
        assert {*plan.replicated} | {*plan.experts} == {*local}
        assert plan.norm(local) == global_norm(model.params.flat)
        return plan.canonical(local).flat, sum(local[name].size for name in plan.experts)

    for n in (1, 2, 4, 8):
        results = on_ranks(n, work)
        assert all((flat == model.params.flat).all() for flat, _ in results)
        assert len({size for _, size in results}) == 1 and results[0][1] > 0


# What a broken exchange is caught by.


def in_the_wrong_order(ranks, routing, rows):
    """home(), but that the rows stay in the order of their ranks."""
    return np.concatenate(ranks.all_to_all(np.split(rows, np.cumsum(routing.come)[:-1])))


def to_the_next_expert(ranks, chosen, n_here):
    """routed(), but that each row is computed by the expert after its own."""
    routing = expert_layers_routed(ranks, chosen, n_here)
    return routing._replace(experts=(routing.experts + 1) % n_here)


expert_layers_routed = expert_layers.routed


@pytest.mark.parametrize(("name", "broken"), [("home", in_the_wrong_order), ("routed", to_the_next_expert)])
def test_a_broken_journey_is_caught(name, broken, monkeypatch):
    monkeypatch.setattr(expert_layers, name, broken)
    with pytest.raises(AssertionError, match="is off by"):
        expect_whole_step(drawn(Config(**SIZE)), Texts(Config(**SIZE), ROUTERS), 4, 2)


def test_what_all_have_that_is_not_added_up_is_caught(monkeypatch):
    monkeypatch.setattr(ExpertPlan, "_add_replicated", lambda self, grads: None)
    with pytest.raises(AssertionError, match="is off by"):
        expect_whole_step(drawn(Config(**SIZE)), Texts(Config(**SIZE), ROUTERS), 4, 2)


def test_divisors_of_a_ranks_own_are_caught(monkeypatch):
    """Each rank divides by its own first batch, not by the step's."""
    monkeypatch.setattr(ThreadRanks, "broadcast", lambda self, array, root=0: array)
    config = Config(**SIZE)
    counts = {n: Texts(config).batch(3, n).count for n in (0, 2)}
    assert counts[0] != counts[2]  # the first batches of two ranks that have two each
    with pytest.raises(AssertionError, match="is off by"):
        expect_whole_step(drawn(config), Texts(config, ROUTERS), 4, 2)


# What is refused.


@pytest.mark.parametrize(
    ("extra", "n", "message"),
    [
        ({}, 3, "experts: 8 experts for 3 ranks, expected as many for each: give 1, 2, 4, 8 ranks"),
        ({}, 16, "experts: 8 experts for 16 ranks, expected as many for each: give 1, 2, 4, 8 ranks"),
        ({"n_expert": 0}, 2, "experts: the model has none, expected n_expert above 0: --parallel data"),
        (
            {"n_expert": 0, "layers": ({"n_expert": 8}, {"n_expert": 6})},
            4,
            "experts: 6 experts for 4 ranks, expected as many for each: give 1, 2 ranks",
        ),
    ],
)
def test_experts_that_do_not_divide_are_refused_on_every_rank(extra, n, message):
    config = Config(**SIZE | extra)

    def work(ranks):
        with pytest.raises(InputError, match=message):
            ExpertPlan(config, ranks)

    on_ranks(n, work)


def test_micro_batches_that_do_not_divide_are_refused():
    model = drawn(Config(**SIZE))

    def work(ranks):
        plan = ExpertPlan(model.config, ranks)
        part = plan.model(model)
        with pytest.raises(
            InputError, match="experts: 3 micro-batches for 2 ranks, expected .* --accumulate 2"
        ):
            plan.loss_and_grads(part, Texts(model.config), 0, range(3), part.params.like())

    on_ranks(2, work)


def test_a_model_with_additions_is_refused():
    model = GPT(Config(**SIZE), additions=[LoRA(rank=2, targets=("h.*.attn.c_attn",))])
    with pytest.raises(
        InputError, match="experts: the parameters have .*lora_a.*, expected those of the config"
    ):
        ExpertPlan(model.config, Alone()).local(model.params)
