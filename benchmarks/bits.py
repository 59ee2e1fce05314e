"""The bits of training: SHA-256 of parameters and moments after 20 steps.

    python benchmarks/bits.py

Run it on one machine before and after a change that should change no number: the lines must be the same.
Other processors, and other versions of NumPy, Numba or the BLAS, sum in other orders and print other lines.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import random
import tempfile
from pathlib import Path

from numgpt.__main__ import main as numgpt

# Together they cover both positions of the norms, every activation, no biases, an untied head, an odd width,
# one head and many, and batches large enough for the fused block (512 rows) and too small for it.
CONFIGS = {
    "GPT-2": "--n-layer 2 --n-head 4 --n-embd 32 --block-size 64 --batch-size 12",
    "GPT-2, few rows": "--n-layer 2 --n-head 2 --n-embd 24 --block-size 16 --batch-size 3 --activation gelu",
    "GPT-1": (
        "--n-layer 2 --n-head 3 --n-embd 36 --block-size 32 --batch-size 16 --norm-position post --activation"
        " gelu"
    ),
    "no biases, untied": (
        "--n-layer 2 --n-head 4 --n-embd 32 --block-size 64 --batch-size 9 --no-bias --no-tied --n-inner 50"
    ),
    "ReLU, float64": (
        "--n-layer 1 --n-head 1 --n-embd 20 --block-size 24 --batch-size 8 --activation relu --dtype float64"
    ),
}
WAYS = {"plain": "", "dropout": "--dropout 0.2", "accumulation": "--accumulate 3", "resume": ""}
STEPS = "--lr 1e-3 --warmup 5 --eval-interval 10 --eval-iters 2 --save-interval 10 --sample-tokens 0 --seed 7"


def text():
    """Some 40,000 characters that depend on Python's own generator alone."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 7))) for _ in range(300)]
    return "\n\n".join(" ".join(draw.choices(words, k=60)) + "." for _ in range(130))


def run(*arguments):
    """Run a numgpt command silently and return its output; print it if the command fails."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = numgpt([str(a) for a in arguments])
    if status != 0:
        raise SystemExit(f"numgpt {' '.join(map(str, arguments))}: status {status}\n{output.getvalue()}")
    return output.getvalue()


def digests(folder, data, engine, config, way):
    """Digests of the parameters and moments after 20 steps, and of a text that the model then writes."""
    flags = [
        *"train --steps 20 --out".split(),
        folder,
        "--data",
        data,
        "--tokenizer",
        "chars",
        "--engine",
        engine,
    ]
    flags += f"{STEPS} {CONFIGS[config]} {WAYS[way]}".split()
    if way == "resume":
        run(*flags, "--steps", 10)
        run("train", "--resume", "--out", folder, "--steps", 20, "--engine", engine, "--sample-tokens", 0)
    else:
        run(*flags)
    drawn = "--max-new-tokens 20 --seed 3 --temperature 0.8 --top-p 1 --prompt the".split()
    sample = run("sample", folder, *drawn, "--engine", engine)
    files = [(folder / "last" / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")]
    return [hashlib.sha256(b).hexdigest()[:16] for b in (*files, sample.encode())]


def main(argv=None):
    """Print a line for each config, engine and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--engines", nargs="+", default=["reference", "numba"], choices=("reference", "numba")
    )
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=CONFIGS, metavar="NAME")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "text.txt"
        data.write_text(text(), encoding="utf-8")
        print(f"{'config':20}{'engine':12}{'way':14}{'parameters':18}{'moments':18}{'a text of it'}")
        for i, (config, engine, way) in enumerate(itertools.product(args.configs, args.engines, WAYS)):
            columns = digests(Path(folder) / str(i), data, engine, config, way)
            print(f"{config:20}{engine:12}{way:14}" + "  ".join(columns), flush=True)


if __name__ == "__main__":
    main()
