"""A model whose heads, channels and tokens lie on several ranks is the model in one piece."""

import dataclasses

import numpy as np
import pytest
from parts_of_models import LIMIT, Texts, drawn, relative_error, whole_step
from threaded_ranks import ThreadRanks, on_ranks

from numgpt import Config, InputError, LoRA, Training, Visibility
from numgpt.layers.layer import Layer
from numgpt.model import differentiable
from numgpt.parallel import crossings, tensor_ops
from numgpt.parallel.cuts import bounds
from numgpt.parallel.ranks import Alone
from numgpt.parallel.tensor import TensorPlan
from numgpt.training.objective import Pretraining, held_out_loss
from numgpt.training.optim import AdamW

SIZE = {"vocab_size": 13, "block_size": 9, "n_layer": 2, "n_head": 8, "n_embd": 16}
MODELS = {
    "GPT-2": {},
    "GPT-1": {"norm_position": "post"},
    "untied, with a bias of the head": {"tied": False, "biases": "qkv out mlp norm head"},
    "LLaMA": {
        "positions": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
        "n_kv_head": 8,
        "n_inner": 21,
    },
    "grouped heads of another size": {"n_head": 16, "n_kv_head": 8, "head_dim": 4, "positions": "rotary"},
    "capped and scaled": {"final_softcap": 3.0, "logit_scale": 0.5, "embed_scale": 2.0, "embed_norm": True},
    "parallel, ALiBi": {"norm_position": "parallel", "positions": "alibi", "alibi_scale": 1.5},
    "both norms, sines": {"norm_position": "both", "positions": "sinusoidal", "attn_scale": 0.3},
    "norms of each query and key": {"qk_norm": "each"},
    "a norm of queries and keys": {"qk_norm": "head", "norm": "rmsnorm", "softcap": 4.0},
    "sinks and windows in turn": {"sink": True, "layers": ({"window": 3}, {})},
    "dropout": {"dropout": 0.3},
}
every_model = pytest.mark.parametrize("extra", MODELS.values(), ids=list(MODELS))
both_ways = pytest.mark.parametrize("sequence", [False, True], ids=["tensor", "sequence"])


def step_in_parts(model, objective, batches, size, sequence=False):
    """What each rank knows after a step: the loss, all gradients, their norm, what differs."""

    def work(ranks):
        plan = TensorPlan(model.config, ranks, sequence=sequence)
        part = plan.model(model)
        grads = part.params.like()
        grads.flat[:] = np.nan  # whatever lies there
        loss, counted = plan.loss_and_grads(part, objective, 3, range(batches), grads)
        norm = plan.norm(grads) if grads.dtype.kind == "f" else None
        return loss, counted, plan.canonical(grads), norm, plan.differing(grads)

    return on_ranks(size, work)


def expect_whole_step(model, objective, size, sequence, batches=2):
    """Raise AssertionError unless a step in parts is the step of one process."""
    loss, grads = whole_step(model, objective, batches)
    results = step_in_parts(model, objective, batches, size, sequence)
    for ours, _, theirs, norm, differing in results:
        error, name = relative_error(theirs, grads)
        if error > LIMIT:  # one process errs, too, where what adds up to a gradient nearly cancels
            _, truth = whole_step(model.astype("longdouble"), objective, batches)
            own, _ = relative_error(grads, truth)
            off, name = relative_error(theirs, truth)
            assert off <= 4 * own, f"the gradient of {name} is off by {off:.1e}, of one process {own:.1e}"
        assert abs(ours - loss) <= LIMIT * abs(loss), "the loss is another"
        assert norm == pytest.approx(np.linalg.norm(grads.flat), rel=1e-14)
        assert not differing, "replicas differ"
    assert len({(result[0], result[3]) for result in results}) == 1


@both_ways
@every_model
def test_a_step_in_parts_is_the_step_of_one_process(extra, sequence):
    """With a vocabulary, a width and a length that divide by no number of ranks."""
    model = drawn(Config(**SIZE | extra))
    for size in (1, 2, 4, 8):
        expect_whole_step(model, Texts(model.config), size, sequence)


@both_ways
def test_packed_documents_are_seen_alike_on_every_rank(sequence):
    config = Config(**SIZE)
    packed = Visibility.packed([[4, 5], [1, 8]])
    expect_whole_step(drawn(config), Texts(config, visibility=packed), 4, sequence)
    rotary = Config(**SIZE, positions="rotary")
    expect_whole_step(drawn(rotary), Texts(rotary, visibility=packed), 4, sequence)


@both_ways
def test_float32_errs_no_more_than_in_one_process(sequence):
    """Beside float64: at most four times the error of the model in one piece."""
    wide = drawn(Config(**SIZE))
    _, truth = whole_step(wide, Texts(wide.config), 2)
    model = wide.astype("float32")
    _, alone = whole_step(model, Texts(model.config), 2)
    for size in (2, 4):
        grads = step_in_parts(model, Texts(model.config), 2, size, sequence)[0][2]
        assert grads.dtype == np.float32
        error = np.linalg.norm(grads.flat - truth.flat)
        assert error <= 4 * np.linalg.norm(alone.flat - truth.flat)


@both_ways
def test_the_gradient_is_the_complex_step_through_all_ranks(sequence):
    model = drawn(Config(**SIZE))
    objective, v = Texts(model.config), np.random.default_rng(1).standard_normal(model.n_params)
    moved = model.astype("complex128")
    moved.params.flat[:] += 1e-30j * v

    def loss(ranks):
        plan = TensorPlan(model.config, ranks, sequence=sequence)
        part, batch = plan.model(moved), objective.batch(3, 0)
        record, inputs = plan._begun(part, batch)
        return differentiable.forwards(part, record, batch.layer, inputs)

    losses = on_ranks(4, loss)
    grads = step_in_parts(model, objective, 1, 4, sequence)[0][2]
    for value in losses:
        assert grads.flat @ v == pytest.approx(value.imag / 1e-30, rel=1e-12)


@both_ways
def test_updates_in_parts_are_the_updates_of_one_process(sequence):
    """AdamW on each rank's own arrays, by the norm of all; replicas stay bit-equal."""
    model = drawn(Config(**SIZE))
    objective, start = Texts(model.config), model.params.flat.copy()

    def work(ranks):
        plan = TensorPlan(model.config, ranks, sequence=sequence)
        part = plan.model(model)
        grads, optimizer = part.params.like(), AdamW(part.params, clip=0.1)
        for step in range(3):
            plan.loss_and_grads(part, objective, step, range(2), grads)
            optimizer.step(grads, 0.01, plan.norm(grads))
        return plan.canonical(part.params), plan.canonical(optimizer.v), plan.differing(part.params)

    results = on_ranks(4, work)
    optimizer, grads = AdamW(model, clip=0.1), None
    for step in range(3):
        _, grads = whole_step(model, objective, 2, step)
        optimizer.step(grads, 0.01)
    for params, v, differing in results:
        np.testing.assert_allclose(params.flat, model.params.flat, atol=1e-12)
        np.testing.assert_allclose(v.flat, optimizer.v.flat, rtol=1e-11, atol=1e-25)
        assert not differing
    assert np.abs(model.params.flat - start).min() > 0


@both_ways
def test_the_held_out_loss_is_that_of_one_process(sequence):
    model = drawn(Config(**SIZE, dropout=0.5))
    objective = Texts(model.config)

    def work(ranks):
        plan = TensorPlan(model.config, ranks, sequence=sequence)
        return plan.held_out_loss(plan.model(model), objective)

    assert on_ranks(4, work) == pytest.approx([held_out_loss(model, objective)] * 4, rel=1e-14)


@every_model
def test_parts_are_the_whole_and_no_number_is_held_twice(extra):
    model = drawn(Config(**SIZE | extra))

    def work(ranks):
        plan = TensorPlan(model.config, ranks)
        mine = plan.local(model.params)
        cut = sum(mine[name].size for name in plan.cuts)
        return plan.canonical(mine).flat.tobytes(), cut, sum(mine[name].size for name in plan.replicated)

    whole, cut, replicated = zip(*on_ranks(4, work))
    assert set(whole) == {model.params.flat.tobytes()}
    assert sum(cut) + replicated[0] == model.n_params


def test_a_vocabulary_that_does_not_divide_is_cut_all_the_same():
    assert [bounds(13, rank, 4) for rank in range(4)] == [(0, 4), (4, 7), (7, 10), (10, 13)]


# Faults, as others have shipped them; two of them leave the loss what it is.

ROW, COLUMN = tensor_ops.row_linear, tensor_ops.column_linear
EMBEDDING = tensor_ops.vocabulary_embedding


def faulty_row(crossing):
    """The bias before the sum: it is there once a rank."""
    op = ROW(crossing)

    def row_linear_forward(x, weight, bias=None):
        part, saved = tensor_ops.linear.forward(x, weight, bias)
        return crossing.leave(part), ((saved[0], saved[1], False), bias is not None)

    return dataclasses.replace(op, forward=row_linear_forward)


def deaf_column(crossing):
    """No sum of dx: each rank goes on with what its own columns gave."""
    op = COLUMN(crossing)

    def column_linear_backward(dy, saved):
        return tensor_ops.linear.backward(dy, saved)

    return dataclasses.replace(op, backward=column_linear_backward)


class LocalMaximum(ThreadRanks):
    """Each rank shifts its logits by a maximum of its own, and adds up what cannot be added."""

    def all_reduce(self, array, how="sum"):
        return array.copy() if how == "max" else super().all_reduce(array, how)


def greedy_embedding(crossing, first):
    """A gradient for rows that another rank has: ids are taken modulo the own rows."""
    op = EMBEDDING(crossing, first)

    def vocabulary_embedding_backward(dy, saved):
        ids, _, weight = saved
        dweight = np.zeros_like(weight)
        np.add.at(dweight, (ids - first) % len(weight), crossing.left(dy))
        return None, dweight

    return dataclasses.replace(op, backward=vocabulary_embedding_backward)


FAULTS = {
    "the bias of rows on every rank": ("row_linear", faulty_row),
    "no sum of dx": ("column_linear", deaf_column),
    "a scatter without a mask": ("vocabulary_embedding", greedy_embedding),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, monkeypatch):
    name, wrong = FAULTS[fault]
    monkeypatch.setattr(tensor_ops, name, wrong)
    model = drawn(Config(**SIZE))
    with pytest.raises(AssertionError, match="gradient of .* is off|the loss is another"):
        expect_whole_step(model, Texts(model.config), 2, sequence=False)


def test_a_maximum_of_each_ranks_own_is_caught():
    model = drawn(Config(**SIZE))
    objective = Texts(model.config)
    loss, grads = whole_step(model, objective, 1)

    def work(ranks):
        plan = TensorPlan(model.config, LocalMaximum(ranks.shared, ranks.rank))
        part = plan.model(model)
        own = part.params.like()
        ours, _ = plan.loss_and_grads(part, objective, 3, range(1), own)
        return ours, plan.canonical(own)

    ours, theirs = on_ranks(2, work)[0]
    assert abs(ours - loss) > 1e-3 or relative_error(theirs, grads)[0] > 1e-3


@pytest.mark.parametrize("fault", ["norms", "positions"])
def test_in_a_sequence_no_sum_of_what_all_ranks_have_is_caught(fault, monkeypatch):
    model = drawn(Config(**SIZE))
    if fault == "norms":
        monkeypatch.setattr(TensorPlan, "_complete", lambda self, grads: None)
    else:
        monkeypatch.setattr(crossings.SequenceCrossing, "left", lambda self, dy: np.concatenate([dy] * 2, 1))
    with pytest.raises((AssertionError, ValueError, IndexError)):
        expect_whole_step(model, Texts(model.config), 2, sequence=True)


# Refusals.


@pytest.mark.parametrize(
    ("extra", "size", "message"),
    [
        ({}, 3, "tensor: 8 n_head for 3 ranks, expected as many for each: give 1 or 2 or 4 or 8 ranks"),
        (
            {"n_kv_head": 2},
            4,
            "2 key and value heads for 4 ranks, expected as many for each: give 1 or 2 ranks",
        ),
        ({"n_expert": 4}, 2, "the model has experts, which are not cut"),
        ({"qk_norm": "full"}, 2, "qk_norm is full, a mean over the heads of all ranks"),
        ({"vocab_size": 3}, 4, "vocab_size is 3 for 4 ranks, expected at least one channel for each"),
        ({"n_inner": 3}, 4, "n_inner is 3 for 4 ranks"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(extra, size, message):
    class Several(Alone):
        pass

    ranks = Several()
    ranks.size = size
    with pytest.raises(InputError, match=message):
        TensorPlan(Config(**SIZE | extra), ranks)


def test_more_ranks_than_positions_are_refused_by_name():
    config = Config(**SIZE | {"block_size": 3})
    model = drawn(config)
    with pytest.raises(InputError, match="sequence: 3 positions for 4 ranks"):
        step_in_parts(model, Texts(config), 1, 4, sequence=True)


def test_adapters_and_other_losses_are_refused_by_name():
    model = drawn(Config(**SIZE))
    plan = TensorPlan(model.config, Alone())
    with pytest.raises(InputError, match="tensor: the parameters have h.0.attn.c_attn.lora_a"):
        plan.local(model.extended(LoRA(rank=2)).params)
    other = Texts(model.config, layer=Layer(lambda r, *x: None, lambda r, dy: None))
    with pytest.raises(InputError, match="tensor: the objective's layer is not the surprise"):
        plan.loss_and_grads(plan.model(model), other, 0, range(1), model.params.like())


def test_a_process_alone_is_a_group_of_one():
    model = drawn(Config(**SIZE))
    for sequence in (False, True):
        plan = TensorPlan(model.config, Alone(), sequence=sequence)
        part, objective = plan.model(model), Texts(model.config)
        grads = part.params.like()
        loss, _ = plan.loss_and_grads(part, objective, 3, range(2), grads)
        expected = whole_step(model, objective, 2)
        assert abs(loss - expected[0]) < LIMIT * loss and relative_error(grads, expected[1])[0] < LIMIT


def test_pre_training_runs_in_parts():
    """The objective of numgpt train, whose losses are divided by what counts in the whole step."""
    import numgpt
    from numgpt.data.corpus import Corpus

    tokens = np.random.default_rng(0).integers(0, 13, 300)
    corpus = Corpus(tokens, tokens, numgpt.tokenizers.Characters("abcdefghijklm"), "random", "", {})
    model = drawn(Config(**SIZE))
    objective = Pretraining(corpus, Training(batch_size=3, accumulate=2), 9)
    expect_whole_step(model, objective, 2, sequence=True)
