"""Which code runs an op: its specification in plain NumPy, or the Numba twin beside it."""

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from contextlib import nullcontext

import numpy as np

from .errors import InputError

ENGINES = ("reference", "numba")
TWINNED = (np.dtype("float32"), np.dtype("float64"))
_engine = None


def use(name):
    """Choose the engine for all that follows.

    "reference": the specification in plain NumPy. "numba": compiled twins of it, for float32 and float64; what has no twin,
    and every other dtype, runs on the specification. Unless chosen here or by the environment variable NUMGPT_ENGINE, numba
    where it is installed.
    """
    global _engine
    if name not in ENGINES:
        raise InputError(f"engine: {name!r} is unknown, expected one of {', '.join(ENGINES)}")
    missing = _missing() if name == "numba" else None
    if missing:
        raise InputError(f"engine: {missing}, or use the reference")
    _engine = name


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
    """Have the numba engine use n threads, at most as many as there are processors; results do not depend on it."""
    if current() == "numba":
        from . import jit

        jit.set_threads(n)


def forward(op, arrays):
    """The forward that runs op on these arrays."""
    twin = _twin(op.forward) if _is_twinned(arrays) else None
    return twin or op.forward


def backward(op, dy):
    """The backward that undoes op's forward."""
    return (_twin(op.backward) if _is_twinned((dy,)) else None) or op.backward


@functools.cache
def takes(function, name):
    """Whether a twin's backward takes `into`, for each parameter the array for its gradient and whether to add, or None; or
    `spare`, whether it may write over what its forward saved.
    """
    return name in inspect.signature(function).parameters


def twin(function, dtype):
    """The twin of a function of the specification for arrays of a dtype, or the function itself."""
    return (_twin(function) if np.dtype(dtype) in TWINNED and current() == "numba" else None) or function


def session(dtype):
    """Within it kernels own the threads: a matrix product called from one does not bring its own."""
    if current() != "numba" or np.dtype(dtype) not in TWINNED:
        return nullcontext()
    from . import blas

    blas.keep_memory()
    return blas.one_thread()


def fused(layer, r, inputs):
    """The twin of a whole layer, where there is one that suits the record and the inputs: its forward returns (y, saved)."""
    if not _is_twinned(inputs):
        return None
    forward, backward = _twin(layer.forward), _twin(layer.backward)
    if forward is None or not sys.modules[forward.__module__].suits(r, *inputs):
        return None
    return type(layer)(forward, backward)


def _is_twinned(arrays):
    """Whether the floats among arrays are all float32 or all float64, and the engine has twins."""
    dtypes = {a.dtype for a in arrays if a is not None and a.dtype.kind not in "iu"}
    return len(dtypes) == 1 and dtypes.pop() in TWINNED and current() == "numba"


@functools.cache
def _missing():
    """What the numba engine lacks, or None."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed, expected it for the numba engine: pip install numba"
    from . import blas

    if not blas.available():
        return "no BLAS is found that kernels can call, expected NumPy's own of a wheel from PyPI, or MKL: pip install mkl"


@functools.cache
def _twin(function):
    """The function of the same name in the file beside its own that ends in _numba."""
    module = f"{function.__module__}_numba"
    if not module.startswith("numgpt.") or importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), function.__name__, None)
