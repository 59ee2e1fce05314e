"""The CPU run of nanoGPT's README, the whole process, against numgpt's of the same size.

    python benchmarks/nanogpt_command.py --nanogpt FOLDER

FOLDER is a checkout in which data/shakespeare_char/prepare.py has been run. Both do 2,000 updates of 12 × 64
tokens and 9 evaluations of 40 batches, nanoGPT half of them on the training text; and nanoGPT does a 2,001st
update.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import contest

THEIRS = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100"
    " --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000"
    " --lr_decay_iters=2000 --dropout=0.0"
)
OURS = (
    "--block-size 64 --batch-size 12 --n-layer 4 --n-head 4 --n-embd 128 --no-bias --dropout 0 --steps 2000"
    " --lr 1e-3 --warmup 100 --eval-interval 250 --eval-iters 40 --split tail --no-dedup --sample-tokens 0"
    " --tokenizer chars"
)


def run(command, folder):
    """Run a command: (seconds, what it printed)."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - start, done.stdout + done.stderr


def held_out_loss(log):
    """The last held-out loss in a log.jsonl of numgpt's."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return [line["held_out_loss"] for line in lines if "held_out_loss" in line][-1]


def main():
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nanogpt", type=Path, required=True, help="a checkout of nanoGPT with its characters prepared"
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each runs, in turn (default: 2)")
    parser.add_argument("--json", help="a file for the figures")
    args = parser.parse_args()
    text = (args.nanogpt / "data/shakespeare_char/input.txt").resolve()
    if not text.exists():
        sys.exit(
            f"{text} is not there, expected nanoGPT's data: run data/shakespeare_char/prepare.py in"
            f" {args.nanogpt}"
        )
    print(contest.show_machine())
    seconds, losses = {"nanoGPT": [], "numgpt": []}, {}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as out:
            theirs = [sys.executable, "train.py", *THEIRS.split(), f"--out_dir={out}/nanogpt"]
            took, output = run(theirs, args.nanogpt)
            seconds["nanoGPT"].append(took)
            losses["nanoGPT"] = re.findall(r"val loss ([\d.]+)", output)[-1]
            ours = [sys.executable, "-m", "numgpt", "train", "--data", text, "--out", f"{out}/numgpt"]
            took, _ = run([*ours, *OURS.split()], out)
            seconds["numgpt"].append(took)
            losses["numgpt"] = held_out_loss(Path(out) / "numgpt" / "log.jsonl")
        turns = (
            f"{name} {took[-1]:.1f} s, held-out loss {float(losses[name]):.4f}"
            for name, took in seconds.items()
        )
        print(", ".join(turns), flush=True)
    ratio = statistics.median(a / b for a, b in zip(seconds["numgpt"], seconds["nanoGPT"]))
    print(f"numgpt to nanoGPT: {ratio:.2f}")
    if args.json:
        figures = {"machine": contest.machine(), "seconds": seconds, "losses": losses, "ratio": ratio}
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
