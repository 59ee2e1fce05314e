"""What a person sees of a training run: a bar in a terminal, lines in a file."""

import sys

from tqdm import tqdm


class Progress:
    """A bar with step, loss, learning rate, tokens/s and time left; each held-out loss stays as a line above
    it.
    """

    def __init__(self, steps, done):
        self.bar = tqdm(
            total=steps, initial=done, unit="step", disable=None, dynamic_ncols=True, file=sys.stderr
        )

    def update(self, trainer, entry):
        """Show an entry of the log."""
        if "held_out_loss" in entry:
            best = "" if entry["held_out_loss"] > entry["best"] else "  (best so far)"
            tqdm.write(
                f"step {entry['step']:>6}  held-out loss {entry['held_out_loss']:.4f}{best}", file=sys.stderr
            )
        else:
            self.bar.update()
            self.bar.set_postfix_str(
                f"loss {entry['loss']:.4f}, lr {entry['lr']:.1e}, {entry['tokens_per_s']:,} tok/s",
                refresh=False,
            )

    def close(self):
        """Leave the bar as it is and go to the next line."""
        self.bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
