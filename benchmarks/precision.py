"""What a precision costs, or saves: products of bf16, fp16 and TF32, and steps of training in them.

    python benchmarks/precision.py --shape a
    python benchmarks/precision.py --engine cupy --shape b e --results NAME

First the error of a product, against float64 of the rounded operands: it must be that of float32 sums. Then
whole steps, AdamW's among them, in turn: milliseconds, to float32's, and how far the losses lie apart after
the same updates. A format without products on the engine is emulated, and called so.
"""

import argparse
import os
import statistics
import time

import contest
import device
import numpy as np
import shapes

import numgpt
from numgpt import engine
from numgpt.architecture.config import PRECISIONS, Training
from numgpt.engine.precision import of_products, product, rounded
from numgpt.errors import InputError
from numgpt.layers import transformer
from numgpt.training.trainer import Trainer

LIMIT = 1e-6  # of a product, relative: float32 sums
TERMS = 2048
WARM = 2  # steps before the first that is timed
PAUSE = 0.1  # seconds before a turn


def error_of_products(name):
    """The error of products in a format against float64 of its operands, in all transpositions."""
    rng, worst = np.random.default_rng(0), 0.0
    for left, right in ((False, False), (True, False), (False, True)):
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((96, TERMS), (TERMS, 80)))
        exact = rounded(a, name).astype(np.float64) @ rounded(b, name).astype(np.float64)
        a, b = engine.here(*(x.T.copy() if turned else x for x, turned in ((a, left), (b, right))))
        with of_products(name):
            found = product(a.T if left else a, b.T if right else b)
        worst = max(worst, np.linalg.norm(engine.home(found) - exact) / np.linalg.norm(exact))
    return worst


class Same:
    """An objective that gives one batch, again and again."""

    def __init__(self, *inputs):
        self.inputs = inputs

    def batch(self, step, n):
        """The batch, the loss of the next token, and how many tokens count."""
        return self.inputs, transformer.loss, self.inputs[1].size


class Runner:
    """A model that is trained in a precision, a step when it is asked."""

    def __init__(self, shape, name, place):
        model, tokens, targets = shapes.make(shape)
        training = Training(precision=name, emulate_precision=True, lr=1e-4, warmup=0)
        objective = Same(tokens, targets)
        self.trainer = Trainer(model.to(engine.current()), None, training, objective=objective)
        self.name, self.place, self.seconds, self.losses = name, place, [], []

    def step(self):
        """One step; its seconds and its loss are kept."""
        time.sleep(PAUSE)
        begun = time.perf_counter()
        entry = self.trainer.step()
        self.place.wait()
        self.seconds.append(time.perf_counter() - begun)
        self.losses.append(float(engine.home(entry["loss"])))


def compare(shape, names, rounds, place, page):
    """A row of the table for each precision."""
    runners = [Runner(shape, name, place) for name in names]
    for _ in range(WARM + rounds):
        for runner in runners:
            runner.step()
    base = runners[0]
    for r in runners:
        own = r.seconds[WARM:]
        ratio = statistics.median(a / b for a, b in zip(own, base.seconds[WARM:]))
        apart = max(abs(a - b) for a, b in zip(r.losses, base.losses))
        what = f"{r.name}, emulated" if r.trainer.mixed.is_emulated else r.name
        page.say(f"| {shape} | {what} | {1e3 * statistics.median(own):.1f} | {ratio:.2f} | {apart:.1e} |")


def main(argv):
    """Read the flags, hold the products to their law, and time the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    contest.add_flags(parser)
    parser.add_argument(
        "--reference", action="store_true", help="numgpt's specification, in the place of --engine"
    )
    parser.add_argument("--shape", nargs="+", choices=shapes.SHAPES, default=["a"], help=shapes.HELP)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each precision (default: 7)")
    args = parser.parse_args(argv)
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)  # a contest in float32 forbids what is measured here
    numgpt.use("reference" if args.reference else args.engine)
    place = device.Cupy() if args.engine == "cupy" else device.Host()
    page = contest.Page(args.results, f"python benchmarks/precision.py {' '.join(argv)}")
    page.say(contest.show_machine(device.machine([{"about": place.about()}], args.commit)))
    page.say(f"engine {engine.current()}\n")
    for name in PRECISIONS[1:]:
        error = error_of_products(name)
        page.say(f"a product of {TERMS} terms in {name}: error {error:.1e} to float64 of its operands")
        if not error <= LIMIT and (name, args.engine) != (
            "tf32",
            "cupy",
        ):  # how a GPU rounds to it is its own
            raise InputError(f"precision: products of {name} err by {error:.1e}, expected at most {LIMIT}")
    page.say("\n| shape | products in | ms a step | to float32 | losses apart |")
    page.say("| --- | --- | ---: | ---: | ---: |")
    for shape in args.shape:
        compare(shape, PRECISIONS, args.rounds, place, page)
    page.write()


if __name__ == "__main__":
    contest.run(main)
