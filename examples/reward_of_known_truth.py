"""How good can a reward model be, when people's choices are noisy?

Texts of 12 symbols have a true reward, half the sum of their symbols' worths, and who compares two of them
prefers the better one with the probability σ of the difference (Bradley and Terry). No model can predict such
choices better than the truth does: its loss is the bound, in nats a choice. The model sees 20,000 choices and
no reward.

    python reward_of_known_truth.py    a minute
"""

import argparse

import numpy as np

import numgpt
from numgpt import tuning

SYMBOLS, LENGTH, PAIRS = 10, 12, 20_000


def choices(rng, worth, n):
    """n pairs of texts (n, 2, 12), the preferred one first, and their true rewards (n, 2)."""
    texts = rng.integers(0, SYMBOLS, (n, 2, LENGTH))
    rewards = 0.5 * worth[texts].sum(-1)
    second = rng.random(n) >= sigmoid(rewards[:, 0] - rewards[:, 1])
    texts[second], rewards[second] = texts[second, ::-1], rewards[second, ::-1]
    return texts, rewards


def sigmoid(x):
    """σ(x)."""
    return 1 / (1 + np.exp(-x))


def surprise(margins):
    """The mean −ln σ of margins."""
    return np.logaddexp(0, -margins).mean()


def calibration_error(margins, bins=10):
    """How far off a stated probability is, on average: |stated − what came| over bins of as many pairs.

    The sides are dealt anew, since the preferred one stands first.
    """
    rng = np.random.default_rng(0)
    is_first = rng.random(len(margins)) < 0.5
    stated = sigmoid(np.where(is_first, margins, -margins))
    order = np.argsort(stated)
    return np.mean([abs(stated[b].mean() - is_first[b].mean()) for b in np.array_split(order, bins)])


def main(argv=None):
    """Train on choices, and compare with the truth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=800, help="default: 800")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    worth = rng.standard_normal(SYMBOLS)
    texts, _ = choices(rng, worth, PAIRS)
    unseen, truth = choices(rng, worth, 5_000)

    config = numgpt.Config(SYMBOLS, block_size=LENGTH, n_layer=2, n_head=4, n_embd=64)
    model = numgpt.GPT(config, seed=1).extended(numgpt.Head(task="reward"))
    training = numgpt.Training(
        steps=args.steps, batch_size=64, lr=5e-4, min_lr=0.0, warmup=20, schedule="linear", weight_decay=0.01
    )
    objective = tuning.Rewards(model, [tuple(pair) for pair in texts], training)
    numgpt.Trainer(model, None, training, objective=objective).run()

    given = tuning.predictions(model, list(unseen.reshape(-1, LENGTH)), batch_size=512).reshape(-1, 2)
    margins, true_margins = given[:, 0] - given[:, 1], truth[:, 0] - truth[:, 1]
    found = surprise(margins), (margins > 0).mean(), calibration_error(margins)
    bound = surprise(true_margins), (true_margins > 0).mean(), calibration_error(true_margins)
    print("5,000 pairs that were not seen      surprise   choices right   calibration error")
    for name, row in (("the reward model", found), ("the truth", bound)):
        print(f"{name:34}  {row[0]:8.4f}   {row[1]:13.3f}   {row[2]:17.4f}")
    slope = np.polyfit(true_margins, margins, 1)[0]
    agreement = np.corrcoef(truth.ravel(), given.ravel())[0, 1]
    ordered = np.mean((margins > 0) == (true_margins > 0))
    print(f"of the true order {ordered:.3f}; correlation of rewards {agreement:.3f}, slope {slope:.2f}")
    assert found[0] < bound[0] + 0.01
    assert found[2] < 0.02 and 0.9 < slope < 1.1
    print(f"The model's surprise is {found[0] - bound[0]:.4f} nats above the best that can be reached.")


if __name__ == "__main__":
    main()
