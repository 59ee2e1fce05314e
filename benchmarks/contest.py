"""A contest between processes, which are timed in turn.

Each contestant lives in a process of its own. They are asked A B A B …, so that the machine's moods hit all
alike, and what counts is the median of the paired ratios.
"""

import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from numgpt.errors import InputError

RESULTS = Path(__file__).parent / "results"
# Seconds before each turn: the threads of the one before may still spin (OpenMP's do) on a processor
# that the next one needs.
PAUSE = 0.3


class Contestant:
    """A process that answers lines of JSON: {"do": name, …} → {…}."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.seconds = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )

    def ask(self, do, **arguments):
        """Send a request and wait for the answer; None if the process has ended."""
        try:
            self.process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else None

    def close(self):
        """End the process."""
        # It may have ended by itself, before the last request reached it.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def enter(contestants, do, say=print):
    """Ask each for a first thing: ({name: contestant}, {name: answer}) of those that run here.

    One that does not answer is left out.
    """
    entered, answers = {}, {}
    for contestant in contestants:
        answer = contestant.ask(do)
        if answer is None:
            say(f"  {contestant.name}: does not run here")
            contestant.close()
        else:
            entered[contestant.name], answers[contestant.name] = contestant, answer
    if not entered:
        raise InputError(
            "benchmark: no contestant runs here, expected at least one: see above what each of them said"
        )
    return entered, answers


class Page:
    """What a benchmark prints, kept line by line: write() puts it into results/, below the command.

    name: the file's name without its ending; None writes nothing.
    """

    def __init__(self, name, command):
        if name is not None and not (name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
            raise InputError(
                f"benchmark: --results is {name!r}, expected a name of letters, digits, - and _: it becomes"
                " benchmarks/results/NAME.md"
            )
        self.name, self.lines = name, [f"$ {command}"]

    def say(self, line):
        """Print a line and keep it."""
        print(line, flush=True)
        self.lines.append(line)

    def write(self):
        """Write results/NAME.md."""
        if self.name is not None:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self.name}.md").write_text("\n".join(["```text", *self.lines, "```", ""]), "utf-8")


def add_flags(parser):
    """The flags of a benchmark that runs on a GPU too."""
    parser.add_argument(
        "--engine",
        choices=("numba", "cupy"),
        default="numba",
        help="cupy: numgpt and PyTorch both on the GPU; numba: both on the CPU (default: numba)",
    )
    parser.add_argument(
        "--results", metavar="NAME", help="write what is printed to benchmarks/results/NAME.md"
    )
    parser.add_argument("--commit", help="numgpt's commit, as a GPU's page shows it (default: what git says)")


def run(main, argv=None):
    """A benchmark as a command: what cannot run is one line, and exit status 2."""
    try:
        main(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


def commit():
    """The commit of the numgpt that is measured, with "-dirty" where files differ from it.

    None where it lies in no repository.
    """
    import numgpt

    def git(*arguments):
        command = ["git", "-C", Path(numgpt.__file__).parent, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        tracked = git("ls-files", "__init__.py")
        return (tracked and git("describe", "--always", "--dirty", "--exclude=*")) or None
    except OSError:
        return None


def apart(numbers, most, what):
    """The largest difference between any of these lists of numbers, {name: list}, and the first.

    AssertionError where it is over `most`, or NaN.
    """
    first = next(iter(numbers.values()))
    differences = [abs(a - b) for each in numbers.values() for a, b in zip(each, first, strict=True)]
    heads = ", ".join(f"{name} {each[:3]}" for name, each in numbers.items())
    largest = max(differences, key=lambda d: math.inf if math.isnan(d) else d, default=0.0)
    assert largest <= most, f"{what} lie {largest:.1e} apart, expected the same within {most}: {heads}"
    return largest


def number(x, form):
    """A figure of a table; empty where there is none."""
    return "" if x is None else format(x, form)


def serve(answers):
    """The contestant's side: answers maps each request to the function whose result is sent back."""
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answers[request.pop("do")](**request)), flush=True)


def time_in_turn(contestants, rounds):
    """Ask all for a timed piece of work, `rounds` times in turn; fills their .seconds."""
    for _ in range(rounds):
        for contestant in contestants:
            time.sleep(PAUSE)
            contestant.seconds.append(contestant.ask("time")["seconds"])


def ratio(a, b):
    """The median of the paired ratios of two contestants' times."""
    return statistics.median(x / y for x, y in zip(a.seconds, b.seconds))


def peak_memory():
    """The largest resident size of this process so far, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine():
    """What the figures were taken on: processor, cores, versions."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = (line.split(":")[1].strip() for line in file if line.startswith("model name"))
            cpu = next(names, cpu)
    versions = {}
    for package in ("numpy", "numba", "torch", "transformers", "mkl"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def show_machine(facts=None):
    """machine(), or the facts about another, as a line."""
    return ", ".join(f"{k} {v}" for k, v in (facts or machine()).items())
