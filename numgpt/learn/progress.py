"""How far a student has come: a small JSON file in the folder of exercises."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..storage.atomic import StrPath, write_json
from ..storage.files import read_json
from .exercises import NAMES

FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Of one exercise: how often it was checked, whether it was right, what was found last, what was seen."""

    checks: int = 0
    right: bool = False
    codes: tuple[str, ...] = ()
    hints: int = 0
    solution: bool = False

    @property
    def words(self) -> str:
        """In a word or two."""
        parts = ["right" if self.right else "begun"]
        parts += [f"{self.checks} check{'s' * (self.checks != 1)}"]
        parts += [f"hint {self.hints}"] if self.hints else []
        parts += ["solution seen"] if self.solution else []
        return ", ".join(parts)


def read(folder: StrPath) -> dict[str, Progress]:
    """The progress of a folder, by exercise; empty where there is none. InputError for a damaged file."""
    path = Path(folder) / FILE
    if not path.exists():
        return {}
    content = read_json(path)
    try:
        return {name: _one(one) for name, one in content.items() if name in NAMES}
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: is no file of progress, expected one: remove it to begin anew") from error


def _one(values: Any) -> Progress:
    names = {field.name for field in fields(Progress)}
    kept = {name: value for name, value in values.items() if name in names}
    kept["codes"] = tuple(map(str, kept.get("codes", ())))
    numbers = [kept.get("checks", 0), kept.get("hints", 0)]
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a count is no number")
    return Progress(**kept)


def update(folder: StrPath, exercise: str, **changes: Any) -> Progress:
    """Change what is known of an exercise, and write it."""
    everything = read(folder)
    everything[exercise] = replace(everything.get(exercise, Progress()), **changes)
    write_json(Path(folder) / FILE, {name: asdict(one) for name, one in everything.items()})
    return everything[exercise]


def checked(folder: StrPath, exercise: str, right: bool, codes: tuple[str, ...]) -> Progress:
    """Note a check: another mistake than the last begins its hints anew."""
    before = read(folder).get(exercise, Progress())
    hints = before.hints if codes[:1] == before.codes[:1] else 0
    right = right or before.right
    return update(folder, exercise, checks=before.checks + 1, right=right, codes=codes, hints=hints)
