"""A training step of numgpt against PyTorch's, in one run: time, ratios, memory, start-up.

python benchmarks/train_step.py --shape a b
python benchmarks/train_step.py --precision bf16 --shape a b c    on a processor with AVX-512 BF16
python benchmarks/train_step.py --engine cupy --shape b c e l    on an NVIDIA GPU
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import contest
import device
import shapes

KINDS = {
    "numgpt": "numgpt",
    "numgpt, NumPy's own BLAS": "numgpt-openblas",
    "numgpt, reference engine": "reference",
    "PyTorch eager": "torch",
    "PyTorch eager, fused AdamW": "torch-fused",
    "torch.compile, fused AdamW": "torch-compile",
    "transformers' Llama, fused AdamW": "torch-transformers",
    "transformers' Mixtral, eager experts": "torch-mixtral-eager",
    "transformers' Mixtral, grouped experts": "torch-mixtral-grouped",
    "numgpt, a GPT-2 of equal FLOPs": "numgpt-gpt2",
    "the step's GEMMs alone": "gemms",
    "numgpt, bf16": "numgpt-bf16",
    "PyTorch's bf16 autocast": "torch-bf16",
    "PyTorch's bf16 autocast, fused AdamW": "torch-bf16-fused",
}
BF16 = ("numgpt-bf16", "torch-bf16", "torch-bf16-fused")
ON_GPU = ("numgpt", "torch", "torch-fused", "torch-compile")  # the kinds that a GPU runs too
APART = ("gemms", "numgpt-gpt2")  # whose losses are not those of the others
# How far losses of 4 to 11 may lie apart. Rounding moved them by 1e-6 on a CPU, shapes a to c; half the heads
# move them by 1e-4, GELU's other form by 6e-5 at shape c.
LOSS = 2e-5
# Operands of 8 bits moved them by at most 6e-4, at shape c, whichever of the two rounds.
BF16_LOSS = 2e-3
CPU_TABLE = """\
| shape | | ms a step | to PyTorch eager | to the best PyTorch | to the GEMMs | peak MB | first step s |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""
GPU_TABLE = """\
| shape | | ms a step | to PyTorch eager | to the best PyTorch | taken MB | allocated MB | first step s |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


def worker(kind, shape, threads, on):
    """A contestant on a device: make the model, take a first step, then time steps when asked.

    Each is timed from a device at rest to a device at rest.
    """
    place = device.DEVICES[on]()
    started = time.perf_counter()
    step = step_of(kind)(kind, shape, threads, on)
    prepared = time.perf_counter()
    losses = [float(step())]
    first = {
        "loss": losses[0],
        "prepare": prepared - started,
        "first": time.perf_counter() - prepared,
        "about": place.about(),
    }
    repeat = [1]

    def timed():
        if on != "host":
            step()  # the GPU's clock may have fallen while others had their turn
        place.wait()
        seconds = []
        for _ in range(repeat[0]):
            start = time.perf_counter()
            step()
            place.wait()
            seconds.append(time.perf_counter() - start)
        return {"seconds": statistics.median(seconds)}

    def warm(seconds=0.2):
        losses.append(float(step()))
        once = min(timed()["seconds"] for _ in range(2))
        repeat[0] = max(1, round(seconds / once))
        return {"losses": losses}

    answers = {"first": lambda: first, "warm": warm, "time": timed, "memory": place.memory}
    contest.serve(answers | {"limits": lambda: limits(shape)})


def step_of(kind):
    """The function that makes a contestant's step."""
    if kind == "gemms":
        return gemm_step
    return torch_step if kind.startswith("torch") else numgpt_step


def numgpt_step(kind, shape, threads, on):
    """numgpt on an engine. On a GPU the loss stays there: nothing waits for it."""
    import numgpt
    from numgpt.engine import precision

    engine = "cupy" if on == "cupy" else "numba"
    numgpt.use("reference" if kind == "reference" else engine)
    numgpt.set_threads(threads)
    model, tokens, targets = shapes.make(shape, kind)
    optimizer = numgpt.AdamW(model)
    grads = model.params.like()

    def step():
        with precision.of_products("bf16" if kind in BF16 else None):
            loss, _ = model.loss_and_grads(tokens, targets, out=grads)
        optimizer.step(grads, lr=1e-4)
        return loss

    return step


def torch_step(kind, shape, threads, on):
    """PyTorch with one of its optimizers, compiled or not."""
    import torch
    import torch_gpt

    import numgpt

    numgpt.use("reference")  # its weights lie in the host's memory
    torch.set_num_threads(threads)
    torch_gpt.exact()
    model, tokens, targets = shapes.make(shape)
    net = network(kind, model)
    del model
    tokens, targets = torch.from_numpy(tokens), torch.from_numpy(targets)
    if on == "cuda":
        net, tokens, targets = net.cuda(), tokens.pin_memory(), targets.pin_memory()
    optimizer = torch_gpt.optimizer(net, fused=kind not in ("torch", "torch-bf16"))
    run = torch.compile(net) if kind == "torch-compile" else net
    return lambda: torch_gpt.step(run, optimizer, tokens, targets, bf16=kind in BF16)


def network(kind, model):
    """PyTorch's module with a model's parameters."""
    import torch_gpt
    import torch_llama

    if kind == "torch-transformers":
        return torch_llama.Transformers(model)
    if kind.startswith("torch-mixtral"):
        return torch_llama.Transformers(
            model, {"eager": "eager", "grouped": "grouped_mm"}[kind.rpartition("-")[2]]
        )
    net = (torch_llama.LLaMA if model.config.norm == "rmsnorm" else torch_gpt.GPT)(model.config)
    net.load({n: p.copy() for n, p in model.params.items()})
    return net


def gemm_step(kind, shape, threads, on):
    """The matrix products of a step alone, as the step runs them, on numgpt's threads and BLAS."""
    import gemm_bound

    import numgpt

    numgpt.set_threads(threads)
    return gemm_bound.products(shapes.config_of(shape), *shapes.SHAPES[shape]["batch"])


def limits(shape):
    """The operations of a step's products, and what the processor reaches in registers and from memory."""
    import gemm_bound

    from numgpt.engine import roofline_numba

    limit = roofline_numba.measured()
    flops = gemm_bound.flops(shapes.config_of(shape), *shapes.SHAPES[shape]["batch"])
    return {"flops": flops, "peak": limit.flops, "bandwidth": limit.bandwidth}


def start(name, shape, threads, engine):
    """A contestant's process."""
    kind = KINDS[name]
    flags = ["--worker", kind, "--shape", shape, "--threads", str(threads), "--on", device.of(kind, engine)]
    environment = {"NUMGPT_BLAS": "openblas"} if kind == "numgpt-openblas" else {}
    return contest.Contestant(name, [sys.executable, __file__, *flags], environment)


def first_steps(shape, threads):
    """Seconds from the start of Python to the end of the first step, with no kernel compiled and with all."""
    folder = os.path.dirname(os.path.abspath(__file__))
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            code = (
                f"import sys; sys.argv = ['', '--once', '--shape', '{shape}', '--threads', '{threads}'];"
                f" sys.path.insert(0, {folder!r}); import train_step; train_step.main(sys.argv[1:])"
            )
            environment = os.environ | {"NUMBA_CACHE_DIR": cache}
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code], check=True, env=environment, stderr=subprocess.DEVNULL
            )
            seconds[state] = time.perf_counter() - began
    return seconds


def contest_of(shape, names, rounds, threads, engine, page, commit):
    """Run a shape; returns the machine that it ran on, and rows of figures."""
    entries = (start(name, shape, threads, engine) for name in names)
    entered, firsts = contest.enter(entries, "first", page.say)
    contestants = list(entered.values())
    losses = {c.name: c.ask("warm")["losses"] for c in contestants if KINDS[c.name] not in APART}
    is_rounded = any(KINDS[name] in BF16 for name in losses)
    apart = contest.apart(losses, BF16_LOSS if is_rounded else LOSS, "the losses of two steps")
    contest.time_in_turn(contestants, rounds)
    by_kind = {KINDS[c.name]: c for c in contestants}
    torches = [c for kind, c in by_kind.items() if kind.startswith("torch")]
    best = min(torches, key=lambda c: statistics.median(c.seconds)) if torches else None
    rows = []
    for c in contestants:
        memory = c.ask("memory")
        rows.append(
            {
                "shape": shape,
                "name": c.name,
                "ms": 1e3 * statistics.median(c.seconds),
                "to_eager": contest.ratio(c, by_kind["torch"]) if "torch" in by_kind else None,
                "to_best": contest.ratio(c, best) if best else None,
                "to_gemms": contest.ratio(c, by_kind["gemms"]) if "gemms" in by_kind else None,
                "to_float32": contest.ratio(c, by_kind["numgpt"]) if "numgpt" in by_kind else None,
                "to_gpt2": contest.ratio(c, by_kind["numgpt-gpt2"]) if "numgpt-gpt2" in by_kind else None,
                "limits": c.ask("limits") if KINDS[c.name] == "gemms" else None,
                "peak_mb": memory["taken"] / 1e6,
                "allocated_mb": memory["allocated"] and memory["allocated"] / 1e6,
                "first_step": firsts[c.name]["first"],
                "loss": firsts[c.name]["loss"],
                "apart": apart,
            }
        )
    for c in contestants:
        c.close()
    return device.machine(firsts.values(), commit) if engine == "cupy" else contest.machine(), rows


def show(rows, say):
    """The table of a CPU."""
    number = contest.number
    say(CPU_TABLE)
    for r in rows:
        say(
            f"| {r['shape']} | {r['name']} | {r['ms']:.1f} | {number(r['to_eager'], '.2f')} |"
            f" {number(r['to_best'], '.2f')} | {number(r['to_gemms'], '.2f')} | {r['peak_mb']:.0f} |"
            f" {r['first_step']:.2f} |"
        )
    for r in rows:
        if r["to_gpt2"] is not None and KINDS[r["name"]] == "numgpt":
            say(f"numgpt to a GPT-2 of equal FLOPs, shape {r['shape']}: {r['to_gpt2']:.2f}")
        if r["to_float32"] is not None and KINDS[r["name"]] == "numgpt-bf16":
            say(f"numgpt's bf16 to its own float32, shape {r['shape']}: {r['to_float32']:.2f}")
        if r["limits"]:
            flops, peak, bandwidth = (1e-9 * r["limits"][key] for key in ("flops", "peak", "bandwidth"))
            reached = 1e3 * flops / r["ms"]
            say(
                f"the products of shape {r['shape']}, {flops:.3g} GFLOP, at {reached:.0f} GFLOP/s:"
                f" {reached / peak:.2f} of the {peak:.0f} that multiply-adds in registers reach;"
                f" memory is read at {bandwidth:.0f} GB/s"
            )
            least, best = 1e3 * flops / (0.9 * peak), r["ms"] / r["to_best"] if r["to_best"] else None
            beside = f", {least / best:.2f} of the best PyTorch" if best else ""
            say(f"at 0.9 of that peak they alone would take {least:.0f} ms{beside}")


def show_gpu(rows, say):
    """The table of a GPU: the memory that each side's pool took, and how much of its own PyTorch used."""
    number = contest.number
    say(GPU_TABLE)
    for r in rows:
        say(
            f"| {r['shape']} | {r['name']} | {r['ms']:.2f} | {number(r['to_eager'], '.2f')} |"
            f" {number(r['to_best'], '.2f')} | {r['peak_mb']:.0f} | {number(r['allocated_mb'], '.0f')} |"
            f" {r['first_step']:.2f} |"
        )
    say(
        "the same weights and batch, float32 without TF32; losses of the first two steps at most"
        f" {rows[0]['apart']:.1e} apart (allowed: {LOSS:.0e})"
    )


def main(argv):
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=list(shapes.SHAPES), default=["a"], help=shapes.HELP)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(KINDS.values()),
        help="the contestants (default: all of the precision; the reference engine on shape a only)",
    )
    parser.add_argument(
        "--precision",
        choices=["float32", "bf16"],
        default="float32",
        help="bf16: products of bfloat16 operands, beside PyTorch's autocast and numgpt's own float32",
    )
    parser.add_argument("--rounds", type=int, default=15, help="how often each is asked (default: 15)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of each (default: all processors)"
    )
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument(
        "--no-start",
        action="store_true",
        help="leave out the start-up times, which only the numba engine has",
    )
    contest.add_flags(parser)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--on", help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.once:
        float(numgpt_step("numgpt", args.shape[0], args.threads, "host")())
    elif args.worker:
        worker(args.worker, args.shape[0], args.threads, args.on)
    else:
        compare(args, contest.Page(args.results, f"python benchmarks/train_step.py {' '.join(argv)}"))


def compare(args, page):
    """Run the contests that the flags ask for; print and write the figures."""
    kinds = args.only or [k for k in KINDS.values() if k not in BF16]
    if args.precision == "bf16" and not args.only:
        kinds = ["numgpt", *BF16]
    if args.engine == "cupy":
        kinds = [k for k in kinds if k in ON_GPU]
    device.expect(kinds, args.engine)
    machine, rows, first = None, [], None
    for shape in args.shape:
        names = [n for n, k in KINDS.items() if k in kinds and (args.only or shapes.is_for(k, shape))]
        where, figures = contest_of(shape, names, args.rounds, args.threads, args.engine, page, args.commit)
        if machine is None:
            machine = where
            page.say(contest.show_machine(machine) + f", {args.threads} threads")
        rows += figures
        (show_gpu if args.engine == "cupy" else show)(figures, page.say)
    if args.engine == "numba" and not args.no_start:
        first = first_steps(args.shape[0], args.threads)
        page.say(
            f"from python to the end of the first step, shape {args.shape[0]}: {first['cold']:.2f} s with no"
            f" kernel compiled, {first['warm']:.2f} s with all"
        )
    if args.json:
        contents = {"machine": machine, "threads": args.threads, "rows": rows, "start": first}
        with open(args.json, "w") as file:
            json.dump(contents, file, indent=1)
    page.write()


if __name__ == "__main__":
    contest.run(main)
