"""Signals that ask a run to stop: the step is finished, and the run is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call stop at the first SIGINT or SIGTERM, and every SIGHUP: a terminal may send several.

    A second SIGINT or SIGTERM interrupts at once. A SIGHUP that is ignored, as under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    asked: list[int] = []
    hangup = getattr(signal, "SIGHUP", None)  # None on Windows

    def handle(number: int, frame: Any) -> None:
        if number != hangup:
            if asked:
                raise KeyboardInterrupt
            asked.append(number)
        stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
