"""Activation patching over all layers and positions, beside TransformerLens with the same weights.

    python benchmarks/interpretability.py --lens lens/bin/python

A model of GPT-2's shape with random weights reads a prompt of 20 tokens and a corrupted one. Each side runs
the clean prompt, and puts one activation of it into the corrupted run, for every layer and position, or
every head too (--at heads). What both find is compared before anything is timed. Without --lens numgpt is
timed alone.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import contest


def task_of(model, at, tokens):
    """Two prompts that differ at one place, and two answers, by chance."""
    import numpy as np

    rng = np.random.default_rng(0)
    clean = rng.integers(0, model.config.vocab_size, tokens)
    corrupted = clean.copy()
    corrupted[tokens // 3] = (clean[tokens // 3] + 1) % model.config.vocab_size
    answer, wrong = rng.integers(0, model.config.vocab_size, 2).tolist()
    return {
        "clean": clean.tolist(), "corrupted": corrupted.tolist(), "answer": answer, "wrong": wrong, "at": at
    }  # fmt: skip


def worker(folder, threads):
    """Our side of the contest."""
    import numgpt
    from numgpt import interpretability as inside

    numgpt.use("numba")
    numgpt.set_threads(threads)
    task = json.loads((folder / "task.json").read_text("utf-8"))
    model = numgpt.GPT.load(folder)
    metric = inside.logit_difference(model, task["answer"], task["wrong"])

    def patched():
        begin = time.perf_counter()
        found = inside.activation_patching(model, task["clean"], task["corrupted"], metric, task["at"])
        return {"seconds": time.perf_counter() - begin, "metric": found.metric.ravel().tolist()}

    contest.serve({"first": patched, "time": lambda: {"seconds": patched()["seconds"]}})


def prepared(folder, args):
    """Save the model and the task into a folder."""
    import numgpt

    if args.preset.startswith("numgpt:"):
        model = numgpt.GPT.load(args.preset)
    else:
        model = numgpt.GPT(numgpt.preset(args.preset), seed=0)
    tokens = min(args.tokens, model.config.block_size)
    model.tokenizer = None
    model.save(folder, layout="hf")
    (folder / "task.json").write_text(json.dumps(task_of(model, args.at, tokens)), "utf-8")
    return model.n_params, tokens


def main(argv):
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="gpt2", help="a preset, or a model that ships (default: gpt2)")
    parser.add_argument("--tokens", type=int, default=20, help="of the prompts (default: 20)")
    parser.add_argument("--at", choices=("resid_pre", "heads"), default="resid_pre")
    parser.add_argument("--lens", metavar="PYTHON", help="the Python that has TransformerLens")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is asked (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all processors")
    parser.add_argument(
        "--results", metavar="NAME", help="write what is printed to benchmarks/results/NAME.md"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args.worker, args.threads)
        return
    page = contest.Page(args.results, f"python benchmarks/interpretability.py {' '.join(argv)}".rstrip())
    page.say(contest.show_machine() + f", {args.threads} threads")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        n_params, tokens = prepared(folder, args)
        page.say(f"{args.preset}, {n_params:,} parameters, {tokens} tokens, {args.at}")
        compare(page, folder, args)
    page.write()


def compare(page, folder, args):
    """Ask both in turn, and print the table."""
    threads = str(args.threads)
    commands = {"numgpt": [sys.executable, __file__, "--worker", str(folder), "--threads", threads]}
    if args.lens:
        script = str(Path(__file__).with_name("lens_patching.py"))
        commands["TransformerLens"] = [args.lens, script, str(folder), threads]
    offline = {"HF_HUB_OFFLINE": "1"}
    starting = (contest.Contestant(name, command, offline) for name, command in commands.items())
    entered, answers = contest.enter(starting, "first", page.say)
    sites = len(next(iter(answers.values()))["metric"])
    contest.apart({name: answer["metric"] for name, answer in answers.items()}, 2e-3, "metrics of sites")
    contest.time_in_turn(list(entered.values()), args.rounds)
    page.say("| | s for all | sites a second | to TransformerLens |\n| --- | ---: | ---: | ---: |")
    for name, c in entered.items():
        seconds = statistics.median(c.seconds)
        other = entered.get("TransformerLens")
        ratio = contest.ratio(c, other) if other else None
        page.say(f"| {name} | {seconds:.2f} | {sites / seconds:.0f} | {contest.number(ratio, '.2f')} |")
    for contestant in entered.values():
        contestant.close()


if __name__ == "__main__":
    contest.run(main)
