"""Where compiled kernels are kept: one folder of numgpt's own, never a stale one.

Numba tries several places, at last __pycache__ beside the sources, and knows of the outermost function's file
alone: after an edit of a function that a kernel calls, the old kernel would run. Here there is one folder,
named by what decides the code. Where the package lies does not: a second virtual environment or clone of the
same version compiles nothing. Where the folder cannot be written, kernels are compiled anew in each process.

Imports Numba, so it is itself imported only when a kernel is needed.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import re
import sys
import tempfile
import threading
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile

from .._version import __version__

RELATIVE_IMPORT = re.compile(r"^from (\.+)([\w.]*) import \(?([\w,\s]+)", re.M)
ROOT = Path(__file__).parents[1]  # of the package: every file of kernels lies below it
PATIENCE = 1.0  # seconds of compiling after which a line says so
# Settings of Numba's that change what is compiled; Numba does not ask for them when it reads its cache.
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DISABLE_INTEL_SVML", "DEBUGINFO")


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

    The digest is of all files of kernels: any change begins a new folder. None where there is no place: the
    user has no home, or the sources cannot be read because the package lies in a zip file.
    """
    try:
        return os.path.join(_home(), "numgpt", _digest())
    except (OSError, RuntimeError):
        return None


def _home():
    """The folder that the environment names for caches; RuntimeError where the user has no home."""
    return os.path.abspath(
        os.environ.get("NUMBA_CACHE_DIR")
        or os.environ.get("XDG_CACHE_HOME")
        or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
        or Path.home() / ".cache"
    )


def _digest():
    """Of what decides the code, but for what Numba itself tells apart: Python's version and the processor."""
    settings = [f"{name}={os.environ.get(f'NUMBA_{name}', '')}" for name in SETTINGS]
    # Code that calls Intel's vector mathematics does not load in an environment without it.
    settings.append(f"USING_SVML={numba.config.USING_SVML}")
    versions = (__version__, numba.__version__, llvmlite.__version__, np.__version__)
    digest = hashlib.sha256(f"{versions} {settings}".encode())
    for path in kernel_files():
        digest.update(f"{path.relative_to(ROOT).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def why_not_kept():
    """Why compiled kernels cannot be kept on disk, or None where they can."""
    if FOLDER is None:
        return "there is no folder for them"
    try:
        os.makedirs(FOLDER, exist_ok=True)
        tempfile.TemporaryFile(dir=FOLDER).close()
    except OSError as error:
        return f"{FOLDER} cannot be written: {error.strerror or error}"
    return None


FOLDER = cache_folder()


class Edits:
    """Whether files of kernels were edited since they were read for the folder's name.

    What is imported after an edit is not what the name says.
    """

    def __init__(self):
        self.files = kernel_files() if FOLDER else []
        self.at_start = self._stamps()

    def _stamps(self):
        try:
            stats = [path.stat() for path in self.files]
        except OSError:
            return None
        return [(stat.st_mtime_ns, stat.st_size) for stat in stats]

    def none(self):
        """Whether the files are what they were."""
        return self.at_start == self._stamps() is not None


_edits = Edits()


class Place:
    """Where a kernel's file goes: what Numba calls a locator.

    It makes the folder when there is something to keep.
    """

    def __init__(self, function):
        self._py_file = inspect.getfile(function)
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self):
        """A folder for each folder of sources, since two may have files of one name.

        A folder of the package is named as it is within it: FOLDER's digest knows what is there, and equal
        packages share their kernels.
        """
        folder = Path(os.path.abspath(self._py_file)).parent
        if folder.is_relative_to(ROOT):
            folder = folder.relative_to(ROOT)
        return os.path.join(
            FOLDER, f"{folder.name}-{hashlib.sha256(folder.as_posix().encode()).hexdigest()[:16]}"
        )

    def ensure_cache_path(self):
        """Called before a kernel is written."""
        os.makedirs(self.get_cache_path(), exist_ok=True)

    def get_source_stamp(self):
        """The digest of the kernel's own file, for those that are not numgpt's."""
        return _file_digest(self._py_file)

    def get_disambiguator(self):
        """What tells two kernels of one name apart."""
        return str(self._line)


@functools.cache
def _file_digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class _Compiled(CompileResultCacheImpl):
    """How Numba writes a compiled function, with our Place whatever Numba's settings name."""

    def __init__(self, function):
        self._lineno = function.__code__.co_firstlineno
        self._locator = Place(function)
        self._filename_base = self.get_filename_base(function.__qualname__, getattr(sys, "abiflags", ""))


class _Files(IndexDataCacheFile):
    """An index and the files of code that it names.

    Numba numbers the files 1, 2, …: two processes that compile two signatures at once would both write the
    first, and one signature be found with the other's code. Here a file is called by what is in it. Where two
    write the index at once, one entry is lost, and compiled again by whoever needs it.
    """

    def save(self, key, data):
        """Keep the code first, so that whoever reads the index finds it."""
        name = self._data_name_pattern.format(
            number=int(hashlib.sha256(self._dump(key)).hexdigest()[:16], 16)
        )
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


class KernelCache(FunctionCache):
    """A kernel's compiled code on disk. A file that cannot be read or written costs time and nothing else."""

    _impl_class = _Compiled

    def __init__(self, function):
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _Files(
            locator.get_cache_path(), self._impl.filename_base, locator.get_source_stamp()
        )

    def load_overload(self, signature, target):
        """The code for a signature, or None, after which Numba compiles it and calls save_overload."""
        loaded = None
        if _edits.none():
            try:
                loaded = super().load_overload(signature, target)
            except (
                Exception
            ):  # unreadable, or damaged in whatever way: a disk was full, a machine lost its power
                with contextlib.suppress(OSError):
                    self.flush()
        if loaded is None:
            _notice.begin()
        return loaded

    def save_overload(self, signature, compiled):
        """Keep the code for a signature."""
        _notice.end()
        try:
            if _edits.none():
                super().save_overload(signature, compiled)
        except OSError as error:
            _notice.not_kept(f"{FOLDER} cannot be written: {error.strerror or error}")


class NoCache:
    """In the place of a KernelCache where there is no folder: nothing is kept."""

    cache_path = None

    def load_overload(self, signature, target):
        """None: compile it."""
        _notice.begin()

    def save_overload(self, signature, compiled):
        """Compiled."""
        _notice.end()


def cached(dispatcher):
    """The dispatcher of a kernel, which from now on looks for its code in our folder and keeps it there."""
    dispatcher._cache = NoCache() if FOLDER is None else KernelCache(dispatcher.py_func)
    return dispatcher


def compiled(function):
    """A CFunc, compiled by now: from our folder, or anew and kept there."""
    function._cache = NoCache() if FOLDER is None else KernelCache(function.__wrapped__)
    function.compile()
    return function


class Notice:
    """The line that says why the first use of kernels takes seconds, once a process, where it does."""

    def __init__(self):
        self.said = False
        self.timer = None

    def begin(self):
        """A kernel is being compiled."""
        self.end()
        if not self.said:
            self.timer = threading.Timer(PATIENCE, self.say)
            self.timer.daemon = True
            with contextlib.suppress(RuntimeError):  # no more threads: then without the line
                self.timer.start()

    def end(self):
        """It is compiled."""
        if self.timer is not None:
            self.timer.cancel()

    def say(self):
        """Somebody has been waiting for a while."""
        reason = why_not_kept()
        if reason is not None:
            self.not_kept(reason)
        elif not self.said:
            self._print("numgpt: compiling kernels; this happens once and takes some seconds")

    def not_kept(self, reason):
        """Kernels are compiled, and will be again in the next process."""
        if not self.said:
            self._print(
                f"numgpt: kernels are compiled in each process anew, which takes some seconds: {reason}; set"
                " NUMBA_CACHE_DIR to a folder that can be written"
            )

    def _print(self, line):
        self.said = True
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)


_notice = Notice()
