"""Which code runs an op: its specification in plain NumPy, or a twin beside it; and where arrays lie, in the host's memory or on the GPU."""

import functools
import importlib
import importlib.util
import inspect
import os
import sys
import weakref
from contextlib import nullcontext

import numpy as np

from .errors import InputError

ENGINES = ("reference", "numba", "cupy")
TWINNED = (np.dtype("float32"), np.dtype("float64"))
ON_GPU = (*TWINNED, np.dtype("complex128"))  # floats that a model on the GPU may have
INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100  # of cudaError
_engine = None
_checked = weakref.WeakValueDictionary()  # (id, size, negative) → ids on the GPU that were in range before they were moved


def use(name, tf32=False):
    """Choose the engine for all that follows.

    "reference": the specification in plain NumPy. "numba": compiled twins of it, for float32 and float64; what has no twin,
    and every other dtype, runs on the specification. "cupy": new and loaded models lie on the GPU, where the specification runs
    on CuPy's arrays, and twins of it for float32 and float64. Unless chosen here or by the environment variable NUMGPT_ENGINE,
    numba where it is installed.

    tf32: let the GPU round the factors of float32 products to 10 bits, which is faster; before its first product.

    Which twin runs goes by where an array lies: one on the GPU never meets a Numba twin, nor one of the host's a CUDA kernel.
    """
    global _engine
    _expect(name)
    missing = {"numba": _missing, "cupy": _no_gpu}.get(name, lambda: None)()
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
    """Have the numba engine use n threads, at most as many as there are processors; results do not depend on it."""
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
    """Whether a twin's backward takes `into`, for each parameter the array for its gradient and whether to add, or None; or
    `spare`, whether it may write over what its forward saved.
    """
    return name in inspect.signature(function).parameters


def twin(function, of):
    """The twin of a function of the specification for arrays such as of, or of that dtype in the host's memory; or the function itself."""
    return _twins((np.empty(0, of) if isinstance(of, (str, type, np.dtype)) else of,))(function) or function


def host_twin(function):
    """The Numba twin of a function of the specification that works on integers in the host's memory, whatever floats the engine in
    use computes with; or the function itself, under the reference engine and where Numba is not installed.
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
    """The twin of a whole layer, where there is one that suits the record and the inputs: its forward returns (y, saved)."""
    twin = _twins(inputs)
    forward, backward = twin(layer.forward), twin(layer.backward)
    if forward is None or not sys.modules[forward.__module__].suits(r, *inputs):
        return None
    return type(layer)(forward, backward)


def on_gpu(array):
    """Whether an array lies on the GPU; a step never waits for the answer."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def home(array):
    """The array in the host's memory, itself where it lies there; a Python number stays what it is."""
    return sys.modules["cupy"].asnumpy(array) if on_gpu(array) else array


def beside(array, like):
    """The array where like lies: itself, or a copy of it on the GPU or in the host's memory."""
    if on_gpu(like) == on_gpu(array):
        return array
    return sys.modules["cupy"].asarray(np.asarray(array, order="C")) if on_gpu(like) else home(array)


def move(array, name):
    """The array where the engine of a name computes: itself, or a copy on the GPU or in the host's memory."""
    _expect(name)
    if name != "cupy" or on_gpu(array):
        return home(array) if name != "cupy" else array
    missing = _no_gpu()
    if missing:
        raise InputError(f"engine: {missing}, or stay on the reference")
    if array.dtype.kind in "fc" and array.dtype not in ON_GPU:
        raise InputError(f"engine: an array of {array.dtype} has no place on the GPU, expected {', '.join(map(str, ON_GPU))}")
    try:
        return sys.modules["cupy"].asarray(np.asarray(array, order="C"))
    except MemoryError as error:
        raise InputError(f"engine: {array.nbytes:,} bytes do not fit on the GPU ({out_of_memory(error)}), expected fewer: choose a smaller model") from error


def here(*arrays):
    """The arrays where the engine in use computes. Those with a float that the GPU has not, or that CuPy may not have, stay as they are."""
    floats = [a for a in arrays if getattr(a, "dtype", None) is not None and a.dtype.kind in "fc"]
    if not is_cupy() or any(a.dtype not in ON_GPU for a in floats):
        return arrays
    return tuple(move(a, "cupy") if hasattr(a, "dtype") else a for a in arrays)


def is_cupy():
    """Whether the cupy engine is in use; asked before an engine had to be chosen, it chooses none."""
    return _engine == "cupy" or (_engine is None and os.environ.get("NUMGPT_ENGINE") == "cupy" and current() == "cupy")


def checked(ids, like, size, negative=False):
    """Ids that are in range, beside like; on the GPU they are known as checked from then on, so that no step waits to look at them."""
    moved = beside(ids, like)
    if on_gpu(moved):
        _checked[id(moved), size, negative] = moved
    return moved


def is_checked(ids, size, negative):
    """Whether ids on the GPU are known to be in range."""
    return _checked.get((id(ids), size, negative)) is ids


def out_of_memory(error):
    """What a MemoryError says, and for one of the GPU what is free there."""
    text, cupy = str(error) or "no memory", sys.modules.get("cupy")
    if cupy is None or not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        return text
    free, total = cupy.cuda.runtime.memGetInfo()
    pool = cupy.get_default_memory_pool().free_bytes()
    return f"on the GPU: {text.rstrip('.')}; {free + pool:,} of {total:,} bytes are free"


def _twins(arrays):
    """What looks up the twin of a function for these arrays: its floats all float32 or all float64, and the engine in use has twins."""
    arrays = [a for a in arrays if a is not None and a.dtype.kind not in "iu"]
    dtypes = {a.dtype for a in arrays}
    if len(dtypes) != 1 or dtypes.pop() not in TWINNED or current() == "reference":
        return _no_twin
    return _gpu_twin if on_gpu(arrays[0]) else _twin if _engine == "numba" else _no_twin


def _no_twin(function):
    return None


def _no_gpu():
    """What the cupy engine lacks, or None."""
    extras = "pip install numgpt[gpu] for CUDA 12, or numgpt[gpu13] for CUDA 13"
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return f"CuPy is not installed, expected it for the cupy engine: {extras}"
        return f"CuPy does not load ({' '.join(str(error).split())[:200]}), expected one that fits the driver: {extras}"
    runtime = cupy.cuda.runtime
    if runtime.driverGetVersion() == 0:
        return "there is no NVIDIA driver, expected one for the cupy engine: install it, until nvidia-smi prints a table"
    try:
        devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == INSUFFICIENT_DRIVER:
            return f"the NVIDIA driver is too old for this CuPy ({error}), expected a newer one: update it, or {extras}"
        if error.status != NO_DEVICE:
            return f"CUDA does not start ({' '.join(str(error).split())}), expected a GPU: look at nvidia-smi"
        devices = 0
    return None if devices else "the driver finds no GPU, expected one for the cupy engine: look at nvidia-smi and CUDA_VISIBLE_DEVICES"


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
