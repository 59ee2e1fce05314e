"""What numgpt tune tells of a run: answers to held-out prompts, and what the loss alone does not say."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage.output import send_nowhere
from . import runs
from .printing import command_line, one_line, say

if TYPE_CHECKING:
    from ..model.gpt import GPT
    from ..training.log import Entry
    from ..training.progress import Progress
    from ..training.trainer import Trainer
    from ..tuning.recipes import Asked

WIDTH = 60  # characters of a prompt or an answer in a line
# Nats a token by which the better responses may become less likely before a warning: a model that prefers
# well moves them by a few hundredths, one whose samples break by a whole nat.
FALL = 0.2


class Reports:
    """What a run tells while it trains, and in the end."""

    def __init__(self, kind: str, prompts: list[Asked], args: argparse.Namespace) -> None:
        self.kind = kind
        self.prompts = prompts
        self.every = getattr(args, "sample_every", None)
        self.tokens: int = getattr(args, "sample_tokens", 0)
        self.progress: Progress | None = None

    def begin(self, trainer: Trainer) -> None:
        """Say what there is to say before the first step."""

    def beside(self, progress: Progress) -> Reports:
        """What tells a bar each entry of the log, and writes more above it."""
        self.progress = progress
        return self

    def update(self, trainer: Trainer, entry: Entry) -> None:
        """Show an entry of the log, and what is due at its step."""
        assert self.progress is not None, "beside() comes first"
        self.progress.update(trainer, entry)
        lines: list[str] = []
        if "held_out_loss" in entry and self.kind in ("dpo", "kto"):
            lines += measured(self.kind, trainer.model, trainer.objective)
        elif "loss" in entry and self.every and entry["step"] % self.every == 0:
            lines += answers(trainer.model, self.prompts, self.tokens)
        for line in lines:
            self.progress.write(f"             {line}")

    def at_the_end(self, trainer: Trainer, out: Path) -> int:
        """Say how the run ended, with the model that its folder gives; the exit status."""
        from ..model.gpt import GPT

        model = GPT.load(out)
        if self.tokens and self.prompts:
            held = "held-out" if hasattr(trainer.objective, "held_out") else "trained"
            say(f"\nanswers to {held} prompts, the most likely ones:")
            try:
                for line in answers(model, self.prompts, self.tokens):
                    print(line, flush=True)
            except BrokenPipeError:  # nobody reads them, and the run is saved
                send_nowhere(sys.stdout)
        say(f"\n{runs.held_out(trainer)}")
        for line in measured(self.kind, model, trainer.objective):
            say(line)
        if self.kind in ("sft", "dpo", "kto"):
            again = f"; talk to it with: {command_line('chat', out)}"
        else:
            again = f"; ask it with: {command_line('predict', out, '--data', 'FILE')}"
        best = f" (and {out / 'best'})" if trainer.best is not None else ""
        say(f"checkpoint: {out / 'last'}{best}{again}")
        return 0


def answers(model: GPT, prompts: list[Asked], max_new_tokens: int) -> Iterator[str]:
    """A line for each prompt: its end, and the model's most likely answer, beside the file's where they
    differ.
    """
    from ..data import template_from_state
    from ..model.replies import Reply

    assert model.template is not None, "it is tuned on conversations"
    template = template_from_state(model.template)
    for conversation, response in prompts:
        reply = Reply(model, template, conversation, max_new_tokens, temperature=0.0)
        text = "".join(reply) + (" …" if reply.is_cut else "")
        expected = "" if text.strip() == response.strip() else f"   (the file: {shortened(response)})"
        yield f"{shortened(conversation.messages[-1].text, from_end=True)} → {shortened(text)}{expected}"


def shortened(text: str, from_end: bool = False) -> str:
    """A text in a line of others: its beginning, or its end."""
    text = one_line(text)
    if len(text) <= WIDTH:
        return text
    return f"…{text[1 - WIDTH :]}" if from_end else f"{text[: WIDTH - 1]}…"


def measured(kind: str, model: GPT, objective: Any) -> list[str]:
    """What a run has reached on what it held out, beside its loss."""
    if not hasattr(objective, "held_out") or kind not in MEASURES:
        return []
    return MEASURES[kind](model, objective)


def _of_tasks(model: GPT, objective: Any) -> list[str]:
    from ..tuning import predictions

    texts, labels = objective.held_out_data
    found = predictions(model, texts, objective.training.batch_size)
    if objective.head.task == "numbers":
        error = float(np.sqrt(np.mean((found - labels) ** 2)))
        spread = float(np.sqrt(np.mean((objective.data[1].mean(0) - labels) ** 2)))
        return [f"held-out error {error:.4g} (root mean square; of the mean label {spread:.4g})"]
    right = float((found.argmax(-1) == labels).mean())
    likeliest = np.bincount(objective.data[1]).argmax()
    return [
        f"held-out accuracy {right:.4f} (of the commonest label {float((labels == likeliest).mean()):.4f})"
    ]


def _of_rewards(model: GPT, objective: Any) -> list[str]:
    from ..tuning import predictions

    pairs = objective.held_out_pairs
    found = predictions(model, [side for pair in pairs for side in pair], 2 * objective.training.batch_size)
    better = found.reshape(-1, 2)
    return [f"held-out accuracy {float((better[:, 0] > better[:, 1]).mean()):.4f}"]


def _of_preferences(model: GPT, objective: Any) -> list[str]:
    from ..tuning import margins

    told = margins(model, objective)
    chosen, before = told["chosen"], told["chosen_fixed"]
    lines = [
        f"held-out accuracy {told['accuracy']:.4f}, margin {told['margin']:.4g} nats; log-probability of the"
        f" better responses {chosen:.4g}, {before:.4g} at first"
    ]
    mends = "--chosen-nll 1 or a larger --beta mends it"
    return lines + _warning(told, "the better responses", mends)


def _warning(told: dict[str, float], which: str, mends: str) -> list[str]:
    """A line where what should have become likelier is much less likely than at first."""
    if not told["chosen"] < told["chosen_fixed"] - FALL * told["tokens"]:
        return []
    return [
        f"numgpt: {which} have become much less likely than at first, whatever the loss says: the model may"
        f" write neither. Look at its answers; {mends}"
    ]


def _of_verdicts(model: GPT, objective: Any) -> list[str]:
    from ..tuning import gains

    told = gains(model, objective)
    kinds = [f"{kind} responses {told[kind]:+.4g}" for kind in ("good", "bad") if np.isfinite(told[kind])]
    line = f"held-out gain in nats of {', of '.join(kinds)}"
    if np.isfinite(told["good"]):
        line += (
            f"; log-probability of the good ones {told['chosen']:.4g}, {told['chosen_fixed']:.4g} at first"
        )
    return [line, *_warning(told, "the good responses", "a larger --beta or --desirable-weight mends it")]


MEASURES = {"classify": _of_tasks, "reward": _of_rewards, "dpo": _of_preferences, "kto": _of_verdicts}
