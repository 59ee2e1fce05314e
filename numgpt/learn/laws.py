"""The exercises' faults before the laws of numgpt check: does a checker that knows no exercise catch them?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import gradcheck
from . import contract, judging, starting
from .exercise import Case, Exercise
from .exercises import NAMES
from .variation import exercise

# Another word for a law: the function does not run, or what it returns is no gradient at all.
CONTRACT = "contract"
STEP, LIMIT = 1e-6, 1e-7  # of the differences along a random direction, and what they may be off
NO_GRADIENT = "wrong in a step that no gradient shows"


def held(names: Sequence[str] = ()) -> Iterator[tuple[str, str | None]]:
    """(what it is, the law that catches it, or None) of each fault in an exercise that has a forward.

    names: parts of the descriptions of those that are wanted; all where there are none.
    """
    for name in NAMES:
        wanted = exercise(name)
        sizes = {letter: size + 1 for letter, size in wanted.sizes.items()}  # where no size is written out
        cases = [make(np.random.default_rng(0), **sizes) for make in (wanted.case, wanted.other_case) if make]
        if any(case.loss is None for case in cases) or wanted.forward is None:
            continue
        for fault, text in starting.wrong(wanted):
            title = f"exercise {name}: {fault.seen}"
            if names and not any(part in title for part in names):
                continue
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                broken = (law_of(wanted, starting.loaded(wanted, text), case) for case in cases)
                yield title, next((law for law in broken if law is not None), None)


def law_of(wanted: Exercise, function: Any, case: Case) -> str | None:
    """The law that a function breaks as the gradient of its forward; None for none."""
    results = contract.call(wanted, function, case).results
    assert case.loss is not None
    gradients = {f"d{name}": array for name, array in case.inputs.items() if f"d{name}" in wanted.gradients}
    if not results:
        return CONTRACT
    if any(results[name].shape != array.shape for name, array in gradients.items()):
        return CONTRACT

    rng = np.random.default_rng(1)
    along = {name: rng.standard_normal(array.shape) for name, array in gradients.items()}
    losses = []
    for step in (STEP, -STEP):
        moved = {n.removeprefix("d"): gradients[n] + step * along[n] for n in gradients}
        losses.append(case.loss(wanted.forward, dict(case.inputs) | moved))  # type: ignore[arg-type]
    slope = (losses[0] - losses[1]) / (2 * STEP)
    parts = [results[name] * along[name] for name in gradients]
    size = sum(float(abs(part).sum()) for part in parts) + abs(slope)
    if not abs(slope - sum(float(part.sum()) for part in parts)) <= LIMIT * size:
        return gradcheck.WITNESS
    right = judging.judge(wanted, function)
    shown = [g.name for g in right.gradients if g.word == "WRONG"]
    return NO_GRADIENT if shown and not set(shown) & set(gradients) else None
