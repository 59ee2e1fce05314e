"""A finished run as a model that ships: numgpt/models/NAME, in float16, with its log and where it comes from.

Of the log the first hundred steps are kept, which a test replays, and from there on every fiftieth and each
measurement of the held-out loss.

Usage: python benchmarks/ship_model.py RUN NAME --commit HASH --command "numgpt train ..."
"""

import argparse
import hashlib
import json
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import numgpt
from numgpt.data import corpora
from numgpt.engine import blas
from numgpt.storage.shipped import MODELS

FIRST, EVERY = 100, 50  # steps of the log


def processor():
    """The processor, so that another one of the same name is another."""
    text = (
        Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else platform.processor()
    )
    lines = [line.partition(":") for line in text.partition("\n\n")[0].splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    return ", ".join(facts.get(name, "?") for name in ("model name", "cpu family", "model", "stepping"))


def machine():
    """What the bits of a run depend on, besides numgpt."""
    versions = {name: metadata.version(name) for name in ("numpy", "numba")}
    return {"processor": processor(), "blas": blas.NAME} | versions


def kept(line):
    """Whether a line of the log ships."""
    entry = json.loads(line)
    return entry["step"] <= FIRST or entry["step"] % EVERY == 0 or "held_out_loss" in entry


def main():
    """Write the folder, and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("name", help="austen for numgpt:austen")
    parser.add_argument("--commit", required=True, help="of numgpt, that trained it")
    parser.add_argument("--command", required=True, help="that trained it")
    args = parser.parse_args()
    folder = MODELS / args.name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as new:
        numgpt.GPT.load(args.run).save(new, dtype="float16")
        for path in Path(new).iterdir():
            shutil.copyfile(path, folder / path.name)
    log = [line for line in (args.run / "log.jsonl").read_text("utf-8").splitlines() if kept(line)]
    (folder / "log.jsonl").write_text("\n".join(log) + "\n", "utf-8")
    origin = {
        "command": args.command,
        "commit": args.commit,
        "machine": machine(),
        "text": corpora.NAMES[0],
        "text_sha256": hashlib.sha256(corpora.austen().encode()).hexdigest(),
        "licence": "MIT",
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", "utf-8")
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
