"""How ranks end: all together, with one status and one message, or all at once where one cannot go on."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from . import mpi_ranks
from .mpi_ranks import NAP, MpiRanks
from .ranks import Ranks

LINE = 4000  # bytes of a message that the others compare


def supervised(ranks: Ranks, work: Callable[[], tuple[int, str]]) -> int:
    """The status of work(), which gives it with a message for people, "" where there is none.

    On several ranks all return the same: that of the first rank whose work failed, which alone prints its
    message. Where one fails and the others do not come to their end, as when they wait for it in a call, it
    says which rank it was and ends them. An exception is no message: it comes with its traceback.
    """
    try:
        status, message = work()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        message = "" if stop.code is None or isinstance(stop.code, int) else str(stop.code)
    except BaseException as error:
        _report(ranks, error)
        if not isinstance(ranks, MpiRanks):
            return 1
        mpi_ranks.abort(1)
    sys.stdout.flush()
    if not isinstance(ranks, MpiRanks):
        _print(message)
        return status
    return _ended_together(ranks, status, message)


def _report(ranks: Ranks, error: BaseException) -> None:
    """Print what ended a rank that was not to end, with its number."""
    text = "".join(traceback.format_exception(error))
    _print(f"numgpt: rank {ranks.rank} of {ranks.size} failed:\n{text}")


def _print(message: str) -> None:
    if message and sys.__stderr__ is not None:
        print(message, file=sys.__stderr__, flush=True)


def _ended_together(ranks: MpiRanks, status: int, message: str) -> int:
    """The status of all ranks; only where all of them are here, or will be in time."""
    board = ranks.board
    board.begin("its end")
    if status == 0:  # else this rank itself says why it has ended
        board.end()
    own = np.zeros(LINE + 1, np.uint8)
    text = message.encode("utf-8", "replace")[:LINE]
    own[0], own[1 : len(text) + 1] = status & 255, np.frombuffer(text, np.uint8)
    everybody = np.empty((board.size, LINE + 1), np.uint8)
    request = board.comm.Iallgather(own, everybody)
    if not _done(request, board.patience if status == 0 else board.grace):
        if status == 0:
            late = ", ".join(map(board.at, board.missing(range(board.size))))
            message = f"numgpt: its end has waited {board.patience:g} s for {late or 'a rank elsewhere'}"
        message = message or f"numgpt: has ended with status {status}"
        _print(f"{message} (rank {ranks.rank} of {ranks.size}; the others are ended with it)")
        mpi_ranks.abort(status or mpi_ranks.LATE)
    failed = np.flatnonzero(everybody[:, 0])
    if not failed.size:
        return 0
    first = int(failed[0])
    if first == board.rank and message:
        is_shared = bool((everybody == own).all())
        _print(message if is_shared else f"{message} (rank {first} of {board.size})")
    return int(everybody[first, 0])


def _done(request: Any, seconds: float) -> bool:
    """Whether a request is done within so many seconds."""
    end = time.monotonic() + seconds
    while not request.Test():
        if time.monotonic() > end:
            return False
        time.sleep(NAP)
    return True
