"""A contest between processes: each contestant lives in its own, and they are asked in turn, A B A B …, so that the machine's moods
hit all alike. What counts is the median of the paired ratios."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata


PAUSE = 0.3  # seconds before each turn: the threads of the one before may still wait for work awake (OpenMP's do) and take a processor


class Contestant:
    """A process that answers lines of JSON: {"do": name, …} → {…}."""

    def __init__(self, name, command, environment=None):
        self.name, self.seconds, self.started = name, [], time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {}))

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
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def enter(contestants, do):
    """({name: contestant}, {name: answer}): ask each for a first thing; who does not answer does not run here, and is left out."""
    entered, answers = {}, {}
    for contestant in contestants:
        answer = contestant.ask(do)
        if answer is None:
            print(f"  {contestant.name}: does not run here")
        else:
            entered[contestant.name], answers[contestant.name] = contestant, answer
    return entered, answers


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


def show_machine():
    """machine() as a line."""
    return ", ".join(f"{k} {v}" for k, v in machine().items())
