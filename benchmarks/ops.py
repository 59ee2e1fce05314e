"""Each twin against its specification and against PyTorch's op, forward and backward, in one run.

    python benchmarks/ops.py --shape a b

Each of the three has a process of its own, and they are asked in turn.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time

import contest
import numpy as np

# B, T, C, heads and V of the training shapes a, b and c of train_step.py.
SIZES = {"a": (12, 64, 128, 4, 65), "b": (16, 256, 384, 6, 65), "c": (4, 64, 768, 12, 50257)}
KINDS = ("numba", "reference", "torch")
TABLE = """\
ms a call; a ratio below 1: the twin is faster
| shape | op | | twin | specification | PyTorch | to the specification | to PyTorch |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"""


def cases(size):
    """Name -> (its arrays, its options)."""
    B, T, C, H, V = size
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    x = normal(B, T, C)
    wide = normal(B, T, 4 * C)
    tokens = rng.integers(0, V, (B, T))
    return {
        "embedding": ((tokens, normal(V, C)), {}),
        "linear": ((x, normal(C, 4 * C), normal(4 * C)), {}),
        "unembedding": ((x, normal(V, C)), {}),
        "layernorm": ((x, normal(C), normal(C)), {"eps": 1e-5}),
        "gelu": ((wide,), {}),
        "gelu_tanh": ((wide,), {}),
        "attention": ((normal(B, T, 3 * C),), {"n_head": H}),
        "cross_entropy": ((normal(B, T, V), tokens), {}),
    }


def numgpt_runs(kind, size, threads):
    """Op -> (forward, backward, value) of the engine's twin or the specification.

    The first two are functions without arguments.
    """
    import numgpt
    from numgpt import engine, ops

    numgpt.use(kind)
    numgpt.set_threads(threads)

    def runs(name, arrays, options):
        op = getattr(ops, name)
        forward, backward = engine.twin(op.forward, "float32"), engine.twin(op.backward, "float32")
        y, saved = forward(*arrays, **options)
        dy = np.ones_like(y)
        return lambda: forward(*arrays, **options), lambda: backward(dy, saved), y

    return {name: runs(name, *case) for name, case in cases(size).items()}


def torch_runs(kind, size, threads):
    """The same for PyTorch, whose linear layers hold their matrices transposed."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    B, T, C, H, V = size

    def heads(qkv):
        q, k, v = (a.view(B, T, H, C // H).transpose(1, 2) for a in qkv.split(C, dim=2))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)

    functions = {
        "embedding": F.embedding,
        "linear": F.linear,
        "unembedding": F.linear,
        "layernorm": lambda x, w, b: F.layer_norm(x, (C,), w, b),
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "attention": heads,
        "cross_entropy": lambda x, ids: F.cross_entropy(x.view(-1, V), ids.view(-1)),
    }

    def runs(name, arrays, options):
        if name == "linear":
            arrays = (arrays[0], np.ascontiguousarray(arrays[1].T), arrays[2])
        tensors = [torch.from_numpy(a).requires_grad_(a.dtype.kind == "f") for a in arrays]
        y = functions[name](*tensors)
        dy, inputs = torch.ones_like(y), [t for t in tensors if t.requires_grad]

        def forward():
            with torch.no_grad():
                functions[name](*tensors)

        return forward, lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True), y.detach().numpy()

    return {name: runs(name, *case) for name, case in cases(size).items()}


def worker(kind, shape, threads, at_least):
    """A contestant: answers with the mean of each op's values, or with the seconds of a call."""
    from numgpt import engine

    with engine.session("float32") if kind == "numba" else contextlib.nullcontext():
        runs = (torch_runs if kind == "torch" else numgpt_runs)(kind, SIZES[shape], threads)

        def timed(op, way):
            run = runs[op][way]
            run()
            start, n = time.perf_counter(), 0
            while time.perf_counter() - start < at_least:
                run()
                n += 1
            return {"seconds": (time.perf_counter() - start) / n}

        def sizes():
            return {op: float(np.abs(value).mean()) for op, (_, _, value) in runs.items()}

        contest.serve({"sizes": sizes, "time": timed})


def contest_of(shape, names, rounds, at_least, threads):
    """Rows of figures for one shape: medians, and medians of the paired ratios."""
    flags = ["--shape", shape, "--seconds", str(at_least), "--threads", str(threads)]
    start = (contest.Contestant(kind, [sys.executable, __file__, "--worker", kind, *flags]) for kind in KINDS)
    contestants, sizes = contest.enter(start, "sizes")
    for op in names or sizes["numba"]:
        values = [sizes[kind][op] for kind in contestants]
        assert max(values) - min(values) < 1e-3 * max(values), (
            f"{op}: the mean absolute values are {values}, expected the same"
        )
        for i, way in enumerate(("forward", "backward")):
            times = {kind: [] for kind in contestants}
            for _ in range(rounds):
                for kind, contestant in contestants.items():
                    time.sleep(contest.PAUSE)
                    times[kind].append(contestant.ask("time", op=op, way=i)["seconds"])
            medians = {kind: statistics.median(seconds) for kind, seconds in times.items()}
            ours = times.pop("numba")
            ratios = {
                f"to_{kind}": statistics.median(a / b for a, b in zip(ours, theirs))
                for kind, theirs in times.items()
            }
            yield {"shape": shape, "op": op, "way": way} | medians | ratios
    for contestant in contestants.values():
        contestant.close()


def main():
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        choices=list(SIZES),
        default=["b"],
        help="sizes of train_step.py's shapes (default: b)",
    )
    parser.add_argument("--ops", nargs="+", help="these ops only")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is asked (default: 7)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.05,
        help="how long each is timed in a round, at least (default: 0.05)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="threads of the twins and PyTorch; the specification has NumPy's own (default: all processors)",
    )
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.shape[0], args.threads, args.seconds)
        return
    print(f"{contest.show_machine()}, {args.threads} threads")
    print(TABLE)
    rows = []
    for shape in args.shape:
        for row in contest_of(shape, args.ops, args.rounds, args.seconds, args.threads):
            rows.append(row)
            figures = [f"{1e3 * row[kind]:.3f}" if kind in row else "" for kind in KINDS]
            ratios = [f"{row[to]:.2f}" if to in row else "" for to in ("to_reference", "to_torch")]
            print(f"| {shape} | {row['op']} | {row['way']} | {' | '.join(figures + ratios)} |", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": contest.machine(), "threads": args.threads, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
