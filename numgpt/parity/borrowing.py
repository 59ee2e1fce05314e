"""A PyTorch module borrowed for one run: in another dtype, its values and gradients seen by hooks, and left
as it was.
"""

import collections
import contextlib

from ..errors import InputError


def torch():
    """PyTorch, or one line that says how to get it."""
    try:
        import torch
    except ImportError:
        raise InputError(
            "parity: PyTorch is not installed, expected it to compare with: pip install numgpt[verify]"
        ) from None
    return torch


def as_numpy(tensor):
    """A tensor as an array; NumPy has no bfloat16, and float32 holds it exactly."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def gradient(tensor):
    """The gradient that a backward left, 0 where it did not come by."""
    return torch().zeros_like(tensor) if tensor.grad is None else tensor.grad


@contextlib.contextmanager
def borrowed(module, optimizer, dtype):
    """Within it the module's numbers are copies in a dtype, all with gradients, and its optimizer's moments
    0.

    Yields its device and the parameters that were frozen. A deep copy of the module would not do: a lambda in
    it (minGPT has one) goes on to use the original's parts.
    """
    t = torch()
    tensors = [*module.parameters(), *module.buffers()]
    kept = [(x, x.data, x.grad, x.requires_grad) for x in tensors]
    training = [(m, m.training, dict(m._buffers)) for m in module.modules()]
    state = None if optimizer is None else optimizer.state
    try:
        for x in tensors:
            x.grad = None
            x.data = x.data.to(dtype if x.is_floating_point() else x.dtype, copy=True)
        for p in module.parameters():
            p.requires_grad_(p.is_floating_point())
        module.eval()
        if optimizer is not None:
            optimizer.state = collections.defaultdict(dict)
        with (
            t.compiler.set_stance("force_eager")
            if hasattr(t.compiler, "set_stance")
            else contextlib.nullcontext()
        ):  # hooks are not seen in compiled code
            yield (
                tensors[0].device if tensors else "cpu",
                [p for p, *_, wanted in kept if isinstance(p, t.nn.Parameter) and not wanted],
            )
    finally:
        for x, data, grad, wanted in kept:
            x.grad = None
            x.data = data
            x.requires_grad_(wanted)
            x.grad = grad
        for m, mode, buffers in training:
            m.training = mode
            m._buffers.clear()
            m._buffers.update(buffers)
        if optimizer is not None:
            optimizer.state = state


@contextlib.contextmanager
def hooks(parts, found):
    """Within it the values of parts go to found as they are computed, and keep their gradients.

    parts: name -> (a module, whether what goes into it is meant, not what it gives).
    What goes on is a copy: a module may add to a value in place, or rectify it so.
    """
    t, handles = torch(), []

    def keep(name, value):
        """value, or what it begins with, filed; returns what goes on in its place."""
        if isinstance(value, tuple | list) and value:
            first = keep(name, value[0])
            return type(value)((first, *value[1:])) if type(value) in (tuple, list) else value
        if not isinstance(value, t.Tensor):
            return value
        if value.requires_grad:
            value.retain_grad()
        found[name] = value
        return value.clone()

    def hook_of(name):
        return lambda part, inputs, output: keep(name, output)

    def pre_hook_of(name):
        def hook(part, inputs, named):
            if inputs:
                return (keep(name, inputs[0]), *inputs[1:]), named
            first = next(iter(named))
            return inputs, named | {first: keep(name, named[first])}

        return hook

    for name, (part, is_input) in parts.items():
        if is_input:
            handles.append(part.register_forward_pre_hook(pre_hook_of(name), with_kwargs=True))
        else:
            handles.append(part.register_forward_hook(hook_of(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
