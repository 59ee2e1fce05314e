"""PyTorch's numbers for what a record holds, by the same names: a trace shows them beside numgpt's."""

from __future__ import annotations

from .. import engine
from ..arguments import checked
from ..errors import InputError
from ..traces.recorded import TracedRecord
from ..traces.steps import Reference
from .borrowing import torch
from .torch_record import TorchRecord, leaf, tensor


@checked
def reference(record: TracedRecord) -> Reference:
    """Compute the same once more in PyTorch, with its functions and its autograd.

    Parameters
    ----------
    record : Record
        What ``model.record`` returned, of tokens and targets alone.

    Returns
    -------
    Reference
        For ``record.trace(reference=…)``: values and gradients by name.

    Raises
    ------
    InputError
        Where PyTorch is not installed, or cannot compute the same.
    """
    if record.edit or record.edit_grad or record.served or record.visibility is not None:
        raise InputError(
            "parity.reference: the record's values were edited or served, or its tokens see otherwise,"
            " which PyTorch is not told, expected a record of tokens and targets alone"
        )
    dtype = next(iter(record.params.values())).dtype
    if dtype not in ("float32", "float64"):
        raise InputError(f"parity.reference: the record is of {dtype}, expected float32 or float64")
    params = {name: leaf(engine.home(array)) for name, array in record.params.items()}
    r = TorchRecord(params, record.config, keep=True, seed=record.seed, step=record.step)
    value = record.source.layer.forward(r, *(tensor(engine.home(a)) for a in record.source.inputs))
    if record.grad:
        value.backward()
    grads = {name: t.grad.numpy() for name, t in (*r.value.items(), *params.items()) if t.grad is not None}
    values = {name: t.detach().numpy() for name, t in r.value.items()}
    return Reference(f"PyTorch {torch().__version__}", values, grads)
