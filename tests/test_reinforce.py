"""Objectives of reinforcement: exact on average, the same in any batches, one policy from draw to update."""

import itertools
import json

import numpy as np
import pytest

from numgpt import GPT, Config, Head, InputError, LoRA, Trainer, Training, engine, tuning
from numgpt.data import BARE, Conversation, Message, Prompt
from numgpt.layers import policy_losses
from numgpt.model import differentiable
from numgpt.tokenizers import Characters
from numgpt.training.objective import step_loss_and_grads
from numgpt.tuning import reinforce
from numgpt.tuning.rollouts import Rollout

LETTERS = "\nabc"
CONFIG = Config(vocab_size=4, block_size=8, n_layer=2, n_head=2, n_embd=8)
VALUE = Head(task="value", pool="none")


PROMPTS = [
    Prompt(Conversation([Message("user", text)]), place="prompts.txt, line 1")
    for text in ("a", "bc", "abc", "cb")
]


@pytest.fixture(params=["reference", "numba"], autouse=True)
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


def model_of(dtype="float64", *additions, **changes):
    config = Config(**(CONFIG.__dict__ | changes))
    model = GPT(config, seed=1, dtype=dtype, tokenizer=Characters(LETTERS)).extended(*additions)
    model.params.flat[...] += 0.3 * np.random.default_rng(0).standard_normal(model.n_params).astype(dtype)
    return model


def of_letters(prompts, responses):
    """A reward that each letter a earns, and each letter b half."""
    return np.array([r.count("a") + 0.5 * r.count("b") for r in responses])


def training(**changes):
    return Training(**{"steps": 4, "batch_size": 2, "lr": 1e-2, "warmup": 0, "weight_decay": 0.0} | changes)


def objective_of(kind, model, t=None, fixed=None, **changes):
    fixed = tuning.frozen(model) if fixed is None else fixed
    options = {"template": BARE, "max_new_tokens": 4} | changes
    if kind == "ppo":
        return tuning.PPO(model, PROMPTS, of_letters, t or training(), fixed, **{"epochs": 2} | options)
    options = {"advantage": kind, "group": 3} | options
    return tuning.PolicyGradient(model, PROMPTS, of_letters, t or training(), fixed, **options)


def additions_of(kind):
    return (VALUE,) if kind == "ppo" else ()


KINDS = ("grpo", "dr_grpo", "rloo", "reinforce++", "ppo")


# Exact on average: all responses of a small policy, each as often as it is sampled.

LENGTH = 2
PROMPT = np.array([1, 3])


def every_response():
    """All responses of up to two tokens as a rollout; those of two may be cut."""
    found = [(0,), *((a, b) for a, b in itertools.product((1, 2, 3), range(4)))]
    tokens = np.zeros((len(found), len(PROMPT) + LENGTH), np.int64)
    for row, response in zip(tokens, found):
        row[: len(PROMPT) + len(response)] = [*PROMPT, *response]
    length = np.array([len(response) for response in found])
    ended = np.array([response[-1] == 0 for response in found])
    first = np.full(len(found), len(PROMPT))
    reward = np.random.default_rng(3).standard_normal(len(found))
    return Rollout(tokens, first, length, ended, reward)


EVERY = every_response()


def worth(model, fixed, temperature, beta):
    """E[r] − β KL of the whole responses, by enumeration; complex for a complex model."""
    scored = reinforce.rows_of(EVERY, slice(None))
    layer = policy_losses.policy_logprobs(temperature)
    inputs = scored.inputs, scored.targets
    logp = differentiable.value(model, layer, inputs).sum(-1)
    apart = logp - differentiable.value(fixed, layer, inputs).sum(-1)
    return (np.exp(logp) * (EVERY.reward - beta * apart)).sum()


def slope_of_worth(model, fixed, temperature, beta, v):
    shifted = model.astype("complex128")
    shifted.params.flat[...] += 1e-30j * v
    return np.imag(worth(shifted, fixed, temperature, beta)) / 1e-30


class Enumerated(tuning.PPO):
    """PPO of all responses: sampling is enumeration, and each response weighs as often as it is sampled."""

    def _begun(self, number):
        part = self._scored(EVERY, slice(None))
        scored, self.measures = part.scored, {}
        rewards = self._of_tokens(EVERY, part)
        found, _ = tuning.gae(rewards, 0 * rewards, scored.weights, EVERY.ended, gamma=1.0, lam=1.0)
        often = scored.weights * np.exp((part.old * scored.weights).sum(-1, keepdims=True))
        layer = policy_losses.policy(self.temperature)
        inputs = scored.inputs, scored.targets, often, part.old, found, part.fixed, 1
        batches = [reinforce.Batch(inputs, layer, 1)]
        return reinforce.Iteration(number, np.zeros(1, int), [""] * len(often), EVERY, [part], batches)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_rewards_to_go_are_on_average_the_gradient_of_what_is_wanted(temperature, beta):
    """E[r] − β KL(policy‖fixed) of whole responses, ends included, at the temperature of sampling."""
    found, exact, size = enumerated(Enumerated, temperature, beta)
    assert abs(found - exact) <= 1e-11 * size


def enumerated(cls, temperature, beta):
    model, fixed = model_of("float64", VALUE), model_of("float64", VALUE)
    model.params.flat[...] += 0.2 * np.random.default_rng(1).standard_normal(model.n_params)
    t = training(batch_size=1)
    options = {"template": BARE, "max_new_tokens": LENGTH, "temperature": temperature, "epochs": 1}
    objective = cls(model, PROMPTS, of_letters, t, tuning.frozen(fixed), beta=beta, **options)
    grads = model.params.like()
    step_loss_and_grads(model, objective, 0, 1, grads)
    v = np.random.default_rng(2).standard_normal(model.n_params)
    exact = slope_of_worth(model, fixed, temperature, beta, v)
    return -grads.flat @ v, exact, np.linalg.norm(grads.flat) * np.linalg.norm(v)


def _late(self, rollout, part):
    rewards = -self.beta * part.log_ratio * part.scored.weights
    last = rollout.first[part.rows] + rollout.length[part.rows] - 2
    rewards[np.arange(len(last)), np.minimum(last + 1, rewards.shape[1] - 1)] += rollout.reward[part.rows]
    return rewards


def _sign(self, rollout, part):
    other = part._replace(old=part.fixed, fixed=part.old)
    return tuning.PPO._of_tokens(self, rollout, other)


def _without_end(self, rollout, part):
    weights = part.scored.weights.copy()
    weights[part.scored.targets == 0] = 0
    return tuning.PPO._of_tokens(self, rollout, part) * weights


FAULTS = {
    "the reward a token late": {"_of_tokens": _late},
    "the divergence's sign": {"_of_tokens": _sign},
    "the end masked": {"_of_tokens": _without_end},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_average_tells_what_others_got_wrong(fault):
    wrong = type("Wrong", (Enumerated,), FAULTS[fault])
    found, exact, size = enumerated(wrong, 0.6, 0.3)
    assert abs(found - exact) > 1e-4 * size


def test_the_average_tells_a_loss_without_the_temperature(monkeypatch):
    right = policy_losses.policy
    monkeypatch.setattr(policy_losses, "policy", lambda temperature: right(1.0))
    found, exact, size = enumerated(Enumerated, 0.6, 0.3)
    assert abs(found - exact) > 1e-4 * size


# One policy samples, scores and is updated.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lora", [(), (LoRA(rank=2),)], ids=["all", "LoRA"])
@pytest.mark.parametrize("group", [3, 4], ids=["alone", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_is_1_until_the_first_step_of_an_iteration(kind, group, lora, dtype):
    model = model_of(dtype, *lora, *additions_of(kind))
    t = training(batch_size=2, accumulate=2, steps=4)
    objective = objective_of(kind, model, t, epochs=2, beta=0.1, group=group)
    names = tuning.trained_names(model)
    Trainer(model, None, t, objective=objective, optimizer=tuning.optimizer_of(model, t, names)).run()
    part = objective.iteration.parts[0]
    assert (part.scored.shared is not None) == (group == 4 and kind != "ppo")
    assert not np.array_equal(objective._logp(model, part.scored), part.old)


def test_log_probabilities_of_the_cache_are_refused(monkeypatch):
    """The cache computes in other shapes, hence with other last bits: the ratio would not be 1."""
    model = model_of("float32")
    objective = objective_of("grpo", model, epochs=2)
    exact = objective._logp
    monkeypatch.setattr(objective, "_logp", lambda m, scored: np.nextafter(exact(m, scored), -np.inf))
    with pytest.raises(ArithmeticError, match="differs from scoring"):
        Trainer(model, None, training(), objective=objective).run()


@pytest.mark.parametrize("changes", [{}, {"kl": "k2"}, {"kl": "rho_k3", "reduction": "token"}], ids=str)
@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_one_step_learns_from_its_own_forward_what_scoring_would_tell_it(kind, changes, monkeypatch):
    """To the bit: loss, gradients, and what the log has of the iteration."""
    found, scored = [], []
    for waits in (True, False):
        model = model_of("float32")
        fixed = tuning.frozen(model_of("float32", n_layer=1))
        objective = objective_of(kind, model, training(accumulate=2), fixed, beta=0.2, **changes)
        assert objective._waits
        logp = objective._logp
        with monkeypatch.context() as patch:
            patch.setattr(type(objective), "_waits", waits)
            patch.setattr(objective, "_logp", lambda m, s, f=logp: (scored.append(m), f(m, s))[1])
            grads = model.params.like()
            loss, _ = step_loss_and_grads(model, objective, 0, 2, grads)
        assert (model in scored) == (not waits)
        old = [part.old for part in objective.iteration.parts]
        found.append((loss, grads.flat, *old, objective.measures | objective.told()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize("changes", [{"epochs": 2}, {"batches": 2}, {"kl": "reward"}], ids=str)
def test_what_is_read_before_or_after_a_step_is_scored_before_it(changes):
    objective = objective_of("grpo", model_of(), beta=0.2, **changes)
    objective.batch(0, 0)
    assert all(part.old is not None for part in objective.iteration.parts)


def test_dropout_is_refused():
    with pytest.raises(InputError, match=r"dropout 0\.1, expected 0"):
        objective_of("grpo", model_of(dropout=0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fixed_model_stays_and_the_divergence_begins_at_0(kind):
    model = model_of("float32", *additions_of(kind))
    objective = objective_of(kind, model, training(lr=0.1, batch_size=4), group=8)
    trainer = Trainer(model, None, objective.training, objective=objective)
    told = [trainer.step() for _ in range(4)]
    measured = [entry["kl"] for entry in told if "kl" in entry]
    assert measured[0] == 0.0
    assert measured[1] != 0.0


# The same, however it is cut into batches; and nothing of what does not count.


@pytest.mark.parametrize("changes", [{}, {"reduction": "token"}, {"reduction": "sequence"}, {"kl": "reward"}])
@pytest.mark.parametrize("kind", KINDS)
def test_small_batches_that_add_up_are_the_whole_batch(kind, changes):
    if kind == "ppo" and changes:
        pytest.skip("it knows one way")
    model, found = model_of("float64", *additions_of(kind)), []
    fixed = tuning.frozen(model_of("float64", *additions_of(kind), n_layer=1))
    for batch_size, accumulate in ((4, 1), (2, 2), (1, 4)):
        t = training(batch_size=batch_size, accumulate=accumulate)
        objective = objective_of(kind, model, t, fixed, beta=0.2, **changes)
        grads = model.params.like()
        loss, _ = step_loss_and_grads(model, objective, 0, accumulate, grads)
        found.append(np.append(grads.flat, loss))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-12 * abs(found[0]).max())


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_in_no_gradient_and_no_statistic(kind, monkeypatch):
    """Whatever stands behind the responses, even where the model reads it."""
    model, found = model_of("float64", *additions_of(kind)), []
    fixed = tuning.frozen(model_of("float64", *additions_of(kind), n_layer=1))
    sample = reinforce.sample
    for garbage in (0, 3):

        def padded(*args, garbage=garbage, **options):
            rollout = sample(*args, **options)
            tokens = np.pad(rollout.tokens, ((0, 0), (0, 1)))
            for row, end in zip(tokens, rollout.first + rollout.length):
                row[end:] = garbage
            return rollout._replace(tokens=tokens)

        monkeypatch.setattr(reinforce, "sample", padded)
        objective = objective_of(kind, model, fixed=fixed, beta=0.2)
        grads = model.params.like()
        loss, _ = step_loss_and_grads(model, objective, 0, 1, grads)
        found.append((np.append(grads.flat, loss), objective.measures))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_whitening_with_padding_would_be_seen():
    """Padded zeros turned a mean of 2.06 into 1.05: the advantages of a step have mean 0 where they count."""
    model = model_of("float64", VALUE)
    objective = objective_of("ppo", model, training(batch_size=4))
    batch = objective.batch(0, 0)
    weights, advantages = batch.inputs[2], batch.inputs[4]
    assert 0 < weights.mean() < 1
    counted = advantages[weights > 0]
    assert abs(counted.mean()) < 1e-12
    assert abs(counted.var() - 1) < 1e-6
    assert not advantages[weights == 0].any()


def test_a_group_of_equal_rewards_moves_nothing():
    model = model_of()
    for kind in ("grpo", "dr_grpo", "rloo"):
        objective = objective_of(kind, model, beta=0.0)
        objective.reward = lambda prompts, responses: np.full(len(responses), 0.3)
        grads = model.params.like()
        step_loss_and_grads(model, objective, 0, 1, grads)
        assert not grads.flat.any(), kind
        assert objective.measures["no_signal"] == 1.0


# It learns what it is rewarded for.


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_rewarded_becomes_likelier(kind):
    model = model_of("float64", *additions_of(kind))
    t = training(steps=40, batch_size=4, lr=2e-2)
    objective = objective_of(kind, model, t, group=8, epochs=2, beta=0.01)
    told = []
    trainer = Trainer(model, None, t, objective=objective)
    told = [entry for entry in (trainer.step() for _ in range(t.steps)) if "reward" in entry]
    first, last = (np.mean([entry["reward"] for entry in part]) for part in (told[:4], told[-4:]))
    assert last > first + 0.5
    assert told[-1]["kl"] > 0
    assert all(0 <= entry["clip_fraction"] <= 1 for entry in told)
    if kind == "ppo":
        assert told[-1]["explained_variance"] <= 1


# Runs.


def run_of(out, kind, steps, **changes):
    path = out / "last"
    model = GPT.load(path) if path.exists() else model_of("float32", *additions_of(kind))
    t = training(steps=steps, schedule="constant", save_interval=1)
    options = {"epochs": 2, "beta": 0.1} | changes
    fixed = tuning.frozen(model_of("float32", *additions_of(kind)))
    objective = objective_of(kind, model, t, fixed, **options)
    trainer = Trainer(model, None, t, out, objective)
    if path.exists():
        trainer.resume()
    return trainer


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_resumed_run_ends_with_the_bits_of_one_that_ran_through(kind, tmp_path):
    changes = {"target_kl": 0.5, "horizon": 8} if kind == "ppo" else {}
    through = run_of(tmp_path / "a", kind, 8, **changes)
    through.run()
    run_of(tmp_path / "b", kind, 4, **changes).run()
    resumed = run_of(tmp_path / "b", kind, 8, **changes)
    resumed.run()
    np.testing.assert_array_equal(resumed.model.params.flat, through.model.params.flat)
    assert resumed.objective.beta == through.objective.beta
    assert (resumed.objective.beta != 0.1) == (kind == "ppo")


def test_a_run_stops_and_is_saved_between_iterations(tmp_path):
    trainer = run_of(tmp_path, "grpo", 8, epochs=4)

    class Stops:
        def update(self, trainer, entry):
            trainer.stopped = entry["step"] >= 1

    trainer.run(Stops())
    assert trainer.updates == 4
    assert json.loads((tmp_path / "last" / "state.json").read_text())["updates"] == 4
    trainer.step()
    with pytest.raises(InputError, match="update 5 lies within an iteration of 4"):
        trainer.save("last")


def test_what_was_killed_within_an_iteration_goes_on_from_its_beginning(tmp_path):
    class Killed(Exception):
        pass

    class Kills:
        def update(self, trainer, entry):
            if entry["step"] == 3:
                raise Killed

    run = run_of(tmp_path / "b", "ppo", 8)
    with pytest.raises(Killed):
        run.run(Kills())
    resumed = run_of(tmp_path / "b", "ppo", 8)
    assert resumed.updates == 2
    resumed.run()
    through = run_of(tmp_path / "a", "ppo", 8)
    through.run()
    np.testing.assert_array_equal(resumed.model.params.flat, through.model.params.flat)


def test_steps_that_are_no_whole_iterations_are_refused():
    model = model_of()
    t = training(steps=5)
    with pytest.raises(InputError, match="2 steps and the run 5, expected whole iterations"):
        Trainer(model, None, t, objective=objective_of("grpo", model, t, epochs=2))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m: objective_of("grpo", m, group=1), "group is 1, expected 2 or more"),
        (lambda m: objective_of("best", m), "advantage is 'best', expected one of grpo"),
        (lambda m: objective_of("grpo", m, kl="k4"), "kl is 'k4', expected one of reward"),
        (lambda m: objective_of("grpo", m, reduction="row"), "reduction is 'row'"),
        (lambda m: objective_of("grpo", m, max_new_tokens=7), "line 1: the prompt has 3 tokens, expected"),
        (
            lambda m: objective_of("grpo", m, max_new_tokens=9),
            "max_new_tokens is 9, expected at most block_size",
        ),
        (lambda m: objective_of("ppo", m), "no head, expected one for value"),
        (lambda m: tuning.PolicyGradient(m, [], of_letters, training(), m, template=BARE), "no prompt"),
    ],
)
def test_what_cannot_be_reinforced_is_said_in_one_line(act, words):
    with pytest.raises(InputError, match=words):
        act(model_of())


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (lambda prompts, responses: np.ones(3), "one for each response"),
        (lambda prompts, responses: np.where(np.arange(6) == 4, np.nan, 1.0), "the reward is nan"),
        (lambda prompts, responses: np.full(6, np.inf), "the reward is inf"),
    ],
)
def test_a_reward_that_is_none_stops_a_run_and_loses_nothing(reward, words, tmp_path):
    trainer = run_of(tmp_path, "grpo", 8)
    given = iter([of_letters, reward])
    trainer.objective.reward = lambda *args: next(given)(*args)
    with pytest.raises(InputError, match=words):
        trainer.run()
    assert run_of(tmp_path, "grpo", 8).updates == 2


def test_a_response_without_its_end_may_cost():
    model = model_of()
    kept = objective_of("grpo", model, group=50, max_new_tokens=2)
    lowered = objective_of("grpo", model, group=50, max_new_tokens=2, missing_end=-1.0)
    for objective in (kept, lowered):
        objective.batch(0, 0)
    ended = kept.iteration.rollout.ended
    assert 0 < ended.mean() < 1
    assert (kept.iteration.rollout.reward >= 0).all()
    assert np.array_equal(lowered.iteration.rollout.reward < 0, ~ended)
