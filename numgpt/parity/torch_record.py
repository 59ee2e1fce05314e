"""numgpt's layers run in PyTorch: the same ops in the same order, differentiated by its autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..layers.layer import Layer
from ..layers.record import Record
from ..ops import Op
from .borrowing import torch
from .forms import Form, Run
from .op_table import TORCH


class TorchRecord(Record):
    """A Record over tensors, which retain their gradients.

    Layers only add and call, so they run as they are.
    """

    looks_inside = False  # PyTorch's fused attention has no steps

    def __call__(self, name: str, op: Any, *inputs: Any, shares: str | None = None, **options: Any) -> Any:
        value = super().__call__(name, op, *inputs, shares=shares, **options)
        if value.requires_grad:
            value.retain_grad()
        return value

    def run(self, full: str, op: Op, arrays: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, None]:
        """PyTorch's function for the op, with the mask that numgpt would draw."""
        options = {**options, **self.mask(full, op, arrays, options)}
        return TORCH[op.name](torch(), *arrays, **{k: tensor(v) for k, v in options.items()}), None

    def decide(self, name: str, function: Callable[..., Any], *values: Any) -> Any:
        """The same integers as numgpt's, of the values' numbers."""
        return tensor(function(*(v.detach().numpy() if hasattr(v, "detach") else v for v in values)))


def tensor(array: Any) -> Any:
    """A NumPy array as a tensor that shares its memory; anything else as it is."""
    if isinstance(array, Op) or not isinstance(array, np.ndarray | np.generic):
        return array
    return torch().from_numpy(np.ascontiguousarray(array).reshape(np.shape(array)))


def leaf(array: Any) -> Any:
    """A tensor of a copy of an array, that collects a gradient where it holds floats."""
    copied = tensor(array.copy() if isinstance(array, np.ndarray) else array)
    if hasattr(copied, "requires_grad_") and copied.is_floating_point():
        return copied.requires_grad_()
    return copied


def torch_run(
    form: Form,
    layer: Layer,
    inputs: Sequence[Any],
    dtype: DTypeLike,
    optimizer: Callable[[dict[str, Any]], Any] | None = None,
    step: int | None = None,
) -> Run:
    """A Run of a form's loss, as Form.run gives it, computed by PyTorch.

    optimizer: a function of the tensors by name → one of torch.optim.
    """
    given = form.params.astype(dtype)
    params = {name: leaf(array) for name, array in given.items()}
    r = TorchRecord(params, form.config, keep=True, step=step)
    layer.forward(r, *map(tensor, inputs)).backward()
    values = {n: v.detach().numpy() for n, v in r.value.items()}
    grads = {n: v.grad.numpy() for n, v in reversed(r.value.items()) if v.grad is not None}
    grads |= {n: np.zeros(p.shape, dtype) if p.grad is None else p.grad.numpy() for n, p in params.items()}
    updated = {}
    if optimizer is not None:
        optimizer(params).step()
        updated = {n: p.detach().numpy() for n, p in params.items()}
    return Run(given, values, grads, updated)
