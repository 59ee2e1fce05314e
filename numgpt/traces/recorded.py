"""TracedRecord: a Record that also notes which op read what, of which a Trace is made."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from .. import engine
from ..argument_kinds import ELSEWHERE
from ..arguments import Positive, checked_as
from ..layers.filed import Entry, held_bytes, owner
from ..layers.layer import Layer
from ..layers.record import Record
from ..ops import Op
from ..ops.cost import Cost, cost
from ..tokenizers import Tokenizer
from . import axes, differences, making
from .schema import plain
from .steps import Reference
from .table import Table
from .trace import Trace


@dataclass(frozen=True)
class Source:
    """What a record is of: a layer over the ids by name, such as loss over tokens and targets.

    count: what the loss is divided by. tokenizer: has the texts of the ids.
    """

    layer: Layer
    ids: dict[str, Any]
    count: int | None = None
    tokenizer: Tokenizer | None = None

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the layer's forward takes after the record."""
        return (*self.ids.values(), self.count) if len(self.ids) > 1 else tuple(self.ids.values())


class Noted(NamedTuple):
    """What is noted when a name is filed."""

    op: Op | Layer
    reads: tuple[str, ...]
    parameters: tuple[str, ...]
    backward_reads: tuple[str, ...]
    options: dict[str, Any]
    cost: Cost | None
    axes: axes.Axes
    of_parameters: dict[str, axes.Axes]
    shape: tuple[int, ...]


class TracedRecord(Record):
    """A Record that can give a Trace of itself, and a table of what it holds.

    A parameter that is used in several places has its gradient by each of them in parts, parameter → place →
    gradient; parts add up to the whole to the bit, in the order in which they stand.
    """

    def __init__(self, params: Mapping[str, Any], config: Any, *, source: Source, **options: Any) -> None:
        super().__init__(params, config, **options)
        self.source = source
        self.parts: dict[str, dict[str, Any]] = {}
        self.noted: dict[str, Noted] = {}
        self.decided: dict[str, Any] = {}  # integers that layers have read off their values
        # Of arrays by identity: (a reference that dies with the array, its last name); and of the arrays
        # whose memory they show.
        self._names: dict[int, tuple[Any, str]] = {}
        self._owners: dict[int, tuple[Any, str]] = {}
        self.uses: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self._place = ""
        ids = next(iter(source.ids.values()))
        self._tokens = axes.of_tokens(ids.ndim)
        for name, array in source.ids.items():
            self._call(array, name)
        for name, array in params.items():
            self._call(array, name)

    # What is noted as it happens.

    def __call__(self, name: str, op: Any, *inputs: Any, shares: str | None = None, **options: Any) -> Any:
        """Run op's forward, file it under name and return its value; note what it read."""
        reads = tuple(self._name_of(array) for array in inputs)
        value = super().__call__(name, op, *inputs, shares=shares, **options)
        full = self.scope + name
        entry = self.entry(full)
        if entry is None:
            return value
        if isinstance(entry.op, Op):
            noted = self._noted_op(entry.op, entry, inputs, reads, options, value)
            self.noted[full] = noted._replace(options=noted.options | self._drawn(full, entry.op, options))
        else:
            known = self._axes_of(self._name_of(value), value.shape)
            self.noted[full] = Noted(entry.op, _present(reads), (), (), {}, None, known, {}, value.shape)
        self._call(value, full)
        return value

    def decide(self, name: str, function: Callable[..., Any], *values: Any) -> Any:
        """As a Record's; the integers have a name, so that steps can say that they read them."""
        decided = super().decide(name, function, *values)
        self.decided[self.scope + name] = decided
        self._call(decided, self.scope + name)
        return decided

    def _noted_op(
        self,
        op: Op,
        entry: Entry,
        inputs: Sequence[Any],
        reads: Sequence[str | None],
        options: dict[str, Any],
        value: Any,
    ) -> Noted:
        names = tuple(n for n in entry.names if n is not None)
        arrays = [*inputs, *(None if n is None else self.params[n] for n in entry.names)]
        shapes = [None if a is None else a.shape for a in inputs]
        known = [None if n is None or s is None else self._axes_of(n, s) for n, s in zip(reads, shapes)]
        own, of_parameters = axes.through(op, known, shapes, self._tokens)
        sizes = op.bound([None if a is None else a.shape for a in arrays], options)
        for letter, size in sizes.items():
            if letter not in axes.GENERIC:
                self.sizes.setdefault(letter, size)
        for name in names:
            self.uses[name] = self.uses.get(name, 0) + 1
        held = held_bytes((entry.saved,), {n: self.params[n] for n in names})
        return Noted(
            op,
            _present(reads),
            names,
            self._names_in(entry.saved),
            _plain(options),
            cost(op, arrays, options, value, held),
            own,
            {n: a for n, a in zip(entry.names, of_parameters) if n is not None},
            value.shape,
        )

    def _drawn(self, full: str, op: Op, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the mask of dropout is drawn from: a share, a seed, and the words of the generator.

        A step of a layer that has a whole gets the mask that is drawn under the layer's name.
        """
        if op.noise is None or self.step is None or self.config.dropout == 0:
            return {}
        place = self.scope.rstrip(".") if "keep" in options else full
        step = list(self.step) if isinstance(self.step, tuple) else self.step
        return {"p": self.config.dropout, "seed": self.seed, "drawn": ["dropout", step, place]}

    def back(self, name: str, dy: Any) -> Any:
        """Undo what was filed under name; the parts of a shared parameter's gradient come from there."""
        self._place = self.scope + name
        return super().back(name, dy)

    def _offers(
        self, backward: Callable[..., Any], names: tuple[str | None, ...], *more: Any
    ) -> dict[str, Any]:
        """As a Record's; the gradient of a shared parameter is returned, so that its parts can be told."""
        options = super()._offers(backward, names, *more)
        if any(self.uses.get(n or "", 0) > 1 for n in names):
            options.pop("into", None)
        return options

    def _add(self, parameter: str, grad: Any) -> None:
        """Bring a gradient home, and keep the part of a parameter that is used in several places."""
        if self.uses.get(parameter, 0) > 1:
            self.parts.setdefault(parameter, {})[self._place] = grad
        super()._add(parameter, grad)

    # Names of arrays.

    def _call(self, array: Any, name: str) -> None:
        """From now on an array is known by a name, and what shows its memory too."""
        _enter(self._names, array, name)
        if name not in self.params:  # whose memory is that of all parameters
            _enter(self._owners, owner(array), name)

    def _name_of(self, array: Any) -> str | None:
        return _entered(self._names, array)

    def _names_in(self, saved: Any) -> tuple[str, ...]:
        """The names of arrays in nested tuples, or of those whose memory they show."""
        if isinstance(saved, tuple):
            return tuple(dict.fromkeys(n for part in saved for n in self._names_in(part)))
        if not hasattr(saved, "base"):
            return ()
        name = self._name_of(saved) or _entered(self._owners, owner(saved))
        return () if name is None else (name,)

    def _axes_of(self, name: str | None, shape: tuple[int, ...]) -> axes.Axes:
        """The axes of a name; of an array without one, those of the tokens and what is left."""
        if name in self.noted:
            return self.noted[name].axes
        if name in self.source.ids:
            return self._tokens
        n = len(shape) - len(self._tokens)
        return (*self._tokens, *(axes.Axis() for _ in range(n))) if n >= 0 else ()

    # What a reader asks for.

    @checked_as("record.trace")
    def trace(
        self,
        names: str | Sequence[str] | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        differences: Annotated[differences.Given, ELSEWHERE] = 0,
        h: Positive | Sequence[Positive] | None = None,
        reference: Reference | Mapping[str, Any] | None = None,
        moments: Mapping[str, Any] | None = None,
    ) -> Trace:
        """A Trace of this run: values, gradients, and what computed them, by name.

        Parameters
        ----------
        names : str or sequence of str, optional
            The names to take, or patterns of them such as ``"h.*.mlp.act"``; all that is kept unless given.
        tokenizer : Tokenizer, optional
            Has the text of each token; the model's own unless given.
        differences : int, or mapping of name -> index or indices
            So many entries of each name, or these, whose gradients are compared with finite differences of
            the loss, computed in float64.
        h : float or sequence of float, optional
            The half width of the differences; near the best one of each entry unless given. Of several, each
            entry has a difference at each.
        reference : Reference, or mapping of name -> array, optional
            The values that another program computes, by the same names; numgpt.parity.reference(record) gives
            PyTorch's, with gradients.
        moments : mapping of name -> array, optional
            An optimizer's, ``optimizer.state()``: by the moment's name, a dot, and the parameter's.

        Returns
        -------
        Trace
            Of the host's memory. Parameters are copied; values and gradients are the record's own arrays.

        Raises
        ------
        InputError
            For a name that the record does not hold, with those that are near.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> trace = model.record([0, 1], [1, 2]).trace()
        >>> trace.axes["wte"], trace.steps["h.0.mlp.c_fc"].reads
        (('T', 'C'), ('h.0.ln_2',))
        >>> print(trace.formula("h.0.mlp.c_fc"))
        y = x W + b
        """
        asked = making.Asked(names, tokenizer, differences, h, reference, moments)
        return making.trace_of(self, asked)

    @checked_as("record.table")
    def table(self, names: str | Sequence[str] | None = None) -> Table:
        """The index of what is kept: each name with its axes, norms of value and gradient, and op.

        Parameters
        ----------
        names : str or sequence of str, optional
            As in trace.
        """
        return making.trace_of(self, making.Asked(names, who="record.table")).table()


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them: numbers, texts, tables. Masks are large, and drawn again from a seed."""
    found: dict[str, Any] = {}
    for name, option in options.items():
        if isinstance(option, bool | int | float | str | Mapping):
            found[name] = plain(option)
        elif hasattr(option, "dtype") and option.dtype.kind in "iuf":
            found[name] = engine.home(option).tolist()
    return found


def _enter(names: dict[int, tuple[Any, str]], array: Any, name: str) -> None:
    with contextlib.suppress(TypeError):  # a scalar of NumPy, which nothing reads
        names[id(array)] = weakref.ref(array), name


def _entered(names: Mapping[int, tuple[Any, str]], array: Any) -> str | None:
    """The name of an array; another one, which is gone, may have had the same id."""
    reference, name = names.get(id(array), (None, None))
    return name if reference is not None and reference() is array else None


def _present(names: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(n for n in names if n is not None)
