"""A PyTorch module borrowed for one run, in another dtype, and given back as it was."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import InputError
from ..gradcheck.adapters import numbers


def torch() -> Any:
    """PyTorch, or one line that says how to get it."""
    try:
        import torch
    except ImportError:
        raise InputError(
            "parity: PyTorch is not installed, expected it to compare with: pip install numgpt[verify]"
        ) from None
    return torch


def as_numpy(tensor: Any) -> Any:
    """A tensor as an array; NumPy has no bfloat16, and float32 holds it exactly."""
    return numbers(tensor.float() if tensor.dtype == torch().bfloat16 else tensor)


def gradient(tensor: Any) -> Any:
    """The gradient that a backward left, 0 where it did not reach the tensor, which rows call missing."""
    return torch().zeros_like(tensor) if tensor.grad is None else tensor.grad


@contextlib.contextmanager
def borrowed(module: Any, optimizer: Any, dtype: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Within it the module's numbers are copies in a dtype, all with gradients, the optimizer's moments 0.

    Yields the module's device and the parameters that were frozen. A deep copy of the module would not do: a
    lambda in it (minGPT has one) would go on using the original's parts.
    """
    t = torch()
    tensors = [*module.parameters(), *module.buffers()]
    before = [(x, x.data, x.grad, x.requires_grad) for x in tensors]
    modes = [(m, m.training, dict(m._buffers)) for m in module.modules()]
    state = None if optimizer is None else optimizer.state
    frozen = [x for x in tensors if isinstance(x, t.nn.Parameter) and not x.requires_grad]
    try:
        for x in tensors:
            x.grad = None
            x.data = x.data.to(dtype if x.is_floating_point() else x.dtype, copy=True)
        for p in module.parameters():
            p.requires_grad_(p.is_floating_point())
        module.eval()
        if optimizer is not None:
            optimizer.state = collections.defaultdict(dict)
        with _eager(t):
            yield tensors[0].device if tensors else "cpu", frozen
    finally:
        for x, data, grad, requires_grad in before:
            x.grad = None
            x.data = data
            x.requires_grad_(requires_grad)
            x.grad = grad
        for m, training, buffers in modes:
            m.training = training
            m._buffers.clear()
            m._buffers.update(buffers)
        if optimizer is not None:
            optimizer.state = state


def _eager(t: Any) -> Any:
    """A scope in which nothing runs compiled: hooks are not seen there."""
    if hasattr(t.compiler, "set_stance"):
        return t.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


@contextlib.contextmanager
def hooks(parts: Mapping[str, tuple[Any, bool]], values: dict[str, Any]) -> Iterator[None]:
    """Within it the values of parts are filed in values as they are computed, and retain their gradients.

    parts: name → (a module, whether its input is meant, not its output). The module goes on with a copy: it
    may add to a value in place, or rectify it so.
    """
    handles = []
    for name, (part, is_input) in parts.items():
        if is_input:
            handles.append(part.register_forward_pre_hook(_input_hook(name, values), with_kwargs=True))
        else:
            handles.append(part.register_forward_hook(_output_hook(name, values)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_hook(name: str, values: dict[str, Any]) -> Callable[..., Any]:
    """A hook that files what a module returns."""
    return lambda part, inputs, output: _file(name, output, values)


def _input_hook(name: str, values: dict[str, Any]) -> Callable[..., Any]:
    """A hook that files the first argument of a module, positional or not."""

    def hook(part: Any, inputs: Any, named: dict[str, Any]) -> Any:
        if inputs:
            return (_file(name, inputs[0], values), *inputs[1:]), named
        first = next(iter(named))
        return inputs, named | {first: _file(name, named[first], values)}

    return hook


def _file(name: str, value: Any, values: dict[str, Any]) -> Any:
    """File value, or its first part if it is a tuple or list; returns what goes on in its place."""
    if isinstance(value, tuple | list) and value:
        first = _file(name, value[0], values)
        return type(value)((first, *value[1:])) if type(value) in (tuple, list) else value
    if not isinstance(value, torch().Tensor):
        return value
    if value.requires_grad:
        value.retain_grad()
    values[name] = value
    return value.clone()
