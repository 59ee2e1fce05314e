"""Record: the bookkeeper of one forward and backward. It differentiates nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.patterns import Patterns, matching
from ..arguments import checked
from ..errors import InputError
from ..ops.op import Op
from ..random import generator
from .edits import Edit, check_names, fit
from .filed import Entry, Filed, fitting, held_bytes, pair, table
from .layer import Layer
from .served import expect_fits, serving, told_at

Array = NDArray[Any]
Options = dict[str, Any]


class Record:
    """Names what is computed: r(name, op, x) runs a forward and files it, r.back(name, dy) runs the backward.

    A name is filed under its scope: inside r("h.3", block, x), r("mlp", ffn, x), r("act", gelu, x) is
    "h.3.mlp.act", and its parameters are "h.3.mlp.act.weight" …. Values, gradients, parameters and files
    share these names. How the gradient of a parameter gets home stands in numgpt/layers/README.md.

    params: mapping name -> array. config: what the layers ask for their sizes.
    grads: mapping name -> array that receives the parameters' gradients; add: onto what is there.
    keep: hold every value and gradient, in .value and .grad, or those whose names are like one of these
    patterns ("h.*.attn.heads.probs"). Unless all are kept, the backward lets go of what was saved as it
    proceeds.
    edit: name -> a function of the value, or an edits.Edit with its backward, applied in flight.
    edit_grad: name -> a function of the gradient with respect to the (edited) value, applied in flight.
    served: name, or pattern -> the Op or Layer that runs there instead of the layers' own.
    visibility: where tokens stand and which of them each sees, where that is not the plain causal order.
    seed, step: with the name they determine the masks of dropout; step None drops nothing.
    spare: nobody else looks at the values, so the backward may write over them.
    """

    cache: Any = None  # keys and values of earlier positions, in a subclass that decodes with them
    start = 0  # how many positions that cache holds
    looks_inside = True  # whether to keep everything means the steps of layers that have a whole, too

    @checked
    def __init__(
        self,
        params: Mapping[str, Any],
        config: Any,
        *,
        grads: Mapping[str, Any] | None = None,
        add: bool = False,
        keep: bool | Sequence[str] = False,
        edit: Mapping[str, Any] | None = None,
        edit_grad: Mapping[str, Callable[[Array], Array]] | None = None,
        served: Mapping[str, Op | Layer] | None = None,
        visibility: Any = None,
        seed: int = 0,
        step: int | tuple[int, ...] | None = None,
        spare: bool = False,
    ) -> None:
        if keep and spare:
            raise InputError(
                "Record: keep and spare are both set, expected one: what may be written over is not kept"
            )
        self.params = params
        self.config = config
        self.keep, self.spare = keep is True, spare
        self.kept = Patterns(["*"] if keep is True else keep or ())
        self.visibility = visibility
        self.served = dict(served or {})
        self.seed, self.step = seed, step
        self.edit = {name: Edit.of(name, e) for name, e in (edit or {}).items()}
        self.edit_grad = dict(edit_grad or {})
        self.value, self.grad = Filed("value"), Filed("gradient")
        self.scope = ""
        self.told: dict[str, tuple[Any, ...]] = {}  # what layers left for others to read
        self._sent: dict[str, Any] = {}  # gradients from readers that no layer knows of
        self.ops: dict[str, Op | Layer | None] = {}  # what ran under each name; None where a step is absent
        self._scopes: Mapping[str, Any] = config.scopes() if hasattr(config, "scopes") else {}
        self._entries: dict[str, Entry] = {}
        self._summed: set[str] = set()  # parameters whose gradient is home, so that the next is added to it
        self.start_backward(grads, add)

    def start_backward(self, grads: Mapping[str, Array] | None, add: bool = False) -> None:
        """Send the parameters' gradients of the backward that follows to grads."""
        self.grads: Any = grads  # None where nobody wants them
        self._summed.clear()
        if add:
            self._summed.update(grads or ())

    def __truediv__(self, name: str) -> Record:
        """The scope below: the same record, with name. before every name."""
        inner = object.__new__(type(self))  # copy.copy takes far longer, and this is called for every layer
        vars(inner).update(vars(self))
        inner.scope = f"{self.scope}{name}."
        inner.config = self._scopes.get(inner.scope, self.config)
        return inner

    def __call__(
        self, name: str, op: Op | Layer | None, *inputs: Any, shares: str | None = None, **options: Any
    ) -> Any:
        """Run op's forward, file it under name and return its value.

        op: None for a step that this model does not have. It gives its input, and r.back(name, dy) gives dy.
        shares: the name whose parameters it uses instead of its own (a tied unembedding shares "wte").
        """
        full = self.scope + name
        assert full not in self.ops, f"{full} is filed twice"
        own = op
        if self.served:
            op = self._serving(full, op, inputs, options)
        self.ops[full] = op
        if op is None:
            return inputs[0]
        with told_at(full) if op is not own else contextlib.nullcontext():
            if isinstance(op, Layer):
                value, entry = self._run_layer(name, op, inputs, options)
            else:
                value, entry = self._run_op(full, op, inputs, shares or full, options)
        if op is not own:
            expect_fits(full, value, own, (*inputs, *self._parameters(own, shares or full)), options)
        self._entries[full] = entry
        if full in self.edit:
            value = self.edit[full].forward(full, value)
        if full in self.kept:
            self.value[full] = value
        return value

    def _serving(
        self, full: str, op: Op | Layer | None, inputs: Sequence[Any], options: Options
    ) -> Op | Layer | None:
        """What runs at a name: what is served there, or op."""
        return serving(self.served, full, op, inputs, options)

    def _run_layer(
        self, name: str, layer: Layer, inputs: Sequence[Any], options: Options
    ) -> tuple[Any, Entry]:
        """A layer's value, by its whole or its twin in one piece where nobody looks inside."""
        full = self.scope + name
        if layer.whole is not None and not self._is_opened(full, layer):
            return self._run_op(full, layer.whole, inputs, full, options)
        inner = self / name
        if layer.whole is not None:
            layer.whole.check((*inputs, *self._parameters(layer.whole, full)), options)
            options = {**options, **self.mask(full, layer.whole, tuple(inputs), options)}
            return layer.forward(inner, *inputs, **options), Entry(layer, ())
        fused = self._fused(name, layer, inputs)
        if fused is None:
            return layer.forward(inner, *inputs, **options), Entry(layer, ())
        value, saved = fused.forward(inner, *inputs)
        return value, Entry(fused, (saved,))

    def _fused(self, name: str, layer: Layer, inputs: Sequence[Any]) -> Layer | None:
        """A layer's twin in one piece, or None where there is none or somebody looks inside."""
        if layer.whole is not None or not self.is_plain(self.scope + name):
            return None
        return engine.fused(layer, self / name, inputs)

    def _is_opened(self, full: str, layer: Layer) -> bool:
        """Whether somebody looks at a step of a layer that has a whole."""
        steps = [f"{full}.{step}" for step in layer.steps]
        if self.kept and (self.looks_inside or not self.keep) and any(step in self.kept for step in steps):
            return True
        served = Patterns(self.served)
        return any(step in self.edit or step in self.edit_grad or step in served for step in steps)

    def _is_changed(self, full: str) -> bool:
        """Whether a value or a gradient under a name is edited, or another op served there."""
        below = f"{full}."
        edited = any(n.startswith(below) for n in (*self.edit, *self.edit_grad))
        return edited or Patterns(self._unknown_to_twins()).below(full)

    def _unknown_to_twins(self) -> Collection[str]:
        """The names at which an op is served that no layer's twin knows."""
        return self.served

    def _run_op(
        self, full: str, op: Op, inputs: Sequence[Any], owner: str, options: Options
    ) -> tuple[Any, Entry]:
        """An op's value, from its inputs and the parameters that are called by their owner's name."""
        names = [f"{owner}.{p}" for p in op.parameters]
        present = tuple(n if n in self.params else None for n in names)
        arrays = (*inputs, *self._parameters(op, owner))
        value, saved = pair(full, op, self.run(full, op, arrays, options))
        shapes = tuple(None if a is None else a.shape for a in arrays)
        return value, Entry(op, saved, present, shapes)

    def _parameters(self, op: Op | Layer | None, owner: str) -> list[Any]:
        """The parameters of an op by their owner's name, None for one that the model lacks."""
        return [self.params.get(f"{owner}.{p}") for p in getattr(op, "parameters", ())]

    def run(self, full: str, op: Op, arrays: tuple[Any, ...], options: Options) -> tuple[Any, Any]:
        """Check the arrays against the op's line, then run its forward on the engine in use."""
        op.check(arrays, options)
        return engine.forward(op, arrays)(*arrays, **options, **self.mask(full, op, arrays, options))

    def decide(self, name: str, function: Callable[..., Any], *values: Any) -> Any:
        """Integers that a layer reads off its values, and gradients do not pass; name: of this scope."""
        return function(*values)

    def tell(self, name: str, *values: Any) -> None:
        """Leave values under a name of this scope, in .told, for a layer that runs later."""
        self.told[self.scope + name] = values

    def send(self, name: str, dy: Any) -> None:
        """The gradient of a value from a reader besides the layers' own, added to what arrives there.

        name: a full one, as told is by.
        """
        self._sent[name] = self._sent[name] + dy if name in self._sent else dy

    def mask(self, full: str, op: Op, arrays: tuple[Any, ...], options: Options) -> Options:
        """The options that make an op drop, where it does in this step and is not told what to keep."""
        if not op.noise or "keep" in options or self.step is None or self.config.dropout == 0:
            return {}
        p = self.config.dropout
        keep = self.drawn(full, op.noise(*arrays, **options), p)
        return {"keep": engine.beside(keep, arrays[0]), "p": p}

    def drawn(self, full: str, shape: tuple[int, ...], p: float) -> Array:
        """What is kept where a share p is dropped: drawn on the host, so the same on every engine."""
        assert self.step is not None, "mask() has looked"
        return generator(self.seed, "dropout", self.step, full).random(shape, dtype=np.float32) >= p

    def back(self, name: str, dy: Any) -> Any:
        """Undo what was filed under name: gradients of parameters go home, those of the inputs are returned.

        One input: its gradient. Several: a tuple of those that have one. None that has one: None.
        """
        full = self.scope + name
        if self.ops[full] is None:
            return dy
        entry = self._entries[full] if self.keep else self._entries.pop(full)
        dy = self._arrived(full, dy)
        if isinstance(entry.op, Layer):
            return entry.op.backward(self / name, dy, *entry.saved)
        return self._back_op(full, entry, dy)

    def _arrived(self, full: str, dy: Any) -> Any:
        """The gradient that arrived at a name: edited, filed, taken back through the value's edit."""
        if full in self._sent:
            dy = dy + self._sent.pop(full)
        if full in self.edit_grad:
            dy = fit(f"edit_grad: {full!r}", self.edit_grad[full](dy.copy()), dy)
        if full in self.kept:
            self.grad[full] = dy
        if full in self.edit:
            dy = self.edit[full].backward(full, dy)
        return dy

    def _back_op(self, full: str, entry: Entry, dy: Any) -> Any:
        """An op's backward gives a gradient for each input, then for each parameter, which goes home."""
        backward = engine.backward(entry.op, dy)
        names = tuple(n if self._is_wanted(n) else None for n in entry.names)
        offers = self._offers(backward, names, entry.names)
        grads = fitting(full, entry, names, dy, backward(dy, entry.saved, **offers))
        inputs = len(grads) - len(names)
        for parameter, grad in zip(names, grads[inputs:]):
            if parameter is not None:
                self._add(parameter, grad)
        return self._returned(grads[:inputs])

    def _is_wanted(self, parameter: str | None) -> bool:
        """Whether there is a home for the gradient of a parameter, None being one that the model lacks."""
        return parameter is not None and self.grads is not None and parameter in self.grads

    def _offers(
        self, backward: Callable[..., Any], names: tuple[str | None, ...], owned: tuple[str | None, ...]
    ) -> Options:
        """What a backward may take: which gradients nobody wants, places for the others, leave to write.

        names: of the parameters whose gradients are wanted; owned: of all that the op has.
        """
        options: Options = {}
        if names != owned and engine.takes(backward, "wanted"):
            options["wanted"] = tuple(n is not None for n in names)
        if names and engine.takes(backward, "into"):
            options["into"] = [n and (self.grads[n], n in self._summed) for n in names]
        if self.spare and engine.takes(backward, "spare"):
            options["spare"] = True
        return options

    def _returned(self, grads: Sequence[Any]) -> Any:
        """The gradients of the inputs, without those that have none: one by itself, several as a tuple."""
        dx = tuple(g for g in grads if g is not None)
        if len(dx) > 1:
            return dx
        return dx[0] if dx else None

    def is_plain(self, name: str) -> bool:
        """Whether what is under a name may run as one piece: nothing in it is kept, edited or dropped."""
        drops = self.step is not None and self.config.dropout > 0
        looked_at = (bool(self.kept) and self.kept.below(name)) or self._is_frozen(name)
        return not (looked_at or drops or self._is_changed(name))

    def _is_frozen(self, name: str) -> bool:
        """Whether nobody wants the gradient of some parameter under a name, which then costs no product."""
        if self.grads is None or len(self.grads) >= len(self.params):
            return False
        return any(n.startswith(f"{name}.") and n not in self.grads for n in self.params)

    def parameter(self, name: str) -> Array:
        """A parameter of this scope."""
        return self.params[self.scope + name]

    def put(self, name: str, grad: Array) -> None:
        """The gradient of a parameter of this scope, from a layer that runs as one piece."""
        if self._is_wanted(self.scope + name):
            self._add(self.scope + name, grad)

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[tuple[Array, bool]]:
        """The array for the gradient of a parameter of this scope, and whether to add to what it holds."""
        full = self.scope + name
        if not self._is_wanted(full):
            yield np.empty_like(self.params[full]), False
        else:
            yield self.grads[full], full in self._summed
            self._summed.add(full)

    def _add(self, parameter: str, grad: Array) -> None:
        """Bring a gradient home: a parameter that is used more than once gets the sum of its gradients."""
        place = self.grads[parameter]
        if grad is not place:  # else a twin has put it there
            if parameter in self._summed:
                place += grad
            else:
                place[...] = grad
        self._summed.add(parameter)
        if parameter in self.kept:
            # Filed anew, so that .grad has the order in which gradients became complete.
            self.grad.pop(parameter, None)
            self.grad[parameter] = self.grads[parameter]

    def finish_backward(self) -> None:
        """Give gradient 0 to the parameters that nothing used."""
        for name in self.grads:
            if name not in self._summed:
                self.grads[name][...] = 0
                if name in self.kept:
                    self.grad[name] = self.grads[name]

    def check_names(self) -> None:
        """Raise InputError for what is kept, edited or served under a name that the forward did not file."""
        if not (self.edit or self.edit_grad or self.served or self.kept):
            return
        filed = [name for name, op in self.ops.items() if op is not None]
        check_names((*self.edit, *self.edit_grad), filed)
        if self.kept and not self.keep:
            matching("keep", self.kept.given, [*filed, *self.params])
        if self.served:
            # a forward that ends at a head of another kind has no unembedding, rounded or not
            asked = [name for name in self.served if name != "lm_head"]
            if asked:
                matching("served", asked, list(self.ops))

    def entry(self, name: str) -> Entry | None:
        """What is filed under a full name, None where nothing is, or the backward is done with it."""
        return self._entries.get(name)

    def saved_bytes(self) -> int:
        """Bytes of the arrays that are held for the backward, each counted once, parameters left out."""
        return held_bytes((entry.saved for entry in self._entries.values()), self.params)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """What is filed would tear: its entries, values and gradients share memory."""
        raise InputError(
            f"{type(self).__name__}: cannot be copied or pickled, expected what it holds by name: take"
            " dict(record.value) and dict(record.grad)"
        )

    def __repr__(self) -> str:
        """What is filed and what is kept, as a table."""
        return table(len(self._entries), self.value, self.grad)
