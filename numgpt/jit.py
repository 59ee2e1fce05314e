"""How kernels are compiled: one thread pool, one lock, a cache that is never stale. Imports Numba, so is imported late."""

import contextlib
import functools
import hashlib
import os
import sys
import threading
from pathlib import Path

import numba
import numba.core.config as numba_config

from ._version import __version__

# contract: a multiplication and an addition may become one rounding. Nothing that assumes that NaN or ∞ do not occur.
FAST = {"contract"}
SUMS = {"contract", "reassoc"}  # sums may be taken in lanes; the lanes are the same for every number of threads
LOCK = threading.RLock()
ROOT = Path(__file__).parent

# OpenMP's threads wait for work awake, which starts a kernel in some microseconds; Numba's own workqueue sleeps and needs a hundred.
numba_config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def cache_folder():
    """Where compiled kernels lie: the user's cache, in a folder named after the sources of all kernels."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return os.environ["NUMBA_CACHE_DIR"]
    digest = hashlib.sha256(f"{__version__} {numba.__version__}".encode())
    for path in sorted([*ROOT.rglob("*_numba.py"), ROOT / "jit.py", ROOT / "blas.py"], key=lambda p: p.name):
        digest.update(path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None) or Path.home() / ".cache"
    return str(Path(home) / "numgpt" / digest.hexdigest()[:32])


_cache = cache_folder()


def kernel(function=None, *, fastmath=FAST, **options):
    """@njit with the house's options, its cache in the house's folder."""
    if function is None:
        return functools.partial(kernel, fastmath=fastmath, **options)
    before, numba_config.CACHE_DIR = numba_config.CACHE_DIR, _cache
    try:
        return numba.njit(function, cache=True, nogil=True, fastmath=fastmath, error_model="numpy", **options)
    finally:
        numba_config.CACHE_DIR = before


def parallel(function=None, **options):
    """A kernel whose prange runs on all threads. To be called through launch()."""
    if function is None:
        return functools.partial(parallel, **options)
    return kernel(function, parallel=True, **options)


def launch(kernel, *args):
    """Run a parallel kernel: one at a time, whatever Python threads ask."""
    with LOCK:
        if kernel not in _launched:
            _launched.add(kernel)
            _tell_once()
        return (_serial(kernel) if _forked else kernel)(*args)


@functools.cache
def _serial(kernel):
    """The same loop on one thread, compiled anew: after a fork OpenMP's threads are gone, and it would end the process."""
    return numba.njit(kernel.py_func, nogil=True, fastmath=FAST, error_model="numpy")


def _after_fork():
    global LOCK, _forked
    LOCK, _forked = threading.RLock(), _forked or bool(_launched)


_forked = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
_launched = set()


@functools.cache
def _tell_once():
    if not any(Path(_cache).rglob("*.nbc")) and sys.stderr is not None:
        with contextlib.suppress(OSError):
            print("numgpt: compiling kernels; this happens once and takes some seconds", file=sys.stderr, flush=True)


def set_threads(n):
    """Use n threads in kernels, as far as there are processors."""
    numba.set_num_threads(max(1, min(n, numba_config.NUMBA_NUM_THREADS)))


def threads():
    """The number of threads that kernels use."""
    return numba.get_num_threads()
