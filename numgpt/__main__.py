"""The command line: numgpt and the name of a command."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .errors import InputError
from .storage import output

# Messages by which CuPy and NumPy report mixed GPU and host arrays.
MIXED = (
    "Implicit conversion to a NumPy array is not allowed",
    "Unsupported type <class 'numpy.ndarray'>",
    "no implementation found for 'numpy.",
    "all returned NotImplemented from __array_ufunc__",
)


# Packages without which much works, as in a browser that has no wheel of them, and what needs them.
NEEDED = {
    "numba": "for the numba engine",
    "regex": "to cut a text into pretokens",
    "safetensors": "to write a file of arrays",
    "tqdm": "to show how far a long run is",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    0: it worked. 1: a check or a training run failed. 2: the input cannot be used; stderr has the reason, on
    one line. 130: interrupted.
    """
    _prepare_output()
    status, message = _outcome(lambda: _begun(argv))
    if message and not _is_another_rank(argv):
        _say(message)
    return status


def _begun(argv: Sequence[str] | None) -> int:
    """Read the command line, and run its command, here or on several ranks; the exit status."""
    with _silent_interrupt():
        from .commands import table  # here, so that Ctrl-C meanwhile prints no traceback
    args = table.parser().parse_args(argv)
    from .commands import several

    if getattr(args, "parallel", None) is None:
        several.expect_alone(args)
        return _run(args)
    return several.on_ranks(args, lambda: _outcome(lambda: _run(args)))


def _outcome(work: Callable[[], int]) -> tuple[int, str]:
    """The exit status of work(), and what to say of it, "" for nothing."""
    try:
        return work(), ""
    except BrokenPipeError:  # whoever read our output has gone, as head does
        output.send_nowhere(sys.stdout)
        return 1, ""
    except (InputError, OSError, MemoryError, TypeError, ModuleNotFoundError) as error:
        message = _explanation(error)
        if message is None:
            raise
        if isinstance(error, OSError):  # stdout itself may be what cannot be written
            output.send_nowhere(sys.stdout)
        return 2, f"numgpt: {message}"
    except KeyboardInterrupt:
        return 130, "\nnumgpt: interrupted"


def _is_another_rank(argv: Sequence[str] | None) -> bool:
    """Whether another of several processes says what cannot be used before they know of each other."""
    words = sys.argv[1:] if argv is None else argv
    shares = ("train", "tune", "eval")
    if not (words and words[0] in shares):
        return False
    from .parallel.mpi_ranks import started_by_mpiexec

    return (started_by_mpiexec() or 0) > 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _silent_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, while nothing is begun yet.

    As an exception in the midst of an import it might come out as another one, or be ignored in a callback.
    """

    def leave(number: int, frame: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.write(2, b"\nnumgpt: interrupted\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(args: argparse.Namespace) -> int:
    """Choose the engine, and run the command."""
    from .commands.flags import by_flag
    from .commands.printing import one_line, say
    from .engine import set_threads, use

    if args.tf32 and args.engine != "cupy":
        raise InputError("--tf32 needs --engine cupy")
    if args.engine:
        use(args.engine, args.tf32)
    if args.threads:
        set_threads(args.threads)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"numgpt: {one_line(message)}")
        try:
            status: int = args.run(args)
        except InputError as error:
            raise InputError(by_flag(str(error), args)) from error
    sys.stdout.flush()
    return status


def _explanation(error: Exception) -> str | None:
    """What an error means to whoever typed the command; None for our own mistakes, which keep a traceback."""
    from .commands.printing import one_line
    from .engine import out_of_memory

    if isinstance(error, InputError):
        return one_line(error)
    if isinstance(error, ModuleNotFoundError) and error.name in NEEDED:
        return f"{error.name} is not installed, expected it {NEEDED[error.name]}: pip install {error.name}"
    if isinstance(error, OSError):
        return (
            f"{one_line(error)}: expected to read and write here; check the path, its permissions and the"
            " free space on the disk"
        )
    if isinstance(error, MemoryError):
        return (
            f"not enough memory ({one_line(out_of_memory(error))}): choose a smaller model, --batch-size or"
            " --block-size"
        )
    if "cupy" in sys.modules and any(part in str(error) for part in MIXED):
        return (
            "got an array on the GPU where one in the host's memory is needed: copy it with array.get(), or"
            " use model.to('reference')"
        )
    return None


def _prepare_output() -> None:
    """Make stdout and stderr take whatever is printed."""
    # They are None where the shell closed them: >&-
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    output.take_everything(sys.stdout)
    output.take_everything(sys.stderr, "replace")
    sys.stderr = output.lasting(sys.stderr)  # no work is lost because nobody reads of it


if __name__ == "__main__":
    sys.exit(main())
