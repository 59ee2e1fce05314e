"""Entries of a tokenizer.json, looked at one by one: what is another than expected is named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InputError

Entry = Mapping[str, Any]  # an object of JSON


def expect(part: Entry, name: str, values: Sequence[Any]) -> None:
    """Raise InputError unless an entry, None where it is absent, is one of those that change nothing."""
    entry = part.get(name)
    # True and False equal 1 and 0, but are no numbers in JSON.
    if not any(entry is value or (entry == value and type(entry) is not bool) for value in values):
        raise InputError(
            f"its {name} is {short(entry, 80)}, expected {' or '.join(json.dumps(v) for v in values[:2])}:"
            " others give other ids than numgpt would"
        )


def flag(step: Entry, name: str, absent: bool | None = None) -> bool:
    """An entry that is true or false; absent: what it is where it is left out, None where it may not be."""
    value = step.get(name, absent)
    if not isinstance(value, bool):
        whose = kind(step) if "type" in step else "model"
        raise InputError(f"its {whose} has {name} {short(value, 40)}, expected true or false")
    return value


def text(step: Entry, name: str, is_character: bool = False) -> str:
    """An entry that is a text of at least one character, or of exactly one."""
    value = step.get(name)
    if not isinstance(value, str) or not value or (is_character and len(value) > 1):
        what = "one character" if is_character else "a text"
        raise InputError(f"its {kind(step)} has {name} {short(value, 40)}, expected {what}")
    return value


def prepend_scheme(step: Entry) -> str:
    """Where a Metaspace puts its character before a text: always, first or never."""
    scheme = step.get("prepend_scheme", "always")
    if scheme not in ("always", "first", "never"):
        raise InputError(
            f"its Metaspace has prepend_scheme {short(scheme, 40)}, expected always, first or never"
        )
    if step.get("add_prefix_space") is False and scheme != "never":  # which their library refuses too
        raise InputError(
            f"its Metaspace has add_prefix_space false and prepend_scheme {scheme}, expected never"
        )
    return str(scheme)


def kind(step: Entry) -> str:
    """The type of a step, for looking it up and for errors."""
    return str(step.get("type"))[:40]


def steps(part: Any, name: str) -> list[dict[str, Any]]:
    """The members of a Sequence, of the Sequences in it too, or the part alone; none where it is null."""
    if part is None:
        return []
    if isinstance(part, dict) and part.get("type") == "Sequence":
        members = part.get(name)
        if isinstance(members, list) and None not in members:
            return [step for member in members for step in steps(member, name)]
    elif isinstance(part, dict):
        return [part]
    raise InputError(f"its {name} are {short(part, 80)}, expected a list of objects")


def types(members: Iterable[Entry]) -> str:
    """The types of steps, for errors."""
    return ", ".join(map(kind, members)) or "none"


def short(entry: Any, size: int) -> str:
    """An entry as JSON, for an error."""
    return json.dumps(entry, ensure_ascii=False)[:size]
