"""The order of work in a pipeline, and how blocks are dealt to its stages."""

import itertools

import pytest

from numgpt import Config, InputError
from numgpt.parallel.schedule import (
    BACKWARD,
    FORWARD,
    Action,
    bubble,
    diagram,
    forwards_then_backwards,
    most_held,
    one_forward_one_backward,
    only_forwards,
    simulated,
)
from numgpt.parallel.stages import block_costs, head_cost, names_of, split

SIZES = [(p, m) for p in (1, 2, 3, 4, 8) for m in (1, 2, 3, 4, 7, 16, 32)]
every_size = pytest.mark.parametrize(("p", "m"), SIZES)


def schedule(kind, p, m):
    return [kind(s, p, m) for s in range(p)]


@every_size
@pytest.mark.parametrize("kind", [one_forward_one_backward, forwards_then_backwards])
def test_every_micro_batch_goes_both_ways_once_and_nobody_waits_for_ever(kind, p, m):
    actions = schedule(kind, p, m)
    timeline = simulated(actions)  # raises where stages wait for each other
    for s in range(p):
        everything = {Action(way, n) for way in (FORWARD, BACKWARD) for n in range(m)}
        assert len(actions[s]) == 2 * m and {*timeline.stages[s]} == everything
    for s, n in itertools.product(range(p), range(m)):
        here = timeline.stages[s]
        assert here[Action(FORWARD, n)][1] <= here[Action(BACKWARD, n)][0]
        if s:
            before = timeline.stages[s - 1]
            assert before[Action(FORWARD, n)][1] <= here[Action(FORWARD, n)][0]
            assert here[Action(BACKWARD, n)][1] <= before[Action(BACKWARD, n)][0]


@every_size
@pytest.mark.parametrize("kind", [one_forward_one_backward, forwards_then_backwards])
def test_the_bubble_is_the_formulas(kind, p, m):
    assert simulated(schedule(kind, p, m)).bubble == pytest.approx(bubble(p, m), abs=1e-12)


def test_bubbles_are_those_that_the_literature_prints():
    printed = {(2, 4): 0.200, (4, 8): 0.273, (4, 16): 0.158, (8, 32): 0.179}
    for (p, m), share in printed.items():
        assert round(simulated(schedule(one_forward_one_backward, p, m)).bubble, 3) == share


@every_size
def test_a_stage_holds_no_more_than_what_is_on_its_way_behind_it(p, m):
    for s in range(p):
        assert most_held(one_forward_one_backward(s, p, m)) == min(m, p - s)
        assert most_held(forwards_then_backwards(s, p, m)) == m


@every_size
def test_backwards_come_in_the_order_of_forwards(p, m):
    """By that a binary counter adds micro-batches up in the order of one process."""
    for s in range(p):
        for way in (FORWARD, BACKWARD):
            order = [n for w, n in one_forward_one_backward(s, p, m) if w == way]
            assert order == [*range(m)]
        assert only_forwards(s, p, m) == [Action(FORWARD, n) for n in range(m)]


def test_stages_that_wait_for_each_other_are_caught():
    actions = schedule(one_forward_one_backward, 2, 3)
    actions[0] = [Action(FORWARD, 0), Action(BACKWARD, 0), Action(BACKWARD, 1), Action(FORWARD, 1)]
    with pytest.raises(AssertionError, match="wait for each other: stage 0 waits to do B1"):
        simulated(actions)
    swapped = [[Action(FORWARD, 1), Action(FORWARD, 0)], [Action(FORWARD, 0), Action(BACKWARD, 1)]]
    with pytest.raises(AssertionError, match="stage 1 waits to do B1"):
        simulated(swapped)


def test_a_slow_stage_makes_the_others_wait():
    actions = schedule(one_forward_one_backward, 4, 8)
    even = simulated(actions, forward=[1, 1, 1, 1])
    assert even.bubble == simulated(actions).bubble
    uneven = simulated(actions, forward=[1, 2, 1, 1])
    assert uneven.bubble > 1.5 * even.bubble
    assert uneven.end >= 8 * 2 * 3  # the slow stage alone takes that long


def test_a_pipeline_is_drawn():
    assert diagram(schedule(one_forward_one_backward, 2, 4)).splitlines() == [
        "stage 0  F0 F1 .  .  B0 B0 F2 B1 B1 F3 B2 B2 .  B3 B3",
        "stage 1  .  F0 B0 B0 F1 B1 B1 F2 B2 B2 F3 B3 B3 .  .",
    ]


# Blocks.


MODELS = {
    "equal blocks": Config(vocab_size=11, block_size=8, n_layer=8, n_head=2, n_embd=8),
    "a large vocabulary": Config(vocab_size=500, block_size=8, n_layer=8, n_head=2, n_embd=8),
    "every other block has a window": Config(
        vocab_size=11, block_size=64, n_layer=7, n_head=2, n_embd=8, layers=({"window": 2}, {})
    ),
    "every third has experts": Config(
        vocab_size=11, block_size=8, n_layer=7, n_head=2, n_embd=8, layers=({}, {}, {"n_expert": 4})
    ),
}
every_model = pytest.mark.parametrize("config", MODELS.values(), ids=list(MODELS))


@every_model
@pytest.mark.parametrize("p", [1, 2, 3, 4, 7])
def test_the_costliest_stage_costs_as_little_as_blocks_allow(config, p):
    stages = split(config, p)
    assert [i for blocks in stages for i in blocks] == [*range(config.n_layer)]
    costs = block_costs(config)

    def most(cuts):
        of_stage = [sum(costs[a:b]) for a, b in itertools.pairwise((0, *cuts, len(costs)))]
        of_stage[-1] += head_cost(config)
        return max(of_stage)

    chosen = tuple(blocks.start for blocks in stages[1:])
    assert most(chosen) == min(map(most, itertools.combinations(range(1, config.n_layer), p - 1)))


@every_model
def test_each_parameter_has_one_stage_but_the_tied_embedding(config):
    from numgpt.architecture.parameters import shapes

    for p in (1, 2, 4):
        stages = split(config, p)
        names = [name for s in range(p) for name in names_of(config, stages, s)]
        twice = {name for name in names if names.count(name) > 1}
        assert {*names} == {*shapes(config)} and twice == ({"wte.weight"} if p > 1 else set())


def test_what_an_expert_does_not_compute_costs_nothing():
    dense = Config(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8, n_inner=6)
    few, many = (
        Config(
            vocab_size=11,
            block_size=8,
            n_layer=1,
            n_head=2,
            n_embd=8,
            n_inner=6,
            n_expert=n,
            n_expert_active=1,
        )
        for n in (2, 4)
    )
    router = 2 * 8
    assert block_costs(few) == [block_costs(dense)[0] + 2 * router]
    assert block_costs(many) == [block_costs(dense)[0] + 4 * router]


def test_more_stages_than_blocks_are_refused():
    config = MODELS["equal blocks"]
    with pytest.raises(
        InputError, match="pipeline: 9 stages for 8 blocks, expected .* give 8 stages or fewer"
    ):
        split(config, 9)


def test_stages_before_a_large_head_share_the_blocks_evenly():
    """The head's stage is the slowest whatever the others have, which take about as long as each other."""
    assert [len(blocks) for blocks in split(Config(), 4)] == [4, 4, 3, 1]
    assert [len(blocks) for blocks in split(Config(), 6)] == [3, 3, 3, 1, 1, 1]
    assert [len(blocks) for blocks in split(MODELS["equal blocks"], 3)] == [3, 3, 2]
