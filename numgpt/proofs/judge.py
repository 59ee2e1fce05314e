"""The judge: each mutant in the place of what it was made from, held to the laws of numgpt check."""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from .. import engine, ops
from ..layers import record, transformer
from ..ops import Op
from .mutants import Mutant, source_of
from .subjects import MISFIT, Subject, composed_subjects, op_subjects

# Or does not fit in shape: weaker evidence than a law, since the first use would show it.
RAISES = "does not run"
# What a Record's methods tell apart: shared parameters, absent steps, dropout, what layers tell each other.
ON_RECORD = ("GPT-2", "untied", "LLaMA", "Persimmon with sinks", "Qwen2-MoE", "Switch", "dropout")


def verdict(mutant: Mutant, seed: int = 0, draws: int = 1) -> str | None:
    """The law that catches a mutant first.

    RAISES where all that shows is that it does not run; None where nothing does. On the reference engine,
    whichever is in use: it is the specification that the mutants are made from.
    """
    raised = None
    with _reference(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for subject, runs in zip(subjects(mutant, seed, draws), _runs(mutant, seed, draws), strict=True):
            if not runs:
                continue
            try:
                for finding in subject.findings(seed):
                    if finding.law == MISFIT:
                        raised = RAISES
                    elif not finding.holds:
                        return finding.law
            except Exception:  # whatever a wrong line may do
                raised = RAISES
    return raised


def _runs(mutant: Mutant, seed: int, draws: int) -> list[bool]:
    """Of each subject, whether it runs the function that is changed; all, where none does.

    A subject that does not is the package's own, of which the laws hold.
    """
    inside = f"{mutant.function}.<locals>."
    runs = [
        any(name == mutant.function or name.startswith(inside) for name in names)
        for names in _functions_run(mutant.module, seed, draws)
    ]
    return runs if any(runs) else [True] * len(runs)


@functools.cache
def _functions_run(name: str, seed: int, draws: int) -> list[set[str]]:
    """Of each subject of a module, the qualified names of the functions in the module that it runs."""
    return [functions_run(name, subject) for subject in subjects_of(name, seed, draws)]


def functions_run(name: str, subject: Subject, all_laws: bool = False) -> set[str]:
    """The qualified names of the functions in a module that a subject runs, forward and backward."""
    module, names = vars(sys.modules[name]), set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code.co_qualname
        if event == "call" and frame.f_globals is module and not code.startswith("<"):
            names.add(code)

    for member in module.values():
        if hasattr(member, "cache_clear"):  # what is looked up would not run
            member.cache_clear()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        if all_laws:
            list(subject.findings())
        else:
            y, saved = subject.forward(*subject.arrays, **subject.options)
            subject.backward(np.ones_like(y), saved)
    finally:
        sys.setprofile(before)
    return names


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
    loaded = mutant.load()
    method = mutant.function.removeprefix("Record.")
    if mutant.module == record.__name__:
        return subjects_of(mutant.module, seed, draws, kind=_with_method(loaded, method))
    return subjects_of(mutant.module, seed, draws, loaded, swaps_forward=mutant.swaps_forward)


def subjects_of(
    name: str,
    seed: int,
    draws: int,
    module: Any = None,
    kind: type[record.Record] = record.Record,
    swaps_forward: bool = False,
) -> Iterator[Subject]:
    """What goes through a module: with another in its place, or another kind of Record, or the package's."""
    module = sys.modules[name] if module is None else module
    for n in range(seed, seed + draws):
        if name == record.__name__:
            # the last first: they are small, and each is there for something that the Record does
            yield from reversed(list(composed_subjects(n, record=kind, variants=ON_RECORD)))
        elif name == transformer.__name__:
            yield from composed_subjects(n, layers=module)
        else:
            for op in ops.ALL.values():
                if source_of(op) == name:
                    op = _with_pair(op, module, swaps_forward)
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
