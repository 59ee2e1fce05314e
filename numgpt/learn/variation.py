"""An exercise by its name, in the variant of a student: other words, other constants, the same lesson."""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from types import ModuleType
from typing import Any

from ..errors import InputError, did_you_mean
from ..proofs.mutants import load
from .exercise import Exercise
from .exercises import NAMES


def module_of(name: str) -> ModuleType:
    """The module of an exercise; InputError for a name that none has."""
    if name not in NAMES:
        meant = did_you_mean(name, NAMES)
        raise InputError(f"learn: there is no exercise {name}{meant}, expected one of {', '.join(NAMES)}")
    return importlib.import_module(f"{__package__}.exercises.{name}")


def title(name: str) -> str:
    """The title of an exercise: the first sentence of its module."""
    return (module_of(name).__doc__ or "").partition("\n")[0].rstrip(".")


@functools.lru_cache(maxsize=64)
def exercise(name: str, student: str = "") -> Exercise:
    """An exercise; with a student's name, the variant that this student always gets."""
    module: Any = module_of(name)
    source = module.__loader__.get_source(module.__name__)
    if not student:
        return module.EXERCISE.with_source(source, "", {})
    if not student.isprintable():  # it stands in a line of the student's file
        raise InputError(f"learn: the student is {student!r}, expected a name of printable characters")
    words, constants = choices(module.EXERCISE, student)
    text = substituted(source, words, constants)
    changed: Any = load(module.__name__, text)
    back = {new: old for old, new in words.items()}
    return changed.EXERCISE.with_source(text, student, back)


def choices(exercise: Exercise, student: str) -> tuple[dict[str, str], dict[str, str]]:
    """(other words, other constants) of a student's variant."""
    names = {old: _chosen(student, f"{exercise.name} {old}", new) for old, new in exercise.names.items()}
    words = names | {f"d{old}": f"d{new}" for old, new in names.items()}
    constants = {
        name: _chosen(student, f"{exercise.name} {name}", values)
        for name, values in exercise.constants.items()
    }
    return words, constants


def _chosen(student: str, what: str, values: tuple[str, ...]) -> str:
    """One of the values, always the same for a student: hash() would differ from process to process."""
    digest = hashlib.sha256(f"{student.strip().casefold()}\n{what}".encode()).digest()
    return values[int.from_bytes(digest[:8], "big") % len(values)]


def substituted(source: str, words: dict[str, str], constants: dict[str, str]) -> str:
    """The text of a module with other words, and other values behind NAME = at the beginning of a line."""
    for name, value in constants.items():
        source, count = re.subn(rf"^{name} = [^#\n]*?(?=(  #.*)?$)", f"{name} = {value}", source, flags=re.M)
        assert count == 1, f"{name} is assigned {count} times, expected once"
    if not words:
        return source
    pattern = rf"(?:\b|(?<=\\n))({'|'.join(map(re.escape, words))})\b"  # \n may stand before a word
    return re.sub(pattern, lambda match: words[match[0]], source)
