"""What a person sees of a training run: a bar in a terminal, lines in a file."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from ..storage.output import lasting
from .log import Entry
from .trainer import Trainer

EVERY = 30.0  # seconds between two lines where there is no bar
WIDTH = 80  # columns of a terminal that does not say how many it has


class Progress:
    """A bar with loss or reward, learning rate, tokens/s and time left; held-out losses stay above it.

    Where stderr is no terminal, a line every 30 seconds says the same; where nobody reads it any more, the
    run goes on in silence.

    steps: of the whole run. done: those before it went on.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        from tqdm import tqdm  # late: who looks at no bar needs none

        self.messages = lasting(sys.stderr)
        # disable=None: no bar where stderr is no terminal.
        width: dict[str, Any] = {"dynamic_ncols": True} if _has_width() else {"ncols": WIDTH, "nrows": 2}
        self.bar = tqdm(total=steps, initial=done, unit="step", disable=None, file=self.messages, **width)
        self.steps, self.done = steps, done
        self.begun = self.told = time.monotonic()
        self.rewards = ""  # of the last iteration, in runs that sample

    def update(self, trainer: Trainer, entry: Entry) -> None:
        """Show an entry of the log."""
        if "held_out_loss" in entry:
            best = "" if entry["held_out_loss"] > entry["best"] else "  (best so far)"
            self.write(f"step {entry['step']:>6}  held-out loss {entry['held_out_loss']:.4f}{best}")
            if "overfitting_since" in entry:
                kept = "" if trainer.out is None else f"; best is kept in {trainer.out / 'best'}"
                self.write(f"overfitting since step {entry['overfitting_since']}{kept}")
            return
        self.bar.update()
        numbers = f"lr {entry['lr']:.1e}, {entry['tokens_per_s']:,} tok/s"
        self.bar.set_postfix_str(f"{self._worth(entry)}, {numbers}", refresh=False)
        if self.bar.disable:
            self._tell(entry)

    def _worth(self, entry: Entry) -> str:
        """The loss, or where responses are rewarded, their reward: the loss of such a run means nothing."""
        if "reward" in entry:
            self.rewards = f"reward {entry['reward']:.4f}, KL {entry['kl']:.4f}"
        return self.rewards or f"loss {entry['loss']:.4f}"

    def write(self, line: str) -> None:
        """Print a line above the bar, where it stays."""
        self.bar.write(line, file=self.messages)

    def _tell(self, entry: Entry) -> None:
        """Print a line, unless the last one is not 30 seconds old."""
        now = time.monotonic()
        if now - self.told < EVERY:
            return
        self.told = now
        step, elapsed = entry["step"], now - self.begun
        left = elapsed / max(1, step - self.done) * (self.steps - step)
        print(
            f"step {step:>6} of {self.steps}  {self._worth(entry)}, {entry['tokens_per_s']:,} tok/s,"
            f" {self.bar.format_interval(elapsed)} elapsed, {self.bar.format_interval(left)} left",
            file=self.messages,
            flush=True,
        )

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def _has_width() -> bool:
    """Whether the terminal says how wide it is; some that programs open say 0."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        return True  # no terminal
