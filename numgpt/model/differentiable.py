"""Gradients of what is not the model's own loss: of a layer on top of it, and of any of its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..argument_kinds import as_array
from ..errors import InputError
from ..layers.edits import check_names
from ..layers.layer import Layer
from ..layers.record import Record
from ..layers.transformer import gpt_backward, gpt_forward
from ..layers.visibility import Visibility
from . import checks

Array = NDArray[Any]
Step = int | tuple[int, ...] | None


class Model(Protocol):
    """What a layer runs on: settings, parameters, what is served, and the seed of dropout's masks."""

    config: Config
    params: Flat
    served: Mapping[str, Any]
    seed: int


def placed(model: Model, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of a layer where the parameters lie, floats in their dtype; what is no array stays.

    On the GPU no step waits for a look at integers that were seen here to be ids of the model.
    """
    return tuple(_placed(model, x) if isinstance(x, np.ndarray) else x for x in inputs)


def _placed(model: Model, array: Array) -> Array:
    flat, V = model.params.flat, model.config.vocab_size
    if array.dtype.kind == "f" and flat.dtype.kind == "f":
        array = array.astype(flat.dtype, copy=False)
    moved: Array = engine.beside(array, flat)
    if moved is not array and array.dtype.kind in "iu" and array.size and array.max() < V:
        engine.checked(moved, flat, V, negative=True)
        if array.min() >= 0:
            engine.checked(moved, flat, V)
    return moved


def value(
    model: Model, layer: Layer, inputs: tuple[Any, ...], *, visibility: Visibility | None = None
) -> Array:
    """What layer.forward(r, *inputs) gives on a model, without dropout."""
    record = _record(model, visibility=_seen(model, inputs, visibility))
    return forwards(model, record, layer, inputs)


def loss(
    model: Model, layer: Layer, inputs: tuple[Any, ...], *, visibility: Visibility | None = None
) -> Array:
    """The value of a layer that gives a scalar."""
    return _scalar(value(model, layer, inputs, visibility=visibility))


def loss_and_grads(
    model: Model,
    layer: Layer,
    inputs: tuple[Any, ...],
    grads: Flat,
    *,
    dloss: float = 1.0,
    step: Step = None,
    add: bool = False,
    visibility: Visibility | None = None,
) -> Array:
    """The layer's loss; dloss times its gradients go to grads, onto what is there where add says so."""
    # Nobody else sees this record's values, so the backward may write over them: spare.
    seen = _seen(model, inputs, visibility)
    record = _record(model, grads=grads, add=add, step=step, visibility=seen, spare=True)
    return both_ways(model, record, layer, inputs, dloss)


def record(
    model: Model,
    layer: Layer,
    inputs: tuple[Any, ...],
    *,
    step: Step = None,
    visibility: Visibility | None = None,
) -> Record:
    """The Record of a layer's forward and backward, with every value and every gradient kept."""
    seen = _seen(model, inputs, visibility)
    kept = _record(model, grads=model.params.like(), keep=True, step=step, visibility=seen)
    both_ways(model, kept, layer, inputs)
    return kept


def _record(model: Model, **options: Any) -> Record:
    return Record(model.params, model.config, seed=model.seed, served=model.served, **options)


def _seen(model: Model, inputs: tuple[Any, ...], visibility: Visibility | None) -> Visibility | None:
    """What is said of the first input's tokens, checked against them, where the parameters lie."""
    return checks.visibility(model.config, model.params, visibility, np.shape(inputs[0]))


def forwards(model: Model, record: Record, layer: Layer, inputs: tuple[Any, ...]) -> Array:
    """Run a layer forward on a Record of the model."""
    with engine.session(model.params.dtype):
        y: Array = layer.forward(record, *placed(model, inputs))
    record.check_names()
    return y


def both_ways(
    model: Model, record: Record, layer: Layer, inputs: tuple[Any, ...], dloss: float = 1.0
) -> Array:
    """Run a layer forward on a Record of the model, and backward from dloss."""
    with engine.session(model.params.dtype):
        loss = _scalar(layer.forward(record, *placed(model, inputs)))
        record.check_names()
        seed = np.ones_like(loss)
        layer.backward(record, seed if dloss == 1 else seed * dloss)
    record.finish_backward()
    return loss


def _scalar(loss: Any) -> Any:
    """A layer's loss, or InputError where it is no number that a backward can start from."""
    kind = getattr(getattr(loss, "dtype", None), "kind", "")
    if not kind or kind not in "fc":
        raise InputError(
            f"objective: the layer's loss is {type(loss).__name__}, expected an array () of floats, such as"
            " r('loss', cross_entropy, logits, targets) gives"
        )
    if loss.shape != ():
        raise InputError(
            f"objective: the layer's loss has shape {loss.shape}, expected (): one number for the whole"
            " batch, such as the mean"
        )
    return loss


# Gradients that begin at values.


class Sources(Record):
    """A Record whose backward begins at several names: what is given there is added to what arrives.

    What was filed after the last of them is not run backwards: nothing arrives there but zeros.
    """

    def __init__(self, given: Mapping[str, Any], *args: Any, **options: Any) -> None:
        self.given = dict(given)
        adders = {name: lambda dy, name=name: dy + self.given[name] for name in given}
        super().__init__(*args, edit_grad=adders, **options)
        self.inputs: dict[str, list[tuple[int, ...]]] = {}  # name → the shapes of the inputs of floats
        self.values: dict[str, tuple[int, ...]] = {}  # name → the shape of its value
        self.beyond: set[str] = set()

    def __call__(self, name: str, op: Any, *inputs: Any, **options: Any) -> Any:
        """As in any Record; shapes are noted."""
        value = super().__call__(name, op, *inputs, **options)
        full = self.scope + name
        if self.ops[full] is None:
            return value
        self.inputs[full] = [x.shape for x in inputs if getattr(x, "dtype", np.dtype(int)).kind in "fc"]
        self.values[full] = value.shape
        return value

    def begin(self, like: Array) -> None:
        """Hold what is given to the values that there are, and put it beside like, in its dtype."""
        check_names(self.given, self.values, "vjp")
        for name, array in self.given.items():
            if array.shape != self.values[name]:
                raise InputError(
                    f"vjp: the gradient of {name!r} has shape {array.shape}, expected {self.values[name]} as"
                    " the value"
                )
            self.given[name] = engine.beside(array.astype(like.dtype, copy=False), like)
        filed = list(self.values)
        after = filed[max(map(filed.index, self.given)) + 1 :]
        self.beyond.update(n for n in after if not any(source.startswith(f"{n}.") for source in self.given))

    def back(self, name: str, dy: Any) -> Any:
        """As in any Record, but for a name beyond the sources, which passes zeros on."""
        full = self.scope + name
        if self.ops[full] is None or full not in self.beyond:
            return super().back(name, dy)
        zeros = tuple(np.zeros(shape, dy.dtype, like=dy) for shape in self.inputs[full])
        if len(zeros) > 1:
            return zeros
        return zeros[0] if zeros else None


def vjp(
    model: Model,
    ids: Array,
    dvalues: Mapping[str, Array],
    grads: Flat,
    *,
    step: Step = None,
    add: bool = False,
    visibility: Visibility | None = None,
) -> None:
    """Gradients of Σ_name ⟨dvalue, value⟩ with respect to the parameters → grads.

        dθ = Σ_name (∂value_name/∂θ)ᵀ dvalue_name

    One backward does it: a value's gradient is what arrives from the values that were made of it, and here
    dvalue_name besides, because the sum depends on the value in both ways.
    """
    with engine.session(model.params.dtype):
        record = Sources(
            dvalues,
            *(model.params, model.config),
            **{"seed": model.seed, "served": model.served, "grads": grads},
            **{"add": add, "step": step, "spare": True},
            visibility=_seen(model, (ids,), visibility),
        )
        logits = gpt_forward(record, ids)
        record.begin(logits)
        gpt_backward(record, np.zeros_like(logits))
    record.finish_backward()


def finite(who: str, dvalues: Mapping[str, ArrayLike], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Gradients by name as arrays; InputError unless their numbers are finite, and real for a real model."""
    if not dvalues:
        raise InputError(f"{who}: no value is named, expected a gradient by name, such as 'lm_head'")
    arrays = {}
    for name, given in dvalues.items():
        what = f"{who}: the gradient of {name!r}"
        array: Any = given if engine.on_gpu(given) else as_array(what, given, "numbers of the value's shape")
        if array.dtype.kind not in ("biufc" if dtype.kind == "c" else "biuf"):
            raise InputError(f"{what} is {array.dtype}, expected real numbers as the parameters")
        if not np.isfinite(array).all():
            raise InputError(f"{what} holds NaN or infinity, expected finite numbers")
        arrays[name] = array
    return arrays
