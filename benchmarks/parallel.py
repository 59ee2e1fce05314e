"""A training step on two ranks of one thread each, beside one process with two threads, in one run.

python benchmarks/parallel.py --shape a b c
python benchmarks/parallel.py --shape a b --shards 2 4 8    finer shards, which fit more ranks

The batch of a step is the same for all. Two cores show what a rank costs that takes a thread's place; they
show nothing of larger machines, of which numgpt/parallel/README.md computes some on paper.
"""

import argparse
import os
import shutil
import statistics
import sys
import time

import contest
import shapes

from numgpt.errors import InputError

# What a rank does besides its own batches: calls of Ranks with their waiting, and the sums of gradients.
CALLS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier")
TABLE = """\
| shape | tokens | | ms a step | to one process | communication |
| --- | ---: | --- | ---: | ---: | ---: |"""


class Rows:
    """An objective whose steps are one batch of rows, cut into as many as are asked for."""

    digest, source = "", "random tokens"

    def __init__(self, tokens, targets, shards):
        self.parts = list(zip(*(array.reshape(shards, -1, array.shape[-1]) for array in (tokens, targets))))
        self.whole = tokens.size

    def batch(self, step, n):
        """Part n of the rows."""
        from numgpt.layers import transformer
        from numgpt.training.objective import Batch

        x, y = self.parts[n]
        return Batch((x, y, self.whole), transformer.loss, y.size, of=self.whole)


def solo(shape, threads):
    """A step of one process: (the step, the seconds of communication, which are 0)."""
    import numgpt

    numgpt.set_threads(threads)
    model, tokens, targets = shapes.make(shape)
    optimizer = numgpt.AdamW(model)
    grads = model.params.like()

    def step():
        loss, _ = model.loss_and_grads(tokens, targets, out=grads)
        optimizer.step(grads, lr=1e-4)
        return float(loss)

    return step, lambda: 0.0


def ranked(shape, shards, ranks, window):
    """A step of one of several ranks: (the step, the seconds of communication so far)."""
    import numgpt
    from numgpt.parallel.data import DataParallel

    numgpt.set_threads(1)
    model, tokens, targets = shapes.make(shape)
    optimizer = numgpt.AdamW(model)
    objective = Rows(tokens, targets, shards)
    if not window:
        ranks.window = lambda n, dtype: None
    distribution = DataParallel(ranks)
    spent = [0.0]
    _time_calls(ranks, distribution, spent)
    grads = distribution.begin(model, optimizer, shards, {})
    done = [0]

    def step():
        loss, _ = distribution.loss_and_grads(model, objective, done[0], shards, grads, 1.0)
        distribution.update(optimizer, grads, 1e-4, distribution.norm(optimizer, grads), None)
        done[0] += 1
        return loss

    return step, lambda: spent[0]


def _time_calls(ranks, distribution, spent):
    """Have what a rank does for the others add its seconds to spent; calls within calls count once."""
    inside = [0]

    def timed(function):
        def call(*args, **options):
            begun = time.perf_counter()
            inside[0] += 1
            try:
                return function(*args, **options)
            finally:
                inside[0] -= 1
                if not inside[0]:
                    spent[0] += time.perf_counter() - begun

        return call

    for name in CALLS:
        setattr(ranks, name, timed(getattr(ranks, name)))
    for name in ("_add_up", "_exchange"):
        setattr(distribution, name, timed(getattr(distribution, name)))


def worker(shape, shards, window):
    """One contestant, or a rank of one: the first takes requests, and the others do what it does."""
    from numgpt.parallel.mpi_ranks import world

    ranks = world()
    if shards:
        step, communicated = ranked(shape, shards, ranks, window)
    else:
        step, communicated = solo(shape, os.cpu_count())
    repeat = [1]

    def timed():
        seconds, before = [], communicated()
        begun = time.perf_counter()
        for _ in range(repeat[0]):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        share = (communicated() - before) / (time.perf_counter() - begun)
        return {"seconds": statistics.median(seconds), "share": share}

    def warm():
        losses = [step() for _ in range(3)]
        once = timed()["seconds"]
        repeat[0] = int(ranks.broadcast(_number(ranks, max(1, round(0.3 / once)))))
        return {"losses": losses}

    answers = {"first": lambda: {"loss": step()}, "warm": warm, "time": timed}
    if ranks.size == 1:
        contest.serve(answers)
        return

    def tell(name):
        ranks.gather_texts(name)
        return answers[name]()

    if ranks.rank == 0:
        contest.serve({name: lambda name=name: tell(name) for name in answers})
        ranks.gather_texts("end")
        return
    while (name := ranks.gather_texts("")[0]) != "end":
        answers[name]()


def _number(ranks, n):
    """A number that the first rank gives to all."""
    import numpy as np

    return np.array(n) if ranks.rank == 0 else None


def contest_of(shape, args, page):
    """Time the contestants in turn, and print a row of each."""
    here = [sys.executable, __file__, "--shape", shape]
    alone = contest.Contestant("one process", [*here, "--worker", "0"])
    contestants = [alone]
    for shards in args.shards:
        for window in [True, False] if args.messages else [True]:
            how = "" if window else ", by messages"
            name = f"{args.ranks} ranks, {shards} shards{how}"
            command = ["mpiexec", "-n", str(args.ranks), *here, "--worker", str(shards)]
            contestants.append(contest.Contestant(name, command + ([] if window else ["--apart"])))
    entered, first = contest.enter(contestants, "first", page.say)
    shares = {name: [] for name in entered}
    losses = {name: contestant.ask("warm")["losses"] for name, contestant in entered.items()}
    for name, found in losses.items():
        apart = max(abs(a - b) for a, b in zip(found, losses["one process"]))
        assert apart < 1e-4, f"{name}: losses {apart} from those of one process"
    for _ in range(args.rounds):
        for name, contestant in entered.items():
            time.sleep(contest.PAUSE)
            answer = contestant.ask("time")
            contestant.seconds.append(answer["seconds"])
            shares[name].append(answer["share"])
    for name, contestant in entered.items():
        contestant.close()
        ms = 1000 * statistics.median(contestant.seconds)
        to_alone = contest.ratio(contestant, entered["one process"])
        rows = shapes.SHAPES[shape]["batch"]
        share = f"{statistics.median(shares[name]):.1%}" if name != "one process" else ""
        page.say(f"| {shape} | {rows[0] * rows[1]:,} | {name} | {ms:.1f} | {to_alone:.3f} | {share} |")


def main(argv):
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=list(shapes.SHAPES), default=["a"], help=shapes.HELP)
    parser.add_argument("--shards", nargs="+", type=int, default=[2], help="batches of a step (default: 2)")
    parser.add_argument("--ranks", type=int, default=2, help="how many ranks (default: 2)")
    parser.add_argument("--messages", action="store_true", help="time ranks without memory in common, too")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is asked (default: 15)")
    parser.add_argument("--results", metavar="NAME", help="write to benchmarks/results/NAME.md")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker is not None:
        worker(args.shape[0], args.worker, not args.apart)
        return
    if shutil.which("mpiexec") is None:
        raise InputError("benchmark: there is no mpiexec, expected one: pip install '.[mpi]'")
    page = contest.Page(args.results, f"python benchmarks/parallel.py {' '.join(argv)}")
    page.say(contest.show_machine())
    page.say(TABLE)
    for shape in args.shape:
        contest_of(shape, args, page)
    page.write()


if __name__ == "__main__":
    contest.run(main)
