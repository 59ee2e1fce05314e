"""The JSON of a trace's file: which keys there are and of what kind, held to strictly."""

from __future__ import annotations

import math
from typing import Any

from ..errors import did_you_mean

NAME = "numgpt.trace/1"
NAMES = [str]
# A kind is a type, a list of one kind, {...: kind} for an object with any keys, or an object with known keys.
STEP = {
    "op": str,
    "reads": NAMES,
    "parameters": NAMES,
    "backward_reads": NAMES,
    "backward_writes": NAMES,
    "options": {...: object},
    "cost": [int],
}
CONTENT = {
    "values": NAMES,
    "gradients": NAMES,
    "parameters": NAMES,
    "edited": NAMES,
    "ids": NAMES,
    "steps": {...: STEP},
    "ops": {...: {"line": str, "forward": str, "backward": str}},
    "axes": {...: NAMES},
    "sizes": {...: int},
    "texts": {...: str},
    "parts": {...: NAMES},
    "differences": [{"name": str, "index": [int]}],
    "reference": str,
    "moments": NAMES,
    "config": {...: object},
    "source": str,
}
WORDS = {str: "a text", int: "an integer"}


def fault(content: Any, kind: Any = CONTENT, where: str = "trace") -> str | None:
    """What is wrong with a content, in words; None where it is of its kind."""
    if kind is object:
        return None
    if isinstance(kind, type):
        return None if type(content) is kind else f"{where} is {_shown(content)}, not {WORDS[kind]}"
    if isinstance(kind, list):
        if not isinstance(content, list):
            return f"{where} is {_shown(content)}, not a list"
        return _first(fault(part, kind[0], f"{where}[{n}]") for n, part in enumerate(content))
    if not isinstance(content, dict):
        return f"{where} is {_shown(content)}, not an object"
    if ... in kind:
        return _first(fault(part, kind[...], f"{where}.{key}") for key, part in content.items())
    for key in content:
        if key not in kind:
            return f"{where} has a key {key!r}{did_you_mean(key, kind)}, which the schema lacks"
    return _first(fault(part, kind[key], f"{where}.{key}") for key, part in content.items())


def _first(faults: Any) -> str | None:
    return next((f for f in faults if f is not None), None)


def _shown(content: Any) -> str:
    text = repr(content)
    return text if len(text) <= 40 else f"{text[:40]}…"


def plain(value: Any) -> Any:
    """A setting as JSON has it: tuples as lists, mappings as objects, what it has no word for as text."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "items"):
        return {str(key): plain(part) for key, part in value.items()}
    return str(value)
