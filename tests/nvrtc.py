"""Compiles CUDA C to PTX without a GPU: by NVRTC where its library is installed, else by nvcc where it is on
the path.
"""

import ctypes
import ctypes.util
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MISSING = "neither NVRTC (pip install nvidia-cuda-nvrtc-cu12) nor nvcc is installed"


class CompileError(Exception):
    """What the compiler said."""


@functools.cache
def library():
    """NVRTC's library of a wheel or of the system, or None."""
    wheels = [
        str(path) for folder in sys.path for path in Path(folder or ".").glob("nvidia/*/lib/libnvrtc.so.*")
    ]
    for name in [*wheels, ctypes.util.find_library("nvrtc")]:
        if name:
            return ctypes.CDLL(name)
    return None


def available():
    """Whether there is a compiler."""
    return library() is not None or shutil.which("nvcc") is not None


def ptx(source, architecture, options=()):
    """The PTX of a source for an architecture such as "compute_80"; CompileError with the log where it does
    not compile.
    """
    options = (f"--gpu-architecture={architecture}", *options)
    return (_by_nvcc if library() is None else _by_nvrtc)(source, options)


def _by_nvrtc(source, options):
    lib, program = library(), ctypes.c_void_p()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    try:
        failed = lib.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        )
        if failed:
            raise CompileError(_text(lib.nvrtcGetProgramLogSize, lib.nvrtcGetProgramLog, program))
        return _text(lib.nvrtcGetPTXSize, lib.nvrtcGetPTX, program)
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def _text(size_of, get, program):
    size = ctypes.c_size_t()
    assert size_of(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert get(program, text) == 0
    return text.value.decode()


def _by_nvcc(source, options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cu")
        path.write_text(source)
        done = subprocess.run(
            ["nvcc", "-ptx", *options, str(path), "-o", str(path.with_suffix(".ptx"))],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise CompileError(done.stderr + done.stdout)
        return path.with_suffix(".ptx").read_text()
