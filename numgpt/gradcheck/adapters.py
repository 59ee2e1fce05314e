"""Autograd functions of PyTorch and JAX as pairs: their backward is then held to the laws like one written by
hand.
"""

import contextlib

import numpy as np

from ..errors import InputError
from .pair import Pair, argument_names, is_float


def from_torch(function):
    """An autograd function of PyTorch as a Pair: f(*tensors, **options) → one tensor, such as a
    torch.autograd.Function's apply.

        forward(*arrays, **options) → f of the arrays as tensors
        backward(dy, saved) → torch.autograd.grad of it

    float32 and float64 arrays pass through as they are, complex ones without a gradient, for the complex
    step; integers and None as they are. An nn.Module has parameters too: from_module makes them arguments.
    """
    torch = _torch("from_torch")
    if isinstance(function, torch.nn.Module):
        name = type(function).__name__
        raise InputError(
            f"from_torch: {name} is an nn.Module, expected a function of tensors: from_module(module,"
            " *arrays) makes its parameters arguments"
        )

    def forward(*arrays, **options):
        differentiated = not any(_is_complex(a) for a in arrays)
        tensors = [_tensor(torch, a, differentiated) for a in _one_kind(arrays)]
        with torch.enable_grad() if differentiated else torch.no_grad():
            y = function(*tensors, **options)
        if not isinstance(y, torch.Tensor):
            raise InputError(
                f"from_torch: the function returned {_what(y)}, expected one tensor: return one output, or"
                " concatenate them"
            )
        return y.detach().numpy().copy(), (y, tensors)

    def backward(dy, saved):
        y, tensors = saved
        moving = [t for t in tensors if t is not None and t.requires_grad]
        grads = iter([None] * len(moving))
        if y.requires_grad:
            grads = iter(
                torch.autograd.grad(
                    y, moving, torch.tensor(dy, dtype=y.dtype), retain_graph=True, allow_unused=True
                )
            )

        def gradient(t):
            g = next(grads)
            return (
                np.zeros(tuple(t.shape), t.detach().numpy().dtype) if g is None else g.detach().numpy().copy()
            )

        return tuple(gradient(t) if t is not None and t.requires_grad else None for t in tensors)

    return _named(_torch_names(torch, function), Pair(forward, backward))


def from_module(module, *arrays):
    """(forward, backward, *arrays) of an nn.Module at its inputs and its own parameters:
    check(*from_module(module, x)).

    Parameters come after the inputs, and are called by their names. They and the buffers are taken in the
    inputs' dtype; the module itself is not changed. Switch off what draws at random: module.eval().
    """
    torch = _torch("from_module")
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"from_module: {_what(module)} is no nn.Module, expected one: from_torch takes functions"
        )
    names, inputs = [name for name, _ in module.named_parameters()], len(arrays)
    buffers = dict(module.named_buffers())

    def function(*tensors, **options):
        dtype = next(
            (t.dtype for t in tensors if t is not None and (t.is_floating_point() or t.is_complex())), None
        )
        state = {n: b.clone().to(dtype) if b.is_floating_point() else b.clone() for n, b in buffers.items()}
        return torch.func.functional_call(
            module, state | dict(zip(names, tensors[inputs:])), tensors[:inputs], options
        )

    pair = _named([*argument_names(module.forward, inputs), *names], from_torch(function))
    floats = [np.asarray(a).dtype for a in arrays if is_float(a)]
    parameters = [p.detach().numpy().copy() for p in module.parameters()]
    if floats:
        parameters = [p.astype(np.result_type(*floats)) for p in parameters]
    return (*pair, *arrays, *parameters)


def from_jax(function):
    """A function of JAX as a Pair: f(*arrays, **options) → one array, differentiated by jax.vjp.

        forward(*arrays, **options) → f of the arrays; of a custom_vjp the function itself, not its forward rule
        backward(dy, saved) → jax.vjp of it at dy

    float64 and complex128 arrays are computed in 64 bits, in the scope of each call: jax_enable_x64 stays
    what it is. Others run as they would in JAX. Integers and None have no gradient.
    """
    try:
        import jax
    except ImportError:
        raise InputError(
            "from_jax: JAX is not installed, expected it to differentiate its functions: pip install jax"
        ) from None

    def value(arrays, options):
        y = function(*[None if a is None else jax.numpy.asarray(a) for a in arrays], **options)
        if isinstance(y, tuple | list | dict):
            raise InputError(
                f"from_jax: the function returned {_what(y)}, expected one array: return one output, or"
                " concatenate them"
            )
        return y

    def forward(*arrays, **options):
        arrays = _one_kind(arrays)
        _refuse_longdouble("JAX", arrays)
        with _x64(jax, arrays):
            return np.array(value(arrays, options)), (arrays, options)

    def backward(dy, saved):
        arrays, options = saved
        places = [i for i, a in enumerate(arrays) if is_float(a)]

        def of_floats(*floats):
            given = dict(zip(places, floats))
            return value([given.get(i, a) for i, a in enumerate(arrays)], options)

        with _x64(jax, arrays):
            _, back = jax.vjp(of_floats, *[jax.numpy.asarray(arrays[i]) for i in places])
            given = dict(zip(places, map(np.array, back(jax.numpy.asarray(dy)))))
        return tuple(given.get(i) for i in range(len(arrays)))

    return _named(_names(function), Pair(forward, backward))


def _x64(jax, arrays):
    """A scope with 64 bits where the arrays have them, else with whatever JAX is set to."""
    if not any(a is not None and np.asarray(a).dtype in (np.float64, np.complex128) for a in arrays):
        return contextlib.nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # JAX before 0.8

    return enable_x64(True)


def _torch(who):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{who}: PyTorch is not installed, expected it to differentiate its functions: pip install"
            " 'numgpt[verify]'"
        ) from None
    return torch


def _tensor(torch, array, differentiated):
    """An array as a tensor of its own memory."""
    if array is None:
        return None
    _refuse_longdouble("PyTorch", [array])
    tensor = torch.tensor(np.asarray(array))
    return tensor.requires_grad_() if differentiated and is_float(array) else tensor


def _torch_names(torch, function):
    """The names of the arguments: those of the function, or of an autograd.Function's forward without its
    ctx.
    """
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        takes_ctx = owner.setup_context is torch.autograd.Function.setup_context
        return _names(owner.forward)[1 if takes_ctx else 0 :]
    return _names(function)


def _names(function):
    """All names that a function gives to its arguments."""
    return [name for name in argument_names(function, 64) if name]


def _one_kind(arrays):
    """Floats as complex numbers where any array is complex: a product of both kinds is an error elsewhere."""
    if any(map(_is_complex, arrays)):
        dtype = np.result_type(*[a for a in arrays if _is_complex(a)])
        return [np.asarray(a, dtype) if is_float(a) else a for a in arrays]
    return list(arrays)


def _is_complex(array):
    return array is not None and np.asarray(array).dtype.kind == "c"


def _refuse_longdouble(who, arrays):
    """Neither has them."""
    if any(a is not None and np.asarray(a).dtype.char in "gG" for a in arrays):
        raise TypeError(f"{who} has no longdouble")


def _named(names, pair):
    """The pair, with the arguments' names where argument_names looks for them."""
    pair.forward.argument_names = names
    return pair


def _what(value):
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
