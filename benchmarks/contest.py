"""A contest between processes: each contestant lives in its own, and they are asked in turn, A B A B …, so
that the machine's moods hit all alike. What counts is the median of the paired ratios.
"""

import contextlib
import json
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
# seconds before each turn: the threads of the one before may still wait for work awake (OpenMP's do) and take
# a processor
PAUSE = 0.3


class Contestant:
    """A process that answers lines of JSON: {"do": name, …} → {…}."""

    def __init__(self, name, command, environment=None):
        self.name, self.seconds, self.started = name, [], time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )

    def ask(self, do, **arguments):
        """Send a request, wait for the answer; None where the process has ended."""
        try:
            self.process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else None

    def close(self):
        """End the process."""
        with contextlib.suppress(
            BrokenPipeError
        ):  # it may have ended by itself, and what it was asked not have reached it
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def enter(contestants, do, say=print):
    """({name: contestant}, {name: answer}): ask each for a first thing; who does not answer does not run
    here, and is left out.
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
            "benchmark: no contestant runs here, expected one at least: what each of them said stands above"
        )
    return entered, answers


class Page:
    """What a benchmark prints, kept line by line: write() puts it into results/, as it was printed, under the
    command that printed it.

    name: of the file, without its ending; None: nothing is written.
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
        help="cupy: numgpt and PyTorch both on the GPU; numba, both on the CPU, unless given",
    )
    parser.add_argument(
        "--results", metavar="NAME", help="write what is printed to benchmarks/results/NAME.md"
    )
    parser.add_argument(
        "--commit", help="what a GPU's page says as numgpt's commit; git is asked unless given"
    )


def run(main, argv=None):
    """A benchmark as a command: what cannot run is one line, and exit status 2."""
    try:
        main(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


def commit():
    """The commit of the numgpt that is measured, "-dirty" added where files differ from it; None where it is
    in no repository.
    """
    import numgpt

    def git(*arguments):
        done = subprocess.run(
            ["git", "-C", Path(numgpt.__file__).parent, *arguments], capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return (
            git("ls-files", "__init__.py") and git("describe", "--always", "--dirty", "--exclude=*")
        ) or None
    except OSError:
        return None


def apart(found, most, what):
    """The largest difference of any of these lists of numbers to the first; AssertionError where it is not at
    most `most`, NaN included.
    """
    differences = [
        abs(a - b)
        for numbers in found.values()
        for a, b in zip(numbers, next(iter(found.values())), strict=True)
    ]
    assert all(d <= most for d in differences), (
        f"{what} lie {max(differences):.1e} apart, expected the same within {most}: "
        + ", ".join(f"{n} {x[:3]}" for n, x in found.items())
    )
    return max(differences, default=0.0)


def number(x, form):
    """A figure of a table, empty where there is none."""
    return "" if x is None else format(x, form)


def serve(answers):
    """The contestant's side: answers is a mapping from request to function; a function's result is sent back."""
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answers[request.pop("do")](**request)), flush=True)


def time_in_turn(contestants, rounds):
    """Ask all for a timed piece of work, rounds times in turn; fills .seconds."""
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

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine():
    """What the figures were taken on: processor, cores, versions."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    versions = {}
    for package in ("numpy", "numba", "torch", "transformers", "mkl"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def show_machine(found=None):
    """machine(), or what was found of one, as a line."""
    return ", ".join(f"{k} {v}" for k, v in (found or machine()).items())
