"""What do the steps from a text to a model that people like each add, and how far do they lead away?

A text holds digits in all orders: "7203 0372 3270". A model learns to write such lines (pre-training), then
to answer "7203>" with one other order (fine-tuning), and gives pairs of answers. Somebody who likes
ascending digits ranks them, with some mistakes; a reward model learns to do the same; and PPO, GRPO and DPO
make models that are liked more. We know what is liked, so the table says what the rewards are worth: with a
small weight β of the divergence, PPO finds what the reward model wrongly takes for good. What it does not
show: what people like, who are neither so simple nor alike.

    python whole_pipeline.py    four minutes
"""

import argparse
import itertools
import time

import numpy as np

import numgpt
from numgpt import tuning
from numgpt.data import BARE, Conversation, Message, Prompt
from numgpt.data.corpus import Corpus

CHARACTERS = "\n 0123456789>"
DIGITS = 4
SURE = 0.8  # how much liking decides: who is liked by one more pair wins with the probability σ(0.8) = 0.69


def shuffled(rng, digits):
    """The same digits in any order."""
    return "".join(rng.permutation(list(digits)))


def liking(digits, answer):
    """How many pairs of digits ascend, 0 to 6; −1 where the answer is no order of the digits asked for."""
    if sorted(answer) != sorted(digits):
        return -1.0
    return float(sum(a < b for a, b in itertools.combinations(answer, 2)))


def asked(digits):
    """A prompt."""
    return Prompt(Conversation([Message("user", f"{digits}>")]), {"digits": digits})


def answered(digits, answer):
    """A prompt and its answer."""
    return Conversation([Message("user", f"{digits}>"), Message("assistant", answer)])


def trained(model, objective, training, corpus=None):
    """A model, trained, and what its run told."""
    entries = []

    class Told:
        def update(self, trainer, entry):
            entries.append(entry)

    numgpt.Trainer(model, corpus, training, objective=objective).run(Told())
    return model, entries


def schedule(steps, batch_size, lr, **other):
    """The settings of a stage."""
    given = {"min_lr": 0.0, "schedule": "linear", "warmup": 10, "weight_decay": 0.0} | other
    return numgpt.Training(steps=steps, batch_size=batch_size, lr=lr, **given)


def pretrained(rng, tokenizer, numbers, steps):
    """A model that has read lines of the digits of numbers, in all orders."""
    lines = (" ".join(shuffled(rng, digits) for _ in range(3)) for digits in rng.choice(numbers, 40_000))
    ids = np.array(tokenizer.encode("\n".join(lines)))
    corpus = Corpus(ids[20_000:], ids[:20_000], tokenizer, "digits in all orders", "", {})
    config = numgpt.Config(len(CHARACTERS), block_size=16, n_layer=2, n_head=4, n_embd=64)
    model = numgpt.GPT(config, seed=1, tokenizer=tokenizer)
    return trained(model, None, schedule(steps, 64, 2e-3), corpus)[0]


def ranked(rng, model, numbers):
    """Pairs (better, worse) of answers that a model gave to numbers, as somebody ranked them."""
    prompts = [asked(digits).conversation for digits in numbers]
    sides = [
        tuning.respond(model, prompts, BARE, max_new_tokens=DIGITS + 2, temperature=1.0, seed=seed)
        for seed in (1, 2)
    ]
    pairs = []
    for digits, one, other in zip(numbers, *sides):
        margin = SURE * (liking(digits, one) - liking(digits, other))
        if one != other:
            one_wins = rng.random() < 1 / (1 + np.exp(-margin))
            pairs.append((digits, *((one, other) if one_wins else (other, one))))
    return pairs


def reward_model(model, pairs, steps):
    """A model of who wins, and the share of 300 held-out pairs that it tells."""
    texts = [
        tuple(BARE.encode(answered(digits, side), model.tokenizer).ids for side in sides)
        for digits, *sides in pairs
    ]
    training = schedule(steps, 64, 1e-3)
    judge = model.extended(numgpt.Head(task="reward"))
    trained(judge, tuning.Rewards(judge, texts[300:], training), training)
    given = tuning.predictions(judge, [side for pair in texts[:300] for side in pair], 512).reshape(-1, 2)
    return judge, np.mean(given[:, 0] > given[:, 1])


def measured(model, fixed, reward, numbers):
    """(liking, reward, share that are orders of the digits, nats from the fixed model) of sampled answers."""
    prompts = [asked(digits) for digits in numbers]
    ids = [BARE.encode_prompt(prompt.conversation, model.tokenizer) for prompt in prompts]
    end = BARE.end_for(model.tokenizer)
    rollout = tuning.sample(model, ids, end, max_new_tokens=DIGITS + 2, seed=9)
    apart = (tuning.score(model, rollout) - tuning.score(fixed, rollout)).sum(-1).mean()
    texts = [
        model.tokenizer.decode(ids[: int(n)])
        for ids, n in zip(rollout.responses(), rollout.length - rollout.ended)
    ]
    likes = [liking(digits, text) for digits, text in zip(numbers, texts)]
    return np.mean(likes), np.mean(reward(prompts, texts)), np.mean(np.array(likes) >= 0), apart, texts[0]


def reinforced(name, base, fixed, reward, numbers, iterations, beta):
    """A model that PPO or GRPO has trained on the reward model's numbers."""
    prompts = [asked(digits) for digits in numbers]
    options = {"template": BARE, "max_new_tokens": DIGITS + 2, "epochs": 4, "beta": beta}
    if name == "PPO":
        model = base.extended(numgpt.Head(task="value", pool="none"))
        training = schedule(4 * iterations, 256, 3e-4, eps=1e-5)
        objective = tuning.PPO(model, prompts, reward, training, fixed, **options)
    else:
        model, training = base.extended(), schedule(4 * iterations, 32, 3e-4, eps=1e-5)
        objective = tuning.PolicyGradient(
            model, prompts, reward, training, fixed, advantage="grpo", kl="reward", **options
        )
    return trained(model, objective, training)[0]


def preferring(base, fixed, pairs, steps):
    """A model that DPO has trained on the ranked pairs themselves."""
    tokenizer, model, training = base.tokenizer, base.extended(), schedule(steps, 64, 2e-4)
    rows = [
        tuple(BARE.encode(answered(digits, side), tokenizer) for side in sides) for digits, *sides in pairs
    ]
    objective = tuning.Preferences(rows, training, base.config.block_size, fixed, beta=0.1, chosen_nll=0.2)
    return trained(model, objective, training)[0]


class Table:
    """A row for each model: what its answers to held-out numbers are like."""

    def __init__(self, fixed, reward, numbers):
        self.given = fixed, reward, numbers
        self.begun = time.perf_counter()
        self.found = {}
        print(f"{'':14} liking (of 6)  reward  orders  nats away  {numbers[0]}> …  seconds")

    def add(self, name, model):
        """Measure a model, and print its row."""
        *numbers, text = measured(model, *self.given)
        self.found[name] = numbers
        likes, reward, orders, apart = numbers
        seconds = time.perf_counter() - self.begun
        print(f"{name:14} {likes:13.2f} {reward:7.2f} {orders:7.2f} {apart:10.2f}  {text:7} {seconds:8.0f}")
        self.begun = time.perf_counter()


def main(argv=None):
    """All stages, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    steps = {"text": 1200, "answers": 1000, "ranks": 600, "PPO": 120, "GRPO": 120, "DPO": 300}
    steps = {name: max(1, int(n * args.scale)) for name, n in steps.items()}
    numbers = [f"{n:04}" for n in rng.permutation(10_000) if len(set(f"{n:04}")) == DIGITS]
    held_out, numbers = numbers[:500], numbers[500:]

    read = pretrained(rng, numgpt.tokenizers.Characters(CHARACTERS), numbers, steps["text"])
    training = schedule(steps["answers"], 128, 3e-3)
    answers = [answered(digits, shuffled(rng, digits)) for digits in numbers for _ in range(4)]
    rows = [BARE.encode(conversation, read.tokenizer) for conversation in answers]
    size = read.config.block_size
    base, _ = trained(read.extended(), tuning.Responses(rows, training, size, pack=False), training)
    pairs = ranked(rng, base, numbers)
    judge, told = reward_model(base, pairs, steps["ranks"])
    print(f"{len(pairs):,} pairs ranked; of 300 others the reward model tells {told:.3f}")

    fixed = tuning.frozen(base)
    reward = tuning.ModelReward(judge, BARE)
    prompts = [asked(digits) for digits in numbers[:500]]
    texts = tuning.respond(
        base, [p.conversation for p in prompts], BARE, max_new_tokens=DIGITS + 2, temperature=1.0
    )
    reward = reward.normalised(prompts, texts)
    table = Table(fixed, reward, held_out)
    table.add("text alone", read)
    table.add("fine-tuned", base)
    for name, beta in (("PPO", 0.3), ("GRPO", 0.3), ("PPO", 0.03)):
        model = reinforced(name, base, fixed, reward, numbers, steps[name], beta)
        table.add(f"{name}, β {beta}", model)
    table.add("DPO", preferring(base, fixed, pairs, steps["DPO"]))
    if args.scale >= 1:
        begun, hacked = table.found["fine-tuned"], table.found["PPO, β 0.03"]
        for name in ("PPO, β 0.3", "GRPO, β 0.3", "DPO"):
            assert table.found[name][0] > begun[0] + 1, name
            assert table.found[name][2] > begun[2] - 0.05, name
        assert hacked[1] > table.found["PPO, β 0.3"][1] and hacked[0] < begun[0]
    print("Too far away the reward model is wrong: its reward rises while nobody likes the answers any more.")


if __name__ == "__main__":
    main()
