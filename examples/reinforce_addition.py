"""What does reinforcement add to a model that was taught to add, and how far from it does that lead?

A model that knows nine sums of ten by its most likely answer, but samples wrong ones half of the time. It is
rewarded 1 for a right answer, else 0, by GRPO, RLOO, Dr. GRPO (which need several answers to a prompt) and
PPO (which needs one, and learns a critic). What is sampled comes nearer to what was likeliest already:
reinforcement sharpens. What it does not show: that a model learns by reward what it never samples.

    python reinforce_addition.py                              Dr. GRPO with one seed, a minute and a half
    python reinforce_addition.py --methods all --seeds 3      the whole table, eight minutes
"""

import argparse
import time

import numpy as np
from teach_addition import CHARACTERS, parts, right, taught

import numgpt
from numgpt import tuning
from numgpt.data import BARE, Conversation, Prompt

METHODS = ("grpo", "dr_grpo", "rloo", "ppo")


def asked(conversations):
    """Prompts, each with its right answer."""
    return [Prompt(Conversation(c.messages[:1]), {"sum": c.messages[1].text}) for c in conversations]


def is_right(prompts, responses):
    """The reward: 1 for the right answer."""
    return np.array([float(p.fields["sum"] == text) for p, text in zip(prompts, responses)])


def objective_of(method, model, prompts, fixed, iterations, seed):
    """The objective of a method, with its settings for this task."""
    lr = 5e-4 if method == "ppo" else 3e-4
    common = {"lr": lr, "min_lr": 0.0, "schedule": "linear", "weight_decay": 0.0, "eps": 1e-5}
    options = {"template": BARE, "max_new_tokens": 5, "epochs": 4}
    if method == "ppo":
        training = numgpt.Training(steps=8 * iterations, batch_size=128, seed=seed, warmup=10, **common)
        return tuning.PPO(model, prompts, is_right, training, fixed, batches=2, **options)
    training = numgpt.Training(steps=4 * iterations, batch_size=32, seed=seed, warmup=10, **common)
    kl = "reward" if method == "rloo" else "k3"
    return tuning.PolicyGradient(
        model, prompts, is_right, training, fixed, advantage=method, kl=kl, **options
    )


class Told:
    """What a run has told, and its means."""

    def __init__(self):
        self.entries = []

    def update(self, trainer, entry):
        """Keep an entry of the log."""
        self.entries.append(entry)

    def mean(self, name, most=0):
        """Of the last entries that have a name, or of all."""
        return np.mean([entry[name] for entry in self.entries if name in entry][-most:])


def reinforced(base, method, prompts, held_out, iterations, seed):
    """(sampled, greedy: shares of held-out sums that are right, reward, KL, share clipped, no signal).

    Reward, KL and groups without signal are of the last 20 iterations, what is clipped of all.
    """
    fixed = tuning.frozen(base)
    head = (numgpt.Head(task="value", pool="none"),) if method == "ppo" else ()
    model, told = base.extended(*head), Told()
    objective = objective_of(method, model, prompts, fixed, iterations, seed)
    numgpt.Trainer(model, None, objective.training, objective=objective).run(told)
    silent = told.mean("no_signal", 20) if method != "ppo" else np.nan
    sampled = right(model, held_out, temperature=1.0, seed=seed)
    means = (told.mean("reward", 20), told.mean("kl", 20), told.mean("clip_fraction"))
    return sampled, right(model, held_out), *means, silent


def main(argv=None):
    """Teach, reinforce, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--methods", nargs="+", default=["dr_grpo"], choices=(*METHODS, "all"), metavar="METHOD"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many (default: 1)")
    parser.add_argument("--iterations", type=int, help="of each run (default: 300, of PPO 200)")
    args = parser.parse_args(argv)

    train, held_out = parts(turned=True)
    config = numgpt.Config(len(CHARACTERS), block_size=12, n_layer=2, n_head=4, n_embd=64)
    base = numgpt.GPT(config, seed=1, tokenizer=numgpt.tokenizers.Characters(CHARACTERS))
    taught(base, train, 550, 1e-3)
    begun = right(base, held_out, temperature=1.0, seed=0)
    print(f"{'':10} right: sampled         greedy  reward  nats from it  clipped  no signal  seconds")
    print(f"{'taught':10} {begun:14.3f} {'':7} {right(base, held_out):7.3f}")
    for method in METHODS if "all" in args.methods else args.methods:
        begin = time.perf_counter()
        iterations = args.iterations or (200 if method == "ppo" else 300)
        runs = [
            reinforced(base, method, asked(train), held_out, iterations, seed) for seed in range(args.seeds)
        ]
        sampled, greedy, reward, kl, clipped, silent = np.mean(runs, axis=0)
        spread = np.std(runs, axis=0, ddof=1)[0] / np.sqrt(len(runs)) if len(runs) > 1 else np.nan
        seconds = (time.perf_counter() - begin) / len(runs)
        bar = f" ± {spread:.3f}" if len(runs) > 1 else " " * 8
        print(
            f"{method:10} {sampled:14.3f}{bar} {greedy:7.3f} {reward:7.3f} {kl:13.3f} {clipped:8.3f}"
            f" {silent:10.3f} {seconds:8.0f}"
        )
        if iterations >= 200:
            assert sampled > begun + 0.2, method
            assert kl < (0.8 if method == "ppo" else 0.5), method
            assert method != "ppo" or reward > 0.88
    print("What it samples comes nearer to its most likely answer, which was right before.")


if __name__ == "__main__":
    main()
