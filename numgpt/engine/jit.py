"""How kernels are compiled and run: one thread pool, one lock.

Imports Numba, so it is itself imported only when a kernel is needed.
"""

import functools
import os
import threading
import types as python_types

import numba
import numba.core.config as numba_config
from numba.core.ccallback import CFunc
from numba.core.codegen import get_host_cpu_features
from numba.core.registry import cpu_target
from numba.np.ufunc.parallel import _launch_threads

from ..errors import InputError
from . import kernel_cache
from .spread import spread

# LLVM's flags. contract: a multiplication and an addition may become one rounding. None of the flags that
# assume that NaN or ∞ do not occur.
FAST = {"contract"}
# reassoc: a sum may be taken in lanes. They are the same for every number of threads, and so are the bits.
SUMS = {"contract", "reassoc"}
LOCK = threading.RLock()  # held while a kernel runs: the pool's threads are one kernel's at a time

# OpenMP's threads wait for work awake, which starts a kernel in some microseconds; Numba's own workqueue
# sleeps and needs a hundred.
LAYERS = ("default", "omp", "tbb", "workqueue", "safe", "threadsafe", "forksafe")
numba_config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def _use_wide_vectors():
    """Have the compiler use 512-bit vectors on processors with vbmi2.

    By itself it avoids them, because the first processors that had them slowed down. The setting is the whole
    process's, so it is left alone where Numba has compiled already, and where the user chose a processor.
    """
    has_compiled = "_toplevel_target_context" in vars(cpu_target)
    is_chosen = numba_config.CPU_NAME is not None or numba_config.CPU_FEATURES is not None
    if has_compiled or is_chosen or "+avx512vbmi2" not in get_host_cpu_features():
        return
    numba_config.CPU_FEATURES = get_host_cpu_features() + ",-prefer-256-bit"
    try:
        _ = cpu_target.target_context  # made when it is first read, from the setting of that moment
    finally:
        numba_config.CPU_FEATURES = None  # what else reads the setting finds the user's


_use_wide_vectors()


def kernel(function=None, *, fastmath=FAST):
    """A function for kernels to call: @njit with our options, compiled into whatever calls it."""
    if function is None:
        return functools.partial(kernel, fastmath=fastmath)
    return numba.njit(
        function, fastmath=fastmath, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
    )


def _all_tasks(phases, threads, *args):
    if spread(task, phases, threads, args):  # noqa: F821, given by parallel()
        raise MemoryError  # tasks raise nothing else


def parallel(function):
    """A kernel of tasks: launch(kernel, tasks, *args) runs kernel(i, *args) for i in 0 … tasks − 1.

    The tasks run at the same time on several threads, in any order: no two may write to the same place. A
    kernel of several phases, kernel(phase, i, *args), is launched with a tuple: the tasks of each phase.
    A phase may read what the phases before wrote.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    # All kernels share one loop, each a copy of it that calls its own task. The copy takes the kernel's name,
    # file and line, by which Numba files compiled code; a closure's code would not outlive the process.
    code = _all_tasks.__code__.replace(
        co_filename=function.__code__.co_filename, co_firstlineno=function.__code__.co_firstlineno
    )
    loop = python_types.FunctionType(
        code, {"__name__": __name__, "spread": spread, "task": kernel(function)}, name
    )
    loop.__qualname__ = name
    return kernel_cache.cached(numba.njit(loop, nogil=True, no_cfunc_wrapper=True))


def compiled(function, signature):
    """A function in C's manner, compiled or from the cache: kernels call it by a name, as they do a BLAS.

    Large code is then compiled once, not again with each kernel that calls it.
    """
    return kernel_cache.compiled(
        CFunc(
            function, (signature.args, signature.return_type), {}, {"fastmath": FAST, "error_model": "numpy"}
        )
    )


def launch(kernel, tasks, *args):
    """Run all tasks of a parallel kernel: one kernel at a time, however many Python threads launch one."""
    global _pool_runs
    with LOCK:
        if not _pool_runs:
            _start_pool()
            _pool_runs = True
        most = max(tasks) if isinstance(tasks, tuple) else tasks
        kernel(tasks, 1 if _pool_is_lost else min(_threads, most), *args)


def _start_pool():
    """Start Numba's threads: Numba does so at its first prange, and there is none here."""
    try:
        _launch_threads()
    except ValueError as error:
        raise InputError(
            f"engine: Numba starts no threads by NUMBA_THREADING_LAYER {numba_config.THREADING_LAYER!r}"
            f" ({' '.join(str(error).split())}), expected a layer that is installed: unset it, or use the"
            " reference"
        ) from error


def wrong_setting():
    """The setting of Numba's by which kernels cannot run, or None."""
    if numba_config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set, expected a Numba that compiles: unset it"
    layer = str(numba_config.THREADING_LAYER).lower()
    if layer not in LAYERS:
        return f"NUMBA_THREADING_LAYER is {layer!r}, expected one of {', '.join(LAYERS)}: unset it"
    return None


def _after_fork():
    """In the child OpenMP's threads are gone, and OpenMP would end the process if it were asked for them."""
    global LOCK, _pool_is_lost
    LOCK = threading.RLock()  # the parent's may be held by a thread that the child does not have
    _pool_is_lost = _pool_is_lost or _pool_runs


_pool_runs = False
_pool_is_lost = False
_threads = numba_config.NUMBA_NUM_THREADS
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def set_threads(n):
    """Use n threads in kernels, at least one and at most as many as there are processors."""
    global _threads
    _threads = max(1, min(n, numba_config.NUMBA_NUM_THREADS))


def threads():
    """The number of threads that kernels use."""
    return _threads
