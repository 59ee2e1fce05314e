"""numgpt runs: the runs that there are, and what came of each; two or more beside each other."""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from . import flags, runs
from .printing import say

if TYPE_CHECKING:
    from ..plots.runs import Run

HELP = "List runs with their losses, or compare some: the settings that differ, and what came of them."
EXAMPLE = "numgpt runs runs/1 runs/2"
AGES = ((86400, "day"), (3600, "hour"), (60, "minute"))  # seconds → what they are called


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt runs."""
    flags.add(
        parser,
        "runs",
        nargs="*",
        metavar="RUN",
        help="folders of runs to compare, which may still go on, or a folder that holds runs, to list them",
        shown="all under runs/",
    )
    flags.add(
        parser,
        "--sort",
        choices=("name", "best", "time"),
        help="by number, by the best held-out loss, or the newest last",
        default="name",
    )


def run(args: argparse.Namespace) -> int:
    """Print a table."""
    from ..plots import table

    folders = [Path(place) for place in args.runs] or [runs.RUNS]
    if len(folders) > 1:
        found = _sorted([_read(folder) for folder in folders], args.sort)
        print(table([run for _, run in found]))
        _say_what_compares([run for _, run in found])
        return 0
    listed = _inside(folders[0])
    print(_listing(_sorted(listed, args.sort)))
    return 0


def _read(folder: Path) -> tuple[Path, Run]:
    from ..plots import read

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # half a line of a run that still goes on
        return folder, read(folder)


def _inside(folder: Path) -> list[tuple[Path, Run]]:
    """The runs in a folder, or the one that it is; InputError where there is none."""
    from ..training import log

    if (folder / log.NAME).is_file():
        return [_read(folder)]
    found = []
    for place in sorted(folder.glob(f"*/{log.NAME}"), key=lambda path: _numbered(path.parent)):
        try:
            found.append(_read(place.parent))
        except InputError as error:
            say(f"left out: {error}")
    if not found:
        if folder.exists():
            raise InputError(
                f"runs: {folder} holds no run with a log, expected one: make it with numgpt train --out"
                f" {folder / '1'}"
            )
        raise InputError(
            f"runs: {folder} does not exist, expected a folder with runs: make one with numgpt train, or name"
            " another"
        )
    return found


def _numbered(folder: Path) -> tuple[bool, int, str]:
    """Numbers by their size, before names."""
    is_number = folder.name.isascii() and folder.name.isdigit()
    return not is_number, int(folder.name) if is_number else 0, folder.name


def _sorted(found: Sequence[tuple[Path, Run]], by: str) -> list[tuple[Path, Run]]:
    if by == "best":
        return sorted(found, key=lambda pair: pair[1].best[1] if pair[1].best else float("inf"))
    return sorted(found, key=lambda pair: _written(pair[0])) if by == "time" else list(found)


def _listing(found: Sequence[tuple[Path, Run]]) -> str:
    """A row for each run: what it learns, how large it is, how far it is, and what came of it."""
    from ..plots.table import Table, table

    head = (
        "run",
        "learns",
        "parameters",
        "steps",
        "of",
        "best held-out",
        "at step",
        "last training",
        "written",
    )
    rows = []
    for folder, run in found:
        (results,) = table([run]).rows
        *_, best, at, last, _ = results
        if run.has_rewards:
            best, at, last = "–", "–", "–"
        steps = run.settings.get("steps")
        of = f"{steps:,}" if isinstance(steps, int) else "–"
        size = _parameters(run)
        rows.append((str(folder), _learns(run), size, f"{run.steps:,}", of, best, at, last, _age(folder)))
    return repr(Table(head, tuple(rows)))


def _learns(run: Run) -> str:
    """What a run trains on, or what it is tuned for."""
    from ..plots.runs import value_text

    tuned = run.settings.get("tune")
    return f"tune {tuned}" if tuned else value_text(run.settings.get("data"))


def _parameters(run: Run) -> str:
    """The number of a run's parameters, where its settings are known."""
    from ..architecture.config import Config
    from ..architecture.parameters import shapes

    names = [field.name for field in dataclasses.fields(Config)]
    if not all(name in run.settings for name in names):
        return "–"
    config = Config(**{name: run.settings[name] for name in names})
    total = 0
    for shape in shapes(config).values():
        size = 1
        for n in shape:
            size *= n
        total += size
    return f"{total:,}"


def _written(folder: Path) -> float:
    """When a run's log was written last, in seconds."""
    from ..training import log

    place = folder / log.NAME if folder.is_dir() else folder
    return place.stat().st_mtime if place.exists() else 0.0


def _age(folder: Path) -> str:
    """How long ago that is."""
    seconds = max(0.0, time.time() - _written(folder))
    for size, noun in AGES:
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {noun}{'' if n == 1 else 's'} ago"
    return "just now"


def _say_what_compares(found: Sequence[Run]) -> None:
    """Where losses are of different texts or tokens, which cannot be compared."""
    known = {run.data: run.name for run in found if run.data}
    if len(known) > 1:
        first, second, *_ = known.values()
        say(f"{first} and {second} have other texts or tokens: their losses per token do not compare")
