"""Runs kernels in CUDA C on a CPU: g++ compiles them behind a shim.

The threads of a block take turns at each barrier. raw_kernel stands for cupy.RawKernel, and is stricter than
a GPU: shared memory starts as NaN in each block, a write before or after an array is found, a barrier that
part of a block does not reach is an error. Under order() threads and blocks run in another order, so that a
result that depends on the order shows.
"""

import contextlib
import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from numgpt.engine.cuda import names, parameters

# Entries of 16 bits before and after each array, for each a NaN of its own: what is read beside one array
# differs from what is read beside another.
GUARD = 2048
ORDERS = {
    "forwards": (0, 0),
    "threads backwards": (1, 0),
    "blocks backwards": (0, 1),
    "both backwards": (1, 1),
}
_order = ORDERS["forwards"]

SHIM = r"""
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__ static
#define __shared__ static __attribute__((section("cuda_shared")))
#define __syncthreads() cuda::barrier()

struct Index { unsigned x, y; };
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace cuda {
static int always_there __attribute__((section("cuda_shared"), used));
extern "C" char __start_cuda_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_cuda_shared[] __attribute__((visibility("hidden")));

enum { STACK = 65536, MOST = 1024 };
static ucontext_t contexts[MOST], scheduler;
static jmp_buf threads[MOST], turn; // once a thread runs, jumps suffice: they need no system call
static bool waits[MOST];
static char *stacks;
static int mine;
static void (*body)(void **);
static void **arguments;

static void barrier()
{
    waits[mine] = true;
    if (!_setjmp(threads[mine]))
        _longjmp(turn, 1);
}

static void start()
{
    body(arguments);
    waits[mine] = false;
    _longjmp(turn, 1);
}

// Runs one thread to its next barrier or its end.
static void run(int i, bool first)
{
    mine = i;
    threadIdx.x = i;
    if (_setjmp(turn))
        return;
    if (first)
        setcontext(&contexts[i]);
    _longjmp(threads[i], 1);
}

// 0, or 1 where some threads of a block wait at a barrier and others have ended.
static int launch(unsigned gx, unsigned gy, unsigned n, int threads_backwards, int blocks_backwards)
{
    if (!stacks)
        stacks = (char *)malloc((size_t)STACK * MOST);
    gridDim.x = gx, gridDim.y = gy, blockDim.x = n, blockDim.y = 1;
    for (size_t b = 0; b < (size_t)gx * gy; b++) {
        size_t block = blocks_backwards ? (size_t)gx * gy - 1 - b : b;
        blockIdx.x = block % gx, blockIdx.y = block / gx;
        memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
        for (unsigned i = 0; i < n; i++) {
            getcontext(&contexts[i]);
            contexts[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
            contexts[i].uc_stack.ss_size = STACK;
            makecontext(&contexts[i], start, 0);
        }
        for (bool first = true;; first = false) {
            unsigned waiting = 0;
            for (unsigned i = 0; i < n; i++) {
                unsigned t = threads_backwards ? n - 1 - i : i;
                run(t, first);
                waiting += waits[t];
            }
            if (waiting == 0)
                break;
            if (waiting < n)
                return 1;
        }
    }
    return 0;
}
}
"""
C_TYPES = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int64": ctypes.c_longlong}


def compiler():
    """The path of g++, or None."""
    return shutil.which("g++")


@contextlib.contextmanager
def order(name):
    """Threads of a block and blocks of a grid run in one of ORDERS within it."""
    global _order
    before, _order = _order, ORDERS[name]
    try:
        yield
    finally:
        _order = before


def raw_kernel(source, name, options=()):
    """A kernel of a source as cupy.RawKernel makes it: callable(grid, block, args), where the memory of an
    array is its _host.
    """
    assert set(options) <= {"--fmad=false"}, f"options {options} mean nothing here"
    library = _library(source)
    declared = parameters(source, name)
    entry = getattr(library, f"cuda_launch_{name}")

    def run(grid, block, args):
        counts = f"{name} was given {len(args)} arguments, it declares {len(declared)}"
        assert len(args) == len(declared), counts
        threads = block[0]
        is_launchable = len(block) == 1 and 0 < threads <= 1024 and 0 < len(grid) <= 2 and min(grid) > 0
        assert is_launchable, f"{name}: grid {grid}, block {block}"
        assert len(grid) == 1 or grid[1] <= 65535, f"{name}: grid {grid} is too high for a GPU"
        memory = _Guarded([a._host for a in args if hasattr(a, "_host")])
        values = [memory.address(a._host) if hasattr(a, "_host") else _scalar(a) for a in args]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        diverged = entry(pointers, grid[0], grid[1] if len(grid) > 1 else 1, threads, *_order)
        assert not diverged, f"{name}: some threads of a block wait at a barrier that others have passed by"
        memory.check_and_copy_back(name)

    return run


def _scalar(number):
    assert isinstance(number, np.generic), f"{number!r} is no NumPy scalar: its size in C would be a guess"
    return C_TYPES[number.dtype.name](number.item())


class _Guarded:
    """Copies of arrays between guards.

    An array that is given twice has one copy; other arrays that overlap are refused.
    """

    def __init__(self, arrays):
        self.copies = {}
        for array in arrays:
            assert array.flags.c_contiguous, "a kernel was given an array that is not contiguous"
            if self._key(array) not in self.copies:
                overlaps = any(np.may_share_memory(array, other) for other, _ in self.copies.values())
                assert not overlaps, "a kernel was given arrays that overlap"
                copy = np.full(array.nbytes // 2 + 2 * GUARD, 0xFFF1 + len(self.copies), np.uint16)
                copy[GUARD:-GUARD] = array.reshape(-1).view(np.uint16)
                self.copies[self._key(array)] = array, copy

    def address(self, array):
        return ctypes.c_void_p(self.copies[self._key(array)][1].ctypes.data + 2 * GUARD)

    def check_and_copy_back(self, name):
        for i, (array, copy) in enumerate(self.copies.values()):
            is_whole = all((guard == 0xFFF1 + i).all() for guard in (copy[:GUARD], copy[-GUARD:]))
            assert is_whole, f"{name} wrote outside an array of shape {array.shape}"
            if array.flags.writeable:
                array.reshape(-1).view(np.uint16)[...] = copy[GUARD:-GUARD]
            else:
                is_same = (array.reshape(-1).view(np.uint16) == copy[GUARD:-GUARD]).all()
                assert is_same, f"{name} wrote to an array of shape {array.shape} that is for reading only"

    def _key(self, array):
        return array.ctypes.data, array.nbytes


@functools.cache
def _library(source):
    """The shared library of a source, compiled once a process."""
    path = Path(_folder().name) / (hashlib.sha256(source.encode()).hexdigest()[:16] + ".cpp")
    path.write_text(SHIM + source + "".join(_entry(source, name) for name in names(source)))
    built = path.with_suffix(".so")
    # No fused multiply-adds, as --fmad=false asks of a GPU's compiler. A fortified longjmp would forbid jumps
    # between stacks.
    flags = "-O2 -ffp-contract=off -fno-strict-aliasing -U_FORTIFY_SOURCE -fPIC -shared -w".split()
    done = subprocess.run([compiler(), *flags, str(path), "-o", str(built)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(built))


def _entry(source, name):
    """C that unpacks a kernel's arguments."""
    arguments = ", ".join(
        f"*({kind} {'*' if is_array else ''}*)a[{i}]"
        for i, (kind, is_array, _) in enumerate(parameters(source, name))
    )
    return f"""
static void cuda_body_{name}(void **a) {{ {name}({arguments}); }}
extern "C" int cuda_launch_{name}(void **a, unsigned gx, unsigned gy, unsigned n, int threads, int blocks)
{{
    cuda::body = cuda_body_{name};
    cuda::arguments = a;
    return cuda::launch(gx, gy, n, threads, blocks);
}}
"""


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="cuda_on_cpu_")
