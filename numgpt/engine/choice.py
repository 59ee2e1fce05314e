"""Which code runs an op: its specification in plain NumPy, or a twin beside it.

A twin is found by its place: that of ops/norms.py's layernorm_forward is the function of the same name in
ops/norms_numba.py, or on the GPU in ops/norms_cupy.py. Nothing is registered.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..arguments import Size, checked
from ..errors import InputError
from . import blas_threads, precision
from .place import ON_GPU, home, no_gpu, on_gpu, to_gpu

ENGINES = ("reference", "numba", "cupy")
# What Numba says of a setting in the environment that it cannot read.
UNREAD = re.compile(r"Environment variable '(\w+)' is defined but its associated value '(.*?)' could not")
TWINNED = (np.dtype("float32"), np.dtype("float64"))  # dtypes that twins are compiled for

Function = Callable[..., Any]
_engine: str | None = None  # None until the first use, which the environment may decide


@checked
def use(name: str, tf32: bool = False) -> None:
    """Choose the engine for all that follows.

    "reference": the specification in plain NumPy.
    "numba": compiled twins of it, for float32 and float64; what has no twin, and every other dtype, runs on
    the specification.
    "cupy": new and loaded models lie on the GPU. There the specification runs on CuPy's arrays, and twins of
    it for float32 and float64.
    Unless chosen here or by the environment variable NUMGPT_ENGINE, it is numba where that is installed.

    tf32: let the GPU round the factors of float32 products to 10 bits, which is faster. CuPy heeds it only
    before its first product.

    Where an array lies decides which twin may run: one on the GPU never meets a Numba twin, nor one in the
    host's memory a CUDA kernel.
    """
    global _engine
    _expect(name)
    missing = None
    if name == "numba":
        missing = _numba_lacks()
    elif name == "cupy":
        missing = no_gpu()
    if missing:
        raise InputError(f"engine: {missing}, or use the reference")
    if name == "cupy":
        os.environ["CUPY_TF32"] = str(int(tf32))  # CuPy reads it at its first product
    _engine = name


def _expect(name: str) -> None:
    if name not in ENGINES:
        raise InputError(f"engine: {name!r} is unknown, expected one of {', '.join(ENGINES)}")


def current() -> str:
    """The name of the engine in use; the first question chooses one."""
    if _engine is None:
        chosen = os.environ.get("NUMGPT_ENGINE")
        # Asked for by nobody, numba may be missing: then a line says why training is slow.
        missing = None if chosen else _numba_lacks()
        if missing and sys.stderr is not None:
            print(f"numgpt: the slower reference engine runs: {missing}", file=sys.stderr)
        use(chosen or ("reference" if missing else "numba"))
    assert _engine is not None
    return _engine


@checked
def set_threads(n: Size) -> None:
    """Have the host compute with n threads, at most one a processor.

    They are those of kernels and of the BLAS that NumPy calls. The numba engine's results do not depend on
    their number. Where NumPy calls a BLAS that cannot be asked, as Apple's, that one is left alone.

    Raises
    ------
    InputError
        For what is no integer, or less than 1.
    """
    pool = blas_threads.numpys()
    if pool is not None:
        pool.limit(min(n, os.cpu_count() or n))
    if current() == "numba":
        from . import jit

        jit.set_threads(n)


def forward(op: Any, arrays: Iterable[Any]) -> Function:
    """The forward that runs op on these arrays."""
    return _twins(arrays)(op.forward) or op.forward


def backward(op: Any, dy: Any) -> Function:
    """The backward that undoes op's forward."""
    return _twins((dy,))(op.backward) or op.backward


@functools.cache  # a signature takes longer than a small op
def takes(function: Function, name: str) -> bool:
    """Whether a backward takes an option that not all have.

    wanted: for each parameter whether somebody wants its gradient; None is returned for the others.
    into: for each parameter the array for its gradient and whether to add, or None.
    spare: whether it may write over what its forward saved.
    """
    return name in inspect.signature(function).parameters


def twin(function: Function, of: Any) -> Function:
    """The twin of a function for arrays like of, or for a dtype in the host's memory; without one, itself."""
    array = np.empty(0, of) if isinstance(of, str | type | np.dtype) else of
    return _twins((array,))(function) or function


def gpu_twin(function: Function) -> Function:
    """The CuPy twin of a function, whatever its dtype; without one, the function itself."""
    return _gpu_twin(function) or function


def host_twin(function: Function) -> Function:
    """The Numba twin of a function that works on integers in the host's memory; without one, itself.

    It runs under the cupy engine too, since integers such as a tokenizer's stay on the host.
    """
    numba_runs = current() == "numba" or (_engine == "cupy" and _numba_lacks() is None)
    return (_twin(function) if numba_runs else None) or function


def session(dtype: DTypeLike) -> AbstractContextManager[Any]:
    """A context to compute in.

    Kernels own the threads: a matrix product called from one runs on that thread alone. What underflows is 0,
    as softmax means it, whatever the caller's np.seterr says of it.
    """
    if current() != "numba" or np.dtype(dtype) not in TWINNED:
        return np.errstate(under="ignore")
    from . import blas

    blas.keep_memory()
    return blas.one_thread()


def fused(layer: Any, r: Any, inputs: Sequence[Any]) -> Any:
    """The twin of a whole layer, where one suits the record and the inputs, or None.

    Its forward returns (y, saved), and its backward takes saved.
    """
    twin = _twins(inputs, fused=True)
    forward = twin(layer.forward)
    # A twin declines a config, dtype or size that it was not written for.
    if forward is None or not sys.modules[forward.__module__].suits(r, *inputs):
        return None
    return type(layer)(forward, twin(layer.backward))


def move(array: Any, name: str) -> Any:
    """The array where the engine of a name computes: itself, or a copy on the GPU or in the host's memory."""
    _expect(name)
    return to_gpu(array) if name == "cupy" else home(array)


def here(*arrays: Any) -> tuple[Any, ...]:
    """The arrays where the engine in use computes.

    All of them stay where they are if one has floats that the GPU, or CuPy, may not have.
    """
    floats = [a for a in arrays if getattr(a, "dtype", None) is not None and a.dtype.kind in "fc"]
    if not is_cupy() or any(a.dtype not in ON_GPU for a in floats):
        return arrays
    return tuple(to_gpu(a) if hasattr(a, "dtype") else a for a in arrays)


def is_cupy() -> bool:
    """Whether the cupy engine is in use; asked before an engine had to be chosen, it chooses none."""
    if _engine is None and os.environ.get("NUMGPT_ENGINE") == "cupy":
        return current() == "cupy"
    return _engine == "cupy"


def computes(function: Function, name: str) -> bool:
    """Whether the engine in use has products of its own in a format, for an op's function; else it emulates.

    A twin without them would not heed the format: then the specification runs, which rounds its operands.
    """
    if current() != "numba":
        return current() == "cupy"
    twin = _twin(function)
    return twin is not None and precision.knows(sys.modules[twin.__module__], name)


def _twins(arrays: Iterable[Any], fused: bool = False) -> Callable[[Function], Function | None]:
    """What looks up twins for these arrays: it finds none unless their floats share a dtype of TWINNED.

    Where products are computed in a format, a twin of what has products, as each fused layer has, must know
    the format.
    """
    arrays = [a for a in arrays if a is not None and a.dtype.kind not in "iu"]
    dtypes = {a.dtype for a in arrays}
    if len(dtypes) != 1 or dtypes.pop() not in TWINNED or current() == "reference":
        return _no_twin
    find: Callable[[Function], Function | None] = _no_twin
    if on_gpu(arrays[0]):
        find = _gpu_twin
    elif _engine == "numba":
        find = _twin
    name = precision.current()
    return find if name is None else functools.partial(_in_format, name, find, fused)


def _in_format(
    name: str, find: Callable[[Function], Function | None], fused: bool, function: Function
) -> Function | None:
    """The twin of a function, unless it multiplies and does not know a format."""
    twin = find(function)
    if twin is None or not (fused or precision.multiplies(sys.modules[function.__module__])):
        return twin
    return twin if precision.knows(sys.modules[twin.__module__], name) else None


def _no_twin(function: Function) -> None:
    return None


@functools.cache
def _numba_lacks() -> str | None:
    """What the numba engine lacks on this machine, or None."""
    if importlib.util.find_spec("numba") is None:  # looks, but does not import: that takes half a second
        return "numba is not installed, expected it for the numba engine: pip install numba"
    count = os.environ.get("NUMBA_NUM_THREADS", "")
    if count.lstrip("-").isdigit() and int(count) < 1:  # with it Numba cannot even be imported
        return f"NUMBA_NUM_THREADS is {count}, expected 1 or more: unset it"
    try:
        with _plain_warnings():
            from . import blas, jit
    except Exception as error:  # of every kind: Numba looks at NumPy, at its settings, at the processor
        reason = " ".join(str(error).split())[:200]
        return (
            f"numba does not load ({reason}), expected one that fits NumPy {np.__version__}: pip install -U"
            " numba"
        )
    if not blas.available():
        return (
            "kernels find no BLAS to call, expected that of NumPy's wheel from PyPI, or MKL: pip install mkl"
        )
    return jit.wrong_setting()


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Shorten Numba's warning of a setting in the environment that it cannot read: it holds a traceback."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        match = UNREAD.search(str(warning.message))
        if match is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        else:
            name, value = match.groups()
            warnings.warn(f"{name} is {value!r}, which Numba cannot read: it uses its default", stacklevel=3)


@functools.cache
def _twin(function: Function) -> Function | None:
    """The function of the same name in the file beside its own that ends in _numba."""
    return _beside_its_file(function, "numba")


@functools.cache
def _gpu_twin(function: Function) -> Function | None:
    """The function of the same name in the file beside its own that ends in _cupy."""
    return _beside_its_file(function, "cupy")


def _beside_its_file(function: Function, ending: str) -> Function | None:
    """The function of the same name in numgpt's module with that ending, which is imported here first."""
    module = f"{function.__module__}_{ending}"
    if not module.startswith("numgpt.") or importlib.util.find_spec(module) is None:
        return None  # somebody else's op, or a file without twins
    return getattr(importlib.import_module(module), function.__name__, None)
