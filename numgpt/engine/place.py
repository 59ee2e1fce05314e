"""Where arrays lie, in the host's memory or on the GPU, and how they get there."""

import sys
import weakref

import numpy as np

from ..errors import InputError

ON_GPU = tuple(map(np.dtype, ("float32", "float64", "complex128")))  # floats that a model on the GPU may have
INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100  # of cudaError
_checked = (
    weakref.WeakValueDictionary()
)  # (id, size, negative) → ids on the GPU that were in range before they were moved


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


def to_gpu(array):
    """The array on the GPU: itself where it lies there, else a copy. InputError where there is no GPU, or
    none that holds it.
    """
    if on_gpu(array):
        return array
    missing = no_gpu()
    if missing:
        raise InputError(f"engine: {missing}, or stay on the reference")
    if array.dtype.kind in "fc" and array.dtype not in ON_GPU:
        raise InputError(
            f"engine: an array of {array.dtype} has no place on the GPU, expected"
            f" {', '.join(map(str, ON_GPU))}"
        )
    try:
        return sys.modules["cupy"].asarray(np.asarray(array, order="C"))
    except MemoryError as error:
        raise InputError(
            f"engine: {array.nbytes:,} bytes do not fit on the GPU ({out_of_memory(error)}), expected fewer:"
            " choose a smaller model"
        ) from error


def checked(ids, like, size, negative=False):
    """Ids that are in range, beside like; on the GPU they are known as checked from then on, so that no step
    waits to look at them.
    """
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


def no_gpu():
    """What the cupy engine lacks, or None."""
    extras = "pip install numgpt[gpu] for CUDA 12, or numgpt[gpu13] for CUDA 13"
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return f"CuPy is not installed, expected it for the cupy engine: {extras}"
        return (
            f"CuPy does not load ({' '.join(str(error).split())[:200]}), expected one that fits the driver:"
            f" {extras}"
        )
    runtime = cupy.cuda.runtime
    if runtime.driverGetVersion() == 0:
        return (
            "there is no NVIDIA driver, expected one for the cupy engine: install it, until nvidia-smi prints"
            " a table"
        )
    try:
        devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == INSUFFICIENT_DRIVER:
            return (
                f"the NVIDIA driver is too old for this CuPy ({error}), expected a newer one: update it, or"
                f" {extras}"
            )
        if error.status != NO_DEVICE:
            return f"CUDA does not start ({' '.join(str(error).split())}), expected a GPU: look at nvidia-smi"
        devices = 0
    return (
        None
        if devices
        else (
            "the driver finds no GPU, expected one for the cupy engine: look at nvidia-smi and"
            " CUDA_VISIBLE_DEVICES"
        )
    )
