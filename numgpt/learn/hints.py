"""Hints in three levels, made for the mistake that the last check found: a question, the term, the line."""

from __future__ import annotations

from collections.abc import Sequence

from .exercise import Exercise

LEVELS = ("question", "term", "line")


def ladder(exercise: Exercise, codes: Sequence[str]) -> tuple[str, str, str]:
    """The three hints for the first of the codes that has any, else those for the exercise."""
    for code in codes:
        own = code.removeprefix(f"{exercise.prefix}_")
        fitting = [part for part in exercise.hints if part and part in f"_{own}"]
        if fitting:
            return exercise.hints[max(fitting, key=len)]
    return exercise.hints[""]


def hint(exercise: Exercise, codes: Sequence[str], level: int) -> str:
    """The hint of a level, from 1, with its number."""
    text = ladder(exercise, codes)[level - 1]
    return f"level {level} of {len(LEVELS)}, a {LEVELS[level - 1]}: {text}"
