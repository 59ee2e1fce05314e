"""What an exercise is made of: data that one module holds, and that the checker reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]


class Values(SimpleNamespace):
    """The named numbers, arrays and functions from which the terms of a gradient are formed."""

    def but(self, **changes: Any) -> Values:
        """The same values with some of them changed: a mistake is that, in most cases."""
        return Values(**vars(self) | changes)


class Term(NamedTuple):
    """One of the named terms whose signed sum a gradient is.

    key: its name in codes. text: the formula that a student reads. want: its coefficient, which is 0 for a
    term that has no business there.
    """

    key: str
    text: str
    array: Array
    want: float = 1.0


class Variant(NamedTuple):
    """A mistake that changes what the terms are made of: rstd left out, a mean over the wrong axis.

    key: its name in codes. says: the mistake, as a clause that follows "your dx". changed: the values with
    the mistake in them. gradients: where it is looked for; all where there are none.
    """

    key: str
    says: str
    changed: Callable[[Values], Values]
    gradients: tuple[str, ...] = ()


class Invariant(NamedTuple):
    """What must be 0, and why: the reason that a message gives for a gradient that is wrong.

    because: a sentence. what: the words for the number, as in "yours sums to +0.83". of(gradient, values): an
    array that is 0 for the right gradient.
    """

    gradient: str
    because: str
    what: str
    of: Callable[[Array, Values], Array]


class Probe(NamedTuple):
    """A further question to the student's function: ask(function) is "", or a sentence where it fails."""

    key: str
    ask: Callable[[Callable[..., Any]], str]


class Fault(NamedTuple):
    """A wrong solution that the checker must name: the table by which the checker itself is checked.

    seen: what it is, and where it was seen. codes: those of the findings, all of them. changes: (text that
    stands in the solution once, text in its place). body: a whole solution instead.
    """

    seen: str
    codes: tuple[str, ...]
    changes: tuple[tuple[str, str], ...] = ()
    body: str = ""


@dataclass(frozen=True)
class Case:
    """What a student's function is called with, and what its result is judged by.

    Attributes
    ----------
    arguments : tuple
        Of the call.
    values : Values
        From which the terms are formed.
    inputs : dict
        Arrays of the forward by name: gradient "dx" is the one with respect to inputs["x"].
    loss : callable or None
        loss(forward, inputs), the number that is differentiated; the witness takes its differences.
    numbers : dict
        Sizes of axes, and other numbers that may be a factor too many, by name.
    sets : dict
        For a gradient's name, named masks of its elements: "rows of repeated tokens".
    """

    arguments: tuple[Any, ...]
    values: Values
    inputs: Mapping[str, Array] = field(default_factory=dict)
    loss: Callable[[Callable[..., Any], Mapping[str, Array]], float] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    sets: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)


def case_of_pair(
    forward: Callable[..., Any],
    inputs: Mapping[str, Array],
    dy: Any,
    numbers: Mapping[str, float],
    *fixed: Any,
    **values: Any,
) -> Case:
    """The case of backward(dy, saved), for forward(*inputs, *fixed) → (y, saved), and the loss Σ dy y.

    The values have dy, the inputs, and what is given besides.
    """
    _, saved = forward(*(a.copy() for a in inputs.values()), *fixed)

    def loss(forward: Callable[..., Any], arrays: Mapping[str, Array]) -> float:
        return float((dy * forward(*arrays.values(), *fixed)[0]).sum())

    return Case((dy, saved), Values(dy=dy, **inputs, **values), inputs, loss, numbers)


@dataclass(frozen=True)
class Exercise:
    """An exercise: a forward, the function to fill, and what the checker has to know of it.

    Attributes
    ----------
    name, prefix : str
        What the command line calls it, and how its codes begin.
    solution : callable
        The function to fill. What stands behind its line "# yours" is left out of a started file.
    shown : tuple of str
        Names of the module that a started file has too, before the function.
    gradients : dict
        Name of each result, in order → letters of its axes.
    sizes : dict
        Letter of each axis → its size in the first case: prime numbers, all different.
    case : callable
        case(rng, **sizes) → Case.
    terms : callable
        terms(values) → the terms of each gradient.
    after : dict
        For a chain of steps: result → the results that it is computed from. A result is then judged by the
        student's own values of those.
    says : dict
        Code → a sentence for it, where the general one is not clear enough.
    hints : dict
        Part of a code → a question, the term, the line of the formula. "" is the ladder of all other codes.
    names, constants : dict
        For the variant of each student: other words for an identifier, other values of a constant.
    ops : tuple of str
        The ops of numgpt.ops with the derivation and the line of PyTorch.
    other_case : callable
        As case, in another mode, where the gradients are other sums: dropout in evaluation. A probe judges
        it; numgpt check --strength holds the faults to differences there too.
    smallest : dict
        Sizes of the smallest case that can fail, where B 1, T 2 and 3 for all others are not.
    """

    name: str
    prefix: str
    solution: Callable[..., Any]
    shown: tuple[str, ...]
    gradients: Mapping[str, str]
    sizes: Mapping[str, int]
    case: Callable[..., Case]
    terms: Callable[[Values], Mapping[str, tuple[Term, ...]]]
    hints: Mapping[str, tuple[str, str, str]]
    faults: tuple[Fault, ...]
    alternatives: tuple[str, ...]
    forward: Callable[..., Any] | None = None
    variants: tuple[Variant, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    probes: tuple[Probe, ...] = ()
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ops: tuple[str, ...] = ()
    other_case: Callable[..., Case] | None = None
    smallest: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    student: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)  # of this student's names, the original ones

    @property
    def fill(self) -> str:
        """The name of the function to fill."""
        return self.solution.__name__

    def original(self, name: str) -> str:
        """What every student's variant calls a name in codes and hints."""
        return self.renamed.get(name, name)

    def with_source(self, source: str, student: str, renamed: Mapping[str, str]) -> Exercise:
        """The exercise of a student, with the text of its module."""
        return dataclasses.replace(self, source=source, student=student, renamed=renamed)
