"""A report in words: the verdict first, one cause, the evidence, the reason, the next step."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from . import maps
from .verdict import Coefficient, Judged, Report

WIDTH = 100
MANY = 5  # results, above which a line groups them by the verdict
WORDS = {"follows": "right for what it got", "not judged": "not judged before that is right"}


def told(report: Report, next_step: str = "") -> str:
    """The report as a student reads it; next_step: the command that goes on from here."""
    lines = [_head(report)]
    for finding in report.findings:
        if finding.code != "NOT_WRITTEN":  # the head says it
            says = finding.says if finding.says.startswith(report.function) else _capital(finding.says)
            lines += _wrapped(f"{says}.".replace("?.", "?"))
    for gradient in report.gradients:
        if gradient.word == "WRONG":
            lines += _gradient(gradient)
    for note in report.notes:
        lines += _wrapped(f"Note: {note}.")
    if next_step and not report.right:
        lines.append(f"  Next: {next_step}")
    return "\n".join(lines)


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _head(report: Report) -> str:
    """The verdict on everything in a line."""
    if not report.gradients:
        return f"{report.function}    {_short(report)}"
    words = [f"{g.name} {WORDS.get(g.word, g.word)}" for g in report.gradients]
    if len(report.gradients) > MANY:
        words = [*_grouped(report)]
    if report.right:
        furthest = max(report.gradients, key=lambda g: g.ulps)
        exact = "equal bit for bit"
        if furthest.difference:
            exact = f"max diff {furthest.difference:.1g} ({_ulps(furthest.ulps)}): correct"
        words.append(exact)
    elif all(g.word == "ok" for g in report.gradients):
        words.append(_short(report))
    return f"{report.function}    {'    '.join(words)}"


def _grouped(report: Report) -> Iterator[str]:
    """The names of the results with each of the verdicts."""
    for word in ("ok", "WRONG", *WORDS):
        names = [g.name for g in report.gradients if g.word == word]
        if names:
            yield f"{', '.join(names)} {WORDS.get(word, word)}"


def _ulps(ulps: float) -> str:
    return f"{ulps:.0f} ulp" if ulps >= 1 else "below 1 ulp"


def _short(report: Report) -> str:
    code = report.findings[0].code
    return {"NOT_WRITTEN": "not written yet"}.get(code, "WRONG")


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def _gradient(judged: Judged) -> Iterator[str]:
    """The lines on one wrong gradient."""
    for says in _sentences(judged):
        yield from _wrapped(f"{says}.".replace("?.", "?"))
    if any(_is_off(c) for c in judged.coefficients):
        yield from _table(judged.coefficients)
    if judged.where:
        yield from _wrapped(f"Where: {judged.where}.")
    if judged.reason:
        yield from _wrapped(f"Why: {judged.reason}")
    if judged.witness is not None:
        w = judged.witness
        ways = [] if w.differences is None else [f"finite difference {w.differences:+.6f}"]
        ways += [f"reference {w.reference:+.6f}", f"yours {w.yours:+.6f}"]
        yield from _wrapped(f"Independent check at {maps.place(judged.name, w.index)}: {', '.join(ways)}.")
    if judged.smallest:
        yield textwrap.indent(judged.smallest, "  ")


def _sentences(judged: Judged) -> Iterator[str]:
    """What was found, without the full stops."""
    coefficients = judged.coefficients
    off = [c for c in coefficients if _is_off(c)]
    if off and len(off) == len(judged.findings) and all(c.got == 0 for c in off):
        count = sum(c.want != 0 for c in coefficients)
        yield f"Your {judged.name} has {count - len(off)} of its {count} terms"
        return
    for finding in judged.findings:
        is_whole = finding.says.startswith(f"{judged.name} ")
        yield f"Your {finding.says}" if is_whole else f"In your {judged.name} {finding.says}"


def _is_off(c: Coefficient) -> bool:
    """Whether a coefficient is not what it should be."""
    return abs(c.got - c.want) > 1e-7 * max(1.0, abs(c.want))


def _table(coefficients: tuple[Coefficient, ...]) -> Iterator[str]:
    """The terms with their coefficients, yours and needed."""
    width = max(len(c.text) for c in coefficients)
    yield f"      {'term':{width}}   yours   needed"
    for c in coefficients:
        mark = ""
        if _is_off(c):
            mark = "   <- missing" if c.got == 0 else "   <- here"
        yield f"      {c.text:{width}}  {c.got:6.3f}   {c.want:6g}{mark}"


def as_dict(report: Report) -> dict[str, Any]:
    """The same for programs: plain numbers, texts and lists, for JSON."""
    content = {
        "exercise": report.exercise,
        "function": report.function,
        "right": report.right,
        "codes": list(report.codes),
        "findings": [asdict(f) for f in report.findings],
        "gradients": [asdict(g) for g in report.gradients],
        "notes": list(report.notes),
    }
    return {name: _plain(value) for name, value in content.items()}


def _plain(value: Any) -> Any:
    """A value as JSON has it, which knows no NaN and no infinity."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
