"""The stand-in refuses what CuPy refuses, and every name that is asked of CuPy is one that it has."""

import operator
from pathlib import Path

import cupy_stand_in
import numpy as np
import pytest
from cupy_names import FUNCTIONS, IN_MODULES, METHODS, SPECIAL, VERSION
from cupy_stand_in import cupy, waits  # noqa: F401 (a fixture)
from names_in_source import BENCHMARKS, SPECIFICATION, of_cupy, undispatched

from numgpt import engine
from numgpt.__main__ import MIXED


def there(x):
    return cupy_stand_in.asarray(x)


A, HOST = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
MISTAKES = {
    "a host array added": lambda a: a + HOST,
    "added to a host array": lambda a: HOST + a,
    "in place": lambda a: a.__iadd__(HOST),
    "an array () of the host": lambda a: a * np.array(2.0),
    "a host matrix": lambda a: a @ HOST.T,
    "made a NumPy array": lambda a: np.asarray(a),
    "a list of them made a NumPy array": lambda a: np.mean([a, a]),
    "joined with a host array": lambda a: np.concatenate([a, HOST]),
    "chosen from a host array": lambda a: np.where(a > 0, a, HOST),
    "chosen by a host array": lambda a: np.where(HOST > 0, a, a),
    "scattered by host ids": lambda a: np.add.at(a, np.zeros(2, int), a),
    "scattered in no fixed order": lambda a: np.add.at(a, there(np.zeros(2, int)), a),
    "rows by host ids": lambda a: a[np.zeros(2, int)],
    "a host array put in": lambda a: a.__setitem__(..., HOST),
    "put into a host array": lambda a: HOST.__setitem__(..., a),
    "a mask made on the host": lambda a: np.where(np.tri(2, 3, dtype=bool), a, 0.0),
    "a function that CuPy lacks": lambda a: np.vecdot(a, a),
    "a ufunc that CuPy lacks": lambda a: np.spacing(a),
    "a keyword that CuPy's lacks": lambda a: np.max(a, initial=0.0),
    "a keyword that CuPy's method lacks": lambda a: a.max(initial=0.0),
    "functions of pieces": lambda a: np.piecewise(a, [a > 0], [lambda x: x, 0]),
    "a method that CuPy's arrays lack": lambda a: a.setflags(write=False),
    "the interface of the host's memory": lambda a: a.__array_interface__,
    "long double": lambda a: a.astype("longdouble"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
def test_the_stand_in_refuses(cupy, mistake):
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)):
        mistake(there(A))


def test_what_the_stand_in_refuses_numpy_takes(cupy):
    """So that each of them is a mistake that only the GPU would show."""
    refused = {
        "made a NumPy array",
        "a function that CuPy lacks",
        "a keyword that CuPy's method lacks",
        "functions of pieces",
        "long double",
        "rows by host ids",
    }
    for name in refused:
        MISTAKES[name](A.copy())


@pytest.mark.parametrize(
    "look",
    [
        float,
        int,
        bool,
        lambda a: a.item(),
        lambda a: a.get(),
        engine.home,
        repr,
        lambda a: a.reshape(1)[a.reshape(1) > 0],
    ],
)
def test_each_way_to_wait_is_counted(cupy, look):
    waits.clear()
    look(there(np.array(2.0)))
    assert len(waits) == 1


def test_the_stand_in_has_nothing_that_cupys_arrays_lack():
    public = {n for n in cupy_stand_in.attributes() if not n.startswith("_") or n.startswith("__")} - {
        "__weakref__",
        "__dict__",
    }
    assert public <= METHODS | SPECIAL


def test_every_name_of_cupy_in_the_package_is_one_that_it_has():
    """And in the benchmarks, whose lines for a GPU alone nothing runs here."""
    used = {
        name
        for folder in (SPECIFICATION[0], BENCHMARKS)
        for path in folder.rglob("*.py")
        for name in of_cupy(path.read_text("utf-8"))
    }
    assert {
        "asarray",
        "asnumpy",
        "ndarray",
        "cuda.runtime.getDeviceCount",
        "cuda.runtime.getDeviceProperties",
    } <= used
    assert used <= FUNCTIONS | IN_MODULES, used - FUNCTIONS - IN_MODULES


@pytest.mark.parametrize("source, names", [
    ("import cupy as cp\ndef f(x): return cp.vecdot(x, x)", {"vecdot"}),
    ("import cupy\nruntime = cupy.cuda.runtime\nruntime.getDevices()", {"cuda.runtime.getDevices"}),
    ("sys.modules['cupy'].asnumpyy(x)", {"asnumpyy"}),
])  # fmt: skip
def test_the_audit_finds_a_name_that_cupy_lacks(source, names):
    assert names == of_cupy(source) - FUNCTIONS - IN_MODULES - {"cuda", "cuda.runtime"}


def test_every_function_of_numpy_in_the_specification_dispatches():
    for path in SPECIFICATION[1]:
        assert undispatched(path.read_text("utf-8"), FUNCTIONS) == [], path


@pytest.mark.parametrize("line, complaint", [
    ("np.vecdot(x, x)", "CuPy has no vecdot"),
    ("np.arange(3)", "arange makes an array of the host: give like="),
    ("np.zeros(x.shape)", "zeros makes an array of the host: give like="),
    ("np.ascontiguousarray(x)", "ascontiguousarray makes an array of the host: give like="),
    ("x.max(-1, initial=0.0)", "CuPy's max has no initial"),
    ("x.setflags(write=False)", "CuPy's arrays have no setflags"),
])  # fmt: skip
def test_the_audit_finds_what_would_not_dispatch(line, complaint):
    assert undispatched(f"import numpy as np\ndef f_forward(x):\n    return {line}, ()", FUNCTIONS) == [
        f"line 3: {complaint}"
    ]


def test_the_frozen_names_are_those_of_the_real_package():
    real = pytest.importorskip("cupy", reason="CuPy is not installed")
    if real.__version__ != VERSION:
        pytest.skip(f"CuPy is {real.__version__}, the names are those of {VERSION}")
    assert {n for n in dir(real.ndarray) if not n.startswith("_")} == METHODS
    assert set(dir(real)) >= FUNCTIONS
    for name in IN_MODULES:
        if not name.startswith("cuda.cublas."):
            operator.attrgetter(name)(real)
    # A machine without cuBLAS cannot import what calls it: the names stand in the file.
    (file,) = Path(real.__file__).parents[1].glob("cupy_backends/cuda/libs/cublas*.so")
    compiled = file.read_bytes()
    for name in IN_MODULES:
        if name.startswith("cuda.cublas."):
            assert name.rpartition(".")[2].encode() in compiled, name


def test_the_real_packages_arrays_serve_what_the_specification_asks_of_numpy():
    """Without a GPU a call that NumPy hands on to CuPy ends at the driver; one that it does not hand on is a
    TypeError.
    """
    real = pytest.importorskip("cupy", reason="CuPy is not installed")
    if real.cuda.runtime.driverGetVersion():
        pytest.skip("there is a driver: test_cupy_device.py asks the GPU itself")

    def array(shape, dtype):  # of memory that nobody has
        return real.ndarray(
            shape,
            dtype,
            memptr=real.cuda.MemoryPointer(real.cuda.UnownedMemory(1 << 20, 1 << 16, None, 0), 0),
        )

    a, ids, norm, mask = array((2, 3), "f4"), array((2,), "i8"), array((), "f8"), array((2, 3), "?")
    calls = [
        lambda: np.tri(2, 3, 0, dtype=bool, like=a),
        lambda: np.arange(2, like=ids),
        lambda: np.zeros(3, "f4", like=a),
        lambda: np.empty((2, 3), "f4", like=a),
        lambda: np.ascontiguousarray(a.swapaxes(0, 1), like=a),
        lambda: np.ones_like(norm),
        lambda: np.zeros_like(a, order="C"),
        lambda: np.where(mask, a, -np.inf),
        lambda: np.where(mask, a, np.float32(0)),
        lambda: np.concatenate([a, a], axis=-1),
        lambda: 1.0 / np.maximum(norm, 1.0),
        lambda: np.stack([norm, norm]),
        lambda: np.exp(a),
        lambda: np.isfinite(a).all(),
        lambda: a.max(-1, keepdims=True),
        lambda: a.__isub__(mask),
        lambda: a[ids],
        lambda: (a + 1e-5) ** -0.5,
    ]
    for call in calls:
        with pytest.raises(real.cuda.runtime.CUDARuntimeError, match="cudaErrorInsufficientDriver"):
            call()
    for mixed in (lambda: np.ascontiguousarray(a), lambda: np.block([a])):
        with pytest.raises(TypeError) as refused:  # what the command line knows such a mistake by
            mixed()
        assert any(part in str(refused.value) for part in MIXED), refused.value
