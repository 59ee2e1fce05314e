"""What a run's log says, and what its settings are: read without the model."""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config, Training
from ..architecture.fields import from_dict
from ..arguments import checked
from ..errors import InputError, did_you_mean
from ..interchange import checkpoint
from ..storage.files import open_file, parse_json, read_json
from ..training import log

StrPath = str | os.PathLike[str]
Columns = dict[str, NDArray[np.float64]]

# Of an entry after a step; the last one where responses are rewarded.
TRAINING = ("step", "loss", "norm", "lr", "tokens", "tokens_per_s", "clip_fraction")
# Of an entry after the first step of an iteration that samples and rewards responses.
REWARDS = (
    "step",
    "reward",
    "reward_std",
    "kl",
    "entropy",
    "length",
    "ended",
    "distinct",
    "no_signal",
    "explained_variance",
    "value_loss",
    "beta",
)
HELD_OUT = ("step", "held_out_loss")  # of an entry after a measurement
NUMBERS = re.compile(rb"(?<![\w\"])(?:NaN|-?Infinity)\b")  # which JSON has no word for
NO_SETTINGS = ("paths", "folder")  # of a recipe: where things lie; the data's name says what is read


class Run:
    """The numbers that a run logged, and its settings.

    A run that was killed and resumed may have logged a step twice: the later entry counts. Entries without a
    step are left out, numbers that are not finite are NaN.

    Parameters
    ----------
    name : str
        What pictures and tables call it.
    entries : iterable of mappings
        As in log.jsonl: ``step``, and ``loss``, ``norm``, ``lr``, ``tokens``, ``tokens_per_s`` of a step, or
        ``held_out_loss`` of a measurement.
    settings : mapping, optional
        Name → value. Pictures of several runs name those that differ.
    data : str, optional
        What tells the held-out text and its tokens from others. Losses are compared where it is the same.

    Attributes
    ----------
    training : dict of name -> array
        A number for each step, NaN where there is none.
    held_out : dict of name -> array
        ``step`` and ``held_out_loss`` of each measurement.
    rewards : dict of name -> array
        ``step``, ``reward``, ``kl`` and more of each iteration, where a run learns from rewards.
    left_out : int
        How many entries have no step.

    Examples
    --------
    >>> run = Run("mine", [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.5}, {"step": 2, "loss": 3.0}])
    >>> run.training["loss"].tolist()
    [4.0, 3.0]
    """

    @checked
    def __init__(
        self,
        name: str,
        entries: Iterable[Mapping[str, Any]],
        settings: Mapping[str, Any] | None = None,
        data: str = "",
    ) -> None:
        self.name = name
        self.settings = dict(settings or {})
        self.data = data
        self.left_out = 0
        training: dict[str, list[float]] = {column: [] for column in TRAINING}
        held_out: dict[str, list[float]] = {column: [] for column in HELD_OUT}
        rewards: dict[str, list[float]] = {column: [] for column in REWARDS}
        for entry in entries:
            step = _number(entry.get("step"))
            if math.isnan(step):
                self.left_out += 1
            elif "held_out_loss" in entry:
                _add(held_out, step, entry)
            else:
                _add(training, step, entry)
                _forget(rewards, step)
                if "reward" in entry:
                    _add(rewards, step, entry)
        self.training: Columns = {column: np.array(values) for column, values in training.items()}
        self.held_out: Columns = {column: np.array(values) for column, values in held_out.items()}
        self.rewards: Columns = {column: np.array(values) for column, values in rewards.items()}

    @property
    def has_rewards(self) -> bool:
        """Whether it learns from rewards."""
        return bool(np.isfinite(self.rewards["reward"]).any())

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, loss) of the least held-out loss; None where none was measured."""
        losses = self.held_out["held_out_loss"]
        if not np.isfinite(losses).any():
            return None
        n = int(np.nanargmin(losses))
        return int(self.held_out["step"][n]), float(losses[n])

    @property
    def steps(self) -> int:
        """The last step that is logged."""
        return int(max([0, *self.training["step"][-1:], *self.held_out["step"][-1:]]))

    def __repr__(self) -> str:
        best = "" if self.best is None else f", best held-out loss {self.best[1]:.4f}"
        return f"<Run {self.name}: {self.steps:,} steps{best}>"


def _number(value: Any) -> float:
    """A finite number as such, NaN for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    with contextlib.suppress(OverflowError):
        if is_number and math.isfinite(value):
            return float(value)
    return math.nan


def _add(columns: dict[str, list[float]], step: float, entry: Mapping[str, Any]) -> None:
    """Add an entry to columns."""
    _forget(columns, step)
    for column, values in columns.items():
        values.append(_number(entry.get(column)))


def _forget(columns: dict[str, list[float]], step: float) -> None:
    """Leave out entries of a step and of later ones, which were of a run that was killed."""
    steps = columns["step"]
    while steps and steps[-1] >= step:
        for values in columns.values():
            values.pop()


# From files.


@checked
def read(path: StrPath) -> Run:
    """The Run in a folder; one that still goes on is read as far as it is.

    Parameters
    ----------
    path : path
        A run's folder, a checkpoint in it, or a log.jsonl.

    Raises
    ------
    InputError
        Where there is no log, or it has no entry. A warning says what of it cannot be read, and where the
        settings of the run are not known.
    """
    place = _log(Path(path))
    with open_file(place) as file:
        lines = list(iter(lambda: file.readline(log.LONGEST), b""))
    entries, bad = _entries(lines, place)
    settings, data = _settings(place.parent)
    run = Run(str(path), entries, settings, data)
    if not run.training["step"].size and not run.held_out["step"].size:
        raise InputError(f"{place}: has no entries yet, expected those of a run: wait for its first steps")
    bad += run.left_out
    if bad:
        noun = "line of it is" if bad == 1 else "lines of it are"
        warnings.warn(f"{place}: {bad} {noun} not of a log and left out", stacklevel=3)
    return run


def _log(path: Path) -> Path:
    """The log at a path."""
    if path.is_file():
        return path
    for folder in (path, path.parent):
        is_inside = folder == path or path.name in checkpoint.PLACES
        if is_inside and (folder / log.NAME).exists():
            return folder / log.NAME
    if not path.exists():
        raise InputError(
            f"{path}: does not exist, expected the folder of a run, which numgpt train makes"
            f"{did_you_mean(str(path), _runs_near(path))}"
        )
    raise InputError(
        f"{path}: holds no {log.NAME}, expected the folder of a run, which numgpt train makes"
        f"{did_you_mean(str(path), _runs_near(path))}"
    )


def _runs_near(path: Path) -> list[str]:
    """The folders of runs that somebody who named a path may mean."""
    places = {path.parent, Path("runs"), Path()}
    with contextlib.suppress(OSError):
        return sorted({str(p.parent) for place in places for p in place.glob(f"*/{log.NAME}")})
    return []


def _entries(lines: Sequence[bytes], place: Path) -> tuple[list[Mapping[str, Any]], int]:
    """The entries of a log, and how many lines are none. The last line of a run may be half there."""
    entries: list[Mapping[str, Any]] = []
    bad = 0
    for line in lines:
        try:
            entry = parse_json(NUMBERS.sub(b"null", line), place)
        except InputError:
            bad += line.endswith(b"\n")
            continue
        if isinstance(entry, dict):
            entries.append(entry)
        else:
            bad += 1
    return entries, bad


def _settings(folder: Path) -> tuple[dict[str, Any], str]:
    """(name → value, what tells the data from others) of a run; a warning where none is known."""
    last = folder / checkpoint.PLACES[-1]
    if not checkpoint.is_run(last):
        return {}, ""
    try:
        place = checkpoint.find(last)
        stored = read_json(place / checkpoint.CONFIG)
        state = checkpoint.read_state(last)
        config = from_dict(Config, stored["config"])
        training = from_dict(Training, state["training"])
    except (InputError, OSError, KeyError, TypeError) as error:
        warnings.warn(f"{folder}: its settings are not known ({error})", stacklevel=4)
        return {}, ""
    recipe = {name: value for name, value in state["recipe"].items() if name not in NO_SETTINGS}
    settings = vars(config) | {"dtype": stored.get("dtype")} | {"data": state["source"]} | recipe
    settings |= {name: state[name] for name in ("objective", "optimizer") if name in state}
    return settings | vars(training), f"{state['digest']} {recipe.get('tokenizer')}"


# Several runs.


def opened(who: str, runs: Any) -> list[Run]:
    """The runs that were given: one or several, each as a Run or a path, or a mapping of names to them."""
    several = [runs] if isinstance(runs, str | os.PathLike | Run) else runs
    if isinstance(runs, Mapping):
        found = [_named(str(name), _one(who, run)) for name, run in runs.items()]
    elif isinstance(several, Iterable) and not isinstance(several, bytes | np.ndarray):
        found = [_one(who, run) for run in several]
    else:
        raise _no_runs(who, runs)
    if not found:
        raise InputError(f"{who}: runs is empty, expected at least one")
    return found


def _one(who: str, run: Any) -> Run:
    """A Run, or that of a path."""
    if isinstance(run, Run):
        return run
    if not isinstance(run, str | os.PathLike):
        raise _no_runs(who, run)
    return read(run)


def _no_runs(who: str, given: Any) -> InputError:
    return InputError(
        f"{who}: runs is of type {type(given).__name__}, expected a Run or a run's folder, several of them,"
        " or a mapping of names to them"
    )


def _named(name: str, run: Run) -> Run:
    """A run under a name of the caller's."""
    new = Run(name, (), run.settings, run.data)
    new.training, new.held_out, new.rewards = run.training, run.held_out, run.rewards
    new.left_out = run.left_out
    return new


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Name → a value for each run, of the settings that differ; None where a run has no such setting.

    The seed comes last: it is asked for where nothing else differs.
    """
    known = [run.settings for run in runs if run.settings]
    names = dict.fromkeys(name for settings in known for name in settings)
    unequal = [name for name in names if len({repr(settings.get(name)) for settings in known}) > 1]
    unequal.sort(key=lambda name: name == "seed")
    return {name: [run.settings.get(name) for run in runs] for name in unequal}


def value_text(value: Any) -> str:
    """A setting as labels and tables show it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}…"


def labels(runs: Sequence[Run], most: int = 3) -> list[str]:
    """A label for each run: its name, and up to so many of the settings that differ."""
    different = differing(runs)
    shown = list(different)[:most]
    more = ", …" if len(different) > most else ""
    texts = [
        ", ".join(f"{name} {value_text(different[name][n])}" for name in shown) for n in range(len(runs))
    ]
    names = _short([run.name for run in runs])
    return [f"{name}: {text}{more}" if text else name for name, text in zip(names, texts)]


def _short(names: list[str], most: int = 24) -> list[str]:
    """The ends of names that tell them apart, where a name is longer than that."""
    if max(map(len, names)) <= most:
        return names
    parts = [name.replace("\\", "/").split("/") for name in names]
    for depth in range(1, max(map(len, parts))):
        ends = ["/".join(part[-depth:]) for part in parts]
        if len(set(ends)) == len(set(names)):
            return ends
    return names


def expect_one_text(runs: Sequence[Run]) -> None:
    """A warning where losses are of different texts or tokens, which cannot be compared."""
    known = {run.data: run for run in runs if run.data}
    if len(known) > 1:
        names = " and ".join(run.name for run in list(known.values())[:2])
        warnings.warn(
            f"{names} have other texts or tokens: their losses per token do not compare", stacklevel=4
        )
