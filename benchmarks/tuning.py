"""A step of supervised fine-tuning beside one of pre-training with as many positions, and PyTorch's.

    python benchmarks/tuning.py --shape a b

Packed rows hold several conversations, each alone; padded rows hold one each. PyTorch runs padded rows, whose
targets outside of the responses it ignores.
"""

import argparse
import os
import statistics
import sys
import time

import contest
from shapes import SHAPES

KINDS = {
    "numgpt, pre-training": "pretraining",
    "numgpt, packed": "packed",
    "numgpt, padded": "padded",
    "numgpt, padded, LoRA of rank 8": "lora",
    "PyTorch, padded": "torch",
}
TABLE = """\
| shape | | ms a step | to pre-training | to PyTorch |
| --- | --- | ---: | ---: | ---: |"""
STEPS = 3  # a turn


def examples(vocab_size, T, n):
    """n conversations in tokens, of T/8 to T/2 + 1 of them, and one of T + 1: the longest."""
    import numpy as np

    from numgpt.data import Example

    rng = np.random.default_rng(0)
    lengths = [T + 1, *rng.integers(T // 8, T // 2 + 2, n - 1)]
    rows = (rng.integers(0, vocab_size, length) for length in lengths)
    return [Example(ids, np.arange(len(ids)) >= len(ids) // 3) for ids in rows]


def numgpt_step(args):
    """A function that trains numgpt for a step."""
    import numpy as np

    import numgpt
    from numgpt import tuning

    numgpt.use("numba")
    numgpt.set_threads(args.threads)
    shape = SHAPES[args.shape[0]]
    B, T = shape["batch"]
    config = numgpt.Config(**shape["config"])
    model = numgpt.GPT(config, seed=0)
    training = numgpt.Training(batch_size=B, steps=10**6, warmup=0)
    if args.worker == "lora":
        model = model.extended(numgpt.LoRA(8))
    if args.worker == "pretraining":
        text = np.random.default_rng(0).integers(0, config.vocab_size, 100_000)
        objective = Windows(text, B, T)
    else:
        given = examples(config.vocab_size, T, 8 * B if args.worker == "packed" else B)
        objective = tuning.Responses(given, training, T, pack=args.worker == "packed")
    optimizer = tuning.optimizer_of(model, training, tuning.trained_names(model))
    return numgpt.Trainer(model, None, training, objective=objective, optimizer=optimizer).step


class Windows:
    """Pre-training's batches, from an array of ids."""

    def __init__(self, text, B, T):
        self.text, self.B, self.T = text, B, T

    def batch(self, step, n):
        """Windows of the text."""
        import numpy as np

        from numgpt.layers import transformer

        begins = np.random.default_rng(step).integers(0, len(self.text) - self.T, self.B)
        rows = np.stack([self.text[b : b + self.T + 1] for b in begins])
        return (rows[:, :-1], rows[:, 1:]), transformer.loss, self.B * self.T


def torch_step(args):
    """A function that trains PyTorch's GPT for a step."""
    import torch
    import torch_gpt

    import numgpt
    from numgpt.data import padded

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape = SHAPES[args.shape[0]]
    B, T = shape["batch"]
    config = numgpt.Config(**shape["config"])
    model = torch_gpt.GPT(config)
    made = padded(examples(config.vocab_size, T, B), T).batch(range(B))
    tokens = torch.from_numpy(made.inputs)
    targets = torch.from_numpy(made.targets).masked_fill(torch.from_numpy(made.weights) == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step():
        optimizer.zero_grad()
        model(tokens, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def worker(args):
    """A contestant: a step, then some whenever asked."""
    step = (torch_step if args.worker == "torch" else numgpt_step)(args)

    def timed():
        begin = time.perf_counter()
        for _ in range(STEPS):
            step()
        return {"seconds": (time.perf_counter() - begin) / STEPS}

    def first():
        step()
        return {}

    contest.serve({"first": first, "time": timed})


def main(argv):
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpts = [name for name, shape in SHAPES.items() if "norm" not in shape["config"]]
    parser.add_argument("--shape", nargs="+", choices=gpts, default=["a"], help="as in train_step.py")
    parser.add_argument("--rounds", type=int, default=11, help="how often each is asked (default: 11)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of each (default: all processors)"
    )
    parser.add_argument("--only", nargs="+", choices=list(KINDS.values()), help="default: all")
    parser.add_argument(
        "--results", metavar="NAME", help="write what is printed to benchmarks/results/NAME.md"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args)
        return
    page = contest.Page(args.results, f"python benchmarks/tuning.py {' '.join(argv)}")
    page.say(contest.show_machine() + f", {args.threads} threads")
    page.say(TABLE)
    for shape in args.shape:

        def start(name, shape=shape):
            flags = ["--worker", KINDS[name], "--shape", shape, "--threads", str(args.threads)]
            return contest.Contestant(name, [sys.executable, __file__, *flags])

        names = [name for name, kind in KINDS.items() if kind in (args.only or KINDS.values())]
        entered, _ = contest.enter(map(start, names), "first", page.say)
        contest.time_in_turn(list(entered.values()), args.rounds)
        by_kind = {KINDS[name]: contestant for name, contestant in entered.items()}
        for name, c in entered.items():
            ratios = (
                contest.ratio(c, by_kind[kind]) if kind in by_kind else None
                for kind in ("pretraining", "torch")
            )
            shown = " | ".join(contest.number(r, ".2f") for r in ratios)
            page.say(f"| {shape} | {name} | {1e3 * statistics.median(c.seconds):.1f} | {shown} |")
        for contestant in entered.values():
            contestant.close()
    page.write()


if __name__ == "__main__":
    contest.run(main)
