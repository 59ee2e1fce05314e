"""numgpt check --strength: plants wrong gradients and counts those that the laws catch."""

import dataclasses
import warnings

import numpy as np

from .. import ops, record, transformer
from ..check import composed_subjects, op_subjects

RAISES = "raises"  # does not run, or does not fit in shape: weaker evidence than a law, since anything would notice
MISFIT = "one gradient per array"


def verdict(mutant, seed=0, draws=1):
    """The law that first catches a mutant; RAISES where it only fails to run; None where nothing notices it."""
    raised = None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
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


def subjects(mutant, seed=0, draws=1):
    """What numgpt check holds to the laws, with the mutant's backward in the place of the package's; ops in some more shapes."""
    module = mutant.load()
    if mutant.module == transformer.__name__:
        layers, kept = module, record.Record
    elif mutant.module == record.__name__:
        vars(module).update(Layer=record.Layer, Entry=record.Entry)  # one class of each, or isinstance would say no
        layers, kept = transformer, type("Record", (record.Record,), {mutant.method: vars(module.Record)[mutant.method]})
    else:
        changed = [_with_pair(op, module, mutant.swaps_forward) for op in ops.ALL.values() if op.backward.__module__ == mutant.module]
        for n in range(seed, seed + draws):
            for op in changed:
                yield from op_subjects(op, n)
                yield from op_subjects(op, n, _equal_sizes(op), lead=(3,))
        return
    for n in range(seed, seed + draws):
        yield from composed_subjects(n, layers, kept)


def _with_pair(op, module, forward):
    """An op with the backward of another module, and perhaps its forward."""
    names = ["backward"] + ["forward"] * forward
    return dataclasses.replace(op, **{name: getattr(module, getattr(op, name).__name__) for name in names})


def _equal_sizes(op):
    """All axes of size 3, so that a transpose, or another axis, fits in shape."""
    sizes = {c: 3 for c in op.line if c.isupper()}
    return sizes | dict.fromkeys(op.at_least, 0)  # to which op_subjects adds the size that bounds it
