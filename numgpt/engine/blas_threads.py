"""How many threads the BLAS uses: one where kernels own the threads, as many as a user asks for elsewhere.

Needs no Numba: the reference engine computes with this BLAS too.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np

# The functions that ask for a library's number of threads, and set it: of OpenBLAS as NumPy's wheels carry it
# and as systems do, of MKL and of BLIS.
FUNCTIONS = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
)


class Pool:
    """The threads of a BLAS, whose number is one setting for the whole process.

    Parameters
    ----------
    get, set : functions
        They ask for the number of threads, and set it.
    """

    def __init__(self, get: Callable[[], int], set: Callable[[int], Any]) -> None:
        self.get = get
        self.set = set
        self.lock = threading.RLock()  # of a kind that a destructor may take within it
        self.inside: dict[int, int] = {}  # id of a OneThread that was entered → its Python thread
        self.outside = 0  # the number of threads for whoever is in none of them

    def limit(self, n: int) -> None:
        """Use n threads, in what runs now within a OneThread when it has left it."""
        with self.lock:
            self.outside = n
            if not self.inside:
                self.set(n)

    def enter(self, one: OneThread) -> None:
        """The first to enter notes the number of threads that there were."""
        with self.lock:
            if not self.inside:
                self.outside = self.get()
            self.inside[id(one)] = threading.get_ident()
            self.set(1)

    def leave(self, one: OneThread) -> None:
        """The last to leave sets it again; who has left already changes nothing."""
        with self.lock:
            if self.inside.keys() == {id(one)}:
                self.set(self.outside)  # first, so that who is interrupted here can leave once more
            self.inside.pop(id(one), None)

    def after_fork(self) -> None:
        """In the child there is one Python thread, and nobody who could leave for the others."""
        self.lock = threading.RLock()
        others = [one for one, thread in self.inside.items() if thread != threading.get_ident()]
        for one in others:
            del self.inside[one]
        if others and not self.inside:
            self.set(self.outside)


class OneThread:
    """Within it a pool has one thread, and what underflows is 0 whatever NumPy is told to do about it.

    Python threads share the pool: it has one thread until the last of them has left.
    """

    def __init__(self, pool: Pool | None) -> None:
        self.pool = pool
        self.state = np.errstate(under="ignore")

    def __enter__(self) -> None:
        if self.pool is not None:
            try:
                self.pool.enter(self)
            except BaseException:  # Ctrl-C comes between any two lines
                self.pool.leave(self)
                raise
        self.state.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.state.__exit__(kind, error, trace)
        finally:
            if self.pool is not None:
                self.pool.leave(self)

    def __del__(self) -> None:
        """Leave, where Ctrl-C came before the first line of __exit__."""
        if self.pool is not None:
            self.pool.leave(self)


def openblas_files() -> Iterator[str]:
    """Files that may be the OpenBLAS of NumPy's wheel."""
    for folder in (
        os.path.join(os.path.dirname(os.path.dirname(np.__file__)), "numpy.libs"),
        os.path.join(os.path.dirname(np.__file__), ".dylibs"),
    ):
        yield from glob.glob(os.path.join(folder, "*scipy_openblas64_*"))


@functools.cache
def numpys() -> Pool | None:
    """The threads of the BLAS that NumPy calls, or None where it cannot be asked (Apple's Accelerate)."""
    linked = sys.modules.get("numpy._core._multiarray_umath")
    for path in (*openblas_files(), getattr(linked, "__file__", None)):
        try:
            library = ctypes.CDLL(path) if path else None
        except OSError:
            continue
        pool = None if library is None else of(library)
        if pool is not None:
            return pool
    return None


_POOLS: dict[int, Pool] = {}  # address of the function that sets the threads → the pool


def of(library: ctypes.CDLL) -> Pool | None:
    """The threads of a library, the same object however often it is loaded.

    None where it has no functions for them.
    """
    for get, set in FUNCTIONS:
        if hasattr(library, get) and hasattr(library, set):
            functions = getattr(library, get), getattr(library, set)
            address = ctypes.cast(functions[1], ctypes.c_void_p).value or 0
            if address not in _POOLS:
                _POOLS[address] = Pool(*functions)
            return _POOLS[address]
    return None


def _after_fork() -> None:
    for pool in _POOLS.values():
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
