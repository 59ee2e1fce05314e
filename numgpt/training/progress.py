"""What a person sees of a training run: a bar in a terminal, lines in a file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from .trainer import Entry, Trainer


class Progress:
    """A bar with loss, learning rate, tokens/s and time left; each held-out loss stays as a line above it.

    steps: of the whole run. done: those before it went on.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        # disable=None: no bar where stderr is no terminal.
        self.bar = tqdm(
            total=steps, initial=done, unit="step", disable=None, dynamic_ncols=True, file=sys.stderr
        )

    def update(self, trainer: Trainer, entry: Entry) -> None:
        """Show an entry of the log."""
        if "held_out_loss" in entry:
            best = "" if entry["held_out_loss"] > entry["best"] else "  (best so far)"
            line = f"step {entry['step']:>6}  held-out loss {entry['held_out_loss']:.4f}{best}"
            tqdm.write(line, file=sys.stderr)
            return
        self.bar.update()
        numbers = f"loss {entry['loss']:.4f}, lr {entry['lr']:.1e}, {entry['tokens_per_s']:,} tok/s"
        self.bar.set_postfix_str(numbers, refresh=False)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
