"""How kernels are compiled and run: one thread pool, one lock, a cache that is never stale. Imports Numba, so
is imported late.
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

# contract: a multiplication and an addition may become one rounding. Nothing that assumes that NaN or ∞ do
# not occur.
FAST = {"contract"}
SUMS = {
    "contract",
    "reassoc",
}  # sums may be taken in lanes; the lanes are the same for every number of threads
LOCK = threading.RLock()
IMPORT = re.compile(r"^from (\.+)([\w.]*) import \(?([\w,\s]+)", re.M)
ROOT = Path(__file__).parents[1]

# OpenMP's threads wait for work awake, which starts a kernel in some microseconds; Numba's own workqueue
# sleeps and needs a hundred.
numba_config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def _use_wide_vectors():
    """Have the compiler use 512-bit vectors on processors with vbmi2; it avoids them, since the first that
    had them slowed down.

    The setting is the whole process's, so it is left alone where Numba has compiled already.
    """
    started = "_toplevel_target_context" in vars(cpu_target)
    if (
        not started
        and numba_config.CPU_NAME is None
        and numba_config.CPU_FEATURES is None
        and "+avx512vbmi2" in get_host_cpu_features()
    ):
        numba_config.CPU_FEATURES = get_host_cpu_features() + ",-prefer-256-bit"
        try:
            cpu_target.target_context  # made when first asked for
        finally:
            numba_config.CPU_FEATURES = None


_use_wide_vectors()


def kernel_files():
    """The files whose bytes decide what is compiled: those of kernels, and those that they import constants
    from.
    """
    own = [*ROOT.rglob("*_numba.py"), *(ROOT / "engine" / f"{name}.py" for name in ("jit", "spread", "blas"))]
    found = set(own)
    for path in own:
        for dots, module, names in IMPORT.findall(path.read_text("utf-8")):
            folder = path.parents[len(dots) - 1].joinpath(*module.split("."))
            found.update(
                p
                for p in (folder.with_suffix(".py"), *(folder / f"{n.strip()}.py" for n in names.split(",")))
                if p.is_file()
            )
    return sorted(found)


def cache_folder():
    """Where compiled kernels lie: NUMBA_CACHE_DIR or the user's cache, in a folder named after the sources of
    all kernels.
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
    """A function for kernels to call: @njit with the house's options, compiled into whatever calls it."""
    if function is None:
        return functools.partial(kernel, fastmath=fastmath)
    return numba.njit(
        function, fastmath=fastmath, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
    )


def _all_tasks(phases, threads, *args):
    if spread(task, phases, threads, args):  # noqa: F821, given by parallel()
        raise MemoryError


def parallel(function):
    """A kernel whose first argument is the number of its task: launch(kernel, tasks, *args) runs kernel(i,
    *args) for each i.

    The tasks run at the same time on several threads, in any order: no two may write to the same place. A
    kernel of several phases, kernel(phase, i, *args), is given a tuple of tasks; what one phase wrote the
    next may read.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    # One loop for all kernels, with a task of its own: Numba files compiled code by name, file and line, and
    # a closure's not for long.
    code = _all_tasks.__code__.replace(
        co_filename=function.__code__.co_filename, co_firstlineno=function.__code__.co_firstlineno
    )
    loop = python_types.FunctionType(
        code, {"__name__": __name__, "spread": spread, "task": kernel(function)}, name
    )
    loop.__qualname__ = name
    before, numba_config.CACHE_DIR = numba_config.CACHE_DIR, _cache
    try:
        return numba.njit(loop, cache=True, nogil=True, no_cfunc_wrapper=True)
    finally:
        numba_config.CACHE_DIR = before


def launch(kernel, tasks, *args):
    """Run all tasks of a parallel kernel: one kernel at a time, whatever Python threads ask."""
    with LOCK:
        if not _launched:
            _launch_threads()
            _tell_once()
            _launched.add(kernel)
        most = max(tasks) if isinstance(tasks, tuple) else tasks
        kernel(tasks, 1 if _forked else min(_threads, most), *args)


def _after_fork():
    """In the child OpenMP's threads are gone, and it would end the process if it were asked for them."""
    global LOCK, _forked
    LOCK, _forked = threading.RLock(), _forked or bool(_launched)


_forked, _launched, _threads = False, set(), numba_config.NUMBA_NUM_THREADS
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _tell_once():
    if not any(Path(_cache).rglob("*.nbc")) and sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(
                "numgpt: compiling kernels; this happens once and takes some seconds",
                file=sys.stderr,
                flush=True,
            )


def set_threads(n):
    """Use n threads in kernels, as far as there are processors."""
    global _threads
    _threads = max(1, min(n, numba_config.NUMBA_NUM_THREADS))


def threads():
    """The number of threads that kernels use."""
    return _threads
