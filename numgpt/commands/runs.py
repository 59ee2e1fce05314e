"""Folders of runs: runs/1, runs/2, …, the newest of them, and the text that a run was trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..data.corpus import Corpus
    from ..model.gpt import GPT

RUNS = Path("runs")


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

    if recipe.get("paths", ()) is None:  # of runs on the default text, when that was Python's
        recipe = recipe | {"paths": ["numgpt:python"]}
    try:
        return prepare(**recipe | {"tokenizer": model.tokenizer})
    except TypeError as error:
        raise InputError(
            f"the run's recipe {recipe} cannot be followed ({error}), expected state.json as numgpt wrote it"
        ) from error
