"""Attention alone, forwards and backwards, as the text grows: in a window, in full, and PyTorch's.

python benchmarks/attention_lengths.py --tokens 1024 4096 16384

The time of a window of W keys grows with T W, that of full attention with T². Memory is the most that was
held, over what was held before the first call.
"""

import argparse
import json
import os
import statistics
import sys
import time

import contest

KINDS = {
    "numgpt, window": "window",
    "numgpt, full": "full",
    "PyTorch, full": "torch",
    "PyTorch, window as a mask": "torch-window",
}
MASK = 4096  # tokens beyond which a mask of T × T is left out
APART = 1e-4  # how far sums of outputs and gradients of about 1 may lie apart
TABLE = """\
| tokens | | ms | ns a token | to PyTorch, full | more MB |
| ---: | --- | ---: | ---: | ---: | ---: |"""


def inputs(tokens, heads, size):
    """q | k | v (1, T, 3HD) and the gradient of what attention gives."""
    import numpy as np

    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((1, tokens, 3 * heads * size), dtype=np.float32)
    return qkv, rng.standard_normal((1, tokens, heads * size), dtype=np.float32)


def numgpt_run(args):
    """The op of numgpt's attention on the numba engine."""
    import numpy as np

    import numgpt
    from numgpt import engine
    from numgpt.ops.attention import attention

    numgpt.use("numba")
    numgpt.set_threads(args.threads)
    qkv, dy = inputs(args.tokens[0], args.heads, args.size)
    places = np.arange(args.tokens[0])
    seen = (
        {"first": np.maximum(places - (args.window - 1), 0), "last": places}
        if args.worker == "window"
        else {}
    )

    def run():
        with engine.session(qkv.dtype):  # as a model's step: the BLAS in the kernels starts no threads
            y, saved = engine.forward(attention, (qkv,))(qkv, n_head=args.heads, **seen)
            (dqkv,) = engine.backward(attention, dy)(dy, saved)
        return y, dqkv

    return run


def torch_run(args):
    """scaled_dot_product_attention: the fused kernel with is_causal, or a mask of the window."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    torch.set_num_threads(args.threads)
    T, H = args.tokens[0], args.heads
    qkv, dy = map(torch.from_numpy, inputs(T, H, args.size))
    seen = {"is_causal": True}
    if args.worker == "torch-window":
        behind = torch.arange(T)[:, None] - torch.arange(T)
        seen = {"attn_mask": (behind >= 0) & (behind < args.window)}

    def run():
        x = qkv.clone().requires_grad_()
        q, k, v = x.view(1, T, 3, H, args.size).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(q, k, v, **seen).transpose(1, 2).reshape(1, T, -1)
        y.backward(dy)
        return y.detach().numpy(), x.grad.numpy()

    return run


def worker(args):
    """A contestant: run once, then again when asked."""
    run = (torch_run if args.worker.startswith("torch") else numgpt_run)(args)
    before = contest.peak_memory()
    sums = [float(abs(a).mean()) for a in run()]

    def timed():
        start = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - start}

    contest.serve(
        {"first": lambda: {"sums": sums, "mb": (contest.peak_memory() - before) / 1e6}, "time": timed}
    )


def rows_of(tokens, names, args, page):
    """One length: rows of figures."""

    def start(name):
        flags = ["--worker", KINDS[name], "--tokens", str(tokens), "--heads", str(args.heads)]
        flags += ["--size", str(args.size), "--window", str(args.window), "--threads", str(args.threads)]
        return contest.Contestant(name, [sys.executable, __file__, *flags])

    entered, answers = contest.enter(map(start, names), "first", page.say)
    for kinds in (("full", "torch"), ("window", "torch-window")):
        sums = {name: a["sums"] for name, a in answers.items() if KINDS[name] in kinds}
        if sums:
            contest.apart(sums, APART, "means of attention and its gradient")
    contestants = list(entered.values())
    contest.time_in_turn(contestants, args.rounds)
    torch = next((c for c in contestants if KINDS[c.name] == "torch"), None)
    rows = [
        {
            "tokens": tokens,
            "name": c.name,
            "ms": 1e3 * statistics.median(c.seconds),
            "to_torch": contest.ratio(c, torch) if torch else None,
            "mb": answers[c.name]["mb"],
        }
        for c in contestants
    ]
    for c in contestants:
        c.close()
    return rows


def main(argv):
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384], help="lengths")
    parser.add_argument("--window", type=int, default=256, help="keys that a query sees (default: 256)")
    parser.add_argument("--heads", type=int, default=6, help="default: 6")
    parser.add_argument("--size", type=int, default=64, help="of a head (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is asked (default: 5)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of each (default: all processors)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(KINDS.values()), help="the contestants (default: all)"
    )
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument(
        "--results", metavar="NAME", help="write what is printed to benchmarks/results/NAME.md"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args)
        return
    page = contest.Page(args.results, f"python benchmarks/attention_lengths.py {' '.join(argv)}")
    page.say(contest.show_machine() + f", {args.threads} threads; {args.heads} heads of {args.size}")
    page.say(TABLE)
    found = []
    for tokens in args.tokens:
        wanted = [n for n, k in KINDS.items() if k in (args.only or KINDS.values())]
        names = [n for n in wanted if KINDS[n] != "torch-window" or tokens <= MASK]
        for row in rows_of(tokens, names, args, page):
            found.append(row)
            page.say(
                f"| {tokens} | {row['name']} | {row['ms']:.1f} | {1e6 * row['ms'] / tokens:.0f} |"
                f" {contest.number(row['to_torch'], '.2f')} | {row['mb']:.0f} |"
            )
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": contest.machine(), "rows": found}, file, indent=1)
    page.write()


if __name__ == "__main__":
    contest.run(main)
