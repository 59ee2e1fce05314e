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
EXPERTS, ACTIVE = 8, 2
RANK = 8
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
    gated = normal(B, T, 2 * (8 * C // 3))  # as many parameters as the plain feed-forward has
    qkv = normal(B, T, 3 * C)
    tokens = rng.integers(0, V, (B, T))
    chosen = np.ascontiguousarray(rng.random((B, T, EXPERTS)).argsort(-1)[..., :ACTIVE])
    sent = normal(B, T, ACTIVE, C)
    return {
        "embedding": ((tokens, normal(V, C)), {}),
        "linear": ((x, normal(C, 4 * C), normal(4 * C)), {}),
        "lora_linear": ((x, normal(C, 4 * C), normal(4 * C), normal(C, RANK), normal(RANK, 4 * C)), {}),
        "unembedding": ((x, normal(V, C)), {}),
        "layernorm": ((x, normal(C), normal(C)), {"eps": 1e-5}),
        "gelu": ((wide,), {}),
        "gelu_tanh": ((wide,), {}),
        "silu": ((wide,), {}),
        "relu2": ((wide,), {}),
        "geglu": ((gated,), {}),
        "geglu_tanh": ((gated,), {}),
        "reglu": ((gated,), {}),
        "part_rmsnorm": ((qkv, normal(C // H)), {"end": C, "eps": 1e-5}),
        "part_layernorm": ((qkv, normal(C // H), normal(C // H)), {"end": C, "eps": 1e-5}),
        "attention": ((qkv,), {"n_head": H}),
        "sink_attention": ((qkv, normal(H)), {"n_head": H}),
        "expert_linear": ((sent, chosen, normal(EXPERTS, C, C)), {}),
        "combine": ((sent, normal(B, T, ACTIVE)), {}),
        "cross_entropy": ((normal(B, T, V), tokens), {}),
        "token_logprobs": ((normal(B, T, V), tokens), {}),
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


def torch_functions(size):
    """Op -> what PyTorch computes it by."""
    import torch
    from torch.nn import functional as F

    B, T, C, H, V = size

    def heads(qkv):
        q, k, v = (a.view(B, T, H, C // H).transpose(1, 2) for a in qkv.split(C, dim=2))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)

    def with_sink(qkv, sink):
        q, k, v = (a.view(B, T, H, C // H).transpose(1, 2) for a in qkv.split(C, dim=2))
        scores = q @ k.transpose(-1, -2) / (C // H) ** 0.5
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        scores = torch.cat([scores, sink.view(H, 1, 1).expand(B, H, T, 1)], dim=-1)
        return (scores.softmax(-1)[..., :-1] @ v).transpose(1, 2).reshape(B, T, C)

    def gate(act):
        return lambda x: (lambda g, u: act(g) * u)(*x.chunk(2, dim=-1))

    def of_heads(norm):
        return lambda qkv, *w: torch.cat(
            [norm(qkv[..., :C].unflatten(-1, (H, -1)), *w).flatten(-2), qkv[..., C:]], -1
        )

    def experts(x, chosen, weight):
        rows, ids = x.reshape(-1, C), chosen.reshape(-1)
        y = torch.empty_like(rows)
        for e in range(EXPERTS):
            own = (ids == e).nonzero()[:, 0]
            y = y.index_copy(0, own, rows[own] @ weight[e])
        return y.view(x.shape)

    return {
        "embedding": F.embedding,
        "linear": F.linear,
        "lora_linear": lambda x, w, b, low, high: F.linear(x, w.T, b) + x @ low @ high,
        "unembedding": F.linear,
        "layernorm": lambda x, w, b: F.layer_norm(x, (C,), w, b),
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "relu2": lambda x: F.relu(x) ** 2,
        "geglu": gate(F.gelu),
        "geglu_tanh": gate(lambda g: F.gelu(g, approximate="tanh")),
        "reglu": gate(F.relu),
        "part_rmsnorm": of_heads(lambda x, w: F.rms_norm(x, (C // H,), w, 1e-5)),
        "part_layernorm": of_heads(lambda x, w, b: F.layer_norm(x, (C // H,), w, b)),
        "attention": heads,
        "sink_attention": with_sink,
        "expert_linear": experts,
        "combine": lambda x, w: (x * w[..., None]).sum(-2),
        "cross_entropy": lambda x, ids: F.cross_entropy(x.view(-1, V), ids.view(-1)),
        "token_logprobs": lambda x, ids: -F.cross_entropy(x.view(-1, V), ids.view(-1), reduction="none"),
    }


def torch_runs(kind, size, threads):
    """The same as numgpt_runs for PyTorch, whose linear layers hold their matrices transposed."""
    import torch

    torch.set_num_threads(threads)
    functions = torch_functions(size)

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
