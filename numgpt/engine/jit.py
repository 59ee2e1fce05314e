"""How kernels are compiled and run: one thread pool, one lock, a cache that is never stale.

Imports Numba, so it is itself imported only when a kernel is needed.
"""

import contextlib
import functools
import hashlib
import os
import re
import sys
import threading
import types as python_types
from pathlib import Path

import numba
import numba.core.config as numba_config
from numba.core.codegen import get_host_cpu_features
from numba.core.registry import cpu_target
from numba.np.ufunc.parallel import _launch_threads

from .._version import __version__
from .spread import spread

# LLVM's flags. contract: a multiplication and an addition may become one rounding. None of the flags that
# assume that NaN or ∞ do not occur.
FAST = {"contract"}
# reassoc: a sum may be taken in lanes. They are the same for every number of threads, and so are the bits.
SUMS = {"contract", "reassoc"}
LOCK = threading.RLock()  # held while a kernel runs: the pool's threads are one kernel's at a time
RELATIVE_IMPORT = re.compile(r"^from (\.+)([\w.]*) import \(?([\w,\s]+)", re.M)
ROOT = Path(__file__).parents[1]  # of the package: every file of kernels lies below it

# OpenMP's threads wait for work awake, which starts a kernel in some microseconds; Numba's own workqueue
# sleeps and needs a hundred.
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


def kernel_files():
    """The files whose bytes decide what is compiled: kernels', and those that they import from."""
    own = [*ROOT.rglob("*_numba.py"), *(ROOT / "engine" / f"{name}.py" for name in ("jit", "spread", "blas"))]
    files = set(own)
    for path in own:
        for dots, module, names in RELATIVE_IMPORT.findall(path.read_text("utf-8")):
            # `from .a import b, c` reads a.py, or where a is a folder perhaps a/b.py and a/c.py.
            target = path.parents[len(dots) - 1].joinpath(*module.split("."))
            inside = [target / f"{name.strip()}.py" for name in names.split(",")]
            files.update(p for p in (target.with_suffix(".py"), *inside) if p.is_file())
    return sorted(files)


def cache_folder():
    """Where compiled kernels lie: NUMBA_CACHE_DIR or the user's cache, in a folder named by a digest.

    Numba's own cache looks at the time of one file, but a kernel also holds what it calls from others. The
    digest is of all files of kernels: any change begins a new folder.
    """
    digest = hashlib.sha256(f"{__version__} {numba.__version__}".encode())
    for path in kernel_files():
        digest.update(path.read_bytes())
    home = (
        os.environ.get("NUMBA_CACHE_DIR")
        or os.environ.get("XDG_CACHE_HOME")
        or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
        or Path.home() / ".cache"
    )
    return str(Path(home) / "numgpt" / digest.hexdigest()[:32])


_cache = cache_folder()


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
    # njit reads the folder of the cache where it is applied. It is set for this moment only: the user's own
    # functions stay in the user's cache.
    before, numba_config.CACHE_DIR = numba_config.CACHE_DIR, _cache
    try:
        return numba.njit(loop, cache=True, nogil=True, no_cfunc_wrapper=True)
    finally:
        numba_config.CACHE_DIR = before


def launch(kernel, tasks, *args):
    """Run all tasks of a parallel kernel: one kernel at a time, however many Python threads launch one."""
    global _pool_runs
    with LOCK:
        if not _pool_runs:
            _launch_threads()  # Numba starts its pool with its first prange: there is none here
            _announce_compiling()
            _pool_runs = True
        most = max(tasks) if isinstance(tasks, tuple) else tasks
        kernel(tasks, 1 if _pool_is_lost else min(_threads, most), *args)


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


def _announce_compiling():
    """Say why the first launch of all takes seconds; silent where the cache has anything compiled."""
    if not any(Path(_cache).rglob("*.nbc")) and sys.stderr is not None:
        message = "numgpt: compiling kernels; this happens once and takes some seconds"
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def set_threads(n):
    """Use n threads in kernels, at least one and at most as many as there are processors."""
    global _threads
    _threads = max(1, min(n, numba_config.NUMBA_NUM_THREADS))


def threads():
    """The number of threads that kernels use."""
    return _threads
