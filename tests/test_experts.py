"""A mixture of experts: what it equals, what it does not depend on, and what its routers are trained by."""

import numpy as np
import pytest

from numgpt import GPT, AdamW, Config, InputError, Trainer, Training, ops
from numgpt.architecture.parameters import shapes
from numgpt.evaluation.experts import expert_load, table
from numgpt.layers.router_losses import with_router_losses
from numgpt.model import accounting, differentiable
from numgpt.model.generate import logits_stream
from numgpt.ops.experts import chosen_experts
from numgpt.training.objective import Pretraining

SIZE = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8, "n_inner": 6}
KINDS = {
    "renorm": {"n_expert": 4},
    "raw": {"n_expert": 4, "router": "raw"},
    "one of three": {"n_expert": 3, "n_expert_active": 1, "router": "raw"},
    "shared": {"n_expert": 4, "shared_inner": 5, "activation": "swiglu"},
    "every other layer": {"layers": ({}, {"n_expert": 4})},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def drawn(config, seed=0):
    """A model whose parameters are all random, biases too."""
    model = GPT(config, seed, "float64")
    model.params.flat[:] = 0.5 * np.random.default_rng(seed).standard_normal(model.n_params)
    return model


def batch(shape=(3, 8), V=11, seed=0):
    return np.random.default_rng(seed).integers(0, V, (2, *shape))


def dense_with(expert, config, dense):
    """The parameters of a dense model from those of one expert of a mixture."""
    model = GPT(dense, 0, "float64")
    for name in model.params:
        array = expert.params[name]
        model.params[name] = array[0] if array.ndim > model.params[name].ndim else array
    return model


def relative(a, b):
    return abs(a - b).max() / abs(b).max()


def test_one_expert_is_the_feed_forward():
    config = Config(**SIZE, n_expert=1, n_expert_active=1)
    model = drawn(config)
    dense = dense_with(model, config, Config(**SIZE))
    x, y = batch()
    assert relative(model(x), dense(x)) < 1e-15
    _, grads = model.loss_and_grads(x, y)
    _, theirs = dense.loss_and_grads(x, y)
    for name, grad in theirs.items():
        ours = grads[name]
        assert relative(ours[0] if ours.ndim > grad.ndim else ours, grad) < 1e-13
    assert not grads["h.0.mlp.router.weight"].any()  # its weight is 1 whatever the score


def test_equal_experts_whose_weights_add_up_to_1_are_the_feed_forward():
    model = drawn(Config(**SIZE, n_expert=4))
    for name, array in model.params.items():
        if ".mlp.c_" in name:
            array[...] = array[:1]
    dense = dense_with(model, model.config, Config(**SIZE))
    x, _ = batch()
    assert relative(model(x), dense(x)) < 1e-14


@every_kind
def test_experts_have_no_order(kind):
    """Their stacks and the router's columns in another order give the same logits and gradients."""
    model, (x, y) = drawn(Config(**SIZE, **kind)), batch()
    other = model.astype("float64")
    E = max(c.n_expert for c in model.config.scopes().values())
    order = np.random.default_rng(1).permutation(E)

    def permuted(name, array):
        if ".router." in name:
            return array[..., order]
        is_stacked = array.ndim == 3 or (array.ndim == 2 and name.endswith("bias"))
        return array[order] if is_stacked else array

    for name, array in model.params.items():
        other.params[name] = permuted(name, array)
    assert relative(other(x), model(x)) < 1e-14
    ours, theirs = model.loss_and_grads(x, y)[1], other.loss_and_grads(x, y)[1]
    for name, grad in ours.items():
        assert abs(permuted(name, grad) - theirs[name]).max() <= 1e-13 * abs(ours.flat).max()


@every_kind
def test_what_a_text_gets_does_not_depend_on_the_rest_of_the_batch(kind):
    """No token is dropped, none takes another's place: each row alone gives what it gives among others."""
    model, (x, _) = drawn(Config(**SIZE, **kind)), batch((6, 8))
    together = model(x)
    for row, logits in zip(x, together):
        assert relative(model(row[None])[0], logits) < 1e-14
    many = np.concatenate([x[:1], np.full((40, 8), 3)])  # forty rows that all want the same
    assert relative(model(many)[0], together[0]) < 1e-14


@every_kind
def test_decoding_with_a_cache_is_the_whole_forward(kind):
    model, (x, _) = drawn(Config(**SIZE, **kind)), batch()
    whole = model(x)
    stream = logits_stream(model, x[:, :3])
    assert relative(next(stream), whole[:, 2]) < 1e-14
    for t in range(3, 8):
        assert relative(stream.send(x[:, t]), whole[:, t]) < 1e-14


def test_an_expert_that_nothing_is_sent_to_gets_exactly_0_and_scores_gradients_add_up_to_0():
    model, (x, y) = drawn(Config(**SIZE, n_expert=4, biases="router")), batch()
    model.params["h.1.mlp.router.bias"][2] = -1e3
    record = model.record(x, y)
    assert (
        not record.grad["h.1.mlp.c_fc.weight"][2].any() and not record.grad["h.1.mlp.c_proj.weight"][2].any()
    )
    assert record.grad["h.1.mlp.c_fc.weight"].any((1, 2)).sum() >= 2
    scores = record.grad["h.1.mlp.router"]
    assert abs(scores.sum(-1)).max() < 1e-16 + 1e-14 * abs(scores).max()
    chosen = chosen_experts(record.value["h.1.mlp.router"], 2)
    assert (np.take_along_axis(scores != 0, chosen, -1).sum(-1) == (scores != 0).sum(-1)).all()


def test_of_equal_scores_the_lower_expert_is_chosen_and_the_largest_is_first():
    assert chosen_experts(np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), 3).tolist() == [
        [1, 2, 3],
        [0, 1, 2],
    ]


def test_weights_are_those_of_a_softmax_over_the_chosen_or_over_all():
    logits = np.random.default_rng(0).standard_normal((5, 4))
    chosen = chosen_experts(logits, 2)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = np.take_along_axis(p, chosen, -1)
    assert np.allclose(ops.route(logits, chosen, renorm=False), p, rtol=1e-15)
    assert np.allclose(ops.route(logits, chosen), p / p.sum(-1, keepdims=True), rtol=1e-14)
    huge = 1e4 * logits
    assert np.isfinite(ops.route(huge, chosen)).all() and np.allclose(ops.route(huge, chosen).sum(-1), 1)


def test_the_balance_loss_is_1_where_the_load_is_even_and_E_where_one_expert_gets_all():
    E, N = 4, 12
    even = np.stack([np.arange(N) % E, (np.arange(N) + 1) % E], -1)
    assert ops.balance(np.zeros((N, E)), even) == 1.0
    rng = np.random.default_rng(0)
    assert ops.balance(rng.standard_normal((N, E)), even) == 1.0  # Σ P = 1, whatever P is
    one = np.zeros((N, 1), int)
    sure = np.where(np.arange(E) == 0, 50.0, 0.0) + np.zeros((N, E))
    assert abs(ops.balance(sure, one) - E) < 1e-12


def test_router_losses_are_added_with_their_weights_and_differentiated():
    """Against central differences in every router's weight, and against the losses written anew."""
    model, (x, y) = drawn(Config(**SIZE, n_expert=4)), batch()
    layer, grads = with_router_losses(0.3, 0.2), model.params.like()
    loss = differentiable.loss_and_grads(model, layer, (x, y), grads)
    expected = model.loss(x, y)
    values = model.record(x, y).value
    for logits in [values[f"h.{i}.mlp.router"] for i in range(2)]:
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        share = np.bincount(chosen_experts(logits, 2).reshape(-1), minlength=4) / (2 * logits[..., 0].size)
        expected += 0.3 * 4 * (share * p.reshape(-1, 4).mean(0)).sum()
        expected += 0.2 * (np.log(np.exp(logits).sum(-1)) ** 2).mean()
    assert abs(loss - expected) < 1e-13 * expected
    rng = np.random.default_rng(2)
    direction = model.params.like()
    direction.flat[:] = rng.standard_normal(model.n_params)
    h, values = 1e-6, []
    start = model.params.flat.copy()
    for sign in (1, -1):
        model.params.flat[:] = start + sign * h * direction.flat
        values.append(float(differentiable.loss(model, layer, (x, y))))
    slope = (values[0] - values[1]) / (2 * h)
    assert abs(slope - grads.flat @ direction.flat) < 1e-7 * abs(slope)


def corpus_of(tmp_path):
    from numgpt import prepare

    path = tmp_path / "text.txt"
    path.write_text("she sells sea shells by the sea shore. " * 60)
    return prepare(path, split="tail")


def test_a_step_of_several_batches_weighs_router_losses_as_one_does(tmp_path):
    """Twice as many batches of half the size: the mean of their balance losses, not the sum."""
    from numgpt.training.objective import step_loss_and_grads

    corpus = corpus_of(tmp_path)
    V = corpus.tokenizer.vocab_size
    model = drawn(Config(**SIZE | {"vocab_size": V}, n_expert=4))
    losses = []
    for accumulate in (1, 4):
        training = Training(batch_size=2, accumulate=accumulate, balance_loss=5.0, router_z_loss=0.0)
        objective = Pretraining(corpus, training, 8, n_routers=2)
        without = Pretraining(corpus, Training(batch_size=2, accumulate=accumulate), 8)
        total, _ = step_loss_and_grads(model, objective, 0, accumulate, model.params.like())
        surprise, _ = step_loss_and_grads(model, without, 0, accumulate, model.params.like())
        losses.append(total - surprise)
    assert all(5.0 <= loss < 10.0 for loss in losses)  # 5 where the load is even


def test_training_spreads_the_tokens_and_the_held_out_loss_is_the_surprise_alone(tmp_path):
    corpus = corpus_of(tmp_path)
    V = corpus.tokenizer.vocab_size
    config = Config(**SIZE | {"vocab_size": V, "n_embd": 16, "n_layer": 1}, n_expert=4)
    spread = {}
    for weight in (0.0, 1.0):
        model = GPT(config, 0)
        model.params["h.0.mlp.router.weight"][:, 0] += 0.5  # a router that begins with a favourite
        training = Training(steps=60, lr=1e-2, warmup=5, eval_iters=2, balance_loss=weight)
        trainer = Trainer(model, corpus, training)
        trainer.run()
        tokens = corpus.held_out[: len(corpus.held_out) // 8 * 8].reshape(-1, 8)
        (shares,) = expert_load(model, tokens).values()
        spread[weight] = shares.max()
        held_out = [float(model.loss(*b.inputs)) for b in trainer.objective.held_out()]
        assert abs(trainer.evaluate()["held_out_loss"] - np.mean(held_out)) < 1e-6
    assert spread[1.0] < spread[0.0] and spread[1.0] < 0.35


def test_biases_of_experts_are_not_decayed():
    model = GPT(Config(**SIZE, n_expert=4), 0)
    sizes = shapes(model.config)
    vectors = [name for name in sizes if len(sizes[name]) == 1 or name.endswith("bias")]
    model.params.flat[:] = 1
    AdamW(model, weight_decay=0.5).step(model.params.like(), 0.1)
    for name, array in model.params.items():
        assert (array == 1).all() == (name in vectors), name


def test_parameters_active_parameters_and_flops_are_counted():
    from numgpt.architecture.presets import preset

    mixtral = preset("mixtral-8x7b")
    assert sum(accounting.parameter_groups(mixtral).values()) == 46_702_792_704
    assert accounting.active_parameters(mixtral) == 12_879_925_248
    dense, moe = preset("llama-micro"), preset("moe-micro")
    router = 2 * moe.n_layer * moe.n_embd * moe.n_expert
    flops = [accounting.flops_per_token(config)["feed-forward"] for config in (dense, moe)]
    assert flops[1] == flops[0] + router


def test_the_load_is_shown_as_a_table():
    model = drawn(Config(**SIZE, n_expert=4, n_expert_active=1, router="raw"))
    loads = expert_load(model, batch()[0])
    assert all(abs(shares.sum() - 1) < 1e-12 for shares in loads.values())
    assert [line.split()[0] for line in table(loads)] == ["h.0.mlp.router", "h.1.mlp.router"]
    assert len(table({"h.0.mlp.router": np.full(128, 1 / 128)})) == 11
    assert expert_load(GPT(Config(**SIZE), 0), batch()[0]) == {}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"n_expert": -1}, "config: n_expert is -1, expected 0 to 16,777,216"),
        ({"n_expert": 2, "n_expert_active": 3}, "config: n_expert_active is 3, expected 1 to n_expert 2"),
        ({"n_expert": 2, "n_expert_active": 0}, "config: n_expert_active is 0, expected 1 to n_expert 2"),
        ({"n_expert": 2, "router": "top"}, "config: router is 'top', expected one of renorm, raw"),
        ({"shared_inner": 4}, "config: shared_inner is 4, which nothing reads"),
        ({"n_expert_active": 1}, "config: n_expert_active is 1, which nothing reads"),
        ({"biases": "qkv router"}, "config: biases is qkv router, expected no bias of a router"),
        ({"n_expert": 2, "shared_inner": 0}, "config: shared_inner is 0, expected 1 to"),
    ],
)
def test_settings_of_experts_that_cannot_be_are_named(fields, message):
    with pytest.raises(InputError, match=f"^{message}"):
        Config(**SIZE, **fields)


def test_weights_of_router_losses_are_refused_where_nothing_reads_them(tmp_path):
    corpus = corpus_of(tmp_path)
    with pytest.raises(InputError, match="^training: balance_loss is 0.5, which nothing reads"):
        Pretraining(corpus, Training(balance_loss=0.5), 8)
    with pytest.raises(InputError, match="^config: router_z_loss is -1.0, expected 0 or more"):
        Training(router_z_loss=-1.0)


def test_more_experts_than_there_are_is_said_by_the_op():
    with pytest.raises(InputError, match="^route: A = 5 is more than E = 3, expected A ≤ E"):
        ops.route(np.zeros((2, 3)), np.zeros((2, 5), int))
    with pytest.raises(InputError, match="^expert_linear: chosen has 3 at"):
        ops.expert_linear(np.zeros((2, 3)), np.array([0, 3]), np.zeros((3, 3, 2)))
