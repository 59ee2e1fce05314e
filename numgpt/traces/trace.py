"""Trace: what one run computed, by name, and what computed it; saved and read as one file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.patterns import matching
from ..arguments import checked
from ..errors import InputError, near
from ..layers.filed import Filed
from . import files
from .axes import fits
from .steps import Difference, OpText, Reference, Step
from .table import Row, Table

Array = NDArray[Any]
StrPath = str | os.PathLike[str]


@dataclass(eq=False, repr=False)
class Trace:
    """What one run computed. ``model.record(tokens, targets).trace()`` makes one, and so may another program.

    Attributes
    ----------
    value : mapping of name -> array
        Values in the order of their computation, then parameters.
    grad : mapping of name -> array
        The gradient of the loss with respect to each, where the run had a backward.
    steps : dict of name -> Step
        What made each value: the op, what it reads and uses, what its backward reads and writes, its cost.
    ops : dict of op -> OpText
        The op lines, and the equations of forwards and backwards.
    axes : dict of name -> tuple of str
        A letter, or a product such as "3HD", for each axis.
    sizes : dict of letter -> int
    parameters : tuple of str
        Those names that are parameters.
    ids : dict of name -> integers
        ``tokens``, and ``targets`` where there were any.
    texts : dict of id -> str
        What each of these ids stands for, where a tokenizer was there to say it.
    edited : tuple of str
        Names whose value, or gradient, was edited in flight.
    parts : dict of parameter -> dict of place -> array
        The gradient by place of use of a parameter that is used in several places, such as a tied embedding:
        what comes from the head, and what from the look-up.
    differences : tuple of Difference
    reference : Reference or None
    moments : dict of name -> dict of parameter -> array
        An optimizer's.
    config : dict
    source : str
        What wrote it.

    Examples
    --------
    >>> import numgpt, pathlib, tempfile
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> trace = model.record([0, 1], [1, 2]).trace(["h.0.mlp.act", "wte.weight"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trace.save(pathlib.Path(folder) / "trace.safetensors")
    ...     again = numgpt.Trace.read(pathlib.Path(folder) / "trace.safetensors")
    >>> again.axes["h.0.mlp.act"], again.parts["wte.weight"].keys()
    (('T', 'F'), dict_keys(['lm_head', 'wte']))
    """

    value: dict[str, Array] = field(default_factory=Filed)
    grad: dict[str, Array] = field(default_factory=lambda: Filed("gradient"))
    steps: dict[str, Step] = field(default_factory=lambda: Filed("step"))
    ops: dict[str, OpText] = field(default_factory=dict)
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    ids: dict[str, Array] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    edited: tuple[str, ...] = ()
    parts: dict[str, dict[str, Array]] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    reference: Reference | None = None
    moments: dict[str, dict[str, Array]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All names, values in the order of their computation, then parameters."""
        return tuple(dict.fromkeys((*self.value, *self.grad)))

    @checked
    def formula(self, name: str, backward: bool = False) -> str:
        """The equations of what made a value, or of its backward; empty where nothing is known of it.

        Parameters
        ----------
        name : str
        backward : bool
        """
        if name not in self.steps:
            names = near(name, self.steps) or list(self.steps)[:4]
            raise InputError(
                f"formula: no step made {name!r}, expected the name of a value such as {', '.join(names)}"
            )
        text = self.ops.get(self.steps[name].op, OpText())
        return text.backward if backward else text.forward

    @checked
    def table(self, names: str | Sequence[str] | None = None) -> Table:
        """The index: each name with its axes, the norms of value and gradient, and its op.

        Parameters
        ----------
        names : str or sequence of str, optional
            Those to show, or patterns of them such as ``"h.0.*"``; all unless given.
        """
        shown = self.names if names is None else matching("table", listed(names), self.names)
        return Table(tuple(map(self._row, shown)), self.sizes)

    def _row(self, name: str) -> Row:
        value, grad = (arrays.get(name) for arrays in (self.value, self.grad))
        array = grad if value is None else value
        assert array is not None
        axes = self.axes.get(name, tuple(map(str, array.shape)))
        step = self.steps.get(name)
        steps = [s for s in self.steps.values() if name in s.parameters] if step is None else [step]
        ops = ", ".join(dict.fromkeys(s.op for s in steps))
        return Row(name, axes, array.shape, _norm(value), _norm(grad), ops)

    @checked
    def save(self, path: StrPath) -> None:
        """Write all of it to one file of safetensors, whole or not at all.

        Parameters
        ----------
        path : path

        Raises
        ------
        InputError
            Where no file can be written, or a dtype has no name in the format, as longdouble and complex128.
        """
        expect_whole("save", self)
        files.write(path, self)

    @classmethod
    @checked
    def read(cls, path: StrPath) -> Trace:
        """The trace of a file, whoever wrote it; README.md of numgpt/traces has the schema.

        Parameters
        ----------
        path : path

        Raises
        ------
        InputError
            Where there is no such file, or it is damaged, or does not follow the schema.
        """
        trace = cls(**files.read(path))
        expect_whole(path, trace)
        return trace

    def __repr__(self) -> str:
        counts = {"value": len(self.value), "gradient": len(self.grad)}
        counts |= {"step": len(self.steps), "difference": len(self.differences)}
        parts = [f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items() if n]
        parts += [f"beside {self.reference.source}"] if self.reference else []
        by = f" by {self.source}" if self.source else ""
        return f"<Trace{by}: {', '.join(parts) or 'empty'}>"


def listed(names: str | Sequence[str]) -> Sequence[str]:
    """One name or pattern, or several, as a list."""
    return [names] if isinstance(names, str) else names


def expect_whole(who: str | StrPath, trace: Trace) -> None:
    """Raise InputError where parts of it contradict each other: shapes, axes, names of parameters."""
    for name, axes in trace.axes.items():
        for array in (trace.value.get(name), trace.grad.get(name)):
            if array is not None and not fits(axes, array.shape, trace.sizes):
                raise InputError(
                    f"{who}: {name} has axes ({', '.join(axes)}), expected some that give its shape"
                    f" {array.shape}"
                )
    for what, name, array in _beside(trace):
        value = trace.value.get(name, trace.grad.get(name))
        if value is not None and array.shape != value.shape:
            raise InputError(
                f"{who}: the {what} of {name} has shape {array.shape}, expected its value's {value.shape}"
            )
    for entry in trace.differences:
        array = trace.value.get(entry.name, trace.grad.get(entry.name))
        if array is not None and not _is_inside(entry.index, array.shape):
            raise InputError(
                f"{who}: a difference is of {entry.name} at {entry.index}, expected a place in its shape"
                f" {array.shape}"
            )


def _beside(trace: Trace) -> Iterable[tuple[str, str, Array]]:
    """(what, name, array) of all arrays that have the shape of a value."""
    for name, grad in trace.grad.items():
        yield "gradient", name, grad
    for name, parts in trace.parts.items():
        yield from ((f"gradient from {place}", name, part) for place, part in parts.items())
    for kind, arrays in trace.moments.items():
        yield from ((f"moment {kind}", name, array) for name, array in arrays.items())
    if trace.reference is not None:
        yield from (("reference's value", name, array) for name, array in trace.reference.value.items())
        yield from (("reference's gradient", name, array) for name, array in trace.reference.grad.items())


def _norm(array: Array | None) -> float | None:
    """‖array‖ in float64, scaled where squares would overflow; None for None."""
    if array is None:
        return None
    with np.errstate(invalid="ignore"):  # a signalling NaN raises the flag when it changes its dtype
        entries = np.abs(array).astype("float64").reshape(-1)
    top = float(entries.max(initial=0.0))
    return top if top == 0 or not np.isfinite(top) else top * math.sqrt(((entries / top) ** 2).sum())


def _is_inside(index: Sequence[int], shape: Sequence[int]) -> bool:
    return len(index) == len(shape) and all(0 <= i < size for i, size in zip(index, shape))
