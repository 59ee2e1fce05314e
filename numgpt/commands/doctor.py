"""numgpt doctor: what it runs on, to paste into a report."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from .._version import __version__
from ..errors import InputError

HELP = "Print the engine, BLAS, threads, cache folder and versions, to paste into a report."
EXAMPLE = "numgpt doctor"

PACKAGES: tuple[str, ...] = (
    "numpy",
    "numba",
    "llvmlite",
    "regex",
    "safetensors",
    "tqdm",
    "mkl",
    "scipy",
    "torch",
    "cupy",
)
PACKAGES += ("mpi4py", "mpich")
PREFIXES = ("NUMGPT_", "NUMBA_", "OMP_", "OPENBLAS_", "MKL_", "CUDA_VISIBLE", "XDG_CACHE")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Numgpt doctor has no flags but the engine's."""
    from . import flags

    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row for each fact; what cannot be found out is said in its place."""
    rows = {
        "numgpt": f"{__version__}, in {Path(__file__).parents[1]}",
        "python": f"{platform.python_version()}, {sys.executable}",
        "system": platform.platform(),
        "cpu": f"{_processor()}, {os.cpu_count()} processors",
        "memory": _memory(),
        **_engine(),
        "ranks": _ranks(),
        "packages": ", ".join(filter(None, map(_version, PACKAGES))),
        "settings": _settings() or "none",
    }
    for name, value in rows.items():
        print(f"{name:9}  {value}")
    return 0


def _version(package: str) -> str:
    """The name and version of a package, "" where it is not installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _engine() -> dict[str, str]:
    """The engine in use, and what it computes with."""
    from .. import engine
    from ..engine import blas_threads

    try:
        name = engine.current()
    except InputError as error:
        name = f"none: {error}"
    pool = blas_threads.numpys()
    rows = {
        "engine": name,
        "blas": f"of NumPy: {'its threads cannot be asked' if pool is None else f'{pool.get()} threads'}",
    }
    if name == "numba":
        from ..engine import blas, jit, kernel_cache

        reason = kernel_cache.why_not_kept()
        rows["blas"] += f"; of kernels: {blas.NAME}"
        rows["threads"] = f"{jit.threads()} for kernels"
        rows["cache"] = f"{kernel_cache.FOLDER}" if reason is None else f"none: {reason}"
    return rows


def _ranks() -> str:
    """What starts several processes, and carries their messages."""
    if importlib.util.find_spec("mpi4py") is None:
        return "one process alone: there is no mpi4py (pip install 'numgpt[mpi]')"
    place = shutil.which("mpiexec")
    return "mpi4py is there, and no mpiexec: pip install mpich" if place is None else f"mpi4py, {place}"


def _processor() -> str:
    """The processor's name, as Linux or Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> str:
    """How much there is, and how much of it is free, where the system says so."""
    from ..engine import memory
    from .printing import human_size

    sizes = {"": memory.total(), " free": memory.free()}
    return ", ".join(f"{human_size(n)}{what}" for what, n in sizes.items() if n is not None) or "unknown"


def _settings() -> str:
    """The variables of the environment that change how it computes."""
    chosen = {k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES)}
    return ", ".join(f"{name}={value}" for name, value in chosen.items())
