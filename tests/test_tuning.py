"""Objectives of tuning: exact gradients, whatever the packing, and beginnings and ends that are known."""

import numpy as np
import pytest

from numgpt import GPT, Config, Head, InputError, LoRA, Trainer, Training, engine, ops, tuning
from numgpt.data import BARE, Conversation, Example, Message
from numgpt.layers import policy_losses, task_heads, tuning_losses
from numgpt.layers.transformer import gpt
from numgpt.model import differentiable
from numgpt.tokenizers import Bytes
from numgpt.training.objective import held_out_loss, step_loss_and_grads

CONFIG = Config(vocab_size=13, block_size=16, n_layer=2, n_head=2, n_embd=8)
END = 12  # the token that ends a response
RNG = np.random.default_rng(0)


@pytest.fixture(params=["reference", "numba"], autouse=True)
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


def model_of(dtype="float64", *additions):
    model = GPT(CONFIG, seed=1, dtype=dtype).extended(*additions)
    model.params.flat[...] += 0.2 * np.random.default_rng(0).standard_normal(model.n_params).astype(dtype)
    return model


def example(prompt, response):
    """A prompt of so many tokens, and a response of so many and its end."""
    ids = np.append(RNG.integers(0, END, prompt + response), END)
    return Example(ids, np.arange(len(ids)) >= prompt)


EXAMPLES = [example(int(RNG.integers(1, 5)), n) for n in (3, 2, 1, 6, 4, 2, 5)]
PAIRS = [
    (
        Example(np.r_[p, a, END], np.r_[p < 0, a >= 0, True]),
        Example(np.r_[p, b, END], np.r_[p < 0, b >= 0, True]),
    )
    for p, a, b in ((RNG.integers(0, END, 3), *(RNG.integers(0, END, n) for n in (4, 2))) for _ in range(6))
]


def training(**changes):
    return Training(**{"steps": 3, "batch_size": 3, "lr": 1e-2, "warmup": 0, "eval_iters": 100} | changes)


# Exact gradients.


def layers():
    """Each layer of a loss with inputs for it: (layer, inputs, additions)."""
    tokens, targets = RNG.integers(0, 13, (2, 4, 6))
    targets[0, 4:] = -1
    weights = (RNG.random((4, 6)) < 0.6).astype(float)
    weights[:, 2] = 1
    weights[0, 4:] = 0
    pairs = tuple(a.reshape(2, 2, 6) for a in (tokens, targets, weights))
    fixed = -5 + RNG.standard_normal((2, 2))
    taught = RNG.standard_normal((4, 6, 13))
    last, mask = np.array([5, 2, 0, 3]), weights
    classes, numbers = np.array([0, 2, 1, 1]), RNG.standard_normal((4, 3))
    yield "responses", tuning_losses.responses(), (tokens, targets, weights), ()
    yield "smoothed", tuning_losses.responses(0.2), (tokens, targets, weights, 7), ()
    yield "DPO", tuning_losses.preferences(ops.dpo, beta=0.3), (*pairs, fixed), ()
    yield "cDPO", tuning_losses.preferences(ops.dpo, beta=0.3, label_noise=0.1), (*pairs, fixed), ()
    yield "IPO", tuning_losses.preferences(ops.ipo, beta=0.3), (*pairs, fixed), ()
    yield "DPO and surprise", tuning_losses.preferences(ops.dpo, 0.7, beta=0.3), (*pairs, fixed), ()
    good, shares = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 1.5, 1.5, 1.0])
    kto = tokens, targets, weights, fixed.ravel(), good, shares, np.array(0.4)
    yield "KTO", tuning_losses.verdicts(0.3), kto, ()
    yield "distillation", tuning_losses.distilled(2.0, 0.6), (tokens, targets, taught, weights), ()
    head = Head(labels=("a", "b", "c"))
    yield "classes", task_heads.tasks("classes", "last"), (tokens, last, classes), (head,)
    yield "classes, mean", task_heads.tasks("classes", "mean"), (tokens, mask, classes), (head,)
    yield (
        "classes and text",
        task_heads.tasks("classes", "last", 0.5),
        (tokens, last, classes, targets, weights),
        (head,),
    )
    yield "numbers", task_heads.tasks("numbers", "last"), (tokens, last, numbers), (head,)
    reward = Head(task="reward")
    yield "rewards", task_heads.rewards("last"), (pairs[0], last.reshape(2, 2)), (reward,)
    yield "rewards, mean", task_heads.rewards("mean"), (pairs[0], mask.reshape(2, 2, 6)), (reward,)


def policy_layers():
    """The layers of reinforcement, as layers() gives those of tuning."""
    tokens, targets = RNG.integers(0, 13, (2, 4, 6))
    targets[0, 4:] = -1
    weights = np.where(targets >= 0, 1.0, 0.0)
    near = differentiable.value(model_of(), policy_losses.policy_logprobs(0.8), (tokens, targets))
    old, fixed = near + 0.1 * RNG.standard_normal((2, 4, 6))
    advantages, values, returns = RNG.standard_normal((3, 4, 6))
    given = tokens, targets, weights, old, advantages
    yield "policy", policy_losses.policy(0.8), given, ()
    for name in policy_losses.DISTANCES:
        layer = policy_losses.policy(0.8, 0.1, 0.3, beta=0.5, distance=name)
        yield f"policy and {name}", layer, (*given, fixed, 7), ()
    value = Head(task="value", pool="none")
    layer = policy_losses.policy_and_values(0.8, 0.1, 0.5, value_weight=0.4)
    yield "policy and values", layer, (*given, values, returns), (value,)


LAYERS = {name: rest for name, *rest in (*layers(), *policy_layers())}


def slope(model, layer, inputs, v):
    """d loss / dh along v by the complex step, and the gradient along v."""
    grads = model.params.like()
    differentiable.loss_and_grads(model, layer, inputs, grads)
    shifted = model.astype("complex128")
    shifted.params.flat[...] += 1e-30j * v
    value = differentiable.loss(shifted, layer, inputs)
    return float(np.imag(value)) / 1e-30, grads.flat @ v, np.linalg.norm(grads.flat) * np.linalg.norm(v)


@pytest.mark.parametrize("lora", [(), (LoRA(rank=2),)], ids=["all", "LoRA"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_complex_step(name, lora):
    layer, inputs, additions = LAYERS[name]
    model = model_of("float64", *lora, *additions)
    analytic, exact, size = slope(model, layer, inputs, RNG.standard_normal(model.n_params))
    assert size > 1e-6
    assert abs(analytic - exact) <= 1e-12 * size


# No influence of packing, padding or batches.


def loss_and_gradients(model, objective, batches=1, step=0):
    grads = model.params.like()
    loss, count = step_loss_and_grads(model, objective, step, batches, grads)
    return float(loss), grads.flat, count


def whole(pack, reduction="token", batch_size=7, accumulate=1, **options):
    t = training(batch_size=batch_size, accumulate=accumulate)
    return tuning.Responses(EXAMPLES, t, 16, pack=pack, reduction=reduction, **options)


def alone(model, reduction):
    """The loss and gradient from each example by itself: what all others must give."""
    grads, losses, counts = [], [], []
    for ids, is_response in EXAMPLES:
        targets = np.where(is_response[1:], ids[1:], -1)
        loss, grad = model.loss_and_grads(ids[:-1], targets)
        losses.append(float(loss))
        grads.append(grad.flat)
        counts.append((targets >= 0).sum() if reduction == "token" else 1)
    share = np.array(counts) / sum(counts)
    return share @ losses, share @ np.array(grads)


def near(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-12 * abs(expected[1]).max())


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "padded"])
def test_packed_or_padded_is_alone(pack, reduction):
    model = model_of()
    objective = whole(pack, reduction)
    t = training(batch_size=objective.size)
    objective.training = t
    near(loss_and_gradients(model, objective), alone(model, reduction))


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("size", [(1, 7), (7, 1)], ids=["seven batches", "one batch"])
def test_accumulation_of_unequal_lengths_is_the_whole_batch(size, reduction):
    model = model_of()
    batch_size, accumulate = size
    objective = whole(False, reduction, batch_size, accumulate)
    near(loss_and_gradients(model, objective, accumulate), alone(model, reduction))


def test_the_end_of_a_response_is_learned_and_its_prompt_is_not():
    batch = whole(False).batch(0, 0)
    _, targets, weights, count = batch.inputs
    assert (weights[targets == END] == 1).all() and (targets == END).sum() == len(EXAMPLES)
    assert weights[targets < 0].sum() == 0
    assert count == sum(e.is_response.sum() for e in EXAMPLES) == weights.sum()


def test_each_example_is_drawn_once_an_epoch_in_an_order_of_its_own():
    t = training(batch_size=2, accumulate=2)
    drawn = [tuning.drawn(7, t, step, n).tolist() for step in range(7) for n in range(2)]
    items = [item for batch in drawn for item in batch]
    epochs = [items[:7], items[7:14], items[14:21], items[21:28]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert tuning.drawn(7, t, 3, 1).tolist() == drawn[7]  # whoever asks, and when


def test_a_resumed_run_ends_with_the_bits_of_one_that_ran_through(tmp_path):
    def run(out, steps):
        path = out / "last"
        model = GPT.load(path) if path.exists() else model_of("float32", LoRA(rank=2))
        objective = tuning.Responses(EXAMPLES[:5], training(), 16, EXAMPLES[5:])
        names = tuning.trained_names(model)
        optimizer = tuning.optimizer_of(model, training(), names)
        settings = training(steps=steps, schedule="constant")
        trainer = Trainer(model, None, settings, out, objective, optimizer)
        if path.exists():
            trainer.resume()
        trainer.run()
        return model.params.flat.copy()

    through = run(tmp_path / "a", 4)
    run(tmp_path / "b", 2)
    np.testing.assert_array_equal(run(tmp_path / "b", 4), through)


# Beginnings and ends that are known.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lora", [(), (LoRA(rank=2),)], ids=["all", "LoRA"])
def test_preferences_begin_at_ln_2_and_a_margin_of_0(dtype, lora):
    model = GPT(CONFIG, seed=1, dtype=dtype).extended(*lora)
    objective = tuning.Preferences(PAIRS, training(), 16, tuning.frozen(model), PAIRS)
    assert tuning.margins(model, objective)["margin"] == 0.0
    assert held_out_loss(model, objective) == pytest.approx(
        np.log(2), abs=1e-7 if dtype == "float32" else 1e-15
    )


@pytest.mark.parametrize("lora", [(), (LoRA(rank=2),)], ids=["all", "LoRA"])
def test_the_fixed_model_stays(lora):
    model = GPT(CONFIG, seed=1).extended(*lora)
    fixed = tuning.frozen(model)
    objective = tuning.Preferences(PAIRS, training(), 16, fixed)
    before = objective.batch(0, 0).inputs[3]
    optimizer = tuning.optimizer_of(model, training(), tuning.trained_names(model))
    Trainer(model, None, training(), objective=objective, optimizer=optimizer).run()
    np.testing.assert_array_equal(objective.batch(0, 0).inputs[3], before)
    assert tuning.margins(model, tuning.Preferences(PAIRS, training(), 16, fixed, PAIRS))["margin"] > 0


JUDGED = [(example, bool(n % 2)) for n, example in enumerate(EXAMPLES)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lora", [(), (LoRA(rank=2),)], ids=["all", "LoRA"])
def test_verdicts_begin_at_half_with_no_divergence(dtype, lora):
    model = GPT(CONFIG, seed=1, dtype=dtype).extended(*lora)
    objective = tuning.Verdicts(model, JUDGED, training(batch_size=4), 16, tuning.frozen(model), JUDGED)
    told = tuning.gains(model, objective)
    assert told["good"] == told["bad"] == 0.0 and objective.batch(0, 0).inputs[-1] == 0.0
    assert held_out_loss(model, objective) == 0.5


def verdicts(model, **options):
    fixed = tuning.frozen(GPT(CONFIG, seed=2, dtype="float64"))
    return tuning.Verdicts(model, JUDGED, training(batch_size=7), 16, fixed, JUDGED, **options), fixed


def of_response(model, prompt, response):
    """The log-probability of a response behind a prompt, by itself."""
    ids = np.r_[prompt, response]
    targets = np.r_[np.full(len(prompt) - 1, -1), response]
    return -float(model.loss(ids[:-1], targets)) * len(response)


def test_the_divergence_is_that_of_prompts_with_the_responses_to_others():
    """z₀ of a batch as the paper has it, from each text alone; and the loss and its gradient with it."""
    model = model_of()
    objective, fixed = verdicts(model, beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)
    (batch,) = objective.held_out()
    parts = [(ids[~mask], ids[mask]) for ids, mask in EXAMPLES]
    at_first = GPT(fixed.config, params=fixed.params)

    def gain(prompt, response):
        return of_response(model, prompt, response) - of_response(at_first, prompt, response)

    others = parts[-1:] + parts[:-1]
    crossed = np.mean([gain(p, r) for (p, _), (_, r) in zip(parts, others)])
    z0 = max(0.3 * crossed, 0.0)
    np.testing.assert_allclose(batch.inputs[-1], z0, rtol=1e-12)
    signs = np.array([1 if is_good else -1 for _, is_good in JUDGED])
    weights = np.where(signs > 0, 1.2, 0.7)
    u = 0.3 * np.array([gain(p, r) for p, r in parts])
    expected = (weights / (1 + np.exp(signs * (u - z0)))).mean()
    np.testing.assert_allclose(held_out_loss(model, objective), expected, rtol=1e-12)


def test_a_divergence_is_never_below_0():
    model = model_of()
    z0 = []
    for seed in range(8):
        fixed = GPT(CONFIG, seed=seed, dtype="float64")
        fixed.params.flat[...] += 0.3 * np.random.default_rng(seed).standard_normal(fixed.n_params)
        objective = tuning.Verdicts(model, JUDGED, training(batch_size=7), 16, tuning.frozen(fixed))
        z0.append(float(objective.batch(0, 0).inputs[-1]))
    assert min(z0) == 0.0 < max(z0)


def test_what_is_too_long_behind_another_prompt_is_cut_there():
    long, short = example(14, 2), example(1, 14)
    model = model_of()
    objective = tuning.Verdicts(
        model, [(long, True), (short, False)], training(batch_size=2), 16, tuning.frozen(model)
    )
    assert np.isfinite(float(objective.batch(0, 0).inputs[-1]))


def test_a_step_of_verdicts_moves_good_responses_up_and_bad_ones_down():
    model = model_of()
    fixed = tuning.frozen(model)
    objective = tuning.Verdicts(model, JUDGED, training(batch_size=7), 16, fixed, JUDGED)
    _, grads, _ = loss_and_gradients(model, objective)
    model.params.flat[...] -= 1e-2 * grads
    told = tuning.gains(model, objective)
    assert told["good"] > 0 > told["bad"]
    assert told["chosen"] - told["chosen_fixed"] == pytest.approx(told["good"])


@pytest.mark.parametrize(
    ("judged", "batch_size", "what"),
    [(JUDGED[:1], 4, "the number of responses"), (JUDGED, 1, "batch_size")],
)
def test_verdicts_need_another_response_to_compare_with(judged, batch_size, what):
    model = GPT(CONFIG, seed=1)
    with pytest.raises(InputError, match=f"Verdicts: {what} is 1, expected 2 or more"):
        tuning.Verdicts(model, judged, training(batch_size=batch_size), 16, tuning.frozen(model))


def test_a_last_batch_of_one_response_has_another_beside_it():
    model = model_of()
    objective, _ = verdicts(model)
    objective.training = training(batch_size=6)
    assert [batch.count for batch in objective.held_out()] == [6, 1]


def test_a_table_reaches_the_policy_that_dpo_says():
    """π* ∝ π_ref e^{r/β}: all pairs, labelled as often as Bradley and Terry say (Rafailov et al. 2023)."""
    beta, n = 0.7, 4
    reward, logits = RNG.standard_normal(n), RNG.standard_normal(n)
    fixed = logits - np.log(np.exp(logits).sum())
    i, j = (a[~np.eye(n, dtype=bool)] for a in np.meshgrid(range(n), range(n), indexing="ij"))
    labelled = 1 / (1 + np.exp(reward[j] - reward[i]))  # how often i is the better one
    z = logits.copy()
    for _ in range(20000):
        logp, saved = ops.token_logprobs.forward(np.tile(z, (n, 1)), np.arange(n))
        _, pairs = ops.dpo.forward(logp[i], logp[j], fixed[i], fixed[j], beta=beta)
        dbetter, dworse, _, _ = ops.dpo.backward(labelled / len(i), pairs)
        dlogp = np.zeros(n)
        np.add.at(dlogp, i, dbetter)
        np.add.at(dlogp, j, dworse)
        z -= 4.0 * ops.token_logprobs.backward(dlogp, saved)[0].sum(0)
    optimum = np.exp(fixed + reward / beta)
    found = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(found, optimum / optimum.sum(), rtol=1e-9)


def test_distillation_of_a_model_by_itself_has_no_gradient():
    model = model_of()
    tokens = RNG.integers(0, 13, (2, 6))
    taught = differentiable.value(model, gpt, (tokens,))
    grads = model.params.like()
    layer = tuning_losses.distilled(2.0, 1.0)
    loss = differentiable.loss_and_grads(model, layer, (tokens, tokens, taught, np.ones((2, 6))), grads)
    assert abs(float(loss)) < 1e-14 and abs(grads.flat).max() < 1e-15


# What laws must not let pass.


def test_laws_tell_wrong_objectives_from_right_ones():
    """Each fault that others made moves the gradient by far more than laws allow."""
    model = model_of()
    right = loss_and_gradients(model, whole(False))[1]

    def gradient(change):
        objective = whole(False)
        made = objective.rows.batch(range(7))
        inputs = change(made.inputs, made.targets, made.weights.copy())
        grads = model.params.like()
        differentiable.loss_and_grads(model, objective.layer, inputs, grads)
        return grads.flat

    def end_masked(x, y, w):
        w[y == END] = 0
        return x, y, w, w.sum()

    def padding_counts(x, y, w):
        y = np.where(y < 0, 0, y)
        return x, y, np.where(w + (x == 0) > 0, 1.0, 0.0), None

    def local_denominators(x, y, w):
        return x, y, w / w.sum(-1, keepdims=True), len(w)

    def prompt_counts(x, y, w):
        return x, y, (y >= 0).astype(float), None

    np.testing.assert_allclose(gradient(lambda x, y, w: (x, y, w, w.sum())), right, rtol=1e-12, atol=1e-15)
    for fault in (end_masked, padding_counts, local_denominators, prompt_counts):
        assert abs(gradient(fault) - right).max() > 1e-3 * abs(right).max(), fault.__name__


def test_a_step_of_preferences_moves_the_better_response_up():
    """The sign, and which of the two is which: a swapped pair or a wrong sign would lower it."""
    model = GPT(CONFIG, seed=1, dtype="float64")
    objective = tuning.Preferences(PAIRS, training(batch_size=6), 16, tuning.frozen(model), PAIRS)
    _, grads, _ = loss_and_gradients(model, objective)
    model.params.flat[...] -= 1e-2 * grads
    told = tuning.margins(model, objective)
    assert told["margin"] > 0 and told["accuracy"] == 1.0


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: tuning.Responses([], training(), 16), "there are none, expected one or more"),
        (lambda: tuning.Responses(EXAMPLES, training(), 4), "are longer than 4 places"),
        (
            lambda: tuning.Responses(EXAMPLES, training(), 16, reduction="row"),
            "expected one of token, sequence",
        ),
        (
            lambda: tuning.Preferences(PAIRS, training(), 16, None, loss="ppo"),
            "loss is 'ppo', expected one of",
        ),
        (
            lambda: tuning.Preferences(PAIRS, training(), 16, None, loss="ipo", label_noise=0.1),
            "which ipo does not know",
        ),
        (lambda: tuning.Rewards(model_of(), [(np.array([1]), np.array([2]))], training()), "no head"),
        (
            lambda: tuning.Tasks(
                model_of("float64", Head(labels=("a", "b"))), [np.array([1])], np.array([2]), training()
            ),
            "a label is 2, expected integers from 0 to 1",
        ),
    ],
)
def test_what_cannot_be_tuned_is_said_in_one_line(act, words):
    with pytest.raises(InputError, match=words):
        act()


def test_templates_and_objectives_agree_on_what_a_response_is():
    conversation = Conversation([Message("user", "1+1="), Message("assistant", "2")])
    ids, is_response = BARE.encode(conversation, Bytes())
    assert bytes(ids[is_response].tolist()) == b"2\n"
