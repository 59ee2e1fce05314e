"""Where arrays lie, in the host's memory or on the GPU, and how they get there."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import numpy as np

from ..errors import InputError

ON_GPU = tuple(map(np.dtype, ("float32", "float64", "complex128")))  # floats that a model on the GPU may have
INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100  # of cudaError
EXTRAS = "pip install numgpt[gpu] for CUDA 12, or numgpt[gpu13] for CUDA 13"
# (id, size, negative) → ids on the GPU that were in range before they were moved. An entry goes with its
# array, so that an id that Python uses again does not find it.
_checked: weakref.WeakValueDictionary[tuple[int, int, bool], Any] = weakref.WeakValueDictionary()
# id of an array on the GPU → the same in the host's memory, and (id of a table in the host's memory, kind of
# array) → its copy on the GPU. An entry goes with the array of its id.
_known: dict[int, Any] = {}
_copies: dict[tuple[int, type], Any] = {}


def on_gpu(array: Any) -> bool:
    """Whether an array lies on the GPU; a step never waits for the answer."""
    cupy = sys.modules.get("cupy")  # not imported: then no array of its can exist
    return cupy is not None and isinstance(array, cupy.ndarray)


def home(array: Any) -> Any:
    """The array in the host's memory, itself where it lies there; a Python number stays what it is."""
    return sys.modules["cupy"].asnumpy(array) if on_gpu(array) else array


def beside(array: Any, like: Any) -> Any:
    """The array where like lies: itself, or a copy of it on the GPU or in the host's memory."""
    if on_gpu(like) == on_gpu(array):
        return array
    return sys.modules["cupy"].asarray(np.asarray(array, order="C")) if on_gpu(like) else home(array)


def told(array: Any, like: Any) -> Any:
    """beside, of an array in the host's memory that nobody will change: on the GPU it stays known."""
    moved = beside(array, like)
    if on_gpu(moved) and not on_gpu(array):
        _known[id(moved)] = array
        weakref.finalize(moved, _known.pop, id(moved))
    return moved


def known(array: Any) -> Any:
    """The array in the host's memory if it lies there or was told, or shows one that was; else None.

    A step never waits for the answer.
    """
    if not on_gpu(array):
        return array
    whole = array if array.base is None else array.base
    host = _known.get(id(whole))
    is_whole = array.size == whole.size and array.flags.c_contiguous
    return host.reshape(array.shape) if host is not None and is_whole else None


def told_once(table: Any, like: Any) -> Any:
    """told, of a table in the host's memory that is used again and again: the GPU gets one copy of it."""
    if not on_gpu(like):
        return table
    key = id(table), type(like)
    if key not in _copies:
        _copies[key] = told(table, like)
        weakref.finalize(table, _copies.pop, key)
    return _copies[key]


def to_gpu(array: Any) -> Any:
    """The array on the GPU, itself where it lies there; InputError where no GPU can hold it."""
    if on_gpu(array):
        return array
    missing = no_gpu()
    if missing:
        raise InputError(f"engine: {missing}, or stay on the reference")
    if array.dtype.kind in "fc" and array.dtype not in ON_GPU:
        dtypes = ", ".join(map(str, ON_GPU))
        raise InputError(f"engine: an array of {array.dtype} has no place on the GPU, expected {dtypes}")
    try:
        return sys.modules["cupy"].asarray(np.asarray(array, order="C"))
    except MemoryError as error:
        raise InputError(
            f"engine: {array.nbytes:,} bytes do not fit on the GPU ({out_of_memory(error)}), expected fewer:"
            " choose a smaller model"
        ) from error


def checked(ids: Any, like: Any, size: int, negative: bool = False) -> Any:
    """Ids that are in range, beside like; on the GPU is_checked then knows them, so no step waits to look."""
    moved = beside(ids, like)
    if on_gpu(moved):
        _checked[id(moved), size, negative] = moved
    return moved


def is_checked(ids: Any, size: int, negative: bool) -> bool:
    """Whether ids on the GPU are known to be in range."""
    return _checked.get((id(ids), size, negative)) is ids


def out_of_memory(error: Exception) -> str:
    """What a MemoryError says; for one of the GPU, with the bytes that are free there."""
    text = str(error) or "no memory"
    cupy = sys.modules.get("cupy")
    if cupy is None or not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        return text
    free, total = cupy.cuda.runtime.memGetInfo()
    pool = cupy.get_default_memory_pool().free_bytes()  # held by CuPy, but free to it
    return f"on the GPU: {text.rstrip('.')}; {free + pool:,} of {total:,} bytes are free"


def no_gpu() -> str | None:
    """What the cupy engine lacks on this machine, or None."""
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return f"CuPy is not installed, expected it for the cupy engine: {EXTRAS}"
        why = " ".join(str(error).split())[:200]
        return f"CuPy does not load ({why}), expected one that fits the driver: {EXTRAS}"
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
                f" {EXTRAS}"
            )
        if error.status != NO_DEVICE:
            return f"CUDA does not start ({' '.join(str(error).split())}), expected a GPU: look at nvidia-smi"
        devices = 0
    if devices:
        return None
    advice = "look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    return f"the driver finds no GPU, expected one for the cupy engine: {advice}"
