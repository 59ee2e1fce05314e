"""Kernels in CUDA C: written once for float and double, compiled by CuPy when they are first launched.

Kernels use no atomics and no order of blocks: each sum is of fixed terms in a fixed order, so every run gives
the same bits. A product and a sum are rounded one by one (no fused multiply-add), as in the specification:
what cancels there cancels here. Launches are queued, nothing is fetched.
"""

import functools
import re

import numpy as np

THREADS = 256  # the most threads of a block
OPTIONS = ("--fmad=false",)

# What stands before every source. A row is summed on two levels: each thread adds up every 256th term, as
# `real` unless the source says double; then a tree adds the threads' sums in double. So no term goes through
# more than ⌈n/256⌉ + 8 additions.
PRELUDE = f"""
typedef {{real}} real;

__device__ double block_sum(double mine)
{{{{
    __shared__ double sums[{THREADS}];
    sums[threadIdx.x] = mine;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {{{{
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }}}}
    double sum = sums[0];
    __syncthreads(); // the next sum writes to the same place
    return sum;
}}}}

__device__ real block_max(real mine) // of numbers: a NaN may be passed over
{{{{
    __shared__ real tops[{THREADS}];
    tops[threadIdx.x] = mine;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {{{{
        if (threadIdx.x < half && tops[threadIdx.x + half] > tops[threadIdx.x])
            tops[threadIdx.x] = tops[threadIdx.x + half];
        __syncthreads();
    }}}}
    real top = tops[0];
    __syncthreads();
    return top;
}}}}
"""
REALS = {np.dtype("float32"): "float", np.dtype("float64"): "double"}


def complete(source, dtype):
    """A source as the compiler gets it: the prelude first, in which `real` is the C type of a dtype."""
    text = PRELUDE.format(real=REALS[np.dtype(dtype)]) + source
    # CuPy writes it to a file in the locale's encoding, which may lack the letters of a comment.
    return text.encode("ascii", "ignore").decode()


def kernel(source, name, dtype):
    """The kernel of a name in a source, for float32 or float64; CuPy compiles it at its first launch."""
    import cupy as cp

    return _raw_kernel(cp.RawKernel, source, name, np.dtype(dtype))


@functools.cache
def _raw_kernel(make, source, name, dtype):
    """One object for each kernel and dtype; make is an argument because tests put another in its place."""
    return make(complete(source, dtype), name, options=OPTIONS)


def launch(source, name, dtype, blocks, threads, *args):
    """Queue a kernel on blocks (x,) or (x, y) of so many threads each; without blocks nothing happens.

    Numbers are converted to what the kernel declares. An array must be contiguous and of the declared type
    already: the kernel reads its memory as if it were.
    """
    if 0 not in blocks:
        arguments = tuple(_arguments(source, name, np.dtype(dtype), args))
        kernel(source, name, dtype)(blocks, (threads,), arguments)


def _arguments(source, name, dtype, args):
    """What a launch hands over: arrays as they are, numbers in the size that the kernel reads."""
    dtypes = {"real": dtype, "double": np.dtype("float64"), "long long": np.dtype("int64")}
    for (kind, is_array, what), arg in zip(parameters(source, name), args, strict=True):
        declared = dtypes[kind]
        if not is_array:
            yield declared.type(arg)
            continue
        is_readable = arg.dtype == declared and arg.flags.c_contiguous
        assert is_readable, f"{name}: {what} is {arg.dtype}, expected contiguous {declared}"
        yield arg


@functools.cache
def parameters(source, name):
    """What a kernel declares: for each parameter its type, whether it is an array, and its name."""
    signature = re.search(rf'extern "C" __global__ void {name}\(([^)]*)\)', source)
    assert signature, f"{name} is not in the source"
    declarations = [
        re.fullmatch(r"(?:const )?(real|double|long long) (\*?)(\w+)", " ".join(text.split()))
        for text in signature[1].split(",")
    ]
    return tuple((m[1], bool(m[2]), m[3]) for m in declarations)


def names(source):
    """The kernels of a source."""
    return re.findall(r'extern "C" __global__ void (\w+)\(', source)


def threads_for(n):
    """Threads for a block that works on n entries: a power of two from 32 to 256."""
    return min(THREADS, max(32, 1 << (n - 1).bit_length()))


def blocks_of(n, size=THREADS):
    """How many blocks of a size hold n entries."""
    return -(-n // size)
