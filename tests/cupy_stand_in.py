"""A stand-in for CuPy over NumPy, for machines without a GPU: it computes the same numbers, refuses what CuPy
would refuse, and atomics.

Arrays dispatch NumPy's functions as CuPy's do, and do not mix with arrays of the host. What CuPy does not
have raises, by the frozen list in cupy_names.py. Everything that would make the host wait for the GPU is
counted.
"""

import ctypes
import inspect
import operator
import sys
import types

import numpy as np
import pytest
from cupy_names import FUNCTIONS, VERSION

HOST = "Unsupported type <class 'numpy.ndarray'>"
IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array"
    " explicitly."
)
PREDICATES = {"allclose", "array_equal"}  # which give Python's bool in NumPy and an array () in CuPy
waits = []  # one entry each time that the host waited for the GPU


class ndarray:
    """An array that lies on the GPU, so to say."""

    __hash__ = None
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, *, host=None, base=None):
        self._host, self.base = np.empty(shape, dtype) if host is None else host, base

    def __array__(self, *args, **kwargs):
        raise TypeError(IMPLICIT)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if ufunc.__name__ not in FUNCTIONS or method not in ("__call__", "at"):
            return NotImplemented
        if method == "at":
            raise TypeError(
                f"{ufunc.__name__}.at: CuPy takes it atomically, in no fixed order: use ops.embedding.add_at"
            )
        if isinstance(kwargs.get("out"), tuple):
            (kwargs["out"],) = kwargs["out"]
        out = kwargs.get("out")
        result = ufunc(*map(_operand, inputs), **{k: _operand(v) for k, v in kwargs.items()})
        return out if out is not None else _there(result)

    def __array_function__(self, function, kinds, args, kwargs):
        name, module = function.__name__, function.__module__
        if module not in ("numpy", "numpy.linalg") or (module == "numpy" and name not in FUNCTIONS):
            return NotImplemented
        return _call(function, args, kwargs)

    shape, dtype, ndim, size, nbytes, itemsize, strides, flags = (
        property(lambda self, n=n: getattr(self._host, n))
        for n in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags")
    )
    T = property(lambda self: self._view(self._host.T))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))

    @property
    def real(self):
        return self._view(self._host.real)

    @property
    def imag(self):
        return self._view(self._host.imag)

    @imag.setter
    def imag(self, value):
        if self.dtype.kind != "c":
            raise TypeError("cupy.ndarray does not have imaginary part to set")
        self._host.imag = _operand(value)

    def _view(self, host):
        """A result that may show this array's memory."""
        shows = isinstance(host, np.ndarray) and np.may_share_memory(host, self._host)
        owner = self if self.base is None else self.base
        return ndarray(None, host=np.asarray(host), base=owner if shows else None)

    def reshape(self, *shape, order="C"):
        return self._view(self._host.reshape(*shape, order=order))

    def swapaxes(self, a, b):
        return self._view(self._host.swapaxes(a, b))

    def view(self, dtype):
        return self._view(self._host.view(dtype))

    def transpose(self, *axes):
        return self._view(self._host.transpose(*axes))

    def ravel(self, order="C"):
        return self._view(self._host.ravel(order))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if np.dtype(dtype).name in ("longdouble", "float128", "clongdouble", "complex256"):
            raise TypeError(f"data type {dtype!r} not understood")
        if not copy and self.dtype == dtype:
            return self
        return _there(self._host.astype(dtype, order=order))

    def copy(self, order="C"):
        return _there(self._host.copy(order))

    def fill(self, value):
        self._host.fill(_operand(value))

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return _there(self._host.sum(axis, dtype, out=_operand(out), keepdims=keepdims))

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        return _there(self._host.mean(axis, dtype, out=_operand(out), keepdims=keepdims))

    def max(self, axis=None, out=None, keepdims=False):
        return _there(self._host.max(axis, out=_operand(out), keepdims=keepdims))

    def min(self, axis=None, out=None, keepdims=False):
        return _there(self._host.min(axis, out=_operand(out), keepdims=keepdims))

    def any(self, axis=None, out=None, keepdims=False):
        return _there(self._host.any(axis, out=_operand(out), keepdims=keepdims))

    def all(self, axis=None, out=None, keepdims=False):
        return _there(self._host.all(axis, out=_operand(out), keepdims=keepdims))

    def argmax(self, axis=None, out=None, dtype=None, keepdims=False):
        return _there(self._host.argmax(axis, keepdims=keepdims))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return self._view(self._host[self._index(index)])

    def __setitem__(self, index, value):
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        self._host[self._index(index, isinstance(value, ndarray))] = _operand(value)

    def _index(self, index, waiting=True):
        """An index for NumPy. CuPy does not look at numbers: one out of range wraps around, and a mask has to
        be counted.
        """
        parts, axis = [], 0
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, np.ndarray):
                raise TypeError(HOST)
            if isinstance(part, ndarray):
                host = part._host
                if host.dtype == bool:
                    if waiting:
                        waits.append("a mask as index")
                    axis += host.ndim
                else:
                    host, axis = host % self.shape[axis], axis + 1
                parts.append(host)
            else:
                axis += part is not None and part is not Ellipsis
                parts.append(part)
        return tuple(parts) if isinstance(index, tuple) else parts[0]

    def get(self, *args, **kwargs):
        """A copy in the host's memory."""
        waits.append("get")
        return self._host.copy()

    def item(self):
        """The number that an array of one holds."""
        waits.append("item")
        return self._host.item()

    def tolist(self):
        """All numbers."""
        waits.append("tolist")
        return self._host.tolist()

    def __repr__(self):
        waits.append("repr")
        return repr(self._host)


def _unary(name):
    def method(self):
        return np.positive(self) if name == "__pos__" else _there(getattr(operator, name)(self._host))

    return method


UFUNCS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}


def _binary(name, reverse=False, place=False):
    ufunc = UFUNCS[name]

    def method(self, other):
        if other is None:
            return NotImplemented
        arguments = (other, self) if reverse else (self, other)
        host = tuple(map(_operand, arguments))
        if place:
            getattr(np, ufunc)(*host, out=self._host)
            return self
        if (
            ufunc == "power"
        ):  # NumPy has its own way with small exponents of arrays, and its bits are those to be had
            return _there(host[0] ** host[1])
        return _there(getattr(np, ufunc)(*host))

    return method


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
):
    setattr(ndarray, f"__{_name}__", _binary(_name))
    setattr(ndarray, f"__r{_name}__", _binary(_name, reverse=True))
    if _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _binary(_name, place=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _binary(_name))
for _name in ("__neg__", "__pos__", "__abs__", "__invert__"):
    setattr(ndarray, _name, _unary(_name))
for _name, _kind in {"__float__": float, "__int__": int, "__bool__": bool, "__complex__": complex}.items():

    def _wait(self, name=_name, kind=_kind):
        waits.append(name)
        return kind(self._host)

    setattr(ndarray, _name, _wait)


def _operand(x):
    """What NumPy computes with in the place of an operand; an array of the host is refused, also one ()."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(HOST)
    if isinstance(x, list | tuple):
        return type(x)(map(_operand, x))
    return x


def _there(x):
    """What NumPy gave, on the GPU: reductions stay arrays ()."""
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(None, host=np.asarray(x))
    return (
        type(x)(map(_there, x))
        if isinstance(x, list | tuple) and any(isinstance(a, np.ndarray) for a in x)
        else x
    )


def _call(function, args, kwargs):
    """One of NumPy's functions, with what CuPy's lacks refused."""
    name = getattr(function, "__name__", "")
    for lacking in (
        {"initial", "where"} & set(kwargs)
        if name in ("sum", "max", "min", "mean", "prod", "any", "all", "amax", "amin")
        else ()
    ):
        raise TypeError(f"{name}() got an unexpected keyword argument {lacking!r}")
    if name == "piecewise" and any(map(callable, args[2])):
        raise NotImplementedError("Callable functions are not supported currently")
    if name in ("where", "nonzero", "argwhere", "flatnonzero", "unique") and (
        name != "where" or len(args) == 1
    ):
        waits.append(name)
    result = function(*map(_operand, args), **{k: _operand(v) for k, v in kwargs.items()})
    return _there(np.asarray(result) if name in PREDICATES else result)


def asarray(a, dtype=None, order=None):
    """The array on the GPU: itself, or a copy of one of the host."""
    if isinstance(a, ndarray) and dtype in (None, a.dtype):
        return a
    a = a._host if isinstance(a, ndarray) else np.array(a, order=order or "K")
    return ndarray(None, host=a).astype(dtype or a.dtype)


def asnumpy(a, *args, **kwargs):
    """A copy in the host's memory."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


class RawKernel:
    """CUDA C that runs thread by thread on the CPU."""

    def __init__(self, source, name, options=()):
        raw_kernel = pytest.importorskip(
            "cuda_on_cpu", reason="kernels need tests/cuda_on_cpu.py, which runs CUDA C on a CPU"
        ).raw_kernel
        self.run = raw_kernel(source, name, options)

    def __call__(self, grid, block, args, **kwargs):
        for a in args:
            _operand(a)
        self.run(grid, block, args)


def _matrices(place, kind, rows, columns, leading, count, stride):
    """What cuBLAS reads at an address: matrices along columns, here as (count, columns, rows)."""
    number = {0: np.float32, 2: np.float16, 14: np.uint16}[kind]
    size = np.dtype(number).itemsize
    n = (count - 1) * stride + (columns - 1) * leading + rows
    memory = np.frombuffer((ctypes.c_char * (n * size)).from_address(place), number)
    return np.lib.stride_tricks.as_strided(
        memory, (count, columns, rows), (stride * size, leading * size, size), writeable=kind == 0
    )


def _read(matrices, adds_up):
    """Numbers as the tensor cores multiply them: bf16's are the upper halves of float32's."""
    if matrices.dtype == np.uint16:
        return (matrices.astype(np.uint32) << 16).view(np.float32)
    if adds_up == 77:  # TF32: 10 bits behind the point
        units = np.ldexp(1.0, np.maximum(np.frexp(matrices.astype(float))[1] - 1, -126) - 10)
        return (np.rint(matrices / units) * units).astype(np.float32)
    return matrices.astype(np.float32)


def gemm_strided_batched_ex(*arguments):
    """As cublas.gemmStridedBatchedEx: C = alpha A B + beta C for each of count matrices along columns."""
    (_, ta, tb, m, n, k, alpha), (a, kind_a, lda, step_a) = arguments[:7], arguments[7:11]
    (b, kind_b, ldb, step_b, beta), (c, kind_c, ldc, step_c) = arguments[11:16], arguments[16:20]
    count, adds_up, _ = arguments[20:]
    assert (ta, tb, kind_c) == (0, 0, 0) and kind_a == kind_b and adds_up in (68, 77)
    assert lda >= m and ldb >= k and ldc >= m and (adds_up == 68 or kind_a == 0)
    one, zero = (ctypes.c_float.from_address(place).value for place in (alpha, beta))
    assert (one, zero) == (1.0, 0.0)
    left = _read(_matrices(b, kind_b, k, n, ldb, count, step_b), adds_up)  # (count, n, k)
    right = _read(_matrices(a, kind_a, m, k, lda, count, step_a), adds_up)  # (count, k, m)
    _matrices(c, kind_c, m, n, ldc, count, step_c)[...] = left @ right


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError."""


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime.CUDARuntimeError."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Module(types.ModuleType):
    """The module: what is written here, and every function that CuPy has and NumPy can stand for."""

    def __getattr__(self, name):
        if name.startswith("_") or name not in FUNCTIONS or not hasattr(np, name):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        if isinstance(found, np.ufunc):
            return lambda *args, **kwargs: ndarray.__array_ufunc__(None, found, "__call__", *args, **kwargs)
        return lambda *args, **kwargs: _call(found, args, kwargs)


def module(driver=12090, devices=1, error=None):
    """A module to put into sys.modules as "cupy"; driver: its version, 0 for none; error: what the count of
    devices raises.
    """
    cupy = Module("cupy")
    cupy.ndarray, cupy.asarray, cupy.array, cupy.asnumpy, cupy.RawKernel, cupy.__version__ = (
        ndarray,
        asarray,
        lambda a, *r, **k: asarray(a, *r, **k).copy(),
        asnumpy,
        RawKernel,
        VERSION,
    )
    cupy.ascontiguousarray = lambda a, dtype=None: _there(np.ascontiguousarray(_operand(a), dtype))

    def count():
        if error:
            raise error
        return devices

    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: 12090,
        getDeviceCount=count,
        memGetInfo=lambda: (1000, 4000),
        CUDARuntimeError=CUDARuntimeError,
        deviceSynchronize=lambda: waits.append("deviceSynchronize"),
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: {"name": b"the stand-in", "major": 9, "minor": 0},
    )
    memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    cublas = types.SimpleNamespace(gemmStridedBatchedEx=gemm_strided_batched_ex)
    cupy.cuda = types.SimpleNamespace(
        runtime=runtime,
        memory=memory,
        is_available=lambda: devices > 0,
        cublas=cublas,
        get_cublas_handle=lambda: 0,
    )
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(
        free_bytes=lambda: 24, used_bytes=lambda: 0, total_bytes=lambda: 24
    )
    return cupy


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in in the place of CuPy, and the cupy engine in use; its list of waits is empty."""
    from numgpt import engine

    before, stand_in = engine.current(), module()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setenv("CUPY_TF32", "")  # so that what the engine sets is undone
    waits.clear()
    engine.use("cupy")
    yield stand_in
    engine.use(before)


def attributes():
    """What an array of the stand-in has, for the audit."""
    return {n for n, _ in inspect.getmembers_static(ndarray)} - {
        n for n, _ in inspect.getmembers_static(object)
    }
