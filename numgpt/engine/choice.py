"""Which code runs an op: its specification in plain NumPy, or a twin beside it."""

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from contextlib import nullcontext

import numpy as np

from ..errors import InputError
from .place import ON_GPU, home, no_gpu, on_gpu, to_gpu

ENGINES = ("reference", "numba", "cupy")
TWINNED = (np.dtype("float32"), np.dtype("float64"))
_engine = None


def use(name, tf32=False):
    """Choose the engine for all that follows.

    "reference": the specification in plain NumPy. "numba": compiled twins of it, for float32 and float64;
    what has no twin, and every other dtype, runs on the specification. "cupy": new and loaded models lie on
    the GPU, where the specification runs on CuPy's arrays, and twins of it for float32 and float64. Unless
    chosen here or by the environment variable NUMGPT_ENGINE, numba where it is installed.

    tf32: let the GPU round the factors of float32 products to 10 bits, which is faster; before its first
    product.

    Which twin runs goes by where an array lies: one on the GPU never meets a Numba twin, nor one of the
    host's a CUDA kernel.
    """
    global _engine
    _expect(name)
    missing = {"numba": _missing, "cupy": no_gpu}.get(name, lambda: None)()
    if missing:
        raise InputError(f"engine: {missing}, or use the reference")
    if name == "cupy":
        os.environ["CUPY_TF32"] = str(int(tf32))  # CuPy reads it at its first product
    _engine = name


def _expect(name):
    if name not in ENGINES:
        raise InputError(f"engine: {name!r} is unknown, expected one of {', '.join(ENGINES)}")


def current():
    """The name of the engine in use."""
    if _engine is None:
        chosen = os.environ.get("NUMGPT_ENGINE")
        missing = None if chosen else _missing()
        if missing and sys.stderr is not None:
            print(f"numgpt: the slower reference engine runs: {missing}", file=sys.stderr)
        use(chosen or ("reference" if missing else "numba"))
    return _engine


def set_threads(n):
    """Have the numba engine use n threads, at most as many as there are processors; results do not depend on
    it.
    """
    if current() == "numba":
        from . import jit

        jit.set_threads(n)


def forward(op, arrays):
    """The forward that runs op on these arrays."""
    return _twins(arrays)(op.forward) or op.forward


def backward(op, dy):
    """The backward that undoes op's forward."""
    return _twins((dy,))(op.backward) or op.backward


@functools.cache
def takes(function, name):
    """Whether a twin's backward takes `into`, for each parameter the array for its gradient and whether to
    add, or None; or `spare`, whether it may write over what its forward saved.
    """
    return name in inspect.signature(function).parameters


def twin(function, of):
    """The twin of a function of the specification for arrays such as of, or of that dtype in the host's
    memory; or the function itself.
    """
    return _twins((np.empty(0, of) if isinstance(of, (str, type, np.dtype)) else of,))(function) or function


def gpu_twin(function):
    """The CuPy twin of a function of the specification, whatever floats it is for; or the function itself
    where it has none.
    """
    return _gpu_twin(function) or function


def host_twin(function):
    """The Numba twin of a function of the specification that works on integers in the host's memory, whatever
    floats the engine in use computes with; or the function itself, under the reference engine and where Numba
    is not installed.
    """
    numba_runs = current() == "numba" or (_engine == "cupy" and importlib.util.find_spec("numba") is not None)
    return (_twin(function) if numba_runs else None) or function


def session(dtype):
    """Within it kernels own the threads: a matrix product called from one does not bring its own."""
    if current() != "numba" or np.dtype(dtype) not in TWINNED:
        return nullcontext()
    from . import blas

    blas.keep_memory()
    return blas.one_thread()


def fused(layer, r, inputs):
    """The twin of a whole layer, where there is one that suits the record and the inputs: its forward returns
    (y, saved).
    """
    twin = _twins(inputs)
    forward, backward = twin(layer.forward), twin(layer.backward)
    if forward is None or not sys.modules[forward.__module__].suits(r, *inputs):
        return None
    return type(layer)(forward, backward)


def move(array, name):
    """The array where the engine of a name computes: itself, or a copy on the GPU or in the host's memory."""
    _expect(name)
    return to_gpu(array) if name == "cupy" else home(array)


def here(*arrays):
    """The arrays where the engine in use computes. Those with a float that the GPU has not, or that CuPy may
    not have, stay as they are.
    """
    floats = [a for a in arrays if getattr(a, "dtype", None) is not None and a.dtype.kind in "fc"]
    if not is_cupy() or any(a.dtype not in ON_GPU for a in floats):
        return arrays
    return tuple(to_gpu(a) if hasattr(a, "dtype") else a for a in arrays)


def is_cupy():
    """Whether the cupy engine is in use; asked before an engine had to be chosen, it chooses none."""
    return _engine == "cupy" or (
        _engine is None and os.environ.get("NUMGPT_ENGINE") == "cupy" and current() == "cupy"
    )


def _twins(arrays):
    """What looks up the twin of a function for these arrays: its floats all float32 or all float64, and the
    engine in use has twins.
    """
    arrays = [a for a in arrays if a is not None and a.dtype.kind not in "iu"]
    dtypes = {a.dtype for a in arrays}
    if len(dtypes) != 1 or dtypes.pop() not in TWINNED or current() == "reference":
        return _no_twin
    return _gpu_twin if on_gpu(arrays[0]) else _twin if _engine == "numba" else _no_twin


def _no_twin(function):
    return None


@functools.cache
def _missing():
    """What the numba engine lacks, or None."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed, expected it for the numba engine: pip install numba"
    from . import blas

    if not blas.available():
        return (
            "no BLAS is found that kernels can call, expected NumPy's own of a wheel from PyPI, or MKL: pip"
            " install mkl"
        )


@functools.cache
def _twin(function):
    """The function of the same name in the file beside its own that ends in _numba."""
    return _beside_its_file(function, "numba")


@functools.cache
def _gpu_twin(function):
    """The function of the same name in the file beside its own that ends in _cupy."""
    return _beside_its_file(function, "cupy")


def _beside_its_file(function, ending):
    module = f"{function.__module__}_{ending}"
    if not module.startswith("numgpt.") or importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), function.__name__, None)
