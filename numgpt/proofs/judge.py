"""The judge: each mutant in the place of what it was made from, held to the laws of numgpt check."""

import dataclasses
import warnings
from contextlib import contextmanager

import numpy as np

from .. import engine, ops
from ..layers import record, transformer
from .subjects import MISFIT, composed_subjects, op_subjects

RAISES = (  # or does not fit in shape: weaker evidence than a law, since the first use would show it
    "does not run"
)


def verdict(mutant, seed=0, draws=1):
    """The law that catches a mutant first; RAISES where all that shows is that it does not run; None where
    nothing does.

    On the reference engine, whichever is in use: it is the specification that the mutants are made from.
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
def _reference():
    before = engine.current()
    engine.use("reference")
    try:
        yield
    finally:
        engine.use(before)


def subjects(mutant, seed=0, draws=1):
    """What numgpt check holds to the laws, with the mutant's backward in the place of the package's; ops in
    more shapes too.
    """
    module = mutant.load()
    for n in range(seed, seed + draws):
        if mutant.module == transformer.__name__:
            yield from composed_subjects(n, layers=module)
        elif mutant.module == record.__name__:
            yield from composed_subjects(
                n, record=_with_method(module, mutant.function.removeprefix("Record."))
            )
        else:
            for op in (
                _with_pair(op, module, mutant.swaps_forward)
                for op in ops.ALL.values()
                if op.backward.__module__ == mutant.module
            ):
                for sizes, lead in _shapes(op):
                    yield from op_subjects(op, n, sizes, lead)


def _with_method(module, name):
    """The Record with one method of another module's Record."""
    return type("Record", (record.Record,), {name: vars(module.Record)[name]})


def _with_pair(op, module, swaps_forward):
    """An op with the backward of another module, and perhaps its forward."""
    names = ["backward", "forward"] if swaps_forward else ["backward"]
    return dataclasses.replace(op, **{name: getattr(module, getattr(op, name).__name__) for name in names})


def _shapes(op):
    """(sizes, leading axes): as drawn; all equal, so that a transpose fits in shape; no two equal, so that
    nothing fits by chance.
    """
    letters = sorted({c for c in op.line if c.isupper()})
    equal = dict.fromkeys(letters, 3) | dict.fromkeys(
        op.at_least, 0
    )  # op_subjects adds the size that is the least
    return (None, (2, 3)), (equal, (3,)), (equal, ()), ({c: i + 2 for i, c in enumerate(letters)}, (7,))
