"""A step as TRL takes it, from the same weights and texts: its loss and gradients are ours.

TRL asks for versions of its own, so it runs in a Python of its own, which NUMGPT_TRL names; CONTRIBUTING.md
says how one is made. Without it these tests skip.
"""

import itertools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from numgpt import GPT, Config, Training, ops, tuning
from numgpt.data import Example
from numgpt.layers.tuning_losses import log_likelihoods, responses
from numgpt.model import differentiable
from numgpt.training.objective import step_loss_and_grads

PYTHON = os.environ.get("NUMGPT_TRL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="NUMGPT_TRL names no Python that has TRL"),
]

LETTERS, END, PADDING = "abcdefghijkl", "<end>", "<pad>"
CONFIG = Config(vocab_size=len(LETTERS) + 2, block_size=24, n_layer=2, n_head=2, n_embd=16)
# Of unequal lengths, so that every way of taking means gives another number.
PROMPTS = ["abc", "de", "fghij", "k", "lab", "ccd"]
GOOD = ["defg", "a", "kl", "hhhhhhh", "bc", "ij"]
BAD = ["e", "bcd", "jihgfe", "ll", "a", "fedcba"]
LABELS = [True, False, True, True, False, False]
BETA, NOISE, CLIP = 0.3, 0.1, 0.2
RNG = np.random.default_rng(0)

SFT_ROWS = [{"prompt": p, "completion": c} for p, c in zip(PROMPTS, GOOD)]
PAIR_ROWS = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in zip(PROMPTS, GOOD, BAD)]
VERDICT_ROWS = [{"prompt": p, "completion": c, "label": x} for p, c, x in zip(PROMPTS, GOOD, LABELS)]
ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
WHOLE = {"per_device_train_batch_size": 6}

# Rollouts: two responses to each of two prompts of 3 tokens, the first and the last one cut off.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
ROLLOUTS = {
    "prompt_ids": np.repeat(RNG.integers(0, 12, (2, 3)), 2, axis=0),
    "prompt_mask": np.ones((4, 3), int),
    "completion_ids": np.where(MASK, RNG.integers(0, 12, (4, 4)), 13),
    "completion_mask": MASK,
    "advantages": np.array([1.2, -0.7, 0.4, -1.1]),
    "old_per_token_logps": -2.6 + 0.4 * RNG.standard_normal((4, 4)),
    "ref_per_token_logps": -2.6 + 0.4 * RNG.standard_normal((4, 4)),
}
FAR = ROLLOUTS | {  # the same texts, with two places of padding before the prompts
    "prompt_ids": np.pad(ROLLOUTS["prompt_ids"], ((0, 0), (2, 0)), constant_values=13),
    "prompt_mask": np.pad(ROLLOUTS["prompt_mask"], ((0, 0), (2, 0))),
}
POLICY = {"beta": 0.05, "epsilon": CLIP, "max_completion_length": 6}
REDUCTIONS = ("grpo", "bnpo", "dr_grpo", "dapo")
KLS = {"rho k3": {}, "k3": {"use_bias_correction_kl": False}}  # the first is what they take unless told


def steps():
    """What TRL is asked for: (kind, rows, options) by name."""
    yield "sft", ("sft", SFT_ROWS, ACCUMULATED)
    for name, options in (
        ("dpo", ACCUMULATED | {"loss_type": ["sigmoid"]}),
        ("surprise", WHOLE | {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
        ("ipo", WHOLE | {"loss_type": ["ipo"]}),
        ("smoothed", WHOLE | {"loss_type": ["sigmoid"], "label_smoothing": NOISE}),
        ("robust", WHOLE | {"loss_type": ["robust"], "label_smoothing": NOISE}),
    ):
        yield name, ("dpo", PAIR_ROWS, options | {"beta": BETA})
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    yield "kto", ("kto", VERDICT_ROWS, WHOLE | weights | {"beta": BETA})
    for reduction, kl in itertools.product(REDUCTIONS, KLS):
        yield f"{reduction}, {kl}", ("grpo", ROLLOUTS, POLICY | KLS[kl] | {"loss_type": reduction})
    yield "padded before", ("grpo", FAR, POLICY | {"loss_type": "grpo"})


def model_of(seed):
    model = GPT(CONFIG, seed=seed, dtype="float32")
    model.params.flat[...] += 0.1 * np.random.default_rng(seed).standard_normal(model.n_params).astype(
        "float32"
    )
    return model


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """What TRL gives for each step: its file, opened."""
    folder = tmp_path_factory.mktemp("trl")
    for name, seed in (("model", 1), ("fixed", 2)):
        model_of(seed).save(folder / name, layout="hf")
    asked = {
        name: {"kind": kind, "rows": plain(rows), "options": options}
        for name, (kind, rows, options) in steps()
    }
    task = {"words": [LETTERS, END, PADDING], "steps": asked}
    (folder / "steps.json").write_text(json.dumps(task), "utf-8")
    script = Path(__file__).with_name("trl_steps.py")
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    command = [PYTHON, str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: np.load(folder / f"{name}.npz") for name in asked}


def plain(rows):
    """Rows as JSON has them."""
    return {name: x.tolist() for name, x in rows.items()} if isinstance(rows, dict) else rows


def example(prompt, response):
    ids = np.array([*map(LETTERS.index, prompt + response), LETTERS.index("l") + 1])
    return Example(ids, np.arange(len(ids)) >= len(prompt))


def training(**changes):
    return Training(**{"steps": 1, "batch_size": 6, "warmup": 0} | changes)


def near(theirs, loss, grads):
    """Loss and every gradient are the same, to a millionth of the largest one.

    In float32, for TRL computes log-probabilities so, whatever the model has.
    """
    assert abs(float(theirs["loss"]) - loss) <= 1e-6 * max(abs(loss), 1)
    largest = max(abs(grads[name]).max() for name in grads)
    names = {name.removeprefix("grad/transformer."): name for name in theirs.files if name.startswith("grad")}
    assert names.keys() == set(grads)
    for name in grads:
        np.testing.assert_allclose(grads[name], theirs[names[name]], rtol=0, atol=1e-6 * largest)


def step_of(model, objective, batches=1):
    grads = model.params.like()
    loss, _ = step_loss_and_grads(model, objective, 0, batches, grads)
    return float(loss), grads


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "padded"])
def test_a_step_of_fine_tuning_is_theirs_a_mean_over_the_tokens_of_all_its_batches(theirs, pack):
    model = model_of(1)
    examples = [example(p, c) for p, c in zip(PROMPTS, GOOD)]
    objective = tuning.Responses(examples, training(batch_size=6), 24, pack=pack)
    near(theirs["sft"], *step_of(model, objective))


def test_the_ends_of_responses_count_for_them_too_and_padding_does_not(theirs):
    """By the batches that their collator made: labels where a token counts, -100 elsewhere."""
    for name in ("sft", "dpo"):
        file, found = theirs[name], []
        for n in range(3):
            ids = file[f"batch/{n}/input_ids"]
            if name.startswith("sft"):
                counts = file[f"batch/{n}/labels"] != -100
            else:
                counts = file[f"batch/{n}/completion_mask"] > 0
            there = file[f"batch/{n}/attention_mask"] > 0
            found += [(tuple(i[t]), tuple(c[t])) for i, c, t in zip(ids, counts, there)]
            assert not counts[~there].any()
        responses = [GOOD] if name.startswith("sft") else [GOOD, BAD]
        own = [example(p, r) for side in responses for p, r in zip(PROMPTS, side)]
        assert sorted(found) == sorted((tuple(ids), tuple(mask)) for ids, mask in own)


def preferences(accumulate=1, **options):
    pairs = [(example(p, c), example(p, r)) for p, c, r in zip(PROMPTS, GOOD, BAD)]
    t = training(batch_size=6 // accumulate, accumulate=accumulate)
    return tuning.Preferences(pairs, t, 24, tuning.frozen(model_of(2)), beta=BETA, **options)


def test_a_step_of_preferences_is_theirs(theirs):
    found = step_of(model_of(1), preferences(accumulate=3), batches=3)
    near(theirs["dpo"], *found)


def test_their_loss_of_the_chosen_beside_it_is_our_chosen_nll(theirs):
    near(theirs["surprise"], *step_of(model_of(1), preferences(chosen_nll=0.7)))


def gains(objective):
    """How much the model gains on the fixed one: (pairs, 2), chosen and rejected; and their lengths."""
    batch = objective.batch(0, 0)
    own = differentiable.value(model_of(1), log_likelihoods, batch.inputs[:3])
    return (own - batch.inputs[3]).astype(float), batch.inputs[2].sum(-1)


def equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_their_ipo_divides_by_lengths_and_ours_does_not(theirs):
    objective = preferences(loss="ipo")
    gained, lengths = gains(objective)

    def of(gained):
        return ((gained[:, 0] - gained[:, 1] - 1 / (2 * BETA)) ** 2).mean()

    loss = step_of(model_of(1), objective)[0]
    equal(loss, of(gained))
    equal(theirs["ipo"]["loss"], of(gained / lengths))
    assert abs(loss - of(gained / lengths)) > 0.1


def test_our_label_noise_is_cdpo_which_they_have_not_for_their_robust_loss_is_another(theirs):
    gained, _ = gains(preferences())
    h = BETA * (gained[:, 0] - gained[:, 1])
    right, wrong = np.log1p(np.exp(-h)).mean(), np.log1p(np.exp(h)).mean()
    equal(step_of(model_of(1), preferences(label_noise=NOISE))[0], (1 - NOISE) * right + NOISE * wrong)
    equal(theirs["robust"]["loss"], ((1 - NOISE) * right - NOISE * wrong) / (1 - 2 * NOISE))
    equal(theirs["smoothed"]["loss"], right)


def test_a_step_of_verdicts_is_theirs_with_each_prompts_divergence_by_the_response_before(theirs):
    """Given their batch, in the order of the file: each prompt beside the response to the one before."""
    model = model_of(1)
    judged = [(example(p, c), is_good) for p, c, is_good in zip(PROMPTS, GOOD, LABELS)]
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    fixed = tuning.frozen(model_of(2))
    objective = tuning.Verdicts(model, judged, training(), 24, fixed, judged, beta=BETA, **weights)
    (batch,) = objective.held_out()
    assert batch.inputs[-1] > 0
    grads = model.params.like()
    loss = differentiable.loss_and_grads(model, batch.layer, batch.inputs, grads)
    near(theirs["kto"], float(loss), grads)


# Rollouts.


def shifted(rollouts):
    """Rollouts as a layer takes them: tokens, targets and weights, one target behind each token."""
    ids = np.concatenate([rollouts["prompt_ids"], rollouts["completion_ids"]], axis=1)
    P = rollouts["prompt_ids"].shape[1]
    weights = np.zeros(ids[:, 1:].shape)
    weights[:, P - 1 :] = rollouts["completion_mask"]
    return ids[:, :-1], ids[:, 1:], weights


def each(logp, kl):
    """(the loss of each token, its slope): PPO's clipped one, and a share of a KL, by our ops."""
    old, fixed = ROLLOUTS["old_per_token_logps"], ROLLOUTS["ref_per_token_logps"]
    gains = np.broadcast_to(ROLLOUTS["advantages"][:, None], logp.shape)
    ones = np.ones_like(logp)
    loss, saved = ops.ppo.forward(logp, old, gains, clip=CLIP)
    slope = ops.ppo.backward(ones, saved)[0]
    weighed = (old,) if kl == "rho k3" else ()
    apart, saved = ops.k3.forward(logp, fixed, *weighed)
    beta = POLICY["beta"]
    return loss + beta * apart, slope + beta * ops.k3.backward(ones, saved)[0]


SHARES = {  # what each token's loss is multiplied by
    "grpo": MASK / MASK.sum(1, keepdims=True) / len(MASK),
    "bnpo": MASK / MASK.sum(),
    "dr_grpo": MASK / (len(MASK) * POLICY["max_completion_length"]),
    "dapo": MASK / MASK.sum(),
}


@pytest.mark.parametrize("kl", KLS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_policy_loss_of_given_rollouts_is_theirs_in_every_reduction(theirs, reduction, kl):
    model = model_of(1)
    tokens, targets, weights = shifted(ROLLOUTS)
    logits = model(tokens)
    logp = ops.token_logprobs(logits, targets)[:, -4:].astype(float)
    loss, dlogp = (SHARES[reduction] * part for part in each(logp, kl))
    # −Σ w ln p with w = −dlogp has the gradient of any loss whose gradient with respect to ln p is dlogp.
    weights[:, -4:] = -dlogp
    grads = model.params.like()
    differentiable.loss_and_grads(model, responses(), (tokens, targets, weights, 1.0), grads)
    near(theirs[f"{reduction}, {kl}"], loss.sum(), grads)


def test_padding_before_a_prompt_moves_their_learned_positions_and_ours_has_none(theirs):
    assert abs(theirs["padded before"]["loss"] - theirs["grpo, rho k3"]["loss"]) > 1e-4
