"""A training step of numgpt against PyTorch's, in one run: time, ratios, memory, start-up. Usage: python benchmarks/train_step.py --shape a b"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import contest

SHAPES = {
    "a": {"config": {"vocab_size": 65, "block_size": 64, "n_layer": 4, "n_head": 4, "n_embd": 128, "bias": False, "activation": "gelu"}, "batch": (12, 64)},
    "b": {"config": {"vocab_size": 65, "block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384, "bias": False, "activation": "gelu"}, "batch": (16, 256)},
    "c": {"config": {}, "batch": (4, 64)},
    "d": {"config": {}, "batch": (1, 1024)},
}
KINDS = {
    "numgpt": "numgpt",
    "numgpt, NumPy's own BLAS": "numgpt-openblas",
    "numgpt, reference engine": "reference",
    "PyTorch eager": "torch",
    "PyTorch eager, fused AdamW": "torch-fused",
    "torch.compile, fused AdamW": "torch-compile",
    "the step's GEMMs alone": "gemms",
}


def make(shape):
    """The model and the batch that every contestant starts from."""
    import numpy as np

    import numgpt

    model = numgpt.GPT(numgpt.Config(**SHAPES[shape]["config"]), seed=0)
    return model, *np.random.default_rng(0).integers(0, model.config.vocab_size, (2, *SHAPES[shape]["batch"]))


def worker(kind, shape, threads):
    """A contestant: make the model, take a first step, then time steps when asked."""
    started = time.perf_counter()
    step = {"gemms": gemm_step}.get(kind, torch_step if kind.startswith("torch") else numgpt_step)(kind, shape, threads)
    prepared = time.perf_counter()
    losses = [step()]
    first = {"loss": losses[0], "prepare": prepared - started, "first": time.perf_counter() - prepared}
    repeat = [1]

    def timed():
        start = time.perf_counter()
        for _ in range(repeat[0]):
            step()
        return {"seconds": (time.perf_counter() - start) / repeat[0]}

    def warm(seconds=0.2):
        losses.append(step())
        once = min(timed()["seconds"] for _ in range(2))
        repeat[0] = max(1, round(seconds / once))
        return {"losses": losses}

    contest.serve({"first": lambda: first, "warm": warm, "time": timed, "memory": lambda: {"bytes": contest.peak_memory()}})


def numgpt_step(kind, shape, threads):
    """numgpt on an engine."""
    import numgpt

    numgpt.use("reference" if kind == "reference" else "numba")
    numgpt.set_threads(threads)
    model, tokens, targets = make(shape)
    optimizer, grads = numgpt.AdamW(model), model.params.like()

    def step():
        loss, _ = model.loss_and_grads(tokens, targets, out=grads)
        optimizer.step(grads, lr=1e-4)
        return float(loss)

    return step


def torch_step(kind, shape, threads):
    """PyTorch with one of its optimizers, compiled or not."""
    import torch
    import torch_gpt

    torch.set_num_threads(threads)
    model, tokens, targets = make(shape)
    config, params = model.config, {n: p.copy() for n, p in model.params.items()}
    del model
    net = torch_gpt.GPT(config)
    net.load(params)
    del params
    optimizer = torch_gpt.optimizer(net, fused=kind != "torch")
    tokens, targets = torch.from_numpy(tokens), torch.from_numpy(targets)
    run = torch.compile(net) if kind == "torch-compile" else net
    return lambda: torch_gpt.step(run, optimizer, tokens, targets)


def gemm_step(kind, shape, threads):
    """The matrix products of a step and nothing else, on numgpt's threads and BLAS; attention in full T × T."""
    import numpy as np

    from numgpt import Config, blas
    from numgpt.ops.linear_numba import multiply

    config, (B, T) = Config(**SHAPES[shape]["config"]), SHAPES[shape]["batch"]
    C, F, V, H, N = config.n_embd, config.ffn_width, config.vocab_size, config.n_head, B * T
    blas.keep_memory()

    def arrays(*shapes):
        return [np.random.default_rng(0).standard_normal(s, dtype=np.float32) for s in shapes]

    # Activations are used again, matrices are each layer's own, as in a model: large ones come from memory every time.
    sizes = [(C, 3 * C), (C, C), (C, F), (F, C)]
    linear = {s: arrays((N, s[0]), (N, s[1]), (N, s[0])) for s in {*sizes, (C, V)}}
    layers = [{s: arrays(s, s) for s in sizes} for _ in range(config.n_layer)]
    head = {(C, V): arrays((C, V), (C, V))}
    heads = arrays(*[(B * H, T, C // H)] * 4, (B * H, T, T), (B * H, T, T))

    def three(layer, size):
        (x, y, dx), (w, dw) = linear[size], layer[size]
        multiply(False, False, x, w, into=(y, False))
        multiply(False, True, y, w, into=(dx, False))
        multiply(True, False, x, y, into=(dw, False))

    def step():
        with blas.one_thread():
            for layer in layers:
                for size in sizes:
                    three(layer, size)
                attention_products(*heads)
            three(head, (C, V))
        return 0.0

    return step


def attention_products(q, k, v, y, p, d):
    """The two products of the forward and the five of a backward that forms P again, a head a task."""
    from gemm_bound import all_heads

    all_heads(q, k, v, y, p, d)


def start(name, shape, threads):
    """A contestant's process."""
    environment = {"NUMGPT_BLAS": "openblas"} if KINDS[name] == "numgpt-openblas" else {}
    return contest.Contestant(name, [sys.executable, __file__, "--worker", KINDS[name], "--shape", shape, "--threads", str(threads)], environment)


def first_steps(shape, threads):
    """Seconds from the start of Python to the end of the first step, with no kernels compiled yet and with all."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            code = f"import sys; sys.argv = ['', '--once', '--shape', '{shape}', '--threads', '{threads}']; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); import train_step; train_step.main()"
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"NUMBA_CACHE_DIR": cache}, stderr=subprocess.DEVNULL)
            found[state] = time.perf_counter() - began
    return found


def contest_of(shape, names, rounds, threads):
    """Run a shape; returns rows of figures."""
    entered, firsts = contest.enter((start(name, shape, threads) for name in names), "first")
    contestants = list(entered.values())
    losses = {c.name: c.ask("warm")["losses"] for c in contestants}
    reference = next(iter(losses.values()))
    for name, found in losses.items():
        if KINDS[name] != "gemms":
            assert all(abs(a - b) < 1e-3 for a, b in zip(found, reference)), f"{name} has losses {found}, expected {reference}"
    contest.time_in_turn(contestants, rounds)
    by_kind = {KINDS[c.name]: c for c in contestants}
    torches = [c for kind, c in by_kind.items() if kind.startswith("torch")]
    best = min(torches, key=lambda c: statistics.median(c.seconds)) if torches else None
    rows = []
    for c in contestants:
        rows.append({
            "shape": shape, "name": c.name, "ms": 1e3 * statistics.median(c.seconds),
            "to_eager": contest.ratio(c, by_kind["torch"]) if "torch" in by_kind else None,
            "to_best": contest.ratio(c, best) if best else None,
            "to_gemms": contest.ratio(c, by_kind["gemms"]) if "gemms" in by_kind else None,
            "peak_mb": c.ask("memory")["bytes"] / 1e6,
            "first_step": firsts[c.name]["first"], "loss": losses[c.name][0],
        })
    for c in contestants:
        c.close()
    return rows


def show(rows):
    """The table."""
    number = contest.number
    print("| shape | | ms a step | to PyTorch eager | to the best PyTorch | to the GEMMs | peak MB | first step s |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        print(f"| {r['shape']} | {r['name']} | {r['ms']:.1f} | {number(r['to_eager'], '.2f')} | {number(r['to_best'], '.2f')} | {number(r['to_gemms'], '.2f')} | {r['peak_mb']:.0f} | {r['first_step']:.2f} |", flush=True)


def main():
    """Read the flags and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["a"], help="a: nanoGPT's CPU model, b: its GPU model, c and d: GPT-2 124M, short and long")
    parser.add_argument("--only", nargs="+", choices=list(KINDS.values()), help="contestants; all, but the reference engine on shape a only, unless given")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is asked")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each")
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--no-start", action="store_true", help="leave the start-up times out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        numgpt_step("numgpt", args.shape[0], args.threads)()
    elif args.worker:
        worker(args.worker, args.shape[0], args.threads)
    else:
        print(contest.show_machine() + f", {args.threads} threads")
        rows = []
        for shape in args.shape:
            names = [n for n, k in KINDS.items() if (k in args.only if args.only else k != "reference" or shape == "a")]
            found = contest_of(shape, names, args.rounds, args.threads)
            rows += found
            show(found)
        first = None
        if not args.no_start:
            first = first_steps(args.shape[0], args.threads)
            print(f"from python to the end of the first step, shape {args.shape[0]}: {first['cold']:.2f} s with no kernel compiled, {first['warm']:.2f} s with all")
        if args.json:
            with open(args.json, "w") as file:
                json.dump({"machine": contest.machine(), "threads": args.threads, "rows": rows, "start": first}, file, indent=1)


if __name__ == "__main__":
    main()
