"""Generation with a key/value cache, numgpt against Hugging Face's, in one run: tokens a second, and how near to the memory's limit.

Every step reads all weights once, so that a pass that only reads them is the bound. Usage: python benchmarks/decode.py --batch 1 8
"""

import argparse
import json
import os
import statistics
import sys
import time

import contest

KINDS = {
    "numgpt": "numgpt",
    "numgpt, NumPy's own BLAS": "numgpt-openblas",
    "Hugging Face generate, with cache": "transformers",
    "reading the weights once": "read",
}


def make(preset):
    """The model that every contestant has."""
    import numgpt
    from numgpt.presets import preset as config_of

    return numgpt.GPT(config_of(preset), seed=0)


def prompt(model, batch):
    """One token a row: the first step is then like all others."""
    import numpy as np

    return np.random.default_rng(0).integers(0, model.config.vocab_size, (batch, 1))


def worker(kind, preset, batch, tokens, threads):
    """A contestant: tell the logits after the prompt, generate once, then again when asked, and tell the seconds a token."""
    run, logits = {"transformers": transformers_run, "read": read_run}.get(kind, numgpt_run)(preset, batch, tokens, threads)
    run()

    def timed():
        start = time.perf_counter()
        run()
        return {"seconds": (time.perf_counter() - start) / tokens}

    contest.serve({"logits": lambda: {"logits": logits}, "time": timed, "memory": lambda: {"bytes": contest.peak_memory()}})


def numgpt_run(preset, batch, tokens, threads):
    """numgpt, greedily."""
    import numgpt

    numgpt.use("numba")
    numgpt.set_threads(threads)
    model = make(preset)
    start = prompt(model, batch)
    return lambda: model.generate(start, tokens, temperature=0), model(start)[0, -1].tolist()


def transformers_run(preset, batch, tokens, threads):
    """transformers' GPT-2 with the same weights: generate() with its defaults, greedily."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = make(preset)
    c, start = model.config, torch.from_numpy(prompt(model, batch))
    net = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head, bos_token_id=None, eos_token_id=None,
    )).eval()
    with torch.no_grad():
        ours = dict(model.params.items())
        for name, parameter in net.transformer.named_parameters():
            parameter.copy_(torch.from_numpy(ours[name]))
    del model
    with torch.no_grad():
        logits = net(start).logits[0, -1].tolist()
    return lambda: net.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=tokens, do_sample=False, pad_token_id=0), logits


def read_run(preset, batch, tokens, threads):
    """All weights that a step reads, added up on all threads, once for each token."""
    import numpy as np
    from read_bound import read

    from numgpt import jit

    jit.set_threads(threads)
    model = make(preset)
    weights, positions = model.params.flat, model.params["wpe.weight"].size
    sums = np.empty(-(-len(weights) // (1 << 18)), np.float32)
    return lambda: [read(weights[: len(weights) - positions], sums) for _ in range(tokens)], None


def contest_of(preset, batch, names, tokens, rounds, threads):
    """Run one batch size; returns rows of figures."""
    def start(name):
        environment = {"NUMGPT_BLAS": "openblas"} if KINDS[name] == "numgpt-openblas" else {}
        flags = ["--worker", KINDS[name], "--preset", preset, "--batch", str(batch), "--tokens", str(tokens), "--threads", str(threads)]
        return contest.Contestant(name, [sys.executable, __file__, *flags], environment)

    entered, answers = contest.enter(map(start, names), "logits")
    contestants = list(entered.values())
    found = [(name, a["logits"]) for name, a in answers.items() if a["logits"]]
    for name, logits in found:
        assert all(abs(x - y) < 1e-4 for x, y in zip(logits, found[0][1], strict=True)), f"{name} has other logits than {found[0][0]}"
    contest.time_in_turn(contestants, rounds)
    by_kind = {KINDS[c.name]: c for c in contestants}
    rows = [{
        "batch": batch, "name": c.name, "ms": 1e3 * statistics.median(c.seconds),
        "tokens": batch / statistics.median(c.seconds) if KINDS[c.name] != "read" else None,
        "to_transformers": contest.ratio(c, by_kind["transformers"]) if "transformers" in by_kind else None,
        "of_bandwidth": contest.ratio(by_kind["read"], c) if "read" in by_kind else None,
        "peak_mb": c.ask("memory")["bytes"] / 1e6,
    } for c in contestants]
    for c in contestants:
        c.close()
    return rows


def show(rows):
    """The table."""
    number = contest.number
    print("| batch | | ms a step | tokens/s | to Hugging Face | of the bandwidth | peak MB |\n| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        print(f"| {r['batch']} | {r['name']} | {r['ms']:.1f} | {number(r['tokens'], '.1f')} | {number(r['to_transformers'], '.2f')} | {number(r['of_bandwidth'], '.2f')} | {r['peak_mb']:.0f} |", flush=True)


def main():
    """Read the flags and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="rows that are continued at once")
    parser.add_argument("--preset", default="gpt2", help="the model's preset, with weights drawn at random")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens a run")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is asked")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each")
    parser.add_argument("--only", nargs="+", choices=list(KINDS.values()), help="contestants; all unless given")
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.preset, args.batch[0], args.tokens, args.threads)
        return
    print(contest.show_machine() + f", {args.threads} threads")
    rows = []
    for batch in args.batch:
        found = contest_of(args.preset, batch, [n for n, k in KINDS.items() if not args.only or k in args.only], args.tokens, args.rounds, args.threads)
        rows += found
        show(found)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": contest.machine(), "threads": args.threads, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
