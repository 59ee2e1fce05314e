"""numgpt's layers run in PyTorch: the same order of the same ops, each by PyTorch's own function,
differentiated by its autograd.
"""

import numpy as np

from ..layers.record import Record
from ..ops import Op
from .borrowing import torch
from .forms import Run
from .op_table import TORCH


class TorchRecord(Record):
    """A Record over tensors, which keeps every value with its gradient. Layers only add and call, so they run
    as they are.
    """

    def __call__(self, name, op, *inputs, shares=None, **options):
        value = super().__call__(name, op, *inputs, shares=shares, **options)
        if value.requires_grad:
            value.retain_grad()
        return value

    def run(self, full, op, arrays, options):
        """PyTorch's function for the op, with the mask that numgpt would draw."""
        mask = {k: tensor(v) for k, v in self.mask(full, op, arrays, options).items()}
        return TORCH[op.name](torch(), *arrays, **{k: tensor(v) for k, v in options.items()}, **mask), None


def tensor(array):
    """A NumPy array as a tensor that shares its memory; what is none passes."""
    if isinstance(array, Op) or not isinstance(array, np.ndarray | np.generic):
        return array
    return torch().from_numpy(np.ascontiguousarray(array).reshape(np.shape(array)))


def leaf(array):
    """A tensor of a copy of an array, that gathers a gradient where it is one of floats."""
    found = tensor(array.copy() if isinstance(array, np.ndarray) else array)
    return found.requires_grad_() if hasattr(found, "requires_grad_") and found.is_floating_point() else found


def torch_run(form, layer, inputs, dtype, optimizer=None, step=None):
    """A Run of a form's loss, as Form.run gives it, computed by PyTorch. optimizer: a function of tensors ->
    one of torch.optim.
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
