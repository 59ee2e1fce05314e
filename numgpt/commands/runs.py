"""Runs: their folders, runs/1, runs/2, …, the text that one was trained on, and its course to the end."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from . import several
from .printing import command_line, say

if TYPE_CHECKING:
    from ..data.corpus import Corpus
    from ..model.gpt import GPT
    from ..training.progress import Progress
    from ..training.trainer import Listener, Trainer

RUNS = Path("runs")
OF_NO_TEXT = ("teacher", "init_from")  # in the recipe of a run, and no argument of prepare()
# In a run's folder before its first checkpoint: what one leaves that was killed.
MAY_BE_THERE = ("best", "log.jsonl", "tokens", "start")


def numbered() -> list[Path]:
    """The numbered runs under runs/, by number."""
    folders = [p for p in RUNS.glob("*") if p.name.isascii() and p.name.isdigit() and p.is_dir()]
    return sorted(folders, key=lambda p: int(p.name))


def new() -> Path:
    """The folder for the next run."""
    return RUNS / str(max((int(p.name) for p in numbered()), default=0) + 1)


def newest() -> Path | None:
    """The newest run that has a checkpoint."""
    from ..interchange.checkpoint import is_checkpoint

    return next((p for p in reversed(numbered()) if is_checkpoint(p / "last")), None)


def checkpoint(args: argparse.Namespace) -> str | Path:
    """The checkpoint that a command was given, or the newest run."""
    place = args.checkpoint or newest()
    if place is None:
        raise InputError(
            f"{args.command}: there is no run under runs/, expected a checkpoint: make one with numgpt train,"
            " or name its folder"
        )
    return place


def corpus(recipe: dict[str, Any], model: GPT) -> Corpus:
    """A run's corpus, made again by the recipe in its state."""
    from ..data.corpus import prepare

    if "tune" in recipe:
        raise InputError("the run was tuned on examples, expected a text: name one by --data")
    recipe = {name: value for name, value in recipe.items() if name not in OF_NO_TEXT}
    if recipe.get("paths", ()) is None:  # of runs on the default text, when that was Python's
        recipe = recipe | {"paths": ["numgpt:python"]}
    try:
        return prepare(**recipe | {"tokenizer": model.tokenizer})
    except TypeError as error:
        raise InputError(
            f"the run's recipe {recipe} cannot be followed ({error}), expected state.json as numgpt wrote it"
        ) from error


@contextlib.contextmanager
def hold_folder(args: argparse.Namespace) -> Iterator[Path]:
    """The run's folder, which from here on belongs to this process, or to the first of several."""
    with contextlib.ExitStack() as stack:
        yield Path(several.by_first(args, lambda: str(_held_folder(args, stack))))


def _held_folder(args: argparse.Namespace, stack: contextlib.ExitStack) -> Path:
    """The run's folder, held until the stack is left."""
    from ..storage import locks

    while True:
        numbered = newest() if args.resume else new()
        out = Path(args.out) if args.out else numbered
        if out is None:
            raise InputError(
                f"{args.command}: there is no run to resume under runs/, expected one: name it by --out"
            )
        try:
            stack.enter_context(locks.held(out))
            return out
        except locks.InUse:
            if args.out or args.resume:
                raise  # else another process has taken this number at the same moment: take the next


def is_begun(out: Path, args: argparse.Namespace) -> bool:
    """Whether there is a run in a folder that goes on; InputError if what is there cannot be used."""
    from ..interchange.checkpoint import PLACES, is_checkpoint
    from ..storage import folders

    if args.resume:
        folders.settle(out / "last")
    begun = is_checkpoint(out / "last")
    if begun and not args.resume:
        raise InputError(
            f"{out}: holds another run, expected a new folder: continue that run with --resume, or choose"
            " another --out"
        )
    if args.resume and not begun and not args.data:  # with --data it is said what to begin on
        is_part = out.name in PLACES and is_checkpoint(out)
        advice = f"give its run's folder, {out.parent}" if is_part else "check the name"
        raise InputError(
            f"{out}: holds no run to resume, expected a run's folder with a checkpoint in it: {advice}, or"
            " leave out --resume to begin a run"
        )
    if not begun and not all(_may_be_there(path) for path in out.iterdir()):
        raise InputError(f"{out}: is not empty and holds no run, expected a new folder: choose another --out")
    return begun


def _may_be_there(path: Path) -> bool:
    return path.name in MAY_BE_THERE or path.name.startswith(".")


def goes_on(out: Path) -> bool:
    """Whether a folder holds a run's last checkpoint."""
    from ..interchange.checkpoint import is_checkpoint

    return is_checkpoint(out / "last")


def resuming(out: Path, recipe: Mapping[str, Any]) -> str:
    """The command by which the run in a folder goes on."""
    tune = recipe.get("tune")
    words = ["train"] if tune is None else ["tune", tune]
    return command_line(*words, "--resume", "--out", out)


def trained(
    trainer: Trainer,
    out: Path,
    time_limit: float | None,
    listener: Callable[[Progress], Listener] | None = None,
) -> bool:
    """Train to the end, or until it is stopped; False where the loss is no longer finite, which is said.

    listener: what makes of the bar that which is told each entry of the log; the bar itself without it.
    """
    from ..training.progress import Progress
    from ..training.trainer import NotFinite

    with Progress(trainer.training.steps, trainer.updates) as progress:
        try:
            trainer.run(listener(progress) if listener else progress, time_limit)
        except NotFinite as error:
            progress.close()
            say(f"numgpt: {error}; the run's last checkpoint is {out / 'last'}")
            return False
    return True


def say_stopped(trainer: Trainer, command: str) -> int | None:
    """Say by which command a run goes on that was stopped; its exit status, None where it has ended."""
    steps = trainer.training.steps
    if trainer.updates >= steps or not (trainer.stopped or trainer.out_of_time):
        return None
    if not trainer.stopped:
        say(f"the time is over: {held_out(trainer)}")
    say(f"stopped at step {trainer.updates} of {steps}, saved; go on with: {command}")
    return 130 if trainer.stopped else 0


def held_out(trainer: Trainer) -> str:
    """The held-out loss, as far as it was measured; of a run that samples, what its responses are worth."""
    measures = getattr(trainer.objective, "measures", None)
    if measures is not None:
        return f"reward {measures['reward']:.4f} at a KL of {measures['kl']:.4f} nats a response"
    if hasattr(trainer.objective, "answers"):
        return "what its responses are worth stands in its log"
    if trainer.held_out is None or trainer.best is None:
        return "held-out loss not measured"
    return f"held-out loss {trainer.held_out:.4f} at the end, {trainer.best:.4f} at best"


def numbers(trainer: Trainer) -> str:
    """What numbers a run computes with: float32, with products in bf16 (emulated)."""
    dtype, t = trainer.model.params.dtype, trainer.training
    if t.precision == "float32":
        return str(dtype)
    how = " (emulated)" if trainer.mixed.is_emulated else ""
    masters = "" if t.masters else ", weights without masters"
    return f"{dtype}, with products in {t.precision}{how}{masters}"
