"""Autograd functions of PyTorch and JAX as pairs, held to the laws like a backward written by hand."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked
from ..errors import InputError
from .pair import Pair, argument_names, as_dtype, describe, is_float, plain


@checked
def from_torch(function: Callable[..., Any]) -> Pair:
    """An autograd function of PyTorch as a Pair.

        forward(*arrays, **options) → f of the arrays as tensors
        backward(dy, saved) → torch.autograd.grad of it

    float32 and float64 arrays pass through as they are, complex ones without a gradient, for the complex
    step; integers and None as they are.

    Parameters
    ----------
    function : callable
        f(*tensors, **options) → one tensor, such as the apply of a torch.autograd.Function. An nn.Module has
        parameters too: from_module makes them arguments.

    Returns
    -------
    Pair

    Raises
    ------
    InputError
        PyTorch is not installed, the function is an nn.Module, or it returns something else than one tensor.

    Examples
    --------
    >>> import numpy, torch                                             # doctest: +SKIP
    >>> verdict(*from_torch(torch.sin), numpy.arange(3.0)).word         # doctest: +SKIP
    'right'
    """
    torch = _torch("from_torch")
    if isinstance(function, torch.nn.Module):
        name = type(function).__name__
        raise InputError(
            f"from_torch: {name} is an nn.Module, expected a function of tensors: from_module(module,"
            " *arrays) makes its parameters arguments"
        )

    def forward(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        differentiated = not any(_is_complex(a) for a in arrays)
        with recording(torch), contextlib.nullcontext() if differentiated else torch.no_grad():
            tensors = [_tensor(torch, a, differentiated) for a in _one_kind(arrays)]
            y = function(*tensors, **options)
        if not isinstance(y, torch.Tensor):
            raise InputError(
                f"from_torch: the function returned {describe(y)}, expected one tensor: return one output, or"
                " concatenate them"
            )
        if y.dtype == torch.bfloat16:
            raise InputError(
                "from_torch: the function's value is bfloat16, which NumPy does not have, expected float32 or"
                " float64: return y.float()"
            )
        return numbers(y).copy(), (y, tensors)

    def backward(dy: Any, saved: Any) -> tuple[Any, ...]:
        y, tensors = saved
        moving = [t for t in tensors if t is not None and t.requires_grad]
        grads: Iterator[Any] = iter([None] * len(moving))
        if y.requires_grad:
            with recording(torch):
                value, upstream = dense(y), torch.tensor(dy, dtype=y.dtype, device=y.device)
                grads = iter(
                    torch.autograd.grad(value, moving, upstream, retain_graph=True, allow_unused=True)
                )
        return tuple(
            _gradient(next(grads), t) if t is not None and t.requires_grad else None for t in tensors
        )

    return _named(_torch_names(torch, function), function, Pair(forward, backward))


def _gradient(grad: Any, tensor: Any) -> Any:
    """A gradient as an array of its own memory; 0 where autograd has none."""
    if grad is None:
        return np.zeros(tuple(tensor.shape), tensor.detach().numpy().dtype)
    return numbers(grad).copy()


@contextlib.contextmanager
def recording(torch: Any) -> Iterator[None]:
    """A scope in which PyTorch records what it computes, whatever the caller's inference_mode or no_grad."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def dense(tensor: Any) -> Any:
    """A tensor with all its elements; such as the gradient of an embedding with sparse=True has only some."""
    return tensor if str(tensor.layout) == "torch.strided" else tensor.to_dense()


def numbers(tensor: Any) -> Any:
    """A tensor's numbers as an array, whatever its layout and its device; a view of them where it can be."""
    return dense(tensor.detach()).cpu().resolve_conj().resolve_neg().numpy()


@checked
def from_module(module: Any, *arrays: ArrayLike | None) -> tuple[Any, ...]:
    """An nn.Module as what check takes, its own parameters as arguments: check(*from_module(module, x)).

    Parameters come after the inputs, and keep their names. They and the buffers are taken in the inputs'
    dtype; the module itself is not changed. Switch off what draws at random: module.eval().

    Parameters
    ----------
    module : torch.nn.Module
        Its forward takes the arrays as tensors.
    *arrays : array_like, tensor or None
        Its inputs.

    Returns
    -------
    forward, backward, *arrays
        The pair, the inputs, and the module's parameters as arrays.

    Raises
    ------
    InputError
        PyTorch is not installed, the module is something else, or a ScriptModule, or its parameters are
        bfloat16 or complex, or have no numbers yet.

    Examples
    --------
    >>> import numpy, torch                                                                 # doctest: +SKIP
    >>> verdict(*from_module(torch.nn.Linear(3, 2), numpy.ones((4, 3))))["weight"].shape    # doctest: +SKIP
    (2, 3)
    """
    torch = _torch("from_module")
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"from_module: {describe(module)} is not an nn.Module, expected one: from_torch takes functions"
        )
    while isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        module = module.module
    _expect_callable_with_other_parameters(torch, module)
    arrays = tuple(plain(arrays))
    names, inputs = [name for name, _ in module.named_parameters()], len(arrays)
    buffers = {name: buffer.detach().cpu() for name, buffer in module.named_buffers()}

    def function(*tensors: Any, **options: Any) -> Any:
        numbers = [t for t in tensors if t is not None and (t.is_floating_point() or t.is_complex())]
        dtype = numbers[0].dtype if numbers else None
        state = {n: b.clone().to(dtype) if b.is_floating_point() else b.clone() for n, b in buffers.items()}
        state |= dict(zip(names, tensors[inputs:]))
        return torch.func.functional_call(module, state, tensors[:inputs], options)

    argument_titles = [*argument_names(module.forward, inputs), *names]
    pair = _named(argument_titles, module.forward, from_torch(function))
    floats = [np.asarray(a).dtype for a in arrays if is_float(a)]
    parameters = [numbers(p).copy() for p in module.parameters()]
    if floats:
        parameters = as_dtype(parameters, np.result_type(*floats))
    return (*pair, *arrays, *parameters)


def _expect_callable_with_other_parameters(torch: Any, module: Any) -> None:
    """Raise InputError for a module that cannot be called with parameters of NumPy's."""
    kind = type(module).__name__
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise InputError(
            f"from_module: {kind} is a ScriptModule, or has one, which PyTorch does not call with other"
            " parameters, expected the module that was scripted or traced"
        )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise InputError(
                f"from_module: {name} of {kind} has no numbers yet, expected them: call a lazy module once,"
                " and give one on the meta device some"
            )
    for name, parameter in module.named_parameters():
        if parameter.dtype == torch.bfloat16:
            raise InputError(
                f"from_module: {name} is bfloat16, which NumPy does not have, expected float32 or float64:"
                " module.float() or module.double()"
            )
        if parameter.is_complex():
            raise InputError(
                f"from_module: {name} is complex, expected real parameters: make its real and imaginary part"
                " two of them"
            )


@checked
def from_jax(function: Callable[..., Any]) -> Pair:
    """A function of JAX as a Pair, differentiated by jax.vjp.

        forward(*arrays, **options) → f of the arrays; of a custom_vjp the function, not its forward rule
        backward(dy, saved) → jax.vjp of it at dy

    float64 and complex128 arrays are computed in 64 bits, in the scope of each call: jax_enable_x64 stays
    what it is. Others run as they would in JAX. Integers and None have no gradient.

    Parameters
    ----------
    function : callable
        f(*arrays, **options) → one array.

    Returns
    -------
    Pair

    Raises
    ------
    InputError
        JAX is not installed, or the function returns something else than one array.

    Examples
    --------
    >>> import jax, numpy                                               # doctest: +SKIP
    >>> verdict(*from_jax(jax.numpy.sin), numpy.arange(3.0)).word       # doctest: +SKIP
    'right'
    """
    try:
        import jax
    except ImportError:
        raise InputError(
            "from_jax: JAX is not installed, expected it to differentiate its functions: pip install jax"
        ) from None

    def value(arrays: Sequence[Any], options: dict[str, Any]) -> Any:
        y = function(*[None if a is None else jax.numpy.asarray(a) for a in arrays], **options)
        if str(getattr(y, "dtype", "")) == "bfloat16":
            raise InputError(
                "from_jax: the function's value is bfloat16, which NumPy does not have, expected float32 or"
                " float64: return y.astype('float32')"
            )
        if isinstance(y, tuple | list | dict):
            raise InputError(
                f"from_jax: the function returned {describe(y)}, expected one array: return one output, or"
                " concatenate them"
            )
        return y

    def forward(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        arrays = tuple(_one_kind(arrays))
        _refuse_longdouble("JAX", arrays)
        with _x64(jax, arrays):
            return np.array(value(arrays, options)), (arrays, options)

    def backward(dy: Any, saved: Any) -> tuple[Any, ...]:
        arrays, options = saved
        places = [i for i, a in enumerate(arrays) if is_float(a)]

        def of_floats(*floats: Any) -> Any:
            given = dict(zip(places, floats))
            return value([given.get(i, a) for i, a in enumerate(arrays)], options)

        with _x64(jax, arrays):
            y, back = jax.vjp(of_floats, *[jax.numpy.asarray(arrays[i]) for i in places])
            grads = dict(zip(places, map(np.array, back(jax.numpy.asarray(dy, y.dtype)))))
        return tuple(grads.get(i) for i in range(len(arrays)))

    return _named(_names(function), function, Pair(forward, backward))


def _x64(jax: Any, arrays: Sequence[Any]) -> Any:
    """A scope with 64 bits where the arrays have them, else with whatever JAX is set to."""
    if not any(a is not None and np.asarray(a).dtype in (np.float64, np.complex128) for a in arrays):
        return contextlib.nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return importlib.import_module("jax.experimental").enable_x64(True)  # JAX before 0.8


def _torch(who: str) -> Any:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{who}: PyTorch is not installed, expected it to differentiate its functions: pip install"
            " 'numgpt[verify]'"
        ) from None
    return torch


def _tensor(torch: Any, array: Any, differentiated: bool) -> Any:
    """An array as a tensor of its own memory."""
    if array is None:
        return None
    _refuse_longdouble("PyTorch", [array])
    tensor = torch.tensor(np.asarray(array))
    return tensor.requires_grad_() if differentiated and is_float(array) else tensor


def _torch_names(torch: Any, function: Any) -> list[str]:
    """The names of a function's arguments; of an autograd.Function those of its forward, without ctx."""
    owner: Any = getattr(function, "__self__", None)
    is_autograd_function = isinstance(owner, type) and issubclass(owner, torch.autograd.Function)
    if is_autograd_function:
        takes_ctx = owner.setup_context is torch.autograd.Function.setup_context
        return _names(owner.forward)[1 if takes_ctx else 0 :]
    return _names(function)


def _names(function: Any) -> list[str]:
    """All names that a function gives to its arguments."""
    return [name for name in argument_names(function, 64) if name]


def _one_kind(arrays: Sequence[Any]) -> list[Any]:
    """Floats as complex numbers where any array is complex: a product of both kinds is an error elsewhere."""
    if any(map(_is_complex, arrays)):
        dtype = np.result_type(*[a for a in arrays if _is_complex(a)])
        return [np.asarray(a, dtype) if is_float(a) else a for a in arrays]
    return list(arrays)


def _is_complex(array: Any) -> bool:
    return array is not None and np.asarray(array).dtype.kind == "c"


def _refuse_longdouble(library: str, arrays: Sequence[Any]) -> None:
    """Raise TypeError for an array of a dtype that neither PyTorch nor JAX has."""
    if any(a is not None and np.asarray(a).dtype.char in "gG" for a in arrays):
        raise TypeError(f"{library} has no longdouble")


def _named(names: Sequence[str | None], function: Any, pair: Pair) -> Pair:
    """The pair, with the arguments' names where argument_names looks for them, and the function's options."""
    pair.forward.argument_names = names  # type: ignore[attr-defined]
    pair.forward.__wrapped__ = function  # type: ignore[attr-defined]
    return pair
