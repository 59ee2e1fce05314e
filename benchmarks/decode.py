"""Generation with a key/value cache, numgpt against Hugging Face's, in one run.

    python benchmarks/decode.py --batch 1 8
    python benchmarks/decode.py --preset stories110m --batch 1
    python benchmarks/decode.py --engine cupy --batch 1 8      on an NVIDIA GPU, against PyTorch there
    python benchmarks/decode.py --bits 8 4 --batch 1           rounded weights against our own float32
    python benchmarks/decode.py --bits 8 4 --batch 1 --torchao PYTHON --llama PYTHON

The last one asks torchao's weight-only products and llama.cpp, too, by the Python of an environment that has
each of them (pip install torch torchao numpy; pip install llama-cpp-python gguf).

It prints tokens a second, and how near they come to the memory's limit: every step reads all weights once, so
a pass that only reads them is the bound.
"""

import argparse
import json
import os
import statistics
import sys
import time

import contest
import device

KINDS = {
    "numgpt": "numgpt",
    "numgpt, NumPy's own BLAS": "numgpt-openblas",
    "PyTorch eager, with cache": "torch",
    "Hugging Face generate, with cache": "transformers",
    "reading the weights once": "read",
}
# Weights of fewer bits, which --bits asks for: kind → (who runs it, bits).
ROUNDED = {
    "numgpt, 8 bits": "numgpt-8",
    "numgpt, 4 bits, embedding 8": "numgpt-4",
    "torchao, 8 bits": "torchao-8",
    "torchao, 4 bits, head 8": "torchao-4",
    "llama.cpp, Q8_0": "llama-8",
    "llama.cpp, Q4_0": "llama-4",
}
KINDS |= ROUNDED
ON_GPU = ("numgpt", "torch", "transformers")  # the kinds that a GPU runs too
LOGITS = 1e-4  # how far logits of about 1 may lie apart: float32 moves them by a few 1e-6
CPU_TABLE = """\
| batch | | ms a step | tokens/s | to Hugging Face | of the bandwidth | peak MB |
| ---: | --- | ---: | ---: | ---: | ---: | ---: |"""
ROUNDED_LOGITS = 1.0  # how far apart with rounded weights; farther apart, it is another model
BITS_TABLE = """\
| batch | | ms a step | tokens/s | × float32 | × Hugging Face | weights MB | their GB/s | of the bandwidth |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
GPU_TABLE = """\
| batch | | ms a step | tokens/s | of PyTorch's tokens/s | time to Hugging Face | taken MB | allocated MB |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


def make(preset):
    """The model that every contestant has."""
    import numgpt
    from numgpt.architecture.presets import preset as config_of

    return numgpt.GPT(config_of(preset), seed=0)


def prompt(model, batch):
    """One token a row, so that the first step is like all others."""
    import numpy as np

    return np.random.default_rng(0).integers(0, model.config.vocab_size, (batch, 1))


def worker(kind, preset, batch, tokens, threads, on):
    """A contestant on a device: generate once, then again when asked, and answer the seconds a token.

    It also answers the logits after the prompt, which must agree.
    """
    place = device.DEVICES[on]()
    makers = {"torch": torch_run, "transformers": transformers_run, "read": read_run}
    who, _, bits = kind.partition("-")
    weights = None
    if kind in ROUNDED.values() and who != "numgpt":
        run, logits = peer_run(who, int(bits), preset, batch, tokens, threads)
    elif kind in makers:
        run, logits = makers[kind](preset, batch, tokens, threads, on)
    else:
        run, logits, weights = numgpt_run(preset, batch, tokens, threads, on, bits)
    run()

    def timed():
        place.wait()
        start = time.perf_counter()
        run()
        place.wait()
        return {"seconds": (time.perf_counter() - start) / tokens}

    def first():
        return {"logits": logits, "about": place.about(), "weights": weights}

    contest.serve({"logits": first, "time": timed, "memory": place.memory})


def numgpt_run(preset, batch, tokens, threads, on, bits=""):
    """numgpt, greedily, with rounded weights where bits says how many: and the bytes that a step reads."""
    import numgpt

    numgpt.use("cupy" if on == "cupy" else "numba")
    numgpt.set_threads(threads)
    model = make(preset)
    if bits.isdigit():
        model = model.quantize(int(bits), clip="absmax")
    start = prompt(model, batch)
    logits = model(start)[0, -1].tolist()
    return lambda: model.generate(start, tokens, temperature=0), logits, read_bytes(model)


def read_bytes(model):
    """The bytes of all weights but those of positions, of which a step reads one row."""
    positions = model.params.get("wpe.weight")
    return model.params.nbytes - (0 if positions is None else positions.nbytes)


def peer_run(who, bits, preset, batch, tokens, threads):
    """torchao or llama.cpp, by the Python of its own environment."""
    import rounded_peers

    import numgpt

    numgpt.use("reference")
    model = make(preset)
    peer = {"torchao": rounded_peers.torchao_run, "llama": rounded_peers.llama_run}[who]
    return peer(model, prompt(model, batch), tokens, threads, bits)


def on_the_host(preset, batch, threads):
    """numgpt's (model, prompt) in the host's memory, from which PyTorch's sides are made.

    PyTorch is set to these threads and to exact float32 products.
    """
    import torch
    import torch_gpt

    import numgpt

    numgpt.use("reference")
    torch.set_num_threads(threads)
    torch_gpt.exact()
    model = make(preset)
    return model, torch.from_numpy(prompt(model, batch))


def torch_run(preset, batch, tokens, threads, on):
    """The plain GPT of torch_gpt.py with the same weights, its keys and values kept in place, greedily."""
    import torch
    import torch_gpt

    model, start = on_the_host(preset, batch, threads)
    net = torch_gpt.GPT(model.config).eval()
    net.load(dict(model.params.items()))
    if on == "cuda":
        net, start = net.cuda(), start.cuda()
    with torch.inference_mode():
        logits = net.next_logits(start, [None] * model.config.n_layer, 0)[0].tolist()
    return lambda: net.generate(start, tokens), logits


def transformers_run(preset, batch, tokens, threads, on):
    """transformers' class with the same weights: generate() with its defaults, greedily."""
    import torch
    import torch_llama
    import transformers

    transformers.logging.set_verbosity_error()
    model, start = on_the_host(preset, batch, threads)
    net = torch_llama.of_transformers(model).eval()
    del model
    if on == "cuda":
        net, start = net.cuda(), start.cuda()
    with torch.no_grad():
        logits = net(start).logits[0, -1].tolist()
    seen = torch.ones_like(start)

    def run():
        return net.generate(
            start, attention_mask=seen, max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )

    return run, logits


def read_run(preset, batch, tokens, threads, on):
    """All weights that a step reads, summed on all threads once a token."""
    import numpy as np

    from numgpt.engine import jit
    from numgpt.engine.roofline_numba import CHUNK, read

    jit.set_threads(threads)
    model = make(preset)
    wpe = model.params.get("wpe.weight")
    positions = 0 if wpe is None else wpe.size  # a step reads one row of them
    weights = model.params.flat[: model.params.flat.size - positions]
    sums = np.empty(-(-len(weights) // CHUNK), np.float32)
    return lambda: [read(weights, sums) for _ in range(tokens)], None


def contest_of(preset, batch, names, tokens, rounds, threads, engine, page, commit, pythons=None):
    """Run one batch size; returns the machine that it ran on, and rows of figures.

    pythons: who → the Python of its environment, for those of ROUNDED that need one.
    """

    def start(name):
        kind = KINDS[name]
        flags = ["--worker", kind, "--preset", preset, "--batch", str(batch), "--tokens", str(tokens)]
        flags += ["--threads", str(threads), "--on", device.of(kind, engine)]
        environment = {"NUMGPT_BLAS": "openblas"} if kind == "numgpt-openblas" else {}
        python = (pythons or {}).get(kind.partition("-")[0], sys.executable)
        return contest.Contestant(name, [python, __file__, *flags], environment)

    entered, answers = contest.enter(map(start, names), "logits", page.say)
    contestants = list(entered.values())
    logits = {name: a["logits"] for name, a in answers.items() if a["logits"]}
    exact = {name: each for name, each in logits.items() if name not in ROUNDED}
    apart = contest.apart(exact, LOGITS, "the logits after the prompt")
    contest.apart(logits, ROUNDED_LOGITS, "the logits after the prompt, of rounded weights,")
    contest.time_in_turn(contestants, rounds)
    by_kind = {KINDS[c.name]: c for c in contestants}
    transformers, torch, read, own = (
        by_kind.get(kind) for kind in ("transformers", "torch", "read", "numgpt")
    )
    whole = answers[own.name]["weights"] if own else None  # the bytes of all weights in float32
    rows = []
    for c in contestants:
        memory = c.ask("memory")
        seconds = statistics.median(c.seconds)
        rows.append(
            {
                "batch": batch,
                "name": c.name,
                "ms": 1e3 * seconds,
                "tokens": batch / seconds if c is not read else None,
                "to_transformers": contest.ratio(c, transformers) if transformers else None,
                "of_torch": contest.ratio(torch, c) if torch else None,
                "of_bandwidth": contest.ratio(read, c) if read else None,
                "of_own": contest.ratio(own, c) if own else None,
                "bytes": answers[c.name].get("weights"),
                "whole": whole,
                "peak_mb": memory["taken"] / 1e6,
                "allocated_mb": memory["allocated"] and memory["allocated"] / 1e6,
                "apart": apart,
            }
        )
    for c in contestants:
        c.close()
    return device.machine(answers.values(), commit) if engine == "cupy" else contest.machine(), rows


def show(rows, say):
    """The table of a CPU."""
    number = contest.number
    say(CPU_TABLE)
    for r in rows:
        say(
            f"| {r['batch']} | {r['name']} | {r['ms']:.1f} | {number(r['tokens'], '.1f')} |"
            f" {number(r['to_transformers'], '.2f')} | {number(r['of_bandwidth'], '.2f')} |"
            f" {r['peak_mb']:.0f} |"
        )


def show_bits(rows, say):
    """The table of rounded weights: above 1 is faster. GB/s of the weights as they are stored."""
    number = contest.number
    say(BITS_TABLE)
    for r in rows:
        size, share = r["bytes"], None
        rate = None if size is None else size / r["ms"] / 1e6
        if None not in (size, r["whole"], r["of_bandwidth"]):
            share = r["of_bandwidth"] * size / r["whole"]
        faster = None if r["to_transformers"] is None else 1 / r["to_transformers"]
        say(
            f"| {r['batch']} | {r['name']} | {r['ms']:.1f} | {number(r['tokens'], '.1f')} |"
            f" {number(r['of_own'], '.2f')} | {number(faster, '.2f')} |"
            f" {number(size and size / 1e6, '.0f')} | {number(rate, '.1f')} | {number(share, '.2f')} |"
        )


def show_gpu(rows, say):
    """The table of a GPU: above 1 of PyTorch's tokens/s is faster; memory as in train_step.py's."""
    number = contest.number
    say(GPU_TABLE)
    for r in rows:
        say(
            f"| {r['batch']} | {r['name']} | {r['ms']:.2f} | {r['tokens']:.1f} |"
            f" {number(r['of_torch'], '.2f')} | {number(r['to_transformers'], '.2f')} | {r['peak_mb']:.0f} |"
            f" {number(r['allocated_mb'], '.0f')} |"
        )
    say(
        "the same weights and prompt, float32 without TF32; logits after the prompt at most"
        f" {rows[0]['apart']:.1e} apart (allowed: {LOGITS:.0e})"
    )


def main(argv):
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch", nargs="+", type=int, default=[1, 8], help="rows continued at once (default: 1 8)"
    )
    parser.add_argument(
        "--preset", default="gpt2", help="the model's preset; its weights are random (default: gpt2)"
    )
    parser.add_argument("--tokens", type=int, default=32, help="new tokens a run (default: 32)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is asked (default: 7)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of each (default: all processors)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(KINDS.values()),
        help="the contestants (default: all; PyTorch eager on a GPU only)",
    )
    parser.add_argument(
        "--bits", nargs="+", type=int, choices=(8, 4), help="weights of fewer bits, beside our own float32"
    )
    for who, what in (("torchao", "torch and torchao"), ("llama", "llama-cpp-python and gguf")):
        parser.add_argument(f"--{who}", metavar="PYTHON", help=f"with --bits: the Python that has {what}")
    parser.add_argument("--json", help="a file for the figures")
    contest.add_flags(parser)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--on", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args.worker, args.preset, args.batch[0], args.tokens, args.threads, args.on)
    else:
        compare(args, contest.Page(args.results, f"python benchmarks/decode.py {' '.join(argv)}"))


def kinds_of(args):
    """The contestants that the flags ask for."""
    if args.only:
        return args.only
    if args.bits:
        rounded = [f"{who}-{bits}" for who in ("numgpt", *pythons_of(args)) for bits in args.bits]
        return ["numgpt", "transformers", "read", *rounded]
    kinds = [k for k in KINDS.values() if k not in ROUNDED.values()]
    if args.engine == "cupy":
        return [k for k in kinds if k in ON_GPU]
    return [k for k in kinds if k != "torch"]


def pythons_of(args):
    """Who → the Python of its environment, of those that the flags give one."""
    return {who: python for who in ("torchao", "llama") if (python := getattr(args, who))}


def compare(args, page):
    """Run the contests that the flags ask for; print and write the figures."""
    kinds = kinds_of(args)
    if args.engine == "cupy":
        kinds = [k for k in kinds if k in ON_GPU]
    names = [n for n, k in KINDS.items() if k in kinds]
    device.expect(kinds, args.engine)
    machine, rows = None, []
    for batch in args.batch:
        where, figures = contest_of(
            *(
                args.preset,
                batch,
                names,
                args.tokens,
                args.rounds,
                args.threads,
                args.engine,
                page,
                args.commit,
            ),
            pythons_of(args),
        )
        if machine is None:
            machine = where
            page.say(contest.show_machine(machine) + f", {args.threads} threads")
        rows += figures
        shown = show_bits if args.bits else show
        (show_gpu if args.engine == "cupy" else shown)(figures, page.say)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": machine, "threads": args.threads, "rows": rows}, file, indent=1)
    page.write()


if __name__ == "__main__":
    contest.run(main)
