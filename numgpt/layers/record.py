"""Record: the bookkeeper of one forward and backward. It differentiates nothing."""

import contextlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import engine
from ..errors import InputError
from ..random import generator
from .edits import Edit, fit


class Layer(NamedTuple):
    """A pair that composes ops, or smaller layers, on a Record: forward(r, *inputs) → y, backward(r, dy) →
    dx.
    """

    forward: callable
    backward: callable


@dataclass
class Entry:
    """What the backward of one name needs."""

    op: object
    saved: object = None
    names: tuple = ()  # of the parameters, None for one that the model does not have


class Record:
    """Names what is computed: r(name, op, x) runs a forward and files it, r.back(name, dy) runs the backward.

    A name is filed under its scope: inside r("h.3", block, x), r("mlp", ffn, x), r("act", gelu, x) is
    "h.3.mlp.act", and its parameters "h.3.mlp.act.weight" …. Values, gradients, parameters and files share
    these names.

    params: mapping name -> array. config: what the layers ask for their sizes.
    grads: mapping name -> array that receives the parameters' gradients; add: onto what is there.
    keep: hold every value and gradient, in .value and .grad; else what was saved is let go as the backward
    proceeds.
    edit: name -> a function of the value, or an edits.Edit with its backward, applied in flight.
    edit_grad: name -> a function of the gradient with respect to the (edited) value, applied in flight.
    spare: nobody else looks at the values, so the backward may write over them.
    seed, step: draw the masks of dropout, with the name; step None: nothing is dropped.
    """

    cache = None  # keys and values of earlier positions, in a subclass that decodes with them

    def __init__(
        self,
        params,
        config,
        *,
        grads=None,
        add=False,
        keep=False,
        edit=None,
        edit_grad=None,
        seed=0,
        step=None,
        spare=False,
    ):
        if keep and spare:
            raise InputError(
                "Record: keep and spare are both set, expected one: what may be written over is not kept"
            )
        self.spare = spare
        self.params, self.config, self.keep, self.seed, self.step = params, config, keep, seed, step
        self.edit = {name: Edit.of(name, e) for name, e in (edit or {}).items()}
        self.edit_grad = dict(edit_grad or {})
        self.value, self.grad, self.scope = {}, {}, ""
        self._entries, self._summed = {}, set()
        self.start_backward(grads, add)

    def start_backward(self, grads, add=False):
        """Send the parameters' gradients of the backward that follows to grads."""
        self.grads = grads
        self._summed.clear()
        if add:
            self._summed.update(grads)

    def __truediv__(self, name):
        """The scope below: the same record, with name. before every name."""
        inner = object.__new__(type(self))  # copy.copy takes far longer, and this is called for every layer
        vars(inner).update(vars(self))
        inner.scope = f"{self.scope}{name}."
        return inner

    def __call__(self, name, op, *inputs, shares=None, **options):
        """Run op's forward, file it under name and return its value.

        shares: the name whose parameters it uses instead of its own (a tied unembedding shares "wte").
        """
        full = self.scope + name
        assert full not in self._entries, f"{full} is filed twice"
        if isinstance(op, Layer):
            fused = engine.fused(op, self / name, inputs) if self.is_plain(full) else None
            value, saved = (
                fused.forward(self / name, *inputs) if fused else (op.forward(self / name, *inputs), None)
            )
            entry = Entry(fused or op, saved)
        else:
            names = tuple(f"{shares or full}.{p}" for p in op.parameters)
            names = tuple(n if n in self.params else None for n in names)
            arrays = (*inputs, *(None if n is None else self.params[n] for n in names))
            value, saved = self.run(full, op, arrays, options)
            entry = Entry(op, saved, names)
        self._entries[full] = entry
        if full in self.edit:
            value = self.edit[full].forward(full, value)
        if self.keep:
            self.value[full] = value
        return value

    def run(self, full, op, arrays, options):
        """Check the arrays against the op's line, draw its mask if it drops, and run its forward on the
        engine.
        """
        op.check(arrays, options)
        return engine.forward(op, arrays)(*arrays, **options, **self.mask(full, op, arrays, options))

    def mask(self, full, op, arrays, options):
        """The options that make an op drop, where it does in this step."""
        if not op.noise or self.step is None or self.config.dropout == 0:
            return {}
        p, shape = self.config.dropout, op.noise(*arrays, **options)
        keep = (
            generator(self.seed, "dropout", self.step, full).random(shape, dtype=np.float32) >= p
        )  # drawn on the host, so the same on every engine
        return {"keep": engine.beside(keep, arrays[0]), "p": p}

    def back(self, name, dy):
        """Run the backward of what was filed under name; add up its parameters' gradients, return those of
        its inputs.

        One input: its gradient. Several: a tuple of those that have one; none: None.
        """
        full = self.scope + name
        entry = self._entries[full] if self.keep else self._entries.pop(full)
        if full in self.edit_grad:
            dy = fit(f"edit_grad: {full!r}", self.edit_grad[full](dy), dy)
        if self.keep:
            self.grad[full] = dy
        if full in self.edit:
            dy = self.edit[full].backward(full, dy)
        if isinstance(entry.op, Layer):
            return entry.op.backward(self / name, dy, *(() if entry.saved is None else (entry.saved,)))
        backward, names = (
            engine.backward(entry.op, dy),
            [n if self.grads is not None else None for n in entry.names],
        )
        options = {}
        if names and engine.takes(backward, "into"):
            options["into"] = [n and (self.grads[n], n in self._summed) for n in names]
        if self.spare and engine.takes(backward, "spare"):
            options["spare"] = True
        grads = backward(dy, entry.saved, **options)
        inputs = len(grads) - len(names)
        for name, grad in zip(names, grads[inputs:]):
            if name is not None:
                self._add(name, grad)
        dx = tuple(g for g in grads[:inputs] if g is not None)
        return dx if len(dx) > 1 else dx[0] if dx else None

    def is_plain(self, name):
        """Whether what is under a name may run as one piece: nothing in it is kept, edited or dropped."""
        drops = self.step is not None and self.config.dropout > 0
        return not (
            self.keep or drops or any(n.startswith(f"{name}.") for n in (*self.edit, *self.edit_grad))
        )

    def parameter(self, name):
        """A parameter of this scope."""
        return self.params[self.scope + name]

    def put(self, name, grad):
        """The gradient of a parameter of this scope, from a layer that runs as one piece."""
        if self.grads is not None:
            self._add(self.scope + name, grad)

    @contextlib.contextmanager
    def place(self, name):
        """The array for the gradient of a parameter of this scope, and whether to add to what it holds."""
        full = self.scope + name
        if self.grads is None:
            yield np.empty_like(self.params[full]), False
        else:
            yield self.grads[full], full in self._summed
            self._summed.add(full)

    def _add(self, parameter, grad):
        """A parameter that is used more than once gets the sum of its gradients. A twin may have put it in
        place itself.
        """
        place = self.grads[parameter]
        if grad is not place:
            if parameter in self._summed:
                place += grad
            else:
                place[...] = grad
        self._summed.add(parameter)
        if self.keep:
            self.grad.pop(
                parameter, None
            )  # filed anew, so that .grad is in the order in which gradients became complete
            self.grad[parameter] = self.grads[parameter]

    def finish_backward(self):
        """Give gradient 0 to the parameters that nothing used."""
        for name in self.grads:
            if name not in self._summed:
                self.grads[name][...] = 0

    def check_names(self):
        """Raise InputError for an edit whose name the forward did not file."""
        for name in (*self.edit, *self.edit_grad):
            if name not in self._entries and name not in self.value:
                near = [n for n in self._entries if n.split(".")[-1] == name.split(".")[-1]] or list(
                    self._entries
                )
                raise InputError(
                    f"edit: there is no value {name!r}, expected a name such as {', '.join(near[:4])}"
                )

    def saved_bytes(self):
        """Bytes of the arrays that are held for the backward, each counted once, parameters left out."""
        own = {id(_owner(a)) for a in self.params.values()}
        held = {id(_owner(a)): _owner(a).nbytes for e in self._entries.values() for a in _arrays(e.saved)}
        return sum(size for i, size in held.items() if i not in own)


def _arrays(saved):
    """All arrays in nested tuples."""
    if isinstance(saved, np.ndarray) or engine.on_gpu(saved):
        yield saved
    elif isinstance(saved, tuple):
        for part in saved:
            yield from _arrays(part)


def _owner(array):
    """The array whose memory a view shows."""
    while isinstance(array.base, np.ndarray) or engine.on_gpu(array.base):
        array = array.base
    return array
