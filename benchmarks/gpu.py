"""What a GPU can say of the cupy engine in eight minutes: its tests, steps beside PyTorch's, mixed precision.

python benchmarks/gpu.py --results gpu-NAME
"""

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import contest
import device

from numgpt.errors import InputError

ROOT = Path(__file__).parent.parent
LIMIT = 480  # seconds of a visit
KEPT = 30  # of them for the end of a part that was stopped, and the page


class Part(NamedTuple):
    """A command of the visit, and the most seconds that it gets; what it leaves is the next one's."""

    title: str
    command: tuple[str, ...]
    seconds: int


PYTEST = (sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=short", "--maxfail=20", "--durations=5")
TESTS = "tests/test_cupy_device.py"
STEP = (sys.executable, "benchmarks/train_step.py", "--engine", "cupy", "--rounds", "7")
# The twins first: what a new GPU, or a new twin, most likely gets wrong. The timings come before what takes
# longest, so that a slow machine has them too.
FIRST = "errs_no_more or windows or same_bits"
PARTS = (
    Part("the twins' errors and bits", (*PYTEST, TESTS, "-k", FIRST), 200),
    Part(
        "a training step of a LLaMA and of a GPT-2 of its size",
        (*STEP, "--shape", "l", "b", "--only", "numgpt", "torch", "torch-fused"),
        120,
    ),
    Part(
        "products of bf16, fp16 and TF32, and steps in them",
        (sys.executable, "benchmarks/precision.py", "--engine", "cupy", "--shape", "b", "c", "--rounds", "5"),
        60,
    ),
    Part("all other tests of the engine", (*PYTEST, TESTS, "-k", f"not ({FIRST})"), LIMIT),
)


def visit(parts, page, limit):
    """Run the parts one after the other, for at most so many seconds in all; returns whether all went well.

    The page is written after each, so that a machine that is taken away leaves what was found until then.
    """
    began, all_well = time.monotonic(), True
    for part in parts:
        left = limit - KEPT - (time.monotonic() - began)
        page.say(f"\n== {part.title}")
        if left <= 0:
            page.say("not reached: the time was over")
            all_well = False
            continue
        all_well &= run(part, min(part.seconds, left), page)
        page.write()
    page.say(f"\n{time.monotonic() - began:.0f} s in all; {'all well' if all_well else 'not all well'}")
    page.write()
    return all_well


def run(part, seconds, page):
    """A part's lines, said as they come; returns whether it ended in time, and well."""
    started, stopped = time.monotonic(), threading.Event()
    process = subprocess.Popen(
        part.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, errors="replace"
    )

    def stop():
        stopped.set()
        process.send_signal(signal.SIGINT)  # upon which pytest still tells what has failed
        try:
            process.wait(KEPT / 2)
        except subprocess.TimeoutExpired:
            process.kill()

    alarm = threading.Timer(seconds, stop)
    alarm.start()
    for line in process.stdout:
        page.say(line.rstrip())
    process.stdout.close()
    status = process.wait()
    alarm.cancel()
    took = f"{time.monotonic() - started:.0f} s"
    if stopped.is_set():
        page.say(f"-- stopped after {took}: what is not above was not reached")
    else:
        page.say(f"-- {took}, exit status {status}")
    return status == 0 and not stopped.is_set()


def main(argv, parts=PARTS, limit=LIMIT):
    """Read the flags and run the visit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", metavar="NAME", required=True, help="a page benchmarks/results/NAME.md")
    parser.add_argument("--commit", help="numgpt's commit, as the page shows it (default: what git says)")
    args = parser.parse_args(argv)
    device.expect(["numgpt"], "cupy")
    page = contest.Page(args.results, f"python benchmarks/gpu.py {' '.join(argv)}")
    page.say(contest.show_machine(device.machine([{"about": device.Cupy().about()}], args.commit)))
    page.write()
    if not visit(parts, page, limit):
        raise InputError(f"gpu: not all went well, expected it to: read benchmarks/results/{args.results}.md")


if __name__ == "__main__":
    contest.run(main)
