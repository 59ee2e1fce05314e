"""The judge: each mutant in the place of what it was made from, held to the laws of numgpt check."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from .. import engine, ops
from ..layers import record, transformer
from ..ops import Op
from .mutants import Mutant, source_of
from .subjects import MISFIT, Subject, composed_subjects, op_subjects

# Or does not fit in shape: weaker evidence than a law, since the first use would show it.
RAISES = "does not run"


def verdict(mutant: Mutant, seed: int = 0, draws: int = 1) -> str | None:
    """The law that catches a mutant first.

    RAISES where all that shows is that it does not run; None where nothing does. On the reference engine,
    whichever is in use: it is the specification that the mutants are made from.
    """
    raised = None
    with _reference(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for subject in subjects(mutant, seed, draws):
            try:
                for finding in subject.findings(seed):
                    if finding.law == MISFIT:
                        raised = RAISES
                    elif not finding.holds:
                        return finding.law
            except Exception:  # whatever a wrong line may do
                raised = RAISES
    return raised


@contextmanager
def _reference() -> Iterator[None]:
    before = engine.current()
    engine.use("reference")
    try:
        yield
    finally:
        engine.use(before)


def subjects(mutant: Mutant, seed: int = 0, draws: int = 1) -> Iterator[Subject]:
    """The subjects of numgpt check with a mutant's backward instead of the package's; ops in more shapes."""
    module = mutant.load()
    for n in range(seed, seed + draws):
        if mutant.module == transformer.__name__:
            yield from composed_subjects(n, layers=module)
        elif mutant.module == record.__name__:
            kind = _with_method(module, mutant.function.removeprefix("Record."))
            yield from composed_subjects(n, record=kind)
        else:
            for op in ops.ALL.values():
                if source_of(op) == mutant.module:
                    op = _with_pair(op, module, mutant.swaps_forward)
                    for sizes, lead in _shapes(op):
                        yield from op_subjects(op, n, sizes, lead)


def _with_method(module: Any, name: str) -> type[record.Record]:
    """The Record with one method of another module's Record."""
    return type("Record", (record.Record,), {name: vars(module.Record)[name]})


def _with_pair(op: Op, module: ModuleType, swaps_forward: bool) -> Op:
    """An op with the backward of another module, and perhaps its forward."""
    names = ["backward", "forward"] if swaps_forward else ["backward"]
    return dataclasses.replace(op, **{name: getattr(module, getattr(op, name).__name__) for name in names})


def _shapes(op: Op) -> Iterator[tuple[dict[str, int] | None, tuple[int, ...]]]:
    """(sizes, leading axes) in which an op is judged."""
    letters = sorted({c for c in op.line if c.isupper()})
    # op_subjects adds the size that is the least to one that is bounded by it
    equal = dict.fromkeys(letters, 3) | dict.fromkeys(op.at_least, 0)
    different = {c: i + 2 for i, c in enumerate(letters)}
    yield None, (2, 3)  # as drawn
    yield equal, (3,)  # so that a transpose fits in shape
    yield equal, ()
    yield different, (7,)  # so that nothing fits by chance
