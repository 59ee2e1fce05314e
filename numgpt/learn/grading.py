"""Grades of a folder of exercises: several scores for each, and the formats that graders read."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import InputError
from ..storage import atomic
from ..storage.atomic import StrPath
from . import running
from .exercise import Exercise
from .exercises import NAMES
from .variation import exercise

RUNS, QUESTIONS = "runs", "further questions"


@dataclass(frozen=True)
class Score:
    """One score of an exercise: of what, how much of how much, why, and the codes of what was found."""

    name: str
    score: float
    max_score: float
    output: str = ""
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graded:
    """One file: which exercise, whose, its scores, and what kept it from being judged ("" for nothing)."""

    file: str
    exercise: str
    student: str
    scores: tuple[Score, ...]
    error: str = ""

    @property
    def score(self) -> float:
        """The sum of the scores."""
        return sum(score.score for score in self.scores)

    @property
    def max_score(self) -> float:
        """The most that can be had."""
        return sum(score.max_score for score in self.scores)


def files_in(folder: StrPath) -> list[Path]:
    """The Python files of a folder and of those below it, in order; InputError where there are none."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: is no folder, expected one with started exercises")
    files = sorted(p for p in Path(folder).rglob("*.py") if not any(q.startswith(".") for q in p.parts))
    if not files:
        raise InputError(f"{folder}: has no Python files, expected started exercises: see numgpt learn start")
    return files


def grade(folder: StrPath, expected: Sequence[str] = (), limit: float = running.LIMIT) -> Iterator[Graded]:
    """Grade every started exercise of a folder, one after the other; none stops the rest.

    expected: exercises of which a file must be there; one that is not has no points.
    """
    seen = set()
    for path in files_in(folder):
        text = str(path.relative_to(folder))
        try:
            name = running.started(path).exercise
        except InputError as error:
            name = path.stem
            if name not in NAMES:
                continue  # a file of the student's own
            seen.add(name)
            yield _refused(text, name, str(error))
            continue
        seen.add(name)
        yield _graded(path, text, limit)
    for name in expected:
        if name not in seen:
            yield _refused(f"{name}.py", name, f"{name}.py: is not there, expected it in {folder}")


def _graded(path: Path, text: str, limit: float) -> Graded:
    """The scores of one file."""
    started = running.started(path)
    try:
        checked = running.checked(path, limit)
    except InputError as error:
        return _refused(text, started.exercise, str(error), started.student)
    wanted = exercise(started.exercise, started.student)
    return Graded(text, started.exercise, started.student, tuple(_scores(wanted, checked)))


def _refused(text: str, name: str, error: str, student: str = "") -> Graded:
    """A file that cannot be judged: no points, and the reason at the first of its scores."""
    names = _names(exercise(name))
    scores = [Score(part, 0.0, 1.0, error if part == RUNS else "not judged") for part in names]
    return Graded(text, name, student, tuple(scores), error)


def _names(wanted: Exercise) -> list[str]:
    """What an exercise has scores for."""
    return [RUNS, *wanted.gradients, *([QUESTIONS] if wanted.probes else [])]


def _scores(wanted: Exercise, checked: running.Checked) -> Iterator[Score]:
    """A point for each gradient, one for a function that runs, one for the exercise's own questions."""
    report = checked.report
    gradients = {g["name"]: g for g in report["gradients"]}
    codes = tuple(f["code"] for f in report["findings"])
    says = " ".join(f["says"] for f in report["findings"])
    yield Score(RUNS, float(bool(gradients)), 1.0, "" if gradients else checked.text, codes)
    for name in wanted.gradients:
        judged = gradients.get(name, {"word": "not judged", "findings": []})
        is_right = judged["word"] == "ok"
        found = tuple(f["code"] for f in judged["findings"])
        why = " ".join(f["says"] for f in judged["findings"]) or judged["word"]
        yield Score(name, float(is_right), 1.0, "" if is_right else why, found)
    if wanted.probes:
        yield Score(QUESTIONS, float(report["right"]), 1.0, says, codes if gradients else ())


# The formats.


def line(one: Graded) -> str:
    """The grades of a file in a line: its score, each of its parts, and the first thing that was found."""
    parts = " ".join(f"{s.name} {s.score:g}" for s in one.scores)
    codes = [code for score in one.scores for code in score.codes]
    why = one.error or ", ".join(dict.fromkeys(codes))
    return f"{one.file}: {one.score:g} of {one.max_score:g} ({parts})" + (f"  {why}" if why else "")


def as_dict(graded: Iterable[Graded]) -> dict[str, Any]:
    """The grades for programs."""
    rows = [dataclasses.asdict(one) | {"score": one.score, "max_score": one.max_score} for one in graded]
    total = {"score": sum(r["score"] for r in rows), "max_score": sum(r["max_score"] for r in rows)}
    return {**total, "files": rows}


def as_gradescope(graded: Iterable[Graded]) -> dict[str, Any]:
    """Gradescope's results.json: a test for each score."""
    tests = [
        {
            "name": f"{one.file}: {score.name}",
            "score": score.score,
            "max_score": score.max_score,
            "status": "passed" if score.score == score.max_score else "failed",
            "output": score.output,
            "tags": list(score.codes),
            "visibility": "visible",
        }
        for one in graded
        for score in one.scores
    ]
    return {"tests": tests, "visibility": "visible", "stdout_visibility": "visible"}


def as_junit(graded: Iterable[Graded]) -> bytes:
    """JUnit's XML: a suite for each file, a case for each score."""
    root = ElementTree.Element("testsuites", name="numgpt learn")
    for one in graded:
        wrong = [score for score in one.scores if score.score < score.max_score]
        suite = ElementTree.SubElement(
            root, "testsuite", name=one.file, tests=str(len(one.scores)), failures=str(len(wrong)), errors="0"
        )
        for score in one.scores:
            case = ElementTree.SubElement(suite, "testcase", classname=one.exercise, name=score.name)
            if score in wrong:
                message = ", ".join(score.codes) or "not right"
                failure = ElementTree.SubElement(case, "failure", message=message)
                failure.text = "".join(c for c in score.output if c.isprintable() or c in "\n\t")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def write_json(path: StrPath, content: Any) -> None:
    """Write JSON to a file, whole or not at all, or print it where the path is -."""
    if path == "-":
        json.dump(content, sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
        return
    atomic.write_json(path, content)
