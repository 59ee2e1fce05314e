"""Can a model learn one task after another without losing those of before?

A small GPT learns facts by heart, "name relation → value", one set of names after the other. What holds the
old ones:

    nothing   the next facts alone
    L2        a spring at each parameter to where it was, all of one stiffness
    EWC       the same springs, each as stiff as the diagonal of the Fisher matrix says, which is exact here
    replay    a fifth of each batch are facts of before

The weight of the springs is tried over decades with a seed of its own, and three other seeds are run with the
best. Then a pair of tasks is learned that share their questions but for one sign: "3+4" and "3-4".

    python learning_without_forgetting.py [--plot FILE]    three minutes

What it does not show: that springs hold what was generalised. Facts have names of their own, whose embeddings
no other task needs, and that is what EWC finds. Where tasks share all their inputs it finds little, below.
"""

import argparse
import dataclasses
import functools

import numpy as np

import numgpt
from numgpt import GPT, Config, Trainer, Training, calculus, tuning
from numgpt.layers.transformer import loss

NAMES, RELATIONS, VALUES, SETS = 12, 4, 10, 5
TRAINING = Training(
    batch_size=24, lr=1e-3, min_lr=0.0, warmup=10, weight_decay=0.0, clip=0.0, eval_interval=10**6
)
WEIGHTS = {"L2": (0.3, 1.0, 3.0, 10.0), "EWC": (1e2, 1e3, 1e4, 1e5)}
CHOSEN_BY = 0  # the seed that weights are chosen with
SEEDS = (1, 2, 3)
FOR_FISHER = 12  # examples of a task; each costs a backward for each token that could come


@functools.cache
def facts(number):
    """(inputs, targets) of a set of facts: integers (48, 2), of which each last target counts."""
    answers = np.random.default_rng(number).integers(0, VALUES, (NAMES, RELATIONS))
    first = SETS * NAMES
    rows = np.array(
        [
            (number * NAMES + name, first + relation, first + RELATIONS + answers[name, relation])
            for name in range(NAMES)
            for relation in range(RELATIONS)
        ]
    )
    targets = rows[:, 1:].copy()
    targets[:, 0] = -1
    return rows[:, :-1], targets


@functools.cache
def sums(sign):
    """(inputs, targets) of "3+4=" → 7 or "3-4=" → 1, how far they are apart: integers (100, 4)."""
    rows = np.array(
        [(a, 10 + (sign < 0), b, 12, 13 + abs(a + sign * b)) for a in range(10) for b in range(10)]
    )
    targets = rows[:, 1:].copy()
    targets[:, :-1] = -1
    return rows[:, :-1], targets


class Task:
    """Random questions of a task, a fifth of them of tasks before where there are any."""

    def __init__(self, now, before, seed):
        self.now, self.before, self.seed = now, before, seed
        self.digest = f"{seed}"

    def batch(self, step, n):
        rng = numgpt.random.generator(self.seed, "task", step, n)
        rows = rng.permutation(len(self.now[0]))[: TRAINING.batch_size]
        inputs, targets = (array[rows] for array in self.now)
        if self.before:
            old = [np.concatenate(arrays) for arrays in zip(*self.before)]
            again = rng.integers(0, len(old[0]), TRAINING.batch_size // 5)
            inputs[: len(again)], targets[: len(again)] = (array[again] for array in old)
        return (inputs, targets), loss, len(inputs)


def right(model, task):
    """The share of a task's questions whose answer is the likeliest."""
    inputs, targets = task
    return float((model(inputs).argmax(-1) == targets)[:, -1].mean())


def anchor(method, model, task, seed):
    """The springs after a task, or None."""
    if method == "L2":
        return tuning.Anchor(model)
    if method == "EWC":
        some = np.random.default_rng(seed).permutation(len(task[0]))[:FOR_FISHER]
        return tuning.Anchor(model, calculus.fisher_diagonal(model, *(array[some] for array in task)))
    return None


def learned(config, method, tasks, seed, weight, steps=300):
    """The shares of right answers to each task, after each task: (tasks, tasks)."""
    model, anchors, table = GPT(config, seed=seed), [], []
    for n, task in enumerate(tasks):
        objective = Task(task, tasks[:n] if method == "replay" else (), seed)
        if anchors:
            objective = tuning.Anchored(objective, anchors, weight)
        training = dataclasses.replace(TRAINING, steps=steps, seed=seed + 100 * n)
        Trainer(model, None, training, objective=objective).run()
        table.append([right(model, other) for other in tasks])
        spring = anchor(method, model, task, seed) if n + 1 < len(tasks) else None
        if spring is not None:  # the newest L2 alone: it is where all tasks of before were
            anchors = [*anchors, spring] if method == "EWC" else [spring]
    return np.array(table)


def chosen(config, tasks, **more):
    """The best weight of each kind of springs."""
    best = {"nothing": 0.0, "replay": 0.0}
    for method, weights in WEIGHTS.items():
        means = [learned(config, method, tasks, CHOSEN_BY, weight, **more)[-1].mean() for weight in weights]
        best[method] = weights[int(np.argmax(means))]
        print(f"  {method}: " + ", ".join(f"λ {w:g} {m:.2f}" for w, m in zip(weights, means)))
    return best


def compared(title, config, tasks, weights, **more):
    """Method → shares at the end (seeds, tasks), and tables (seeds, tasks, tasks)."""
    print(f"\n{title}: share of right answers at the end, mean ± standard error of {len(SEEDS)} seeds")
    results = {}
    for method in ("nothing", "L2", "EWC", "replay"):
        tables = np.array([learned(config, method, tasks, seed, weights[method], **more) for seed in SEEDS])
        results[method] = tables
        ends = tables[:, -1]
        each = " ".join(f"{share:.2f}" for share in ends.mean(0))
        print(f"{method:8} {ends.mean():.2f} ± {error(ends.mean(-1)):.2f}   in the order learned: {each}")
    return results


def error(values):
    """The standard error of a mean."""
    return np.std(values, ddof=1) / np.sqrt(len(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="draw how the first set of five fares")
    args = parser.parse_args()
    config = Config(SETS * NAMES + RELATIONS + VALUES, block_size=2, n_layer=2, n_head=4, n_embd=64)
    sets = [facts(number) for number in range(SETS)]
    print("two sets of facts, springs of several weights λ:")
    weights = chosen(config, sets[:2])
    two = compared("two sets of facts", config, sets[:2], weights)
    five = compared("five sets of facts", config, sets, weights)
    if args.plot:
        draw(five, args.plot)
    shared = Config(32, block_size=4, n_layer=2, n_head=4, n_embd=64)
    signs = [sums(1), sums(-1)]
    print("\nplus, then minus, springs of several weights λ:")
    weights = chosen(shared, signs, steps=600)
    hard = compared("plus, then minus", shared, signs, weights, steps=600)

    kept = {method: tables[:, -1].mean(-1) for method, tables in two.items()}
    lead = kept["EWC"] - kept["L2"]
    assert two["nothing"][:, -1, 0].mean() < 0.5
    assert kept["EWC"].mean() > 0.9
    assert lead.mean() > 2 * error(lead)
    assert five["EWC"][:, -1].mean() > five["L2"][:, -1].mean() > five["nothing"][:, -1].mean()
    assert hard["EWC"][:, -1].mean() < 0.75 < hard["replay"][:, -1].mean()
    print(
        f"\nOf two sets of facts EWC keeps {kept['EWC'].mean():.2f}, {lead.mean():.2f} ± {error(lead):.2f}"
        f" more than L2; of plus and minus {hard['EWC'][:, -1].mean():.2f}, where replay keeps"
        f" {hard['replay'][:, -1].mean():.2f}."
    )


def draw(results, path):
    """The share of the first set's facts that are known after each set, by method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for method, tables in results.items():
        first = tables[:, :, 0]
        errors = first.std(0, ddof=1) / np.sqrt(len(first))
        places = range(1, first.shape[1] + 1)
        axes.errorbar(places, first.mean(0), yerr=errors, marker="o", capsize=3, label=method)
    axes.axhline(1 / VALUES, color="0.7", linewidth=1, linestyle=":")
    axes.set_xticks(range(1, SETS + 1))
    axes.set_xlabel("sets of facts learned so far")
    axes.set_ylabel("share of the first set that is known")
    axes.set_ylim(0, 1.05)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
