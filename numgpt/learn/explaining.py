"""An op explained: its formula, its derivation, an example in small numbers, and PyTorch's line for it."""

from __future__ import annotations

import html
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..errors import InputError, did_you_mean
from ..ops import ALL, Op
from ..ops.describe import LETTERS
from .exercises import NAMES
from .variation import exercise

SIZE = 3  # of every axis of the example, two leading rows
STEP = 1e-6
STYLE = """
:root { color-scheme: light dark; --line: #bbb; }
body { font: 16px/1.5 Georgia, serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { border-bottom: 1px solid var(--line); font-size: 1.2rem; }
pre { font: 14px/1.45 "DejaVu Sans Mono", Consolas, monospace; white-space: pre-wrap; }
pre.example { overflow-x: auto; white-space: pre; }
footer { border-top: 1px solid var(--line); font-size: 0.8rem; margin-top: 2rem; }
@media print {
  body { margin: 0; max-width: none; font-size: 11pt; } pre { font-size: 9pt; }
  section { break-inside: avoid; } h2 { break-after: avoid; } pre.example { white-space: pre-wrap; }
  @page { margin: 18mm; }
}
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{sections}
<footer>numgpt {version}: numgpt explain {name}</footer>
</body>
</html>
"""


class Section(NamedTuple):
    """A part of an explanation: its heading, and its text with the line breaks that count."""

    title: str
    text: str


def op_of(name: str) -> Op:
    """The op of a name, or that which an exercise of this name is about; InputError for any other."""
    if name in ALL:
        return ALL[name]
    if name in NAMES and exercise(name).ops:
        return ALL[exercise(name).ops[0]]
    known = sorted({*ALL, *(n for n in NAMES if exercise(n).ops)})
    raise InputError(
        f"explain: there is no {name}{did_you_mean(name, known)}, expected one of {', '.join(known)}"
    )


def explained(op: Op, torch: str) -> list[Section]:
    """The sections of an explanation; torch: what PyTorch calls the op, a line or a function."""
    lessons = [f"numgpt learn start {name}" for name in NAMES if op.name in exercise(name).ops]
    sections = [
        Section("Shapes", _shapes(op)),
        Section("Forward", inspect.cleandoc(op.forward.__doc__ or "")),
        Section("Backward, derived", inspect.cleandoc(op.backward.__doc__ or "")),
        Section("Forward, as code", _source(op.forward)),
        Section("Backward, as code", _source(op.backward)),
        Section("An example in small numbers", _example(op)),
        Section("The same in PyTorch", torch or "PyTorch has no such function."),
    ]
    if lessons:
        sections.append(Section("An exercise on it", "\n".join(lessons)))
    return sections


def as_text(op: Op, sections: Sequence[Section]) -> str:
    """The explanation for a terminal."""
    parts = [f"{s.title}\n{'-' * len(s.title)}\n{s.text}" for s in sections]
    return "\n\n".join([f"{op.name}\n{'=' * len(op.name)}", *parts])


def as_html(op: Op, sections: Sequence[Section]) -> str:
    """The explanation as one page to print, which loads nothing."""
    parts = [
        f"<section><h2>{html.escape(s.title)}</h2>\n<pre{_class(s)}>{html.escape(s.text)}</pre></section>"
        for s in sections
    ]
    return PAGE.format(
        title=html.escape(op.name), style=STYLE, sections="\n".join(parts), version=__version__, name=op.name
    )


def _class(section: Section) -> str:
    is_wide = "code" in section.title or "example" in section.title or "PyTorch" in section.title
    return ' class="example"' if is_wide else ""


def _shapes(op: Op) -> str:
    """The op's line with its names, and what its letters mean."""
    arguments = ", ".join(f"{a.name} {a.text}" for a in op.arguments)
    letters = dict.fromkeys(c for c in op.line if c.isupper())
    meanings = [f"{c}  {LETTERS.get(c, 'a size')}" for c in letters]
    return "\n".join([f"{arguments} -> {op.result.text}", *meanings])


def _source(function: Any) -> str:
    """The code of a function without its docstring."""
    lines = inspect.getsource(function).rstrip()
    doc = function.__doc__
    if doc:
        before, _, after = lines.partition('"""')
        lines = before.rstrip() + after.partition('"""')[2]
    return lines


def _example(op: Op) -> str:
    """Small arrays, what the forward makes of them, and the gradients with one of them measured."""
    rng = np.random.default_rng(1)
    letters = {c for c in op.line if c.isupper()}
    sizes = op.fitted(dict.fromkeys(letters, SIZE if len(letters) < 3 else 2))
    arrays, options = op.draw(rng, sizes, (2,))
    arrays = [np.round(a, 1) if a.dtype.kind == "f" else a for a in arrays]
    y, saved = op.forward(*arrays, **options)
    dy = np.round(rng.standard_normal(np.shape(y)), 1)
    gradients = op.backward(dy if dy.ndim else float(dy), saved)
    names = [argument.name for argument in op.arguments]
    parts = [f"{name} =\n{_array(a)}" for name, a in zip(names, arrays)]
    parts += [f"{name} = {value}" for name, value in options.items()]
    parts += [f"y =\n{_array(y)}", f"dy =\n{_array(dy)}"]
    parts += [f"d{name} =\n{_array(g)}" for name, g in zip(names, gradients) if g is not None]
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            return "\n".join([*parts, _measured(op, arrays, options, dy, i, gradient)])
    return "\n".join(parts)


def _measured(
    op: Op, arrays: list[NDArray[Any]], options: dict[str, Any], dy: NDArray[Any], i: int, gradient: Any
) -> str:
    """One element of a gradient beside the difference of the sum of dy y."""
    index = tuple(int(k) for k in np.unravel_index(int(abs(gradient).argmax()), gradient.shape))
    sums = []
    for step in (STEP, -STEP):
        moved = [a.copy() for a in arrays]
        moved[i][index] += step
        sums.append(float((dy * op.forward(*moved, **options)[0]).sum()))
    name, place = op.arguments[i].name, ", ".join(map(str, index))
    slope = (sums[0] - sums[1]) / (2 * STEP)
    return (
        f"\nMeasured: where {name}[{place}] moves by ±{STEP:g}, the sum of dy y moves {slope:.6f} times as"
        f" much;\nd{name}[{place}] is {gradient[index]:.6f}."
    )


def _array(array: Any) -> str:
    rounded = np.round(np.asarray(array), 3) + 0  # which makes 0 of −0
    return np.array2string(rounded, precision=3, suppress_small=True, floatmode="maxprec")
